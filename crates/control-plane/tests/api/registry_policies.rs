//! Who may pull without credentials, what is removed, and how much is and may be stored.

use config_documents::{Document, NodeMessage, RegistryUsage, Retention, STREAM_FORM};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use time::macros::datetime;
use uuid::Uuid;

use crate::support::{READER, REGISTRIES, Reply, TestApp};
use crate::test_node::{PATIENCE, TestNode, region};

fn at(path: &str, version: &str) -> String {
    format!("{path}?api-version={version}")
}

async fn patch(app: &TestApp, path: &str, body: Value) -> Reply {
    app.send(Method::PATCH, path, &app.token, Some(body)).await
}

/// A registry of a SKU in the group `g`, and its path with the newest version.
async fn created(app: &TestApp, name: &str, sku: &str, properties: Value) -> String {
    app.create_group("g").await;
    let path = at(&app.registry("g", name), REGISTRIES);
    let body = json!({ "location": "westus", "sku": { "name": sku }, "properties": properties });
    let reply = app.put(&path, body).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    path
}

/// What nodes are told of the only registry there is.
async fn told(pool: &PgPool) -> config_documents::Registry {
    let (key, body): (String, String) = sqlx::query_as(
        "SELECT key, body FROM config_documents WHERE kind = 'registry' AND NOT deleted",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    match Document::parse("registry", &key, &body).unwrap() {
        Document::Registry(registry) => registry,
        other => panic!("{other:?}"),
    }
}

fn targets(reply: &Reply) -> Vec<&str> {
    let error = &reply.body["error"];
    let details = error["details"].as_array().filter(|list| !list.is_empty());
    let faults = details.map_or_else(|| vec![error], |list| list.iter().collect());
    faults
        .into_iter()
        .map(|fault| fault["target"].as_str().unwrap_or_default())
        .collect()
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn anonymous_pull_is_switched_and_nodes_are_told(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let path = created(
        &app,
        "contoso",
        "Standard",
        json!({ "anonymousPullEnabled": true }),
    )
    .await;
    let is_on = async || app.get(&path).await.body["properties"]["anonymousPullEnabled"].clone();
    assert_eq!(is_on().await, true);
    assert!(told(&pool).await.anonymous_pull_enabled);
    // A version that cannot say it, and what says nothing of it, leave it on.
    let whole = json!({ "location": "westus", "sku": { "name": "Standard" } });
    let old = path.replace(REGISTRIES, "2023-07-01");
    assert_eq!(app.put(&old, whole.clone()).await.status, 200);
    let patched = patch(&app, &path, json!({ "tags": { "a": "b" } })).await;
    assert_eq!(patched.status, 200);
    assert_eq!(is_on().await, true);
    let off = json!({ "properties": { "anonymousPullEnabled": false } });
    let reply = patch(&app, &path, off.clone()).await;
    assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
    assert!(!told(&pool).await.anonymous_pull_enabled);
    let unchanged = patch(&app, &path, off).await;
    assert_eq!(unchanged.header("x-wharfinger-revision"), "");
    let on = json!({ "properties": { "anonymousPullEnabled": true } });
    assert_eq!(patch(&app, &path, on).await.status, 200);
    // Replacing the registry's settings without it switches it off.
    assert_eq!(app.put(&path, whole).await.status, 200);
    assert_eq!(is_on().await, false);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_sku_without_a_setting_refuses_it_and_all_faults_are_named(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("g").await;
    let path = at(&app.registry("g", "contoso"), REGISTRIES);
    let body = json!({
        "location": "westus", "sku": { "name": "Basic" },
        "properties": { "anonymousPullEnabled": true, "policies": { "retentionPolicy": { "status": "enabled" } } }
    });
    let both = [
        "properties.anonymousPullEnabled",
        "properties.policies.retentionPolicy.status",
    ];
    let refused = app.put(&path, body).await;
    assert_eq!((refused.status, targets(&refused)), (400, both.to_vec()));
    let premium = json!({ "anonymousPullEnabled": true, "policies": { "retentionPolicy": { "status": "enabled" } } });
    created(&app, "contoso", "Premium", premium).await;
    let refused = patch(&app, &path, json!({ "sku": { "name": "Basic" } })).await;
    assert_eq!((refused.status, targets(&refused)), (400, both.to_vec()));
    let malformed = json!({ "properties": {
        "anonymousPullEnabled": "yes",
        "policies": { "retentionPolicy": { "days": 366, "keepNewest": -1, "colour": "red" } }
    } });
    let refused = patch(&app, &path, malformed).await;
    let mut named = targets(&refused);
    named.sort_unstable();
    let expected = [
        "properties.anonymousPullEnabled",
        "properties.policies.retentionPolicy.colour",
        "properties.policies.retentionPolicy.days",
        "properties.policies.retentionPolicy.keepNewest",
    ];
    assert_eq!((refused.status, named), (400, expected.to_vec()));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn retention_is_set_shown_and_told(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let path = created(&app, "contoso", "Premium", json!({})).await;
    let policy = async || {
        let shown = app.get(&path).await.body;
        shown["properties"]["policies"]["retentionPolicy"].clone()
    };
    let before = policy().await;
    assert_eq!(
        (&before["status"], &before["days"]),
        (&json!("disabled"), &json!(7))
    );
    assert_eq!(told(&pool).await.retention, None);
    // What `az acr config retention update` sends, and our own members.
    let set =
        |policy: Value| json!({ "properties": { "policies": { "retentionPolicy": policy } } });
    let all =
        set(json!({ "status": "enabled", "days": 30, "daysSinceLastPull": 14, "keepNewest": 5 }));
    let reply = patch(&app, &path, all).await;
    assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
    let rules = Retention {
        days_since_push: Some(30),
        days_since_pull: Some(14),
        keep_newest: Some(5),
    };
    assert_eq!(told(&pool).await.retention, Some(rules));
    let set_once = policy().await;
    assert_eq!(set_once["keepNewest"], 5);
    assert_ne!(set_once["lastUpdatedTime"], before["lastUpdatedTime"]);
    // A client that reads and writes back without our members, in another version, changes nothing.
    let older = path.replace(REGISTRIES, "2023-07-01");
    let known = json!({
        "location": "westus", "sku": { "name": "Premium" },
        "properties": { "policies": { "retentionPolicy": { "status": "enabled", "days": 30 } } }
    });
    assert_eq!(app.put(&older, known).await.status, 200);
    assert_eq!(policy().await, set_once);
    let reply = patch(&app, &path, set(json!({ "keepNewest": null }))).await;
    assert_eq!(reply.status, 200);
    assert_eq!(policy().await["keepNewest"], Value::Null);
    let whole = json!({ "location": "westus", "sku": { "name": "Premium" } });
    assert_eq!(app.put(&path, whole).await.status, 200);
    assert_eq!(policy().await["status"], "disabled");
    assert_eq!(told(&pool).await.retention, None);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_a_registry_stores_is_what_its_nodes_told_last(pool: PgPool) {
    let app = TestApp::spawn_hurried(pool.clone()).await;
    created(&app, "contoso", "Basic", json!({})).await;
    let usages = format!("{}/listUsages", app.registry("g", "contoso"));
    let usages = at(&usages, REGISTRIES);
    let empty = json!([{ "name": "Size", "limit": -1, "currentValue": 0, "unit": "Bytes" }]);
    assert_eq!(app.get(&usages).await.body["value"], empty);
    let reader = app.create_principal("reader").await;
    let as_reader = app.send(Method::GET, &usages, &reader.token, None).await;
    assert_eq!(as_reader.status, 403);
    app.assign(&app.registry("g", "contoso"), READER, &reader)
        .await;
    let as_reader = app.send(Method::GET, &usages, &reader.token, None).await;
    assert_eq!(as_reader.status, 200);
    let uid: Uuid = sqlx::query_scalar("SELECT uid FROM registries")
        .fetch_one(&pool)
        .await
        .unwrap();
    let usage = |registry_uid, bytes, counted_at| RegistryUsage {
        registry_uid,
        bytes,
        counted_at,
    };
    let noon = datetime!(2026-11-23 12:00 UTC);
    let mut elsewhere = TestNode::joined(&app, region("northeurope")).await;
    elsewhere.forms.insert(STREAM_FORM.to_owned(), 4);
    let mut elsewhere = elsewhere.connect(&app).await;
    let hour = time::Duration::HOUR;
    let said = |registries| NodeMessage::Usage { registries };
    // Content is in the home region only; a node of another region is not believed.
    let false_report = said(vec![usage(uid, 7, noon + hour)]);
    elsewhere.say(&false_report).await;
    let mut node = TestNode::joined(&app, region("westus")).await;
    node.forms.insert(STREAM_FORM.to_owned(), 4);
    let mut stream = node.connect(&app).await;
    let registries = vec![
        usage(Uuid::nil(), 1, noon),
        usage(uid, 2_000, noon),
        usage(uid, 1_000, noon - hour),
    ];
    stream.say(&said(registries)).await;
    let started_at = std::time::Instant::now();
    let size = loop {
        let size = app.get(&usages).await.body["value"][0].clone();
        if size["currentValue"] != 0 {
            break size;
        }
        assert!(started_at.elapsed() < PATIENCE, "{size}");
        tokio::task::yield_now().await;
    };
    assert_eq!(size["currentValue"], 2_000);
    assert_eq!(size["lastUpdatedTime"], "2026-11-23T12:00:00Z");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn registries_made_and_changed_while_a_limit_is_set_have_the_last_one(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    app.create_group("g").await;
    let make = async |number: usize| {
        let path = at(&app.registry("g", &format!("contoso{number}")), REGISTRIES);
        let body = json!({ "location": "westus", "sku": { "name": "Standard" } });
        assert_eq!(app.put(&path, body).await.status, 201);
        let open = json!({ "properties": { "anonymousPullEnabled": true } });
        assert_eq!(patch(&app, &path, open).await.status, 200);
        if number.is_multiple_of(3) {
            assert_eq!(app.delete(&path).await.status, 200);
        }
    };
    let limit = async |bytes: u64| {
        let set = app.store.storage_limit_set(&["Standard"], Some(bytes));
        set.await.unwrap();
    };
    let makers = futures_util::future::join_all((0..12).map(make));
    let limits = futures_util::future::join_all((1..=6).map(limit));
    futures_util::future::join(makers, limits).await;
    let last: i64 =
        sqlx::query_scalar("SELECT limit_bytes FROM storage_limits WHERE sku = 'Standard'")
            .fetch_one(&pool)
            .await
            .unwrap();
    let told: Vec<Option<i64>> = sqlx::query_scalar(
        "SELECT (body::jsonb ->> 'quotaBytes')::bigint FROM config_documents WHERE kind = 'registry' AND NOT deleted",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(told, vec![Some(last); 8]);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn the_limit_of_a_sku_is_that_of_its_registries(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let path = created(&app, "contoso", "Basic", json!({})).await;
    assert_eq!(told(&pool).await.quota_bytes, None);
    let set = async |skus: &[&str], limit| app.store.storage_limit_set(skus, limit).await.unwrap();
    assert!(set(&["Standard"], Some(9)).await.is_none());
    assert!(set(&["Basic"], Some(5)).await.is_some());
    assert_eq!(told(&pool).await.quota_bytes, Some(5));
    let usages = format!("{}/listUsages", app.registry("g", "contoso"));
    let usages = app.get(&at(&usages, REGISTRIES)).await;
    assert_eq!(usages.body["value"][0]["limit"], 5);
    // Another SKU, another limit.
    assert_eq!(
        patch(&app, &path, json!({ "sku": { "name": "Standard" } }))
            .await
            .status,
        200
    );
    assert_eq!(told(&pool).await.quota_bytes, Some(9));
    assert!(set(&store::registries::STORAGE_SKUS, None).await.is_some());
    assert_eq!(told(&pool).await.quota_bytes, None);
    assert_eq!(app.delete(&path).await.status, 200);
    assert!(set(&["Standard"], Some(1)).await.is_none());
}
