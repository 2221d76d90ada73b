//! Listings: repositories, tags, referrers.

use actix_web::http::header;
use actix_web::{HttpResponse, HttpResponseBuilder};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use uuid::Uuid;

use super::error::OciError;
use super::route::PageRequest;
use super::{OCI_FILTERS_APPLIED, Operation};
use crate::content::{Content, OCI_INDEX};
use crate::names::Digest;

/// What stands in a query as it is; a slash may (RFC 3986, 3.4), and clients show it to people.
pub(crate) const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_');

/// `GET` of a catalog: the repositories of this registry.
pub(crate) async fn catalog(
    content: &Content,
    registry: Uuid,
    path: &str,
    page: &PageRequest,
) -> Result<HttpResponse, OciError> {
    let listed = content
        .repositories(registry, page.after.as_deref(), page.limit)
        .await?;
    let mut response = HttpResponse::Ok();
    if listed.has_more
        && let Some(last) = listed.entries.last()
    {
        link_next(&mut response, path, last.as_str(), page.limit, "");
    }
    Ok(response.json(json!({ "repositories": listed.entries })))
}

/// `GET tags/list`.
pub(super) async fn tags(
    operation: Operation<'_>,
    page: &PageRequest,
) -> Result<HttpResponse, OciError> {
    let listed = operation
        .repository()
        .tags(page.after.as_deref(), page.limit)
        .await?;
    let mut response = HttpResponse::Ok();
    if listed.has_more
        && let Some(last) = listed.entries.last()
    {
        let path = format!("/v2/{}/tags/list", operation.name);
        link_next(&mut response, &path, last.as_str(), page.limit, "");
    }
    Ok(response.json(json!({ "name": operation.name, "tags": listed.entries })))
}

/// `GET referrers/<digest>`: an index of what is about that manifest, which need not be there.
pub(super) async fn referrers(
    operation: Operation<'_>,
    subject: &Digest,
    artifact_type: Option<&str>,
    page: &PageRequest,
) -> Result<HttpResponse, OciError> {
    let listed = operation
        .repository()
        .referrers(subject, artifact_type, page.after.as_deref(), page.limit)
        .await?;
    let mut response = HttpResponse::Ok();
    let mut filter = String::new();
    if let Some(artifact_type) = artifact_type {
        response.insert_header((OCI_FILTERS_APPLIED, "artifactType"));
        let value = utf8_percent_encode(artifact_type, QUERY_VALUE);
        filter = format!("&artifactType={value}");
    }
    if listed.has_more
        && let Some(last) = listed.entries.last()
    {
        let path = format!("/v2/{}/referrers/{subject}", operation.name);
        link_next(
            &mut response,
            &path,
            last.digest.as_str(),
            page.limit,
            &filter,
        );
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": listed.entries,
    });
    Ok(response
        .insert_header((header::CONTENT_TYPE, OCI_INDEX))
        .body(index.to_string()))
}

/// Points to the next page. The address is relative, so it holds under every name that the registry is reached by.
pub(crate) fn link_next(
    response: &mut HttpResponseBuilder,
    path: &str,
    last: &str,
    limit: usize,
    filter: &str,
) {
    let last = utf8_percent_encode(last, QUERY_VALUE);
    let link = format!("<{path}?last={last}&n={limit}{filter}>; rel=\"next\"");
    response.insert_header((header::LINK, link));
}
