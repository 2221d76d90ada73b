//! What a control plane remembers of a caller from one request to the next never outlives a change, whoever made it.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use store::Store;

use crate::directory::{PRINCIPALS, application_of, patch, text};
use crate::directory_people::{GROUPS, USERS, add_member, create_group};
use crate::support::{ASSIGNMENTS, GROUPS as GROUPS_VERSION, Principal, READER, TestApp};

/// What a caller is answered for a resource group, the second time from memory.
async fn status(app: &TestApp, caller: &Principal) -> u16 {
    let path = format!("{}?api-version={GROUPS_VERSION}", app.group("Remembered"));
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let reply = app.send(Method::GET, &path, &caller.token, None).await;
        statuses.push(reply.status);
    }
    assert_eq!(statuses[0], statuses[1]);
    statuses[0]
}

/// A control plane that is asked, and another one through which things change.
async fn two(pool: PgPool) -> (TestApp, TestApp) {
    let asked = TestApp::spawn(pool.clone()).await;
    asked.create_group("Remembered").await;
    let other = asked.replica_on(Store::over(pool)).await;
    (asked, other)
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn not_a_role_nor_a_membership_that_was_taken_away(pool: PgPool) {
    let (asked, other) = two(pool).await;
    let caller = asked.create_principal("caller").await;
    assert_eq!(status(&asked, &caller).await, 403);
    let assignment = other
        .assign(&asked.group("Remembered"), READER, &caller)
        .await;
    assert_eq!(status(&asked, &caller).await, 200);
    let path = format!("{assignment}?api-version={ASSIGNMENTS}");
    assert_eq!(other.delete(&path).await.status, 200);
    assert_eq!(status(&asked, &caller).await, 403);
    let group = create_group(&other, "readers").await;
    let path = format!(
        "{}/providers/Microsoft.Authorization/roleAssignments/{}?api-version={ASSIGNMENTS}",
        asked.group("Remembered"),
        uuid::Uuid::new_v4()
    );
    let body = json!({ "properties": {
        "roleDefinitionId": format!("/providers/Microsoft.Authorization/roleDefinitions/{READER}"),
        "principalId": group,
    }});
    assert_eq!(other.put(&path, body).await.status, 201);
    assert_eq!(status(&asked, &caller).await, 403);
    assert_eq!(
        add_member(&other, &group, &caller.object_id).await.status,
        204
    );
    assert_eq!(status(&asked, &caller).await, 200);
    let member = format!("{GROUPS}/{group}/members/{}/$ref", caller.object_id);
    assert_eq!(other.delete(&member).await.status, 204);
    assert_eq!(status(&asked, &caller).await, 403);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn not_a_secret_nor_a_principal_that_counts_no_more(pool: PgPool) {
    let (asked, other) = two(pool).await;
    let (one, another) = (
        asked.create_principal("one").await,
        asked.create_principal("another").await,
    );
    for caller in [&one, &another] {
        asked
            .assign(&asked.group("Remembered"), READER, caller)
            .await;
        assert_eq!(status(&asked, caller).await, 200);
    }
    let application = application_of(&asked, &one).await;
    let path = format!("/v1.0/applications/{application}");
    let shown = asked.get(&path).await;
    let key_id = text(&shown.body["passwordCredentials"][0]["keyId"]);
    let removal = json!({ "keyId": key_id });
    let removed = other.post(&format!("{path}/removePassword"), removal).await;
    assert_eq!(removed.status, 204, "{}", removed.body);
    assert_eq!(status(&asked, &one).await, 401);
    let path = format!("{PRINCIPALS}/{}", another.object_id);
    let disabled = patch(
        &other,
        &path,
        &other.token,
        json!({ "accountEnabled": false }),
    )
    .await;
    assert_eq!(disabled.status, 204, "{}", disabled.body);
    assert_eq!(status(&asked, &another).await, 401);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn not_a_role_of_the_directory(pool: PgPool) {
    let (asked, other) = two(pool).await;
    let caller = asked.create_principal("caller").await;
    let roles = asked.get("/v1.0/directoryRoles").await;
    let roles = roles.body["value"].as_array().unwrap();
    let administrator = roles
        .iter()
        .find(|role| role["displayName"] == "Global Administrator")
        .unwrap();
    let members = format!(
        "/v1.0/directoryRoles/{}/members",
        text(&administrator["id"])
    );
    // Nobody is there to be deleted, which only administrators are told.
    let path = format!("{USERS}/{}", uuid::Uuid::nil());
    let asking = async || {
        let reply = asked.send(Method::DELETE, &path, &caller.token, None).await;
        reply.status
    };
    assert_eq!([asking().await, asking().await], [403, 403]);
    let reference = json!({ "@odata.id": format!("x/directoryObjects/{}", caller.object_id) });
    let given = other.post(&format!("{members}/$ref"), reference).await;
    assert_eq!(given.status, 204, "{}", given.body);
    assert_eq!([asking().await, asking().await], [404, 404]);
    let removal = format!("{members}/{}/$ref", caller.object_id);
    assert_eq!(other.delete(&removal).await.status, 204);
    assert_eq!(asking().await, 403);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn not_a_secret_that_signs_in_no_more_nor_one_that_does_not_yet(pool: PgPool) {
    let (asked, other) = two(pool).await;
    let one = asked.create_principal("one").await;
    // From memory, after what it did to be created.
    assert_eq!(signing_in(&asked, &one.app_id, &one.secret).await, 200);
    let application = application_of(&asked, &one).await;
    let path = format!("/v1.0/applications/{application}");
    let shown = asked.get(&path).await;
    let key_id = text(&shown.body["passwordCredentials"][0]["keyId"]);
    let added = json!({ "passwordCredential": { "displayName": "another" } });
    let added = other.post(&format!("{path}/addPassword"), added).await;
    assert_eq!(added.status, 200, "{}", added.body);
    let another = text(&added.body["secretText"]);
    assert_eq!(signing_in(&asked, &one.app_id, &another).await, 200);
    let removal = json!({ "keyId": key_id });
    let removed = other.post(&format!("{path}/removePassword"), removal).await;
    assert_eq!(removed.status, 204, "{}", removed.body);
    assert_eq!(signing_in(&asked, &one.app_id, &one.secret).await, 401);
    assert_eq!(signing_in(&asked, &one.app_id, &another).await, 200);
    let path = format!("{PRINCIPALS}/{}", one.object_id);
    for (enabled, status) in [(false, 400), (true, 200)] {
        let change = json!({ "accountEnabled": enabled });
        let changed = patch(&other, &path, &other.token, change).await;
        assert_eq!(changed.status, 204, "{}", changed.body);
        assert_eq!(signing_in(&asked, &one.app_id, &another).await, status);
    }
    assert_eq!(other.delete(&path).await.status, 204);
    assert_ne!(signing_in(&asked, &one.app_id, &another).await, 200);
}

/// What the token endpoint answers, to several who ask at once and to one who asks again.
async fn signing_in(app: &TestApp, app_id: &str, secret: &str) -> u16 {
    let ask = || sign_in(app, app_id, secret);
    let (one, two, three) = tokio::join!(ask(), ask(), ask());
    let again = ask().await;
    assert_eq!([one, two, three], [again; 3]);
    again
}

async fn sign_in(app: &TestApp, app_id: &str, secret: &str) -> u16 {
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", app_id),
        ("client_secret", secret),
        ("scope", &format!("{}/.default", app.base)),
    ];
    let path = format!("/{}/oauth2/v2.0/token", app.tenant_id);
    let request = app.request(Method::POST, &path).form(&form);
    app.read(request).await.status
}

/// Those who sign in together share a look at the revision: one that began before a removal must not do for who asks after it.
#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn not_a_secret_that_was_removed_while_others_sign_in(pool: PgPool) {
    let (asked, other) = two(pool).await;
    let one = asked.create_principal("one").await;
    let path = format!("/v1.0/applications/{}", application_of(&asked, &one).await);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    // Others, whose secret stays, ask all the while.
    let others = futures_util::future::join_all((0..6).map(|_| async {
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
            assert_eq!(sign_in(&asked, &one.app_id, &one.secret).await, 200);
        }
    }));
    let removals = async {
        for _ in 0..9 {
            let added = json!({ "passwordCredential": { "displayName": "short-lived" } });
            let added = other.post(&format!("{path}/addPassword"), added).await;
            let secret = text(&added.body["secretText"]);
            assert_eq!(sign_in(&asked, &one.app_id, &secret).await, 200);
            let removal = json!({ "keyId": added.body["keyId"] });
            let removed = other.post(&format!("{path}/removePassword"), removal).await;
            assert_eq!(removed.status, 204, "{}", removed.body);
            assert_eq!(sign_in(&asked, &one.app_id, &secret).await, 401);
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    tokio::join!(others, removals);
}
