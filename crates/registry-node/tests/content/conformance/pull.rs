//! "Pull" of the specification: manifests and blobs, their headers, and what is answered when they are not there.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::super::harness::{OCI_MANIFEST, Registry, noise, sha256, sha512};
use super::requirements;

requirements![
    the_base_says_that_this_is_a_registry,
    a_manifest_is_pulled_by_tag_and_by_digest,
    a_manifest_is_sent_whatever_the_client_accepts,
    an_unknown_manifest_is_404,
    a_blob_is_pulled,
    an_unknown_blob_is_404,
    head_of_a_manifest_says_size_and_digest,
    head_of_a_blob_says_size_and_digest,
    a_malformed_digest_is_400,
    a_malformed_name_is_400,
    what_is_no_tag_is_404,
    names_and_digests_arrive_percent_encoded,
    a_parameter_of_no_meaning_is_ignored,
    content_that_the_client_has_is_not_sent_again,
    other_content_than_the_client_wants_is_not_sent,
    a_client_of_http_1_0_is_served,
];

/// "Endpoints", end-1; "Legacy Docker support HTTP headers".
async fn the_base_says_that_this_is_a_registry(registry: Registry) {
    for path in ["/v2/", "/v2"] {
        let answer = registry.get(path).await.is(200);
        let version = answer.header("docker-distribution-api-version");
        assert_eq!(version, "registry/2.0");
        registry.head(path).await.is(200);
    }
}

/// "Pulling manifests": 200, `Content-Type` as pushed, `Docker-Content-Digest`, the very bytes.
async fn a_manifest_is_pulled_by_tag_and_by_digest(registry: Registry) {
    let (digest, bytes) = registry.push_image_bytes("team/app", "v1", b"layer").await;
    for reference in ["v1", digest.as_str()] {
        let path = format!("/v2/team/app/manifests/{reference}");
        let read = registry.get(&path).await.is(200);
        assert_eq!(read.body, bytes);
        assert_eq!(read.header("content-type"), OCI_MANIFEST);
        assert_eq!(read.header("content-length"), bytes.len().to_string());
        assert_eq!(read.header("docker-content-digest"), digest);
    }
}

/// "Pulling manifests": `Accept` is the client's wish; nothing is converted, and old clients send none.
async fn a_manifest_is_sent_whatever_the_client_accepts(registry: Registry) {
    let (_, bytes) = registry.push_image_bytes("app", "v1", b"layer").await;
    for accepted in ["*/*", "application/json", "text/html;q=0.1", OCI_MANIFEST] {
        let path = "/v2/app/manifests/v1";
        let read = registry.get_with(path, "accept", accepted).await.is(200);
        assert_eq!(read.body, bytes);
        assert_eq!(read.header("content-type"), OCI_MANIFEST);
    }
}

/// "Pulling manifests": 404 if the manifest, or the repository, is not there.
async fn an_unknown_manifest_is_404(registry: Registry) {
    registry.push_image("app", "v1", b"layer").await;
    let unknown = sha256(b"unknown");
    for reference in ["v2", "V1", unknown.as_str(), &sha512(b"unknown")] {
        for repository in ["app", "nowhere"] {
            let path = format!("/v2/{repository}/manifests/{reference}");
            registry.get(&path).await.refused(404, "MANIFEST_UNKNOWN");
            registry.head(&path).await.is(404);
        }
    }
}

/// "Pulling blobs": 200, `Docker-Content-Digest`, the bytes.
async fn a_blob_is_pulled(registry: Registry) {
    for length in [0, 1, 40_000, 1 << 20, 2_500_000] {
        let bytes = noise(length as u64, length);
        let digest = registry.push_blob("team/app", &bytes).await;
        let path = format!("/v2/team/app/blobs/{digest}");
        let read = registry.get(&path).await.is(200);
        assert!(read.body == bytes);
        assert_eq!(read.header("docker-content-digest"), digest);
        assert_eq!(read.header("content-length"), length.to_string());
        assert_eq!(read.header("content-type"), "application/octet-stream");
    }
}

/// "Pulling blobs": 404 if the blob is not in the repository, though it is in another.
async fn an_unknown_blob_is_404(registry: Registry) {
    let elsewhere = registry.push_blob("elsewhere", b"abc").await;
    registry.push_blob("app", b"def").await;
    for digest in [elsewhere, sha256(b"unknown"), sha512(b"unknown")] {
        let path = format!("/v2/app/blobs/{digest}");
        registry.get(&path).await.refused(404, "BLOB_UNKNOWN");
        registry.head(&path).await.is(404);
    }
}

/// "Checking if content exists in the registry": `Content-Length` and `Docker-Content-Digest`, and no body.
async fn head_of_a_manifest_says_size_and_digest(registry: Registry) {
    let (digest, bytes) = registry.push_image_bytes("app", "v1", b"layer").await;
    for reference in ["v1", digest.as_str()] {
        let path = format!("/v2/app/manifests/{reference}");
        let head = registry.head(&path).await.is(200);
        assert_eq!(head.header("content-length"), bytes.len().to_string());
        assert_eq!(head.header("content-type"), OCI_MANIFEST);
        assert_eq!(head.header("docker-content-digest"), digest);
    }
}

/// "Checking if content exists in the registry".
async fn head_of_a_blob_says_size_and_digest(registry: Registry) {
    for length in [0, 1, 40_000] {
        let digest = registry.push_blob("app", &noise(3, length)).await;
        let head = registry.head(&format!("/v2/app/blobs/{digest}")).await;
        let head = head.is(200);
        assert_eq!(head.header("content-length"), length.to_string());
        assert_eq!(head.header("docker-content-digest"), digest);
        assert_eq!(head.header("accept-ranges"), "bytes");
    }
}

/// "Error Codes", `DIGEST_INVALID`: what cannot be a digest is the client's fault, not an absence.
async fn a_malformed_digest_is_400(registry: Registry) {
    let (hex, short) = ("a".repeat(64), "a".repeat(63));
    let digests = [
        format!("sha256:{short}"),
        format!("sha256:{hex}a"),
        format!("sha512:{hex}"),
        format!("sha256:{}", "A".repeat(64)),
        format!("sha256:{short}g"),
        format!("SHA256:{hex}"),
        format!("md5:{}", "a".repeat(32)),
        "sha256:".to_owned(),
        ":".to_owned(),
    ];
    for digest in digests {
        for kind in ["blobs", "manifests", "referrers"] {
            let path = format!("/v2/app/{kind}/{digest}");
            registry.get(&path).await.refused(400, "DIGEST_INVALID");
        }
    }
    let path = "/v2/app/blobs/latest";
    registry.get(path).await.refused(400, "DIGEST_INVALID");
}

/// "Pulling manifests": the grammar of `<name>`; "Error Codes", `NAME_INVALID`.
async fn a_malformed_name_is_400(registry: Registry) {
    let long = "a".repeat(201);
    let names = [
        "App", "-app", "app-", "a..b", "a___b", "a._b", "a//b", "a/-/b", "a%20b", "a%00b",
        "%C3%A4", &long,
    ];
    for name in names {
        for rest in ["tags/list", "manifests/v1", "referrers/latest"] {
            let path = format!("/v2/{name}/{rest}");
            let refused = registry.get(&path).await.is(400);
            let expected = match rest {
                "referrers/latest" => ["DIGEST_INVALID", "NAME_INVALID"].as_slice(),
                _ => &["NAME_INVALID"],
            };
            assert!(expected.contains(&refused.code().as_str()), "{path}");
        }
    }
}

/// "Pulling manifests": the grammar of a tag. Clients ask like this to find out whether something is there.
async fn what_is_no_tag_is_404(registry: Registry) {
    registry.push_image("app", "v1", b"layer").await;
    for tag in [".v1", "-v1", "v%201", &"v".repeat(129)] {
        let path = format!("/v2/app/manifests/{tag}");
        registry.get(&path).await.refused(404, "MANIFEST_UNKNOWN");
    }
}

/// RFC 3986, 2.3: a client may escape whatever it likes.
async fn names_and_digests_arrive_percent_encoded(registry: Registry) {
    let (digest, bytes) = registry.push_image_bytes("team/app", "v1", b"layer").await;
    let escaped = digest.replace(':', "%3A");
    for path in [
        format!("/v2/team%2Fapp/manifests/{escaped}"),
        format!("/v2/team%2fapp/manifests/{digest}"),
        "/v2/t%65am/app/manifests/v%31".to_owned(),
    ] {
        assert_eq!(registry.get(&path).await.is(200).body, bytes);
    }
    let layer = sha256(b"layer").replace(':', "%3a");
    let blob = registry.get(&format!("/v2/team%2Fapp/blobs/{layer}")).await;
    assert_eq!(blob.is(200).body, b"layer");
    let path = format!("/v2/team%2Fapp/blobs/uploads/?digest={layer}");
    let request = registry.request("POST", &path).body("layer");
    registry.send(request).await.is(201);
}

/// "Registry Proxying": `ns` may be ignored by a registry that is no proxy; containerd sends it to mirrors.
async fn a_parameter_of_no_meaning_is_ignored(registry: Registry) {
    registry.push_image("app", "v1", b"layer").await;
    let path = "/v2/app/manifests/v1?ns=registry.example.com&&=&%ff=1";
    registry.get(path).await.is(200);
}

/// RFC 9110, 13.1.2.
async fn content_that_the_client_has_is_not_sent_again(registry: Registry) {
    let digest = registry.push_image("app", "v1", b"layer").await;
    let layer = sha256(b"layer");
    let paths = [
        ("/v2/app/manifests/v1".to_owned(), digest),
        (format!("/v2/app/blobs/{layer}"), layer),
    ];
    for (path, digest) in paths {
        let entity_tag = registry.get(&path).await.header("etag").to_owned();
        assert_eq!(entity_tag, format!("\"{digest}\""));
        let had = [
            entity_tag.clone(),
            format!("W/{entity_tag}"),
            format!("\"x\", {entity_tag}"),
            digest.clone(),
            "*".to_owned(),
        ];
        for value in had {
            let answer = registry.get_with(&path, "if-none-match", &value).await;
            let answer = answer.is(304);
            assert!(answer.body.is_empty());
            assert_eq!(answer.header("docker-content-digest"), digest);
            assert_eq!(answer.header("etag"), entity_tag);
        }
        let request = registry
            .request("HEAD", &path)
            .header("if-none-match", "\"x\"")
            .header("if-none-match", &entity_tag);
        registry.send(request).await.is(304);
        let other = registry.get_with(&path, "if-none-match", "\"x\"").await;
        other.is(200);
    }
}

/// RFC 9110, 13.1.1 and 13.2.1: what is not there is 404 whatever the condition.
async fn other_content_than_the_client_wants_is_not_sent(registry: Registry) {
    let digest = registry.push_image("app", "v1", b"layer").await;
    let layer = sha256(b"layer");
    let paths = [
        ("/v2/app/manifests/v1".to_owned(), digest),
        (format!("/v2/app/blobs/{layer}"), layer),
    ];
    for (path, digest) in paths {
        for wanted in [format!("\"{digest}\""), "*".to_owned()] {
            registry.get_with(&path, "if-match", &wanted).await.is(200);
        }
        for other in ["\"x\"".to_owned(), format!("W/\"{digest}\"")] {
            registry
                .get_with(&path, "if-match", &other)
                .await
                .refused(412, "PRECONDITION_FAILED");
        }
    }
    let absent = registry
        .get_with("/v2/app/manifests/v2", "if-match", "*")
        .await;
    absent.refused(404, "MANIFEST_UNKNOWN");
}

/// RFC 9112, 2.3, and RFC 1945: the answer has a length, no transfer coding, and ends with the connection.
async fn a_client_of_http_1_0_is_served(registry: Registry) {
    let digest = registry.push_blob("app", &noise(1, 200_000)).await;
    let path = format!("/v2/app/blobs/{digest}");
    let registry_header = registry.registry_header();
    for (method, body_bytes) in [("GET", 200_000), ("HEAD", 0)] {
        let address = registry.nodes[0].clone();
        let head =
            format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n{registry_header}\r\n\r\n");
        let answer = actix_web::rt::task::spawn_blocking(move || {
            let mut connection = TcpStream::connect(address).expect("a connection");
            connection.write_all(head.as_bytes()).expect("sent");
            let mut answer = Vec::new();
            connection.read_to_end(&mut answer).expect("it ends");
            answer
        });
        let answer = answer.await.expect("no panic");
        let end = answer
            .windows(4)
            .position(|bytes| bytes == b"\r\n\r\n")
            .expect("an end of headers");
        let headers = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        assert!(headers.starts_with("http/1.0 200"), "{headers}");
        assert!(headers.contains("content-length: 200000"), "{headers}");
        assert!(!headers.contains("transfer-encoding"), "{headers}");
        assert_eq!(answer.len() - end - 4, body_bytes);
    }
}
