//! Repositories are deleted whole, whatever dies on the way, and no push that overlaps loses what it acknowledged.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use registry_node::content::{Content, ContentError};
use registry_node::names::{Digest, Reference, RepositoryName};
use serde_json::json;

use super::faulty_stores::{Disk, Fault, Faults};
use super::harness::{OCI_INDEX, OCI_MANIFEST, REGISTRY, Registry, image_manifest, sha256};

const CONFIG: &[u8] = b"{}";

fn name() -> RepositoryName {
    "team/app".parse().expect("a name")
}

fn digest(bytes: &[u8]) -> Digest {
    sha256(bytes).parse().expect("a digest")
}

fn image(number: usize) -> Bytes {
    let layer = format!("layer {number}");
    let layer = layer.as_bytes();
    let config = (&*sha256(CONFIG), CONFIG.len());
    Bytes::from(image_manifest(&[config], &[(&sha256(layer), layer.len())]))
}

/// Pushes an image, its blobs too, under a tag of its number.
async fn push(content: &Content, number: usize) -> Result<(), ContentError> {
    let name = name();
    let repository = content.repository(REGISTRY, &name);
    for blob in [CONFIG.to_vec(), format!("layer {number}").into_bytes()] {
        let digest = digest(&blob);
        let body = stream::iter([Ok(Bytes::from(blob))]);
        repository.put_blob(&digest, body).await?;
    }
    put_image(content, number).await
}

/// Pushes the manifest of an image whose blobs are there.
async fn put_image(content: &Content, number: usize) -> Result<(), ContentError> {
    let name = name();
    let reference: Reference = format!("v{number}").parse().expect("a tag");
    content
        .repository(REGISTRY, &name)
        .put_manifest(&reference, Some(OCI_MANIFEST), image(number), "somebody")
        .await
        .map(drop)
}

/// Tags that are there; each must lead to its image, and that be there in full.
async fn tags(content: &Content) -> Vec<String> {
    let name = name();
    let repository = content.repository(REGISTRY, &name);
    let listed = match repository.tags(None, 100).await {
        Ok(page) => page.entries,
        Err(ContentError::RepositoryUnknown) => return Vec::new(),
        Err(error) => panic!("{error}"),
    };
    for tag in &listed {
        let number = tag.as_str()[1..].parse().expect("a number");
        let by_tag = repository.manifest(&Reference::Tag(tag.clone())).await;
        let by_tag = by_tag.expect("read").expect("what is listed is there");
        assert_eq!(by_tag.bytes, image(number));
        for blob in [CONFIG, format!("layer {number}").as_bytes()] {
            let found = repository.blob(&digest(blob)).await.expect("read");
            assert!(found.is_some());
        }
    }
    listed.iter().map(|tag| tag.as_str().to_owned()).collect()
}

async fn catalog(content: &Content) -> usize {
    let page = content.repositories(REGISTRY, None, 10).await;
    page.expect("listed").entries.len()
}

async fn delete(content: &Content) -> Result<(), ContentError> {
    let name = name();
    content.repository(REGISTRY, &name).delete().await.map(drop)
}

async fn three_images() -> Disk {
    let disk = Disk::default();
    let content = disk.open().await;
    for number in 0..3 {
        push(&content, number).await.expect("pushed");
    }
    disk
}

#[actix_web::test]
async fn a_deleted_repository_is_gone_with_all_that_it_had() {
    let registry = Registry::start().await;
    let first = registry.push_image("team/app", "v1", b"one").await;
    let second = registry.push_image("team/app", "v2", b"two").await;
    registry.push_image("team", "v1", b"one").await;
    registry.push_image("team/app/web", "v1", b"one").await;
    let signature = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [],
        "subject": {"mediaType": OCI_MANIFEST, "digest": first, "size": 2},
    })
    .to_string();
    let reference = sha256(signature.as_bytes());
    registry
        .put_manifest("team/app", &reference, OCI_INDEX, signature.as_bytes())
        .await
        .is(201);
    let deleted = registry
        .call("DELETE", "/acr/v1/team%2Fapp")
        .await
        .is(202)
        .json();
    let mut manifests = vec![first.clone(), second, reference];
    manifests.sort();
    assert_eq!(
        deleted,
        json!({"manifestsDeleted": manifests, "tagsDeleted": ["v1", "v2"]})
    );
    for (path, code) in [
        ("/v2/team/app/tags/list", "NAME_UNKNOWN"),
        ("/v2/team/app/manifests/v1", "MANIFEST_UNKNOWN"),
        (
            &format!("/v2/team/app/manifests/{first}"),
            "MANIFEST_UNKNOWN",
        ),
        ("/acr/v1/team/app", "NAME_UNKNOWN"),
        ("/acr/v1/team/app/_tags/v1", "NAME_UNKNOWN"),
    ] {
        registry.call("GET", path).await.refused(404, code);
    }
    let again = registry.call("DELETE", "/acr/v1/team/app").await;
    again.refused(404, "NAME_UNKNOWN");
    let catalog = registry.call("GET", "/v2/_catalog").await.json();
    assert_eq!(catalog["repositories"], json!(["team", "team/app/web"]));
    for neighbour in ["team", "team/app/web"] {
        let path = format!("/v2/{neighbour}/manifests/v1");
        registry.call("GET", &path).await.is(200);
    }
    // What comes later under the same name has nothing of the old.
    registry.push_image("team/app", "v3", b"one").await;
    let listed = registry.call("GET", "/v2/team/app/tags/list").await.json();
    assert_eq!(listed["tags"], json!(["v3"]));
    let referrers = format!("/v2/team/app/referrers/{first}");
    let referrers = registry.call("GET", &referrers).await.is(200).json();
    assert_eq!(referrers["manifests"], json!([]));
    let shown = registry.call("GET", "/acr/v1/team/app").await.json();
    assert_eq!(
        (&shown["tagCount"], &shown["manifestCount"]),
        (&json!(1), &json!(1))
    );
}

#[tokio::test]
async fn a_deletion_that_dies_anywhere_happened_or_not_and_is_finished_by_whoever_meets_it() {
    let faults = Faults::new(|_| Fault::None);
    let disk = three_images().await;
    let content = disk.open_with(Arc::clone(&faults)).await.expect("it opens");
    delete(&content).await.expect("deleted");
    let calls = faults.calls();
    assert!(calls > 30);
    for call in 0..calls {
        for last in [Fault::Fails, Fault::TimesOutAfterwards] {
            for is_repeated in [true, false] {
                let disk = three_images().await;
                let dying = disk.open_with(Faults::new(move |number| match number {
                    number if number < call => Fault::None,
                    number if number == call => last,
                    _ => Fault::Fails,
                }));
                let acknowledged = delete(&dying.await.expect("it opens")).await.is_ok();
                let content = disk.open().await;
                let left = tags(&content).await;
                assert!(left.is_empty() || left.len() == 3, "call {call}: {left:?}");
                assert!(left.is_empty() || !acknowledged, "call {call}");
                assert_eq!(catalog(&content).await, usize::from(!left.is_empty()));
                if is_repeated {
                    match delete(&content).await {
                        Ok(()) | Err(ContentError::RepositoryUnknown) => {}
                        Err(error) => panic!("call {call}: {error}"),
                    }
                    assert_eq!(tags(&content).await, Vec::<String>::new(), "call {call}");
                }
                push(&content, 7).await.expect("pushed");
                let expected = match is_repeated || left.is_empty() {
                    true => vec!["v7"],
                    false => vec!["v0", "v1", "v2", "v7"],
                };
                assert_eq!(tags(&content).await, expected, "call {call}");
                assert_eq!(catalog(&content).await, 1);
            }
        }
    }
}

#[tokio::test]
async fn what_a_deletion_that_died_left_is_unknown_to_the_next_one() {
    let mut met = 0;
    for call in 0..30 {
        for is_whole in [true, false] {
            let disk = three_images().await;
            let dying = disk.open_with(Faults::new(move |number| match number < call {
                true => Fault::None,
                false => Fault::Fails,
            }));
            let dying = dying.await.expect("it opens");
            let (name, first) = (name(), digest(&image(0)));
            let died = match is_whole {
                true => delete(&dying).await,
                false => {
                    dying
                        .repository(REGISTRY, &name)
                        .delete_manifest(&first)
                        .await
                }
            };
            let content = disk.open().await;
            if tags(&content).await.contains(&"v0".to_owned()) {
                assert!(died.is_err());
                continue;
            }
            let repository = content.repository(REGISTRY, &name);
            let by_tag = repository.delete_tag(&"v0".parse().expect("a tag")).await;
            assert!(matches!(by_tag, Err(ContentError::TagUnknown(_))), "{call}");
            let by_digest = repository.delete_manifest(&first).await;
            assert!(
                matches!(by_digest, Err(ContentError::ManifestUnknown)),
                "{call}"
            );
            met += 1;
        }
    }
    assert!(met > 20, "{met}");
}

/// Waits, at the call of this number, until others are done.
fn pauses_at(call: usize) -> Arc<Faults> {
    Faults::new(move |number| match number == call {
        true => Fault::Waits(20_000),
        false => Fault::None,
    })
}

#[tokio::test]
async fn a_push_that_overtakes_a_deletion_keeps_what_it_was_told_is_there() {
    for call in 0.. {
        let disk = three_images().await;
        let faults = pauses_at(call);
        let slow = disk.open_with(Arc::clone(&faults)).await.expect("it opens");
        let fast = disk.open().await;
        let overtaking = async {
            // The deletion goes on to where it pauses.
            while faults.calls() <= call && !tags(&fast).await.is_empty() {
                tokio::task::yield_now().await;
            }
            let was_deleted = tags(&fast).await.is_empty();
            // An image that it deletes as well, and a new one.
            push(&fast, 1).await.expect("pushed");
            push(&fast, 7).await.expect("pushed");
            was_deleted
        };
        let (deleted, was_deleted) = tokio::join!(delete(&slow), overtaking);
        deleted.expect("deleted");
        let left = tags(&fast).await;
        if was_deleted {
            assert_eq!(left, ["v1", "v7"], "call {call}");
        } else {
            let is_one_story = left.is_empty() || left == ["v1", "v7"] || left == ["v7"];
            assert!(is_one_story, "call {call}: {left:?}");
        }
        if faults.calls() <= call {
            break;
        }
    }
}

#[tokio::test]
async fn a_push_that_a_deletion_overtakes_is_there_in_full_or_not_at_all() {
    for call in 0.. {
        let disk = three_images().await;
        let faults = pauses_at(call);
        let slow = disk.open_with(Arc::clone(&faults)).await.expect("it opens");
        let fast = disk.open().await;
        // The push runs until it pauses. Its blobs are there: their links stay.
        let (pushed, deleted) = tokio::join!(put_image(&slow, 1), delete(&fast));
        deleted.expect("deleted");
        pushed.expect("pushed");
        let left = tags(&fast).await;
        assert!(left.is_empty() || left == ["v1"], "call {call}: {left:?}");
        if faults.calls() <= call {
            break;
        }
    }
}

#[tokio::test]
async fn an_index_whose_images_a_deletion_took_is_refused_and_not_kept() {
    for call in 0.. {
        let disk = three_images().await;
        let faults = pauses_at(call);
        let slow = disk.open_with(Arc::clone(&faults)).await.expect("it opens");
        let fast = disk.open().await;
        let child = sha256(&image(1));
        let index = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX,
            "manifests": [{"mediaType": OCI_MANIFEST, "digest": child, "size": image(1).len()}],
        });
        let bytes = Bytes::from(index.to_string());
        let name = name();
        let reference: Reference = "all".parse().expect("a tag");
        let repository = slow.repository(REGISTRY, &name);
        let pushing = repository.put_manifest(&reference, Some(OCI_INDEX), bytes, "somebody");
        let (pushed, deleted) = tokio::join!(pushing, delete(&fast));
        deleted.expect("deleted");
        let repository = fast.repository(REGISTRY, &name);
        let left = repository.manifest(&reference).await.expect("read");
        match pushed {
            Ok(_) => assert!(left.is_none(), "call {call}: the deletion came last"),
            Err(ContentError::ReferencesMissing { .. }) => assert!(left.is_none(), "call {call}"),
            Err(error) => panic!("call {call}: {error}"),
        }
        if faults.calls() <= call {
            break;
        }
    }
}
