//! Callers that overtake each other in every order that a generator finds.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use proptest::prelude::*;
use registry_node::content::{Content, ContentError, Sources};
use registry_node::names::{Digest, Reference, RepositoryName};
use service::clock;
use time::Duration;
use uuid::Uuid;

use super::faulty_stores::{Disk, Fault, Faults};
use super::harness::{OCI_INDEX, REGISTRY, noise, sha256};
use super::stores::{self, StoreKind, TestStore};

fn name() -> RepositoryName {
    "app".parse().expect("a name")
}

fn manifest(number: usize) -> Vec<u8> {
    format!("{{\"schemaVersion\":2,\"manifests\":[],\"annotations\":{{\"n\":\"{number}\"}}}}")
        .into_bytes()
}

fn digest_of(number: usize) -> Digest {
    sha256(&manifest(number)).parse().expect("a digest")
}

async fn put(content: &Content, number: usize, tag: &str) -> Result<(), ContentError> {
    let name = name();
    let reference: Reference = tag.parse().expect("a tag");
    let bytes = Bytes::from(manifest(number));
    content
        .repository(REGISTRY, &name)
        .put_manifest(&reference, Some(OCI_INDEX), bytes, "somebody")
        .await
        .map(drop)
}

async fn delete(content: &Content, number: usize) -> Result<(), ContentError> {
    let name = name();
    let deleted = content
        .repository(REGISTRY, &name)
        .delete_manifest(&digest_of(number))
        .await;
    match deleted {
        Err(ContentError::ManifestUnknown) => Ok(()),
        other => other,
    }
}

/// Tags that are listed, each with the manifest that it leads to.
async fn tags(content: &Content) -> Vec<(String, Digest)> {
    let name = name();
    let repository = content.repository(REGISTRY, &name);
    let mut found = Vec::new();
    for tag in repository.tags(None, 100).await.expect("listed").entries {
        let reference = Reference::Tag(tag.clone());
        let manifest = repository.manifest(&reference).await.expect("read");
        let manifest = manifest.expect("what is listed is there");
        found.push((tag.as_str().to_owned(), manifest.digest));
    }
    found
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn pushes_and_deletions_of_one_manifest_leave_one_story(
        waits in proptest::collection::vec(0_usize..12, 40),
        others in proptest::collection::vec(any::<bool>(), 1..4),
    ) {
        block_on(async {
            let disk = Disk::default();
            put(&disk.open().await, 0, "old").await.expect("pushed");
            let faults = Faults::new(move |call| Fault::Waits(waits[call % waits.len()]));
            let content = disk.open_with(faults).await.expect("it opens");
            let racing = others.iter().enumerate().map(|(index, is_push)| {
                let content = content.clone();
                async move {
                    if *is_push {
                        put(&content, 0, &format!("t{index}")).await
                    } else {
                        delete(&content, 0).await
                    }
                }
            });
            for outcome in join_all(racing).await {
                outcome.expect("done");
            }
            let content = disk.open().await;
            tags(&content).await;
            // Whatever happened, a deletion now takes all tags, and none comes back.
            delete(&content, 0).await.expect("deleted");
            prop_assert_eq!(tags(&content).await, vec![]);
            put(&content, 0, "new").await.expect("pushed");
            prop_assert_eq!(tags(&content).await, vec![("new".to_owned(), digest_of(0))]);
            Ok(())
        })?;
    }

    #[test]
    fn a_push_during_a_deletion_brings_no_other_tag_back(
        waits in proptest::collection::vec(0_usize..12, 40),
    ) {
        block_on(async {
            let disk = Disk::default();
            put(&disk.open().await, 0, "old").await.expect("pushed");
            let faults = Faults::new(move |call| Fault::Waits(waits[call % waits.len()]));
            let content = disk.open_with(faults).await.expect("it opens");
            let (deleted, pushed) = tokio::join!(delete(&content, 0), put(&content, 0, "one"));
            deleted.expect("deleted");
            pushed.expect("pushed");
            let found = tags(&content).await;
            let alone = vec![("one".to_owned(), digest_of(0))];
            prop_assert!(found.is_empty() || found == alone, "{found:?}");
            Ok(())
        })?;
    }
}

/// Two nodes on one store, for each kind that processes can share.
async fn of_two_nodes(test: impl AsyncFn(&TestStore, [Content; 2])) {
    for kind in [StoreKind::Disk, StoreKind::S3, StoreKind::Azure] {
        let (store, first) = stores::open(kind).await;
        let second = store.open().await;
        test(&store, [first, second]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_pushes_of_a_tag_end_in_one_of_them() {
    of_two_nodes(async |_, nodes| {
        let pushes = (0..24).map(|number| {
            let content = nodes[number % 2].clone();
            tokio::spawn(async move { put(&content, number, "latest").await })
        });
        for outcome in join_all(pushes).await {
            outcome.expect("no panic").expect("pushed");
        }
        let found: Vec<_> = [tags(&nodes[0]).await, tags(&nodes[1]).await].concat();
        assert_eq!(found[0], found[1]);
        assert!((0..24).any(|number| found[0].1 == digest_of(number)));
        // Those that lost are untagged manifests, not lost ones.
        let name = name();
        let repository = nodes[0].repository(REGISTRY, &name);
        for number in 0..24 {
            let reference = Reference::Digest(digest_of(number));
            let manifest = repository.manifest(&reference).await.expect("read");
            assert!(manifest.is_some(), "{number}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_pushes_of_a_blob_keep_its_bytes_once() {
    let bytes = Bytes::from(noise(1, 200_000));
    let digest: Digest = sha256(&bytes).parse().expect("a digest");
    of_two_nodes(async |store, nodes| {
        let pushes = (0..12).map(|number| {
            let content = nodes[number % 2].clone();
            let (bytes, digest) = (bytes.clone(), digest.clone());
            tokio::spawn(async move {
                let name: RepositoryName = format!("app{}", number % 3).parse().expect("a name");
                let body = futures_util::stream::iter([Ok(bytes)]);
                content
                    .repository(REGISTRY, &name)
                    .put_blob(&digest, body)
                    .await
            })
        });
        for outcome in join_all(pushes).await {
            outcome.expect("no panic").expect("pushed");
        }
        for number in 0..3 {
            let name: RepositoryName = format!("app{number}").parse().expect("a name");
            let repository = nodes[number % 2].repository(REGISTRY, &name);
            let blob = repository.blob(&digest).await.expect("read");
            let blob = blob.expect("pushed");
            let read = repository.read_blob(&blob, 0..blob.size()).await;
            let read = read.expect("read").try_collect::<Vec<Bytes>>();
            let read = read.await.expect("read");
            assert!(read.concat() == bytes, "{number}");
        }
        assert_eq!(store.data_objects().await, 1);
    })
    .await;
}

/// A clock that tests move, and ids that the system makes.
fn movable_clock() -> (Arc<AtomicI64>, Sources) {
    let hours = Arc::new(AtomicI64::new(0));
    let start = (clock::of_the_system())();
    let read = Arc::clone(&hours);
    let sources = Sources {
        now: Arc::new(move || start + Duration::hours(read.load(Ordering::SeqCst))),
        random_id: Arc::new(Uuid::new_v4),
    };
    (hours, sources)
}

#[tokio::test]
async fn a_promise_touches_what_was_not_touched_lately() {
    let disk = Disk::default();
    let (hours, sources) = movable_clock();
    let faults = Faults::new(|_| Fault::None);
    let content = disk
        .open_with_sources(faults, sources)
        .await
        .expect("it opens");
    let name = name();
    let repository = content.repository(REGISTRY, &name);
    let digest: Digest = sha256(b"abc").parse().expect("a digest");
    let body = futures_util::stream::iter([Ok(Bytes::from_static(b"abc"))]);
    repository.put_blob(&digest, body).await.expect("pushed");
    let link = format!("r/{REGISTRY}/n/app!/b/sha256-{}", digest.hex());

    let fresh = disk.record(&link);
    repository
        .promised_blob(&digest)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(disk.record(&link), fresh);
    hours.store(1, Ordering::SeqCst);
    repository
        .blob(&digest)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(disk.record(&link), fresh);
    repository
        .promised_blob(&digest)
        .await
        .expect("read")
        .expect("there");
    assert_ne!(disk.record(&link), fresh);

    let touched = disk.record(&link);
    hours.store(2, Ordering::SeqCst);
    let manifest = super::harness::image_manifest(&[(digest.as_str(), 3)], &[]);
    let reference: Reference = "v1".parse().expect("a tag");
    let media_type = Some(super::harness::OCI_MANIFEST);
    repository
        .put_manifest(&reference, media_type, Bytes::from(manifest), "somebody")
        .await
        .expect("pushed");
    assert_ne!(disk.record(&link), touched);
}
