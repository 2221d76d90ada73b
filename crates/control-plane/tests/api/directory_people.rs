//! People and groups, as `az ad user` and `az ad group` speak of them, and what nodes are told.

use config_documents::Document;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::directory::{PRINCIPALS, documents, patch, principal_document, text};
use crate::support::{ASSIGNMENTS, READER, Reply, TestApp};

pub(crate) const USERS: &str = "/v1.0/users";
pub(crate) const GROUPS: &str = "/v1.0/groups";
const PASSWORD: &str = "correct horse battery";

pub(crate) async fn create_user(app: &TestApp, name: &str) -> Value {
    let reply = app.post(USERS, new_user(name)).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    reply.body
}

fn new_user(name: &str) -> Value {
    json!({
        "userPrincipalName": format!("{name}@wharf.test"),
        "displayName": name,
        "mailNickname": name,
        "accountEnabled": true,
        "passwordProfile": { "password": PASSWORD, "forceChangePasswordNextSignIn": false },
    })
}

pub(crate) async fn create_group(app: &TestApp, name: &str) -> String {
    let body = json!({ "displayName": name, "mailNickname": name, "mailEnabled": false, "securityEnabled": true });
    let reply = app.post(GROUPS, body).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    text(&reply.body["id"])
}

pub(crate) async fn add_member(app: &TestApp, group: &str, member: &str) -> Reply {
    let body = json!({ "@odata.id": format!("{}/v1.0/directoryObjects/{member}", app.base) });
    app.post(&format!("{GROUPS}/{group}/members/$ref"), body)
        .await
}

fn ids(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 200, "{}", reply.body);
    let mut ids: Vec<String> = reply.body["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|object| text(object.get("id").unwrap_or(object)))
        .collect();
    ids.sort();
    ids
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_person_with_a_quote_in_the_name_is_found_as_the_azure_cli_asks(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let id = text(&create_user(&app, "o'neil").await["id"]);
    create_user(&app, "neil").await;
    for name in ["o'neil", "o''neil"] {
        let path = format!("{USERS}?$filter=userPrincipalName eq '{name}@wharf.test'");
        assert_eq!(ids(&app.get(&path).await), [id.as_str()], "{name}");
    }
    let two = "userPrincipalName eq 'o'neil@wharf.test' or userPrincipalName eq 'x'";
    let refused = app.get(&format!("{USERS}?$filter={two}")).await;
    assert_eq!(refused.code(), "Request_UnsupportedQuery");
}

/// What nodes know of a group.
async fn group_document(pool: &PgPool, object_id: &str) -> Option<config_documents::Group> {
    let documents = documents(pool, "group").await;
    let (key, body) = documents.iter().find(|(key, _)| key == object_id)?;
    match Document::parse("group", key, body) {
        Ok(Document::Group(group)) => Some(group),
        _ => panic!("the document of {object_id} is no group"),
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_user_is_created_found_changed_and_deleted(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let created = app.post(USERS, new_user("Ann")).await;
    assert_eq!(created.status, 201, "{}", created.body);
    assert!(!created.header("x-wharfinger-revision").is_empty());
    let id = text(&created.body["id"]);
    assert!(!created.body.to_string().contains(PASSWORD));
    let document = principal_document(&pool, &id).await.unwrap();
    assert_eq!((document.app_id, document.enabled), (None, true));
    assert_eq!(document.sign_in_credentials.len(), 1);
    assert!(document.secrets.is_empty() && document.chosen_secrets.is_empty());

    let again = app.post(USERS, new_user("ANN")).await;
    assert_eq!(
        (again.status, again.code()),
        (409, "Request_MultipleObjectsWithSameKeyValue")
    );
    for path in [format!("{USERS}/{id}"), format!("{USERS}/ann@WHARF.test")] {
        let shown = app.get(&path).await;
        assert_eq!((shown.status, &shown.body["id"]), (200, &json!(id)));
    }
    for filter in [
        "userPrincipalName eq 'ann@wharf.test'",
        "startswith(displayName,'an')",
        "startswith(userPrincipalName,'ANN@')",
        "displayName eq 'ann' and accountEnabled eq true",
    ] {
        assert_eq!(
            ids(&app.get(&format!("{USERS}?$filter={filter}")).await),
            [id.as_str()],
            "{filter}"
        );
    }
    assert!(
        ids(&app
            .get(&format!("{USERS}?$filter=accountEnabled eq false"))
            .await)
        .is_empty()
    );

    let path = format!("{USERS}/ann@wharf.test");
    let change = json!({ "displayName": "Ann Other", "userPrincipalName": "other@wharf.test" });
    assert_eq!(patch(&app, &path, &app.token, change).await.status, 204);
    let path = format!("{USERS}/other@wharf.test");
    assert_eq!(app.get(&path).await.body["displayName"], "Ann Other");
    let disabled = patch(&app, &path, &app.token, json!({ "accountEnabled": false })).await;
    assert_eq!(disabled.status, 204);
    assert!(!disabled.header("x-wharfinger-revision").is_empty());
    assert!(!principal_document(&pool, &id).await.unwrap().enabled);
    for name in [
        "accountEnabled",
        "displayName",
        "mailNickname",
        "userPrincipalName",
    ] {
        let refused = patch(&app, &path, &app.token, json!({ name: null })).await;
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert!(refused.message().contains(name), "{}", refused.message());
    }
    let deleted = app.delete(&path).await;
    assert_eq!(deleted.status, 204);
    assert!(!deleted.header("x-wharfinger-revision").is_empty());
    assert!(principal_document(&pool, &id).await.is_none());
    assert_eq!(app.get(&path).await.status, 404);
    assert_eq!(app.delete(&path).await.status, 404);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_new_password_and_a_revocation_end_every_session(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let user = create_user(&app, "ann").await;
    let id = text(&user["id"]);
    let path = format!("{USERS}/{id}");
    let credential = || async {
        principal_document(&pool, &id)
            .await
            .unwrap()
            .sign_in_credentials[0]
            .key_id
    };
    let before = credential().await;
    sqlx::query(
        "INSERT INTO refresh_tokens (token_id, family_id, verifier, principal_id, credential_id, client_id, issued_at, expires_at)
         VALUES ($1, $1, '', $2, $3, 'x', now(), now())",
    )
    .bind(Uuid::new_v4())
    .bind(Uuid::parse_str(&id).unwrap())
    .bind(before)
    .execute(&pool)
    .await
    .unwrap();
    let change = json!({ "passwordProfile": { "password": "another horse battery" } });
    let reset = patch(&app, &path, &app.token, change).await;
    assert_eq!(reset.status, 204, "{}", reset.body);
    assert!(!reset.header("x-wharfinger-revision").is_empty());
    let after = credential().await;
    assert_ne!(before, after);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM refresh_tokens")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(left, 0);
    let revoked = app
        .send(
            Method::POST,
            &format!("{path}/revokeSignInSessions"),
            &app.token,
            None,
        )
        .await;
    assert_eq!(
        (revoked.status, &revoked.body["value"]),
        (200, &json!(true))
    );
    assert_ne!(after, credential().await);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_weak_password_is_refused_and_never_repeated(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    for password in ["tooshort1!", "my ann.smith 26", &"long".repeat(100)] {
        let mut body = new_user("ann.smith");
        body["passwordProfile"]["password"] = json!(password);
        let reply = app.post(USERS, body).await;
        assert_eq!((reply.status, reply.code()), (400, "Request_BadRequest"));
        assert!(!reply.body.to_string().contains(password));
    }
    let mut body = new_user("ann");
    body["passwordProfile"] = json!({});
    let reply = app.post(USERS, body).await;
    assert_eq!(reply.status, 400);
    assert!(reply.message().contains("passwordProfile.password"));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_group_is_created_found_changed_and_deleted(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let group = create_group(&app, "devs").await;
    assert!(group_document(&pool, &group).await.is_some());
    let found = app
        .get(&format!(
            "{GROUPS}?$filter=displayName eq 'devs' and mailNickname eq 'devs'"
        ))
        .await;
    assert_eq!(ids(&found), [group.as_str()]);
    let path = format!("{GROUPS}/{group}");
    for (change, description) in [
        (json!({ "description": "who builds" }), json!("who builds")),
        (json!({ "displayName": "builders" }), json!("who builds")),
        (json!({ "description": null }), Value::Null),
    ] {
        assert_eq!(patch(&app, &path, &app.token, change).await.status, 204);
        assert_eq!(app.get(&path).await.body["description"], description);
    }
    assert_eq!(app.get(&path).await.body["displayName"], "builders");
    for refused in [
        json!({ "displayName": "x", "mailNickname": "x", "mailEnabled": true }),
        json!({ "displayName": "x", "mailNickname": "x", "securityEnabled": false }),
        json!({ "displayName": "x", "mailNickname": "a b" }),
        json!({ "displayName": "x", "mailNickname": "x", "members@odata.bind": ["x"] }),
        json!({ "displayName": "x", "mailNickname": "x", "groupTypes": ["Unified"] }),
    ] {
        assert_eq!(app.post(GROUPS, refused).await.status, 400);
    }
    let deleted = app.delete(&path).await;
    assert_eq!(deleted.status, 204);
    assert!(!deleted.header("x-wharfinger-revision").is_empty());
    assert!(group_document(&pool, &group).await.is_none());
    assert_eq!(app.get(&path).await.status, 404);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn members_of_every_kind_nest_and_each_change_is_one_document(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let user = text(&create_user(&app, "ann").await["id"]);
    let bot = app.create_principal("bot").await;
    let (inner, outer) = (
        create_group(&app, "inner").await,
        create_group(&app, "outer").await,
    );
    let revisions = || async {
        let revision: i64 = sqlx::query_scalar("SELECT max(revision) FROM config_documents")
            .fetch_one(&pool)
            .await
            .unwrap();
        revision
    };
    for member in [&user, &bot.object_id] {
        let before = revisions().await;
        let added = add_member(&app, &inner, member).await;
        assert_eq!(added.status, 204, "{}", added.body);
        assert!(!added.header("x-wharfinger-revision").is_empty());
        let changed: i64 =
            sqlx::query_scalar("SELECT count(*) FROM config_documents WHERE revision > $1")
                .bind(before)
                .fetch_one(&pool)
                .await
                .unwrap();
        assert_eq!(changed, 1);
        let document = principal_document(&pool, member).await.unwrap();
        assert_eq!(document.groups, [Uuid::parse_str(&inner).unwrap()]);
    }
    assert_eq!(add_member(&app, &outer, &inner).await.status, 204);
    // Groups may contain each other.
    assert_eq!(add_member(&app, &inner, &outer).await.status, 204);
    let document = group_document(&pool, &inner).await.unwrap();
    assert_eq!(document.groups, [Uuid::parse_str(&outer).unwrap()]);

    let mut all = vec![user.clone(), bot.object_id.clone(), outer.clone()];
    all.sort();
    assert_eq!(
        ids(&app.get(&format!("{GROUPS}/{inner}/members")).await),
        all
    );
    let shown = app.get(&format!("{GROUPS}/{outer}/members")).await;
    assert_eq!(
        shown.body["value"][0]["@odata.type"],
        "#microsoft.graph.group"
    );
    let transitive = app
        .get(&format!("{GROUPS}/{outer}/transitiveMembers"))
        .await;
    assert_eq!(
        ids(&transitive).len(),
        4,
        "each once, and itself by the circle"
    );
    let path = format!("{USERS}/ann@wharf.test");
    assert_eq!(
        ids(&app.get(&format!("{path}/memberOf")).await),
        [inner.as_str()]
    );
    let mut both = vec![inner.clone(), outer.clone()];
    both.sort();
    assert_eq!(
        ids(&app.get(&format!("{path}/transitiveMemberOf")).await),
        both
    );
    let asked = json!({ "securityEnabledOnly": false });
    assert_eq!(
        ids(&app.post(&format!("{path}/getMemberGroups"), asked).await),
        both
    );
    let asked = json!({ "groupIds": [outer, Uuid::new_v4()] });
    let path = format!("/v1.0/directoryObjects/{user}/checkMemberGroups");
    assert_eq!(ids(&app.post(&path, asked).await), [outer.as_str()]);

    // Pages hold each member once.
    let mut path = format!("{GROUPS}/{inner}/members?$top=2&$select=id");
    let mut paged = Vec::new();
    loop {
        let reply = app.get(&path).await;
        paged.extend(ids(&reply));
        let Some(next) = reply.body["@odata.nextLink"].as_str() else {
            break;
        };
        path = next.strip_prefix(&app.base).unwrap().to_owned();
    }
    assert_eq!(paged, all);

    let removal = format!("{GROUPS}/{inner}/members/{user}/$ref");
    let removed = app.delete(&removal).await;
    assert_eq!(removed.status, 204, "{}", removed.body);
    assert!(!removed.header("x-wharfinger-revision").is_empty());
    let document = principal_document(&pool, &user).await.unwrap();
    assert!(document.groups.is_empty());
    assert_eq!(app.delete(&removal).await.status, 404);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_cannot_be_a_member_is_refused_by_name(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let group = create_group(&app, "devs").await;
    let user = text(&create_user(&app, "ann").await["id"]);
    let nobody = Uuid::new_v4().to_string();
    assert_eq!(add_member(&app, &group, &user).await.status, 204);
    let twice = add_member(&app, &group, &user).await;
    assert_eq!((twice.status, twice.code()), (400, "Request_BadRequest"));
    assert!(twice.message().contains("already exist"));
    let unknown = add_member(&app, &group, &nobody).await;
    assert_eq!(
        (unknown.status, unknown.code()),
        (404, "Request_ResourceNotFound")
    );
    assert!(unknown.message().contains(&nobody));
    assert_eq!(add_member(&app, &nobody, &user).await.status, 404);
    assert_eq!(add_member(&app, &user, &user).await.status, 400);
    assert_eq!(add_member(&app, &group, &group).await.status, 400);
    let body = json!({ "@odata.id": "x" });
    let path = format!("{GROUPS}/{group}/members/$ref");
    assert_eq!(app.post(&path, body).await.status, 400);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_group_that_is_to_be_an_owner_is_refused_as_a_group(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let group = create_group(&app, "devs").await;
    let other = create_group(&app, "others").await;
    for collection in ["directoryObjects", "groups"] {
        let address = format!("{}/v1.0/{collection}/{other}", app.base);
        let path = format!("{GROUPS}/{group}/owners/$ref");
        let added = app
            .post(&path, json!({ "@odata.id": address.clone() }))
            .await;
        let mut body = json!({ "displayName": "more", "mailNickname": "more", "mailEnabled": false, "securityEnabled": true });
        body["owners@odata.bind"] = json!([address]);
        let created = app.post(GROUPS, body).await;
        for refused in [added, created] {
            assert_eq!(refused.status, 400, "{}", refused.body);
            let message = refused.message();
            assert!(message.contains("is a group"), "{message}");
        }
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_member_has_the_roles_of_its_groups_until_it_leaves(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let bot = app.create_principal("bot").await;
    let (inner, outer) = (
        create_group(&app, "inner").await,
        create_group(&app, "outer").await,
    );
    assert_eq!(add_member(&app, &outer, &inner).await.status, 204);
    let assignment = format!(
        "{}/providers/Microsoft.Authorization/roleAssignments/{}?api-version={ASSIGNMENTS}",
        app.subscription(),
        Uuid::new_v4()
    );
    let body = json!({ "properties": {
        "roleDefinitionId": format!("/providers/Microsoft.Authorization/roleDefinitions/{READER}"),
        "principalId": outer,
        "principalType": "Group",
    }});
    assert_eq!(app.put(&assignment, body).await.status, 201);
    let path = format!("{}?api-version=2022-12-01", app.subscription());
    let may_read = || async { app.send(Method::GET, &path, &bot.token, None).await.status };
    assert_eq!(may_read().await, 403);
    assert_eq!(add_member(&app, &inner, &bot.object_id).await.status, 204);
    assert_eq!(may_read().await, 200);
    let removal = format!("{GROUPS}/{outer}/members/{inner}/$ref");
    assert_eq!(app.delete(&removal).await.status, 204);
    assert_eq!(may_read().await, 403);
    assert_eq!(add_member(&app, &outer, &inner).await.status, 204);
    assert_eq!(may_read().await, 200);
    assert_eq!(app.delete(&format!("{GROUPS}/{outer}")).await.status, 204);
    assert_eq!(may_read().await, 403);
    let left = documents(&pool, "role-assignment").await;
    assert!(left.iter().all(|(_, body)| !body.contains(&outer)));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn ids_stand_for_objects_of_every_type_and_me_is_the_caller(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let user = text(&create_user(&app, "ann").await["id"]);
    let group = create_group(&app, "devs").await;
    let bot = app.create_principal("bot").await;
    let found = app
        .post(
            "/v1.0/directoryObjects/getByIds",
            json!({ "ids": [user, group, bot.object_id, Uuid::new_v4()],
                    "types": ["user", "group", "servicePrincipal", "directoryObjectPartnerReference"] }),
        )
        .await;
    let types: Vec<&Value> = found.body["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|object| &object["@odata.type"])
        .collect();
    assert_eq!(
        types,
        [
            "#microsoft.graph.user",
            "#microsoft.graph.group",
            "#microsoft.graph.servicePrincipal"
        ]
    );
    let me = app.send(Method::GET, "/v1.0/me", &bot.token, None).await;
    assert_eq!(
        (me.status, &me.body["id"]),
        (200, &json!(bot.object_id)),
        "{}",
        me.body
    );
    let path = "/v1.0/me/ownedObjects";
    assert!(ids(&app.send(Method::GET, path, &bot.token, None).await).is_empty());
    let owned = app.get(path).await;
    assert!(ids(&owned).contains(&group), "the creator owns a group");
    let organization = app.get("/v1.0/organization").await;
    assert_eq!(
        organization.body["value"][0]["id"],
        json!(app.tenant_id.to_string())
    );
    let shown = app
        .get(&format!("{PRINCIPALS}/{}/memberOf", bot.object_id))
        .await;
    assert!(ids(&shown).is_empty());
}
