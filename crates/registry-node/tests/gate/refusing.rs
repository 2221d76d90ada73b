//! A node that may not serve: its configuration is too old, or it was removed.

use std::time::Duration;

use registry_node::config::{BootClock, BootTime, Standing};
use reqwest::{Method, RequestBuilder};
use service::clock;

use crate::node::*;

fn requests(node: &Node) -> Vec<RequestBuilder> {
    let password = Some(node.passwords[0].expose());
    vec![
        node.get("/v2/"),
        node.get("/v2/").basic_auth("contoso", password),
        node.get("/v2/app/manifests/latest")
            .basic_auth("contoso", password),
        node.post(&hello_path("app"))
            .basic_auth("contoso", password)
            .body("hello"),
        node.get("/oauth2/token").basic_auth("contoso", password),
        node.request(Method::GET, "nobody", "/v2/"),
    ]
}

/// Every request is told the same, and when to come back.
async fn refuses_all(node: &Node, why: &str) {
    for request in requests(node) {
        let answer = send(request).await;
        assert_eq!(
            (answer.status, answer.code()),
            (503, "UNAVAILABLE"),
            "{}",
            answer.body
        );
        assert!(!answer.header("retry-after").is_empty());
        let message = answer.body["errors"][0]["message"].to_string();
        assert!(
            message.contains(why) && message.contains("since"),
            "{message}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_configuration_nobody_confirms_within_its_bound_refuses_every_request() {
    let node = Node::start_with(|directory| {
        let clock = BootClock::new("boot", || BootTime(Duration::from_secs(1_000)));
        Standing::open(
            directory,
            clock,
            clock::of_the_system(),
            Some(Duration::from_secs(60)),
        )
        .expect("a directory")
    })
    .await;
    refuses_all(&node, "its staleness bound is 60 seconds").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_refuses_every_request() {
    let node = Node::start_with(|directory| {
        let removed = r#"{"form":1,"at":"2026-05-04T03:02:01Z"}"#;
        std::fs::write(directory.join("removed.json"), removed).expect("write");
        Standing::open(
            directory,
            BootClock::of_the_system(),
            clock::of_the_system(),
            None,
        )
        .expect("a directory")
    })
    .await;
    refuses_all(&node, "was removed by an administrator").await;
    refuses_all(&node, "since 2026-05-04T03:02:01Z").await;
}
