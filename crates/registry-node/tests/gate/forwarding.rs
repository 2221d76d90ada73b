//! What a node of one region hands on to one of another.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use config_documents::{Document, Region};
use reqwest::{Body, Method};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{node::*, sites::*};

#[tokio::test(flavor = "multi_thread")]
async fn an_open_registry_of_another_region_is_read_without_credentials() {
    let mut scene = Scene::start().await;
    let blob = scene.push_blob(noise(100)).await;
    let get = |scene: &Scene| scene.request_by(&scene.client, Method::GET, &blob);
    assert_eq!(send(get(&scene)).await.status, 401);
    let Document::Registry(registry) = scene.registry() else {
        panic!("a registry");
    };
    let open = Document::Registry(config_documents::Registry {
        anonymous_pull_enabled: true,
        ..registry
    });
    scene.there.feed.publish(vec![open.clone()]);
    assert_eq!(send(get(&scene)).await.status, 200);
    // Also where its callers are known here.
    let name = scene.name(&[THERE, HERE]);
    scene.here.feed.publish(vec![open, name.clone()]);
    scene.there.feed.publish(vec![name]);
    assert_eq!(send(get(&scene)).await.status, 200);
    let path = format!(
        "/oauth2/token?service={}&scope=repository:app:pull",
        scene.login_server()
    );
    let token = send(scene.request_by(&scene.client, Method::GET, &path)).await;
    let token = token.body["access_token"].as_str().expect("a token");
    assert_eq!(send(get(&scene).bearer_auth(token)).await.status, 200);
    let upload = "/v2/app/blobs/uploads/";
    let push = scene.request_by(&scene.client, Method::POST, upload);
    assert_eq!(send(push).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_are_read_and_changed_in_the_registrys_region() {
    let scene = Scene::start().await;
    let index = r#"{"schemaVersion":2,"manifests":[]}"#;
    let put = scene
        .request(Method::PUT, "/v2/team/app/manifests/v1")
        .header("content-type", "application/vnd.oci.image.index.v1+json");
    assert_eq!(send(put.body(index)).await.status, 201);
    let tag = "/acr/v1/team%2Fapp/_tags/v1";
    let lock = scene
        .request(Method::PATCH, tag)
        .body(r#"{"writeEnabled":false}"#);
    let locked = send(lock).await;
    assert_eq!(locked.status, 200, "{}", locked.body);
    let shown = send(scene.request(Method::GET, tag)).await;
    assert_eq!(shown.body, locked.body);
    assert_eq!(shown.body["registry"], scene.login_server());
    assert_eq!(
        shown.body["tag"]["changeableAttributes"]["writeEnabled"],
        false
    );
    let refused = send(scene.request(Method::DELETE, "/acr/v1/team/app")).await;
    assert_eq!(
        (refused.status, refused.code()),
        (405, "REGISTRY_DISALLOWED_OPERATION")
    );
    let catalog = send(scene.request(Method::GET, "/acr/v1/_catalog")).await;
    assert_eq!(catalog.body, json!({"repositories": ["team/app"]}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_of_another_region_is_used_as_if_it_were_here() {
    let scene = Scene::start().await;
    // The challenge is that of the registry, whichever node is asked.
    let answer = send(scene.request_by(&scene.client, Method::GET, "/v2/")).await;
    let server = scene.login_server();
    assert_eq!(answer.status, 401);
    assert_eq!(
        answer.challenge,
        [format!(
            "Bearer realm=\"https://{server}/oauth2/token\",service=\"{server}\""
        )]
    );
    let path = format!("/oauth2/token?service={server}&scope=repository:app:pull,push");
    let answer = send(scene.request(Method::GET, &path)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let token = answer.body["access_token"].as_str().expect("a token");

    let content = noise(3_000_000);
    let blob = scene.push_blob(content.clone()).await;
    // By HTTP/2, which the client chooses, and by HTTP/1.1.
    let plain = scene.client_at([127, 0, 0, 1], &scene.here);
    for client in [&scene.client, &plain] {
        let request = scene.request_by(client, Method::GET, &blob);
        let response = request.bearer_auth(token).send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.content_length(), Some(3_000_000));
        let bytes = response.bytes().await.expect("all of it");
        assert!(bytes == content);
        let request = scene.request_by(client, Method::HEAD, &blob);
        let response = request.bearer_auth(token).send().await.expect("an answer");
        assert_eq!(response.headers()["content-length"], "3000000");
        let ranged = scene.request_by(client, Method::GET, &blob);
        let ranged = ranged.bearer_auth(token).header("range", "bytes=5-9");
        let response = ranged.send().await.expect("an answer");
        assert_eq!(response.status(), 206);
        assert_eq!(response.bytes().await.expect("bytes")[..], content[5..10]);
    }
    // An upload in parts of which nobody says how long they are.
    let start = send(scene.request(Method::POST, "/v2/app/blobs/uploads/")).await;
    assert_eq!(start.status, 202);
    assert!(
        start
            .header("location")
            .starts_with("/v2/app/blobs/uploads/")
    );
    let parts = content
        .chunks(100_000)
        .map(|part| Ok::<_, std::io::Error>(part.to_vec()));
    let parts: Vec<_> = parts.collect();
    let body = Body::wrap_stream(futures_util::stream::iter(parts));
    let patched = send(
        scene
            .request(Method::PATCH, start.header("location"))
            .body(body),
    )
    .await;
    assert_eq!(
        (patched.status, patched.header("range")),
        (202, "0-2999999")
    );
    let separator = if patched.header("location").contains('?') {
        '&'
    } else {
        '?'
    };
    let path = format!(
        "{}{separator}digest={}",
        patched.header("location"),
        digest_of(&content)
    );
    assert_eq!(send(scene.request(Method::PUT, &path)).await.status, 201);

    assert_eq!(scene.here.forwarded("answered"), 12);
    assert_eq!(
        scene
            .there
            .metric("wharfinger_registry_received_bytes_total "),
        6_000_000
    );
    assert!(scene.here.metric("wharfinger_registry_sent_bytes_total ") > 6_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_is_passed_over_and_without_any_the_region_is_named() {
    let mut scene = Scene::start().await;
    let blob = scene.push_blob(noise(1000)).await;
    // Nobody listens there; its id comes first.
    let dead = node_at(0, THERE, "127.0.0.1:9");
    scene.here.feed.publish(vec![dead.clone()]);
    for _ in 0..4 {
        assert_eq!(send(scene.request(Method::GET, &blob)).await.status, 200);
    }
    let path = format!("/v2/app/blobs/uploads/?digest={SHA256_OF_HELLO}");
    for _ in 0..2 {
        let push = scene.request(Method::POST, &path).body("hello");
        assert_eq!(send(push).await.status, 201);
    }
    let live = scene.there.documents().remove(0);
    scene.here.feed.delete(&live);
    let answer = send(scene.request(Method::GET, &blob)).await;
    assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"));
    assert!(!answer.header("retry-after").is_empty());
    let message = answer.body["errors"][0]["message"].to_string();
    assert!(message.contains("region northeurope"), "{message}");
    // Without a single node, too.
    scene.here.feed.delete(&dead);
    assert_eq!(send(scene.request(Method::GET, &blob)).await.status, 503);
    assert_eq!(scene.here.forwarded("unreachable"), 2);
    scene.here.feed.publish(vec![live]);
    assert_eq!(send(scene.request(Method::GET, &blob)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_show_the_login_servers_certificate_gets_nothing() {
    let scene = Scene::start_trusting(Some(&Trust::new())).await;
    let answer = send(scene.request(Method::GET, "/v2/")).await;
    assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"));
    assert_eq!(
        scene.there.metric("wharfinger_registry_sent_bytes_total "),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_not_heard_of_the_registry_says_so_to_the_one_that_asks_for_somebody() {
    let mut scene = Scene::start().await;
    for document in [scene.registry(), scene.name(&[HERE])] {
        scene.there.feed.delete(&document);
    }
    // Nothing was done there, so another is asked, whatever the method; here that one is away, and its id comes last.
    scene
        .here
        .feed
        .publish(vec![node_at(99, THERE, "127.0.0.1:9")]);
    let answer = send(scene.request(Method::POST, "/v2/app/blobs/uploads/")).await;
    assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"));
    assert_eq!(scene.here.forwarded("unreachable"), 1);
    // What was sent with a body is gone.
    let put = scene.request(Method::PUT, "/v2/app/manifests/v1");
    let answer = send(put.body("x")).await;
    assert_eq!((answer.status, answer.code()), (421, "NAME_UNKNOWN"));
    // To anybody else there is no such registry.
    let direct = scene.client_at([127, 0, 0, 1], &scene.there);
    let answer = scene.fails(&direct, &scene.there, None).await;
    assert_eq!(answer.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_handed_on_once() {
    let mut scene = Scene::start().await;
    // The node there takes the region here for the registry's home.
    let registry = scene.registry();
    scene.there.feed.delete(&registry);
    let Document::RegistryName(mut name) = scene.name(&[HERE]) else {
        panic!("a name");
    };
    name.home_region = Region(HERE.to_owned());
    scene.there.feed.publish(vec![Document::RegistryName(name)]);
    let answer = send(scene.request(Method::GET, "/v2/")).await;
    assert_eq!((answer.status, answer.code()), (421, "NAME_UNKNOWN"));
    assert_eq!(scene.here.forwarded("answered"), 1);
    assert_eq!(scene.here.forwarded("misdirected"), 0);
    // Whoever says so without being a node only keeps its own request from being handed on.
    let request = scene.request(Method::GET, "/v2/");
    let answer = send(request.header(FORWARDED, "unsigned")).await;
    assert_eq!(answer.status, 421);
    assert_eq!(scene.here.forwarded("misdirected"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_known_here_lets_callers_in_here_and_has_its_content_there() {
    let mut scene = Scene::start().await;
    let everywhere = vec![scene.registry(), scene.name(&[THERE, HERE])];
    scene.here.feed.publish(everywhere.clone());
    scene.there.feed.publish(everywhere);
    let blob = scene.push_blob(b"hello".to_vec()).await;
    let path = format!(
        "/oauth2/token?service={}&scope=repository:app:pull",
        scene.login_server()
    );
    // The node there is away: callers are let in, and what they ask for is not to be had.
    let (live, dead) = (
        scene.there.documents().remove(0),
        node_at(2, THERE, "127.0.0.1:9"),
    );
    scene.here.feed.publish(vec![dead]);
    assert_eq!(send(scene.request(Method::GET, "/v2/")).await.status, 200);
    let answer = send(scene.request(Method::GET, &path)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let token = answer.body["access_token"].as_str().expect("a token");
    let url = format!("https://{}{blob}", scene.login_server());
    let client = scene.client.clone();
    let get = || client.get(&url).bearer_auth(token);
    assert_eq!(send(get()).await.status, 503);
    let stranger = scene.request_by(&scene.client, Method::GET, &blob);
    assert_eq!(send(stranger).await.status, 401);
    scene.here.feed.publish(vec![live]);
    // The token was made here; there it counts, because the registry is known here.
    let response = get().send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(response.text().await.expect("text"), "hello");
    // The registry leaves: the token of a node where it is not known counts no more, at its home first of all.
    let at_home = vec![scene.name(&[THERE])];
    scene.there.feed.publish(at_home);
    assert_eq!(send(get()).await.status, 401);
}

/// Answers every request with `head`, then ends the connection.
async fn half_an_answer(trust: &Trust, head: &'static str) -> SocketAddr {
    let mut tls = service::tls::server_config(&trust.tls).expect("a certificate");
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(tcp).await else {
                continue;
            };
            let mut asked = [0; 4096];
            if stream.read(&mut asked).await.is_ok_and(|length| length > 0) {
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_there_breaks_off_here() {
    let mut scene = Scene::start().await;
    let plain = scene.client_at([127, 0, 0, 1], &scene.here);
    for (head, outcome) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello", "cut"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "cut",
        ),
        ("HTTP/1.1 20", "broken"),
        ("", "broken"),
    ] {
        let address = half_an_answer(&scene.trust, head).await;
        scene
            .here
            .feed
            .publish(vec![node_at(2, THERE, &address.to_string())]);
        let before = scene.here.forwarded(outcome);
        for client in [&scene.client, &plain] {
            let request = scene.request_by(client, Method::GET, "/v2/app/manifests/v1");
            let answered = request.send().await;
            if outcome == "broken" {
                let answer = answered.expect("an answer");
                assert_eq!(answer.status(), 502, "{head}");
            } else if let Ok(answer) = answered {
                assert!(answer.bytes().await.is_err(), "{head}");
            }
        }
        assert_eq!(scene.here.forwarded(outcome), before + 2, "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_holds_the_other_node_back() {
    const SIZE: usize = 64 * 1024 * 1024;
    let scene = Scene::start().await;
    let blob = scene.push_blob(noise(SIZE)).await;
    let plain = scene.client_at([127, 0, 0, 1], &scene.here);
    let request = scene
        .request_by(&plain, Method::GET, &blob)
        .basic_auth("contoso", Some(scene.password.expose()));
    let mut response = request.send().await.expect("an answer");
    let sent = || scene.there.metric("wharfinger_registry_sent_bytes_total ") as usize;
    // What has left the other node comes to rest far from the end: in the buffers of both nodes and of the connections between.
    let mut seen = sent();
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        if sent() == seen && seen > 0 {
            break;
        }
        seen = sent();
    }
    assert!(
        seen < SIZE / 2,
        "{seen} bytes were sent to a client that took none"
    );
    let mut received = 0;
    while let Some(bytes) = response.chunk().await.expect("all of it") {
        received += bytes.len();
    }
    assert_eq!(received, SIZE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_wait_for_the_body() {
    let scene = Scene::start().await;
    let plain = scene.client_at([127, 0, 0, 1], &scene.here);
    let path = format!("/v2/app/blobs/uploads/?digest={SHA256_OF_HELLO}");
    for client in [&scene.client, &plain] {
        // A body of which the end never comes.
        let parts = futures_util::stream::iter([Ok::<_, std::io::Error>(noise(100_000))]);
        let body = futures_util::StreamExt::chain(parts, futures_util::stream::pending());
        let request = scene.request_by(client, Method::POST, &path);
        let refused = request
            .basic_auth("contoso", Some("wrong"))
            .body(Body::wrap_stream(body));
        let answer = tokio::time::timeout(Duration::from_secs(60), send(refused)).await;
        assert_eq!(answer.expect("an answer").status, 401);
    }
}
