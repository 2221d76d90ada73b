//! Repositories: the catalog, attributes, deletion.

use actix_web::HttpResponse;
use actix_web::web::Payload;

use super::changes::read_change;
use super::models::{DeletedRepository, RepositoryAttributes};
use super::{Operation, Registry, refusal};
use crate::oci::{OciError, PageRequest, listings};

/// `GET _catalog`: as `/v2/_catalog`, under this API's path.
pub(super) async fn catalog(
    registry: Registry<'_>,
    page: &PageRequest,
) -> Result<HttpResponse, OciError> {
    listings::catalog(registry.content, registry.uid, "/acr/v1/_catalog", page).await
}

/// `GET` of a repository.
pub(super) async fn read(operation: Operation<'_>) -> Result<HttpResponse, OciError> {
    let properties = operation.repository().properties().await;
    let properties = properties.map_err(|error| refusal(&operation, error))?;
    let registry = operation.registry.login_server;
    let attributes = RepositoryAttributes::new(registry, operation.name.as_str(), &properties);
    Ok(HttpResponse::Ok().json(attributes))
}

/// `PATCH` of a repository.
pub(super) async fn update(
    operation: Operation<'_>,
    payload: Payload,
) -> Result<HttpResponse, OciError> {
    let change = read_change(&operation, payload).await?;
    let changed = operation.repository().change_attributes(&change).await;
    changed.map_err(|error| refusal(&operation, error))?;
    read(operation).await
}

/// `DELETE` of a repository.
pub(super) async fn delete(operation: Operation<'_>) -> Result<HttpResponse, OciError> {
    let deleted = operation.repository().delete().await;
    let deleted = deleted.map_err(|error| refusal(&operation, error))?;
    Ok(HttpResponse::Accepted().json(DeletedRepository {
        manifests_deleted: deleted.manifests.into_iter().map(String::from).collect(),
        tags_deleted: deleted.tags.into_iter().map(String::from).collect(),
    }))
}
