//! Reading and deleting blobs.

use actix_web::HttpResponse;
use actix_web::body::SizedStream;
use actix_web::http::StatusCode;
use actix_web::http::header;
use futures_util::{StreamExt, TryStreamExt};

use super::download::{Download, PIECE_BYTES};
use super::error::{ErrorCode, OciError};
use super::range::RangeRequest;
use super::{DOCKER_CONTENT_DIGEST, HeadBody, Operation, RepositoryAction};
use crate::content::{Blob, ContentError};
use crate::names::Digest;

/// `GET` and `HEAD` of a blob. For those who may push, HEAD is how they find out that they need not.
pub(super) async fn read(
    operation: Operation<'_>,
    digest: &Digest,
) -> Result<HttpResponse, OciError> {
    let repository = operation.repository();
    let is_promise =
        operation.is_head() && operation.caller.may(operation.name, RepositoryAction::Push);
    let blob = if is_promise {
        repository.promised_blob(digest).await?
    } else {
        repository.blob(digest).await?
    };
    let blob = blob.ok_or_else(|| ContentError::BlobUnknown(digest.clone()))?;
    let entity_tag = format!("\"{digest}\"");
    if operation.has_already(&entity_tag) {
        return Ok(HttpResponse::NotModified()
            .insert_header((header::ETAG, entity_tag))
            .insert_header((DOCKER_CONTENT_DIGEST, digest.as_str()))
            .finish());
    }
    let asked = requested_range(&operation, &entity_tag, blob.size());
    let (status, range) = match asked {
        RangeRequest::Whole => (StatusCode::OK, 0..blob.size()),
        RangeRequest::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        RangeRequest::Unsatisfiable => return Err(unsatisfiable(&operation, &blob)),
    };
    let mut response = HttpResponse::build(status);
    response
        .content_type("application/octet-stream")
        .insert_header((header::ACCEPT_RANGES, "bytes"))
        .insert_header((header::ETAG, entity_tag))
        .insert_header((DOCKER_CONTENT_DIGEST, digest.as_str()));
    if status == StatusCode::PARTIAL_CONTENT {
        let last = range.end - 1;
        let content_range = format!("bytes {}-{last}/{}", range.start, blob.size());
        response.insert_header((header::CONTENT_RANGE, content_range));
    }
    let length = range.end - range.start;
    if operation.is_head() {
        return Ok(response.body(HeadBody(length)));
    }
    let bytes = repository.read_blob(&blob, range).await?;
    let digest = digest.clone();
    // What fits one piece is handed over at once.
    let bytes = match length > PIECE_BYTES as u64 {
        true => Download::new(bytes.boxed(), operation.request.version()).boxed_local(),
        false => bytes.boxed_local(),
    };
    let bytes = bytes.inspect_err(move |error| match error {
        ContentError::ReaderIdle => {
            tracing::info!(blob.digest = %digest, "a transfer of a blob was given up: {error}");
        }
        _ => {
            let error = error as &dyn std::error::Error;
            tracing::error!(blob.digest = %digest, error, "a transfer of a blob broke off");
        }
    });
    Ok(response.body(SizedStream::new(length, Box::pin(bytes))))
}

/// The range asked for; `If-Range` with anything but this content asks for all of it.
fn requested_range(operation: &Operation<'_>, entity_tag: &str, size: u64) -> RangeRequest {
    let Some(range) = operation.header(header::RANGE) else {
        return RangeRequest::Whole;
    };
    match operation.header(header::IF_RANGE) {
        Some(condition) if condition.trim() != entity_tag => RangeRequest::Whole,
        _ => RangeRequest::parse(range, size),
    }
}

fn unsatisfiable(operation: &Operation<'_>, blob: &Blob) -> OciError {
    let asked = operation.header(header::RANGE).unwrap_or_default();
    OciError::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        ErrorCode::SizeInvalid,
        format!(
            "the blob has {} bytes; Range {} asks for others",
            blob.size(),
            crate::names::shown(asked)
        ),
    )
    .with_header(header::CONTENT_RANGE, &format!("bytes */{}", blob.size()))
}

/// `DELETE` of a blob.
pub(super) async fn delete(
    operation: Operation<'_>,
    digest: &Digest,
) -> Result<HttpResponse, OciError> {
    operation.repository().delete_blob(digest).await?;
    Ok(HttpResponse::Accepted().finish())
}
