//! How much registries store, as nodes add it up.

use bytes::Bytes;
use futures_util::stream;
use registry_node::content::{BodyError, Content, OCI_INDEX};
use registry_node::names::{Reference, RepositoryName};

use crate::faulty_stores::{Disk, Fault, Faults};
use crate::harness::{REGISTRY, noise, sha256};

fn name() -> RepositoryName {
    "app".parse().expect("a name")
}

async fn put_blob(content: &Content, bytes: &[u8]) {
    let digest = sha256(bytes).parse().expect("a digest");
    let body = stream::iter([Ok::<_, BodyError>(Bytes::copy_from_slice(bytes))]);
    let name = name();
    let repository = content.repository(REGISTRY, &name);
    repository.put_blob(&digest, body).await.expect("it is put");
}

/// What the sums are that have changed.
async fn settled(content: &Content) -> Vec<u64> {
    let changed = content.settle_usage().await;
    changed.into_iter().map(|usage| usage.bytes).collect()
}

async fn stored(content: &Content) -> u64 {
    content.stored_bytes(REGISTRY).await.expect("it is read")
}

#[actix_web::test]
async fn what_several_nodes_write_is_one_sum_and_each_content_counts_once() {
    let disk = Disk::default();
    let (one, other) = (disk.open().await, disk.open().await);
    put_blob(&one, &noise(1, 1000)).await;
    put_blob(&other, &noise(2, 500)).await;
    put_blob(&other, &noise(1, 1000)).await;
    assert_eq!((stored(&one).await, stored(&other).await), (1000, 500));
    assert_eq!(settled(&one).await, [1000]);
    assert_eq!(settled(&other).await, [1500]);
    assert!(settled(&other).await.is_empty());
    assert_eq!(stored(&disk.open().await).await, 1500);
}

#[actix_web::test]
async fn manifests_count_until_they_are_deleted() {
    let content = Disk::default().open().await;
    let name = name();
    let repository = content.repository(REGISTRY, &name);
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#);
    for tag in ["v1", "v2"] {
        let tag = Reference::Tag(tag.parse().expect("a tag"));
        let bytes = Bytes::from(index.clone());
        let put = repository.put_manifest(&tag, Some(OCI_INDEX), bytes, "somebody");
        put.await.expect("it is put");
    }
    assert_eq!(stored(&content).await, index.len() as u64);
    let digest = sha256(index.as_bytes()).parse().expect("a digest");
    repository.delete_manifest(&digest).await.expect("deleted");
    assert_eq!(stored(&content).await, 0);
}

#[actix_web::test]
async fn two_who_add_at_the_same_time_add_once() {
    let content = Disk::default().open().await;
    put_blob(&content, &noise(1, 100)).await;
    let (one, other) = tokio::join!(settled(&content), settled(&content));
    assert_eq!([one, other].concat(), [100]);
    assert_eq!(stored(&content).await, 100);
}

#[actix_web::test]
async fn what_the_store_does_not_take_is_added_later() {
    let disk = Disk::default();
    let written = disk.open().await;
    put_blob(&written, &noise(1, 100)).await;
    assert_eq!(settled(&written).await, [100]);
    let calls = Faults::new(|_| Fault::None);
    let counting = disk.open_with(calls.clone()).await.expect("it opens");
    put_blob(&counting, &noise(2, 10)).await;
    let before = calls.calls();
    let failing = Faults::new(move |call| match call {
        call if call == before => Fault::Fails,
        _ => Fault::None,
    });
    let content = disk.open_with(failing).await.expect("it opens");
    put_blob(&content, &noise(3, 10)).await;
    assert!(settled(&content).await.is_empty());
    assert_eq!(settled(&content).await, [110]);
}
