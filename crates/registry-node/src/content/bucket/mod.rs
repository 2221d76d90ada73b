//! A bucket of S3 or a container of Azure Blob Storage as the place of a region's content: which one, how it is reached, and the
//! two things that `object_store` does not do there, a removal at a version and a URL for a client.

mod clients;
mod location;
mod removal;

use std::path::PathBuf;
use std::sync::Arc;

use credentials::Secret;
use object_store::ObjectStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::signer::{Method, Signer};

pub use location::{BucketKind, BucketLocation, BucketLocationError};

pub(crate) use clients::{BucketClients, ListedStore};
pub(crate) use removal::Removal;

use crate::limits::SIGNED_URL_LIFETIME;

/// How a bucket is reached.
#[derive(Clone)]
pub struct BucketOptions {
    /// Which bucket, and the prefix in it.
    pub location: BucketLocation,
    /// URL of the service, without the bucket; without it, the cloud's own. For Azure it ends with the account where the host does
    /// not begin with it.
    pub endpoint: Option<String>,
    /// Whether the endpoint may be plain HTTP.
    pub allow_http: bool,
    /// Certificates of the authorities that vouch for the endpoint, PEM; without it, those of the system.
    pub authorities: Option<PathBuf>,
    /// S3 only: the region that requests are signed for.
    pub region: Option<String>,
    /// S3 only: whether the bucket's name is part of the host. Without it: yes on Amazon's endpoint, no on others.
    pub virtual_hosted: Option<bool>,
    /// Azure only: the storage account.
    pub account: Option<String>,
    /// Who this node is to the store.
    pub credentials: BucketCredentials,
}

/// Who a node is to the store.
#[derive(Clone)]
pub enum BucketCredentials {
    /// The key of an account or user, which was given.
    Key {
        /// S3 only: which key it is.
        id: String,
        /// The key.
        secret: Secret,
        /// S3 only: the token that belongs to a key that ends.
        session_token: Option<Secret>,
    },
    /// Whatever the platform gives to the process: a role, a managed identity, a federated token.
    Platform,
}

/// Why a bucket cannot be reached as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The file of authorities cannot be used.
    #[error("the authorities of the content store in {} cannot be used", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An option is missing or cannot be used.
    #[error("the content store {location} cannot be reached with what was given")]
    Options {
        /// The bucket.
        location: BucketLocation,
        /// What is wrong.
        #[source]
        source: object_store::Error,
    },
}

/// Where clients fetch a blob from by themselves.
#[derive(Clone)]
pub(crate) struct SignedUrls {
    signer: Arc<dyn Signer>,
    root: String,
}

impl SignedUrls {
    /// A URL by which whoever has it can read the object for [`SIGNED_URL_LIFETIME`].
    pub(crate) async fn url(&self, key: &str) -> object_store::Result<String> {
        let path = path_below(&self.root, key);
        let url = self
            .signer
            .signed_url(Method::GET, &path, SIGNED_URL_LIFETIME)
            .await?;
        Ok(url.into())
    }
}

impl BucketClients {
    /// The store of blobs' bytes, with keys below the root.
    pub(crate) fn data_store(&self) -> Arc<dyn ObjectStore> {
        let root = Path::from(self.location.prefix.as_str());
        Arc::new(PrefixStore::new(Arc::clone(&self.data), root))
    }

    /// URLs for clients, with keys below the root.
    pub(crate) fn signed_urls(&self) -> SignedUrls {
        SignedUrls {
            signer: Arc::clone(&self.signer),
            root: self.location.prefix.clone(),
        }
    }
}

/// The path of a key below a prefix.
pub(crate) fn path_below(root: &str, key: &str) -> Path {
    match root.is_empty() {
        true => Path::from(key),
        false => Path::from(format!("{root}/{key}")),
    }
}
