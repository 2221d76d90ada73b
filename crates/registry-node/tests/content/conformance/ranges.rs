//! "Pulling blobs", on the `Range` header: a registry SHOULD support it in accordance with RFC 9110, section 14.

use super::super::harness::{Answer, Registry, noise};
use super::requirements;

requirements![
    a_range_of_a_blob_is_pulled,
    an_unsatisfiable_range_is_416,
    several_ranges_come_in_one_answer,
    ranges_longer_than_the_blob_are_not_sent_apart,
    what_is_no_range_of_bytes_is_ignored,
    any_range_of_an_empty_blob_is_all_of_it,
    head_has_no_ranges,
    a_range_of_other_content_is_all_of_it,
];

const SIZE: usize = 2048;

/// The path of a blob, and its bytes.
async fn blob(registry: &Registry, size: usize) -> (String, Vec<u8>) {
    let bytes = noise(11, size);
    let digest = registry.push_blob("app", &bytes).await;
    (format!("/v2/app/blobs/{digest}"), bytes)
}

/// RFC 9110, 14.1.2 and 15.3.7: first to last, open, the last bytes, and an end behind the end.
async fn a_range_of_a_blob_is_pulled(registry: Registry) {
    let (path, bytes) = blob(&registry, SIZE).await;
    let cases = [
        ("bytes=500-1499", 500..1500),
        ("bytes=0-0", 0..1),
        ("bytes=500-", 500..SIZE),
        ("bytes=-500", SIZE - 500..SIZE),
        ("bytes=-5000", 0..SIZE),
        ("bytes=2000-5000", 2000..SIZE),
        ("bytes=0-99999999999999999999999", 0..SIZE),
        ("Bytes = 1 - 2", 1..3),
        ("bytes=1-2, 9000-", 1..3),
    ];
    for (range, expected) in cases {
        let answer = registry.get_with(&path, "range", range).await.is(206);
        assert!(answer.body == bytes[expected.clone()], "{range}");
        let content_range = format!("bytes {}-{}/{SIZE}", expected.start, expected.end - 1);
        assert_eq!(answer.header("content-range"), content_range);
        assert_eq!(answer.header("content-length"), expected.len().to_string());
    }
    // Across the blocks in which a blob is read.
    let (path, bytes) = blob(&registry, 2_300_000).await;
    let range = "bytes=1048570-1048590";
    let answer = registry.get_with(&path, "range", range).await.is(206);
    assert!(answer.body == bytes[1_048_570..1_048_591]);
}

/// RFC 9110, 15.5.17: with the size that the blob has.
async fn an_unsatisfiable_range_is_416(registry: Registry) {
    let (path, _) = blob(&registry, SIZE).await;
    for range in [
        "bytes=2048-",
        "bytes=5000-10000",
        "bytes=-0",
        "bytes=500-0",
        "bytes=9000-, 8000-9000",
    ] {
        let refused = registry.get_with(&path, "range", range).await;
        let refused = refused.refused(416, "SIZE_INVALID");
        assert_eq!(refused.header("content-range"), "bytes */2048", "{range}");
    }
}

/// The parts of a `multipart/byteranges` body: `Content-Range` and bytes of each.
fn parts(answer: &Answer) -> Vec<(String, Vec<u8>)> {
    let content_type = answer.header("content-type");
    let boundary = content_type
        .strip_prefix("multipart/byteranges; boundary=")
        .expect("a multipart answer");
    let separator = format!("\r\n--{boundary}");
    let text: String = answer.body.iter().map(|byte| char::from(*byte)).collect();
    let (parts, end) = text.rsplit_once(&separator).expect("an end");
    assert_eq!(end, "--\r\n");
    let parts = parts.split(&separator).skip(1).map(|part| {
        let (head, bytes) = part.split_once("\r\n\r\n").expect("a head");
        let range = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Range: "));
        let range = range.expect("a range").to_owned();
        let bytes = bytes.chars().map(|byte| u32::from(byte) as u8).collect();
        (range, bytes)
    });
    parts.collect()
}

/// RFC 9110, 14.6. Clients that unpack lazily, or only the files that they lack, ask like this.
async fn several_ranges_come_in_one_answer(registry: Registry) {
    let (path, bytes) = blob(&registry, 300_000).await;
    let cases = [
        ("bytes=0-0,299999-299999", vec![0..1, 299_999..300_000]),
        (
            "bytes=200000-, ,10-19 , -1,900000-",
            vec![200_000..300_000, 10..20, 299_999..300_000],
        ),
    ];
    for (range, expected) in cases {
        let answer = registry.get_with(&path, "range", range).await.is(206);
        let expected: Vec<(String, Vec<u8>)> = expected
            .into_iter()
            .map(|part| {
                let range = format!("bytes {}-{}/300000", part.start, part.end - 1);
                (range, bytes[part].to_vec())
            })
            .collect();
        assert!(parts(&answer) == expected, "{range}");
        assert_eq!(
            answer.header("content-length"),
            answer.body.len().to_string()
        );
        assert_eq!(answer.header("content-range"), "");
    }
}

/// RFC 9110, 14.2: a server may ignore many ranges, or such that overlap; else a small request would bring a huge answer.
async fn ranges_longer_than_the_blob_are_not_sent_apart(registry: Registry) {
    let (path, bytes) = blob(&registry, SIZE).await;
    let many = format!("bytes={}", "0-0,".repeat(1025));
    for range in ["bytes=0-,0-,0-", many.as_str()] {
        let answer = registry.get_with(&path, "range", range).await.is(200);
        assert!(answer.body == bytes);
    }
}

/// RFC 9110, 14.2: what is not understood is ignored.
async fn what_is_no_range_of_bytes_is_ignored(registry: Registry) {
    let (path, bytes) = blob(&registry, SIZE).await;
    for range in [
        "items=0-1",
        "bytes=a-b",
        "bytes=-",
        "bytes=",
        "bytes",
        "bytes=+1-2",
    ] {
        let answer = registry.get_with(&path, "range", range).await.is(200);
        assert!(answer.body == bytes, "{range}");
    }
}

/// Some clients ask for `bytes=0-` whatever they read; nothing is gained by refusing them.
async fn any_range_of_an_empty_blob_is_all_of_it(registry: Registry) {
    let (path, _) = blob(&registry, 0).await;
    for range in ["bytes=0-", "bytes=-5"] {
        let answer = registry.get_with(&path, "range", range).await.is(200);
        assert!(answer.body.is_empty());
    }
}

/// RFC 9110, 14.2: only GET has ranges.
async fn head_has_no_ranges(registry: Registry) {
    let (path, _) = blob(&registry, SIZE).await;
    let request = registry.request("HEAD", &path).header("range", "bytes=0-9");
    let head = registry.send(request).await.is(200);
    assert_eq!(head.header("content-length"), SIZE.to_string());
}

/// RFC 9110, 13.1.5.
async fn a_range_of_other_content_is_all_of_it(registry: Registry) {
    let (path, _) = blob(&registry, SIZE).await;
    let entity_tag = registry.head(&path).await.header("etag").to_owned();
    let cases = [
        (entity_tag.as_str(), 206),
        ("\"x\"", 200),
        ("Mon, 30 Nov 2026 00:00:00 GMT", 200),
    ];
    for (condition, status) in cases {
        let request = registry
            .request("GET", &path)
            .header("range", "bytes=0-9")
            .header("if-range", condition);
        registry.send(request).await.is(status);
    }
}
