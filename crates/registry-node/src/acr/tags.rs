//! Tags: listing, attributes, deletion.

use actix_web::HttpResponse;
use actix_web::web::Payload;

use super::changes::read_change;
use super::models::{Content, OfRepository};
use super::{Operation, in_query, link_next, refusal};
use crate::content::Part;
use crate::names::{Digest, Tag};
use crate::oci::OciError;

/// `GET _tags`.
pub(super) async fn list(
    operation: Operation<'_>,
    of: Option<&Digest>,
    part: &Part,
) -> Result<HttpResponse, OciError> {
    let page = operation.repository().tags_with_properties(of, part).await;
    let page = page.map_err(|error| refusal(&operation, error))?;
    let mut response = HttpResponse::Ok();
    if page.has_more
        && let Some(last) = page.entries.last()
    {
        let filter = of.map_or_else(String::new, |digest| {
            format!("&digest={}", in_query(digest.as_str()))
        });
        let last = (last.tag.as_str(), last.updated);
        link_next(&mut response, &operation, "_tags", part, last, &filter);
    }
    let tags = page.entries.into_iter().map(Into::into).collect();
    Ok(response.json(OfRepository {
        registry: operation.registry.login_server,
        image_name: operation.name.as_str(),
        content: Content::Tags(tags),
    }))
}

/// `GET` of a tag.
pub(super) async fn read(operation: Operation<'_>, tag: &Tag) -> Result<HttpResponse, OciError> {
    let properties = operation.repository().tag_properties(tag).await;
    let properties = properties.map_err(|error| refusal(&operation, error))?;
    Ok(HttpResponse::Ok().json(OfRepository {
        registry: operation.registry.login_server,
        image_name: operation.name.as_str(),
        content: Content::Tag(properties.into()),
    }))
}

/// `PATCH` of a tag.
pub(super) async fn update(
    operation: Operation<'_>,
    tag: &Tag,
    payload: Payload,
) -> Result<HttpResponse, OciError> {
    let change = read_change(&operation, payload).await?;
    let repository = operation.repository();
    let changed = repository.change_tag_attributes(tag, &change).await;
    changed.map_err(|error| refusal(&operation, error))?;
    read(operation, tag).await
}

/// `DELETE` of a tag: the manifest stays.
pub(super) async fn delete(operation: Operation<'_>, tag: &Tag) -> Result<HttpResponse, OciError> {
    let deleted = operation.repository().delete_tag(tag).await;
    deleted.map_err(|error| refusal(&operation, error))?;
    Ok(HttpResponse::Accepted().finish())
}
