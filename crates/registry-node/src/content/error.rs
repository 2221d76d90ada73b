//! What can go wrong with content, in its own words; `oci` turns it into answers.

use uuid::Uuid;

use super::bucket::{BucketError, BucketLocation};
use super::manifest_document::ManifestFault;
use super::record_store::{ProbeError, ReadError, WriteError};
use crate::names::{Digest, Tag};

/// Why a content store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The root belongs to another region.
    #[error("the content root belongs to region {found:?}; this node is of region {expected:?}")]
    OtherRegion {
        /// The region that the root names.
        found: String,
        /// The region of this node.
        expected: String,
    },
    /// The root was written in a layout this build does not know.
    #[error("the content root has layout {found}; this build knows layout {known}")]
    OtherLayout {
        /// The layout that the root names.
        found: u32,
        /// The one this build knows.
        known: u32,
    },
    /// Two hosts on a network file system would not see each other's locks.
    #[error(
        "{root} is on a network file system ({kind}); several nodes cannot share it: declare a single node or take a local disk"
    )]
    NetworkFileSystem {
        /// The root.
        root: String,
        /// The kind of file system.
        kind: &'static str,
    },
    /// The directory cannot be used.
    #[error("the content root {root} cannot be used")]
    Directory {
        /// The root.
        root: String,
        /// What the file system says.
        #[source]
        source: std::io::Error,
    },
    /// The data store cannot be used.
    #[error("the content root {root} cannot be opened for data")]
    Data {
        /// The root.
        root: String,
        /// What the store says.
        #[source]
        source: object_store::Error,
    },
    /// The bucket cannot be reached as it was asked for.
    #[error(transparent)]
    BucketOptions(#[from] BucketError),
    /// The bucket cannot be used, or not as content needs it.
    #[error("the content store {location} cannot be used")]
    Bucket {
        /// The bucket.
        location: BucketLocation,
        /// What it got wrong or says.
        #[source]
        source: ProbeError,
    },
    /// Nothing can be signed for clients.
    #[error("downloads cannot be redirected: the content store gives no signed URLs")]
    NoSignedUrls(#[source] ContentError),
    /// The record store failed the start-up probe.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// There is no content: a tool makes none.
    #[error("{root} holds no content: it has no readable record _format")]
    NoContent {
        /// The root.
        root: String,
    },
    /// The record that names layout and region cannot be read or written.
    #[error("the record _format of the content root cannot be used")]
    Format(#[source] ContentError),
}

/// Why a request body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Too little came for too long.
    #[error(
        "the body came too slowly: fewer than {} bytes in {} seconds",
        crate::limits::BODY_BYTES_MINIMUM,
        crate::limits::BODY_IDLE_TIMEOUT.as_secs()
    )]
    Idle,
    /// A large manifest takes memory while it comes.
    #[error(
        "a manifest of more than {} bytes has to come within {} seconds",
        crate::limits::MANIFEST_BYTES_SMALL,
        crate::limits::MANIFEST_BODY_TIMEOUT.as_secs()
    )]
    ManifestTooSlow,
    /// The client went away or broke the transfer's rules.
    #[error("the body ended before its end")]
    Aborted,
    /// Another number of bytes came than was announced.
    #[error("{announced} bytes were announced and {received} came")]
    OtherLength {
        /// What `Content-Range` announced.
        announced: u64,
        /// What came.
        received: u64,
    },
    /// The sender may not write any more: its rights or its credential were withdrawn while the body came.
    #[error("the right to write was withdrawn before the body ended")]
    NoLongerAllowed,
}

/// Why an operation on content was not done.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// A record cannot be read.
    #[error("content cannot be read now")]
    Read(#[from] ReadError),
    /// A record cannot be written, or nobody knows whether it was.
    #[error("content cannot be written now")]
    Write(#[source] WriteError),
    /// Bytes cannot be read or written.
    #[error("data cannot be read or written now")]
    Data(#[source] object_store::Error),
    /// A record is not what its key promises.
    #[error("the record {key} is damaged")]
    DamagedRecord {
        /// The key.
        key: String,
    },
    /// The bytes of a blob are missing or shorter than its record says.
    #[error("the data of {0} is damaged")]
    DamagedData(Digest),
    /// Others changed the same record again and again in between.
    #[error("the record {key} is changed by too many others at this moment")]
    Contended {
        /// The key.
        key: String,
    },
    /// The operator's tool collects alone; nothing is written until it is done.
    #[error(
        "the registry's content is being collected by its operator, which refuses every change until about {until}"
    )]
    CollectedExclusively {
        /// When the refusal ends unless the tool prolongs it.
        until: time::OffsetDateTime,
    },
    /// The task that hashed was lost; never in ordinary running.
    #[error("hashing was interrupted")]
    Interrupted,
    /// As many blobs are being read as may be.
    #[error(
        "{} downloads are under way, which is the most",
        crate::limits::DOWNLOADS_MAXIMUM
    )]
    TooManyDownloads,
    /// As many large manifests are being pushed as there is memory for.
    #[error("too many large manifests are being pushed at this moment; try again")]
    TooManyManifests,
    /// The client took nothing of the answer for too long.
    #[error("the client took nothing for {} seconds", crate::limits::READER_IDLE_TIMEOUT.as_secs())]
    ReaderIdle,
    /// The body of the request ended early.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// There is no such upload in this repository.
    #[error("upload {0} is not known to this repository")]
    UploadUnknown(Uuid),
    /// The chunk does not start where the upload ends, or another one was faster.
    #[error("the upload continues at {offset}")]
    NotAtOffset {
        /// Where the upload continues, in bytes.
        offset: u64,
    },
    /// The upload is being finished: nothing can be added and it cannot be cancelled.
    #[error("upload {0} is being finished")]
    UploadFinishing(Uuid),
    /// The upload has as many chunks as it may have.
    #[error("upload {0} has as many chunks as an upload may have")]
    TooManyChunks(Uuid),
    /// The store takes no larger object.
    #[error(
        "one request brings at most {} bytes; send the blob in several chunks",
        crate::limits::BUCKET_CHUNK_BYTES_MAXIMUM
    )]
    ChunkTooLarge,
    /// The content has another digest than was said.
    #[error("the content has digest {actual}, not {expected}")]
    DigestMismatch {
        /// The digest that was said.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// What the caller takes for granted does not hold.
    #[error("{}", of_precondition(current.as_ref()))]
    PreconditionFailed {
        /// What is there.
        current: Option<Digest>,
    },
    /// The manifest cannot be taken as it is.
    #[error(transparent)]
    Manifest(#[from] ManifestFault),
    /// The manifest refers to content that is not in this repository.
    #[error("the repository lacks {} that the manifest refers to", missing.len())]
    ReferencesMissing {
        /// All that is missing.
        missing: Vec<Digest>,
    },
    /// There is no such manifest.
    #[error("no such manifest")]
    ManifestUnknown,
    /// There is no such tag.
    #[error("no such tag {0}")]
    TagUnknown(Tag),
    /// There is no such blob.
    #[error("no such blob {0}")]
    BlobUnknown(Digest),
    /// An attribute of the repository, tag or manifest forbids this.
    #[error(
        "the operation is disallowed: {attribute} of {what} is false; whoever may write its metadata can set it to true again"
    )]
    Locked {
        /// What is locked.
        what: String,
        /// The attribute as users name it.
        attribute: &'static str,
    },
    /// More entries than are put in the order of their times for one request.
    #[error(
        "the repository has more than {} entries, which is the most that are ordered by time: list them by name",
        crate::limits::ORDERED_BY_TIME_MAXIMUM
    )]
    TooManyToOrder,
    /// The page is to begin after something that is not there, so its time is not known.
    #[error("the page cannot begin after {0}: it is not there any more")]
    NoSuchPosition(String),
    /// There is no such repository.
    #[error("no such repository")]
    RepositoryUnknown,
}

fn of_precondition(current: Option<&Digest>) -> String {
    match current {
        Some(digest) => {
            format!("If-Match or If-None-Match does not hold: what is there is {digest}")
        }
        None => "If-Match does not hold: nothing is there".to_owned(),
    }
}
