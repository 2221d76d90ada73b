//! Azure Container Registry's own data plane, `/acr/v1`: repositories, tags and manifests with their attributes, changes of these,
//! deletion of repositories and tags. As in `oci`, who is calling and whether they may is settled before [`serve`]. What is deleted
//! or locked is `content`'s; what a manifest or a blob is, `oci` answers.

mod changes;
mod manifests;
mod models;
mod repositories;
mod route;
mod tags;

use actix_web::http::StatusCode;
use actix_web::web::Payload;
use actix_web::{HttpResponse, HttpResponseBuilder};
use percent_encoding::utf8_percent_encode;
use time::OffsetDateTime;
use uuid::Uuid;

pub use route::{RepositoryRoute, Route};

use crate::content::{Content, ContentError, Order, Part, Repository};
use crate::names::RepositoryName;
use crate::oci::listings::{self, QUERY_VALUE};
use crate::oci::{self, ErrorCode, OciError};

/// A registry's content with the name that answers give the registry.
#[derive(Clone, Copy)]
pub struct Registry<'a> {
    /// The content of all registries.
    pub content: &'a Content,
    /// Its uid, which names its content.
    pub uid: Uuid,
    /// Its login server.
    pub login_server: &'a str,
}

/// What the handlers of a repository's operations share.
#[derive(Clone, Copy)]
struct Operation<'a> {
    registry: Registry<'a>,
    name: &'a RepositoryName,
    caller: &'a (dyn oci::Caller + Send + Sync),
}

impl<'a> Operation<'a> {
    fn repository(&self) -> Repository<'a> {
        let Registry { content, uid, .. } = self.registry;
        content.repository(uid, self.name)
    }
}

/// Carries out an operation that the caller was found to have the rights of [`Route::required_access`] for.
///
/// # Errors
/// The refusal as the client sees it; see [`oci::serve`].
pub async fn serve(
    registry: Registry<'_>,
    caller: &(dyn oci::Caller + Send + Sync),
    route: Route,
    payload: Payload,
) -> Result<HttpResponse, OciError> {
    let (name, route) = match route {
        Route::Catalog(page) => return repositories::catalog(registry, &page).await,
        Route::Repository(name, route) => (name, route),
    };
    let operation = Operation {
        registry,
        name: &name,
        caller,
    };
    match route {
        RepositoryRoute::Read => repositories::read(operation).await,
        RepositoryRoute::Update => repositories::update(operation, payload).await,
        RepositoryRoute::Delete => repositories::delete(operation).await,
        RepositoryRoute::ListTags { of, part } => tags::list(operation, of.as_ref(), &part).await,
        RepositoryRoute::ReadTag(tag) => tags::read(operation, &tag).await,
        RepositoryRoute::UpdateTag(tag) => tags::update(operation, &tag, payload).await,
        RepositoryRoute::DeleteTag(tag) => tags::delete(operation, &tag).await,
        RepositoryRoute::ListManifests(part) => manifests::list(operation, &part).await,
        RepositoryRoute::ReadManifest(digest) => manifests::read(operation, &digest).await,
        RepositoryRoute::UpdateManifest(digest) => {
            manifests::update(operation, &digest, payload).await
        }
    }
}

/// The refusal for a fault of content, with the codes of this API where it has its own.
fn refusal(operation: &Operation<'_>, error: ContentError) -> OciError {
    match &error {
        ContentError::TagUnknown(tag) => OciError::new(
            StatusCode::NOT_FOUND,
            ErrorCode::TagUnknown,
            format!("repository {} has no tag {tag}", operation.name),
        ),
        ContentError::RepositoryUnknown => OciError::new(
            StatusCode::NOT_FOUND,
            ErrorCode::NameUnknown,
            format!(
                "repository {} is not known to this registry",
                operation.name
            ),
        ),
        ContentError::ManifestUnknown => OciError::new(
            StatusCode::NOT_FOUND,
            ErrorCode::ManifestUnknown,
            format!("repository {} has no such manifest", operation.name),
        ),
        _ => error.into(),
    }
}

/// Points to the page after the entry `last` of a listing below a repository.
fn link_next(
    response: &mut HttpResponseBuilder,
    operation: &Operation<'_>,
    kind: &str,
    part: &Part,
    last: (&str, OffsetDateTime),
    filter: &str,
) {
    let (name, time) = last;
    let (order, last) = match part.order {
        Order::ByName => ("", name.to_owned()),
        Order::OldestFirst => ("timeasc", route::position(name, time)),
        Order::NewestFirst => ("timedesc", route::position(name, time)),
    };
    let order = match order {
        "" => String::new(),
        order => format!("&orderby={order}"),
    };
    listings::link_next(
        response,
        &format!("/acr/v1/{}/{kind}", operation.name),
        &last,
        part.limit,
        &format!("{order}{filter}"),
    );
}

/// A value as it stands in a query.
fn in_query(value: &str) -> String {
    utf8_percent_encode(value, QUERY_VALUE).to_string()
}
