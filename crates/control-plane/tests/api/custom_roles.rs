//! Custom roles, and what they allow on the control plane.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{ASSIGNMENTS, OWNER, Principal, READER, REGISTRIES, Reply, TestApp};

const DEFINITIONS: &str = "2022-05-01-preview";
const READ: &str = "Microsoft.ContainerRegistry/registries/read";
const RENEW: &str = "Microsoft.ContainerRegistry/registries/regenerateCredential/action";

fn role(name: &str, scopes: &[String], actions: &[&str]) -> Value {
    json!({ "properties": {
        "roleName": name,
        "type": "CustomRole",
        "description": "made by a test",
        "assignableScopes": scopes,
        "permissions": [{ "actions": actions, "notActions": [], "dataActions": [], "notDataActions": [] }],
    }})
}

fn at(scope: &str, id: impl std::fmt::Display) -> String {
    format!(
        "{scope}/providers/Microsoft.Authorization/roleDefinitions/{id}?api-version={DEFINITIONS}"
    )
}

/// Makes a role at the first of its scopes, and gives its id.
async fn make(app: &TestApp, name: &str, scopes: &[String], actions: &[&str]) -> String {
    let id = Uuid::new_v4().to_string();
    let reply = app
        .put(&at(&scopes[0], &id), role(name, scopes, actions))
        .await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
    id
}

async fn names(app: &TestApp, scope: &str, filter: &str) -> Vec<String> {
    let path = format!(
        "{scope}/providers/Microsoft.Authorization/roleDefinitions?api-version={DEFINITIONS}&$filter={}",
        filter.replace(' ', "%20")
    );
    let reply = app.get(&path).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let roles = reply.body["value"].as_array().unwrap();
    let text = |role: &Value| role["properties"]["roleName"].as_str().unwrap().to_owned();
    roles.iter().map(text).collect()
}

async fn renew(app: &TestApp, registry: &str, principal: &Principal) -> u16 {
    let path = format!("{registry}/regenerateCredential?api-version={REGISTRIES}");
    let body = Some(json!({ "name": "password" }));
    app.send(Method::POST, &path, &principal.token, body)
        .await
        .status
}

async fn show(app: &TestApp, registry: &str, principal: &Principal) -> u16 {
    let path = format!("{registry}?api-version={REGISTRIES}");
    app.send(Method::GET, &path, &principal.token, None)
        .await
        .status
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_custom_role_allows_what_it_names_and_no_more(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let contoso = app.registry("g", "contoso");
    let id = make(&app, "Renewer", &[app.subscription()], &[READ, RENEW]).await;
    let renewer = app.create_principal("renewer").await;
    let assignment = app.assign(&app.group("g"), &id, &renewer).await;
    assert_eq!(show(&app, &contoso, &renewer).await, 200);
    assert_eq!(renew(&app, &contoso, &renewer).await, 200);
    let path = format!("{contoso}?api-version={REGISTRIES}");
    let refused = app.send(Method::DELETE, &path, &renewer.token, None).await;
    assert_eq!(
        (refused.status, refused.code()),
        (403, "AuthorizationFailed")
    );
    // Narrowed, it means less at the next request, with the same token.
    let narrowed = app
        .put(
            &at(&app.subscription(), &id),
            role("Renewer", &[app.subscription()], &[READ]),
        )
        .await;
    assert_eq!(narrowed.status, 201, "{}", narrowed.body);
    assert_eq!(narrowed.header("x-wharfinger-propagation"), "complete");
    assert_eq!(renew(&app, &contoso, &renewer).await, 403);
    assert_eq!(show(&app, &contoso, &renewer).await, 200);
    let mut excepted = role("Renewer", &[app.subscription()], &["*"]);
    excepted["properties"]["permissions"][0]["notActions"] =
        json!(["*/regenerateCredential/ACTION"]);
    assert_eq!(
        app.put(&at(&app.subscription(), &id), excepted)
            .await
            .status,
        201
    );
    assert_eq!(renew(&app, &contoso, &renewer).await, 403);
    let in_use = app.delete(&at(&app.subscription(), &id)).await;
    assert_eq!(
        (in_use.status, in_use.code()),
        (400, "RoleDefinitionHasAssignments")
    );
    let where_it_is = format!("1, one of them at '{}'", app.group("g"));
    assert!(in_use.message().contains(&where_it_is), "{}", in_use.body);
    assert_eq!(
        app.delete(&format!("{assignment}?api-version={ASSIGNMENTS}"))
            .await
            .status,
        200
    );
    let deleted = app.delete(&at(&app.subscription(), &id)).await;
    assert_eq!((deleted.status, &deleted.body["name"]), (200, &json!(id)));
    assert_eq!(deleted.header("x-wharfinger-propagation"), "complete");
    assert_eq!(app.delete(&at(&app.subscription(), &id)).await.status, 204);
    let gone = app.get(&at(&app.subscription(), &id)).await;
    assert_eq!(
        (gone.status, gone.code()),
        (404, "RoleDefinitionDoesNotExist")
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_custom_role_is_found_where_it_can_be_assigned(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    app.create_group("h").await;
    let id = make(&app, "Only In G", &[app.group("G")], &[READ]).await;
    let by_name = "roleName eq 'ONLY in g'";
    assert_eq!(names(&app, &app.group("g"), by_name).await, ["Only In G"]);
    assert_eq!(
        names(&app, &app.registry("g", "contoso"), by_name).await,
        ["Only In G"]
    );
    assert_eq!(names(&app, &app.group("h"), by_name).await, [""; 0]);
    assert_eq!(names(&app, &app.subscription(), by_name).await, [""; 0]);
    let below = format!("atScopeAndBelow() and {by_name}");
    assert_eq!(
        names(&app, &app.subscription(), &below).await,
        ["Only In G"]
    );
    assert_eq!(
        names(&app, &app.group("g"), "type eq 'CustomRole'").await,
        ["Only In G"]
    );
    assert!(
        !names(&app, &app.group("g"), "type eq 'BuiltInRole'")
            .await
            .contains(&"Only In G".to_owned())
    );
    for twice in [
        "roleName eq 'Only In G' and roleName eq 'AcrPull'",
        "type eq 'CustomRole' and type eq 'BuiltInRole'",
    ] {
        let path = format!(
            "{}/providers/Microsoft.Authorization/roleDefinitions?api-version={DEFINITIONS}&$filter={twice}",
            app.group("g")
        );
        let refused = app.get(&path).await;
        assert_eq!((refused.status, refused.code()), (400, "BadRequestFormat"));
        assert!(refused.message().contains("more than once"), "{twice}");
    }
    let all = names(&app, &app.group("g"), "").await;
    assert!(
        all.contains(&"Only In G".to_owned()) && all.contains(&"AcrPull".to_owned()),
        "{all:?}"
    );
    let shown = app.get(&at(&app.group("g"), &id)).await;
    let properties = &shown.body["properties"];
    assert_eq!(
        (&properties["type"], &properties["assignableScopes"]),
        (&json!("CustomRole"), &json!([app.group("G")]))
    );
    assert!(
        properties["createdOn"].is_string() && properties["createdBy"].is_string(),
        "{}",
        shown.body
    );
    let oldest = app
        .get(&at(&app.group("g"), &id).replace(DEFINITIONS, "2015-07-01"))
        .await;
    assert_eq!(
        oldest.body["properties"]["permissions"],
        json!([{ "actions": [READ], "notActions": [] }])
    );
    assert_eq!(oldest.body["properties"].get("createdOn"), None);
    // At the tenant's path it is seen by those who may read it at one of its scopes.
    let stranger = app.create_principal("stranger").await;
    assert_eq!(app.get(&at("", &id)).await.status, 200);
    let hidden = app
        .send(Method::GET, &at("", &id), &stranger.token, None)
        .await;
    assert_eq!(hidden.status, 404, "{}", hidden.body);
    assert_eq!(
        app.send(Method::GET, &at("", READER), &stranger.token, None)
            .await
            .status,
        200
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn assignable_scopes_are_enforced(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    app.create_registry("h", "fabrikam").await;
    let scopes = [app.group("g"), app.group("h")];
    let id = make(&app, "Two Groups", &scopes, &[READ]).await;
    let principal = app.create_principal("one").await;
    let body = json!({ "properties": {
        "roleDefinitionId": format!("{}/providers/Microsoft.Authorization/roleDefinitions/{id}", app.subscription()),
        "principalId": principal.object_id,
    }});
    let assignment = |scope: &str| {
        format!(
            "{scope}/providers/Microsoft.Authorization/roleAssignments/{}?api-version={ASSIGNMENTS}",
            Uuid::new_v4()
        )
    };
    let refused = app
        .put(&assignment(&app.subscription()), body.clone())
        .await;
    assert_eq!(
        (refused.status, refused.code()),
        (400, "RoleDefinitionNotAssignableAtScope")
    );
    for scope in [app.group("g"), app.registry("h", "fabrikam")] {
        let assigned = app.put(&assignment(&scope), body.clone()).await;
        assert_eq!(assigned.status, 201, "{}", assigned.body);
    }
    let put = |body: Value| {
        let path = at(&app.group("g"), &id);
        let app = &app;
        async move { app.put(&path, body).await }
    };
    let narrowed = put(role("Two Groups", &[app.group("g")], &[READ])).await;
    assert_eq!(
        (narrowed.status, narrowed.code()),
        (400, "RoleDefinitionHasAssignments")
    );
    assert!(
        narrowed.message().contains("fabrikam"),
        "{}",
        narrowed.message()
    );
    let widened = put(role("Two Groups", &[app.subscription()], &[READ])).await;
    assert_eq!(widened.status, 201, "{}", widened.body);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_role_is_written_by_those_with_the_right_at_all_of_its_scopes(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("g").await;
    app.create_group("h").await;
    let owner = app.create_principal("owner of g").await;
    app.assign(&app.group("g"), OWNER, &owner).await;
    let send = async |method: Method, id: &str, body: Option<Value>| -> Reply {
        app.send(method, &at(&app.group("g"), id), &owner.token, body)
            .await
    };
    let id = Uuid::new_v4().to_string();
    let both = [app.group("g"), app.group("h")];
    let refused = send(Method::PUT, &id, Some(role("Mine", &both, &[READ]))).await;
    assert_eq!(
        (refused.status, refused.code()),
        (403, "LinkedAuthorizationFailed")
    );
    assert!(
        refused.message().contains(&app.group("h")),
        "{}",
        refused.message()
    );
    let own = send(Method::PUT, &id, Some(role("Mine", &both[..1], &[READ]))).await;
    assert_eq!(own.status, 201, "{}", own.body);
    // What stands at another's scope too is not taken over, changed or deleted from here.
    let shared = make(&app, "Shared", &both, &[READ]).await;
    let taken = send(
        Method::PUT,
        &shared,
        Some(role("Shared", &both[..1], &["*"])),
    )
    .await;
    assert_eq!(
        (taken.status, taken.code()),
        (403, "LinkedAuthorizationFailed")
    );
    let deleted = send(Method::DELETE, &shared, None).await;
    assert_eq!(
        (deleted.status, deleted.code()),
        (403, "LinkedAuthorizationFailed")
    );
    assert_eq!(send(Method::DELETE, &id, None).await.status, 200);
    let elsewhere = app
        .send(
            Method::PUT,
            &at(&app.group("h"), &id),
            &owner.token,
            Some(role("Mine", &both[..1], &[READ])),
        )
        .await;
    assert_eq!(
        (elsewhere.status, elsewhere.code()),
        (403, "AuthorizationFailed")
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_cannot_be_a_role_is_refused_by_name(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("g").await;
    let scopes = [app.group("g")];
    make(&app, "Taken", &scopes, &[READ]).await;
    let fresh = Uuid::new_v4().to_string();
    let refuse = async |body: Value| -> Reply {
        let reply = app.put(&at(&app.group("g"), &fresh), body).await;
        assert!(matches!(reply.status, 400 | 409), "{}", reply.body);
        reply
    };
    for name in ["taken", "ACRPULL"] {
        let reply = refuse(role(name, &scopes, &[READ])).await;
        assert_eq!(
            (reply.status, reply.code()),
            (409, "RoleDefinitionWithSameNameExists"),
            "{name}"
        );
    }
    for (body, code, part) in [
        (
            role("", &scopes, &[READ]),
            "InvalidRoleDefinitionName",
            "role name",
        ),
        (
            role(&fresh, &scopes, &[READ]),
            "InvalidRoleDefinitionName",
            "GUID",
        ),
        (
            role("x", &[], &[READ]),
            "InvalidAssignableScopes",
            "assignable scopes",
        ),
        (
            role("x", &["/".to_owned()], &[READ]),
            "InvalidAssignableScopes",
            "'/'",
        ),
        (
            role("x", &["nonsense".to_owned()], &[READ]),
            "InvalidAssignableScopes",
            "nonsense",
        ),
        (
            role("x", &[app.group("g"), app.group("nowhere")], &[READ]),
            "InvalidAssignableScopes",
            "nowhere",
        ),
        (role("x", &scopes, &[]), "InvalidPermissions", "actions"),
        (
            role(
                "x",
                &scopes,
                &["Microsoft.ContainerRegistry/registries/pul/read"],
            ),
            "InvalidActionOrNotAction",
            "pul/read",
        ),
        (
            role(
                "x",
                &scopes,
                &["Microsoft.ContainerRegistry/registries/catalog/read"],
            ),
            "InvalidActionOrNotAction",
            "dataActions",
        ),
        (
            role("x", &scopes, &["has blanks"]),
            "InvalidActionOrNotAction",
            "has blanks",
        ),
    ] {
        let reply = refuse(body.clone()).await;
        assert_eq!(reply.code(), code, "{body}: {}", reply.body);
        assert!(reply.message().contains(part), "{}", reply.message());
    }
    let all = refuse(role("", &[], &["nonsense"])).await;
    assert_eq!(
        all.body["error"]["details"].as_array().map(Vec::len),
        Some(3),
        "{}",
        all.body
    );
    let built_in = app
        .put(
            &at(&app.subscription(), OWNER),
            role("Owner", &scopes, &[READ]),
        )
        .await;
    assert_eq!(
        (built_in.status, built_in.code()),
        (400, "BuiltInRoleCannotBeChanged")
    );
    let kept = app.delete(&at(&app.subscription(), OWNER)).await;
    assert_eq!(
        (kept.status, kept.code()),
        (400, "BuiltInRoleCannotBeChanged")
    );
    // A version without data actions must not take them away unseen.
    let id = Uuid::new_v4().to_string();
    let mut data = role("Data", &scopes, &[]);
    data["properties"]["permissions"][0]["dataActions"] =
        json!(["Microsoft.ContainerRegistry/registries/repositories/*/read"]);
    assert_eq!(app.put(&at(&app.group("g"), &id), data).await.status, 201);
    let mut old = role("Data", &scopes, &[READ]);
    old["properties"]["permissions"] = json!([{ "actions": [READ] }]);
    let refused = app
        .put(
            &at(&app.group("g"), &id).replace(DEFINITIONS, "2015-07-01"),
            old,
        )
        .await;
    assert_eq!(
        (refused.status, refused.code()),
        (400, "InvalidRequestContent")
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_role_is_never_held_by_anybody_once_it_is_deleted(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("g").await;
    let principal = app.create_principal("one").await;
    for turn in 0..10 {
        let id = make(&app, &format!("Role {turn}"), &[app.group("g")], &[READ]).await;
        let assignment = format!(
            "{}/providers/Microsoft.Authorization/roleAssignments/{}?api-version={ASSIGNMENTS}",
            app.group("g"),
            Uuid::new_v4()
        );
        let body =
            json!({ "properties": { "roleDefinitionId": id, "principalId": principal.object_id } });
        let role = at(&app.group("g"), &id);
        let (assigned, deleted) = tokio::join!(app.put(&assignment, body), app.delete(&role));
        match (assigned.status, deleted.status) {
            (201, 400) => assert_eq!(deleted.code(), "RoleDefinitionHasAssignments"),
            (400, 200) => assert_eq!(assigned.code(), "RoleDefinitionDoesNotExist"),
            other => panic!("{other:?}: {} {}", assigned.body, deleted.body),
        }
    }
}
