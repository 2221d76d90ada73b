//! Content in buckets, on real servers: what the start-up probe says of them, large bodies, answers that are lost, removals where the
//! server knows no condition, and downloads that are redirected.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::signer::{Method, SignedUrlOptions, Signer};
use registry_node::content::bucket::{BucketCredentials, BucketOptions};
use registry_node::content::record_store::{
    BucketRecords, Durability, OPERATION_PREFIX, RecordStore, WriteError,
};
use registry_node::content::{BodyError, Content, OpenError, Sources};
use registry_node::names::{Digest, RepositoryName};
use uuid::Uuid;

use super::crashes::{is_there, push};
use super::harness::{Answer, REGISTRY, Registry, noise, sha256};
use super::lossy_proxy::{LossyProxy, NEVER};
use super::stores::{REGION, StoreKind, bucket_options, keys, s3_of};

const BUCKETS: [StoreKind; 2] = [StoreKind::S3, StoreKind::Azure];
/// Three parts, the last of them small.
const LARGE_BYTES: usize = 2 * 5 * 1024 * 1024 + 100;

fn name() -> RepositoryName {
    "app".parse().expect("a name")
}

async fn open(options: &BucketOptions) -> Result<Content, OpenError> {
    Content::open_bucket(options, REGION, Sources::of_the_system()).await
}

async fn opened(options: &BucketOptions) -> Content {
    open(options)
        .await
        .unwrap_or_else(|error| panic!("{}", service::errors::chain(&error)))
}

fn body(bytes: &[u8]) -> impl futures_util::Stream<Item = Result<Bytes, BodyError>> + Unpin {
    let pieces: Vec<_> = bytes
        .chunks(64 * 1024)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    stream::iter(pieces)
}

async fn data_keys(options: &BucketOptions) -> Vec<String> {
    keys(options, &format!("r/{REGISTRY}/data")).await
}

/// What the server lists of uploads below the root that were begun and neither completed nor aborted.
async fn unfinished_uploads(options: &BucketOptions) -> String {
    let query = [
        ("uploads", ""),
        ("prefix", options.location.prefix.as_str()),
    ];
    let signed = s3_of(options)
        .signed_url_opts(
            Method::GET,
            &Path::ROOT,
            Duration::from_secs(60),
            &SignedUrlOptions::new().with_query(query),
        )
        .await;
    let listed = fetch(signed.expect("signed").as_str(), None).await.is(200);
    String::from_utf8(listed.body).expect("text")
}

#[tokio::test]
async fn a_bucket_that_compares_is_accepted_and_the_probe_leaves_nothing() {
    for kind in BUCKETS {
        let options = bucket_options(kind);
        let content = opened(&options).await;
        assert!(content.collects_online());
        assert_eq!(keys(&options, "").await, ["_format"], "{kind:?}");
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named() {
    for kind in BUCKETS {
        let mut options = bucket_options(kind);
        options.location.bucket = "nowhere".to_owned();
        let refused = open(&options).await.err().expect("no such bucket");
        let text = service::errors::chain(&refused);
        assert!(text.contains(&options.location.to_string()), "{text}");
        assert!(text.contains("404"), "{text}");
    }
}

#[tokio::test]
async fn a_wrong_key_is_refused_at_the_start() {
    let mut options = bucket_options(StoreKind::Azure);
    if let BucketCredentials::Key { secret, .. } = &mut options.credentials {
        *secret = credentials::Secret::new("d3Jvbmc=".to_owned());
    }
    let refused = open(&options).await.err().expect("a wrong key");
    let text = service::errors::chain(&refused);
    assert!(text.contains("403"), "{text}");
    assert!(!text.contains("d3Jvbmc"), "{text}");
}

#[tokio::test]
async fn a_root_belongs_to_one_region_and_prefixes_are_apart() {
    let options = bucket_options(StoreKind::S3);
    opened(&options).await;
    let other = Content::open_bucket(&options, "eastus", Sources::of_the_system()).await;
    assert!(matches!(other.err(), Some(OpenError::OtherRegion { .. })));
    let mut deeper = options.clone();
    deeper.location = deeper.location.below("eastus").expect("a component");
    Content::open_bucket(&deeper, "eastus", Sources::of_the_system())
        .await
        .expect("a root of its own");
}

#[tokio::test]
async fn large_bodies_come_back_whole_and_in_ranges() {
    let bytes = noise(5, LARGE_BYTES);
    let digest: Digest = sha256(&bytes).parse().expect("a digest");
    let name = name();
    for kind in BUCKETS {
        let options = bucket_options(kind);
        let content = opened(&options).await;
        let repository = content.repository(REGISTRY, &name);
        repository
            .put_blob(&digest, body(&bytes))
            .await
            .expect("pushed");
        assert_eq!(data_keys(&options).await.len(), 1);
        let other_node = opened(&options).await;
        let repository = other_node.repository(REGISTRY, &name);
        let blob = repository
            .blob(&digest)
            .await
            .expect("read")
            .expect("there");
        for range in [
            0..LARGE_BYTES as u64,
            5_000_000..5_500_000,
            LARGE_BYTES as u64 - 1..LARGE_BYTES as u64,
        ] {
            let read = repository
                .read_blob(&blob, range.clone())
                .await
                .expect("read");
            let read: Vec<Bytes> = read.boxed().try_collect().await.expect("read");
            let expected = &bytes[range.start as usize..range.end as usize];
            assert!(read.concat() == expected, "{kind:?} {range:?}");
        }
    }
}

#[tokio::test]
async fn a_large_body_that_ends_early_leaves_nothing() {
    let bytes = noise(6, LARGE_BYTES);
    let digest: Digest = sha256(&bytes).parse().expect("a digest");
    let name = name();
    for kind in BUCKETS {
        let options = bucket_options(kind);
        let content = opened(&options).await;
        let repository = content.repository(REGISTRY, &name);
        let aborted = body(&bytes).chain(stream::iter([Err(BodyError::Aborted)]));
        let refused = repository.put_blob(&digest, aborted).await;
        assert!(refused.is_err());
        assert_eq!(data_keys(&options).await, Vec::<String>::new(), "{kind:?}");
    }
}

#[tokio::test]
async fn the_parts_of_an_upload_whose_client_went_away_are_removed() {
    let options = bucket_options(StoreKind::S3);
    let content = opened(&options).await;
    let bytes = noise(8, LARGE_BYTES);
    let digest: Digest = sha256(&bytes).parse().expect("a digest");
    let name = name();
    let (all_taken, was_taken) = tokio::sync::oneshot::channel();
    let silence = stream::once(async {
        all_taken.send(()).expect("the test waits");
        std::future::pending().await
    });
    let body = body(&bytes).chain(silence.boxed());
    let repository = content.repository(REGISTRY, &name);
    tokio::select! {
        _ = repository.put_blob(&digest, body) => panic!("the body does not end"),
        taken = was_taken => taken.expect("all but the end came"),
    }
    // Two parts were sent or are on their way; the request is dropped.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(90);
    while unfinished_uploads(&options).await.contains("<Upload>") {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(data_keys(&options).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_one_node_took_another_has_on_every_kind_of_store() {
    for kind in StoreKind::ALL {
        let (store, content) = super::stores::open(kind).await;
        push(&content).await.expect("pushed");
        assert!(is_there(&store.open().await).await, "{kind:?}");
    }
}

#[tokio::test]
async fn a_push_survives_each_answer_that_is_lost() {
    for kind in BUCKETS {
        let mut options = bucket_options(kind);
        let proxy = LossyProxy::start(options.endpoint.as_deref().expect("an endpoint")).await;
        options.endpoint = Some(proxy.endpoint.clone());
        let root = options.location.clone();
        let content = opened(&options).await;
        proxy.lose(NEVER);
        push(&content).await.expect("pushed");
        let changes = proxy.changes();
        assert!(changes > 10, "{changes}");
        for lost in 0..changes {
            options.location = root.below(&format!("lost{lost}")).expect("a component");
            let content = opened(&options).await;
            proxy.lose(lost);
            let pushed = push(&content).await;
            proxy.lose(NEVER);
            // What was carried out is found out to be ours, so the push goes on as if the answer had come.
            pushed.unwrap_or_else(|error| {
                panic!("{kind:?} {lost}: {}", service::errors::chain(&error))
            });
            assert!(is_there(&content).await, "{kind:?} {lost}");
        }
    }
}

fn record() -> Bytes {
    let mut bytes = OPERATION_PREFIX.to_vec();
    bytes.extend_from_slice(format!("{}\"}}\n", Uuid::new_v4()).as_bytes());
    Bytes::from(bytes)
}

#[tokio::test]
async fn without_conditional_removal_tombstones_stay_until_the_store_is_ours_alone() {
    let options = bucket_options(StoreKind::S3WithoutConditionalRemoval);
    let records = BucketRecords::open(&options, Sources::of_the_system())
        .await
        .expect("accepted");
    assert!(!records.removes_for_good());
    let durability = Durability::OnReturn;
    let first = records.create("r/a!", record(), durability).await;
    let first = first.expect("created");
    records
        .create("r/b!", record(), durability)
        .await
        .expect("created");
    let second = records.replace("r/a!", record(), &first, durability).await;
    let second = second.expect("replaced");
    let stale = records.remove("r/a!", &first, durability).await;
    assert!(matches!(stale, Err(WriteError::Conflict)));
    records
        .remove("r/a!", &second, durability)
        .await
        .expect("removed");
    assert!(records.get("r/a!").await.expect("read").is_none());
    assert_eq!(keys(&options, "r").await, ["r/a!", "r/b!"]);
    let listed = records.list("r/", "", 10).await.expect("listed");
    assert_eq!(listed.len(), 1);

    records.assume_exclusive();
    records.list("r/", "", 10).await.expect("listed");
    assert_eq!(keys(&options, "r").await, ["r/b!"]);
    let stale = records.remove("r/b!", &first, durability).await;
    assert!(matches!(stale, Err(WriteError::Conflict)));
    let current = listed[0].version.as_ref().expect("a version");
    records
        .remove("r/b!", current, durability)
        .await
        .expect("removed");
    assert_eq!(keys(&options, "r").await, Vec::<String>::new());
}

#[tokio::test]
async fn content_works_without_conditional_removal() {
    let options = bucket_options(StoreKind::S3WithoutConditionalRemoval);
    let content = opened(&options).await;
    assert!(!content.collects_online());
    assert_eq!(keys(&options, "").await, ["_format"]);
    push(&content).await.expect("pushed");
    let name: RepositoryName = "team/app".parse().expect("a name");
    let repository = content.repository(REGISTRY, &name);
    let tag = "v1".parse().expect("a tag");
    let manifest = repository.manifest(&tag).await.expect("read");
    let digest = manifest.expect("there").digest;
    repository.delete_manifest(&digest).await.expect("deleted");
    assert!(!is_there(&content).await);
    push(&content).await.expect("pushed again");
    assert!(is_there(&content).await);
    // Sessions have names that nobody uses again.
    let sessions = keys(&options, &format!("r/{REGISTRY}/up")).await;
    assert_eq!(sessions, Vec::<String>::new());
}

async fn fetch(url: &str, range: Option<&str>) -> Answer {
    let client = reqwest::Client::new();
    let mut request = client.get(url);
    if let Some(range) = range {
        request = request.header("range", range);
    }
    let response = request.send().await.expect("an answer");
    Answer {
        status: response.status(),
        headers: response.headers().clone(),
        body: response.bytes().await.expect("a body").to_vec(),
    }
}

#[actix_web::test]
async fn downloads_are_redirected_to_urls_that_need_no_credentials() {
    let layer = noise(7, 200_000);
    for kind in BUCKETS {
        let content = opened(&bucket_options(kind)).await;
        let content = content.redirecting_downloads().await.expect("signs");
        let registry = Registry::start_on(content);
        let digest = registry.push_blob("app", &layer).await;
        let path = format!("/v2/app/blobs/{digest}");

        let redirect = registry.call("GET", &path).await.is(307);
        assert_eq!(redirect.header("docker-content-digest"), digest);
        let location = redirect.header("location").to_owned();
        let fetched = fetch(&location, None).await.is(200);
        assert!(fetched.body == layer, "{kind:?}");
        let part = fetch(&location, Some("bytes=100-199")).await.is(206);
        assert_eq!(part.body, layer[100..200], "{kind:?}");

        let ranged = registry.request("GET", &path).header("range", "bytes=5-9");
        registry.send(ranged).await.is(307);
        let unsatisfiable = registry
            .request("GET", &path)
            .header("range", "bytes=200000-");
        registry.send(unsatisfiable).await.is(416);
        let head = registry.call("HEAD", &path).await.is(200);
        assert_eq!(head.header("content-length"), layer.len().to_string());

        let forged = location.replacen("X-Amz-Date=2", "X-Amz-Date=3", 1);
        let forged = forged.replacen("sp=r", "sp=rd", 1);
        assert_ne!(forged, location);
        fetch(&forged, None).await.is(403);
    }
}

#[actix_web::test]
async fn a_blob_in_several_pieces_is_streamed() {
    let content = opened(&bucket_options(StoreKind::S3)).await;
    let content = content.redirecting_downloads().await.expect("signs");
    let registry = Registry::start_on(content);
    let started = registry
        .call("POST", "/v2/app/blobs/uploads/")
        .await
        .is(202);
    let location = started.header("location").to_owned();
    let patch = registry.request("PATCH", &location).body("first,");
    let location = registry.send(patch).await.is(202);
    let location = location.header("location").to_owned();
    let digest = sha256(b"first,second");
    let separator = if location.contains('?') { '&' } else { '?' };
    let put = registry.request("PUT", &format!("{location}{separator}digest={digest}"));
    registry.send(put.body("second")).await.is(201);
    let read = registry
        .call("GET", &format!("/v2/app/blobs/{digest}"))
        .await;
    assert_eq!(read.is(200).body, b"first,second");
}
