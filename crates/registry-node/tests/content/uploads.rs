//! Blobs: pushed whole and in chunks, mounted, read in parts, deleted.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::harness::{REGISTRY, Registry, noise, open, sha256, sha512};

#[actix_web::test]
async fn a_blob_pushed_whole_is_read_back() {
    let registry = Registry::start().await;
    for length in [0, 1, 40_000, 1 << 20, 3_500_000] {
        let bytes = noise(length as u64, length);
        let digest = registry.push_blob("team/app", &bytes).await;
        let path = format!("/v2/team/app/blobs/{digest}");
        let read = registry.call("GET", &path).await.is(200);
        assert!(read.body == bytes);
        assert_eq!(read.header("docker-content-digest"), digest);
        assert_eq!(
            read.header("docker-distribution-api-version"),
            "registry/2.0"
        );
        let head = registry.call("HEAD", &path).await.is(200);
        assert_eq!(head.header("content-length"), length.to_string());
        assert!(head.body.is_empty());
    }
}

#[actix_web::test]
async fn a_blob_pushed_in_chunks_is_read_back() {
    let registry = Registry::start().await;
    let bytes = noise(7, 2_500_000);
    let digest = sha256(&bytes);
    let started = registry
        .call("POST", "/v2/app/blobs/uploads/")
        .await
        .is(202);
    let location = started.header("location").to_owned();
    assert!(started.headers.contains_key("docker-upload-uuid"));
    assert!(started.headers.contains_key("oci-chunk-min-length"));

    for (start, end) in [
        (0, 1_000_000),
        (1_000_000, 1_000_001),
        (1_000_001, 2_400_000),
    ] {
        let request = registry
            .request("PATCH", &location)
            .header("content-range", format!("{start}-{}", end - 1))
            .body(bytes[start..end].to_vec());
        let answer = registry.send(request).await.is(202);
        assert_eq!(answer.header("range"), format!("0-{}", end - 1));
        let status = registry.call("GET", &location).await.is(204);
        assert_eq!(status.header("range"), format!("0-{}", end - 1));
    }
    let finish = format!("{location}?digest={digest}");
    let request = registry
        .request("PUT", &finish)
        .body(bytes[2_400_000..].to_vec());
    let finished = registry.send(request).await.is(201);
    assert_eq!(finished.header("docker-content-digest"), digest);
    let read = registry
        .call("GET", finished.header("location"))
        .await
        .is(200);
    assert!(read.body == bytes);
    registry
        .call("GET", &location)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[actix_web::test]
async fn a_chunk_that_goes_elsewhere_is_told_where_the_upload_is() {
    let registry = Registry::start().await;
    let started = registry.call("POST", "/v2/app/blobs/uploads/").await;
    let location = started.header("location").to_owned();
    let chunk = |range: &'static str, body: &'static str| {
        let request = registry
            .request("PATCH", &location)
            .header("content-range", range);
        registry.send(request.body(body))
    };
    chunk("0-2", "abc").await.is(202);
    let refused = chunk("5-7", "fgh")
        .await
        .refused(416, "BLOB_UPLOAD_INVALID");
    assert_eq!(refused.header("range"), "0-2");
    assert_eq!(refused.header("location"), location);
    chunk("0-2", "abc")
        .await
        .refused(416, "BLOB_UPLOAD_INVALID");
    chunk("3-9", "def").await.refused(400, "SIZE_INVALID");
    chunk("three", "def")
        .await
        .refused(400, "BLOB_UPLOAD_INVALID");
    chunk("3-5", "def").await.is(202);
    let finish = format!("{location}?digest={}", sha256(b"abcdef"));
    registry.call("PUT", &finish).await.is(201);
}

#[actix_web::test]
async fn of_two_chunks_at_once_one_loses_and_leaves_nothing() {
    let registry = Registry::start().await;
    let started = registry.call("POST", "/v2/app/blobs/uploads/").await;
    let location = started.header("location").to_owned();
    let chunks: Vec<Vec<u8>> = (0..6).map(|seed| noise(seed, 1_200_000)).collect();
    let answers = futures_util::future::join_all(chunks.iter().map(|chunk| {
        let request = registry
            .request("PATCH", &location)
            .header("content-range", "0-1199999");
        registry.send(request.body(chunk.clone()))
    }))
    .await;
    let won: Vec<usize> = (0..6)
        .filter(|index| answers[*index].status == 202)
        .collect();
    assert_eq!(won.len(), 1);
    assert!(
        answers
            .iter()
            .all(|answer| [202, 416].contains(&answer.status.as_u16()))
    );
    assert_eq!(registry.data_files().len(), 1);
    let finish = format!("{location}?digest={}", sha256(&chunks[won[0]]));
    let finished = registry.call("PUT", &finish).await.is(201);
    let read = registry
        .call("GET", finished.header("location"))
        .await
        .is(200);
    assert!(read.body == chunks[won[0]]);
}

#[actix_web::test]
async fn a_wrong_digest_leaves_nothing() {
    let registry = Registry::start().await;
    let wrong = sha256(b"something else");
    let path = format!("/v2/app/blobs/uploads/?digest={wrong}");
    let whole = registry.request("POST", &path).body(noise(1, 2_000_000));
    registry.send(whole).await.refused(400, "DIGEST_INVALID");

    let started = registry.call("POST", "/v2/app/blobs/uploads/").await;
    let location = started.header("location").to_owned();
    let chunk = registry.request("PATCH", &location).body("abc");
    registry.send(chunk).await.is(202);
    let finish = registry
        .request("PUT", &format!("{location}?digest={wrong}"))
        .body("def");
    registry.send(finish).await.refused(400, "DIGEST_INVALID");
    registry
        .call("GET", &location)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    let read = registry
        .call("GET", &format!("/v2/app/blobs/{wrong}"))
        .await;
    read.refused(404, "BLOB_UNKNOWN");
    assert_eq!(registry.data_files(), Vec::<String>::new());
}

#[actix_web::test]
async fn a_cancelled_upload_leaves_nothing() {
    let registry = Registry::start().await;
    let started = registry.call("POST", "/v2/app/blobs/uploads/").await;
    let location = started.header("location").to_owned();
    registry
        .send(registry.request("PATCH", &location).body("abc"))
        .await
        .is(202);
    let elsewhere = location.replace("/app/", "/other/");
    registry
        .call("DELETE", &elsewhere)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    registry.call("DELETE", &location).await.is(204);
    registry
        .call("DELETE", &location)
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(registry.data_files(), Vec::<String>::new());
}

#[actix_web::test]
async fn a_body_that_breaks_off_leaves_nothing() {
    let registry = Registry::start().await;
    let started = registry.call("POST", "/v2/app/blobs/uploads/").await;
    let location = started.header("location").to_owned();
    let mut connection = TcpStream::connect(&registry.address).expect("a connection");
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: a\r\ncontent-length: 9000000\r\n\r\n");
    connection.write_all(head.as_bytes()).expect("sent");
    connection.write_all(&noise(3, 2_500_000)).expect("sent");
    wait_until("bytes arrive", || !registry.data_files().is_empty()).await;
    drop(connection);
    wait_until("bytes go", || registry.data_files().is_empty()).await;
    let status = registry.call("GET", &location).await.is(204);
    assert_eq!(status.header("range"), "0-0");
    let whole = registry
        .request("PUT", &format!("{location}?digest={}", sha256(b"abc")))
        .body("abc");
    registry.send(whole).await.is(201);
}

async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        actix_web::rt::time::sleep(Duration::from_millis(5)).await;
    }
}

#[actix_web::test]
async fn an_upload_takes_any_digest_algorithm() {
    let registry = Registry::start().await;
    let bytes = noise(9, 1_500_000);
    for query in ["", "?digest-algorithm=sha512"] {
        for digest in [sha256(&bytes), sha512(&bytes)] {
            let repository = format!("app{}", digest.len());
            let path = format!("/v2/{repository}/blobs/uploads/{query}");
            let started = registry.call("POST", &path).await.is(202);
            let location = started.header("location").to_owned();
            let chunk = registry.request("PATCH", &location).body(bytes.clone());
            registry.send(chunk).await.is(202);
            let finish = format!("{location}?digest={digest}");
            let finished = registry.call("PUT", &finish).await.is(201);
            let read = registry
                .call("GET", finished.header("location"))
                .await
                .is(200);
            assert!(read.body == bytes);
        }
    }
}

#[actix_web::test]
async fn the_same_content_is_kept_once() {
    let registry = Registry::start().await;
    let bytes = noise(5, 100_000);
    registry.push_blob("one", &bytes).await;
    registry.push_blob("one", &bytes).await;
    let digest = registry.push_blob("two", &bytes).await;
    assert_eq!(registry.data_files().len(), 1);
    for repository in ["one", "two"] {
        let read = registry
            .call("GET", &format!("/v2/{repository}/blobs/{digest}"))
            .await
            .is(200);
        assert!(read.body == bytes);
    }
}

#[actix_web::test]
async fn pushing_again_repairs_bytes_that_were_lost() {
    let registry = Registry::start().await;
    let bytes = noise(5, 100_000);
    let digest = registry.push_blob("one", &bytes).await;
    registry.push_blob("two", &bytes).await;
    for file in registry.data_files() {
        std::fs::remove_file(file).expect("removed");
    }
    let path = |repository| format!("/v2/{repository}/blobs/{digest}");
    registry
        .call("GET", &path("one"))
        .await
        .refused(500, "UNKNOWN");
    registry.push_blob("one", &bytes).await;
    for repository in ["one", "two"] {
        assert!(registry.call("GET", &path(repository)).await.is(200).body == bytes);
    }
}

#[actix_web::test]
async fn parts_of_a_blob_are_read() {
    let registry = Registry::start().await;
    let bytes = noise(11, 2_300_000);
    let digest = registry.push_blob("app", &bytes).await;
    let path = format!("/v2/app/blobs/{digest}");
    let cases = [
        ("bytes=0-0", 0..1),
        ("bytes=1048570-1048590", 1_048_570..1_048_591),
        ("bytes=100-", 100..2_300_000),
        ("bytes=-5", 2_299_995..2_300_000),
        ("bytes=2299999-9999999", 2_299_999..2_300_000),
    ];
    for (range, expected) in cases {
        let request = registry.request("GET", &path).header("range", range);
        let answer = registry.send(request).await.is(206);
        assert!(answer.body == bytes[expected.clone()], "{range}");
        let content_range = format!("bytes {}-{}/2300000", expected.start, expected.end - 1);
        assert_eq!(answer.header("content-range"), content_range);
    }
    let request = registry
        .request("GET", &path)
        .header("range", "bytes=2300000-");
    let refused = registry.send(request).await.refused(416, "SIZE_INVALID");
    assert_eq!(refused.header("content-range"), "bytes */2300000");
    let request = registry
        .request("GET", &path)
        .header("range", "bytes=0-1,4-5");
    let parts = registry.send(request).await.is(206);
    let content_type = parts.header("content-type");
    assert!(content_type.starts_with("multipart/byteranges; boundary="));
    let request = registry
        .request("GET", &path)
        .header("if-none-match", format!("\"{digest}\""));
    assert!(registry.send(request).await.is(304).body.is_empty());
}

#[actix_web::test]
async fn a_blob_is_mounted_where_the_caller_may_read_it() {
    let registry = Registry::start().await;
    let bytes = noise(13, 50_000);
    let digest = registry.push_blob("source", &bytes).await;
    let mount = |target: &str, from: &str| {
        format!("/v2/{target}/blobs/uploads/?mount={digest}&from={from}")
    };
    let mounted = registry
        .call("POST", &mount("target", "source"))
        .await
        .is(201);
    let read = registry
        .call("GET", mounted.header("location"))
        .await
        .is(200);
    assert!(read.body == bytes);
    assert_eq!(registry.data_files().len(), 1);

    let request = registry
        .request("POST", &mount("other", "source"))
        .header("x-may-not-pull", "source");
    registry.send(request).await.is(202);
    registry
        .call("POST", &mount("other", "nowhere"))
        .await
        .is(202);
    let absent = registry
        .call("GET", &format!("/v2/other/blobs/{digest}"))
        .await;
    absent.refused(404, "BLOB_UNKNOWN");
}

#[actix_web::test]
async fn a_deleted_blob_is_gone_from_its_repository_only() {
    let registry = Registry::start().await;
    let digest = registry.push_blob("one", b"abc").await;
    registry.push_blob("two", b"abc").await;
    let path = |repository| format!("/v2/{repository}/blobs/{digest}");
    registry.call("DELETE", &path("one")).await.is(202);
    registry
        .call("GET", &path("one"))
        .await
        .refused(404, "BLOB_UNKNOWN");
    registry.call("HEAD", &path("one")).await.is(404);
    registry
        .call("DELETE", &path("one"))
        .await
        .refused(404, "BLOB_UNKNOWN");
    assert_eq!(
        registry.call("GET", &path("two")).await.is(200).body,
        b"abc"
    );
    registry.push_blob("one", b"abc").await;
    assert_eq!(
        registry.call("GET", &path("one")).await.is(200).body,
        b"abc"
    );
}

#[actix_web::test]
async fn registries_share_nothing() {
    let registry = Registry::start().await;
    let digest = registry.push_blob("app", b"abc").await;
    let other = "00000000-0000-0000-0000-00000000feed";
    let path = format!("/v2/app/blobs/{digest}");
    let request = registry.request("GET", &path).header("x-registry", other);
    registry.send(request).await.refused(404, "BLOB_UNKNOWN");
    let mount = format!("/v2/b/blobs/uploads/?mount={digest}&from=app");
    let request = registry.request("POST", &mount).header("x-registry", other);
    registry.send(request).await.is(202);
    assert_ne!(other, REGISTRY.to_string());
}

#[actix_web::test]
async fn another_process_goes_on_with_an_upload() {
    let registry = Registry::start().await;
    let started = registry.call("POST", "/v2/app/blobs/uploads/").await;
    let id = started.header("docker-upload-uuid").parse().expect("an id");
    let location = started.header("location").to_owned();
    registry
        .send(registry.request("PATCH", &location).body("abc"))
        .await
        .is(202);

    let other = open(registry.directory.path()).await;
    let name = "app".parse().expect("a name");
    let repository = other.repository(REGISTRY, &name);
    let body = futures_util::stream::iter([Ok(bytes::Bytes::from_static(b"def"))]);
    let upload = repository
        .append_to_upload(id, Some(3), body)
        .await
        .expect("appended");
    assert_eq!(upload.offset, 6);

    let digest = sha256(b"abcdef");
    let finished = registry
        .call("PUT", &format!("{location}?digest={digest}"))
        .await
        .is(201);
    assert_eq!(
        registry.call("GET", finished.header("location")).await.body,
        b"abcdef"
    );
}

#[actix_web::test]
async fn a_path_of_a_million_characters_is_refused() {
    let registry = Registry::start().await;
    let request = registry.request("GET", &format!("/v2/{}/tags/list", "a".repeat(1_000_000)));
    // The server may close the connection before it has read all of such a request.
    if let Ok(answer) = request.send().await {
        assert!(answer.status().is_client_error(), "{}", answer.status());
    }
    registry.call("GET", "/v2/").await.is(200);
    let path = format!("/v2/{}/tags/list", "a".repeat(10_000));
    registry
        .call("GET", &path)
        .await
        .refused(414, "UNSUPPORTED");
}
