//! What happens to a body that nobody wanted, in whole or in part.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_web::{HttpRequest, error::PayloadError, http::Version, web::Payload};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use crate::limits::{UNREAD_BODY_BYTES_MAXIMUM, UNREAD_BODY_TIME_MAXIMUM};

/// Reads what is left of a body, in bounds. Over HTTP/2 the rest of a body is stopped by a reset of the stream behind the answer, and some
/// clients (curl 7.88) then throw the answer away too. HTTP/1 has its own way.
pub(super) async fn pass_over(request: &HttpRequest, mut payload: Payload) {
    if request.version() != Version::HTTP_2 {
        return;
    }
    let reading = async {
        let mut received = 0;
        while let Some(Ok(bytes)) = payload.next().await {
            received += bytes.len();
            if received > UNREAD_BODY_BYTES_MAXIMUM {
                return;
            }
        }
    };
    // A body that is late is stopped like one that is too large.
    let _ = tokio::time::timeout(UNREAD_BODY_TIME_MAXIMUM, reading).await;
}

/// A body that is given away to be read; what its reader leaves can be had back.
pub(super) struct Lent(Rc<RefCell<Payload>>);

impl Lent {
    pub(super) fn new(payload: Payload) -> Self {
        Self(Rc::new(RefCell::new(payload)))
    }

    pub(super) fn reader(&self) -> impl Stream<Item = Result<Bytes, PayloadError>> + 'static {
        Reader(Rc::clone(&self.0))
    }

    /// What is left of it, once nobody reads it any more.
    pub(super) fn rest(self) -> Option<Payload> {
        Rc::into_inner(self.0).map(RefCell::into_inner)
    }
}

struct Reader(Rc<RefCell<Payload>>);

impl Stream for Reader {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.borrow_mut().poll_next_unpin(context)
    }
}
