//! Manifests: listing and attributes. They are deleted by `oci`'s `DELETE`.

use actix_web::HttpResponse;
use actix_web::web::Payload;

use super::changes::read_change;
use super::models::{Content, OfRepository};
use super::{Operation, link_next, refusal};
use crate::content::Part;
use crate::names::Digest;
use crate::oci::OciError;

/// `GET _manifests`.
pub(super) async fn list(operation: Operation<'_>, part: &Part) -> Result<HttpResponse, OciError> {
    let page = operation.repository().manifests_with_properties(part).await;
    let page = page.map_err(|error| refusal(&operation, error))?;
    let mut response = HttpResponse::Ok();
    if page.has_more
        && let Some(last) = page.entries.last()
    {
        let last = (last.digest.as_str(), last.created);
        link_next(&mut response, &operation, "_manifests", part, last, "");
    }
    let manifests = page.entries.into_iter().map(Into::into).collect();
    Ok(response.json(OfRepository {
        registry: operation.registry.login_server,
        image_name: operation.name.as_str(),
        content: Content::Manifests(manifests),
    }))
}

/// `GET` of a manifest's attributes.
pub(super) async fn read(
    operation: Operation<'_>,
    digest: &Digest,
) -> Result<HttpResponse, OciError> {
    let properties = operation.repository().manifest_properties(digest).await;
    let properties = properties.map_err(|error| refusal(&operation, error))?;
    Ok(HttpResponse::Ok().json(OfRepository {
        registry: operation.registry.login_server,
        image_name: operation.name.as_str(),
        content: Content::Manifest(properties.into()),
    }))
}

/// `PATCH` of a manifest's attributes.
pub(super) async fn update(
    operation: Operation<'_>,
    digest: &Digest,
    payload: Payload,
) -> Result<HttpResponse, OciError> {
    let change = read_change(&operation, payload).await?;
    let repository = operation.repository();
    let changed = repository.change_manifest_attributes(digest, &change).await;
    changed.map_err(|error| refusal(&operation, error))?;
    read(operation, digest).await
}
