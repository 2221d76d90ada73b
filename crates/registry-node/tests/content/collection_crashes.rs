//! A collection, a push or a deletion that ends at any of its calls to the stores, on a full disk, or beside a tool that collects alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use registry_node::content::{
    CollectOptions, Content, ContentError, ExclusiveError, Pace, RetentionRules, VerifyOptions,
};
use registry_node::names::{Digest, DigestAlgorithm, Reference, RepositoryName};
use service::clock;
use time::Duration;

use super::faulty_stores::{Disk, Fault, Faults};
use super::harness::{OCI_MANIFEST, REGISTRY, image_manifest, sha256};
use super::simulation::{Broken, World, finish};

fn options() -> CollectOptions {
    CollectOptions {
        pace: Pace::Full,
        retention: Some(RetentionRules {
            keep_newest: Some(0),
            ..RetentionRules::default()
        }),
        ..CollectOptions::default()
    }
}

fn body(
    bytes: &[u8],
) -> impl futures_util::Stream<Item = Result<Bytes, registry_node::content::BodyError>> + Unpin {
    futures_util::stream::iter([Ok(Bytes::copy_from_slice(bytes))])
}

fn image_of(layer: &[u8]) -> Vec<u8> {
    image_manifest(&[(&sha256(b"{}"), 2)], &[(&sha256(layer), layer.len())])
}

async fn push(content: &Content, reference: &str, layer: &[u8]) -> Result<(), ContentError> {
    let name: RepositoryName = "app".parse().expect("a name");
    let repository = content.repository(REGISTRY, &name);
    for bytes in [b"{}".as_slice(), layer] {
        let digest: Digest = sha256(bytes).parse().expect("a digest");
        if repository.promised_blob(&digest).await?.is_none() {
            repository.put_blob(&digest, body(bytes)).await?;
        }
    }
    let reference: Reference = reference.parse().expect("a reference");
    let bytes = Bytes::from(image_of(layer));
    repository
        .put_manifest(&reference, Some(OCI_MANIFEST), bytes, "somebody")
        .await
        .map(drop)
}

/// A tagged image; and of everything that collection takes one: an untagged manifest, a deletion that was begun, an unused blob, an idle
/// upload, an orphaned object.
async fn fill(content: &Content) {
    push(content, "v1", b"tagged").await.expect("pushed");
    let untagged = sha256(&image_of(b"untagged"));
    push(content, &untagged, b"untagged").await.expect("pushed");
    let name: RepositoryName = "app".parse().expect("a name");
    let repository = content.repository(REGISTRY, &name);
    let unused: Digest = sha256(b"unused").parse().expect("a digest");
    let put = repository.put_blob(&unused, body(b"unused")).await;
    put.expect("pushed");
    let upload = repository
        .start_upload(DigestAlgorithm::Sha256, "somebody")
        .await
        .expect("started");
    repository
        .append_to_upload(upload.id, Some(0), body(b"a part"))
        .await
        .expect("appended");
}

/// Everything of the tagged image, and nothing wrong.
fn is_whole(content: &Content) {
    let mut faults = Vec::new();
    let options = VerifyOptions {
        with_digests: true,
        ..VerifyOptions::default()
    };
    let verified = finish(content.verify(REGISTRY, &options, |fault| faults.push(fault)));
    let verified = verified.expect("verified");
    assert_eq!(faults, []);
    assert_eq!(verified.tags, 1);
    assert!(verified.manifests >= 1 && verified.blobs >= 2);
}

fn filled() -> (Arc<World>, Content) {
    let world = World::new(1);
    let content = world.open(Broken::Nothing);
    finish(fill(&content));
    world.advance(Duration::days(9));
    (world, content)
}

#[test]
fn a_collection_that_dies_anywhere_loses_nothing_and_the_next_one_ends_it() {
    let (world, content) = filled();
    let whole = finish(content.collect(REGISTRY, &options())).expect("collected");
    assert!(whole.removed.manifests == 1 && whole.removed.uploads == 1);
    let left = (world.keys("r/").len(), world.objects().len());
    let mut call = 0;
    loop {
        let (world, content) = filled();
        let options = options();
        let mut pass = Box::pin(content.collect(REGISTRY, &options));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        world.grant(call);
        // Without turns nothing goes on; a step more than there are calls changes nothing.
        let polls = 3 * call + 3;
        let ended = (0..polls).any(|_| pass.as_mut().poll(&mut context).is_ready());
        drop(pass);
        world.grant_all();
        is_whole(&content);
        finish(content.collect(REGISTRY, &options)).expect("collected");
        is_whole(&content);
        assert_eq!(
            (world.keys("r/").len(), world.objects().len()),
            left,
            "call {call}"
        );
        if ended {
            break;
        }
        call += 1;
    }
    assert!(call > 40, "{call}");
}

#[tokio::test]
async fn a_collection_whose_store_fails_anywhere_loses_nothing() {
    let sources = {
        let start = (clock::of_the_system())();
        move |days| registry_node::content::Sources {
            now: Arc::new(move || start + Duration::days(days)),
            random_id: Arc::new(uuid::Uuid::new_v4),
        }
    };
    let open = async |disk: &Disk, faults| {
        let opened = disk.open_with_sources(faults, sources(9)).await;
        opened.expect("it opens")
    };
    for fault in [Fault::Fails, Fault::TimesOut, Fault::TimesOutAfterwards] {
        let mut call = 0;
        loop {
            let disk = Disk::default();
            let no_faults = Faults::new(|_| Fault::None);
            let filled = disk.open_with_sources(no_faults, sources(0)).await;
            fill(&filled.expect("it opens")).await;
            let faults = Faults::new(move |number| match number == call {
                true => fault,
                false => Fault::None,
            });
            let content = open(&disk, Arc::clone(&faults)).await;
            // It may end with an error; the next one does not.
            let _ = content.collect(REGISTRY, &options()).await;
            let content = open(&disk, Faults::new(|_| Fault::None)).await;
            content
                .collect(REGISTRY, &options())
                .await
                .expect("collected");
            is_whole(&content);
            if call >= faults.calls() {
                break;
            }
            call += 1;
        }
    }
}

#[test]
fn on_a_full_disk_nothing_is_lost_and_collection_makes_room() {
    let (world, content) = filled();
    world.is_full.store(true, Ordering::SeqCst);
    finish(push(&content, "v2", b"no room for this")).expect_err("the disk is full");
    is_whole(&content);
    let before = world.objects().len();
    let options = CollectOptions {
        retention: None,
        ..options()
    };
    let holder = uuid::Uuid::from_u128(1);
    let report = finish(content.collect_if_due(REGISTRY, holder, &options));
    let report = report.expect("collected").expect("it was due");
    assert!(report.removed.objects >= 1 && world.objects().len() < before);
    is_whole(&content);
    world.is_full.store(false, Ordering::SeqCst);
    finish(push(&content, "v1", b"there is room again")).expect("pushed");
    is_whole(&content);
}

#[test]
fn a_link_whose_blob_lost_its_record_keeps_its_bytes() {
    let (world, content) = filled();
    let digest = sha256(b"tagged");
    let hex = digest.trim_start_matches("sha256:");
    world.lose(&format!("r/{REGISTRY}/blob/sha256/{}/{hex}", &hex[..2]));
    finish(content.collect(REGISTRY, &options())).expect("collected");
    is_whole(&content);
}

#[tokio::test(start_paused = true)]
async fn while_a_tool_collects_alone_every_change_is_refused_and_then_taken_again() {
    let disk = Disk::default();
    let node = disk.open().await;
    let tool = disk.open().await;
    push(&node, "v1", b"layer").await.expect("pushed");
    let mut exclusive = tool.collect_alone().await.expect("nobody else");
    let refused = push(&node, "v2", b"layer").await;
    assert!(matches!(
        refused,
        Err(ContentError::CollectedExclusively { .. })
    ));
    assert!(matches!(
        disk.open().await.collect_alone().await,
        Err(ExclusiveError::Held { .. })
    ));
    // Reads go on.
    is_whole(&node);
    let content = exclusive.content().clone();
    let options = options();
    let work = async {
        let collected = content.collect(REGISTRY, &options).await;
        Ok::<_, ExclusiveError>(collected?)
    };
    exclusive.run(work).await.expect("collected");
    exclusive.end().await.expect("ended");
    push(&node, "v2", b"layer").await.expect("pushed");
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_died_refuses_nothing_for_good() {
    let world = World::new(1);
    let node = world.open(Broken::Nothing);
    let tool = world.open(Broken::Nothing);
    let exclusive = tool.collect_alone().await.expect("nobody else");
    drop(exclusive);
    world.advance(Duration::minutes(4));
    push(&node, "v1", b"layer").await.expect_err("it may live");
    world.advance(Duration::minutes(3));
    push(&node, "v1", b"layer").await.expect("pushed");
    let other = world.open(Broken::Nothing);
    other.collect_alone().await.expect("the other one is dead");
}

#[tokio::test(start_paused = true)]
async fn a_push_that_was_admitted_before_is_refused_before_anything_is_collected() {
    let disk = Disk::default();
    let node = disk.open().await;
    let tool = disk.open().await;
    push(&node, "v1", b"layer").await.expect("pushed");
    let collecting = tokio::spawn(async move { tool.collect_alone().await.map(drop) });
    // The node was admitted a moment ago: it may write until its admission ends, and the tool waits for longer than that.
    tokio::task::yield_now().await;
    let mut refused_after = None;
    let began = tokio::time::Instant::now();
    for number in 0..120 {
        if push(&node, &format!("t{number}"), b"layer").await.is_err() {
            refused_after = Some(began.elapsed());
            break;
        }
        assert!(!collecting.is_finished());
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
    }
    let refused_after = refused_after.expect("refused at some time");
    assert!(!collecting.is_finished());
    assert!(refused_after < registry_node::limits::EXCLUSIVE_WAIT);
    collecting.await.expect("no panic").expect("alone");
}
