//! From method, path and query to an operation and the access it takes. Pure, and before authentication: a challenge needs the
//! repository's name. What is not understood is refused here, cheaply.

use std::borrow::Cow;

use actix_web::http::header::ALLOW;
use actix_web::http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use super::error::{ErrorCode, OciError};
use crate::limits::{PAGE_ENTRIES_MAXIMUM, PATH_BYTES_MAXIMUM};
use crate::names::{Digest, DigestAlgorithm, NameError, Reference, RepositoryName, shown};

/// Whatever can be read has a HEAD too (RFC 9110, 9.1).
const READ: &[Method] = &[Method::GET, Method::HEAD];

/// Which part of a listing is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// Most entries.
    pub limit: usize,
    /// The entry after which the page starts.
    pub after: Option<String>,
}

/// What may be done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepositoryAction {
    /// Read its content.
    Pull,
    /// Add content.
    Push,
    /// Delete content.
    Delete,
    /// Read attributes.
    MetadataRead,
    /// Change attributes.
    MetadataWrite,
}

/// One right that an operation takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequiredAccess {
    /// Any right in the registry.
    Base,
    /// The right to list the registry's repositories.
    Catalog,
    /// An action on a repository.
    Repository {
        /// The repository.
        name: RepositoryName,
        /// The action.
        action: RepositoryAction,
    },
}

/// An operation of the OCI Distribution API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`: is this a registry, and am I welcome?
    Base,
    /// `/v2/_catalog`.
    Catalog(PageRequest),
    /// An operation in a repository.
    Repository(RepositoryName, RepositoryRoute),
}

/// An operation in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepositoryRoute {
    /// `GET tags/list`.
    ListTags(PageRequest),
    /// `GET referrers/<digest>`.
    ListReferrers {
        /// The manifest they are about.
        subject: Digest,
        /// Only of this type.
        artifact_type: Option<String>,
        /// The page.
        page: PageRequest,
    },
    /// `GET` and `HEAD manifests/<reference>`.
    ReadManifest(Reference),
    /// `PUT manifests/<reference>`.
    PutManifest(Reference),
    /// `DELETE manifests/<reference>`.
    DeleteManifest(Reference),
    /// `GET` and `HEAD blobs/<digest>`.
    ReadBlob(Digest),
    /// `DELETE blobs/<digest>`.
    DeleteBlob(Digest),
    /// `POST blobs/uploads/`.
    StartUpload {
        /// Hash function of the upload.
        algorithm: DigestAlgorithm,
        /// The body is all of this blob.
        whole: Option<Digest>,
        /// This blob may be in another repository.
        mount: Option<Mount>,
    },
    /// `GET blobs/uploads/<id>`.
    UploadStatus(Uuid),
    /// `PATCH blobs/uploads/<id>`.
    AppendToUpload(Uuid),
    /// `PUT blobs/uploads/<id>`.
    FinishUpload(Uuid, Digest),
    /// `DELETE blobs/uploads/<id>`.
    CancelUpload(Uuid),
}

/// A blob that need not be uploaded if it is somewhere in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The blob.
    pub digest: Digest,
    /// The repository that has it, or any that the caller may read.
    pub from: Option<RepositoryName>,
}

impl Route {
    /// Understands a request line. `raw_path` is not decoded yet; `query` is what follows the question mark.
    ///
    /// # Errors
    /// The refusal as a client sees it: 400 and 404 for names and paths, 405 for methods, 414 for what is too long.
    pub fn parse(method: &Method, raw_path: &str, query: &str) -> Result<Self, OciError> {
        let path = decoded_path(raw_path, query)?;
        let segments: Vec<&str> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .collect();
        let query = Query(query);
        match segments.as_slice() {
            ["v2"] => only(method, READ).map(|()| Self::Base),
            ["v2", "_catalog"] => {
                only(method, READ)?;
                Ok(Self::Catalog(query.page()?))
            }
            ["v2", rest @ ..] => in_repository(method, &path, rest, &query),
            _ => Err(OciError::operation_unknown()),
        }
    }

    /// The rights this operation takes, all of them. The source of a mount is not among them: without the right to read one
    /// the mount becomes an ordinary upload.
    #[must_use]
    pub fn required_access(&self) -> Vec<RequiredAccess> {
        match self {
            Self::Base => vec![RequiredAccess::Base],
            Self::Catalog(_) => vec![RequiredAccess::Catalog],
            Self::Repository(name, route) => route
                .required_actions()
                .iter()
                .map(|action| RequiredAccess::Repository {
                    name: name.clone(),
                    action: *action,
                })
                .collect(),
        }
    }
}

impl RepositoryRoute {
    fn required_actions(&self) -> &'static [RepositoryAction] {
        match self {
            Self::ListTags(_)
            | Self::ListReferrers { .. }
            | Self::ReadManifest(_)
            | Self::ReadBlob(_) => &[RepositoryAction::Pull],
            Self::PutManifest(_)
            | Self::StartUpload { .. }
            | Self::UploadStatus(_)
            | Self::AppendToUpload(_)
            | Self::FinishUpload(..)
            | Self::CancelUpload(_) => &[RepositoryAction::Pull, RepositoryAction::Push],
            Self::DeleteManifest(_) | Self::DeleteBlob(_) => &[RepositoryAction::Delete],
        }
    }
}

/// The path as text; what is too long is refused.
pub(crate) fn decoded_path<'a>(raw_path: &'a str, query: &str) -> Result<Cow<'a, str>, OciError> {
    for (what, text) in [("path", raw_path), ("query", query)] {
        if text.len() > PATH_BYTES_MAXIMUM {
            return Err(OciError::new(
                StatusCode::URI_TOO_LONG,
                ErrorCode::Unsupported,
                format!(
                    "the {what} has {} bytes and may have {PATH_BYTES_MAXIMUM}",
                    text.len()
                ),
            ));
        }
    }
    percent_decode_str(raw_path).decode_utf8().map_err(|_| {
        OciError::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::NameInvalid,
            format!("the path {} is not UTF-8 text", shown(raw_path)),
        )
    })
}

/// A name may contain any of the words that paths are made of, so they are looked for from the right. Stray slashes around it mean
/// nothing; within it they do: `a//b` is no name, and is not taken for `a/b`.
fn in_repository(
    method: &Method,
    path: &str,
    segments: &[&str],
    query: &Query<'_>,
) -> Result<Route, OciError> {
    let (name, route) = match segments {
        [name @ .., "blobs", "uploads"] => (name, start_upload(method, query)?),
        [name @ .., "blobs", "uploads", id] => (name, in_upload(method, id, query)?),
        [name @ .., "tags", "list"] => {
            only(method, READ)?;
            (name, RepositoryRoute::ListTags(query.page()?))
        }
        [name @ .., "manifests", reference] => (name, of_manifest(method, reference)?),
        [name @ .., "blobs", digest] => (name, of_blob(method, digest)?),
        [name @ .., "referrers", subject] => {
            only(method, READ)?;
            let route = RepositoryRoute::ListReferrers {
                subject: digest(subject)?,
                artifact_type: query
                    .get("artifactType")
                    .filter(|artifact_type| !artifact_type.is_empty())
                    .map(Cow::into_owned),
                page: query.page()?,
            };
            (name, route)
        }
        _ => return Err(OciError::operation_unknown()),
    };
    Ok(Route::Repository(name_of(path, name)?, route))
}

/// The repository's name out of its components.
pub(crate) fn name_of(path: &str, name: &[&str]) -> Result<RepositoryName, OciError> {
    if name.is_empty() {
        return Err(OciError::operation_unknown());
    }
    let name = name.join("/");
    if !path.contains(&name) {
        return Err(OciError::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::NameInvalid,
            format!(
                "the repository name in {} has an empty component",
                shown(path)
            ),
        ));
    }
    repository_name(&name)
}

fn of_manifest(method: &Method, reference: &str) -> Result<RepositoryRoute, OciError> {
    only(
        method,
        &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE],
    )?;
    let is_put = method == Method::PUT;
    let reference = reference.parse::<Reference>().map_err(|error| {
        if reference.contains(':') {
            return OciError::of_name(ErrorCode::DigestInvalid, &error);
        }
        if is_put {
            return OciError::of_name(ErrorCode::ManifestInvalid, &error);
        }
        // What cannot be a tag is not there: clients ask like this to find out whether something is.
        OciError::new(
            StatusCode::NOT_FOUND,
            ErrorCode::ManifestUnknown,
            error.to_string(),
        )
    })?;
    Ok(match *method {
        Method::PUT => RepositoryRoute::PutManifest(reference),
        Method::DELETE => RepositoryRoute::DeleteManifest(reference),
        _ => RepositoryRoute::ReadManifest(reference),
    })
}

fn of_blob(method: &Method, text: &str) -> Result<RepositoryRoute, OciError> {
    only(method, &[Method::GET, Method::HEAD, Method::DELETE])?;
    let digest = digest(text)?;
    Ok(match *method {
        Method::DELETE => RepositoryRoute::DeleteBlob(digest),
        _ => RepositoryRoute::ReadBlob(digest),
    })
}

fn start_upload(method: &Method, query: &Query<'_>) -> Result<RepositoryRoute, OciError> {
    only(method, &[Method::POST])?;
    let algorithm = match query.get("digest-algorithm") {
        Some(text) => text
            .parse()
            .map_err(|error: NameError| OciError::of_name(ErrorCode::DigestInvalid, &error))?,
        None => DigestAlgorithm::Sha256,
    };
    let whole = query.get("digest").map(|text| digest(&text)).transpose()?;
    let mounted = query.get("mount").map(|text| digest(&text)).transpose()?;
    let from = query
        .get("from")
        .filter(|text| !text.is_empty())
        .map(|text| repository_name(&text))
        .transpose()?;
    Ok(RepositoryRoute::StartUpload {
        algorithm,
        whole,
        mount: mounted.map(|digest| Mount { digest, from }),
    })
}

fn in_upload(method: &Method, id: &str, query: &Query<'_>) -> Result<RepositoryRoute, OciError> {
    only(
        method,
        &[
            Method::GET,
            Method::HEAD,
            Method::PATCH,
            Method::PUT,
            Method::DELETE,
        ],
    )?;
    let id = Uuid::try_parse(id).map_err(|_| {
        OciError::new(
            StatusCode::NOT_FOUND,
            ErrorCode::BlobUploadUnknown,
            format!("upload {} is not known to this repository", shown(id)),
        )
    })?;
    Ok(match *method {
        Method::PATCH => RepositoryRoute::AppendToUpload(id),
        Method::DELETE => RepositoryRoute::CancelUpload(id),
        Method::PUT => {
            let text = query.get("digest").ok_or_else(|| {
                OciError::new(
                    StatusCode::BAD_REQUEST,
                    ErrorCode::DigestInvalid,
                    "the query lacks digest=<digest>, the digest of all that was uploaded",
                )
            })?;
            RepositoryRoute::FinishUpload(id, digest(&text)?)
        }
        _ => RepositoryRoute::UploadStatus(id),
    })
}

pub(crate) fn digest(text: &str) -> Result<Digest, OciError> {
    text.parse()
        .map_err(|error| OciError::of_name(ErrorCode::DigestInvalid, &error))
}

fn repository_name(text: &str) -> Result<RepositoryName, OciError> {
    text.parse()
        .map_err(|error| OciError::of_name(ErrorCode::NameInvalid, &error))
}

pub(crate) fn only(method: &Method, allowed: &[Method]) -> Result<(), OciError> {
    if allowed.contains(method) {
        return Ok(());
    }
    let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
    let names = names.join(", ");
    Err(OciError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::Unsupported,
        format!(
            "{} is not possible on this path: {names}",
            shown(method.as_str())
        ),
    )
    .with_header(ALLOW, &names))
}

/// A query string. A plus sign is a plus sign: media types and digests have no blanks.
pub(crate) struct Query<'a>(pub(crate) &'a str);

impl Query<'_> {
    /// The first value of that name that is text.
    pub(crate) fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = percent_decode_str(key).decode_utf8().ok()?;
            (key == name).then(|| percent_decode_str(value).decode_utf8().ok())?
        })
    }

    fn page(&self) -> Result<PageRequest, OciError> {
        self.page_or(PAGE_ENTRIES_MAXIMUM)
    }

    /// The page, of so many entries where no number is named.
    pub(crate) fn page_or(&self, entries: usize) -> Result<PageRequest, OciError> {
        let limit = match self.get("n").filter(|text| !text.is_empty()) {
            None => entries,
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text
                .parse::<usize>()
                .unwrap_or(usize::MAX)
                .min(PAGE_ENTRIES_MAXIMUM),
            Some(text) => {
                return Err(OciError::new(
                    StatusCode::BAD_REQUEST,
                    ErrorCode::PaginationNumberInvalid,
                    format!("n={} is not a number of entries", shown(&text)),
                ));
            }
        };
        let after = self
            .get("last")
            .filter(|text| !text.is_empty())
            .map(Cow::into_owned);
        Ok(PageRequest { limit, after })
    }
}
