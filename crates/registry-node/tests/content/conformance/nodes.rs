//! Any number of nodes on one store, none of them special: what one began another continues, what one changed another shows at once,
//! and of those who change the same thing at the same time one wins, wherever they are.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::super::harness::{OCI_INDEX, Registry, noise, sha256};
use super::requirements;

requirements![of several nodes:
    any_node_continues_any_upload,
    any_node_cancels_any_upload,
    of_chunks_at_once_one_is_taken,
    an_upload_that_is_finished_twice_at_once_is_a_blob,
    a_blob_that_is_pushed_at_once_is_there_for_all,
    pushes_of_a_tag_at_once_end_in_one_of_them,
    tags_of_one_manifest_at_once_are_all_there,
    what_is_pushed_at_one_node_is_listed_at_the_other,
    what_is_deleted_at_one_node_is_gone_at_the_other,
    of_changes_that_build_on_the_same_one_is_made,
    a_deletion_and_pushes_of_its_manifest_leave_one_story,
    a_deleted_tag_and_a_pushed_one_leave_one_story,
];

/// Requests that are under way at once.
const AT_ONCE: usize = 6;

fn index(number: usize) -> Vec<u8> {
    json!({"schemaVersion": 2, "manifests": [], "annotations": {"n": number.to_string()}})
        .to_string()
        .into_bytes()
}

async fn put(registry: &Registry, tag: &str, manifest: &[u8]) {
    let put = registry.put_manifest("app", tag, OCI_INDEX, manifest).await;
    put.is(201);
}

/// Tags that are listed, each with the digest it leads to: the same at every node.
async fn tags(registry: &Registry) -> Vec<(String, String)> {
    let mut seen = Vec::new();
    for number in 0..registry.nodes.len() {
        let node = registry.at_node(number);
        let listed = node.get("/v2/app/tags/list").await.is(200).json();
        let mut found = Vec::new();
        for tag in listed["tags"].as_array().expect("tags") {
            let tag = tag.as_str().expect("a tag").to_owned();
            let read = node.get(&format!("/v2/app/manifests/{tag}")).await;
            // What is listed is there.
            let digest = read.is(200).header("docker-content-digest").to_owned();
            found.push((tag, digest));
        }
        seen.push(found);
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
    seen.swap_remove(0)
}

async fn any_node_continues_any_upload(registry: Registry) {
    let [one, other] = [registry.at_node(0), registry.at_node(1)];
    let bytes = noise(1, 1_500_000);
    let location = one.begin_upload("app").await;
    let first = other.chunk(&location, "0-1199999", &bytes[..1_200_000]);
    first.await.is(202);
    assert_eq!(
        one.get(&location).await.is(204).header("range"),
        "0-1199999"
    );
    one.chunk(&location, "0-2", b"abc").await.is(416);
    let second = one.chunk(&location, "1200000-1200000", &bytes[1_200_000..1_200_001]);
    second.await.is(202);
    let digest = sha256(&bytes);
    let finished = other.finish(&location, &digest, &bytes[1_200_001..]);
    let finished = finished.await.is(201);
    let read = one.get(finished.header("location")).await.is(200);
    assert!(read.body == bytes);
    one.get(&location).await.is(404);
}

async fn any_node_cancels_any_upload(registry: Registry) {
    let [one, other] = [registry.at_node(0), registry.at_node(1)];
    let location = one.begin_upload("app").await;
    one.chunk(&location, "0-2", b"abc").await.is(202);
    other.delete(&location).await.is(204);
    one.chunk(&location, "3-5", b"def").await.is(404);
}

async fn of_chunks_at_once_one_is_taken(registry: Registry) {
    let location = registry.begin_upload("app").await;
    let chunks: Vec<Vec<u8>> = (0..AT_ONCE as u64)
        .map(|seed| noise(seed, 20_000))
        .collect();
    let answers = chunks
        .iter()
        .map(|chunk| registry.chunk(&location, "0-19999", chunk));
    let statuses: Vec<u16> = join_all(answers)
        .await
        .iter()
        .map(|answer| answer.status.as_u16())
        .collect();
    let won: Vec<usize> = (0..AT_ONCE)
        .filter(|number| statuses[*number] == 202)
        .collect();
    assert_eq!(won.len(), 1, "{statuses:?}");
    assert!(
        statuses.iter().all(|status| [202, 416].contains(status)),
        "{statuses:?}"
    );
    let chunk = &chunks[won[0]];
    let finished = registry
        .finish(&location, &sha256(chunk), b"")
        .await
        .is(201);
    let read = registry.get(finished.header("location")).await.is(200);
    assert!(read.body == *chunk);
}

async fn an_upload_that_is_finished_twice_at_once_is_a_blob(registry: Registry) {
    let bytes = noise(1, 20_000);
    let digest = sha256(&bytes);
    let location = registry.begin_upload("app").await;
    registry.chunk(&location, "0-19999", &bytes).await.is(202);
    let ends = (0..AT_ONCE).map(|_| registry.finish(&location, &digest, b""));
    let statuses: Vec<u16> = join_all(ends)
        .await
        .iter()
        .map(|answer| answer.status.as_u16())
        .collect();
    assert!(statuses.contains(&201), "{statuses:?}");
    assert!(
        statuses
            .iter()
            .all(|status| [201, 404, 416].contains(status)),
        "{statuses:?}"
    );
    let read = registry.get(&format!("/v2/app/blobs/{digest}")).await;
    assert!(read.is(200).body == bytes);
}

async fn a_blob_that_is_pushed_at_once_is_there_for_all(registry: Registry) {
    let bytes = noise(1, 20_000);
    let digest = sha256(&bytes);
    let repositories: Vec<String> = (0..AT_ONCE)
        .map(|number| format!("app{}", number / 2))
        .collect();
    let pushes = repositories
        .iter()
        .map(|repository| registry.push_blob(repository, &bytes));
    join_all(pushes).await;
    for repository in &repositories {
        let path = format!("/v2/{repository}/blobs/{digest}");
        assert!(registry.get(&path).await.is(200).body == bytes);
    }
}

async fn pushes_of_a_tag_at_once_end_in_one_of_them(registry: Registry) {
    let manifests: Vec<Vec<u8>> = (0..AT_ONCE).map(index).collect();
    let pushes = manifests
        .iter()
        .map(|manifest| put(&registry, "latest", manifest));
    join_all(pushes).await;
    let tags = tags(&registry).await;
    assert_eq!(tags.len(), 1);
    assert!(
        manifests
            .iter()
            .any(|manifest| sha256(manifest) == tags[0].1)
    );
    // Those that lost are manifests without a tag, not lost.
    for manifest in &manifests {
        let path = format!("/v2/app/manifests/{}", sha256(manifest));
        assert_eq!(registry.get(&path).await.is(200).body, *manifest);
    }
}

async fn tags_of_one_manifest_at_once_are_all_there(registry: Registry) {
    let names: Vec<String> = (0..AT_ONCE).map(|number| format!("t{number}")).collect();
    let manifest = index(0);
    join_all(names.iter().map(|tag| put(&registry, tag, &manifest))).await;
    let digest = sha256(&manifest);
    let expected: Vec<(String, String)> =
        names.into_iter().map(|tag| (tag, digest.clone())).collect();
    assert_eq!(tags(&registry).await, expected);
}

async fn what_is_pushed_at_one_node_is_listed_at_the_other(registry: Registry) {
    let [one, other] = [registry.at_node(0), registry.at_node(1)];
    for number in 1..6 {
        put(&one, &format!("v{number}"), &index(number)).await;
        let listed = other.get("/v2/app/tags/list").await.is(200).json();
        assert_eq!(listed["tags"].as_array().expect("tags").len(), number);
    }
    let repositories = other.get("/v2/_catalog").await.is(200).json();
    assert_eq!(repositories["repositories"], json!(["app"]));
}

async fn what_is_deleted_at_one_node_is_gone_at_the_other(registry: Registry) {
    let [one, other] = [registry.at_node(0), registry.at_node(1)];
    let digest = one.push_image("app", "v1", b"layer").await;
    let paths = [
        format!("/v2/app/manifests/{digest}"),
        "/v2/app/manifests/v1".to_owned(),
    ];
    // Twice, so that whatever a node remembers is remembered.
    for path in [&paths, &paths].into_iter().flatten() {
        one.get(path).await.is(200);
    }
    other.delete(&paths[0]).await.is(202);
    for path in &paths {
        one.get(path).await.refused(404, "MANIFEST_UNKNOWN");
    }
    let listed = one.get("/v2/app/tags/list").await.is(200).json();
    assert_eq!(listed["tags"], json!([]));
    let blob = format!("/v2/app/blobs/{}", sha256(b"layer"));
    one.get(&blob).await.is(200);
    other.delete(&blob).await.is(202);
    one.get(&blob).await.refused(404, "BLOB_UNKNOWN");
}

/// Adds an entry to the list under a tag, as clients do that keep lists there, again until nobody else was faster.
async fn add_entry(registry: &Registry, number: usize) {
    loop {
        let read = registry.get("/v2/app/manifests/list").await.is(200);
        let mut list = read.json();
        list["annotations"][number.to_string()] = json!("here");
        let request = registry
            .request("PUT", "/v2/app/manifests/list")
            .header("content-type", OCI_INDEX)
            .header("if-match", read.header("etag"))
            .body(list.to_string());
        match registry.send(request).await.status.as_u16() {
            201 => return,
            status => assert_eq!(status, 412),
        }
    }
}

async fn of_changes_that_build_on_the_same_one_is_made(registry: Registry) {
    put(&registry, "list", &index(0)).await;
    join_all((0..AT_ONCE).map(|number| add_entry(&registry, number))).await;
    let list = registry.get("/v2/app/manifests/list").await.json();
    let entries = list["annotations"].as_object().expect("entries");
    let entries: BTreeSet<&str> = entries
        .iter()
        .filter(|(_, value)| **value == json!("here"))
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(entries.len(), AT_ONCE, "an entry was lost: {entries:?}");
}

async fn a_deletion_and_pushes_of_its_manifest_leave_one_story(registry: Registry) {
    let manifest = index(0);
    let path = format!("/v2/app/manifests/{}", sha256(&manifest));
    for round in 0..3 {
        put(&registry, "old", &manifest).await;
        let names = [format!("one{round}"), format!("two{round}")];
        let (deleted, ..) = tokio::join!(
            registry.delete(&path),
            put(&registry, &names[0], &manifest),
            put(&registry, &names[1], &manifest),
        );
        deleted.is(202);
        let found = tags(&registry).await;
        // Each push came before the deletion, and went with it, or after, and is there; the old tag went.
        assert!(
            found.iter().all(|(tag, _)| names.contains(tag)),
            "{found:?}"
        );
        let is_there = registry.get(&path).await.status == 200;
        assert!(is_there || found.is_empty(), "{found:?}");
        // Whatever happened, the next deletion takes all.
        if is_there {
            registry.delete(&path).await.is(202);
        }
        assert_eq!(tags(&registry).await, []);
    }
}

async fn a_deleted_tag_and_a_pushed_one_leave_one_story(registry: Registry) {
    let manifests = [index(0), index(1)];
    for _ in 0..3 {
        put(&registry, "v1", &manifests[0]).await;
        let (deleted, ()) = tokio::join!(
            registry.delete("/v2/app/manifests/v1"),
            put(&registry, "v1", &manifests[1]),
        );
        deleted.is(202);
        let found = tags(&registry).await;
        let pushed = vec![("v1".to_owned(), sha256(&manifests[1]))];
        assert!(found.is_empty() || found == pushed, "{found:?}");
        for manifest in &manifests {
            let path = format!("/v2/app/manifests/{}", sha256(manifest));
            registry.get(&path).await.is(200);
        }
    }
    let listed: Value = registry.get("/v2/_catalog").await.json();
    assert_eq!(listed["repositories"], json!(["app"]));
}
