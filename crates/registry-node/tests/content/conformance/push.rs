//! "Push" of the specification: blobs, pushed whole and in chunks, cancelled, mounted.

use super::super::harness::{Answer, Registry, noise, sha256, sha512};
use super::requirements;
use bytes::Bytes;
use futures_util::stream;

requirements![
    a_blob_is_pushed_by_post_then_put,
    a_blob_is_pushed_by_one_post,
    a_blob_is_pushed_as_one_stream,
    a_blob_is_pushed_in_chunks,
    the_last_chunk_may_come_with_the_put,
    the_post_says_the_least_length_of_a_chunk,
    the_status_of_an_upload_is_204,
    a_chunk_out_of_order_is_416,
    a_last_chunk_out_of_order_is_416,
    a_malformed_content_range_is_400,
    a_chunk_of_another_length_is_400,
    an_upload_is_cancelled,
    an_unknown_upload_is_404,
    an_upload_is_of_one_repository,
    a_digest_that_is_not_the_contents_is_400,
    a_malformed_digest_ends_no_upload,
    a_blob_has_the_digest_algorithm_that_the_client_chose,
    an_empty_blob_is_pushed,
    a_blob_is_pushed_again,
    a_blob_is_mounted_from_another_repository,
    a_mount_without_source_finds_the_blob,
    a_blob_that_is_here_need_not_be_mounted,
    what_cannot_be_mounted_begins_an_upload,
];

/// The answer to the end of a push: 201 and where the blob is pulled from, which is tried.
async fn pushed(registry: &Registry, answer: Answer, bytes: &[u8]) {
    let answer = answer.is(201);
    let location = answer.header("location");
    let read = registry.get(location).await.is(200);
    assert!(read.body == bytes);
    let digest = answer.header("docker-content-digest");
    assert_eq!(read.header("docker-content-digest"), digest);
    assert!(location.ends_with(digest));
}

/// "POST then PUT": 202 with `Location`, 201 with `Location`.
async fn a_blob_is_pushed_by_post_then_put(registry: Registry) {
    for length in [1, 40_000, 2_500_000] {
        let bytes = noise(1, length);
        let location = registry.begin_upload("team/app").await;
        let finished = registry.finish(&location, &sha256(&bytes), &bytes).await;
        pushed(&registry, finished, &bytes).await;
    }
    let path = "/v2/app/blobs/uploads";
    registry.call("POST", path).await.is(202);
}

/// "Single POST".
async fn a_blob_is_pushed_by_one_post(registry: Registry) {
    let bytes = noise(2, 40_000);
    for digest in [sha256(&bytes), sha512(&bytes)] {
        let path = format!("/v2/app/blobs/uploads/?digest={digest}");
        let request = registry.request("POST", &path).body(bytes.clone());
        pushed(&registry, registry.send(request).await, &bytes).await;
    }
}

/// What docker does: one PATCH of unknown length, without `Content-Range`.
async fn a_blob_is_pushed_as_one_stream(registry: Registry) {
    let bytes = noise(3, 1_500_000);
    let location = registry.begin_upload("app").await;
    let pieces: Vec<_> = bytes
        .chunks(100_000)
        .map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)))
        .collect();
    let body = reqwest::Body::wrap_stream(stream::iter(pieces));
    let sent = registry.send(registry.request("PATCH", &location).body(body));
    let sent = sent.await.is(202);
    assert_eq!(sent.header("range"), "0-1499999");
    let location = sent.header("location");
    let finished = registry.finish(location, &sha256(&bytes), b"").await;
    pushed(&registry, finished, &bytes).await;
    registry
        .get(location)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
}

/// "Pushing a blob in chunks": each 202 with `Location` and `Range: 0-<end-of-range>`.
async fn a_blob_is_pushed_in_chunks(registry: Registry) {
    let bytes = noise(4, 1_300_000);
    let mut location = registry.begin_upload("app").await;
    for (start, end) in [
        (0, 1_100_000),
        (1_100_000, 1_100_001),
        (1_100_001, 1_300_000),
    ] {
        let range = format!("{start}-{}", end - 1);
        let sent = registry.chunk(&location, &range, &bytes[start..end]).await;
        let sent = sent.is(202);
        assert_eq!(sent.header("range"), format!("0-{}", end - 1));
        location = sent.header("location").to_owned();
    }
    let finished = registry.finish(&location, &sha256(&bytes), b"").await;
    pushed(&registry, finished, &bytes).await;
}

/// "Pushing a blob in chunks": the final chunk MAY come with the PUT, with or without `Content-Range`.
async fn the_last_chunk_may_come_with_the_put(registry: Registry) {
    let digest = sha256(b"abcdef");
    for range in [None, Some("3-5")] {
        let location = registry.begin_upload("app").await;
        registry.chunk(&location, "0-2", b"abc").await.is(202);
        let path = format!("{location}?digest={digest}");
        let mut request = registry.request("PUT", &path).body("def");
        if let Some(range) = range {
            request = request.header("content-range", range);
        }
        pushed(&registry, registry.send(request).await, b"abcdef").await;
    }
}

/// "Pushing a blob in chunks": `OCI-Chunk-Min-Length`; smaller chunks are taken all the same, as the tests here do.
async fn the_post_says_the_least_length_of_a_chunk(registry: Registry) {
    let begun = registry
        .call("POST", "/v2/app/blobs/uploads/")
        .await
        .is(202);
    let length: u64 = begun
        .header("oci-chunk-min-length")
        .parse()
        .expect("a number of bytes");
    assert!(length > 0);
    assert_eq!(begun.header("range"), "0-0");
}

/// "Pushing a blob in chunks", on end-13: 204 with `Location` and `Range`.
async fn the_status_of_an_upload_is_204(registry: Registry) {
    let mut location = registry.begin_upload("app").await;
    let mut range = "0-0".to_owned();
    for (sent, bytes) in [("0-4", b"abcde"), ("5-9", b"fghij")] {
        for method in ["GET", "HEAD"] {
            let status = registry.call(method, &location).await.is(204);
            assert_eq!(status.header("range"), range);
            assert_eq!(status.header("location"), location);
        }
        let answer = registry.chunk(&location, sent, bytes).await.is(202);
        location = answer.header("location").to_owned();
        range = answer.header("range").to_owned();
    }
}

/// "Pushing a blob in chunks": 416, and the upload goes on where it was.
async fn a_chunk_out_of_order_is_416(registry: Registry) {
    let location = registry.begin_upload("app").await;
    let refused = registry.chunk(&location, "1-3", b"bcd").await;
    refused.refused(416, "BLOB_UPLOAD_INVALID");
    registry.chunk(&location, "0-2", b"abc").await.is(202);
    for range in ["0-2", "2-4", "4-6", "9-11"] {
        let refused = registry.chunk(&location, range, b"xyz").await;
        let refused = refused.refused(416, "BLOB_UPLOAD_INVALID");
        assert_eq!(refused.header("range"), "0-2");
        assert_eq!(refused.header("location"), location);
    }
    let status = registry.get(&location).await.is(204);
    assert_eq!(status.header("range"), "0-2");
    registry.chunk(&location, "3-5", b"def").await.is(202);
    let finished = registry.finish(&location, &sha256(b"abcdef"), b"").await;
    pushed(&registry, finished, b"abcdef").await;
}

/// "Pushing a blob in chunks": the same holds of the chunk that comes with the PUT.
async fn a_last_chunk_out_of_order_is_416(registry: Registry) {
    let location = registry.begin_upload("app").await;
    registry.chunk(&location, "0-2", b"abc").await.is(202);
    let path = format!("{location}?digest={}", sha256(b"abcdef"));
    let put = |range: &'static str| {
        let request = registry.request("PUT", &path);
        registry.send(request.header("content-range", range).body("def"))
    };
    for range in ["0-2", "4-6"] {
        let refused = put(range).await.refused(416, "BLOB_UPLOAD_INVALID");
        assert_eq!(refused.header("range"), "0-2");
    }
    pushed(&registry, put("3-5").await, b"abcdef").await;
}

/// "Pushing a blob in chunks": `^[0-9]+-[0-9]+$`.
async fn a_malformed_content_range_is_400(registry: Registry) {
    let location = registry.begin_upload("app").await;
    for range in ["three", "0", "0-", "-2", "2-0", "0-2-4", "0x0-2", "+0-2"] {
        let refused = registry.chunk(&location, range, b"abc").await;
        refused.refused(400, "BLOB_UPLOAD_INVALID");
    }
    registry.chunk(&location, "0-2", b"abc").await.is(202);
}

/// "Error Codes", `SIZE_INVALID`.
async fn a_chunk_of_another_length_is_400(registry: Registry) {
    let location = registry.begin_upload("app").await;
    for range in ["0-1", "0-9"] {
        let refused = registry.chunk(&location, range, b"abc").await;
        refused.refused(400, "SIZE_INVALID");
        // The same where the length is not announced but comes to light.
        let body = reqwest::Body::wrap_stream(stream::iter([Ok::<_, std::io::Error>("abc")]));
        let request = registry
            .request("PATCH", &location)
            .header("content-range", range)
            .body(body);
        registry.send(request).await.refused(400, "SIZE_INVALID");
    }
    assert_eq!(registry.get(&location).await.header("range"), "0-0");
}

/// "Cancel a blob upload": 204.
async fn an_upload_is_cancelled(registry: Registry) {
    let location = registry.begin_upload("app").await;
    registry.chunk(&location, "0-2", b"abc").await.is(202);
    registry.delete(&location).await.is(204);
    registry
        .get(&location)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    let refused = registry.chunk(&location, "3-5", b"def").await;
    refused.refused(404, "BLOB_UPLOAD_UNKNOWN");
    let absent = format!("/v2/app/blobs/{}", sha256(b"abc"));
    registry.head(&absent).await.is(404);
}

/// "Error Codes", `BLOB_UPLOAD_UNKNOWN`.
async fn an_unknown_upload_is_404(registry: Registry) {
    let digest = sha256(b"abc");
    for id in ["5a83c3a1-0000-4000-8000-000000000000", "latest", "1"] {
        let location = format!("/v2/app/blobs/uploads/{id}");
        let finish = format!("{location}?digest={digest}");
        for (method, path) in [
            ("GET", &location),
            ("PATCH", &location),
            ("PUT", &finish),
            ("DELETE", &location),
        ] {
            let answer = registry.send(registry.request(method, path).body("abc"));
            answer.await.refused(404, "BLOB_UPLOAD_UNKNOWN");
        }
    }
}

/// An upload's location is opaque, and good in its repository only: whoever may push to another must not reach it.
async fn an_upload_is_of_one_repository(registry: Registry) {
    let location = registry.begin_upload("app").await;
    let elsewhere = location.replacen("/app/", "/other/", 1);
    let refused = registry.chunk(&elsewhere, "0-2", b"abc").await;
    refused.refused(404, "BLOB_UPLOAD_UNKNOWN");
    let finished = registry.finish(&elsewhere, &sha256(b"abc"), b"abc").await;
    finished.refused(404, "BLOB_UPLOAD_UNKNOWN");
    registry.delete(&elsewhere).await.is(404);
    let other_registry = registry.another();
    other_registry.get(&location).await.is(404);
    registry.chunk(&location, "0-2", b"abc").await.is(202);
}

/// "Pushing blobs": the digest is checked, however the blob came, and nothing is there afterwards.
async fn a_digest_that_is_not_the_contents_is_400(registry: Registry) {
    for wrong in [sha256(b"other"), sha512(b"other")] {
        let path = format!("/v2/app/blobs/uploads/?digest={wrong}");
        let request = registry.request("POST", &path).body("abcdef");
        registry.send(request).await.refused(400, "DIGEST_INVALID");

        let location = registry.begin_upload("app").await;
        let whole = registry.finish(&location, &wrong, b"abcdef").await;
        whole.refused(400, "DIGEST_INVALID");

        for last in [b"def".as_slice(), b""] {
            let location = registry.begin_upload("app").await;
            registry.chunk(&location, "0-2", b"abc").await.is(202);
            let finished = registry.finish(&location, &wrong, last).await;
            let refused = finished.refused(400, "DIGEST_INVALID");
            assert_eq!(refused.json()["errors"][0]["detail"]["expected"], wrong);
        }
        registry
            .head(&format!("/v2/app/blobs/{wrong}"))
            .await
            .is(404);
    }
    let actual = format!("/v2/app/blobs/{}", sha256(b"abcdef"));
    registry.head(&actual).await.is(404);
}

/// "Pushing blobs": an invalid digest or an unknown algorithm is 400; the upload can still be finished.
async fn a_malformed_digest_ends_no_upload(registry: Registry) {
    let location = registry.begin_upload("app").await;
    for digest in [
        "sha256:1",
        "md5:900150983cd24fb0d6963f7d28e17f72",
        "abc",
        "",
    ] {
        let finished = registry.finish(&location, digest, b"abc").await;
        finished.refused(400, "DIGEST_INVALID");
        let path = format!("/v2/app/blobs/uploads/?digest={digest}");
        let request = registry.request("POST", &path).body("abc");
        registry.send(request).await.refused(400, "DIGEST_INVALID");
    }
    let request = registry.request("PUT", &location).body("abc");
    registry.send(request).await.refused(400, "DIGEST_INVALID");
    let finished = registry.finish(&location, &sha256(b"abc"), b"abc").await;
    pushed(&registry, finished, b"abc").await;
}

/// "Pushing a blob in chunks", on end-4c; the digest of the PUT decides, whatever the POST said.
async fn a_blob_has_the_digest_algorithm_that_the_client_chose(registry: Registry) {
    let bytes = noise(9, 1_200_000);
    for query in ["", "?digest-algorithm=sha512", "?digest-algorithm=sha256"] {
        for digest in [sha256(&bytes), sha512(&bytes)] {
            let path = format!("/v2/app{}/blobs/uploads/{query}", digest.len());
            let begun = registry.call("POST", &path).await.is(202);
            let location = begun.header("location");
            let first = registry.chunk(location, "0-1099999", &bytes[..1_100_000]);
            first.await.is(202);
            let finished = registry.finish(location, &digest, &bytes[1_100_000..]);
            pushed(&registry, finished.await, &bytes).await;
        }
    }
    let path = "/v2/app/blobs/uploads/?digest-algorithm=md5";
    let refused = registry.call("POST", path).await;
    refused.refused(400, "DIGEST_INVALID");
}

/// Nothing says that a blob has bytes.
async fn an_empty_blob_is_pushed(registry: Registry) {
    let digest = sha256(b"");
    let path = format!("/v2/post/blobs/uploads/?digest={digest}");
    let posted = registry.call("POST", &path).await;
    pushed(&registry, posted, b"").await;

    let location = registry.begin_upload("put").await;
    let finished = registry.finish(&location, &digest, b"").await;
    pushed(&registry, finished, b"").await;

    let location = registry.begin_upload("patch").await;
    let patched = registry.send(registry.request("PATCH", &location));
    assert_eq!(patched.await.is(202).header("range"), "0-0");
    let finished = registry.finish(&location, &digest, b"").await;
    pushed(&registry, finished, b"").await;
}

/// "Pushing blobs": what is there already is acknowledged like anything else.
async fn a_blob_is_pushed_again(registry: Registry) {
    let bytes = noise(5, 100_000);
    let digest = registry.push_blob("app", &bytes).await;
    for repository in ["app", "other"] {
        let location = registry.begin_upload(repository).await;
        let finished = registry.finish(&location, &digest, &bytes).await;
        pushed(&registry, finished, &bytes).await;
    }
}

/// "Mounting a blob from another repository": 201, `Location`, no bytes.
async fn a_blob_is_mounted_from_another_repository(registry: Registry) {
    for digest in [registry.push_blob("source", b"abc").await, sha512(b"def")] {
        if digest.starts_with("sha512") {
            let location = registry.begin_upload("source").await;
            registry.finish(&location, &digest, b"def").await.is(201);
        }
        let bytes: &[u8] = if digest.starts_with("sha512") {
            b"def"
        } else {
            b"abc"
        };
        let path = format!("/v2/target/blobs/uploads/?mount={digest}&from=source");
        let mounted = registry.call("POST", &path).await;
        pushed(&registry, mounted, bytes).await;
        let source = format!("/v2/source/blobs/{digest}");
        registry.delete(&source).await.is(202);
        let target = format!("/v2/target/blobs/{digest}");
        assert_eq!(registry.get(&target).await.is(200).body, bytes);
    }
}

/// "Mounting a blob from another repository": `from` MAY be optional. The blob is found where the caller may read it.
async fn a_mount_without_source_finds_the_blob(registry: Registry) {
    registry.push_image("first", "v1", b"other").await;
    registry.push_image("second", "v1", b"abc").await;
    let digest = sha256(b"abc");
    for query in ["", "&from="] {
        let path = format!(
            "/v2/target{}/blobs/uploads/?mount={digest}{query}",
            query.len()
        );
        let hidden = registry
            .request("POST", &path)
            .header("x-may-not-pull", "second");
        registry.send(hidden).await.is(202);
        let mounted = registry.call("POST", &path).await;
        pushed(&registry, mounted, b"abc").await;
    }
    let unknown = sha256(b"unknown");
    let path = format!("/v2/target/blobs/uploads/?mount={unknown}");
    registry.call("POST", &path).await.is(202);
}

/// A mount asks for a blob in the target; it may be there, wherever the client believes it comes from.
async fn a_blob_that_is_here_need_not_be_mounted(registry: Registry) {
    let digest = registry.push_blob("target", b"abc").await;
    for query in ["&from=nowhere", "&from=target", ""] {
        let path = format!("/v2/target/blobs/uploads/?mount={digest}{query}");
        let mounted = registry.call("POST", &path).await;
        pushed(&registry, mounted, b"abc").await;
    }
}

/// "Mounting a blob from another repository": 202, and an upload has begun.
async fn what_cannot_be_mounted_begins_an_upload(registry: Registry) {
    let digest = registry.push_blob("source", b"abc").await;
    let unknown = sha256(b"unknown");
    let mount = |digest: &str, from: &str| {
        let path = format!("/v2/target/blobs/uploads/?mount={digest}&from={from}");
        registry.request("POST", &path)
    };
    let hidden = mount(&digest, "source").header("x-may-not-pull", "source");
    for request in [mount(&digest, "nowhere"), mount(&unknown, "source"), hidden] {
        let begun = registry.send(request).await.is(202);
        let location = begun.header("location");
        assert_eq!(registry.get(location).await.is(204).header("range"), "0-0");
        registry
            .head(&format!("/v2/target/blobs/{digest}"))
            .await
            .is(404);
        registry.delete(location).await.is(204);
    }
    for query in [
        format!("mount={digest}&from=Source"),
        "mount=abc&from=source".to_owned(),
    ] {
        let path = format!("/v2/target/blobs/uploads/?{query}");
        registry.call("POST", &path).await.is(400);
    }
}
