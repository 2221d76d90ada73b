//! A request's body: read whole, in bounds of size and time, or passed over.

use actix_web::http::Version;
use actix_web::{HttpRequest, web};
use arm::{ApiError, Kind};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use crate::limits::{BODY_TIMEOUT, MAXIMUM_BODY_BYTES, UNREAD_BODY_TIMEOUT};

/// The whole body.
///
/// # Errors
/// A body that is too long, comes too slowly, or breaks off.
pub(super) async fn read_body(payload: &mut web::Payload) -> Result<Bytes, ApiError> {
    let read = async {
        let mut body = BytesMut::new();
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|error| {
                ApiError::invalid(
                    "InvalidRequestContent",
                    format!("The request's body could not be read: {error}."),
                )
            })?;
            if body.len() + chunk.len() > MAXIMUM_BODY_BYTES {
                return Err(ApiError::new(
                    Kind::TooLarge,
                    "RequestContentTooLarge",
                    format!("The request's body is larger than {MAXIMUM_BODY_BYTES} bytes."),
                ));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    };
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(body) => body,
        Err(_) => Err(ApiError::new(
            Kind::Timeout,
            "RequestTimeout",
            format!(
                "The request's body did not arrive within {} seconds.",
                BODY_TIMEOUT.as_secs()
            ),
        )),
    }
}

/// Reads the rest of a body that nobody wants, before its refusal is sent. Over HTTP/2 a rest that is not read is stopped by a reset of
/// the stream, and some clients then throw the answer away too. HTTP/1 has its own way.
pub(super) async fn pass_over(http: &HttpRequest, payload: &mut web::Payload) {
    if http.version() != Version::HTTP_2 {
        return;
    }
    let read = async {
        let mut length = 0;
        while let Some(Ok(chunk)) = payload.next().await {
            length += chunk.len();
            if length > MAXIMUM_BODY_BYTES {
                return;
            }
        }
    };
    // A rest that comes late is stopped like one that is too long.
    let _ = tokio::time::timeout(UNREAD_BODY_TIMEOUT, read).await;
}
