//! From method, path and query to an operation of `/acr/v1` and the access it takes. Pure, and before authentication, as in `oci`.

use actix_web::http::{Method, StatusCode};
use time::OffsetDateTime;

use crate::content::{Order, Part};
use crate::limits::ACR_PAGE_ENTRIES;
use crate::names::{Digest, RepositoryName, Tag, shown};
use crate::oci::route::{Query, decoded_path, digest, name_of, only};
use crate::oci::{ErrorCode, OciError, PageRequest, RepositoryAction, RequiredAccess};

/// An operation of `/acr/v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `GET _catalog`.
    Catalog(PageRequest),
    /// An operation in a repository.
    Repository(RepositoryName, RepositoryRoute),
}

/// An operation in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepositoryRoute {
    /// `GET`: its attributes.
    Read,
    /// `PATCH`.
    Update,
    /// `DELETE`: all of it.
    Delete,
    /// `GET _tags`.
    ListTags {
        /// Only of this manifest.
        of: Option<Digest>,
        /// Which of them.
        part: Part,
    },
    /// `GET _tags/<tag>`.
    ReadTag(Tag),
    /// `PATCH _tags/<tag>`.
    UpdateTag(Tag),
    /// `DELETE _tags/<tag>`: the tag alone.
    DeleteTag(Tag),
    /// `GET _manifests`.
    ListManifests(Part),
    /// `GET _manifests/<digest>`.
    ReadManifest(Digest),
    /// `PATCH _manifests/<digest>`.
    UpdateManifest(Digest),
}

impl Route {
    /// Understands a request line, as [`crate::oci::Route::parse`] does.
    ///
    /// # Errors
    /// The refusal as a client sees it.
    pub fn parse(method: &Method, raw_path: &str, query: &str) -> Result<Self, OciError> {
        let path = decoded_path(raw_path, query)?;
        let segments: Vec<&str> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .collect();
        let query = Query(query);
        let (name, route) = match segments.as_slice() {
            ["acr", "v1", "_catalog"] => {
                only(method, &[Method::GET])?;
                return Ok(Self::Catalog(query.page_or(ACR_PAGE_ENTRIES)?));
            }
            ["acr", "v1", "_deleted", ..] => {
                return Err(not_built(
                    "this registry keeps nothing of what was deleted: soft delete is not supported, so there is nothing to list or to restore; push it again",
                ));
            }
            ["acr", "v1", .., "_streaming"] | ["acr", "v1", .., "_operations", _] => {
                return Err(not_built(
                    "artifact streaming is not supported: images are pulled whole",
                ));
            }
            ["acr", "v1", name @ .., "_tags"] => (name, list_tags(method, &query)?),
            ["acr", "v1", name @ .., "_tags", tag] => (name, of_tag(method, tag)?),
            ["acr", "v1", name @ .., "_manifests"] => {
                only(method, &[Method::GET])?;
                (name, RepositoryRoute::ListManifests(part(&query)?))
            }
            ["acr", "v1", name @ .., "_manifests", digest] => (name, of_manifest(method, digest)?),
            ["acr", "v1", name @ ..] if name.iter().all(|part| !part.starts_with('_')) => {
                (name, of_repository(method)?)
            }
            _ => return Err(OciError::operation_unknown()),
        };
        Ok(Self::Repository(name_of(&path, name)?, route))
    }

    /// The rights this operation takes, all of them.
    #[must_use]
    pub fn required_access(&self) -> Vec<RequiredAccess> {
        match self {
            Self::Catalog(_) => vec![RequiredAccess::Catalog],
            Self::Repository(name, route) => vec![RequiredAccess::Repository {
                name: name.clone(),
                action: route.required_action(),
            }],
        }
    }
}

impl RepositoryRoute {
    fn required_action(&self) -> RepositoryAction {
        match self {
            Self::Read
            | Self::ListTags { .. }
            | Self::ReadTag(_)
            | Self::ListManifests(_)
            | Self::ReadManifest(_) => RepositoryAction::MetadataRead,
            Self::Update | Self::UpdateTag(_) | Self::UpdateManifest(_) => {
                RepositoryAction::MetadataWrite
            }
            Self::Delete | Self::DeleteTag(_) => RepositoryAction::Delete,
        }
    }
}

/// An operation that Azure has and this registry has not.
fn not_built(message: &str) -> OciError {
    OciError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::Unsupported,
        message,
    )
}

fn of_repository(method: &Method) -> Result<RepositoryRoute, OciError> {
    only(method, &[Method::GET, Method::PATCH, Method::DELETE])?;
    Ok(match *method {
        Method::PATCH => RepositoryRoute::Update,
        Method::DELETE => RepositoryRoute::Delete,
        _ => RepositoryRoute::Read,
    })
}

fn list_tags(method: &Method, query: &Query<'_>) -> Result<RepositoryRoute, OciError> {
    only(method, &[Method::GET])?;
    let of = query.get("digest").filter(|text| !text.is_empty());
    Ok(RepositoryRoute::ListTags {
        of: of.map(|text| digest(&text)).transpose()?,
        part: part(query)?,
    })
}

fn of_tag(method: &Method, text: &str) -> Result<RepositoryRoute, OciError> {
    only(method, &[Method::GET, Method::PATCH, Method::DELETE])?;
    // What cannot be a tag is not there.
    let tag = text.parse().map_err(|error: crate::names::NameError| {
        OciError::new(
            StatusCode::NOT_FOUND,
            ErrorCode::TagUnknown,
            error.to_string(),
        )
    })?;
    Ok(match *method {
        Method::PATCH => RepositoryRoute::UpdateTag(tag),
        Method::DELETE => RepositoryRoute::DeleteTag(tag),
        _ => RepositoryRoute::ReadTag(tag),
    })
}

fn of_manifest(method: &Method, text: &str) -> Result<RepositoryRoute, OciError> {
    only(method, &[Method::GET, Method::PATCH])?;
    let digest = digest(text)?;
    Ok(match *method {
        Method::PATCH => RepositoryRoute::UpdateManifest(digest),
        _ => RepositoryRoute::ReadManifest(digest),
    })
}

fn part(query: &Query<'_>) -> Result<Part, OciError> {
    let page = query.page_or(ACR_PAGE_ENTRIES)?;
    let order = match query.get("orderby").as_deref() {
        None | Some("" | "none") => Order::ByName,
        Some("timeasc") => Order::OldestFirst,
        Some("timedesc") => Order::NewestFirst,
        Some(other) => {
            return Err(OciError::new(
                StatusCode::BAD_REQUEST,
                ErrorCode::Unsupported,
                format!(
                    "orderby={} is not an order: it is none, timeasc or timedesc",
                    shown(other)
                ),
            ));
        }
    };
    let after = page.after.map(|last| match order {
        Order::ByName => (last, None),
        Order::OldestFirst | Order::NewestFirst => read_position(&last),
    });
    Ok(Part {
        order,
        after,
        limit: page.limit,
    })
}

/// Where a page in order of time ended, for the link to the next one: what was updated since is not where it was.
pub(super) fn position(name: &str, time: OffsetDateTime) -> String {
    format!("{}:{name}", time.unix_timestamp_nanos())
}

/// The reverse of [`position`]; a bare name is taken too. No tag has a colon, and the name of no hash function is a number.
fn read_position(text: &str) -> (String, Option<OffsetDateTime>) {
    let read = || {
        let (nanoseconds, name) = text.split_once(':')?;
        let time =
            OffsetDateTime::from_unix_timestamp_nanos(nanoseconds.parse::<i128>().ok()?).ok()?;
        Some((name.to_owned(), Some(time)))
    };
    read().unwrap_or_else(|| (text.to_owned(), None))
}
