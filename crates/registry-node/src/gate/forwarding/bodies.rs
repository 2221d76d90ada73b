//! Bodies on their way through a node. Nothing is read from one side before the other can take it, but for a small buffer; silence on
//! either side ends the request; and whatever breaks off is broken off on the other side too, never ended.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpRequest,
    body::{BodySize, MessageBody},
    http::{
        Method, Version,
        header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    },
    web::Payload,
};
use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep, sleep_until},
};

use super::peers::Peer;
use crate::limits::{BODY_IDLE_TIMEOUT, FORWARD_ANSWER_TIMEOUT, READER_IDLE_TIMEOUT};
use crate::while_taken::WhileTaken;

/// A client's body did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UploadFault {
    #[error("the body did not arrive in time")]
    Idle,
    #[error("the body broke off")]
    Broken,
    #[error("the request was answered before its body had come")]
    Abandoned,
}

/// How long the other node is waited for.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// While there is a body that it has not taken whole.
    pub(super) taking: Duration,
    /// Once it has the whole request.
    pub(super) answer: Duration,
}

impl Patience {
    pub(super) fn of(limit: Duration) -> Self {
        Self {
            taking: limit,
            answer: limit,
        }
    }
}

/// The body of a request, shared between whoever sends it on and whoever waits for the answer.
#[derive(Clone)]
pub(super) struct Upload(Rc<RefCell<State>>);

struct State {
    payload: Option<Payload>,
    /// As announced; `None` when only the end will tell.
    length: Option<u64>,
    has_ended: bool,
    fault: Option<UploadFault>,
    /// Waits for the client; the other node is waited for otherwise.
    client_wait: Option<Pin<Box<Sleep>>>,
    /// When the other node last took something.
    moved_at: Instant,
}

impl Upload {
    pub(super) fn new(request: &HttpRequest, payload: Option<Payload>) -> Self {
        let length = length_of(request);
        let has_ended = payload.is_none() || length == Some(0);
        Self(Rc::new(RefCell::new(State {
            payload,
            length,
            has_ended,
            fault: None,
            client_wait: None,
            moved_at: Instant::now(),
        })))
    }

    /// Whether there is no body.
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().length == Some(0)
    }

    /// The body to be sent. Only one of them is read: an earlier one that was not sent has not read any of it.
    pub(super) fn body(&self) -> RequestBody {
        let mut state = self.0.borrow_mut();
        state.moved_at = Instant::now();
        RequestBody(self.clone())
    }

    pub(super) fn fault(&self) -> Option<UploadFault> {
        self.0.borrow().fault
    }

    /// Ends when the other node has neither taken nor answered anything for so long. A client that is slow is not its fault.
    pub(super) async fn stalled(&self, patience: Patience) {
        loop {
            let end = {
                let state = self.0.borrow();
                let since = match state.client_wait {
                    Some(_) => Instant::now(),
                    None => state.moved_at,
                };
                match state.has_ended {
                    true => since + patience.answer,
                    false => since + patience.taking,
                }
            };
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }

    /// What is left of the body; whoever still reads it finds it broken off.
    pub(super) fn give_back(&self) -> Option<Payload> {
        self.0.borrow_mut().payload.take()
    }

    fn has_ended(&self) -> bool {
        self.0.borrow().has_ended
    }
}

/// How long a request's body is, where its head says so.
fn length_of(request: &HttpRequest) -> Option<u64> {
    let headers = request.headers();
    if let Some(length) = headers.get(CONTENT_LENGTH) {
        return length.to_str().ok()?.parse().ok();
    }
    let is_announced = headers.contains_key(TRANSFER_ENCODING)
        || request.version() == Version::HTTP_2
            && !matches!(*request.method(), Method::GET | Method::HEAD);
    (!is_announced).then_some(0)
}

/// The body of a request as the connection to the other node reads it.
pub(super) struct RequestBody(Upload);

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        let state = &mut *self.0.0.borrow_mut();
        if state.has_ended {
            return Poll::Ready(None);
        }
        let Some(payload) = &mut state.payload else {
            return Poll::Ready(Some(Err(UploadFault::Abandoned)));
        };
        let fault = match Pin::new(payload).poll_next(context) {
            Poll::Ready(Some(Ok(bytes))) => {
                state.client_wait = None;
                state.moved_at = Instant::now();
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Poll::Ready(None) => {
                state.client_wait = None;
                state.moved_at = Instant::now();
                state.has_ended = true;
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(_))) => UploadFault::Broken,
            Poll::Pending => {
                let wait = state
                    .client_wait
                    .get_or_insert_with(|| Box::pin(sleep(BODY_IDLE_TIMEOUT)));
                match wait.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) => UploadFault::Idle,
                }
            }
        };
        state.client_wait = None;
        state.fault = Some(fault);
        Poll::Ready(Some(Err(fault)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        match self.0.0.borrow().length {
            Some(length) => SizeHint::with_exact(length),
            None => SizeHint::default(),
        }
    }
}

/// An answer did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerFault {
    #[error("the registry's region brought nothing for too long")]
    Idle,
    #[error("the answer of the registry's region broke off")]
    Broken,
    #[error("the client took nothing for too long")]
    ReaderIdle,
}

/// The body of an answer on its way to the client.
pub(super) struct AnswerBody {
    body: Incoming,
    size: BodySize,
    peer: Peer,
    upload: Upload,
    wait: Option<Pin<Box<Sleep>>>,
    tell_cut: Option<Box<dyn FnOnce()>>,
    /// Given back when all has come from the other node, however long the client takes, or when the client takes nothing.
    permit: Option<WhileTaken<OwnedSemaphorePermit>>,
}

impl AnswerBody {
    pub(super) fn new(
        request: &HttpRequest,
        head: &hyper::http::response::Parts,
        body: Incoming,
        peer: Peer,
        upload: Upload,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let size = size_of(request.method(), head);
        let mut answer = Self {
            body,
            size,
            peer,
            upload,
            wait: None,
            tell_cut: None,
            permit: Some(WhileTaken::new(permit, READER_IDLE_TIMEOUT)),
        };
        if answer.body.is_end_stream() {
            answer.ended();
        }
        answer
    }

    /// The same, calling `tell` if it breaks off.
    pub(super) fn telling_if_cut(mut self, tell: impl FnOnce() + 'static) -> Self {
        self.tell_cut = Some(Box::new(tell));
        self
    }

    fn ended(&mut self) {
        self.permit = None;
        if self.upload.has_ended() {
            self.peer.keep();
        }
        // Nobody wants the rest.
        drop(self.upload.give_back());
    }

    fn cut(&mut self, fault: AnswerFault) -> Poll<Option<Result<Bytes, AnswerFault>>> {
        if let Some(tell) = self.tell_cut.take() {
            tell();
        }
        tracing::warn!(
            "an answer from the node at {} was cut off: {fault}",
            self.peer.address()
        );
        Poll::Ready(Some(Err(fault)))
    }
}

/// An answer to HEAD has the size of what GET would bring.
fn size_of(method: &Method, head: &hyper::http::response::Parts) -> BodySize {
    let length = head
        .headers
        .get(hyper::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    match (length, head.status.as_u16()) {
        (_, 204 | 304) => BodySize::None,
        (Some(length), _) => BodySize::Sized(length),
        (None, _) if *method == Method::HEAD => BodySize::None,
        (None, _) => BodySize::Stream,
    }
}

impl MessageBody for AnswerBody {
    type Error = AnswerFault;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, AnswerFault>>> {
        let asked = self.permit.as_ref().map(|permit| permit.asked(|_| ()));
        if asked == Some(None) {
            return self.cut(AnswerFault::ReaderIdle);
        }
        loop {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.wait = None;
                    if self.body.is_end_stream() {
                        self.ended();
                    }
                    // Trailers are for one connection only.
                    if let Ok(bytes) = frame.into_data() {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
                Poll::Ready(Some(Err(_))) => return self.cut(AnswerFault::Broken),
                Poll::Ready(None) => {
                    self.ended();
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    if let Some(permit) = &self.permit {
                        permit.waits();
                    }
                    let wait = self
                        .wait
                        .get_or_insert_with(|| Box::pin(sleep(FORWARD_ANSWER_TIMEOUT)));
                    return match wait.as_mut().poll(context) {
                        Poll::Pending => Poll::Pending,
                        Poll::Ready(()) => self.cut(AnswerFault::Idle),
                    };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::{FromRequest, dev, error::PayloadError, test::TestRequest};
    use futures_util::{StreamExt, future::poll_fn, stream};

    use super::*;
    use crate::limits::FORWARD_COMPLETION_TIMEOUT;

    async fn upload_of(
        stream: impl Stream<Item = Result<Bytes, PayloadError>> + 'static,
    ) -> Upload {
        let request = TestRequest::default()
            .insert_header(("transfer-encoding", "chunked"))
            .to_http_request();
        let mut payload = dev::Payload::Stream {
            payload: stream.boxed_local(),
        };
        let payload = Payload::from_request(&request, &mut payload).await;
        Upload::new(&request, Some(payload.expect("always taken")))
    }

    async fn next(body: &mut RequestBody) -> Option<Result<Bytes, UploadFault>> {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
        Some(frame.map(|frame| frame.into_data().expect("no trailers")))
    }

    fn bytes(text: &'static str) -> Result<Bytes, PayloadError> {
        Ok(Bytes::from_static(text.as_bytes()))
    }

    #[actix_web::test]
    async fn a_client_that_sends_nothing_is_given_up_and_the_node_is_not_blamed() {
        tokio::time::pause();
        let upload = upload_of(stream::iter([bytes("abc")]).chain(stream::pending())).await;
        let mut body = upload.body();
        assert_eq!(next(&mut body).await, Some(Ok(Bytes::from_static(b"abc"))));
        let limit = Patience::of(BODY_IDLE_TIMEOUT / 3);
        tokio::select! {
            fault = next(&mut body) => assert_eq!(fault, Some(Err(UploadFault::Idle))),
            () = upload.stalled(limit) => panic!("the client was waited for"),
        }
        assert_eq!(upload.fault(), Some(UploadFault::Idle));
    }

    #[actix_web::test]
    async fn a_node_that_takes_nothing_or_does_not_answer_is_given_up() {
        tokio::time::pause();
        let begun = Instant::now();
        let upload = upload_of(stream::iter([bytes("abc"), bytes("def")])).await;
        let mut body = upload.body();
        assert!(next(&mut body).await.is_some());
        let patience = Patience {
            taking: FORWARD_ANSWER_TIMEOUT,
            answer: FORWARD_COMPLETION_TIMEOUT,
        };
        upload.stalled(patience).await;
        let waited = || begun.elapsed();
        assert_eq!(waited().as_secs(), FORWARD_ANSWER_TIMEOUT.as_secs());
        // It goes on, takes the rest while it is waited for, and then does not answer.
        assert!(next(&mut body).await.is_some());
        let take_all = async {
            sleep(FORWARD_ANSWER_TIMEOUT / 2).await;
            assert!(next(&mut body).await.is_none());
        };
        tokio::join!(upload.stalled(patience), take_all);
        assert!(body.is_end_stream());
        let expected = FORWARD_ANSWER_TIMEOUT * 3 / 2 + FORWARD_COMPLETION_TIMEOUT;
        assert_eq!(waited().as_secs(), expected.as_secs());
        assert_eq!(upload.fault(), None);
    }

    #[actix_web::test]
    async fn a_body_that_breaks_off_or_is_taken_back_never_ends() {
        let broken = [bytes("abc"), Err(PayloadError::Incomplete(None))];
        let upload = upload_of(stream::iter(broken)).await;
        let mut body = upload.body();
        assert!(next(&mut body).await.is_some());
        assert_eq!(next(&mut body).await, Some(Err(UploadFault::Broken)));
        assert!(!body.is_end_stream());

        let upload = upload_of(stream::iter([bytes("abc"), bytes("def")])).await;
        let mut body = upload.body();
        assert!(next(&mut body).await.is_some());
        assert!(upload.give_back().is_some());
        assert_eq!(next(&mut body).await, Some(Err(UploadFault::Abandoned)));
    }
}
