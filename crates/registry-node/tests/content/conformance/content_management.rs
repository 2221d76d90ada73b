//! "Content Management" of the specification: the deletion of tags, manifests and blobs.

use serde_json::json;

use super::super::harness::{OCI_INDEX, OCI_MANIFEST, Registry, sha256, sha512};
use super::requirements;

requirements![
    a_tag_is_deleted,
    a_manifest_is_deleted_with_its_tags,
    a_deleted_manifest_is_pushed_again_without_its_old_tags,
    an_index_is_deleted_without_its_manifests,
    what_is_not_there_cannot_be_deleted,
    a_malformed_reference_is_not_deleted,
    a_blob_is_deleted_from_one_repository,
    content_of_sha512_is_deleted,
    a_tag_is_deleted_only_if_it_is_what_the_client_read,
    a_method_that_a_path_does_not_have_is_405,
];

async fn tags(registry: &Registry) -> serde_json::Value {
    let listed = registry.get("/v2/app/tags/list").await.is(200).json();
    listed["tags"].clone()
}

/// "Deleting tags": 202; the tag is 404 at once, the manifest stays.
async fn a_tag_is_deleted(registry: Registry) {
    let digest = registry.push_image("app", "v1", b"one").await;
    registry.push_image("app", "v2", b"one").await;
    let path = "/v2/app/manifests/v1";
    registry.delete(path).await.is(202);
    for _ in 0..2 {
        registry.get(path).await.refused(404, "MANIFEST_UNKNOWN");
        registry.head(path).await.is(404);
        registry.delete(path).await.refused(404, "MANIFEST_UNKNOWN");
    }
    for reference in [digest.as_str(), "v2"] {
        let path = format!("/v2/app/manifests/{reference}");
        registry.get(&path).await.is(200);
    }
    assert_eq!(tags(&registry).await, json!(["v2"]));
}

/// "Deleting Manifests": 202; "a `GET` to `/v2/<name>/manifests/<digest>` and any tag pointing to that digest will return a 404".
async fn a_manifest_is_deleted_with_its_tags(registry: Registry) {
    let first = registry.push_image("app", "v1", b"one").await;
    registry.push_image("app", "also-v1", b"one").await;
    registry.push_image("app", "v2", b"two").await;
    // This tag moved away from the first manifest and stays.
    registry.push_image("app", "moved", b"one").await;
    let second = registry.push_image("app", "moved", b"two").await;
    registry.push_image("other", "v1", b"one").await;

    let path = format!("/v2/app/manifests/{first}");
    registry.delete(&path).await.is(202);
    for gone in [first.as_str(), "v1", "also-v1"] {
        let path = format!("/v2/app/manifests/{gone}");
        for _ in 0..2 {
            registry.get(&path).await.refused(404, "MANIFEST_UNKNOWN");
            registry
                .delete(&path)
                .await
                .refused(404, "MANIFEST_UNKNOWN");
        }
    }
    assert_eq!(tags(&registry).await, json!(["moved", "v2"]));
    let read = registry.get("/v2/app/manifests/moved").await.is(200);
    assert_eq!(read.header("docker-content-digest"), second);
    registry.get("/v2/other/manifests/v1").await.is(200);
}

/// What was deleted does not come back by itself.
async fn a_deleted_manifest_is_pushed_again_without_its_old_tags(registry: Registry) {
    let digest = registry.push_image("app", "v1", b"one").await;
    let path = format!("/v2/app/manifests/{digest}");
    registry.delete(&path).await.is(202);
    registry.push_image("app", "again", b"one").await;
    registry.get(&path).await.is(200);
    assert_eq!(tags(&registry).await, json!(["again"]));
}

/// "Deleting Manifests": nothing else goes with it; and what an index names may go before it.
async fn an_index_is_deleted_without_its_manifests(registry: Registry) {
    let image = registry.push_image("app", "image", b"one").await;
    let child = json!({"mediaType": OCI_MANIFEST, "digest": image, "size": 1});
    let index = json!({"schemaVersion": 2, "manifests": [child]}).to_string();
    let index_path = format!("/v2/app/manifests/{}", sha256(index.as_bytes()));
    let image_path = format!("/v2/app/manifests/{image}");
    let put = async || {
        let put = registry.put_manifest("app", "index", OCI_INDEX, index.as_bytes());
        put.await.is(201)
    };
    put().await;
    registry.delete(&index_path).await.is(202);
    registry.get(&image_path).await.is(200);
    put().await;
    registry.delete(&image_path).await.is(202);
    registry.get(&index_path).await.is(200);
    registry.delete(&index_path).await.is(202);
}

/// "Deleting Manifests", "Deleting Blobs": 404.
async fn what_is_not_there_cannot_be_deleted(registry: Registry) {
    registry.push_image("app", "v1", b"one").await;
    for repository in ["app", "nowhere"] {
        for reference in ["v2".to_owned(), sha256(b"unknown"), sha512(b"unknown")] {
            let path = format!("/v2/{repository}/manifests/{reference}");
            registry
                .delete(&path)
                .await
                .refused(404, "MANIFEST_UNKNOWN");
        }
        let path = format!("/v2/{repository}/blobs/{}", sha256(b"unknown"));
        registry.delete(&path).await.refused(404, "BLOB_UNKNOWN");
    }
}

/// "Error Codes", `DIGEST_INVALID`, `NAME_INVALID`.
async fn a_malformed_reference_is_not_deleted(registry: Registry) {
    for path in [
        "/v2/app/manifests/sha256:1",
        "/v2/app/blobs/sha256:1",
        "/v2/app/blobs/latest",
    ] {
        registry.delete(path).await.refused(400, "DIGEST_INVALID");
    }
    for path in ["/v2/App/manifests/v1", "/v2/a//b/manifests/v1"] {
        registry.delete(path).await.refused(400, "NAME_INVALID");
    }
}

/// "Deleting Blobs": 202, and 404 from then on; other repositories keep the blob.
async fn a_blob_is_deleted_from_one_repository(registry: Registry) {
    let digest = registry.push_blob("app", b"abc").await;
    registry.push_blob("other", b"abc").await;
    let path = format!("/v2/app/blobs/{digest}");
    let other = format!("/v2/other/blobs/{digest}");
    registry.delete(&path).await.is(202);
    for _ in 0..2 {
        registry.get(&path).await.refused(404, "BLOB_UNKNOWN");
        registry.head(&path).await.is(404);
        registry.delete(&path).await.refused(404, "BLOB_UNKNOWN");
        assert_eq!(registry.get(&other).await.is(200).body, b"abc");
    }
    registry.push_blob("app", b"abc").await;
    assert_eq!(registry.get(&path).await.is(200).body, b"abc");
}

/// Both algorithms are alike in everything.
async fn content_of_sha512_is_deleted(registry: Registry) {
    let config = sha512(b"{}");
    let location = registry.begin_upload("app").await;
    registry.finish(&location, &config, b"{}").await.is(201);
    let descriptor = json!({"mediaType": "a/b", "digest": config, "size": 2});
    let manifest = json!({"schemaVersion": 2, "config": descriptor, "layers": []}).to_string();
    let digest = sha512(manifest.as_bytes());
    let put = registry
        .put_manifest("app", &digest, OCI_MANIFEST, manifest.as_bytes())
        .await;
    put.is(201);
    for path in [
        format!("/v2/app/manifests/{digest}"),
        format!("/v2/app/blobs/{config}"),
    ] {
        registry.get(&path).await.is(200);
        registry.delete(&path).await.is(202);
        registry.get(&path).await.is(404);
    }
}

/// RFC 9110, 13.1.1.
async fn a_tag_is_deleted_only_if_it_is_what_the_client_read(registry: Registry) {
    let first = registry.push_image("app", "v1", b"one").await;
    let second = registry.push_image("app", "v1", b"two").await;
    let delete = |path: &str, condition: &str| {
        let request = registry.request("DELETE", path);
        registry.send(request.header("if-match", format!("\"{condition}\"")))
    };
    let path = "/v2/app/manifests/v1";
    delete(path, &first)
        .await
        .refused(412, "PRECONDITION_FAILED");
    registry.get(path).await.is(200);
    delete(path, &second).await.is(202);
    delete(path, &second).await.refused(404, "MANIFEST_UNKNOWN");
    let by_digest = format!("/v2/app/manifests/{second}");
    delete(&by_digest, &first)
        .await
        .refused(412, "PRECONDITION_FAILED");
    delete(&by_digest, &second).await.is(202);
}

/// RFC 9110, 15.5.6: `Allow` names those that it has.
async fn a_method_that_a_path_does_not_have_is_405(registry: Registry) {
    let blob = format!("/v2/app/blobs/{}", sha256(b"abc"));
    let referrers = format!("/v2/app/referrers/{}", sha256(b"abc"));
    let cases = [
        ("POST", "/v2/", "GET, HEAD"),
        ("DELETE", "/v2/_catalog", "GET, HEAD"),
        ("DELETE", "/v2/app/tags/list", "GET, HEAD"),
        ("PUT", referrers.as_str(), "GET, HEAD"),
        ("PUT", blob.as_str(), "GET, HEAD, DELETE"),
        ("POST", "/v2/app/manifests/v1", "GET, HEAD, PUT, DELETE"),
        ("GET", "/v2/app/blobs/uploads/", "POST"),
    ];
    for (method, path, allowed) in cases {
        let refused = registry.call(method, path).await;
        let refused = refused.refused(405, "UNSUPPORTED");
        assert_eq!(refused.header("allow"), allowed, "{method} {path}");
    }
}
