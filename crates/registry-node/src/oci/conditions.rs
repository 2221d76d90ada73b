//! Conditional requests (RFC 9110, section 13). The entity tag of a manifest or blob is its digest in quotes; there are no dates.

use actix_web::HttpResponse;
use actix_web::http::header::{self, HeaderMap, HeaderName};

use super::DOCKER_CONTENT_DIGEST;
use super::error::OciError;
use crate::content::{ContentError, EntityTags, Precondition};
use crate::names::Digest;

/// The entity tag of content.
pub(super) fn entity_tag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// What the request takes for granted.
pub(super) fn precondition(headers: &HeaderMap) -> Precondition {
    Precondition {
        // Only the very bytes will do here, and a weak tag never promises them (RFC 9110, 13.1.1).
        if_match: entity_tags(headers, header::IF_MATCH, |tag| {
            (!tag.starts_with("W/")).then_some(tag)
        }),
        if_none_match: entity_tags(headers, header::IF_NONE_MATCH, |tag| {
            Some(tag.strip_prefix("W/").unwrap_or(tag))
        }),
    }
}

fn entity_tags(
    headers: &HeaderMap,
    name: HeaderName,
    strong: impl Fn(&str) -> Option<&str>,
) -> Option<EntityTags> {
    let values: Vec<&str> = headers
        .get_all(&name)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    if values.is_empty() {
        return None;
    }
    if values.contains(&"*") {
        return Some(EntityTags::Any);
    }
    // Some clients leave out the quotes.
    let digests = values
        .into_iter()
        .filter_map(strong)
        .map(|tag| tag.trim_matches('"').to_owned());
    Some(EntityTags::These(digests.collect()))
}

/// The answer to a read of content whose bytes the client does not want; `None` if it wants them.
///
/// # Errors
/// 412 when it wants other content or none.
pub(super) fn answer_without_content(
    precondition: &Precondition,
    digest: &Digest,
) -> Result<Option<HttpResponse>, OciError> {
    let includes = |tags: &EntityTags| tags.include(Some(digest));
    if !precondition.if_match.as_ref().is_none_or(includes) {
        let current = Some(digest.clone());
        return Err(ContentError::PreconditionFailed { current }.into());
    }
    if !precondition.if_none_match.as_ref().is_some_and(includes) {
        return Ok(None);
    }
    let not_modified = HttpResponse::NotModified()
        .insert_header((header::ETAG, entity_tag(digest)))
        .insert_header((DOCKER_CONTENT_DIGEST, digest.as_str()))
        .finish();
    Ok(Some(not_modified))
}
