//! Reading, pushing and deleting manifests and tags.

use actix_web::HttpResponse;
use actix_web::body::{BoxBody, MessageBody, SizedStream};
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::web::Payload;
use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use super::body::{read_body, too_large};
use super::conditions::{answer_without_content, entity_tag};
use super::download::{Download, PIECE_BYTES};
use super::error::{ErrorCode, OciError};
use super::{DOCKER_CONTENT_DIGEST, HeadBody, OCI_SUBJECT, Operation};
use crate::content::{BodyError, ContentError, Manifest};
use crate::limits::{MANIFEST_BODY_TIMEOUT, MANIFEST_BYTES_MAXIMUM, MANIFEST_BYTES_SMALL};
use crate::names::Reference;

/// `GET` and `HEAD` of a manifest: as it was pushed, whatever the client says it accepts.
pub(super) async fn read(
    operation: Operation<'_>,
    reference: &Reference,
) -> Result<HttpResponse, OciError> {
    let manifest = operation.repository().manifest(reference).await?;
    let manifest = manifest.ok_or_else(|| {
        OciError::new(
            StatusCode::NOT_FOUND,
            ErrorCode::ManifestUnknown,
            format!("repository {} has no manifest {reference}", operation.name),
        )
    })?;
    if let Some(answer) = answer_without_content(&operation.precondition(), &manifest.digest)? {
        return Ok(answer);
    }
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::ETAG, entity_tag(&manifest.digest)))
        .insert_header((DOCKER_CONTENT_DIGEST, manifest.digest.as_str()));
    response.insert_header((header::CONTENT_TYPE, manifest.media_type.as_str()));
    if operation.is_head() {
        return Ok(response.body(HeadBody(manifest.bytes.len() as u64)));
    }
    operation.repository().note_pull(&manifest.digest);
    Ok(response.body(body_of(&operation, manifest)))
}

/// A large manifest goes out in pieces, as blobs do: the server would keep a copy of all of it for each client that is slow.
fn body_of(operation: &Operation<'_>, manifest: Manifest) -> BoxBody {
    let bytes = manifest.bytes;
    if bytes.len() <= PIECE_BYTES {
        return bytes.boxed();
    }
    let length = bytes.len() as u64;
    let whole = stream::iter([Ok(bytes)]).boxed();
    let pieces = Download::new(whole, operation.request.version());
    SizedStream::new(length, pieces).boxed()
}

/// `PUT` of a manifest.
pub(super) async fn put(
    operation: Operation<'_>,
    reference: &Reference,
    payload: Payload,
) -> Result<HttpResponse, OciError> {
    let announced = operation
        .header(header::CONTENT_LENGTH)
        .and_then(|text| text.parse::<u64>().ok());
    if announced.is_some_and(|announced| announced > MANIFEST_BYTES_MAXIMUM) {
        return Err(too_large(MANIFEST_BYTES_MAXIMUM));
    }
    let expected = announced.unwrap_or(MANIFEST_BYTES_MAXIMUM);
    let _room = operation.content.room_for_manifest(expected)?;
    let body = read_body(payload, expected, || operation.may_push());
    let bytes = match expected > MANIFEST_BYTES_SMALL {
        true => timeout(MANIFEST_BODY_TIMEOUT, body)
            .await
            .map_err(|_| ContentError::Body(BodyError::ManifestTooSlow))??,
        false => body.await?,
    };
    let declared = operation.header(header::CONTENT_TYPE);
    let precondition = operation.precondition();
    let put = operation
        .repository()
        .provided_that(&precondition)
        .put_manifest(reference, declared, bytes, operation.caller.name())
        .await?;
    let location = format!("/v2/{}/manifests/{}", operation.name, put.digest);
    let mut response = HttpResponse::Created();
    response
        .insert_header((header::LOCATION, location))
        .insert_header((DOCKER_CONTENT_DIGEST, put.digest.as_str()));
    if let Some(subject) = put.subject {
        response.insert_header((OCI_SUBJECT, subject.as_str()));
    }
    Ok(response.finish())
}

/// `DELETE`: by digest the manifest with all its tags, by tag only that.
pub(super) async fn delete(
    operation: Operation<'_>,
    reference: &Reference,
) -> Result<HttpResponse, OciError> {
    let precondition = operation.precondition();
    let repository = operation.repository().provided_that(&precondition);
    match reference {
        Reference::Digest(digest) => repository.delete_manifest(digest).await?,
        Reference::Tag(tag) => repository.delete_tag(tag).await?,
    }
    Ok(HttpResponse::Accepted().finish())
}
