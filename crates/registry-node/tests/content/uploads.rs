//! Blobs on a directory: what is left there of pushes that fail, and what is kept once. What a client sees is in `conformance`.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::harness::{Registry, noise, sha256};

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
    let mut connection = TcpStream::connect(&registry.nodes[0]).expect("a connection");
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
        assert!(start.elapsed() < Duration::from_secs(90), "{what}");
        actix_web::rt::time::sleep(Duration::from_millis(5)).await;
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
async fn a_mount_moves_no_bytes() {
    let registry = Registry::start().await;
    let digest = registry.push_blob("source", &noise(13, 50_000)).await;
    let path = format!("/v2/target/blobs/uploads/?mount={digest}&from=source");
    registry.call("POST", &path).await.is(201);
    assert_eq!(registry.data_files().len(), 1);
}

#[actix_web::test]
async fn registries_share_nothing() {
    let registry = Registry::start().await;
    let other = registry.another();
    let digest = registry.push_blob("app", b"abc").await;
    registry.push_image("app", "v1", b"abc").await;
    let absent = other.get(&format!("/v2/app/blobs/{digest}")).await;
    absent.refused(404, "BLOB_UNKNOWN");
    for from in ["&from=app", ""] {
        let mount = format!("/v2/b/blobs/uploads/?mount={digest}{from}");
        other.call("POST", &mount).await.is(202);
    }
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
