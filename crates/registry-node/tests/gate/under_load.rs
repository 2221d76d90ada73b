//! A node that much is asked of, slowly or all at once, and one that is told to end meanwhile.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::join_all};
use registry_node::{
    config::Standing,
    gate::LoadLimits,
    limits::{MANIFEST_BYTES_MAXIMUM, REQUEST_HEAD_TIMEOUT},
};
use reqwest::{Body, Method, RequestBuilder, Response, Version};
use rustls_pki_types::ServerName;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{node::*, support::*};

/// More than connections hold on the way.
const LARGE_BYTES: usize = 24 * 1024 * 1024;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

async fn limited(limits: LoadLimits) -> Node {
    Node::start_limited(|_| Standing::unbounded(), limits).await
}

fn as_admin(node: &Node, method: Method, path: &str) -> RequestBuilder {
    let request = node.request(method, "contoso", path);
    request.basic_auth("Contoso", Some(node.passwords[0].expose()))
}

fn digest_of(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// Pushes a large blob; its bytes, and where it is.
async fn push_large(node: &Node) -> (Vec<u8>, String) {
    let bytes: Vec<u8> = (0..LARGE_BYTES).map(|at| (at % 251) as u8).collect();
    let digest = digest_of(&bytes);
    let path = format!("/v2/app/blobs/uploads/?digest={digest}");
    let pushed = as_admin(node, Method::POST, &path).body(bytes.clone());
    assert_eq!(send(pushed).await.status, 201);
    (bytes, format!("/v2/app/blobs/{digest}"))
}

/// An answer whose body nobody has taken yet.
async fn begin(request: RequestBuilder) -> Response {
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_too_much_under_way_is_told_when_to_ask_again_and_others_are_served() {
    let mut node = limited(LoadLimits {
        caller_requests: 1,
        ..LoadLimits::default()
    })
    .await;
    let secret = node.add_principal(1, &[(&resource_id("Contoso"), "AcrPull")]);
    let (_, blob) = push_large(&node).await;
    let download = begin(as_admin(&node, Method::GET, &blob)).await;
    let refused = send(as_admin(&node, Method::GET, "/v2/")).await;
    assert_eq!((refused.status, refused.code()), (429, "TOOMANYREQUESTS"));
    assert_eq!(refused.header("retry-after"), "1");
    let limits = node.counted("wharfinger_registry_limited_requests_total");
    assert_eq!(limits, [("limit=\"caller-requests\"".to_owned(), 1)]);
    let other = node.get("/v2/");
    let other = other.basic_auth(app_id(1).to_string(), Some(secret.expose()));
    assert_eq!(send(other).await.status, 200);
    // Once its body is taken it counts no more.
    assert_eq!(
        download.bytes().await.expect("all of it").len(),
        LARGE_BYTES
    );
    assert_eq!(send(as_admin(&node, Method::GET, "/v2/")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_registrys_rate_is_not_anothers() {
    let mut node = limited(LoadLimits {
        registry_rate: NonZeroU32::new(1),
        ..LoadLimits::default()
    })
    .await;
    let password = secret(credentials::SecretKind::AdminPassword);
    let fabrikam = registry(2, "Fabrikam", node.port, &[(&password, 1)]);
    node.feed
        .publish(vec![config_documents::Document::Registry(fabrikam)]);
    let asked = (0..50).map(|_| send(as_admin(&node, Method::GET, "/v2/")));
    let answers = join_all(asked).await;
    let refused: Vec<&Answer> = answers.iter().filter(|it| it.status == 429).collect();
    assert!(!refused.is_empty());
    assert!(refused.iter().all(|it| it.header("retry-after") == "1"));
    let other = node.request(Method::GET, "fabrikam", "/v2/");
    let other = other.basic_auth("Fabrikam", Some(password.expose()));
    assert_eq!(send(other).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_drips_is_given_up() {
    let node = Node::start().await;
    let mut tls = service::tls::client_config(Some(&node.certificate())).expect("a certificate");
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = TcpStream::connect(("127.0.0.1", node.port)).await;
    let name = ServerName::try_from("contoso.registry.localhost").expect("a name");
    let mut stream = TlsConnector::from(Arc::new(tls))
        .connect(name, tcp.expect("an open port"))
        .await
        .expect("TLS");
    let drip = async {
        stream.write_all(b"GET /v2/ HTTP/1.1\r\n").await?;
        let mut taken = [0; 1024];
        loop {
            stream.write_all(b"x: y\r\n").await?;
            let answer = stream.read(&mut taken);
            match timeout(Duration::from_millis(500), answer).await {
                Err(_) => {}
                Ok(answer) => return answer.map(|length| taken[..length].to_vec()),
            }
        }
    };
    let end = timeout(REQUEST_HEAD_TIMEOUT + Duration::from_secs(60), drip).await;
    // It may be told why, or just be cut off.
    if let Ok(answer) = end.expect("an end") {
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_of_the_largest_manifests_go_in_and_out_at_once() {
    let node = Node::start().await;
    let manifest = |number: usize, length: usize| {
        let start = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"manifests\":[],\"annotations\":{{\"n\":\"{number}-"
        );
        let padding = "x".repeat(length - start.len() - 3);
        format!("{start}{padding}\"}}}}")
    };
    let maximum = usize::try_from(MANIFEST_BYTES_MAXIMUM).expect("small");
    let put = async |tag: String, content: String| {
        let path = format!("/v2/app/manifests/{tag}");
        loop {
            let request = as_admin(&node, Method::PUT, &path).header("content-type", INDEX);
            let answer = send(request.body(content.clone())).await;
            if answer.status != 429 {
                return answer;
            }
            // There is memory for some of them only.
            assert_eq!(answer.header("retry-after"), "5");
        }
    };
    let pushes = (0..24).map(|number| put(format!("t{number}"), manifest(number, maximum)));
    let statuses: Vec<u16> = join_all(pushes).await.iter().map(|it| it.status).collect();
    assert_eq!(statuses, [201; 24]);
    let pulls = (0..24).map(|number| {
        let path = format!("/v2/app/manifests/t{number}");
        let request = as_admin(&node, Method::GET, &path);
        async move { begin(request).await.text().await.expect("all of it") }
    });
    for (number, pulled) in join_all(pulls).await.into_iter().enumerate() {
        assert!(
            pulled == manifest(number, maximum),
            "manifest {number} differs"
        );
    }
    let too_large = put("larger".to_owned(), manifest(0, maximum + 1)).await;
    assert_eq!((too_large.status, too_large.code()), (413, "SIZE_INVALID"));
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_under_way_end_whole_when_the_node_stops_and_new_requests_are_refused() {
    let node = Node::start().await;
    let (bytes, blob) = push_large(&node).await;
    let download = begin(as_admin(&node, Method::GET, &blob)).await;
    let (pieces, body) = mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let body =
        futures_util::stream::unfold(
            body,
            |mut body| async move { Some((body.recv().await?, body)) },
        );
    let received = node.received_bytes();
    let path = format!("/v2/app/blobs/uploads/?digest={SHA256_OF_HELLO}");
    let upload = as_admin(&node, Method::POST, &path).body(Body::wrap_stream(body));
    let upload = tokio::spawn(send(upload));
    pieces.send(Ok(b"hel".to_vec())).await.expect("taken");
    while node.received_bytes() == received {
        tokio::task::yield_now().await;
    }
    let stopping = tokio::spawn(node.stop());
    // A kept connection is still served, with a refusal.
    let refused = loop {
        match as_admin(&node, Method::GET, "/v2/").send().await {
            Ok(answer) if answer.status() == 200 => {}
            answer => break answer,
        }
    };
    if let Ok(refused) = refused {
        assert_eq!(refused.status(), 503);
        assert_eq!(refused.headers()["retry-after"], "1");
    }
    assert!(!stopping.is_finished());
    assert!(download.bytes().await.expect("all of it") == bytes);
    pieces.send(Ok(b"lo".to_vec())).await.expect("taken");
    drop(pieces);
    assert_eq!(upload.await.expect("no panic").status, 201);
    let stopped = timeout(Duration::from_secs(120), stopping).await;
    stopped.expect("it ends").expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_connection_do_not_wait_for_one_that_nobody_reads() {
    let node = Node::start().await;
    let (bytes, blob) = push_large(&node).await;
    let unread = begin(as_admin(&node, Method::GET, &blob)).await;
    assert_eq!(unread.version(), Version::HTTP_2);
    let others = (0..200).map(|number| {
        let range = format!("bytes={}-{}", number * 1000, number * 1000 + 999);
        let part = as_admin(&node, Method::GET, &blob).header("range", range);
        async move { part.send().await.expect("an answer").bytes().await }
    });
    let parts = timeout(Duration::from_secs(60), join_all(others)).await;
    for (number, part) in parts.expect("no wait").into_iter().enumerate() {
        let expected = &bytes[number * 1000..][..1000];
        assert!(
            part.expect("all of it") == expected,
            "part {number} differs"
        );
    }
    let mut rest = unread.bytes_stream();
    let mut read = Vec::new();
    while let Some(piece) = rest.next().await {
        read.extend_from_slice(&piece.expect("more"));
    }
    assert!(read == bytes);
}
