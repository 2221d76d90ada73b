//! What clients do in the world, and what can be seen of it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use registry_node::content::{BodyError, Content, ContentError};
use registry_node::names::{Digest, DigestAlgorithm, Reference, RepositoryName};

use super::model::State;
use super::random::Random;
use super::scheduler::finish;
use crate::harness::{OCI_INDEX, OCI_MANIFEST, REGISTRY, image_manifest, sha256};

pub(super) const REPOSITORIES: [&str; 2] = ["app", "team/app"];
pub(super) const TAGS: [&str; 3] = ["a", "b", "c"];
/// Which blobs each image has.
const IMAGES: [&[usize]; 3] = [&[0, 1], &[1, 2], &[0, 2]];
/// The manifests: the images, then an index of the first two of them.
pub(super) const INDEX: usize = IMAGES.len();
pub(super) const MANIFESTS: usize = IMAGES.len() + 1;

/// One thing that a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Pushes an image as docker does: what the registry has already is not sent.
    Push {
        image: usize,
        tag: usize,
    },
    /// Only makes sure that the image's blobs are there.
    Promise {
        image: usize,
    },
    /// Pushes the manifest of an image whose blobs were promised before.
    PushPromised {
        image: usize,
        tag: usize,
    },
    PushIndex {
        tag: usize,
    },
    DeleteManifest {
        manifest: usize,
    },
    DeleteTag {
        tag: usize,
    },
}

/// What the client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Done,
    /// There is no such thing.
    Unknown,
    /// What the manifest refers to is not there.
    ReferencesMissing,
    /// The store failed: it happened or not.
    Failed,
}

pub(super) fn blob_bytes(blob: usize) -> Vec<u8> {
    format!("the bytes of blob number {blob}").into_bytes()
}

fn digest(bytes: &[u8]) -> Digest {
    sha256(bytes).parse().expect("a digest")
}

pub(super) fn manifest_bytes(manifest: usize) -> Vec<u8> {
    if manifest == INDEX {
        let children: Vec<serde_json::Value> = (0..2)
            .map(|image| {
                let bytes = manifest_bytes(image);
                let (digest, size) = (sha256(&bytes), bytes.len());
                serde_json::json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": size})
            })
            .collect();
        let index =
            serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children});
        return index.to_string().into_bytes();
    }
    let blobs: Vec<(String, usize)> = IMAGES[manifest]
        .iter()
        .map(|blob| blob_bytes(*blob))
        .map(|bytes| (sha256(&bytes), bytes.len()))
        .collect();
    let of = |index: usize| (blobs[index].0.as_str(), blobs[index].1);
    image_manifest(&[of(0)], &[of(1)])
}

fn manifest_digest(manifest: usize) -> Digest {
    digest(&manifest_bytes(manifest))
}

/// The blobs of an image.
pub(super) fn blobs_of(image: usize) -> impl Iterator<Item = usize> {
    IMAGES[image].iter().copied()
}

fn tag_reference(tag: usize) -> Reference {
    TAGS[tag].parse().expect("a tag")
}

pub(super) fn name(repository: usize) -> RepositoryName {
    REPOSITORIES[repository].parse().expect("a name")
}

/// Does it, on one node. `seed` decides how blobs are sent.
pub(super) async fn perform(
    content: Content,
    repository: usize,
    action: Action,
    seed: u64,
) -> Told {
    let done = match action {
        Action::Push { image, tag } => {
            let promised = promise(&content, repository, image, seed).await;
            match promised {
                Ok(()) => put(&content, repository, image, tag).await,
                Err(error) => Err(error),
            }
        }
        Action::Promise { image } => promise(&content, repository, image, seed).await,
        Action::PushPromised { image, tag } => put(&content, repository, image, tag).await,
        Action::PushIndex { tag } => put(&content, repository, INDEX, tag).await,
        Action::DeleteManifest { manifest } => {
            let name = name(repository);
            let repository = content.repository(REGISTRY, &name);
            repository.delete_manifest(&manifest_digest(manifest)).await
        }
        Action::DeleteTag { tag } => {
            let name = name(repository);
            let tag = TAGS[tag].parse().expect("a tag");
            content.repository(REGISTRY, &name).delete_tag(&tag).await
        }
    };
    match done {
        Ok(()) => Told::Done,
        Err(ContentError::ManifestUnknown | ContentError::TagUnknown(_)) => Told::Unknown,
        Err(ContentError::ReferencesMissing { .. }) => Told::ReferencesMissing,
        Err(ContentError::Read(_) | ContentError::Write(_) | ContentError::Data(_)) => Told::Failed,
        Err(ContentError::NotAtOffset { .. } | ContentError::UploadUnknown(_)) => Told::Failed,
        Err(error) => panic!("{action:?}: {error}"),
    }
}

async fn put(
    content: &Content,
    repository: usize,
    manifest: usize,
    tag: usize,
) -> Result<(), ContentError> {
    let name = name(repository);
    let media_type = if manifest == INDEX {
        OCI_INDEX
    } else {
        OCI_MANIFEST
    };
    let bytes = Bytes::from(manifest_bytes(manifest));
    content
        .repository(REGISTRY, &name)
        .put_manifest(&tag_reference(tag), Some(media_type), bytes, "somebody")
        .await
        .map(drop)
}

fn body(bytes: &[u8]) -> impl futures_util::Stream<Item = Result<Bytes, BodyError>> + Unpin {
    stream::iter([Ok(Bytes::copy_from_slice(bytes))])
}

/// Makes sure that the blobs of an image are there.
async fn promise(
    content: &Content,
    repository: usize,
    image: usize,
    seed: u64,
) -> Result<(), ContentError> {
    let mut random = Random::new(seed);
    let own = name(repository);
    let other = name(1 - repository);
    let repository = content.repository(REGISTRY, &own);
    for blob in IMAGES[image] {
        let bytes = blob_bytes(*blob);
        let digest = digest(&bytes);
        if repository.promised_blob(&digest).await?.is_some() {
            continue;
        }
        match random.below(3) {
            0 if repository.mount_blob(&digest, &other).await? => {}
            1 => {
                let upload = repository
                    .start_upload(DigestAlgorithm::Sha256, "somebody")
                    .await?;
                let (first, second) = bytes.split_at(5);
                repository
                    .append_to_upload(upload.id, Some(0), body(first))
                    .await?;
                repository
                    .finish_upload(upload.id, &digest, Some(5), body(second))
                    .await?;
            }
            _ => {
                repository.put_blob(&digest, body(&bytes)).await?;
            }
        }
    }
    Ok(())
}

/// What can be seen of a repository; and that all of what is seen is there in full.
///
/// # Errors
/// What is seen and not there.
pub(super) fn look(content: &Content, repository: usize) -> Result<State, String> {
    finish(look_at(content, repository))
}

async fn look_at(content: &Content, index: usize) -> Result<State, String> {
    let name = name(index);
    let repository = content.repository(REGISTRY, &name);
    let mut manifests = BTreeSet::new();
    for manifest in 0..MANIFESTS {
        let reference = Reference::Digest(manifest_digest(manifest));
        let found = repository.manifest(&reference).await.expect("read");
        let Some(found) = found else { continue };
        if found.bytes != manifest_bytes(manifest) {
            return Err(format!("manifest {manifest} has other bytes"));
        }
        manifests.insert(manifest);
        for blob in IMAGES.get(manifest).copied().unwrap_or_default() {
            check_blob(content, index, *blob)
                .await
                .map_err(|fault| format!("{}: manifest {manifest}: {fault}", name.as_str()))?;
        }
    }
    let mut tags = BTreeMap::new();
    let listed = match repository.tags(None, 100).await {
        Ok(page) => page.entries,
        Err(ContentError::RepositoryUnknown) => Vec::new(),
        Err(error) => panic!("{error}"),
    };
    for (tag, text) in TAGS.iter().enumerate() {
        let found = repository
            .manifest(&tag_reference(tag))
            .await
            .expect("read");
        let is_listed = listed.iter().any(|listed| listed.as_str() == *text);
        if is_listed != found.is_some() {
            return Err(format!("tag {text} is listed or read, not both"));
        }
        if let Some(found) = found {
            let manifest = (0..MANIFESTS).find(|one| manifest_digest(*one) == found.digest);
            tags.insert(tag, manifest.expect("a manifest of this world"));
        }
    }
    Ok(State { manifests, tags })
}

async fn check_blob(content: &Content, repository: usize, blob: usize) -> Result<(), String> {
    let name = name(repository);
    let repository = content.repository(REGISTRY, &name);
    let bytes = blob_bytes(blob);
    let found = repository.blob(&digest(&bytes)).await.expect("read");
    let found = found.ok_or_else(|| format!("blob {blob} is missing"))?;
    let read = async {
        let read = repository.read_blob(&found, 0..found.size()).await?;
        let read: Vec<Bytes> = read.boxed().try_collect().await?;
        Ok::<_, ContentError>(read.concat())
    };
    match read.await {
        Ok(read) if read == bytes => Ok(()),
        Ok(_) => Err(format!("blob {blob} has other bytes")),
        Err(error) => Err(format!("blob {blob} cannot be read: {error}")),
    }
}
