//! What happens to a body that nobody wanted.

use std::time::Duration;

use actix_web::{HttpRequest, http::Version, web::Payload};
use futures_util::StreamExt;

/// More than this is not read.
const BYTES_MAXIMUM: usize = 64 * 1024;
/// It is not waited for longer than this.
const TIME_MAXIMUM: Duration = Duration::from_secs(1);

/// Reads what is left of a small body. Over HTTP/2 the rest of a body is stopped by a reset of the stream behind the answer, and some
/// clients (curl 7.88) then throw the answer away too. HTTP/1 has its own way.
pub(super) async fn pass_over(request: &HttpRequest, mut payload: Payload) {
    if request.version() != Version::HTTP_2 {
        return;
    }
    let reading = async {
        let mut received = 0;
        while let Some(Ok(bytes)) = payload.next().await {
            received += bytes.len();
            if received > BYTES_MAXIMUM {
                return;
            }
        }
    };
    // A body that is late is stopped like one that is too large.
    let _ = tokio::time::timeout(TIME_MAXIMUM, reading).await;
}
