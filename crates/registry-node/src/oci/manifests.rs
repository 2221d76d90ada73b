//! Reading, pushing and deleting manifests and tags.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::web::Payload;

use super::body::{read_body, too_large};
use super::conditions::{answer_without_content, entity_tag};
use super::error::{ErrorCode, OciError};
use super::{DOCKER_CONTENT_DIGEST, HeadBody, OCI_SUBJECT, Operation};
use crate::limits::MANIFEST_BYTES_MAXIMUM;
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
    response.insert_header((header::CONTENT_TYPE, manifest.media_type));
    if operation.is_head() {
        return Ok(response.body(HeadBody(manifest.bytes.len() as u64)));
    }
    operation.repository().note_pull(&manifest.digest);
    Ok(response.body(manifest.bytes))
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
    let bytes = read_body(payload, MANIFEST_BYTES_MAXIMUM, || operation.may_push()).await?;
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
