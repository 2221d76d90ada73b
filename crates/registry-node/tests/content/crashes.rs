//! A push or a deletion that dies at any of its calls to the stores: what was acknowledged is there, nothing is half visible, and
//! the next push needs no repair.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use registry_node::content::{BodyError, Content, ContentError};
use registry_node::names::{Digest, DigestAlgorithm, Reference, RepositoryName};

use super::faulty_stores::{Disk, Fault, Faults};
use super::harness::{OCI_MANIFEST, REGISTRY, image_manifest, sha256};

const CONFIG: &[u8] = b"{}";
const LAYER: &[u8] = b"a layer in two chunks";

fn name() -> RepositoryName {
    "team/app".parse().expect("a name")
}

fn reference(text: &str) -> Reference {
    text.parse().expect("a reference")
}

fn digest(bytes: &[u8]) -> Digest {
    sha256(bytes).parse().expect("a digest")
}

fn body(bytes: &[u8]) -> impl futures_util::Stream<Item = Result<Bytes, BodyError>> + Unpin {
    stream::iter([Ok(Bytes::copy_from_slice(bytes))])
}

fn manifest() -> Vec<u8> {
    image_manifest(
        &[(&sha256(CONFIG), CONFIG.len())],
        &[(&sha256(LAYER), LAYER.len())],
    )
}

/// Pushes an image as docker does, with a layer in two chunks.
pub(crate) async fn push(content: &Content) -> Result<(), ContentError> {
    let name = name();
    let repository = content.repository(REGISTRY, &name);
    repository.put_blob(&digest(CONFIG), body(CONFIG)).await?;
    let upload = repository
        .start_upload(DigestAlgorithm::Sha256, "somebody")
        .await?;
    let (first, second) = LAYER.split_at(7);
    repository
        .append_to_upload(upload.id, Some(0), body(first))
        .await?;
    repository
        .finish_upload(upload.id, &digest(LAYER), Some(7), body(second))
        .await?;
    let bytes = Bytes::from(manifest());
    repository
        .put_manifest(&reference("v1"), Some(OCI_MANIFEST), bytes, "somebody")
        .await?;
    Ok(())
}

/// Whether the image is there; if any of it can be seen by its manifest, all of it must be.
pub(crate) async fn is_there(content: &Content) -> bool {
    let name = name();
    let repository = content.repository(REGISTRY, &name);
    let by_tag = repository.manifest(&reference("v1")).await.expect("read");
    let by_digest = repository
        .manifest(&Reference::Digest(digest(&manifest())))
        .await
        .expect("read");
    let tags = match repository.tags(None, 10).await {
        Ok(page) => page.entries.len(),
        Err(ContentError::RepositoryUnknown) => 0,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(tags, usize::from(by_tag.is_some()));
    if by_tag.is_some() {
        assert!(by_digest.is_some());
    }
    for found in by_tag.iter().chain(&by_digest) {
        assert_eq!(found.bytes, manifest());
        for bytes in [CONFIG, LAYER] {
            let blob = repository.blob(&digest(bytes)).await.expect("read");
            let blob = blob.expect("what a manifest refers to is there");
            let read = repository
                .read_blob(&blob, 0..blob.size())
                .await
                .expect("read");
            let read: Vec<Bytes> = read.boxed().try_collect().await.expect("read");
            assert_eq!(read.concat(), bytes);
        }
    }
    by_tag.is_some()
}

/// From the given call on, nothing answers any more.
fn dies_at(call: usize, last: Fault) -> impl Fn(usize) -> Fault + Send + Sync {
    move |number| match number {
        number if number < call => Fault::None,
        number if number == call => last,
        _ => Fault::Fails,
    }
}

async fn calls_of_a_push() -> usize {
    let faults = Faults::new(|_| Fault::None);
    let disk = Disk::default();
    let content = disk.open_with(faults.clone()).await.expect("it opens");
    push(&content).await.expect("pushed");
    faults.calls()
}

#[tokio::test]
async fn a_push_that_dies_anywhere_is_there_or_not() {
    let calls = calls_of_a_push().await;
    assert!(calls > 20);
    for call in 0..calls {
        for last in [Fault::Fails, Fault::TimesOutAfterwards] {
            let disk = Disk::default();
            let dying = disk.open_with(Faults::new(dies_at(call, last))).await;
            let acknowledged = push(&dying.expect("it opens")).await.is_ok();
            let content = disk.open().await;
            assert!(is_there(&content).await || !acknowledged, "call {call}");
            push(&content).await.expect("pushed again");
            assert!(is_there(&content).await, "call {call}");
        }
    }
}

#[tokio::test]
async fn a_push_survives_a_record_whose_outcome_is_not_known() {
    let calls = calls_of_a_push().await;
    for call in 0..calls {
        for fault in [Fault::TimesOut, Fault::TimesOutAfterwards] {
            let disk = Disk::default();
            let plan = move |number| if number == call { fault } else { Fault::None };
            let content = disk.open_with(Faults::new(plan)).await.expect("it opens");
            let result = push(&content).await;
            // Reads and data do fail at once; they are the client's to try again.
            if let Err(error) = &result {
                let is_plain = matches!(error, ContentError::Read(_) | ContentError::Data(_));
                assert!(is_plain, "call {call}: {error}");
            }
            assert!(
                is_there(&disk.open().await).await || result.is_err(),
                "call {call}"
            );
        }
    }
}

#[tokio::test]
async fn a_deletion_that_dies_anywhere_happened_or_not() {
    let faults = Faults::new(|_| Fault::None);
    let disk = Disk::default();
    push(&disk.open().await).await.expect("pushed");
    let content = disk.open_with(faults.clone()).await.expect("it opens");
    let name = name();
    let target = digest(&manifest());
    let deleted = content
        .repository(REGISTRY, &name)
        .delete_manifest(&target)
        .await;
    deleted.expect("deleted");
    assert!(!is_there(&content).await);

    for call in 0..faults.calls() {
        for last in [Fault::Fails, Fault::TimesOutAfterwards] {
            let disk = Disk::default();
            push(&disk.open().await).await.expect("pushed");
            let dying = disk.open_with(Faults::new(dies_at(call, last))).await;
            let dying = dying.expect("it opens");
            let repository = dying.repository(REGISTRY, &name);
            let acknowledged = repository.delete_manifest(&target).await.is_ok();

            let content = disk.open().await;
            assert!(!is_there(&content).await || !acknowledged, "call {call}");
            // A push under another tag finishes the deletion and does not bring the old tag back.
            let repository = content.repository(REGISTRY, &name);
            let was_there = is_there(&content).await;
            let bytes = Bytes::from(manifest());
            repository
                .put_manifest(&reference("v2"), Some(OCI_MANIFEST), bytes, "somebody")
                .await
                .expect("pushed again");
            let tags = repository.tags(None, 10).await.expect("listed").entries;
            assert_eq!(tags.len(), 1 + usize::from(was_there), "call {call}");
        }
    }
}
