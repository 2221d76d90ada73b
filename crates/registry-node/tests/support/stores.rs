//! The kinds of store that content can lie in, and opening it on one of each: a fresh root for every test, by as many nodes as it
//! wants. For S3 and Azure there have to be servers, which `scripts/test rust` starts.
//!
//! A test program that has this module has `faulty_stores` too, whose memory is the store in memory.

use std::sync::{Arc, Once};

use credentials::Secret;
use futures_util::TryStreamExt;
use object_store::ObjectStore;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use registry_node::content::bucket::{
    BucketCredentials, BucketKind, BucketLocation, BucketOptions,
};
use registry_node::content::{Content, OpenOptions, Sources};
use tempfile::TempDir;
use uuid::Uuid;

use crate::faulty_stores::{Disk, Fault, Faults};

/// What [`OpenOptions::region`] is in all of them.
pub(crate) const REGION: &str = "westus";
/// The bucket, or container, that the servers have.
const BUCKET: &str = "wharfinger";
/// One like those of servers that ignore the condition of a removal.
const BUCKET_WITHOUT_CONDITIONAL_REMOVAL: &str = "wharfinger-unconditional";
/// Azurite's account and its key, which are the same everywhere.
const AZURE_ACCOUNT: &str = "devstoreaccount1";
const AZURE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    Memory,
    Disk,
    S3,
    Azure,
    /// An S3 server that removes whatever the condition says.
    S3WithoutConditionalRemoval,
}

impl StoreKind {
    /// Those that behave alike in everything.
    pub(crate) const ALL: [Self; 4] = [Self::Memory, Self::Disk, Self::S3, Self::Azure];
}

/// An empty content root of its own, which lasts as long as this value.
pub(crate) enum TestStore {
    Memory(Disk),
    Disk(TempDir),
    Bucket(Box<BucketOptions>),
}

impl TestStore {
    pub(crate) fn new(kind: StoreKind) -> Self {
        match kind {
            StoreKind::Memory => Self::Memory(Disk::default()),
            StoreKind::Disk => Self::Disk(TempDir::new().expect("a directory")),
            _ => Self::Bucket(Box::new(bucket_options(kind))),
        }
    }

    /// Opens the content as one more node.
    pub(crate) async fn open(&self) -> Content {
        self.open_with_sources(Sources::of_the_system()).await
    }

    /// The same with a clock and ids of the test's own.
    pub(crate) async fn open_with_sources(&self, sources: Sources) -> Content {
        let opened = match self {
            Self::Memory(disk) => {
                let no_faults = Faults::new(|_| Fault::None);
                disk.open_with_sources(no_faults, sources).await
            }
            Self::Disk(directory) => {
                let options = OpenOptions {
                    region: REGION.to_owned(),
                    single_node: false,
                };
                Content::open(directory.path(), options, sources).await
            }
            Self::Bucket(options) => Content::open_bucket(options, REGION, sources).await,
        };
        opened.unwrap_or_else(|error| panic!("{}", service::errors::chain(&error)))
    }
}

impl TestStore {
    /// How many objects of blobs' bytes there are, of all registries together.
    pub(crate) async fn data_objects(&self) -> usize {
        let keys = match self {
            Self::Memory(_) => panic!("the store in memory shows its objects to nobody"),
            Self::Disk(directory) => {
                let files = LocalFileSystem::new_with_prefix(directory.path());
                listed(&files.expect("a directory"), &Path::ROOT, "r").await
            }
            Self::Bucket(options) => keys(options, "r").await,
        };
        keys.iter().filter(|key| key.contains("/data/")).count()
    }
}

/// A fresh root of the kind, opened by one node. Open it again for a second.
pub(crate) async fn open(kind: StoreKind) -> (Arc<TestStore>, Content) {
    let store = Arc::new(TestStore::new(kind));
    let content = store.open().await;
    (store, content)
}

/// A prefix that nobody else has, in a bucket of the servers.
pub(crate) fn bucket_options(kind: StoreKind) -> BucketOptions {
    install_crypto_provider();
    let (kind, bucket, variable) = match kind {
        StoreKind::Azure => (BucketKind::Azure, BUCKET, "WHARFINGER_TEST_AZURE_ENDPOINT"),
        StoreKind::S3WithoutConditionalRemoval => (
            BucketKind::S3,
            BUCKET_WITHOUT_CONDITIONAL_REMOVAL,
            "WHARFINGER_TEST_S3_ENDPOINT",
        ),
        _ => (BucketKind::S3, BUCKET, "WHARFINGER_TEST_S3_ENDPOINT"),
    };
    let endpoint = std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} is not set: run `scripts/test rust`, or start the servers with object_stores_start of \
             scripts/lib-object-stores.sh"
        )
    });
    BucketOptions {
        location: BucketLocation {
            kind,
            bucket: bucket.to_owned(),
            prefix: format!("tests/{}", Uuid::new_v4()),
        },
        endpoint: Some(endpoint),
        allow_http: true,
        authorities: None,
        region: None,
        virtual_hosted: None,
        account: Some(AZURE_ACCOUNT.to_owned()),
        credentials: BucketCredentials::Key {
            id: "test".to_owned(),
            secret: Secret::new(match kind {
                BucketKind::S3 => "secret-of-the-tests".to_owned(),
                BucketKind::Azure => AZURE_KEY.to_owned(),
            }),
            session_token: None,
        },
    }
}

/// A client of the library for a bucket of S3.
pub(crate) fn s3_of(options: &BucketOptions) -> AmazonS3 {
    let (id, secret) = key_of(options);
    AmazonS3Builder::new()
        .with_endpoint(options.endpoint.as_deref().expect("an endpoint"))
        .with_allow_http(true)
        .with_bucket_name(&options.location.bucket)
        .with_access_key_id(id)
        .with_secret_access_key(secret)
        .build()
        .expect("a client")
}

fn key_of(options: &BucketOptions) -> (&str, &str) {
    match &options.credentials {
        BucketCredentials::Key { id, secret, .. } => (id, secret.expose()),
        BucketCredentials::Platform => panic!("the tests have keys"),
    }
}

/// The bucket as it is, whoever wrote there.
fn objects_of(options: &BucketOptions) -> Box<dyn ObjectStore> {
    if options.location.kind == BucketKind::S3 {
        return Box::new(s3_of(options));
    }
    let builder = MicrosoftAzureBuilder::new()
        .with_endpoint(options.endpoint.clone().expect("an endpoint"))
        .with_allow_http(true)
        .with_account(options.account.as_deref().expect("an account"))
        .with_access_key(key_of(options).1)
        .with_container_name(&options.location.bucket);
    Box::new(builder.build().expect("a client"))
}

/// Keys below the root, and below `prefix` in it.
pub(crate) async fn keys(options: &BucketOptions, prefix: &str) -> Vec<String> {
    let root = Path::from(options.location.prefix.as_str());
    listed(&*objects_of(options), &root, prefix).await
}

async fn listed(objects: &dyn ObjectStore, root: &Path, prefix: &str) -> Vec<String> {
    let below: Path = root.parts().chain(Path::from(prefix).parts()).collect();
    let key = |path: &Path| {
        let parts = path.prefix_match(root).expect("below the root");
        let parts: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
        parts.join("/")
    };
    objects
        .list(Some(&below))
        .map_ok(|meta| key(&meta.location))
        .try_collect()
        .await
        .expect("listed")
}

/// The process needs one chosen before the first client of a store is made.
pub(crate) fn install_crypto_provider() {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(service::install_crypto_provider);
}
