//! What collection takes and what it leaves, what it counts, what `verify` finds; on a real directory and in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use registry_node::content::{
    CollectOptions, CollectionReport, Content, Fault, FaultKind, OpenOptions, Pace, Progress,
    RetentionRules, Sources, VerifyOptions,
};
use registry_node::names::{Digest, DigestAlgorithm, Reference, RepositoryName, Tag};
use service::clock;
use tempfile::TempDir;
use time::Duration;
use uuid::Uuid;

use super::harness::{OCI_INDEX, OCI_MANIFEST, REGISTRY, files_below, image_manifest, sha256};
use super::stores::{StoreKind, TestStore};

/// Content, in a directory if nothing else is said, with a clock that the test moves.
struct Place {
    directory: TempDir,
    content: Content,
    hours: Arc<AtomicI64>,
}

impl Place {
    async fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let (hours, sources) = movable_clock();
        let options = OpenOptions {
            region: "westus".to_owned(),
            single_node: false,
        };
        let content = Content::open(directory.path(), options, sources)
            .await
            .expect("a fresh directory opens");
        Self {
            directory,
            content,
            hours,
        }
    }

    async fn on(store: &TestStore) -> Self {
        let (hours, sources) = movable_clock();
        Self {
            directory: TempDir::new().expect("a directory"),
            content: store.open_with_sources(sources).await,
            hours,
        }
    }

    fn pass_hours(&self, hours: i64) {
        self.hours.fetch_add(hours, Ordering::SeqCst);
    }

    async fn collect(&self) -> CollectionReport {
        self.collect_with(&options()).await
    }

    async fn collect_with(&self, options: &CollectOptions) -> CollectionReport {
        let collected = self.content.collect(REGISTRY, options).await;
        collected.expect("collected")
    }

    async fn blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest: Digest = sha256(bytes).parse().expect("a digest");
        let name = name(repository);
        let body = futures_util::stream::iter([Ok(Bytes::copy_from_slice(bytes))]);
        let pushed = self
            .content
            .repository(REGISTRY, &name)
            .put_blob(&digest, body)
            .await;
        pushed.expect("pushed");
        digest
    }

    async fn manifest(&self, repository: &str, reference: &str, bytes: &[u8]) -> Digest {
        let media_type = match bytes.windows(11).any(|part| part == b"\"manifests\"") {
            true => OCI_INDEX,
            false => OCI_MANIFEST,
        };
        let name = name(repository);
        let reference: Reference = reference.parse().expect("a reference");
        let bytes = Bytes::copy_from_slice(bytes);
        let put = self
            .content
            .repository(REGISTRY, &name)
            .put_manifest(&reference, Some(media_type), bytes, "somebody")
            .await;
        put.expect("pushed").digest
    }

    async fn image(&self, repository: &str, tag: &str, layer: &[u8]) -> Digest {
        self.blob(repository, b"{}").await;
        self.blob(repository, layer).await;
        self.manifest(repository, tag, &image_of(layer)).await
    }

    /// The same without a tag.
    async fn untagged(&self, repository: &str, layer: &[u8]) -> Digest {
        self.image(repository, &sha256(&image_of(layer)), layer)
            .await
    }

    async fn has_blob(&self, repository: &str, digest: &Digest) -> bool {
        let name = name(repository);
        let found = self.content.repository(REGISTRY, &name).blob(digest).await;
        found.expect("read").is_some()
    }

    async fn has_manifest(&self, repository: &str, digest: &Digest) -> bool {
        let name = name(repository);
        let reference = Reference::Digest(digest.clone());
        let repository = self.content.repository(REGISTRY, &name);
        repository
            .manifest(&reference)
            .await
            .expect("read")
            .is_some()
    }

    fn objects(&self) -> usize {
        let data = self.directory.path().join(format!("r/{REGISTRY}/data"));
        files_below(&data).len()
    }

    fn path(&self, key: &str) -> std::path::PathBuf {
        self.directory.path().join(format!("r/{REGISTRY}/{key}"))
    }

    async fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let options = VerifyOptions {
            with_digests: true,
            ..VerifyOptions::default()
        };
        let verified = self
            .content
            .verify(REGISTRY, &options, |fault| faults.push(fault))
            .await;
        assert_eq!(verified.expect("verified").faults, faults.len() as u64);
        faults
    }
}

fn movable_clock() -> (Arc<AtomicI64>, Sources) {
    let hours = Arc::new(AtomicI64::new(0));
    let (read, start) = (Arc::clone(&hours), (clock::of_the_system())());
    let sources = Sources {
        now: Arc::new(move || start + Duration::hours(read.load(Ordering::SeqCst))),
        random_id: Arc::new(Uuid::new_v4),
    };
    (hours, sources)
}

fn options() -> CollectOptions {
    CollectOptions {
        pace: Pace::Full,
        ..CollectOptions::default()
    }
}

fn retaining(rules: RetentionRules) -> CollectOptions {
    CollectOptions {
        retention: Some(rules),
        ..options()
    }
}

fn name(text: &str) -> RepositoryName {
    text.parse().expect("a name")
}

fn image_of(layer: &[u8]) -> Vec<u8> {
    image_manifest(&[(&sha256(b"{}"), 2)], &[(&sha256(layer), layer.len())])
}

fn index_of(children: &[&Digest]) -> Vec<u8> {
    let manifests: Vec<serde_json::Value> = children
        .iter()
        .map(|child| serde_json::json!({"digest": child.as_str(), "size": 1, "mediaType": OCI_MANIFEST}))
        .collect();
    let index =
        serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    index.to_string().into_bytes()
}

/// A manifest that is about another one.
fn referrer_of(subject: &Digest, note: &str) -> Vec<u8> {
    let descriptor =
        serde_json::json!({"digest": subject.as_str(), "size": 1, "mediaType": OCI_MANIFEST});
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "subject": descriptor,
        "annotations": {"note": note},
    });
    index.to_string().into_bytes()
}

#[tokio::test]
async fn a_blob_without_manifest_goes_after_the_grace_period() {
    let place = Place::new().await;
    let unused = place.blob("app", b"unused").await;
    place.image("app", "v1", b"used").await;
    place.pass_hours(23);
    assert!(place.collect().await.removed.is_nothing());
    place.pass_hours(2);
    let report = place.collect().await;
    assert!(!place.has_blob("app", &unused).await);
    assert_eq!((report.removed.links, report.removed.blobs), (1, 1));
    assert_eq!((report.removed.objects, report.removed.bytes), (1, 6));
    assert_eq!(place.objects(), 2);
    assert_eq!(place.faults().await, []);
}

#[tokio::test]
async fn every_store_is_collected_alike() {
    let kinds = StoreKind::ALL.into_iter();
    for kind in kinds.chain([StoreKind::S3WithoutConditionalRemoval]) {
        let store = TestStore::new(kind);
        let place = Place::on(&store).await;
        if !place.content.collects_online() {
            // Nobody else is here.
            place.content.assume_exclusive();
        }
        let kept = place.image("app", "v1", b"used").await;
        place.blob("app", b"unused").await;
        let untagged = place.untagged("app", b"untagged").await;
        place.pass_hours(48);
        let report = place.collect_with(&after_a_day()).await;
        let removed = &report.removed;
        assert_eq!(removed.manifests, 1, "{kind:?}");
        assert_eq!((removed.links, removed.blobs), (2, 2), "{kind:?}");
        assert_eq!((removed.objects, removed.bytes), (2, 14), "{kind:?}");
        assert!(place.has_manifest("app", &kept).await);
        assert!(!place.has_manifest("app", &untagged).await);
        assert_eq!(place.faults().await, [], "{kind:?}");
        assert!(place.collect().await.removed.is_nothing(), "{kind:?}");
        let content = &place.content;
        content
            .mark_registry_deleted(REGISTRY)
            .await
            .expect("marked");
        place.pass_hours(25);
        assert!(place.collect().await.is_gone, "{kind:?}");
        let left = place.content.next_registry(None).await.expect("listed");
        assert_eq!(left, None, "{kind:?}");
    }
}

#[tokio::test]
async fn a_promise_begins_the_grace_period_anew() {
    let place = Place::new().await;
    let blob = place.blob("app", b"promised").await;
    place.pass_hours(30);
    let repository = name("app");
    let repository = place.content.repository(REGISTRY, &repository);
    repository
        .promised_blob(&blob)
        .await
        .expect("read")
        .expect("there");
    assert!(place.collect().await.removed.is_nothing());
    place.pass_hours(25);
    assert_eq!(place.collect().await.removed.blobs, 1);
}

#[tokio::test]
async fn a_blob_stays_while_one_repository_has_it() {
    let place = Place::new().await;
    place.image("app", "v1", b"shared").await;
    place.image("other", "v1", b"shared").await;
    let layer: Digest = sha256(b"shared").parse().expect("a digest");
    let repository = name("app");
    let tag: Tag = "v1".parse().expect("a tag");
    let repository = place.content.repository(REGISTRY, &repository);
    repository.delete_tag(&tag).await.expect("deleted");
    let image: Digest = sha256(&image_of(b"shared")).parse().expect("a digest");
    repository.delete_manifest(&image).await.expect("deleted");
    place.pass_hours(25);
    let report = place.collect().await;
    assert_eq!((report.removed.links, report.removed.blobs), (2, 0));
    assert!(!place.has_blob("app", &layer).await);
    assert!(place.has_blob("other", &layer).await);
    assert_eq!(place.faults().await, []);
}

#[tokio::test]
async fn a_layer_that_others_serve_stays_if_somebody_pushed_it() {
    let place = Place::new().await;
    let foreign = place.blob("app", b"foreign").await;
    place.blob("app", b"{}").await;
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"digest": sha256(b"{}"), "size": 2},
        "layers": [{"digest": foreign.as_str(), "size": 7, "urls": ["https://elsewhere.example/layer"]}],
    });
    place
        .manifest("app", "v1", manifest.to_string().as_bytes())
        .await;
    place.pass_hours(50);
    assert!(place.collect().await.removed.is_nothing());
    assert!(place.has_blob("app", &foreign).await);
}

#[tokio::test]
async fn an_upload_that_nobody_goes_on_with_ends_after_a_week() {
    let place = Place::new().await;
    let repository = name("app");
    let repository = place.content.repository(REGISTRY, &repository);
    let upload = repository
        .start_upload(DigestAlgorithm::Sha256, "somebody")
        .await
        .expect("started");
    let body = futures_util::stream::iter([Ok(Bytes::from_static(b"a part"))]);
    repository
        .append_to_upload(upload.id, Some(0), body)
        .await
        .expect("appended");
    place.pass_hours(7 * 24 - 1);
    assert!(place.collect().await.removed.is_nothing());
    place.pass_hours(2);
    assert_eq!(place.collect().await.removed.uploads, 1);
    assert_eq!(place.objects(), 0);
    repository.upload(upload.id).await.expect_err("it ended");
}

#[tokio::test]
async fn what_a_dead_process_left_half_written_goes() {
    let place = Place::new().await;
    place.image("app", "v1", b"layer").await;
    let upload = place.path("data/0e0e0e0e-0000-4000-8000-000000000000");
    std::fs::create_dir_all(&upload).expect("made");
    let part = upload.join("00000-1e1e1e1e-0000-4000-8000-000000000000#1");
    std::fs::write(&part, b"half").expect("written");
    place.pass_hours(23);
    place.collect().await;
    assert!(part.exists());
    place.pass_hours(2);
    place.collect().await;
    assert!(!part.exists() && !upload.exists());
    assert_eq!(place.faults().await, []);
}

#[tokio::test]
async fn a_dry_run_says_what_would_go_and_takes_nothing() {
    let place = Place::new().await;
    let unused = place.blob("app", b"unused").await;
    let untagged = place.untagged("app", b"untagged").await;
    place.pass_hours(48);
    let rules = RetentionRules {
        days_since_push: Some(1),
        ..RetentionRules::default()
    };
    let dry = CollectOptions {
        is_dry_run: true,
        ..retaining(rules)
    };
    let before = files_below(place.directory.path()).len();
    let said = place.collect_with(&dry).await;
    assert_eq!(files_below(place.directory.path()).len(), before);
    assert!(place.has_blob("app", &unused).await && place.has_manifest("app", &untagged).await);
    let done = place.collect_with(&retaining(rules)).await;
    assert_eq!(said, done);
    assert_eq!((done.removed.manifests, done.removed.blobs), (1, 3));
}

#[tokio::test]
async fn the_content_of_a_deleted_registry_goes_after_the_grace_period_and_no_other() {
    let place = Place::new().await;
    place.image("app", "v1", b"layer").await;
    let upload = place.path("data/0e0e0e0e-0000-4000-8000-000000000000");
    std::fs::create_dir_all(&upload).expect("made");
    let part = upload.join("00000-1e1e1e1e-0000-4000-8000-000000000000#1");
    std::fs::write(&part, b"half").expect("written");
    let other = Uuid::from_u128(0x07e5);
    let repository = name("app");
    let blob: Digest = sha256(b"other").parse().expect("a digest");
    let body = futures_util::stream::iter([Ok(Bytes::from_static(b"other"))]);
    let repository = place.content.repository(other, &repository);
    repository.put_blob(&blob, body).await.expect("pushed");

    place
        .content
        .mark_registry_deleted(REGISTRY)
        .await
        .expect("marked");
    place.pass_hours(23);
    assert!(!place.collect().await.is_gone);
    assert_eq!(place.objects(), 3);
    place.pass_hours(2);
    assert!(place.collect().await.is_gone);
    assert!(!place.path("").exists());
    let left = place.content.next_registry(None).await.expect("listed");
    assert_eq!(left, Some(other));
    let left = place.content.next_registry(left).await.expect("listed");
    assert_eq!(left, None);
}

#[tokio::test]
async fn a_registry_that_is_there_again_keeps_its_content() {
    let place = Place::new().await;
    let image = place.image("app", "v1", b"layer").await;
    let content = &place.content;
    content
        .mark_registry_deleted(REGISTRY)
        .await
        .expect("marked");
    place.pass_hours(25);
    assert!(
        content
            .unmark_registry_deleted(REGISTRY)
            .await
            .expect("done")
    );
    assert!(!place.collect().await.is_gone);
    assert!(place.has_manifest("app", &image).await);
}

#[tokio::test]
async fn one_node_collects_at_a_time_and_not_again_soon() {
    let place = Place::new().await;
    place.image("app", "v1", b"layer").await;
    let [first, second] = [1, 2].map(Uuid::from_u128);
    let options = options();
    let collect = async |holder| {
        let collected = place.content.collect_if_due(REGISTRY, holder, &options);
        collected.await.expect("collected").is_some()
    };
    assert!(collect(first).await);
    assert!(!collect(first).await);
    assert!(!collect(second).await);
    place.pass_hours(7);
    assert!(collect(second).await);
}

#[tokio::test]
async fn a_pass_counts_manifests_and_each_blob_once() {
    let place = Place::new().await;
    place.image("app", "v1", b"shared").await;
    place.image("other", "v1", b"shared").await;
    // What a sum had wrong, a pass puts right.
    place.content.settle_usage().await;
    let lost = place.path("usage");
    std::fs::remove_file(lost).expect("removed");
    let report = place.collect().await;
    let manifest = image_of(b"shared").len() as u64;
    assert_eq!(report.bytes, 2 + 6 + 2 * manifest);
    let sums = place.content.settle_usage().await;
    assert_eq!(sums.last().map(|sum| sum.bytes), Some(report.bytes));
    let progress = Progress::default();
    let counted = place.content.count_usage(REGISTRY, &progress).await;
    let counted = counted.expect("counted");
    assert_eq!(counted.bytes, report.bytes);
    let sizes: Vec<u64> = counted.repositories.iter().map(|one| one.bytes).collect();
    assert_eq!(sizes, [2 + 6 + manifest; 2]);
}

#[tokio::test]
async fn a_pull_is_remembered_to_the_hour() {
    let place = Place::new().await;
    let image = place.image("app", "v1", b"layer").await;
    let repository = name("app");
    let repository = place.content.repository(REGISTRY, &repository);
    assert_eq!(repository.last_pulled(&image).await.expect("read"), None);
    for _ in 0..3 {
        repository.note_pull(&image);
    }
    assert_eq!(place.content.write_noted_pulls().await, 1);
    let first = repository.last_pulled(&image).await.expect("read");
    let first = first.expect("it was pulled");
    assert_eq!(first.unix_timestamp() % 3600, 0);
    repository.note_pull(&image);
    assert_eq!(place.content.write_noted_pulls().await, 0);
    place.pass_hours(1);
    repository.note_pull(&image);
    assert_eq!(place.content.write_noted_pulls().await, 1);
    let second = repository.last_pulled(&image).await.expect("read");
    assert_eq!(second, Some(first + Duration::HOUR));
}

#[tokio::test]
async fn what_is_known_of_pulls_goes_with_the_manifest() {
    let place = Place::new().await;
    let image = place.image("app", "v1", b"layer").await;
    let repository = name("app");
    let repository = place.content.repository(REGISTRY, &repository);
    repository.note_pull(&image);
    place.content.write_noted_pulls().await;
    place.pass_hours(30);
    place.collect().await;
    assert!(
        repository
            .last_pulled(&image)
            .await
            .expect("read")
            .is_some()
    );
    repository.delete_manifest(&image).await.expect("deleted");
    place.collect().await;
    assert_eq!(repository.last_pulled(&image).await.expect("read"), None);
}

#[tokio::test]
async fn untagged_manifests_go_when_every_rule_lets_them() {
    let place = Place::new().await;
    let tagged = place.image("app", "v1", b"tagged").await;
    let pulled = place.untagged("app", b"pulled").await;
    let old = place.untagged("app", b"old").await;
    place.pass_hours(10 * 24);
    let repository = name("app");
    place
        .content
        .repository(REGISTRY, &repository)
        .note_pull(&pulled);
    place.content.write_noted_pulls().await;
    let newer = place.untagged("app", b"newer").await;
    place.pass_hours(8 * 24);
    let newest = place.untagged("app", b"newest").await;
    place.pass_hours(2 * 24);
    let rules = RetentionRules {
        days_since_push: Some(5),
        days_since_pull: Some(15),
        keep_newest: Some(2),
    };
    assert_eq!(place.collect().await.removed.manifests, 0);
    let report = place.collect_with(&retaining(rules)).await;
    assert_eq!(report.removed.manifests, 1);
    assert!(!place.has_manifest("app", &old).await);
    for kept in [&tagged, &pulled, &newer, &newest] {
        assert!(place.has_manifest("app", kept).await);
    }
    let only_newest = RetentionRules {
        keep_newest: Some(1),
        ..RetentionRules::default()
    };
    let report = place.collect_with(&retaining(only_newest)).await;
    assert_eq!(report.removed.manifests, 2);
    assert!(place.has_manifest("app", &newest).await);
    assert_eq!(place.faults().await, []);
}

fn after_a_day() -> CollectOptions {
    retaining(RetentionRules {
        days_since_push: Some(1),
        ..RetentionRules::default()
    })
}

#[tokio::test]
async fn what_a_kept_manifest_needs_stays() {
    let place = Place::new().await;
    let child = place.untagged("app", b"child").await;
    let index = place.manifest("app", "v1", &index_of(&[&child])).await;
    let signature = referrer_of(&index, "signature");
    let signature = place.manifest("app", &sha256(&signature), &signature).await;
    let of_signature = referrer_of(&signature, "of a signature");
    let of_signature = place
        .manifest("app", &sha256(&of_signature), &of_signature)
        .await;
    let alone = place.untagged("app", b"alone").await;
    let of_alone = referrer_of(&alone, "signature");
    let of_alone = place.manifest("app", &sha256(&of_alone), &of_alone).await;
    place.pass_hours(50);
    let report = place.collect_with(&after_a_day()).await;
    assert_eq!(report.removed.manifests, 2);
    for kept in [&child, &index, &signature, &of_signature] {
        assert!(place.has_manifest("app", kept).await);
    }
    for gone in [&alone, &of_alone] {
        assert!(!place.has_manifest("app", gone).await);
    }
    assert_eq!(place.faults().await, []);
}

#[tokio::test]
async fn what_was_signed_anew_stays() {
    let place = Place::new().await;
    let image = place.untagged("app", b"layer").await;
    place.pass_hours(50);
    let signature = referrer_of(&image, "new");
    place.manifest("app", &sha256(&signature), &signature).await;
    let report = place.collect_with(&after_a_day()).await;
    assert_eq!(report.removed.manifests, 0);
    assert!(place.has_manifest("app", &image).await);
}

#[tokio::test]
async fn a_locked_manifest_stays() {
    let place = Place::new().await;
    let locked = place.untagged("app", b"locked").await;
    place.untagged("app", b"free").await;
    let key = format!("n/app!/m/sha256-{}", locked.hex());
    let record = std::fs::read_to_string(place.path(&key)).expect("a record");
    let record = record.replacen(
        "\"attributes\":{}",
        "\"attributes\":{\"deleteEnabled\":false}",
        1,
    );
    std::fs::write(place.path(&key), record).expect("written");
    place.pass_hours(50);
    let report = place.collect_with(&after_a_day()).await;
    assert_eq!(report.removed.manifests, 1);
    assert!(place.has_manifest("app", &locked).await);
}

#[tokio::test]
async fn verify_names_each_fault() {
    let place = Place::new().await;
    let image = place.image("app", "v1", b"layer").await;
    let other = place.image("other", "v1", b"another layer").await;
    let index = index_of(&[&other]);
    place.manifest("other", "multi", &index).await;
    assert_eq!(place.faults().await, []);

    let kinds = async || -> Vec<(FaultKind, String)> {
        let faults = place.faults().await;
        let faults = faults.into_iter();
        faults.map(|fault| (fault.kind, fault.subject)).collect()
    };
    // Bytes that changed.
    let layer: Digest = sha256(b"layer").parse().expect("a digest");
    let data = files_below(&place.path("data"));
    let object = data
        .iter()
        .find(|path| std::fs::read(path).expect("read") == b"layer")
        .expect("an object");
    std::fs::write(object, b"LAYER").expect("written");
    let damaged = (FaultKind::DataDamaged, layer.as_str().to_owned());
    assert_eq!(kinds().await, [damaged]);
    // Bytes that are gone.
    std::fs::remove_file(object).expect("removed");
    let missing = (FaultKind::DataMissing, layer.as_str().to_owned());
    assert_eq!(kinds().await, [missing]);
    // A link that is gone: then nobody is promised its bytes.
    std::fs::remove_file(place.path(&format!("n/app!/b/sha256-{}", layer.hex()))).expect("removed");
    let lacking = (FaultKind::BlobMissing, layer.as_str().to_owned());
    assert_eq!(kinds().await, [lacking]);
    // A manifest that is gone.
    for (name, digest) in [("app", &image), ("other", &other)] {
        let key = format!("n/{name}!/m/sha256-{}", digest.hex());
        std::fs::remove_file(place.path(&key)).expect("removed");
    }
    let expected = [
        (FaultKind::TagWithoutManifest, "v1".to_owned()),
        (FaultKind::ManifestMissing, other.as_str().to_owned()),
        (FaultKind::TagWithoutManifest, "v1".to_owned()),
    ];
    assert_eq!(kinds().await, expected);
}
