//! Requests that are under way, so that a process that ends knows when it may: a server's own stop waits for connections, and a client may
//! keep an idle one of HTTP/2 open as long as it likes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::Bytes;
use tokio::sync::Notify;

/// Counts requests; clones share the count.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    count: AtomicUsize,
    none: Notify,
}

/// One request; it counts until this is dropped.
#[derive(Debug)]
pub struct UnderWay(Arc<Shared>);

impl InFlight {
    /// Counts a request.
    pub fn begin(&self) -> UnderWay {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        UnderWay(Arc::clone(&self.0))
    }

    /// Returns when there is none.
    pub async fn none(&self) {
        loop {
            let mut none = std::pin::pin!(self.0.none.notified());
            // Before the look, so that the last one that ends in between is heard.
            none.as_mut().enable();
            if self.0.count.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }
}

impl UnderWay {
    /// Counts until a body that comes bit by bit has been taken to its end, or given up. One that is there already is written at once.
    pub fn until_sent(self, response: HttpResponse) -> HttpResponse {
        response.map_body(|_, body| match body.try_into_bytes() {
            Ok(bytes) => BoxBody::new(bytes),
            Err(body) => BoxBody::new(Counted {
                body,
                _under_way: self,
            }),
        })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

struct Counted {
    body: BoxBody,
    _under_way: UnderWay,
}

impl MessageBody for Counted {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_next(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::body::{BodyStream, to_bytes};

    #[tokio::test]
    async fn a_request_counts_until_its_body_is_taken() {
        let requests = InFlight::default();
        requests.none().await;
        let parts =
            ["a", "b"].map(|part| Ok::<_, std::io::Error>(Bytes::from_static(part.as_bytes())));
        let stream = futures_util::stream::iter(parts);
        let response = HttpResponse::Ok().body(BodyStream::new(stream));
        let response = requests.begin().until_sent(response);
        let mut waiting = tokio::spawn({
            let requests = requests.clone();
            async move { requests.none().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let body = to_bytes(response.into_body()).await.expect("it is whole");
        assert_eq!(body, "ab");
        (&mut waiting).await.expect("no panic");
    }

    #[tokio::test]
    async fn a_body_that_is_there_stays_as_it_is() {
        let requests = InFlight::default();
        let response = requests
            .begin()
            .until_sent(HttpResponse::Ok().body("whole"));
        requests.none().await;
        assert_eq!(response.body().size(), BodySize::Sized(5));
    }
}
