//! Hosts, challenges, and logins with user name and password.

use std::{io::ErrorKind, net::TcpStream, time::Instant};

use config_documents::Document;
use credentials::{Secret, SecretKind};
use reqwest::{Method, header::HOST};
use time::Duration;

use crate::{node::*, rounds::*, support::*};

const DOCKER_API: &str = "docker-distribution-api-version";

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_told_where_to_log_in() {
    let node = Node::start().await;
    let answer = send(node.get("/v2/")).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.challenge, node.challenge(""));
    assert_eq!(answer.header(DOCKER_API), "registry/2.0");
    assert_eq!(
        answer.header("content-type"),
        "application/json; charset=utf-8"
    );
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(
        answer.header("access-control-expose-headers"),
        "Docker-Content-Digest"
    );
    assert_eq!(answer.code(), "UNAUTHORIZED");
    assert!(answer.body["errors"][0]["detail"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_at_a_repository_is_told_the_scope() {
    let node = Node::start().await;
    let answer = send(node.get("/v2/team/app/manifests/latest")).await;
    assert_eq!(
        answer.challenge,
        node.challenge(",scope=\"repository:team/app:pull\"")
    );
    assert_eq!(
        answer.body["errors"][0]["detail"],
        serde_json::json!([{"Type": "repository", "Name": "team/app", "Action": "pull"}])
    );
    let answer = send(node.post("/v2/app/blobs/uploads/")).await;
    assert_eq!(
        answer.challenge,
        node.challenge(",scope=\"repository:app:pull,push\"")
    );
    let answer = send(node.request(Method::DELETE, "contoso", "/v2/app/manifests/v1")).await;
    assert_eq!(
        answer.challenge,
        node.challenge(",scope=\"repository:app:delete\"")
    );
    let answer = send(node.get("/v2/_catalog")).await;
    assert_eq!(
        answer.challenge,
        node.challenge(",scope=\"registry:catalog:*\"")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_registry_is_unknown() {
    let mut node = Node::start().await;
    let answer = send(node.request(Method::GET, "nobody", "/v2/")).await;
    assert_eq!((answer.status, answer.code()), (404, "NAME_UNKNOWN"));
    let elsewhere = registry(9, "elsewhere", node.port, &[]);
    node.feed.publish(vec![registry_name(&elsewhere, "eastus")]);
    // It is known that there is one; no node of its region is.
    let answer = send(node.request(Method::GET, "elsewhere", "/v2/")).await;
    assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"));
    let message = answer.body["errors"][0]["message"]
        .as_str()
        .expect("a message");
    assert!(message.contains("eastus"), "{message}");
    // A registry of this region without what is to be known about it.
    node.feed.publish(vec![registry_name(&elsewhere, REGION)]);
    let answer = send(node.request(Method::GET, "elsewhere", "/v2/")).await;
    assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_taken_in_any_casing_and_without_port_but_not_with_another() {
    let node = Node::start().await;
    let url = format!("https://127.0.0.1:{}/v2/", node.port);
    // By HTTP/1.1 and an address, so that the header is the test's own.
    let client = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .http1_only()
        .build()
        .expect("a client");
    let status = async |host: String| {
        let response = client
            .get(&url)
            .header(HOST, host)
            .send()
            .await
            .expect("an answer");
        response.status().as_u16()
    };
    assert_eq!(
        status(format!("CONTOSO.Registry.localhost:{}", node.port)).await,
        401
    );
    assert_eq!(status("contoso.registry.localhost".to_owned()).await, 401);
    assert_eq!(status("contoso.registry.localhost:1".to_owned()).await, 404);
    assert_eq!(status("127.0.0.1".to_owned()).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_account_may_do_everything_with_either_password() {
    let node = Node::start().await;
    for (user, password) in [
        ("Contoso", &node.passwords[0]),
        ("cONTOSO", &node.passwords[1]),
    ] {
        let login = |request: reqwest::RequestBuilder| {
            send(request.basic_auth(user, Some(password.expose())))
        };
        assert_eq!(login(node.get("/v2/")).await.status, 200);
        assert_eq!(
            login(node.post(&hello_path("app")).body("hello"))
                .await
                .status,
            201
        );
        let blob = format!("/v2/app/blobs/{SHA256_OF_HELLO}");
        assert_eq!(login(node.get(&blob)).await.status, 200);
        assert_eq!(login(node.get("/v2/_catalog")).await.status, 200);
        let delete = node.request(Method::DELETE, "contoso", &blob);
        assert_eq!(login(delete).await.status, 202);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_refused_in_one_way() {
    let node = Node::start().await;
    let other = secret(SecretKind::AdminPassword);
    for (user, password) in [
        ("contoso", &other),
        ("nobody", &node.passwords[0]),
        (&app_id(5).to_string(), &node.passwords[0]),
        ("contoso", &Secret::new("hunter2".to_owned())),
        ("contoso", &Secret::new(String::new())),
        ("00000000-0000-0000-0000-000000000000", &other),
    ] {
        let answer = send(node.get("/v2/").basic_auth(user, Some(password.expose()))).await;
        assert_eq!(
            (answer.status, answer.code()),
            (401, "UNAUTHORIZED"),
            "{user}"
        );
        assert_eq!(answer.challenge, node.challenge(""));
        let answer = node.token(user, password, &[]).await;
        assert_eq!(
            (answer.status, answer.code()),
            (401, "UNAUTHORIZED"),
            "{user}"
        );
        assert!(
            !answer.body.to_string().contains(password.expose()) || password.expose().is_empty()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_garbled_header_is_refused_with_the_rule() {
    let node = Node::start().await;
    for header in [
        "Basic",
        "Basic !!!",
        "Basic Y29udG9zbw==",
        "Digest x",
        "Bearer a b",
    ] {
        let answer = send(node.get("/v2/").header("authorization", header)).await;
        assert_eq!(
            (answer.status, answer.code()),
            (401, "UNAUTHORIZED"),
            "{header}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_password_is_refused_at_once_and_the_other_still_works() {
    let mut node = Node::start().await;
    let old = node.passwords[0].clone();
    let token = node
        .access_token("contoso", &old, "repository:app:pull,push")
        .await;
    node.passwords[0] = secret(SecretKind::AdminPassword);
    let renewed = node.contoso(&[2, 1]);
    node.feed.publish(vec![Document::Registry(renewed)]);
    let answer = send(node.get("/v2/").basic_auth("contoso", Some(old.expose()))).await;
    assert_eq!((answer.status, answer.code()), (401, "UNAUTHORIZED"));
    let answer = send(
        node.post(&hello_path("app"))
            .bearer_auth(token)
            .body("hello"),
    )
    .await;
    assert_eq!((answer.status, answer.code()), (401, "UNAUTHORIZED"));
    for password in &node.passwords {
        let answer = send(
            node.get("/v2/")
                .basic_auth("contoso", Some(password.expose())),
        )
        .await;
        assert_eq!(answer.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_admin_account_is_refused_with_its_tokens_and_old_tokens_stay_dead() {
    let mut node = Node::start().await;
    let password = node.passwords[0].clone();
    let token = node
        .access_token("contoso", &password, "repository:app:pull")
        .await;
    let off = node.contoso(&[]);
    node.feed.publish(vec![Document::Registry(off)]);
    let basic = async |node: &Node| {
        send(
            node.get("/v2/")
                .basic_auth("contoso", Some(password.expose())),
        )
        .await
        .status
    };
    let bearer = async |node: &Node| send(node.get("/v2/").bearer_auth(&token)).await.status;
    assert_eq!((basic(&node).await, bearer(&node).await), (401, 401));
    let on_again = node.contoso(&[2, 2]);
    node.feed.publish(vec![Document::Registry(on_again)]);
    assert_eq!((basic(&node).await, bearer(&node).await), (200, 401));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_principal_logs_in_with_its_id_in_any_casing() {
    let mut node = Node::start().await;
    let secret = node.add_principal(1, &[(SUBSCRIPTION, "AcrPull")]);
    for user in [app_id(1).to_string(), app_id(1).to_string().to_uppercase()] {
        let answer = send(node.get("/v2/").basic_auth(&user, Some(secret.expose()))).await;
        assert_eq!(answer.status, 200, "{user}");
    }
    let by_object_id = object_id(1).to_string();
    let answer = send(
        node.get("/v2/")
            .basic_auth(by_object_id, Some(secret.expose())),
    )
    .await;
    assert_eq!(answer.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_principal_that_is_disabled_or_out_of_time_is_refused() {
    let mut node = Node::start().await;
    let secret = node.add_principal(1, &[(SUBSCRIPTION, "AcrPull")]);
    let user = app_id(1).to_string();
    let token = node
        .access_token(&user, &secret, "repository:app:pull")
        .await;
    let mut states = Vec::new();
    for (enabled, starts_in, expires_in) in [
        (false, -60, 60),
        (true, 6, 60),
        (true, -60, 0),
        // Five minutes of clock difference are allowed before the start, none after the end.
        (true, 4, 60),
    ] {
        let mut changed = principal(1, &secret, &[]);
        changed.enabled = enabled;
        changed.secrets[0].starts_at = now() + Duration::minutes(starts_in);
        changed.secrets[0].expires_at = now() + Duration::minutes(expires_in);
        node.feed.publish(vec![Document::Principal(changed)]);
        let basic = send(node.get("/v2/").basic_auth(&user, Some(secret.expose())))
            .await
            .status;
        let bearer = send(node.get("/v2/").bearer_auth(&token)).await.status;
        states.push((basic, bearer));
    }
    assert_eq!(states, [(401, 401), (401, 401), (401, 401), (200, 200)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_logins_are_limited_and_a_correct_secret_never_is() {
    let mut node = Node::start().await;
    let principal_secret = node.add_principal(1, &[(SUBSCRIPTION, "AcrPull")]);
    let wrong = secret(SecretKind::AdminPassword);
    let attempt = async |user: &str, password: &Secret| {
        send(node.get("/v2/").basic_auth(user, Some(password.expose()))).await
    };
    for _ in 0..10 {
        assert_eq!(attempt("contoso", &wrong).await.status, 401);
    }
    let (limited, token) = undisturbed(async || {
        let until = use_up(async || attempt("contoso", &wrong).await).await;
        let limited = attempt("CONTOSO", &wrong).await;
        let token = node.token("contoso", &wrong, &[]).await;
        (Instant::now() < until).then_some((limited, token))
    })
    .await;
    assert_eq!((limited.status, limited.code()), (429, "TOOMANYREQUESTS"));
    let wait: u64 = limited
        .header("retry-after")
        .parse()
        .expect("whole seconds");
    assert!((1..=6).contains(&wait), "{wait}");
    assert_eq!(token.status, 429);
    assert_eq!(attempt("contoso", &node.passwords[0]).await.status, 200);
    assert_eq!(
        attempt(&app_id(1).to_string(), &principal_secret)
            .await
            .status,
        200
    );
    // Another user from the same address has its own count, until the address has failed too often.
    assert_eq!(attempt("somebody", &wrong).await.status, 401);
    let mut last = 401;
    // More than a hundred, because each second one more is allowed.
    for number in 0..3000 {
        last = attempt(&format!("user{number}"), &wrong).await.status;
        if last == 429 {
            break;
        }
    }
    assert_eq!(last, 429);
    assert_eq!(attempt("contoso", &node.passwords[1]).await.status, 200);
}

/// All who show one have the same name, and nobody guesses one.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_good_is_always_told_what_is_wrong() {
    let node = Node::start().await;
    for _ in 0..30 {
        let request = node.get("/v2/");
        let request = request.basic_auth(uuid::Uuid::nil(), Some("not.a.token"));
        let refused = send(request).await;
        assert_eq!(refused.status, 401, "{}", refused.body);
        assert!(
            refused.body.to_string().contains("run az acr login again"),
            "{}",
            refused.body
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_do_not_get_on_with_tls_hold_nobody_up() {
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: allowed.maximum,
        maximum: allowed.maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("allowed");
    let status = undisturbed(async || {
        let node = Node::start().await;
        let silent: Vec<TcpStream> = (0..600)
            .map(|_| TcpStream::connect(("127.0.0.1", node.port)).expect("an open port"))
            .collect();
        let answer = send(node.get("/v2/").timeout(PATIENCE)).await;
        // Once they are closed, whoever had been held up is served.
        silent.iter().all(is_open).then_some(answer.status)
    })
    .await;
    assert_eq!(status, 401);
}

/// Whether the other side, which has nothing to say, has not closed it.
fn is_open(connection: &TcpStream) -> bool {
    connection.set_nonblocking(true).expect("a socket");
    let peeked = connection.peek(&mut [0]);
    peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}
