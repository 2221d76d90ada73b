//! Manifests, tags, referrers and the listings.

use serde_json::{Value, json};

use super::harness::{OCI_INDEX, OCI_MANIFEST, REGISTRY, Registry, image_manifest, open, sha256};
use registry_node::content::{DOCKER_MANIFEST, DOCKER_MANIFEST_LIST};

#[actix_web::test]
async fn an_image_is_pulled_as_it_was_pushed() {
    let registry = Registry::start().await;
    let config = registry.push_blob("team/app", b"{}").await;
    let layer = registry.push_blob("team/app", b"layer").await;
    let manifest = image_manifest(&[(&config, 2)], &[(&layer, 5)]);
    let put = registry
        .put_manifest("team/app", "v1", OCI_MANIFEST, &manifest)
        .await
        .is(201);
    let digest = sha256(&manifest);
    assert_eq!(put.header("docker-content-digest"), digest);
    assert_eq!(
        put.header("location"),
        format!("/v2/team/app/manifests/{digest}")
    );
    for reference in ["v1", digest.as_str()] {
        let path = format!("/v2/team/app/manifests/{reference}");
        let read = registry.call("GET", &path).await.is(200);
        assert_eq!(read.body, manifest);
        assert_eq!(read.header("content-type"), OCI_MANIFEST);
        assert_eq!(read.header("docker-content-digest"), digest);
        let head = registry.call("HEAD", &path).await.is(200);
        assert_eq!(head.header("content-length"), manifest.len().to_string());
        let tag = read.header("etag").to_owned();
        let request = registry
            .request("GET", &path)
            .header("if-none-match", format!("\"x\", {tag}"));
        registry.send(request).await.is(304);
        let request = registry
            .request("GET", &path)
            .header("if-none-match", "\"x\"");
        registry.send(request).await.is(200);
    }
    let absent = registry.call("GET", "/v2/team/app/manifests/v2").await;
    absent.refused(404, "MANIFEST_UNKNOWN");
}

#[actix_web::test]
async fn a_manifest_whose_content_is_missing_is_refused() {
    let registry = Registry::start().await;
    let config = registry.push_blob("app", b"{}").await;
    registry.push_blob("elsewhere", b"layer").await;
    let missing = sha256(b"layer");
    let manifest = image_manifest(&[(&config, 2)], &[(&missing, 5)]);
    let refused = registry
        .put_manifest("app", "v1", OCI_MANIFEST, &manifest)
        .await;
    let refused = refused.refused(404, "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(
        refused.json()["errors"][0]["detail"]["digests"],
        json!([missing])
    );
    registry
        .call("GET", "/v2/app/manifests/v1")
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    let by_digest = format!("/v2/app/manifests/{}", sha256(&manifest));
    registry
        .call("GET", &by_digest)
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    registry
        .call("GET", "/v2/app/tags/list")
        .await
        .refused(404, "NAME_UNKNOWN");
    assert_eq!(
        registry.call("GET", "/v2/_catalog").await.json(),
        json!({"repositories": []})
    );

    let index = json!({"schemaVersion": 2, "manifests": [{"digest": missing, "size": 5}]});
    let index = index.to_string();
    let refused = registry
        .put_manifest("app", "v1", OCI_INDEX, index.as_bytes())
        .await;
    refused.refused(404, "MANIFEST_BLOB_UNKNOWN");
}

#[actix_web::test]
async fn all_kinds_of_manifests_are_taken() {
    let registry = Registry::start().await;
    let config = registry.push_blob("app", b"{}").await;
    let image = registry.push_image("app", "image", b"layer").await;
    let blob = json!({"mediaType": "a/b", "digest": config, "size": 2});
    let child = json!({"mediaType": OCI_MANIFEST, "digest": image, "size": 2});
    let foreign = json!({
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": sha256(b"not here"), "size": 8, "urls": ["https://example.com/layer"],
    });
    let cases = [
        (
            OCI_MANIFEST,
            json!({"schemaVersion": 2, "config": blob, "layers": []}),
        ),
        (
            DOCKER_MANIFEST,
            json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": blob, "layers": [foreign]}),
        ),
        (OCI_INDEX, json!({"schemaVersion": 2, "manifests": [child]})),
        (
            DOCKER_MANIFEST_LIST,
            json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST_LIST, "manifests": [child]}),
        ),
        (
            "application/vnd.example.thing.v1+json",
            json!({"config": 7, "layers": "none"}),
        ),
    ];
    for (media_type, manifest) in cases {
        let bytes = manifest.to_string();
        let with_parameter = format!("{media_type}; charset=utf-8");
        registry
            .put_manifest("app", "kind", &with_parameter, bytes.as_bytes())
            .await
            .is(201);
        let read = registry.call("GET", "/v2/app/manifests/kind").await.is(200);
        assert_eq!(read.header("content-type"), media_type);
        assert_eq!(read.body, bytes.as_bytes());
    }
}

#[actix_web::test]
async fn what_is_no_manifest_is_refused() {
    let registry = Registry::start().await;
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let blob = json!({"digest": sha256(b"x"), "size": 1});
    let cases: [(&str, Value); 11] = [
        (OCI_MANIFEST, json!({})),
        (OCI_MANIFEST, json!({"schemaVersion": 2, "layers": []})),
        (OCI_INDEX, json!({"schemaVersion": 2})),
        (OCI_MANIFEST, json!([])),
        (OCI_MANIFEST, json!({"schemaVersion": 1})),
        (signed, json!({"schemaVersion": 1})),
        (
            OCI_MANIFEST,
            json!({"schemaVersion": 2, "mediaType": OCI_INDEX}),
        ),
        (
            OCI_INDEX,
            json!({"schemaVersion": 2, "manifests": [], "layers": []}),
        ),
        (
            OCI_INDEX,
            json!({"schemaVersion": 2, "manifests": [], "config": blob}),
        ),
        (
            OCI_MANIFEST,
            json!({"schemaVersion": 2, "config": {"digest": "sha256:1"}}),
        ),
        ("nothing", json!({"schemaVersion": 2})),
    ];
    for (media_type, manifest) in cases {
        let bytes = manifest.to_string();
        let refused = registry
            .put_manifest("app", "v1", media_type, bytes.as_bytes())
            .await;
        refused.refused(400, "MANIFEST_INVALID");
    }
    let refused = registry
        .put_manifest("app", "v1", OCI_MANIFEST, b"{\"a\":")
        .await;
    refused.refused(400, "MANIFEST_INVALID");
    let other = sha256(b"other");
    let refused = registry
        .put_manifest(
            "app",
            &other,
            OCI_INDEX,
            br#"{"schemaVersion":2,"manifests":[]}"#,
        )
        .await;
    refused.refused(400, "DIGEST_INVALID");
    let huge = vec![b' '; 4 * 1024 * 1024 + 1];
    let refused = registry
        .put_manifest("app", "v1", OCI_MANIFEST, &huge)
        .await;
    refused.refused(413, "SIZE_INVALID");
    assert_eq!(
        registry.call("GET", "/v2/_catalog").await.json(),
        json!({"repositories": []})
    );
}

#[actix_web::test]
async fn a_deleted_manifest_takes_its_tags_along() {
    let registry = Registry::start().await;
    let first = registry.push_image("app", "v1", b"one").await;
    registry.push_image("app", "also-v1", b"one").await;
    registry.push_image("app", "v2", b"two").await;
    // This tag moved away from the first manifest and stays.
    registry.push_image("app", "moved", b"one").await;
    let second = registry.push_image("app", "moved", b"two").await;

    let path = format!("/v2/app/manifests/{first}");
    registry.call("DELETE", &path).await.is(202);
    registry
        .call("DELETE", &path)
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    for gone in [first.as_str(), "v1", "also-v1"] {
        let read = registry
            .call("GET", &format!("/v2/app/manifests/{gone}"))
            .await;
        read.refused(404, "MANIFEST_UNKNOWN");
    }
    let tags = registry
        .call("GET", "/v2/app/tags/list")
        .await
        .is(200)
        .json();
    assert_eq!(tags, json!({"name": "app", "tags": ["moved", "v2"]}));
    let read = registry
        .call("GET", "/v2/app/manifests/moved")
        .await
        .is(200);
    assert_eq!(read.header("docker-content-digest"), second);

    // The same manifest pushed again does not bring its old tags back.
    registry.push_image("app", "again", b"one").await;
    let tags = registry.call("GET", "/v2/app/tags/list").await.json();
    assert_eq!(tags["tags"], json!(["again", "moved", "v2"]));
}

#[actix_web::test]
async fn a_deleted_tag_leaves_the_manifest() {
    let registry = Registry::start().await;
    let digest = registry.push_image("app", "v1", b"one").await;
    registry
        .call("DELETE", "/v2/app/manifests/v1")
        .await
        .is(202);
    registry
        .call("DELETE", "/v2/app/manifests/v1")
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    registry
        .call("GET", "/v2/app/manifests/v1")
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    registry
        .call("GET", &format!("/v2/app/manifests/{digest}"))
        .await
        .is(200);
    assert_eq!(
        registry.call("GET", "/v2/app/tags/list").await.json()["tags"],
        json!([])
    );
}

#[actix_web::test]
async fn another_process_deletes_and_this_one_sees_it_at_once() {
    let registry = Registry::start().await;
    let digest = registry.push_image("app", "v1", b"one").await;
    let path = format!("/v2/app/manifests/{digest}");
    registry.call("GET", &path).await.is(200);
    registry.call("GET", &path).await.is(200);
    let other = open(registry.directory.path()).await;
    let name = "app".parse().expect("a name");
    let digest = digest.parse().expect("a digest");
    other
        .repository(REGISTRY, &name)
        .delete_manifest(&digest)
        .await
        .expect("deleted");
    registry
        .call("GET", &path)
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    registry
        .call("GET", "/v2/app/manifests/v1")
        .await
        .refused(404, "MANIFEST_UNKNOWN");
}

/// Follows `Link` from page to page.
async fn pages(registry: &Registry, first: &str, member: &str) -> Vec<Vec<Value>> {
    let mut path = first.to_owned();
    let mut pages = Vec::new();
    loop {
        let answer = registry.call("GET", &path).await.is(200);
        pages.push(answer.json()[member].as_array().expect("entries").clone());
        let link = answer.header("link");
        if link.is_empty() {
            return pages;
        }
        let end = link.find(">; rel=\"next\"").expect("a next link");
        path = link[1..end].to_owned();
    }
}

#[actix_web::test]
async fn listings_come_in_pages_and_in_order() {
    let registry = Registry::start().await;
    let names = ["a", "a-b", "a.b", "a/b", "a/b/c", "a0", "b"];
    for name in names {
        registry.push_image(name, "v1", b"one").await;
    }
    let all = pages(&registry, "/v2/_catalog", "repositories").await;
    assert_eq!(all, [names.map(Value::from).to_vec()]);
    for n in 1..9 {
        let found = pages(&registry, &format!("/v2/_catalog?n={n}"), "repositories").await;
        assert!(found.iter().all(|page| page.len() <= n));
        assert_eq!(found.concat(), names.map(Value::from));
        assert_eq!(found.len(), names.len().div_ceil(n));
    }
    let after = registry.call("GET", "/v2/_catalog?last=a.a").await.json();
    assert_eq!(after["repositories"], json!(names[2..]));
    let none = registry
        .call("GET", "/v2/_catalog?n=0")
        .await
        .is(200)
        .json();
    assert_eq!(none["repositories"], json!([]));

    let tags = ["10", "9", "A", "_x", "latest", "v1.0"];
    for tag in tags {
        registry.push_image("tagged", tag, b"one").await;
    }
    for n in 1..8 {
        let found = pages(&registry, &format!("/v2/tagged/tags/list?n={n}"), "tags").await;
        assert_eq!(found.concat(), tags.map(Value::from));
    }
    let after = registry
        .call("GET", "/v2/tagged/tags/list?last=a&n=1")
        .await
        .json();
    assert_eq!(after["tags"], json!(["latest"]));
}

#[actix_web::test]
async fn a_new_entry_is_listed_at_once() {
    let registry = Registry::start().await;
    for number in 0..30 {
        registry
            .push_image("app", &format!("v{number:02}"), b"one")
            .await;
        let tags = registry.call("GET", "/v2/app/tags/list").await.json();
        assert_eq!(tags["tags"].as_array().expect("tags").len(), number + 1);
    }
}

#[actix_web::test]
async fn referrers_are_listed_and_go_with_their_manifest() {
    let registry = Registry::start().await;
    let config = registry.push_blob("app", b"{}").await;
    let subject = registry.push_image("app", "v1", b"one").await;
    let listing = format!("/v2/app/referrers/{subject}");
    let empty = registry.call("GET", &listing).await.is(200);
    assert_eq!(empty.header("content-type"), OCI_INDEX);
    assert_eq!(empty.json()["manifests"], json!([]));

    let mut digests = Vec::new();
    for (number, kind) in ["application/vnd.a+json", "b/b", "application/vnd.a+json"]
        .iter()
        .enumerate()
    {
        let referrer = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind,
            "config": {"mediaType": "c/c", "digest": config, "size": 2}, "layers": [],
            "subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1},
            "annotations": {"number": number.to_string()},
        });
        let bytes = referrer.to_string();
        let digest = sha256(bytes.as_bytes());
        let put = registry
            .put_manifest("app", &digest, OCI_MANIFEST, bytes.as_bytes())
            .await
            .is(201);
        assert_eq!(put.header("oci-subject"), subject);
        digests.push(digest);
    }
    let found = pages(&registry, &format!("{listing}?n=2"), "manifests").await;
    assert_eq!(found.len(), 2);
    let mut listed: Vec<String> = found
        .concat()
        .iter()
        .map(|entry| entry["digest"].as_str().expect("a digest").to_owned())
        .collect();
    let mut expected = digests.clone();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);

    let filtered = registry
        .call(
            "GET",
            &format!("{listing}?artifactType=application/vnd.a%2Bjson"),
        )
        .await;
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    assert_eq!(
        filtered.json()["manifests"]
            .as_array()
            .expect("entries")
            .len(),
        2
    );
    let other = registry
        .call("GET", &format!("{listing}?artifactType=b/b"))
        .await
        .json();
    assert_eq!(other["manifests"][0]["annotations"], json!({"number": "1"}));
    assert_eq!(other["manifests"][0]["artifactType"], "b/b");

    registry
        .call("DELETE", &format!("/v2/app/manifests/{}", digests[1]))
        .await
        .is(202);
    let left = registry.call("GET", &listing).await.json();
    assert_eq!(left["manifests"].as_array().expect("entries").len(), 2);
}
