//! "Content Discovery" of the specification, "Listing Referrers", and the tags that stand in where a registry has no such listing.

use serde_json::{Value, json};

use super::super::harness::{OCI_INDEX, OCI_MANIFEST, Registry, sha256, sha512};
use super::requirements;

requirements![
    the_referrers_of_anything_are_an_index,
    a_malformed_digest_is_400,
    a_referrer_is_described,
    an_image_without_artifact_type_has_that_of_its_config,
    an_index_without_artifact_type_has_none,
    referrers_may_come_before_their_subject,
    a_subject_has_either_digest_algorithm,
    referrers_are_filtered_by_artifact_type,
    many_referrers_come_in_pages,
    referrers_are_those_of_one_repository,
    a_deleted_referrer_is_not_listed,
    a_deleted_subject_keeps_its_referrers,
    a_tag_of_the_referrers_tag_schema_is_a_tag,
];

/// A manifest about `subject`: an artifact, whose config has the media type `config/type`.
fn artifact(subject: &str, artifact_type: Option<&str>, number: usize) -> Value {
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [],
        "config": {"mediaType": "config/type", "digest": sha256(b"{}"), "size": 2},
        "subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1},
        "annotations": {"org.example.number": number.to_string(), "empty": ""},
    });
    if let Some(artifact_type) = artifact_type {
        manifest["artifactType"] = json!(artifact_type);
    }
    manifest
}

/// Pushes a manifest by its digest, with the config that it may have.
async fn push(registry: &Registry, media_type: &str, manifest: &Value) -> String {
    registry.push_blob("app", b"{}").await;
    let bytes = manifest.to_string();
    let digest = sha256(bytes.as_bytes());
    let put = registry
        .put_manifest("app", &digest, media_type, bytes.as_bytes())
        .await;
    put.is(201);
    digest
}

/// The descriptors listed, by digest.
async fn referrers(registry: &Registry, subject: &str) -> Vec<Value> {
    let listed = registry.get(&format!("/v2/app/referrers/{subject}")).await;
    let listed = listed.is(200).json();
    listed["manifests"].as_array().expect("manifests").clone()
}

/// "Listing Referrers": 200 and an index, never 404, of `application/vnd.oci.image.index.v1+json`.
async fn the_referrers_of_anything_are_an_index(registry: Registry) {
    let subject = registry.push_image("app", "v1", b"one").await;
    for (repository, digest) in [
        ("app", subject.clone()),
        ("app", sha256(b"unknown")),
        ("nowhere", sha512(b"unknown")),
    ] {
        let path = format!("/v2/{repository}/referrers/{digest}");
        let listed = registry.get(&path).await.is(200);
        assert_eq!(listed.header("content-type"), OCI_INDEX);
        assert_eq!(listed.header("oci-filters-applied"), "");
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []});
        assert_eq!(listed.json(), index);
    }
}

/// "Listing Referrers": "If the request is invalid […] a `400 Bad Request` MUST be returned."
async fn a_malformed_digest_is_400(registry: Registry) {
    for digest in ["sha256:1", "latest", "md5:abc", "sha256%3A"] {
        let listed = registry.get(&format!("/v2/app/referrers/{digest}")).await;
        listed.refused(400, "DIGEST_INVALID");
    }
}

/// "Listing Referrers": media type, digest, size, `artifactType` and all annotations.
async fn a_referrer_is_described(registry: Registry) {
    let subject = registry.push_image("app", "v1", b"one").await;
    let manifest = artifact(&subject, Some("application/vnd.example.sbom.v1"), 7);
    let digest = push(&registry, OCI_MANIFEST, &manifest).await;
    let expected = json!({
        "mediaType": OCI_MANIFEST, "digest": digest, "size": manifest.to_string().len(),
        "artifactType": "application/vnd.example.sbom.v1",
        "annotations": {"org.example.number": "7", "empty": ""},
    });
    assert_eq!(referrers(&registry, &subject).await, [expected]);
}

/// "Listing Referrers": "the value of `artifactType` MUST be set to the config descriptor `mediaType` value".
async fn an_image_without_artifact_type_has_that_of_its_config(registry: Registry) {
    let subject = sha256(b"subject");
    push(&registry, OCI_MANIFEST, &artifact(&subject, None, 0)).await;
    push(&registry, OCI_MANIFEST, &artifact(&subject, Some(""), 1)).await;
    let listed = referrers(&registry, &subject).await;
    assert_eq!(listed.len(), 2);
    for descriptor in listed {
        assert_eq!(descriptor["artifactType"], json!("config/type"));
    }
}

/// "Listing Referrers": "If the `artifactType` is empty or missing in an index, the `artifactType` MUST be omitted."
async fn an_index_without_artifact_type_has_none(registry: Registry) {
    let subject = sha256(b"subject");
    let mut index = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [],
        "subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1},
    });
    push(&registry, OCI_INDEX, &index).await;
    index["artifactType"] = json!("");
    push(&registry, OCI_INDEX, &index).await;
    index["artifactType"] = json!("index/type");
    let with_type = push(&registry, OCI_INDEX, &index).await;
    let listed = referrers(&registry, &subject).await;
    assert_eq!(listed.len(), 3);
    for descriptor in listed {
        let expected = (descriptor["digest"] == json!(with_type)).then(|| json!("index/type"));
        assert_eq!(descriptor.get("artifactType"), expected.as_ref());
        assert_eq!(descriptor.get("annotations"), None);
    }
}

/// "Push": "allowing clients to push a manifest and referrers to that manifest in either order".
async fn referrers_may_come_before_their_subject(registry: Registry) {
    registry.push_image("app", "v1", b"one").await;
    let subject = sha256(&registry.get("/v2/app/manifests/v1").await.body);
    registry
        .delete(&format!("/v2/app/manifests/{subject}"))
        .await
        .is(202);
    let digest = push(&registry, OCI_MANIFEST, &artifact(&subject, None, 0)).await;
    registry.push_image("app", "v1", b"one").await;
    let listed = referrers(&registry, &subject).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["digest"], json!(digest));
}

/// "Listing Referrers": `<digest>` is the one in `subject`; the referrer's own may be of another algorithm.
async fn a_subject_has_either_digest_algorithm(registry: Registry) {
    let subject = sha512(b"subject");
    let manifest = artifact(&subject, None, 0).to_string();
    registry.push_blob("app", b"{}").await;
    let digest = sha512(manifest.as_bytes());
    for reference in [digest.as_str(), "referrer"] {
        let put = registry
            .put_manifest("app", reference, OCI_MANIFEST, manifest.as_bytes())
            .await;
        assert_eq!(put.is(201).header("oci-subject"), subject);
    }
    let mut listed: Vec<Value> = referrers(&registry, &subject)
        .await
        .iter()
        .map(|descriptor| descriptor["digest"].clone())
        .collect();
    listed.sort_by_key(Value::to_string);
    assert_eq!(listed, [json!(sha256(manifest.as_bytes())), json!(digest)]);
}

/// "Listing Referrers": `artifactType` filters, and `OCI-Filters-Applied` says so.
async fn referrers_are_filtered_by_artifact_type(registry: Registry) {
    let subject = sha256(b"subject");
    let kinds = [
        Some("application/vnd.a+json"),
        Some("b/b"),
        Some("application/vnd.a+json"),
        None,
    ];
    for (number, kind) in kinds.iter().enumerate() {
        push(&registry, OCI_MANIFEST, &artifact(&subject, *kind, number)).await;
    }
    let listing = format!("/v2/app/referrers/{subject}");
    for (filter, count) in [
        ("application/vnd.a%2Bjson", 2),
        ("application%2Fvnd.a+json", 2),
        ("b/b", 1),
        ("config/type", 1),
        ("c/c", 0),
    ] {
        let path = format!("{listing}?artifactType={filter}");
        let listed = registry.get(&path).await.is(200);
        assert_eq!(listed.header("oci-filters-applied"), "artifactType");
        let found = listed.json()["manifests"]
            .as_array()
            .expect("manifests")
            .len();
        assert_eq!(found, count, "{filter}");
    }
    let unfiltered = registry.get(&format!("{listing}?artifactType=")).await;
    assert_eq!(unfiltered.header("oci-filters-applied"), "");
    assert_eq!(referrers(&registry, &subject).await.len(), 4);
}

/// "Listing Referrers": "A `Link` header MUST be included in the response when the descriptor list cannot be returned in a single
/// manifest." Which is at 4 MiB, and where a client asks for fewer.
async fn many_referrers_come_in_pages(registry: Registry) {
    let subject = sha256(b"subject");
    let mut expected = Vec::new();
    for number in 0..5 {
        let mut manifest = artifact(&subject, Some("a/a"), number);
        manifest["annotations"]["large"] = json!("x".repeat(1_000_000));
        expected.push(json!(push(&registry, OCI_MANIFEST, &manifest).await));
    }
    expected.sort_by_key(Value::to_string);
    let listing = format!("/v2/app/referrers/{subject}");
    for (first, pages) in [
        (listing.clone(), 2),
        (format!("{listing}?n=2"), 3),
        (format!("{listing}?artifactType=a/a&n=1"), 5),
    ] {
        let found = registry.pages(&first, "manifests").await;
        assert_eq!(found.len(), pages, "{first}");
        let digests: Vec<Value> = found
            .concat()
            .iter()
            .map(|descriptor| descriptor["digest"].clone())
            .collect();
        assert_eq!(digests, expected);
    }
}

/// "Listing Referrers": "in the same `<name>` namespace".
async fn referrers_are_those_of_one_repository(registry: Registry) {
    let subject = registry.push_image("other", "v1", b"one").await;
    push(&registry, OCI_MANIFEST, &artifact(&subject, None, 0)).await;
    let listed = registry
        .get(&format!("/v2/other/referrers/{subject}"))
        .await;
    assert_eq!(listed.is(200).json()["manifests"], json!([]));
    assert_eq!(referrers(&registry, &subject).await.len(), 1);
}

/// A listing names what can be pulled.
async fn a_deleted_referrer_is_not_listed(registry: Registry) {
    let subject = registry.push_image("app", "v1", b"one").await;
    let first = push(&registry, OCI_MANIFEST, &artifact(&subject, None, 0)).await;
    let second = push(&registry, OCI_MANIFEST, &artifact(&subject, None, 1)).await;
    let path = format!("/v2/app/manifests/{first}");
    registry.delete(&path).await.is(202);
    let listed = referrers(&registry, &subject).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["digest"], json!(second));
    // Pushed again, it is listed again.
    push(&registry, OCI_MANIFEST, &artifact(&subject, None, 0)).await;
    assert_eq!(referrers(&registry, &subject).await.len(), 2);
}

/// A subject need not be there; so its deletion takes nothing else along.
async fn a_deleted_subject_keeps_its_referrers(registry: Registry) {
    let subject = registry.push_image("app", "v1", b"one").await;
    let referrer = push(&registry, OCI_MANIFEST, &artifact(&subject, None, 0)).await;
    let path = format!("/v2/app/manifests/{subject}");
    registry.delete(&path).await.is(202);
    let read = format!("/v2/app/manifests/{referrer}");
    registry.get(&read).await.is(200);
    assert_eq!(referrers(&registry, &subject).await.len(), 1);
}

/// "Referrers Tag Schema": clients of registries without the listing keep an index under such a tag. Here it is a tag like others.
async fn a_tag_of_the_referrers_tag_schema_is_a_tag(registry: Registry) {
    let subject = registry.push_image("app", "v1", b"one").await;
    let referrer = push(&registry, OCI_MANIFEST, &artifact(&subject, None, 0)).await;
    let tag = subject.replace(':', "-");
    let path = format!("/v2/app/manifests/{tag}");
    registry.get(&path).await.refused(404, "MANIFEST_UNKNOWN");
    let descriptor = json!({"mediaType": OCI_MANIFEST, "digest": referrer, "size": 1});
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor]});
    let bytes = index.to_string();
    let put = registry
        .put_manifest("app", &tag, OCI_INDEX, bytes.as_bytes())
        .await;
    put.is(201);
    assert_eq!(registry.get(&path).await.is(200).body, bytes.as_bytes());
    let tags = registry.get("/v2/app/tags/list").await.json();
    assert_eq!(tags["tags"], json!([tag, "v1"]));
    assert_eq!(referrers(&registry, &subject).await.len(), 1);
    registry.delete(&path).await.is(202);
    assert_eq!(referrers(&registry, &subject).await.len(), 1);
}
