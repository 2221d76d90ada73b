//! Uploading blobs.

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::web::Payload;
use actix_web::{HttpResponse, HttpResponseBuilder};
use uuid::Uuid;

use super::body::{NoBody, body_stream};
use super::error::{ErrorCode, OciError};
use super::range::{ChunkRange, received_range};
use super::route::Mount;
use super::{
    DOCKER_CONTENT_DIGEST, DOCKER_UPLOAD_UUID, OCI_CHUNK_MIN_LENGTH, Operation, RepositoryAction,
};
use crate::content::{ContentError, Upload};
use crate::limits::UPLOAD_CHUNK_BYTES_ADVISED;
use crate::names::{Digest, DigestAlgorithm, RepositoryName, shown};

/// `POST`: mounts a blob of another repository, takes a whole blob, or begins an upload.
pub(super) async fn start(
    operation: Operation<'_>,
    algorithm: DigestAlgorithm,
    whole: Option<Digest>,
    mount: Option<Mount>,
    payload: Payload,
) -> Result<HttpResponse, OciError> {
    let repository = operation.repository();
    repository.check_writable().await?;
    if let Some(mount) = mount
        && is_mounted(&operation, &mount).await?
    {
        return Ok(created(&operation, &mount.digest));
    }
    if let Some(digest) = whole {
        let announced = content_length(&operation)?;
        repository
            .put_blob(
                &digest,
                body_stream(payload, announced, || operation.may_push()),
            )
            .await?;
        return Ok(created(&operation, &digest));
    }
    let upload = repository
        .start_upload(algorithm, operation.caller.name())
        .await?;
    Ok(progress(HttpResponse::Accepted(), &operation, upload)
        .insert_header((OCI_CHUNK_MIN_LENGTH, UPLOAD_CHUNK_BYTES_ADVISED))
        .finish())
}

/// Makes the repository serve the blob if the registry has it where the caller may read it. A client that does not say where has
/// the repositories looked through ("automatic content discovery"), a bounded number of them.
async fn is_mounted(operation: &Operation<'_>, mount: &Mount) -> Result<bool, ContentError> {
    let repository = operation.repository();
    if repository.promised_blob(&mount.digest).await?.is_some() {
        return Ok(true);
    }
    let may_read = |name: &RepositoryName| operation.caller.may(name, RepositoryAction::Pull);
    match &mount.from {
        Some(from) if may_read(from) => repository.mount_blob(&mount.digest, from).await,
        Some(_) => Ok(false),
        None => repository.mount_found_blob(&mount.digest, may_read).await,
    }
}

/// `GET`: how far an upload is.
pub(super) async fn status(operation: Operation<'_>, id: Uuid) -> Result<HttpResponse, OciError> {
    let upload = operation.repository().upload(id).await?;
    Ok(progress(HttpResponse::NoContent(), &operation, upload).finish())
}

/// `PATCH`: adds a chunk.
pub(super) async fn append(
    operation: Operation<'_>,
    id: Uuid,
    payload: Payload,
) -> Result<HttpResponse, OciError> {
    let (start, announced) = announced_chunk(&operation)?;
    let body = body_stream(payload, announced, || operation.may_push());
    let upload = operation
        .repository()
        .append_to_upload(id, start, body)
        .await
        .map_err(|error| with_progress(error, &operation, id))?;
    Ok(progress(HttpResponse::Accepted(), &operation, upload).finish())
}

/// `PUT`: adds the last chunk, if there is a body, and ends the upload.
pub(super) async fn finish(
    operation: Operation<'_>,
    id: Uuid,
    digest: &Digest,
    payload: Payload,
) -> Result<HttpResponse, OciError> {
    let (start, announced) = announced_chunk(&operation)?;
    let repository = operation.repository();
    let finished = if announced == Some(0) {
        repository.finish_upload(id, digest, None, NoBody).await
    } else {
        let body = body_stream(payload, announced, || operation.may_push());
        repository.finish_upload(id, digest, start, body).await
    };
    finished.map_err(|error| with_progress(error, &operation, id))?;
    Ok(created(&operation, digest))
}

/// `DELETE`: ends an upload and drops what came.
pub(super) async fn cancel(operation: Operation<'_>, id: Uuid) -> Result<HttpResponse, OciError> {
    operation.repository().cancel_upload(id).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Where the request says its body goes, and how long it says the body is.
fn announced_chunk(operation: &Operation<'_>) -> Result<(Option<u64>, Option<u64>), OciError> {
    let length = content_length(operation)?;
    let Some(value) = operation.request.headers().get(header::CONTENT_RANGE) else {
        return Ok((None, length));
    };
    let text = value.to_str().unwrap_or_default();
    let range = ChunkRange::parse(text).ok_or_else(|| {
        OciError::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::BlobUploadInvalid,
            format!(
                "Content-Range {} is not <first byte>-<last byte>",
                shown(text)
            ),
        )
    })?;
    match length {
        Some(length) if length != range.length => Err(OciError::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::SizeInvalid,
            format!(
                "Content-Range {} is {} bytes and Content-Length is {length}",
                shown(text),
                range.length
            ),
        )),
        _ => Ok((Some(range.start), Some(range.length))),
    }
}

fn content_length(operation: &Operation<'_>) -> Result<Option<u64>, OciError> {
    let Some(value) = operation.request.headers().get(header::CONTENT_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.map(Some).ok_or_else(|| {
        OciError::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::SizeInvalid,
            "Content-Length is not a number of bytes",
        )
    })
}

/// An answer that says how far an upload is and where it goes on.
fn progress(
    mut response: HttpResponseBuilder,
    operation: &Operation<'_>,
    upload: Upload,
) -> HttpResponseBuilder {
    response
        .insert_header((header::LOCATION, upload_location(operation, upload.id)))
        .insert_header((header::RANGE, received_range(upload.offset)))
        .insert_header((DOCKER_UPLOAD_UUID, upload.id.to_string()));
    response
}

/// A chunk that goes elsewhere is answered with where the upload really is.
fn with_progress(error: ContentError, operation: &Operation<'_>, id: Uuid) -> OciError {
    let ContentError::NotAtOffset { offset } = error else {
        return error.into();
    };
    OciError::from(error)
        .with_header(header::LOCATION, &upload_location(operation, id))
        .with_header(header::RANGE, &received_range(offset))
        .with_header(DOCKER_UPLOAD_UUID, &id.to_string())
}

fn upload_location(operation: &Operation<'_>, id: Uuid) -> String {
    format!("/v2/{}/blobs/uploads/{id}", operation.name)
}

fn created(operation: &Operation<'_>, digest: &Digest) -> HttpResponse {
    let location = format!("/v2/{}/blobs/{digest}", operation.name);
    HttpResponse::Created()
        .insert_header((header::LOCATION, location))
        .insert_header((DOCKER_CONTENT_DIGEST, digest.as_str()))
        .finish()
}
