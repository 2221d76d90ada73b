//! Reading and deleting blobs.

use std::ops::Range;

use actix_web::body::{MessageBody, SizedStream};
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};

use super::conditions::{answer_without_content, entity_tag};
use super::download::{Download, PIECE_BYTES};
use super::error::{ErrorCode, OciError};
use super::multipart::Multipart;
use super::range::RangeRequest;
use super::{DOCKER_CONTENT_DIGEST, HeadBody, Operation, RepositoryAction};
use crate::content::{Blob, ContentError, Repository};
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
    if let Some(answer) = answer_without_content(&operation.precondition(), digest)? {
        return Ok(answer);
    }
    let asked = requested_range(&operation, &blob);
    let mut response = match &asked {
        RangeRequest::Whole => HttpResponse::Ok(),
        RangeRequest::Part(_) | RangeRequest::Parts(_) => HttpResponse::PartialContent(),
        RangeRequest::Unsatisfiable => return Err(unsatisfiable(&operation, &blob)),
    };
    response
        .content_type("application/octet-stream")
        .insert_header((header::ACCEPT_RANGES, "bytes"))
        .insert_header((header::ETAG, entity_tag(digest)))
        .insert_header((DOCKER_CONTENT_DIGEST, digest.as_str()));
    if operation.is_head() {
        return Ok(response.body(HeadBody(blob.size())));
    }
    if let RangeRequest::Parts(ranges) = asked {
        return parts(operation, blob, ranges, response).await;
    }
    if let Some(redirect) = redirect(&repository, &blob).await {
        return Ok(redirect);
    }
    let range = match asked {
        RangeRequest::Part(range) => {
            let (first, last) = (range.start, range.end - 1);
            let content_range = format!("bytes {first}-{last}/{}", blob.size());
            response.insert_header((header::CONTENT_RANGE, content_range));
            range
        }
        _ => 0..blob.size(),
    };
    let length = range.end - range.start;
    let bytes = repository.read_blob(&blob, range).await?;
    Ok(response.body(transfer(&operation, digest, length, bytes)))
}

/// Several ranges of a blob.
async fn parts(
    operation: Operation<'_>,
    blob: Blob,
    ranges: Vec<Range<u64>>,
    mut response: HttpResponseBuilder,
) -> Result<HttpResponse, OciError> {
    let digest = blob.digest().clone();
    let multipart = Multipart::new(operation.content.random_id(), ranges, blob.size());
    response.content_type(multipart.content_type());
    let length = multipart.length();
    let (content, name) = (operation.content.clone(), operation.name.clone());
    let bytes = multipart
        .read(content, operation.registry, name, blob)
        .await?;
    Ok(response.body(transfer(&operation, &digest, length, bytes)))
}

/// Bytes of a blob on their way to the client.
fn transfer(
    operation: &Operation<'_>,
    digest: &Digest,
    length: u64,
    bytes: BoxStream<'static, Result<Bytes, ContentError>>,
) -> impl MessageBody + 'static {
    let digest = digest.clone();
    // What fits one piece is handed over at once.
    let bytes = match length > PIECE_BYTES as u64 {
        true => Download::new(bytes, operation.request.version()).boxed_local(),
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
    SizedStream::new(length, Box::pin(bytes))
}

/// The answer that sends the client to the store. A range is the store's to cut, so the request goes there as it is.
async fn redirect(repository: &Repository<'_>, blob: &Blob) -> Option<HttpResponse> {
    match repository.blob_url(blob).await {
        Ok(url) => url.map(|url| {
            HttpResponse::TemporaryRedirect()
                .insert_header((header::LOCATION, url))
                .insert_header((header::CACHE_CONTROL, "no-store"))
                .insert_header((DOCKER_CONTENT_DIGEST, blob.digest().as_str()))
                .finish()
        }),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(blob.digest = %blob.digest(), error, "a download is not redirected");
            None
        }
    }
}

/// The range asked for; `If-Range` with anything but this content asks for all of it. Only GET has ranges (RFC 9110, 14.2).
fn requested_range(operation: &Operation<'_>, blob: &Blob) -> RangeRequest {
    let Some(range) = operation
        .header(header::RANGE)
        .filter(|_| !operation.is_head())
    else {
        return RangeRequest::Whole;
    };
    match operation.header(header::IF_RANGE) {
        Some(condition) if condition.trim() != entity_tag(blob.digest()) => RangeRequest::Whole,
        _ => RangeRequest::parse(range, blob.size()),
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
