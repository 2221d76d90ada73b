//! Attributes of repositories, manifests and tags lock what they stand on.

use std::sync::Arc;

use bytes::Bytes;
use registry_node::content::{AttributeChange, Content, ContentError};
use registry_node::names::{Digest, Reference, RepositoryName, Tag};
use serde_json::json;

use super::faulty_stores::{Disk, Fault, Faults};
use super::harness::{OCI_INDEX, OCI_MANIFEST, REGISTRY, Registry, image_manifest, sha256};

const LOCKED: (u16, &str) = (405, "REGISTRY_DISALLOWED_OPERATION");

/// A registry with the images `app:v1` and `app:v2`, and their digests.
async fn with_images() -> (Registry, [String; 2]) {
    let registry = Registry::start().await;
    let digests = [
        registry.push_image("app", "v1", b"one").await,
        registry.push_image("app", "v2", b"two").await,
    ];
    (registry, digests)
}

/// Pushes the image `b"three"`, whose blobs are there, and tells what became of it.
async fn push(registry: &Registry, tag: &str) -> (u16, String) {
    let layer = sha256(b"three");
    let config = sha256(b"{}");
    let manifest = image_manifest(&[(&config, 2)], &[(&layer, 5)]);
    let answer = registry
        .put_manifest("app", tag, OCI_MANIFEST, &manifest)
        .await;
    outcome(&answer)
}

fn outcome(answer: &super::harness::Answer) -> (u16, String) {
    let status = answer.status.as_u16();
    let code = match status {
        200..300 => String::new(),
        _ => answer.code(),
    };
    (status, code)
}

async fn call(registry: &Registry, method: &str, path: &str) -> (u16, String) {
    outcome(&registry.call(method, path).await)
}

fn is_locked(found: &(u16, String)) -> bool {
    (found.0, found.1.as_str()) == LOCKED
}

#[actix_web::test]
async fn a_tag_that_may_not_be_written_stays_what_and_where_it_is() {
    let (registry, [first, _]) = with_images().await;
    registry.push_blob("app", b"three").await;
    let locked = registry
        .patch("/acr/v1/app/_tags/v1", &json!({"writeEnabled": false}))
        .await
        .is(200)
        .json();
    assert_eq!(
        locked["tag"]["changeableAttributes"],
        json!({"deleteEnabled": true, "writeEnabled": false, "readEnabled": true, "listEnabled": true})
    );
    assert!(is_locked(&push(&registry, "v1").await));
    for path in [
        "/v2/app/manifests/v1",
        &format!("/v2/app/manifests/{first}"),
        "/acr/v1/app/_tags/v1",
        "/acr/v1/app",
    ] {
        assert!(is_locked(&call(&registry, "DELETE", path).await), "{path}");
    }
    let read = registry.call("GET", "/v2/app/manifests/v1").await.is(200);
    assert_eq!(read.header("docker-content-digest"), first);
    // The push that was refused left nothing.
    let shown = registry.call("GET", "/acr/v1/app").await.json();
    assert_eq!(shown["manifestCount"], 2);
    // Another tag is free, and so is this one once it is unlocked.
    assert_eq!(push(&registry, "v2").await.0, 201);
    registry
        .patch("/acr/v1/app/_tags/v1", &json!({"writeEnabled": true}))
        .await
        .is(200);
    assert_eq!(push(&registry, "v1").await.0, 201);
    assert_eq!(
        call(&registry, "DELETE", "/v2/app/manifests/v1").await.0,
        202
    );
}

#[actix_web::test]
async fn a_tag_that_may_not_be_deleted_can_be_moved_and_takes_its_lock_along() {
    let (registry, [first, _]) = with_images().await;
    registry.push_blob("app", b"three").await;
    registry
        .patch("/acr/v1/app/_tags/v1", &json!({"deleteEnabled": false}))
        .await
        .is(200);
    assert_eq!(push(&registry, "v1").await.0, 201);
    assert_eq!(
        call(&registry, "DELETE", &format!("/v2/app/manifests/{first}"))
            .await
            .0,
        202
    );
    let moved = registry.call("GET", "/v2/app/manifests/v1").await.is(200);
    let digest = moved.header("docker-content-digest");
    let path = format!("/v2/app/manifests/{digest}");
    assert!(is_locked(&call(&registry, "DELETE", &path).await));
    assert!(is_locked(
        &call(&registry, "DELETE", "/acr/v1/app/_tags/v1").await
    ));
}

#[actix_web::test]
async fn a_locked_manifest_is_neither_pushed_again_nor_deleted() {
    let (registry, [first, second]) = with_images().await;
    let attributes = format!("/acr/v1/app/_manifests/{first}");
    let locked = registry
        .patch(&attributes, &json!({"writeEnabled": false}))
        .await
        .is(200)
        .json();
    assert_eq!(
        locked["manifest"]["changeableAttributes"]["writeEnabled"],
        false
    );
    let config = sha256(b"{}");
    let layer = sha256(b"one");
    let manifest = image_manifest(&[(&config, 2)], &[(&layer, 3)]);
    let again = registry
        .put_manifest("app", "v3", OCI_MANIFEST, &manifest)
        .await;
    assert!(is_locked(&outcome(&again)));
    let path = format!("/v2/app/manifests/{first}");
    assert!(is_locked(&call(&registry, "DELETE", &path).await));
    assert!(is_locked(&call(&registry, "DELETE", "/acr/v1/app").await));
    // Its tag is not locked, and nor is the other manifest.
    assert_eq!(
        call(&registry, "DELETE", "/acr/v1/app/_tags/v1").await.0,
        202
    );
    let path = format!("/v2/app/manifests/{second}");
    assert_eq!(call(&registry, "DELETE", &path).await.0, 202);
}

#[actix_web::test]
async fn a_locked_repository_takes_nothing_in_and_gives_nothing_up() {
    let (registry, [first, _]) = with_images().await;
    let blob = registry.push_blob("app", b"three").await;
    registry
        .patch("/acr/v1/app", &json!({"writeEnabled": false}))
        .await
        .is(200);
    assert!(is_locked(&push(&registry, "v3").await));
    for path in [
        "/v2/app/blobs/uploads/".to_owned(),
        format!("/v2/app/blobs/uploads/?mount={blob}&from=other"),
    ] {
        assert!(is_locked(&call(&registry, "POST", &path).await), "{path}");
    }
    for path in [
        "/v2/app/manifests/v1".to_owned(),
        format!("/v2/app/manifests/{first}"),
        format!("/v2/app/blobs/{blob}"),
        "/acr/v1/app".to_owned(),
    ] {
        assert!(is_locked(&call(&registry, "DELETE", &path).await), "{path}");
    }
    // Locked against deletion alone it takes pushes.
    registry
        .patch(
            "/acr/v1/app",
            &json!({"writeEnabled": true, "deleteEnabled": false}),
        )
        .await
        .is(200);
    assert_eq!(push(&registry, "v3").await.0, 201);
    assert!(is_locked(&call(&registry, "DELETE", "/acr/v1/app").await));
    assert!(is_locked(
        &call(&registry, "DELETE", "/v2/app/manifests/v3").await
    ));
    registry
        .patch("/acr/v1/app", &json!({"deleteEnabled": true}))
        .await
        .is(200);
    assert_eq!(call(&registry, "DELETE", "/acr/v1/app").await.0, 202);
}

#[actix_web::test]
async fn what_may_not_be_read_is_not_pulled() {
    let (registry, [first, second]) = with_images().await;
    let off = json!({"readEnabled": false});
    let by_digest = |digest: &str| format!("/v2/app/manifests/{digest}");
    let blob = format!("/v2/app/blobs/{}", sha256(b"one"));

    registry.patch("/acr/v1/app/_tags/v1", &off).await.is(200);
    for method in ["GET", "HEAD"] {
        let found = registry.call(method, "/v2/app/manifests/v1").await;
        assert_eq!(found.status.as_u16(), 405);
    }
    assert_eq!(call(&registry, "GET", &by_digest(&first)).await.0, 200);

    let attributes = format!("/acr/v1/app/_manifests/{second}");
    registry.patch(&attributes, &off).await.is(200);
    assert!(is_locked(
        &call(&registry, "GET", "/v2/app/manifests/v2").await
    ));
    assert!(is_locked(
        &call(&registry, "GET", &by_digest(&second)).await
    ));

    assert_eq!(call(&registry, "GET", &blob).await.0, 200);
    registry.patch("/acr/v1/app", &off).await.is(200);
    assert!(is_locked(&call(&registry, "GET", &by_digest(&first)).await));
    assert!(is_locked(&call(&registry, "GET", &blob).await));
    // Attributes are read all the same: who locks must see what is locked.
    let shown = registry
        .call("GET", "/acr/v1/app/_tags")
        .await
        .is(200)
        .json();
    assert_eq!(shown["tags"].as_array().map(Vec::len), Some(2));
    registry
        .patch("/acr/v1/app", &json!({"readEnabled": true}))
        .await
        .is(200);
    assert_eq!(call(&registry, "GET", &by_digest(&first)).await.0, 200);
}

#[actix_web::test]
async fn what_is_not_to_be_listed_is_there_all_the_same() {
    let (registry, [first, second]) = with_images().await;
    registry.push_image("team/web", "v1", b"one").await;
    registry.push_image("zoo", "v1", b"one").await;
    let off = json!({"listEnabled": false});
    registry.patch("/acr/v1/app/_tags/v1", &off).await.is(200);
    let attributes = format!("/acr/v1/app/_manifests/{first}");
    registry.patch(&attributes, &off).await.is(200);
    registry.patch("/acr/v1/team%2Fweb", &off).await.is(200);

    let tags = registry.call("GET", "/v2/app/tags/list").await.json();
    assert_eq!(tags["tags"], json!(["v2"]));
    let tags = registry.call("GET", "/acr/v1/app/_tags").await.json();
    assert_eq!(tags["tags"][0]["name"], "v2");
    assert_eq!(tags["tags"].as_array().map(Vec::len), Some(1));
    let manifests = registry.call("GET", "/acr/v1/app/_manifests").await.json();
    assert_eq!(manifests["manifests"][0]["digest"], second);
    assert_eq!(manifests["manifests"].as_array().map(Vec::len), Some(1));
    for path in ["/v2/_catalog", "/acr/v1/_catalog"] {
        let catalog = registry.call("GET", path).await.json();
        assert_eq!(catalog["repositories"], json!(["app", "zoo"]));
        let page = registry.call("GET", &format!("{path}?n=1")).await;
        assert_eq!(page.json()["repositories"], json!(["app"]));
        assert_eq!(
            page.header("link"),
            format!("<{path}?last=app&n=1>; rel=\"next\"")
        );
    }
    assert_eq!(call(&registry, "GET", "/v2/app/manifests/v1").await.0, 200);
    let shown = registry.call("GET", "/acr/v1/app").await.json();
    assert_eq!(
        (&shown["tagCount"], &shown["manifestCount"]),
        (&json!(2), &json!(2))
    );

    registry
        .patch("/acr/v1/team/web", &json!({"listEnabled": true}))
        .await
        .is(200);
    let catalog = registry.call("GET", "/v2/_catalog").await.json();
    assert_eq!(catalog["repositories"], json!(["app", "team/web", "zoo"]));
}

#[actix_web::test]
async fn changes_that_make_no_sense_are_refused() {
    let (registry, [first, _]) = with_images().await;
    for body in ["", "[]", "{\"writeEnabled\":\"no\"}", "{"] {
        let request = registry.request("PATCH", "/acr/v1/app").body(body);
        registry.send(request).await.refused(400, "UNSUPPORTED");
    }
    let request = registry
        .request("PATCH", "/acr/v1/app")
        .body(" ".repeat(20_000));
    registry.send(request).await.refused(413, "SIZE_INVALID");
    let change = json!({"writeEnabled": false});
    for (path, code) in [
        ("/acr/v1/none", "NAME_UNKNOWN"),
        ("/acr/v1/none/_tags/v1", "NAME_UNKNOWN"),
        ("/acr/v1/app/_tags/none", "TAG_UNKNOWN"),
        (&format!("/acr/v1/none/_manifests/{first}"), "NAME_UNKNOWN"),
        (
            &format!("/acr/v1/app/_manifests/{}", sha256(b"none")),
            "MANIFEST_UNKNOWN",
        ),
    ] {
        registry.patch(path, &change).await.refused(404, code);
        registry.call("GET", path).await.refused(404, code);
    }
    // Members of other names, as quarantine's, are passed over.
    let change = json!({"quarantineState": "Passed", "teleportEnabled": true});
    registry.patch("/acr/v1/app", &change).await.is(200);
}

fn name() -> RepositoryName {
    "app".parse().expect("a name")
}

fn tag() -> Tag {
    "v1".parse().expect("a tag")
}

fn index(number: usize) -> Bytes {
    let text =
        format!("{{\"schemaVersion\":2,\"manifests\":[],\"annotations\":{{\"n\":\"{number}\"}}}}");
    Bytes::from(text)
}

fn digest_of(number: usize) -> Digest {
    sha256(&index(number)).parse().expect("a digest")
}

async fn put(content: &Content, number: usize) -> Result<(), ContentError> {
    let name = name();
    content
        .repository(REGISTRY, &name)
        .put_manifest(
            &Reference::Tag(tag()),
            Some(OCI_INDEX),
            index(number),
            "somebody",
        )
        .await
        .map(drop)
}

async fn pulled(content: &Content) -> Option<Digest> {
    let name = name();
    let repository = content.repository(REGISTRY, &name);
    let manifest = repository
        .manifest(&Reference::Tag(tag()))
        .await
        .expect("read");
    manifest.map(|manifest| manifest.digest)
}

/// What is locked.
#[derive(Clone, Copy, Debug)]
enum What {
    Tag,
    Manifest,
    Repository,
}

async fn lock(content: &Content, what: What, change: AttributeChange) -> Result<(), ContentError> {
    let name = name();
    let repository = content.repository(REGISTRY, &name);
    match what {
        What::Tag => repository.change_tag_attributes(&tag(), &change).await,
        What::Manifest => {
            let digest = digest_of(0);
            repository
                .change_manifest_attributes(&digest, &change)
                .await
        }
        What::Repository => repository.change_attributes(&change).await,
    }
}

/// A change that waits, at its call of this number, until others are done.
fn pauses_at(call: usize) -> Arc<Faults> {
    Faults::new(move |number| match number == call {
        true => Fault::Waits(5000),
        false => Fault::None,
    })
}

/// Runs a change against the setting of a lock, the change paused at each of its calls in turn, and tells what is left.
async fn overtaken<F: Future<Output = Result<(), ContentError>>>(
    what: What,
    lock_change: AttributeChange,
    change: impl Fn(Content) -> F,
) -> Vec<(
    Result<(), ContentError>,
    Result<(), ContentError>,
    Option<Digest>,
)> {
    let mut outcomes = Vec::new();
    for call in 0.. {
        let disk = Disk::default();
        put(&disk.open().await, 0).await.expect("pushed");
        let faults = pauses_at(call);
        let slow = disk.open_with(Arc::clone(&faults)).await.expect("it opens");
        let fast = disk.open().await;
        let (changed, locked) = tokio::join!(change(slow), lock(&fast, what, lock_change));
        outcomes.push((changed, locked, pulled(&fast).await));
        if faults.calls() <= call {
            break;
        }
    }
    outcomes
}

#[tokio::test]
async fn a_deletion_that_a_lock_overtakes_is_refused_or_came_first() {
    let no_delete = AttributeChange {
        delete_enabled: Some(false),
        ..AttributeChange::default()
    };
    for what in [What::Tag, What::Manifest, What::Repository] {
        for (kind, unknown) in [("manifest", false), ("tag", false), ("repository", true)] {
            // A manifest's lock does not keep a tag.
            if matches!((what, kind), (What::Manifest, "tag")) {
                continue;
            }
            let outcomes = overtaken(what, no_delete, async |content: Content| {
                let name = name();
                let repository = content.repository(REGISTRY, &name);
                match kind {
                    "manifest" => repository.delete_manifest(&digest_of(0)).await,
                    "tag" => repository.delete_tag(&tag()).await,
                    _ => repository.delete().await.map(drop),
                }
            });
            let (mut refused, mut done) = (0, 0);
            for (call, (deleted, locked, left)) in outcomes.await.into_iter().enumerate() {
                let place = format!("{kind} against a lock of {what:?}, call {call}");
                match (deleted, locked, left) {
                    (Err(ContentError::Locked { .. }), Ok(()), Some(_)) => refused += 1,
                    (Ok(()), Err(_), None) => done += 1,
                    // The deletion came first, and took something else than what was locked.
                    (Ok(()), Ok(()), None) if !unknown && matches!(what, What::Repository) => {
                        done += 1;
                    }
                    other => panic!("{place}: {other:?}"),
                }
            }
            assert!(
                refused > 0 && refused + done > 2,
                "{kind} {what:?}: {refused} {done}"
            );
        }
    }
}

#[tokio::test]
async fn a_push_that_a_lock_overtakes_is_refused_or_came_first() {
    let no_write = AttributeChange {
        write_enabled: Some(false),
        ..AttributeChange::default()
    };
    for what in [What::Tag, What::Repository] {
        let outcomes = overtaken(what, no_write, async |content: Content| {
            put(&content, 1).await
        });
        for (call, (pushed, locked, left)) in outcomes.await.into_iter().enumerate() {
            let (old, new) = (Some(digest_of(0)), Some(digest_of(1)));
            let is_one_story = match (&pushed, &locked) {
                (Err(ContentError::Locked { .. }), Ok(())) => left == old,
                (Ok(()), Ok(())) => left == new,
                _ => false,
            };
            assert!(
                is_one_story,
                "{what:?}, call {call}: {pushed:?} {locked:?} {left:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_push_that_the_end_of_a_lock_overtakes_does_not_bring_it_back() {
    let deletion = |is_enabled| AttributeChange {
        delete_enabled: Some(is_enabled),
        ..AttributeChange::default()
    };
    for call in 0.. {
        let disk = Disk::default();
        let fast = disk.open().await;
        put(&fast, 0).await.expect("pushed");
        lock(&fast, What::Tag, deletion(false))
            .await
            .expect("locked");
        let faults = pauses_at(call);
        let slow = disk.open_with(Arc::clone(&faults)).await.expect("it opens");
        let unlocking = lock(&fast, What::Tag, deletion(true));
        let (pushed, unlocked) = tokio::join!(put(&slow, 1), unlocking);
        pushed.expect("pushed");
        unlocked.expect("unlocked");
        let name = name();
        let repository = fast.repository(REGISTRY, &name);
        let shown = repository.tag_properties(&tag()).await.expect("there");
        assert_eq!(shown.digest, digest_of(1), "call {call}");
        assert!(shown.attributes.delete_enabled, "call {call}");
        if faults.calls() <= call {
            break;
        }
    }
}
