//! Removing an object only while it is at a version: a DELETE with `If-Match`, which `object_store` has not. Sent once and never
//! repeated here.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderValue, IF_MATCH};
use hyper::http::{self, Method, StatusCode};
use object_store::aws::AmazonS3;
use object_store::azure::{AzureAuthorizer, AzureCredentialProvider, MicrosoftAzure};
use object_store::client::{HttpClient, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer, Url};

use super::BucketOptions;
use crate::content::record_store::Version;

/// A signed request is sent at once.
const SIGNATURE_LIFETIME: Duration = Duration::from_secs(60);
/// So much of a refusal's text is passed on.
const REFUSAL_TEXT_BYTES_MAXIMUM: usize = 300;

/// What became of a removal.
#[derive(Debug)]
pub(crate) enum Removal {
    /// The object is gone.
    Removed,
    /// It is at another version, or not there.
    NotAtVersion,
    /// The store does not know the condition, and did nothing.
    Unsupported,
    /// Nothing was removed, and asking again would not help.
    Refused(String),
    /// Removed or not.
    Unknown(String),
}

/// Sends such requests.
pub(crate) struct ConditionalRemoval {
    http: HttpClient,
    authority: Authority,
}

/// How a request is authorised. S3 by a URL that is signed; Azure by a header, since a signed URL of Azure begins to be good at the
/// second at which it was signed, by Azure's clock, and a node whose clock is ahead would be refused.
enum Authority {
    S3(Arc<AmazonS3>),
    Azure {
        credentials: AzureCredentialProvider,
        account: String,
        container: Url,
    },
}

impl ConditionalRemoval {
    pub(super) fn s3(http: HttpClient, store: Arc<AmazonS3>) -> Self {
        Self {
            http,
            authority: Authority::S3(store),
        }
    }

    pub(super) fn azure(
        http: HttpClient,
        store: &MicrosoftAzure,
        options: &BucketOptions,
    ) -> object_store::Result<Self> {
        let account = options
            .account
            .clone()
            .ok_or_else(|| unusable("no storage account is named"))?;
        let endpoint = match &options.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://{account}.blob.core.windows.net"),
        };
        let container =
            Url::parse(&format!("{endpoint}/{}", options.location.bucket)).map_err(unusable)?;
        Ok(Self {
            http,
            authority: Authority::Azure {
                credentials: Arc::clone(store.credentials()),
                account,
                container,
            },
        })
    }

    /// Removes the object at that version, and no other.
    pub(crate) async fn remove(&self, path: &Path, version: &Version) -> Removal {
        let request = match self.request(path, version).await {
            Ok(request) => request,
            Err(error) => return Removal::Refused(service::errors::chain(&error)),
        };
        match self.http.execute(request).await {
            Ok(response) => outcome(response).await,
            Err(error) if error.kind() == HttpErrorKind::Connect => {
                Removal::Refused(service::errors::chain(&error))
            }
            Err(error) => Removal::Unknown(service::errors::chain(&error)),
        }
    }

    async fn request(&self, path: &Path, version: &Version) -> object_store::Result<HttpRequest> {
        let condition = HeaderValue::from_str(version.as_str()).map_err(unusable)?;
        match &self.authority {
            Authority::S3(signer) => {
                let bound = SignedUrlOptions::new().with_signed_header(IF_MATCH, condition.clone());
                let url = signer
                    .signed_url_opts(Method::DELETE, path, SIGNATURE_LIFETIME, &bound)
                    .await?;
                deletion(&url, condition)
            }
            Authority::Azure {
                credentials,
                account,
                container,
            } => {
                let mut url = container.clone();
                url.path_segments_mut()
                    .map_err(|()| unusable("the endpoint is no base of URLs"))?
                    .extend(path.parts().map(|part| part.as_ref().to_owned()));
                let mut request = deletion(&url, condition)?;
                let credential = credentials.get_credential().await?;
                AzureAuthorizer::new(&credential, account).try_authorize(&mut request)?;
                Ok(request)
            }
        }
    }
}

fn deletion(url: &Url, condition: HeaderValue) -> object_store::Result<HttpRequest> {
    http::Request::builder()
        .method(Method::DELETE)
        .uri(url.as_str())
        .header(IF_MATCH, condition)
        .body(HttpRequestBody::empty())
        .map_err(unusable)
}

async fn outcome(response: HttpResponse) -> Removal {
    let status = response.status();
    match status {
        _ if status.is_success() => Removal::Removed,
        StatusCode::PRECONDITION_FAILED | StatusCode::NOT_FOUND => Removal::NotAtVersion,
        StatusCode::NOT_IMPLEMENTED => Removal::Unsupported,
        // The store was changing the object for somebody else, or asks for patience.
        StatusCode::CONFLICT | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Removal::Unknown(format!("it answered {status}"))
        }
        _ if status.is_client_error() => {
            let text = response.into_body().bytes().await.unwrap_or_default();
            let text = String::from_utf8_lossy(&text[..text.len().min(REFUSAL_TEXT_BYTES_MAXIMUM)]);
            Removal::Refused(format!("it answered {status}: {text}"))
        }
        _ => Removal::Unknown(format!("it answered {status}")),
    }
}

fn unusable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
    object_store::Error::Generic {
        store: "bucket",
        source: source.into(),
    }
}
