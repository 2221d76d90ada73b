//! Who may do what in the directory: owners, and its roles.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::directory::{APPLICATIONS, PRINCIPALS, application_of, patch, text};
use crate::directory_people::{GROUPS, USERS, add_member, create_group, create_user};
use crate::support::{OWNER, Principal, Reply, TestApp};

const ROLES: &str = "/v1.0/directoryRoles";

async fn role(app: &TestApp, name: &str) -> String {
    let roles = app.get(ROLES).await;
    let roles = roles.body["value"].as_array().unwrap();
    let found = roles.iter().find(|role| role["displayName"] == name);
    text(&found.unwrap_or_else(|| panic!("no role {name}"))["id"])
}

async fn give(app: &TestApp, role: &str, principal: &str) -> Reply {
    let body = json!({ "@odata.id": format!("{}/v1.0/directoryObjects/{principal}", app.base) });
    app.post(&format!("{ROLES}/{role}/members/$ref"), body)
        .await
}

async fn send(app: &TestApp, who: &Principal, method: Method, path: &str, body: Value) -> u16 {
    let body = (!body.is_null()).then_some(body);
    app.send(method, path, &who.token, body).await.status
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn whoever_is_made_an_owner_manages_until_it_is_none(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let (alice, bot) = (
        app.create_principal("alice").await,
        app.create_principal("bot").await,
    );
    let application = application_of(&app, &bot).await;
    let group = create_group(&app, "devs").await;
    let user = text(&create_user(&app, "ann").await["id"]);
    for (object, path, body) in [
        (
            format!("{APPLICATIONS}/{application}"),
            format!("{PRINCIPALS}/{}/addPassword", bot.object_id),
            json!({}),
        ),
        (
            format!("{PRINCIPALS}/{}", bot.object_id),
            format!("{PRINCIPALS}/{}/addPassword", bot.object_id),
            json!({}),
        ),
        (
            format!("{GROUPS}/{group}"),
            format!("{GROUPS}/{group}/members/$ref"),
            json!({ "@odata.id": format!("x/users/{user}") }),
        ),
    ] {
        let attempt = || send(&app, &alice, Method::POST, &path, body.clone());
        assert_eq!(attempt().await, 403, "{path}");
        let reference =
            json!({ "@odata.id": format!("https://w/v1.0/directoryObjects/{}", alice.object_id) });
        let owners = format!("{object}/owners");
        let added = app.post(&format!("{owners}/$ref"), reference.clone()).await;
        assert_eq!(added.status, 204, "{}", added.body);
        let twice = app.post(&format!("{owners}/$ref"), reference).await;
        assert_eq!(twice.status, 400);
        let listed = app.get(&owners).await;
        assert!(listed.body["value"].to_string().contains(&alice.object_id));
        assert!(matches!(attempt().await, 200 | 204), "{path}");
        let removal = format!("{owners}/{}/$ref", alice.object_id);
        assert_eq!(app.delete(&removal).await.status, 204);
        assert_eq!(app.delete(&removal).await.status, 404);
        assert_eq!(attempt().await, 403, "{path}");
    }
    // A group owns nothing.
    let reference = json!({ "@odata.id": format!("https://w/v1.0/groups/{group}") });
    let path = format!("{APPLICATIONS}/{application}/owners/$ref");
    assert_eq!(app.post(&path, reference).await.status, 400);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn only_administrators_manage_people_groups_and_roles(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let alice = app.create_principal("alice").await;
    let user = text(&create_user(&app, "ann").await["id"]);
    let group = create_group(&app, "devs").await;
    let administrator = role(&app, "Global Administrator").await;
    let path = format!("{USERS}/{user}");
    let attempts = || {
        let (app, alice, path) = (&app, &alice, &path);
        let group_body = json!({ "displayName": "x", "mailNickname": "x" });
        let member = json!({ "@odata.id": format!("x/users/{user}") });
        let group_path = format!("{GROUPS}/{group}/members/$ref");
        let role_path = format!("{ROLES}/{administrator}/members/$ref");
        async move {
            let name = json!({ "displayName": "x" });
            [
                send(app, alice, Method::PATCH, path, name).await,
                send(app, alice, Method::POST, GROUPS, group_body).await,
                send(app, alice, Method::POST, &group_path, member.clone()).await,
                send(app, alice, Method::POST, &role_path, member).await,
                send(app, alice, Method::DELETE, path, Value::Null).await,
            ]
        }
    };
    assert_eq!(attempts().await, [403; 5]);
    assert_eq!(
        give(&app, &administrator, &alice.object_id).await.status,
        204
    );
    let twice = give(&app, &administrator, &alice.object_id).await;
    assert_eq!(twice.status, 400);
    assert_eq!(attempts().await, [204, 201, 204, 204, 204]);
    let listed = app.get(&format!("{ROLES}/{administrator}/members")).await;
    assert!(listed.body["value"].to_string().contains(&alice.object_id));
    let refused = give(&app, &administrator, &group).await;
    assert_eq!(refused.status, 400);
    assert!(refused.message().contains("group"), "{}", refused.message());
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn an_application_administrator_manages_all_applications_but_those_above_it(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let (keeper, bot) = (
        app.create_principal("keeper").await,
        app.create_principal("bot").await,
    );
    let found = app
        .get(&format!(
            "{PRINCIPALS}?$filter=appId eq '{}'",
            app.client_id
        ))
        .await;
    let bootstrap = text(&found.body["value"][0]["id"]);
    let found = app
        .get(&format!(
            "{APPLICATIONS}?$filter=appId eq '{}'",
            app.client_id
        ))
        .await;
    let bootstrap_application = text(&found.body["value"][0]["id"]);
    let add = |path: String| {
        let (app, keeper) = (&app, &keeper);
        async move {
            let path = format!("{path}/addPassword");
            send(app, keeper, Method::POST, &path, json!({})).await
        }
    };
    let principal = format!("{PRINCIPALS}/{}", bot.object_id);
    let application = format!("{APPLICATIONS}/{}", application_of(&app, &bot).await);
    assert_eq!(add(principal.clone()).await, 403);
    let application_administrator = role(&app, "Application Administrator").await;
    let given = give(&app, &application_administrator, &keeper.object_id).await;
    assert_eq!(given.status, 204, "{}", given.body);
    assert_eq!(add(principal.clone()).await, 200);
    assert_eq!(add(application.clone()).await, 200);
    assert_eq!(add(format!("{PRINCIPALS}/{bootstrap}")).await, 403);
    assert_eq!(
        add(format!("{APPLICATIONS}/{bootstrap_application}")).await,
        403
    );
    let group = json!({ "displayName": "x", "mailNickname": "x" });
    assert_eq!(send(&app, &keeper, Method::POST, GROUPS, group).await, 403);
    let removal = format!(
        "{ROLES}/{application_administrator}/members/{}/$ref",
        keeper.object_id
    );
    assert_eq!(app.delete(&removal).await.status, 204);
    assert_eq!(add(principal).await, 403);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn the_last_administrator_and_the_last_owner_stay(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let found = app
        .get(&format!(
            "{PRINCIPALS}?$filter=appId eq '{}'",
            app.client_id
        ))
        .await;
    let bootstrap = text(&found.body["value"][0]["id"]);
    let administrator = role(&app, "Global Administrator").await;
    let path = format!("{ROLES}/{administrator}/members/{bootstrap}/$ref");
    let refused = app.delete(&path).await;
    assert_eq!(refused.status, 400, "{}", refused.body);
    // Somebody else administers, but the subscription still has its one Owner.
    let user = create_user(&app, "ann").await;
    let user_id = text(&user["id"]);
    assert_eq!(give(&app, &administrator, &user_id).await.status, 204);
    let principal = format!("{PRINCIPALS}/{bootstrap}");
    let disabling = json!({ "accountEnabled": false });
    for refused in [
        app.delete(&principal).await,
        patch(&app, &principal, &app.token, disabling.clone()).await,
    ] {
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert!(refused.message().contains("Owner"), "{}", refused.message());
    }
    // An Owner by a group counts, and cannot then leave it, nor be disabled, nor can the group go.
    let group = create_group(&app, "owners").await;
    assert_eq!(add_member(&app, &group, &user_id).await.status, 204);
    let other = app.create_principal("other").await;
    assert_eq!(
        give(&app, &administrator, &other.object_id).await.status,
        204
    );
    assign_to_group(&app, &group).await;
    let gone = patch(&app, &principal, &app.token, disabling.clone()).await;
    assert_eq!(gone.status, 204, "{}", gone.body);
    let member = format!("{GROUPS}/{group}/members/{user_id}/$ref");
    for (method, path, body) in [
        (Method::DELETE, member, None),
        (Method::DELETE, format!("{GROUPS}/{group}"), None),
        (
            Method::PATCH,
            format!("{USERS}/{user_id}"),
            Some(disabling.clone()),
        ),
        (Method::DELETE, format!("{USERS}/{user_id}"), None),
    ] {
        let refused = app.send(method, &path, &other.token, body).await;
        assert_eq!(refused.status, 400, "{path}: {}", refused.body);
        assert!(refused.message().contains("Owner"), "{}", refused.message());
    }
}

async fn assign_to_group(app: &TestApp, group: &str) {
    let path = format!(
        "{}/providers/Microsoft.Authorization/roleAssignments/{}?api-version={}",
        app.subscription(),
        uuid::Uuid::new_v4(),
        crate::support::ASSIGNMENTS
    );
    let body = json!({ "properties": {
        "roleDefinitionId": format!("/providers/Microsoft.Authorization/roleDefinitions/{OWNER}"),
        "principalId": group,
        "principalType": "Group",
    }});
    let reply = app.put(&path, body).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn owners_do_not_manage_what_administers_the_directory(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let (alice, bot) = (
        app.create_principal("alice").await,
        app.create_principal("bot").await,
    );
    let application = application_of(&app, &bot).await;
    let owner =
        json!({ "@odata.id": format!("https://w/v1.0/directoryObjects/{}", alice.object_id) });
    let objects = [
        format!("{APPLICATIONS}/{application}"),
        format!("{PRINCIPALS}/{}", bot.object_id),
    ];
    for object in &objects {
        let added = app
            .post(&format!("{object}/owners/$ref"), owner.clone())
            .await;
        assert_eq!(added.status, 204);
    }
    let secrets = || async {
        let mut statuses = Vec::new();
        for object in &objects {
            let path = format!("{object}/addPassword");
            statuses.push(send(&app, &alice, Method::POST, &path, json!({})).await);
        }
        statuses
    };
    assert_eq!(secrets().await, [200, 200]);
    let administrator = role(&app, "Global Administrator").await;
    assert_eq!(give(&app, &administrator, &bot.object_id).await.status, 204);
    assert_eq!(secrets().await, [403, 403]);
    let path = format!("{ROLES}/{administrator}/members/{}/$ref", bot.object_id);
    assert_eq!(app.delete(&path).await.status, 204);
    assert_eq!(secrets().await, [200, 200]);
}
