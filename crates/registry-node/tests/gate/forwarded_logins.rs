//! Failed logins at a node that hands requests on: whose they are.

use std::time::Instant;

use credentials::SigningKey;
use serde_json::{Value, json};

use crate::{rounds::*, sites::*, support::*};

#[tokio::test(flavor = "multi_thread")]
async fn failed_logins_count_for_the_client_not_for_the_node_that_handed_them_on() {
    let scene = Scene::start().await;
    let guesser = scene.client_at([127, 0, 0, 21], &scene.here);
    let direct = scene.client_at([127, 0, 0, 21], &scene.there);
    let other = scene.client_at([127, 0, 0, 22], &scene.here);
    let first = scene.fails(&guesser, &scene.here, None).await;
    assert_eq!(first.status, 401);
    let statuses = undisturbed(async || {
        let until = use_up(async || scene.fails(&guesser, &scene.here, None).await).await;
        let direct = scene.fails(&direct, &scene.there, None).await.status;
        let other = scene.fails(&other, &scene.here, None).await.status;
        (Instant::now() < until).then_some((direct, other))
    })
    .await;
    // The guesser is not let off by another way in, and somebody else behind the same node is not held up.
    assert_eq!(statuses, (429, 401));
}

/// A mark that would do, but for these changes.
fn mark(scene: &Scene, key: &SigningKey, changes: Value) -> String {
    let now = now().unix_timestamp();
    let mut claims = json!({
        "aud": "wharfinger-forwarded", "host": scene.login_server(),
        "method": "GET", "client": "127.0.0.99", "nbf": now, "exp": now + 60,
    });
    let changes = changes.as_object().expect("an object").clone();
    claims.as_object_mut().expect("an object").extend(changes);
    key.sign(&claims).expect("claims")
}

/// Not signed, by a stranger, for something else, or too old.
fn forged_marks(scene: &Scene) -> [String; 6] {
    let (key, stranger) = (&scene.here.key, SigningKey::generate("key-1"));
    let other_host = json!({"host": "fabrikam.registry.localhost"});
    [
        "127.0.0.99".to_owned(),
        mark(scene, &stranger, json!({})),
        mark(scene, key, json!({"aud": scene.login_server()})),
        mark(scene, key, other_host),
        mark(scene, key, json!({"method": "PUT"})),
        mark(scene, key, json!({"exp": now().unix_timestamp() - 1})),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_say_about_themselves_does_not_count_and_what_a_node_vouches_for_does() {
    let scene = Scene::start().await;
    let forger = scene.client_at([127, 0, 0, 23], &scene.there);
    let fails = async |mark: Option<&str>| scene.fails(&forger, &scene.there, mark).await;
    let (forged, vouched_for) = undisturbed(async || {
        let until = use_up(async || fails(None).await).await;
        let mut forged = Vec::new();
        for mark in forged_marks(&scene) {
            forged.push(fails(Some(&mark)).await.status);
        }
        let good = mark(&scene, &scene.here.key, json!({}));
        let vouched_for = fails(Some(&good)).await.status;
        (Instant::now() < until).then_some((forged, vouched_for))
    })
    .await;
    assert_eq!(forged, [429; 6]);
    assert_eq!(vouched_for, 401);
}
