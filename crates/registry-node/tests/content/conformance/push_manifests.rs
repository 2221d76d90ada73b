//! "Push" of the specification: manifests, of whatever kind, and what they refer to.

use registry_node::content::{DOCKER_MANIFEST, DOCKER_MANIFEST_LIST};
use serde_json::{Value, json};

use super::super::harness::{OCI_INDEX, OCI_MANIFEST, Registry, image_manifest, sha256, sha512};
use super::requirements;

requirements![
    a_manifest_is_pushed_by_tag,
    a_manifest_is_pushed_by_digest,
    a_manifest_is_stored_in_its_exact_bytes,
    parameters_of_the_content_type_are_ignored,
    a_tag_moves_to_what_was_pushed_last,
    a_manifest_of_any_media_type_is_taken,
    an_image_without_layers_is_taken,
    an_artifact_has_empty_content,
    layers_that_are_not_distributed_need_not_be_here,
    indexes_are_nested,
    a_manifest_whose_content_is_missing_is_refused,
    a_manifest_of_4_megabytes_is_taken,
    a_manifest_over_the_limit_is_413,
    a_malformed_manifest_is_400,
    a_manifest_of_schema_1_is_refused,
    another_media_type_than_the_manifests_is_400,
    a_digest_that_is_not_the_manifests_is_400,
    what_is_no_tag_is_400,
    a_subject_is_acknowledged,
    a_tag_is_written_only_if_it_is_what_the_client_read,
    a_tag_is_written_only_if_it_is_not_there,
];

const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// "Pushing Manifests": 201 with `Location`, a pullable address, and `Docker-Content-Digest`.
async fn a_manifest_is_pushed_by_tag(registry: Registry) {
    let config = registry.push_blob("team/app", b"{}").await;
    let manifest = image_manifest(&[(&config, 2)], &[]);
    let longest = "t".repeat(128);
    for tag in ["v1", "_", "V1.0-rc_1", "sha256-abc", &longest] {
        let put = registry
            .put_manifest("team/app", tag, OCI_MANIFEST, &manifest)
            .await
            .is(201);
        assert_eq!(put.header("docker-content-digest"), sha256(&manifest));
        let read = registry.get(put.header("location")).await.is(200);
        assert_eq!(read.body, manifest);
        let path = format!("/v2/team/app/manifests/{tag}");
        assert_eq!(registry.get(&path).await.is(200).body, manifest);
    }
}

/// "Pushing Manifests": the digest is the client's, of either algorithm.
async fn a_manifest_is_pushed_by_digest(registry: Registry) {
    let config = registry.push_blob("app", b"{}").await;
    let manifest = image_manifest(&[(&config, 2)], &[]);
    for digest in [sha256(&manifest), sha512(&manifest)] {
        let path = format!("/v2/app/manifests/{digest}");
        registry.head(&path).await.is(404);
        let put = registry
            .put_manifest("app", &digest, OCI_MANIFEST, &manifest)
            .await
            .is(201);
        assert_eq!(put.header("docker-content-digest"), digest);
        assert_eq!(put.header("location"), path);
        let read = registry.get(&path).await.is(200);
        assert_eq!(read.body, manifest);
        assert_eq!(read.header("docker-content-digest"), digest);
    }
    let tags = registry.get("/v2/app/tags/list").await.is(200).json();
    assert_eq!(tags["tags"], json!([]));
}

/// "Pushing Manifests": "The registry MUST store the manifest in the exact byte representation provided by the client."
async fn a_manifest_is_stored_in_its_exact_bytes(registry: Registry) {
    let config = registry.push_blob("app", b"{}").await;
    let manifest = format!(
        "\r\n{{ \"unknown\" : [1.0, \"\\u00e4\"],\t\"layers\":[],\n\n  \"config\": {{\"data\": \"e30=\", \"size\":2,\
         \"mediaType\":\"{EMPTY}\", \"digest\":\"{config}\", \"also-unknown\": null}},\"schemaVersion\":2 }}  \n"
    );
    registry
        .put_manifest("app", "v1", OCI_MANIFEST, manifest.as_bytes())
        .await
        .is(201);
    let read = registry.get("/v2/app/manifests/v1").await.is(200);
    assert_eq!(read.body, manifest.as_bytes());
    assert_eq!(
        read.header("docker-content-digest"),
        sha256(manifest.as_bytes())
    );
}

/// "Pushing Manifests": "The registry SHOULD ignore parameters on the `Content-Type` header."
async fn parameters_of_the_content_type_are_ignored(registry: Registry) {
    let config = registry.push_blob("app", b"{}").await;
    let manifest = image_manifest(&[(&config, 2)], &[]);
    let with_parameter = format!("{OCI_MANIFEST}; charset=utf-8");
    registry
        .put_manifest("app", "v1", &with_parameter, &manifest)
        .await
        .is(201);
    let read = registry.get("/v2/app/manifests/v1").await.is(200);
    assert_eq!(read.header("content-type"), OCI_MANIFEST);
}

/// A tag names one manifest; the one before stays under its digest.
async fn a_tag_moves_to_what_was_pushed_last(registry: Registry) {
    let first = registry.push_image("app", "latest", b"one").await;
    let second = registry.push_image("app", "latest", b"two").await;
    for _ in 0..4 {
        let read = registry.get("/v2/app/manifests/latest").await.is(200);
        assert_eq!(read.header("docker-content-digest"), second);
    }
    let before = format!("/v2/app/manifests/{first}");
    registry.get(&before).await.is(200);
}

/// A registry is agnostic of content types: whatever names a media type is kept, and sent back with it.
async fn a_manifest_of_any_media_type_is_taken(registry: Registry) {
    let config = registry.push_blob("app", b"{}").await;
    let image = registry.push_image("app", "image", b"layer").await;
    let blob = json!({"mediaType": "a/b", "digest": config, "size": 2});
    let child = json!({"mediaType": OCI_MANIFEST, "digest": image, "size": 2});
    let cases = [
        (
            OCI_MANIFEST,
            json!({"schemaVersion": 2, "config": blob, "layers": [blob]}),
        ),
        (
            DOCKER_MANIFEST,
            json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": blob, "layers": [blob]}),
        ),
        (OCI_INDEX, json!({"schemaVersion": 2, "manifests": [child]})),
        (
            DOCKER_MANIFEST_LIST,
            json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST_LIST, "manifests": [child]}),
        ),
        (
            "application/vnd.oci.artifact.manifest.v1+json",
            json!({"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": [blob]}),
        ),
        (
            "application/vnd.Example.Thing.v1+json",
            json!({"config": 7, "layers": "none"}),
        ),
        (
            "application/vnd.example.v1+json",
            json!({"schemaVersion": 1}),
        ),
    ];
    for (media_type, manifest) in cases {
        let bytes = manifest.to_string();
        registry
            .put_manifest("app", "kind", media_type, bytes.as_bytes())
            .await
            .is(201);
        let read = registry.get("/v2/app/manifests/kind").await.is(200);
        assert_eq!(read.header("content-type"), media_type);
        assert_eq!(read.body, bytes.as_bytes());
    }
}

/// "Pushing Manifests": "the list of blobs MAY be empty"; encoders of some languages write an empty list as null.
async fn an_image_without_layers_is_taken(registry: Registry) {
    let config = registry.push_blob("app", b"{}").await;
    let config = json!({"mediaType": "a/b", "digest": config, "size": 2});
    for layers in [json!([]), Value::Null] {
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        let put = registry
            .put_manifest("app", "v1", OCI_MANIFEST, manifest.to_string().as_bytes())
            .await;
        put.is(201);
    }
    let index = br#"{"schemaVersion":2,"manifests":[]}"#;
    let put = registry.put_manifest("app", "v1", OCI_INDEX, index).await;
    put.is(201);
}

/// OCI Image, "Guidance for an Empty Descriptor": the blob `{}` stands for a config or layer that an artifact does not have.
async fn an_artifact_has_empty_content(registry: Registry) {
    let empty = registry.push_blob("app", b"{}").await;
    let empty = json!({"mediaType": EMPTY, "digest": empty, "size": 2, "data": "e30="});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/vnd.example+type",
        "config": empty, "layers": [empty],
    });
    let bytes = manifest.to_string();
    let put = registry
        .put_manifest("app", "v1", OCI_MANIFEST, bytes.as_bytes())
        .await;
    put.is(201);
    let read = registry.get("/v2/app/manifests/v1").await.is(200);
    assert_eq!(read.body, bytes.as_bytes());
}

/// OCI Image, "Non-Distributable Layers": they need not be pushed. Docker's foreign layers are the same, older.
async fn layers_that_are_not_distributed_need_not_be_here(registry: Registry) {
    let config = registry.push_blob("app", b"{}").await;
    let config = json!({"mediaType": "a/b", "digest": config, "size": 2});
    let absent = sha256(b"not here");
    let layers = [
        json!({"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar"}),
        json!({"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"}),
        json!({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}),
        json!({"mediaType": "a/b", "urls": ["https://example.com/layer"]}),
    ];
    for mut layer in layers {
        layer["digest"] = json!(absent);
        layer["size"] = json!(8);
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        let put = registry
            .put_manifest("app", "v1", OCI_MANIFEST, manifest.to_string().as_bytes())
            .await;
        put.is(201);
    }
}

/// OCI Image, "OCI Image Index": its manifests may be indexes.
async fn indexes_are_nested(registry: Registry) {
    let mut digest = registry.push_image("app", "image", b"layer").await;
    let mut media_type = OCI_MANIFEST;
    for depth in 0..3 {
        let index = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX,
            "manifests": [{"mediaType": media_type, "digest": digest, "size": 1, "platform": {"os": "any"}}],
        });
        let bytes = index.to_string();
        digest = sha256(bytes.as_bytes());
        media_type = OCI_INDEX;
        let put = registry
            .put_manifest(
                "app",
                &format!("depth-{depth}"),
                OCI_INDEX,
                bytes.as_bytes(),
            )
            .await;
        assert_eq!(put.is(201).header("docker-content-digest"), digest);
    }
}

/// "Push": what refers to missing content MAY be refused; then with `MANIFEST_BLOB_UNKNOWN`. Nothing of it is there afterwards.
async fn a_manifest_whose_content_is_missing_is_refused(registry: Registry) {
    let config = registry.push_blob("app", b"{}").await;
    let missing = registry.push_blob("elsewhere", b"layer").await;
    let descriptor = json!({"mediaType": OCI_MANIFEST, "digest": missing, "size": 5});
    let index = json!({"schemaVersion": 2, "manifests": [descriptor]}).to_string();
    let cases = [
        (
            OCI_MANIFEST,
            image_manifest(&[(&config, 2)], &[(&missing, 5)]),
        ),
        (OCI_MANIFEST, image_manifest(&[(&missing, 2)], &[])),
        (OCI_INDEX, index.into_bytes()),
    ];
    for (media_type, manifest) in cases {
        let refused = registry
            .put_manifest("app", "v1", media_type, &manifest)
            .await
            .refused(404, "MANIFEST_BLOB_UNKNOWN");
        let detail = &refused.json()["errors"][0]["detail"];
        assert_eq!(detail["digests"], json!([missing]));
        for reference in ["v1".to_owned(), sha256(&manifest)] {
            let path = format!("/v2/app/manifests/{reference}");
            registry.get(&path).await.refused(404, "MANIFEST_UNKNOWN");
        }
    }
    let tags = registry.get("/v2/app/tags/list").await;
    tags.refused(404, "NAME_UNKNOWN");
    let repositories = registry.get("/v2/_catalog").await.json();
    assert_eq!(repositories["repositories"], json!([]));
}

fn index_of_size(bytes: usize) -> Vec<u8> {
    let mut manifest = br#"{"schemaVersion":2,"manifests":[]}"#.to_vec();
    manifest.resize(bytes, b' ');
    manifest
}

/// "Pushing Manifests": "support manifest pushes of at least 4 megabytes".
async fn a_manifest_of_4_megabytes_is_taken(registry: Registry) {
    let manifest = index_of_size(4 * 1024 * 1024);
    let put = registry
        .put_manifest("app", "v1", OCI_INDEX, &manifest)
        .await;
    put.is(201);
    assert!(registry.get("/v2/app/manifests/v1").await.is(200).body == manifest);
}

/// "Pushing Manifests": 413.
async fn a_manifest_over_the_limit_is_413(registry: Registry) {
    let manifest = index_of_size(4 * 1024 * 1024 + 1);
    let put = registry
        .put_manifest("app", "v1", OCI_INDEX, &manifest)
        .await;
    put.refused(413, "SIZE_INVALID");
    registry.head("/v2/app/manifests/v1").await.is(404);
}

/// "Error Codes", `MANIFEST_INVALID`. What is of a known format keeps to it, and means the same to every client.
async fn a_malformed_manifest_is_400(registry: Registry) {
    let blob = json!({"digest": sha256(b"x"), "size": 1});
    let cases: [(&str, Value); 9] = [
        (OCI_MANIFEST, json!({})),
        (OCI_MANIFEST, json!({"schemaVersion": 2, "layers": []})),
        (OCI_INDEX, json!({"schemaVersion": 2})),
        (OCI_MANIFEST, json!([])),
        (OCI_MANIFEST, json!({"schemaVersion": 3, "config": blob})),
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
    let mut bodies: Vec<(&str, String)> = cases
        .iter()
        .map(|(media_type, manifest)| (*media_type, manifest.to_string()))
        .collect();
    bodies.push((OCI_MANIFEST, "{\"a\":".to_owned()));
    bodies.push((OCI_INDEX, String::new()));
    let twice = r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#;
    bodies.push((OCI_INDEX, twice.to_owned()));
    for (media_type, body) in bodies {
        let refused = registry
            .put_manifest("app", "v1", media_type, body.as_bytes())
            .await;
        refused.refused(400, "MANIFEST_INVALID");
    }
    let repositories = registry.get("/v2/_catalog").await.json();
    assert_eq!(repositories["repositories"], json!([]));
}

/// Docker's image manifests, version 2, schema 1, signed or not: the specification has none of them.
async fn a_manifest_of_schema_1_is_refused(registry: Registry) {
    let unsigned = "application/vnd.docker.distribution.manifest.v1+json";
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let manifest =
        json!({"schemaVersion": 1, "name": "app", "tag": "v1", "fsLayers": [], "history": []});
    for media_type in [unsigned, signed, "application/json", OCI_MANIFEST] {
        let refused = registry
            .put_manifest("app", "v1", media_type, manifest.to_string().as_bytes())
            .await
            .refused(400, "MANIFEST_INVALID");
        let answer = refused.json();
        let message = answer["errors"][0]["message"].as_str().expect("a message");
        assert!(message.contains("schema 1"), "{message}");
    }
}

/// "Pushing Manifests": "clients MUST set the `Content-Type` header to the value specified by the `mediaType` field".
async fn another_media_type_than_the_manifests_is_400(registry: Registry) {
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).to_string();
    for declared in [OCI_MANIFEST, DOCKER_MANIFEST_LIST, "text/plain"] {
        let refused = registry
            .put_manifest("app", "v1", declared, index.as_bytes())
            .await;
        refused.refused(400, "MANIFEST_INVALID");
    }
    // What clients say that were not told says nothing.
    let put = registry
        .put_manifest("app", "v1", "application/json", index.as_bytes())
        .await;
    put.is(201);
    let request = registry.request("PUT", "/v2/app/manifests/v2").body(index);
    registry.send(request).await.is(201);
    for tag in ["v1", "v2"] {
        let read = registry.get(&format!("/v2/app/manifests/{tag}")).await;
        assert_eq!(read.header("content-type"), OCI_INDEX);
    }
}

/// "Pushing Manifests": the digest is checked; one that cannot be is refused, and not taken for a tag.
async fn a_digest_that_is_not_the_manifests_is_400(registry: Registry) {
    let manifest = br#"{"schemaVersion":2,"manifests":[]}"#;
    for digest in [
        &sha256(b"other"),
        &sha512(b"other"),
        "sha256:bad",
        "md5:abc",
    ] {
        let refused = registry
            .put_manifest("app", digest, OCI_INDEX, manifest)
            .await;
        refused.refused(400, "DIGEST_INVALID");
    }
    let actual = format!("/v2/app/manifests/{}", sha256(manifest));
    registry.head(&actual).await.is(404);
}

/// "Pushing Manifests": `<reference>` MUST be a digest or a tag.
async fn what_is_no_tag_is_400(registry: Registry) {
    let manifest = br#"{"schemaVersion":2,"manifests":[]}"#;
    for tag in [".v1", "-v1", "v%201", "%C3%A4", &"v".repeat(129)] {
        let refused = registry.put_manifest("app", tag, OCI_INDEX, manifest).await;
        refused.refused(400, "MANIFEST_INVALID");
    }
}

/// "Pushing Manifests with Subject": `OCI-Subject`, whether the subject is here or not ("Push").
async fn a_subject_is_acknowledged(registry: Registry) {
    let present = registry.push_image("app", "v1", b"layer").await;
    for subject in [present, sha256(b"absent"), sha512(b"absent")] {
        let descriptor = json!({"mediaType": OCI_MANIFEST, "digest": subject, "size": 1});
        let index = json!({"schemaVersion": 2, "manifests": [], "subject": descriptor});
        for reference in [sha256(index.to_string().as_bytes()), "referrer".to_owned()] {
            let bytes = index.to_string();
            let put = registry
                .put_manifest("app", &reference, OCI_INDEX, bytes.as_bytes())
                .await
                .is(201);
            assert_eq!(put.header("oci-subject"), subject);
        }
    }
    let put = registry
        .put_manifest(
            "app",
            "v2",
            OCI_INDEX,
            br#"{"schemaVersion":2,"manifests":[]}"#,
        )
        .await;
    assert_eq!(put.is(201).header("oci-subject"), "");
}

/// Pushes an index to a tag under a condition.
async fn put_if(registry: &Registry, tag: &str, number: usize, condition: (&str, &str)) -> u16 {
    let manifest =
        json!({"schemaVersion": 2, "manifests": [], "annotations": {"n": number.to_string()}});
    let request = registry
        .request("PUT", &format!("/v2/app/manifests/{tag}"))
        .header("content-type", OCI_INDEX)
        .header(condition.0, condition.1)
        .body(manifest.to_string());
    let answer = registry.send(request).await;
    if answer.status == 412 {
        assert_eq!(answer.code(), "PRECONDITION_FAILED");
    }
    answer.status.as_u16()
}

/// "Pushing Manifests with Subject": "The client MAY use conditional HTTP requests to prevent overwriting a referrers list".
async fn a_tag_is_written_only_if_it_is_what_the_client_read(registry: Registry) {
    assert_eq!(put_if(&registry, "list", 0, ("if-match", "*")).await, 412);
    assert_eq!(
        put_if(&registry, "list", 0, ("if-match", "\"x\"")).await,
        412
    );
    registry.head("/v2/app/manifests/list").await.is(404);
    registry.push_image("app", "list", b"layer").await;
    let mut read = registry.get("/v2/app/manifests/list").await;
    for number in 0..3 {
        let condition = read.header("etag").to_owned();
        assert_eq!(
            put_if(&registry, "list", number, ("if-match", &condition)).await,
            201
        );
        // The same again builds on what is not there any more.
        assert_eq!(
            put_if(&registry, "list", 9, ("if-match", &condition)).await,
            412
        );
        read = registry.get("/v2/app/manifests/list").await;
        let number = number.to_string();
        assert_eq!(read.json()["annotations"]["n"], json!(number));
    }
    assert_eq!(put_if(&registry, "list", 7, ("if-match", "*")).await, 201);
}

/// The same for the first entry of a list.
async fn a_tag_is_written_only_if_it_is_not_there(registry: Registry) {
    assert_eq!(
        put_if(&registry, "list", 0, ("if-none-match", "*")).await,
        201
    );
    assert_eq!(
        put_if(&registry, "list", 1, ("if-none-match", "*")).await,
        412
    );
    registry.delete("/v2/app/manifests/list").await.is(202);
    assert_eq!(
        put_if(&registry, "list", 2, ("if-none-match", "*")).await,
        201
    );
    // A tag whose manifest is deleted is not there.
    let read = registry.get("/v2/app/manifests/list").await;
    let digest = read.header("docker-content-digest");
    let path = format!("/v2/app/manifests/{digest}");
    registry.delete(&path).await.is(202);
    assert_eq!(
        put_if(&registry, "list", 3, ("if-none-match", "*")).await,
        201
    );
    assert_eq!(
        put_if(&registry, "list", 4, ("if-none-match", "\"x\"")).await,
        201
    );
}
