//! The content of registries: blobs, manifests, tags, uploads, on an object store and nothing else.
//!
//! Content-addressed names hold small records; bytes lie under random names that are never used again. So nothing is copied
//! when an upload completes, and removing bytes can never hit a later upload of the same content. Two rules keep content safe
//! from online collection: touch before you refer to something; remove only the version that was judged.
//!
//! Who may do what, and HTTP, do not belong here.

mod attributes;
mod blobs;
pub mod bucket;
mod collection;
mod data;
mod error;
mod exclusive;
mod hashing;
mod inventory;
mod layout;
mod listings;
mod locks;
mod manifest_deletion;
mod manifest_details;
mod manifest_document;
mod manifest_room;
mod manifests;
mod pages;
mod parts;
mod precondition;
mod progress;
mod pulls;
mod push;
pub mod record_store;
mod records;
mod repositories;
mod repository_deletion;
mod sources;
mod stored_bytes;
mod uploads;
mod usage;
mod verify;

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use time::OffsetDateTime;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

pub use attributes::{AttributeChange, ChangeableAttributes};
pub use blobs::Blob;
pub use collection::{CollectOptions, CollectionReport, Pace, Removed, RetentionRules};
pub use error::{BodyError, ContentError, OpenError};
pub use exclusive::{Exclusive, ExclusiveError};
pub use inventory::{ManifestProperties, Order, Part, TagProperties};
pub use listings::{Page, ReferrerDescriptor};
pub use manifest_details::{ManifestDetails, ManifestReference, Platform};
pub use manifest_document::{
    DOCKER_MANIFEST, DOCKER_MANIFEST_LIST, ManifestFault, OCI_INDEX, OCI_MANIFEST,
};
pub use manifests::{Manifest, PutManifest};
pub use precondition::{EntityTags, Precondition};
pub use progress::{Doing, Progress};
pub use repositories::RepositoryProperties;
pub use repository_deletion::DeletedRepository;
pub use sources::Sources;
pub use uploads::Upload;
pub use usage::{CountedUsage, ManifestUsage, RepositoryUsage};
pub use verify::{Fault, FaultKind, VerifyOptions, VerifyReport};

use crate::limits::TOUCH_INTERVAL;
use crate::names::RepositoryName;
use bucket::{BucketClients, BucketOptions};
use data::DataStore;
use manifest_room::ManifestRoom;
use manifests::ManifestCache;
use pulls::Pulls;
use record_store::{BucketRecords, Durability, LocalRecords, ProbeError, RecordStore, probe};
use records::{DeletedRecord, FormatRecord, Records};
use stored_bytes::StoredBytes;

/// How a content root is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The region of this node; a root of another region is refused.
    pub region: String,
    /// The operator says that no other node uses this root: then it may be on a network file system.
    pub single_node: bool,
}

/// The content of all registries of a region. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Content {
    records: Records,
    data: DataStore,
    sources: Sources,
    manifest_cache: ManifestCache,
    stored: StoredBytes,
    redirects_downloads: bool,
    pulls: Pulls,
    manifest_room: ManifestRoom,
}

impl Content {
    /// Opens content on a local directory, making it first where it is missing.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(
        root: &Path,
        options: OpenOptions,
        sources: Sources,
    ) -> Result<Self, OpenError> {
        // Whoever can read it reads all registries of the region.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(|source| directory_error(root, source))?;
        let (records, data) = open_directory(root, options.single_node, &sources)?;
        Self::open_stores(records, data, Some(&options.region), sources).await
    }

    /// Opens the content that is in a local directory, of whatever region, for a tool that makes none.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_existing(
        root: &Path,
        single_node: bool,
        sources: Sources,
    ) -> Result<Self, OpenError> {
        if !root.join(layout::FORMAT).is_file() {
            return Err(OpenError::NoContent {
                root: root.display().to_string(),
            });
        }
        let (records, data) = open_directory(root, single_node, &sources)?;
        Self::open_stores(records, data, None, sources).await
    }

    /// Opens content in a bucket, which must exist. Any number of nodes on any number of hosts may do so.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_bucket(
        options: &BucketOptions,
        region: &str,
        sources: Sources,
    ) -> Result<Self, OpenError> {
        Self::open_bucket_of(options, Some(region), sources).await
    }

    /// Opens the content that is in a bucket, of whatever region, for a tool that makes none.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_existing_bucket(
        options: &BucketOptions,
        sources: Sources,
    ) -> Result<Self, OpenError> {
        Self::open_bucket_of(options, None, sources).await
    }

    async fn open_bucket_of(
        options: &BucketOptions,
        region: Option<&str>,
        sources: Sources,
    ) -> Result<Self, OpenError> {
        let unfit = |source: ProbeError| OpenError::Bucket {
            location: options.location.clone(),
            source,
        };
        let clients = BucketClients::new(options)?;
        let data = DataStore::bucket(&clients);
        let records = BucketRecords::open_with(clients, sources.clone())
            .await
            .map_err(unfit)?;
        let opened = Self::open_stores(Arc::new(records), data, region, sources).await;
        opened.map_err(|error| match error {
            OpenError::Probe(source) => unfit(source),
            OpenError::Format(ContentError::DamagedRecord { .. }) if region.is_none() => {
                OpenError::NoContent {
                    root: options.location.to_string(),
                }
            }
            other => other,
        })
    }

    /// Opens content on stores that the caller made.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_on(
        records: Arc<dyn RecordStore>,
        data: Arc<dyn ObjectStore>,
        region: &str,
        sources: Sources,
    ) -> Result<Self, OpenError> {
        Self::open_stores(records, DataStore::near(data), Some(region), sources).await
    }

    async fn open_stores(
        records: Arc<dyn RecordStore>,
        data: DataStore,
        region: Option<&str>,
        sources: Sources,
    ) -> Result<Self, OpenError> {
        probe(&*records, &sources).await?;
        let records = Records::new(records, sources.clone());
        // Also while an operator collects alone.
        check_format(&records.without_admission(), region).await?;
        Ok(Self {
            records,
            data,
            sources,
            manifest_cache: ManifestCache::new(),
            stored: StoredBytes::default(),
            manifest_room: ManifestRoom::default(),
            redirects_downloads: false,
            pulls: Pulls::new(),
        })
    }

    /// The same content, whose blobs clients are told to fetch from the store by themselves.
    ///
    /// # Errors
    /// When the store, or what this node is to it, cannot sign URLs.
    pub async fn redirecting_downloads(self) -> Result<Self, OpenError> {
        self.data.check_signing().await?;
        Ok(Self {
            redirects_downloads: true,
            ..self
        })
    }

    /// Whether collection beside pushes gains anything: whether the store deletes at a version. Where it does not, all else works,
    /// and collection needs the store for itself; see [`Self::assume_exclusive`].
    #[must_use]
    pub fn collects_online(&self) -> bool {
        self.records.removes_for_good()
    }

    /// The caller vouches that until the end of this process nobody else changes anything in this store, neither nodes nor other
    /// commands. See [`RecordStore::assume_exclusive`].
    pub fn assume_exclusive(&self) {
        self.records.assume_exclusive();
    }

    /// Takes memory for a manifest of so many bytes that is about to come, until the returned value is dropped.
    ///
    /// # Errors
    /// [`ContentError::TooManyManifests`].
    pub fn room_for_manifest(
        &self,
        bytes: u64,
    ) -> Result<Option<OwnedSemaphorePermit>, ContentError> {
        self.manifest_room.take(bytes)
    }

    /// A repository of a registry, whether or not it exists yet.
    #[must_use]
    pub fn repository<'a>(&'a self, registry: Uuid, name: &'a RepositoryName) -> Repository<'a> {
        Repository {
            content: self,
            registry,
            name,
            precondition: None,
        }
    }

    /// Marks a registry's content as that of a deleted one, so that collection may take it after the grace period. Any node may do
    /// so, and again. Only for a registry whose tombstone was seen: one that is merely unknown may be known tomorrow.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn mark_registry_deleted(&self, registry: Uuid) -> Result<(), ContentError> {
        let record = DeletedRecord {
            deleted: self.now(),
        };
        self.records
            .create(
                &layout::deleted(registry),
                &record,
                &[],
                Durability::OnReturn,
            )
            .await?;
        Ok(())
    }

    /// Whether the registry is marked as deleted.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn is_registry_marked_deleted(&self, registry: Uuid) -> Result<bool, ContentError> {
        let mark = self.records.version(&layout::deleted(registry)).await?;
        Ok(mark.is_some())
    }

    fn now(&self) -> OffsetDateTime {
        (self.sources.now)()
    }

    pub(crate) fn random_id(&self) -> Uuid {
        (self.sources.random_id)()
    }

    /// Whether a promise made now needs the record touched.
    fn needs_touch(&self, touched: OffsetDateTime) -> bool {
        self.now() - touched > TOUCH_INTERVAL
    }
}

/// One repository: the handle through which its content is read and changed.
#[derive(Clone, Copy)]
pub struct Repository<'a> {
    content: &'a Content,
    registry: Uuid,
    name: &'a RepositoryName,
    precondition: Option<&'a Precondition>,
}

impl<'a> Repository<'a> {
    /// The same repository for a change of a tag or manifest that is made only if `precondition` holds of it.
    #[must_use]
    pub fn provided_that(self, precondition: &'a Precondition) -> Self {
        Self {
            precondition: Some(precondition).filter(|precondition| !precondition.is_empty()),
            ..self
        }
    }

    fn records(&self) -> &Records {
        &self.content.records
    }

    fn data(&self) -> &DataStore {
        &self.content.data
    }
}

fn directory_error(root: &Path, source: std::io::Error) -> OpenError {
    OpenError::Directory {
        root: root.display().to_string(),
        source,
    }
}

/// The stores in a directory that is there.
fn open_directory(
    root: &Path,
    single_node: bool,
    sources: &Sources,
) -> Result<(Arc<dyn RecordStore>, DataStore), OpenError> {
    let directory = |source| directory_error(root, source);
    let root = std::fs::canonicalize(root).map_err(directory)?;
    if !single_node {
        refuse_network_file_system(&root)?;
    }
    let records = LocalRecords::open(&root, sources.clone()).map_err(directory)?;
    let data = LocalFileSystem::new_with_prefix(&root)
        .map_err(|source| OpenError::Data {
            root: root.display().to_string(),
            source,
        })?
        .with_fsync(true);
    let data = DataStore::directory(Arc::new(data), &root);
    Ok((Arc::new(records), data))
}

/// Holds the root to this layout and, where one is named, to this region; a fresh root takes both on.
async fn check_format(records: &Records, region: Option<&str>) -> Result<(), OpenError> {
    if let Some(region) = region {
        let ours = FormatRecord {
            layout: layout::LAYOUT,
            region: region.to_owned(),
        };
        let created = records
            .create(layout::FORMAT, &ours, &[], Durability::OnReturn)
            .await
            .map_err(OpenError::Format)?;
        if created.is_some() {
            return Ok(());
        }
    }
    let found = records
        .get::<FormatRecord>(layout::FORMAT)
        .await
        .map_err(OpenError::Format)?
        .ok_or_else(|| {
            OpenError::Format(ContentError::DamagedRecord {
                key: layout::FORMAT.to_owned(),
            })
        })?
        .value;
    if found.layout != layout::LAYOUT {
        return Err(OpenError::OtherLayout {
            found: found.layout,
            known: layout::LAYOUT,
        });
    }
    match region {
        Some(region) if found.region != region => Err(OpenError::OtherRegion {
            found: found.region,
            expected: region.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Locks on a network file system do not hold everywhere between hosts, and its directory syncs promise less.
fn refuse_network_file_system(root: &Path) -> Result<(), OpenError> {
    const NETWORK_FILE_SYSTEMS: [(u64, &str); 6] = [
        (0x6969, "NFS"),
        (0xfe53_4d42, "SMB"),
        (0xff53_4d42, "CIFS"),
        (0x00c3_6400, "Ceph"),
        (0x5346_414f, "AFS"),
        (0x0bd0_0bd0, "Lustre"),
    ];
    let shown = || root.display().to_string();
    let statistics = rustix::fs::statfs(root).map_err(|error| OpenError::Directory {
        root: shown(),
        source: error.into(),
    })?;
    // Some systems keep the number in a signed word of another width.
    let found = u64::try_from(statistics.f_type).unwrap_or_default() & 0xffff_ffff;
    match NETWORK_FILE_SYSTEMS
        .iter()
        .find(|(number, _)| *number == found)
    {
        Some((_, kind)) => Err(OpenError::NetworkFileSystem {
            root: shown(),
            kind,
        }),
        None => Ok(()),
    }
}
