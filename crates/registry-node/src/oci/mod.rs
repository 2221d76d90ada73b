//! The OCI Distribution API on the content of one registry. Which registry, who is calling and whether they may is settled before
//! [`serve`]; only questions that an operation itself raises are asked through [`Caller`].

mod blobs;
pub(crate) mod body;
mod conditions;
mod download;
mod error;
pub(crate) mod listings;
mod manifests;
mod multipart;
mod range;
pub(crate) mod route;
mod uploads;

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::Method;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use uuid::Uuid;

pub use error::{ErrorCode, OciError};
pub use range::{ChunkRange, RangeRequest, received_range};
pub use route::{Mount, PageRequest, RepositoryAction, RepositoryRoute, RequiredAccess, Route};

use crate::content::{Content, Precondition};
use crate::names::RepositoryName;

/// `Docker-Content-Digest`.
const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// `Docker-Upload-UUID`.
const DOCKER_UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// `OCI-Subject`: tells a client that the listing of referrers is kept for it.
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// `OCI-Filters-Applied`.
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// `OCI-Chunk-Min-Length`.
const OCI_CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// The header that old clients know a registry by.
pub(crate) fn api_version() -> (HeaderName, HeaderValue) {
    (
        HeaderName::from_static("docker-distribution-api-version"),
        HeaderValue::from_static("registry/2.0"),
    )
}

/// Who is calling, as far as an operation needs to know. Asked when it is needed, so the answer is never older than the
/// question.
pub trait Caller {
    /// Whether the caller may do this now.
    fn may(&self, repository: &RepositoryName, action: RepositoryAction) -> bool;

    /// The caller's name as records keep it.
    fn name(&self) -> &str;
}

/// Carries out an operation that the caller was found to have the rights of [`Route::required_access`] for.
///
/// # Errors
/// The refusal as the client sees it. One with [`ErrorCode::Denied`] says that the rights went while the body came; it lacks the
/// challenge, which is not made here.
pub async fn serve(
    content: &Content,
    registry: Uuid,
    caller: &(dyn Caller + Send + Sync),
    route: Route,
    request: &HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, OciError> {
    let mut response = match route {
        Route::Base => HttpResponse::Ok()
            .content_type("application/json")
            .body("{}"),
        Route::Catalog(page) => listings::catalog(content, registry, "/v2/_catalog", &page).await?,
        Route::Repository(name, route) => {
            let operation = Operation {
                content,
                registry,
                name: &name,
                caller,
                request,
            };
            in_repository(operation, route, payload).await?
        }
    };
    let (name, value) = api_version();
    response.headers_mut().insert(name, value);
    Ok(response)
}

/// What the handlers of a repository's operations share.
#[derive(Clone, Copy)]
struct Operation<'a> {
    content: &'a Content,
    registry: Uuid,
    name: &'a RepositoryName,
    caller: &'a (dyn Caller + Send + Sync),
    request: &'a HttpRequest,
}

impl<'a> Operation<'a> {
    fn repository(&self) -> crate::content::Repository<'a> {
        self.content.repository(self.registry, self.name)
    }

    /// The text of a request header, if it is there and is text.
    fn header(&self, name: impl actix_web::http::header::AsHeaderName) -> Option<&'a str> {
        self.request.headers().get(name)?.to_str().ok()
    }

    /// Whether the caller may write now.
    fn may_push(&self) -> bool {
        [RepositoryAction::Pull, RepositoryAction::Push]
            .into_iter()
            .all(|action| self.caller.may(self.name, action))
    }

    fn is_head(&self) -> bool {
        self.request.method() == Method::HEAD
    }

    /// What the request takes for granted of the content it reads or changes.
    fn precondition(&self) -> Precondition {
        conditions::precondition(self.request.headers())
    }
}

async fn in_repository(
    operation: Operation<'_>,
    route: RepositoryRoute,
    payload: Payload,
) -> Result<HttpResponse, OciError> {
    match route {
        RepositoryRoute::ListTags(page) => listings::tags(operation, &page).await,
        RepositoryRoute::ListReferrers {
            subject,
            artifact_type,
            page,
        } => listings::referrers(operation, &subject, artifact_type.as_deref(), &page).await,
        RepositoryRoute::ReadManifest(reference) => manifests::read(operation, &reference).await,
        RepositoryRoute::PutManifest(reference) => {
            manifests::put(operation, &reference, payload).await
        }
        RepositoryRoute::DeleteManifest(reference) => {
            manifests::delete(operation, &reference).await
        }
        RepositoryRoute::ReadBlob(digest) => blobs::read(operation, &digest).await,
        RepositoryRoute::DeleteBlob(digest) => blobs::delete(operation, &digest).await,
        RepositoryRoute::StartUpload {
            algorithm,
            whole,
            mount,
        } => uploads::start(operation, algorithm, whole, mount, payload).await,
        RepositoryRoute::UploadStatus(id) => uploads::status(operation, id).await,
        RepositoryRoute::AppendToUpload(id) => uploads::append(operation, id, payload).await,
        RepositoryRoute::FinishUpload(id, digest) => {
            uploads::finish(operation, id, &digest, payload).await
        }
        RepositoryRoute::CancelUpload(id) => uploads::cancel(operation, id).await,
    }
}

/// The body of an answer to HEAD: has a size, and no bytes.
struct HeadBody(u64);

impl MessageBody for HeadBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.0)
    }

    fn poll_next(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<bytes::Bytes, Infallible>>> {
        Poll::Ready(None)
    }
}
