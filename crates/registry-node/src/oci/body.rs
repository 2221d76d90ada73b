//! Request bodies as the content takes them: bounded in idle time, held to the length that was announced.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::Payload;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use tokio::time::{Instant, timeout};

use super::error::{ErrorCode, OciError};
use crate::content::BodyError;
use crate::limits::{BODY_BYTES_MINIMUM, BODY_IDLE_TIMEOUT};

/// A body as a stream of its bytes. With `announced`, another length is an error once the body ends or exceeds it. A body takes as
/// long as its sender likes, so at its end `is_still_allowed` is asked: what came counts only if it says yes.
pub(crate) fn body_stream<'a>(
    payload: Payload,
    announced: Option<u64>,
    is_still_allowed: impl Fn() -> bool + 'a,
) -> Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + 'a>> {
    let reader = BodyReader {
        payload,
        pace: Pace::default(),
        announced,
        received: 0,
        is_still_allowed,
    };
    stream::unfold(Some(reader), async |reader| {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed_local()
}

/// A body that is not to be read.
pub(crate) struct NoBody;

impl Stream for NoBody {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(None)
    }
}

/// Reads a whole body of at most `bytes_maximum` bytes; see [`body_stream`].
pub(crate) async fn read_body(
    payload: Payload,
    bytes_maximum: u64,
    is_still_allowed: impl Fn() -> bool,
) -> Result<Bytes, OciError> {
    let mut body = body_stream(payload, None, is_still_allowed);
    let mut collected = BytesMut::new();
    while let Some(bytes) = body.next().await {
        let bytes =
            bytes.map_err(|error| OciError::from(crate::content::ContentError::Body(error)))?;
        if (collected.len() + bytes.len()) as u64 > bytes_maximum {
            return Err(too_large(bytes_maximum));
        }
        collected.extend_from_slice(&bytes);
    }
    Ok(collected.freeze())
}

/// The answer to a body that is larger than allowed.
pub(crate) fn too_large(bytes_maximum: u64) -> OciError {
    OciError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::SizeInvalid,
        format!("the body is larger than the {bytes_maximum} bytes that it may have"),
    )
}

/// How long a body was waited for since it last brought [`BODY_BYTES_MINIMUM`]. The time in which nobody waits is not its sender's.
#[derive(Default)]
struct Pace {
    waited: Duration,
    received: u64,
}

impl Pace {
    async fn wait<T>(
        &mut self,
        next: impl Future<Output = T>,
        length: impl FnOnce(&T) -> u64,
    ) -> Result<T, BodyError> {
        let began = Instant::now();
        let next = timeout(BODY_IDLE_TIMEOUT.saturating_sub(self.waited), next)
            .await
            .map_err(|_| BodyError::Idle)?;
        self.waited += began.elapsed();
        self.received += length(&next);
        if self.received >= BODY_BYTES_MINIMUM {
            *self = Self::default();
        }
        Ok(next)
    }
}

struct BodyReader<F> {
    payload: Payload,
    pace: Pace,
    announced: Option<u64>,
    received: u64,
    is_still_allowed: F,
}

impl<F: Fn() -> bool> BodyReader<F> {
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let length = |next: &Option<Result<Bytes, _>>| match next {
            Some(Ok(bytes)) => bytes.len() as u64,
            _ => 0,
        };
        let bytes = match self.pace.wait(self.payload.next(), length).await? {
            Some(Ok(bytes)) => bytes,
            Some(Err(_)) => return Err(BodyError::Aborted),
            None => return self.ended(),
        };
        self.received += bytes.len() as u64;
        match self.announced {
            Some(announced) if self.received > announced => Err(BodyError::OtherLength {
                announced,
                received: self.received,
            }),
            _ => Ok(Some(bytes)),
        }
    }

    fn ended(&self) -> Result<Option<Bytes>, BodyError> {
        match self.announced {
            Some(announced) if self.received != announced => Err(BodyError::OtherLength {
                announced,
                received: self.received,
            }),
            _ if !(self.is_still_allowed)() => Err(BodyError::NoLongerAllowed),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::error::PayloadError;
    use actix_web::{FromRequest, dev, test};

    use super::*;

    async fn body_of(
        stream: impl Stream<Item = Result<Bytes, PayloadError>> + 'static,
        announced: Option<u64>,
    ) -> Vec<Result<Bytes, BodyError>> {
        let request = test::TestRequest::default().to_http_request();
        let mut payload = dev::Payload::Stream {
            payload: stream.boxed_local(),
        };
        let payload = Payload::from_request(&request, &mut payload)
            .await
            .expect("always taken");
        body_stream(payload, announced, || true).collect().await
    }

    fn bytes(text: &'static str) -> Result<Bytes, PayloadError> {
        Ok(Bytes::from_static(text.as_bytes()))
    }

    #[actix_web::test]
    async fn a_body_that_brings_nothing_is_given_up() {
        tokio::time::pause();
        let silent = stream::iter([bytes("abc")]).chain(stream::pending());
        let received = body_of(silent, None).await;
        let expected = [Ok(Bytes::from_static(b"abc")), Err(BodyError::Idle)];
        assert_eq!(received, expected);
    }

    #[actix_web::test]
    async fn a_body_that_drips_is_given_up_and_a_slow_one_is_not() {
        tokio::time::pause();
        let every = BODY_IDLE_TIMEOUT / 4;
        let body = |length: u64| {
            let piece = Bytes::from(vec![0; usize::try_from(length).expect("small")]);
            stream::iter(0..40).then(move |_| {
                let piece = piece.clone();
                async move {
                    tokio::time::sleep(every).await;
                    Ok(piece)
                }
            })
        };
        let dripping = body_of(body(BODY_BYTES_MINIMUM / 8), None).await;
        assert_eq!(dripping.last(), Some(&Err(BodyError::Idle)));
        assert!(dripping.len() <= 4, "{}", dripping.len());
        let slow = body_of(body(BODY_BYTES_MINIMUM / 2), None).await;
        assert!(slow.len() == 40 && slow.iter().all(Result::is_ok));
    }

    #[actix_web::test]
    async fn a_body_has_the_length_that_was_announced() {
        for announced in [2, 4] {
            let received = body_of(stream::iter([bytes("abc")]), Some(announced)).await;
            let expected = BodyError::OtherLength {
                announced,
                received: 3,
            };
            assert_eq!(received.last(), Some(&Err(expected)));
        }
        let received = body_of(stream::iter([bytes("abc")]), Some(3)).await;
        assert_eq!(received, [Ok(Bytes::from_static(b"abc"))]);
    }

    #[actix_web::test]
    async fn a_body_that_breaks_off_is_an_error() {
        let broken = stream::iter([bytes("abc"), Err(PayloadError::Incomplete(None))]);
        let received = body_of(broken, None).await;
        assert_eq!(received.last(), Some(&Err(BodyError::Aborted)));
    }
}
