//! Role assignments and what they allow on the control plane.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{ASSIGNMENTS, CONTRIBUTOR, OWNER, READER, REGISTRIES, TestApp};

fn at(path: &str) -> String {
    format!("{path}?api-version={ASSIGNMENTS}")
}

fn assignment(role: &str, principal: &str) -> Value {
    json!({ "properties": {
        "roleDefinitionId": format!("/providers/Microsoft.Authorization/roleDefinitions/{role}"),
        "principalId": principal,
    }})
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_role_holds_at_its_scope_and_below_and_dies_with_its_assignment(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    app.create_registry("h", "fabrikam").await;
    let reader = app.create_principal("reader").await;
    let show = |registry: String| {
        let path = format!("{registry}?api-version={REGISTRIES}");
        let token = reader.token.clone();
        let app = &app;
        async move { app.send(Method::GET, &path, &token, None).await.status }
    };
    let (contoso, fabrikam) = (app.registry("g", "contoso"), app.registry("h", "fabrikam"));
    for scope in [
        contoso.clone(),
        app.group("G"),
        app.subscription(),
        app.group("g").to_uppercase(),
    ] {
        assert_eq!(show(contoso.clone()).await, 403, "before {scope}");
        let path = app.assign(&scope, READER, &reader).await;
        assert_eq!(show(contoso.clone()).await, 200, "{scope}");
        let elsewhere = if scope == app.subscription() {
            200
        } else {
            403
        };
        assert_eq!(show(fabrikam.clone()).await, elsewhere, "{scope}");
        assert_eq!(app.delete(&at(&path)).await.status, 200);
        assert_eq!(show(contoso.clone()).await, 403, "after {scope}");
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn contributors_write_but_do_not_assign_and_owners_do_both(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let contributor = app.create_principal("contributor").await;
    let owner = app.create_principal("owner").await;
    let other = app.create_principal("other").await;
    let scope = app.registry("g", "contoso");
    app.assign(&scope, CONTRIBUTOR, &contributor).await;
    app.assign(&scope, OWNER, &owner).await;
    let assign = |token: String| {
        let path = at(&format!(
            "{scope}/providers/Microsoft.Authorization/roleAssignments/{}",
            Uuid::new_v4()
        ));
        let body = assignment(READER, &other.object_id);
        let app = &app;
        async move { app.send(Method::PUT, &path, &token, Some(body)).await }
    };
    let refused = assign(contributor.token.clone()).await;
    assert_eq!(
        (refused.status, refused.code()),
        (403, "AuthorizationFailed")
    );
    assert!(
        refused
            .message()
            .contains("Microsoft.Authorization/roleAssignments/write"),
        "{}",
        refused.message()
    );
    let granted = assign(owner.token.clone()).await;
    assert_eq!(
        (granted.status, granted.header("x-wharfinger-propagation")),
        (201, "complete")
    );
    let renew = format!("{scope}/regenerateCredential?api-version={REGISTRIES}");
    let body = Some(json!({ "name": "password" }));
    assert_eq!(
        app.send(Method::POST, &renew, &contributor.token, body.clone())
            .await
            .status,
        200
    );
    assert_eq!(
        app.send(Method::POST, &renew, &other.token, body)
            .await
            .status,
        403
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn duplicates_and_wrong_references_are_named(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let principal = app.create_principal("one").await;
    let scope = app.registry("g", "contoso");
    let path = app.assign(&scope, READER, &principal).await;
    let again = app
        .put(&at(&path), assignment(READER, &principal.object_id))
        .await;
    assert_eq!(again.status, 200, "{}", again.body);
    let put = |name: &str, body: Value| {
        let path = at(&format!(
            "{scope}/providers/Microsoft.Authorization/roleAssignments/{name}"
        ));
        let app = &app;
        async move { app.put(&path, body).await }
    };
    let fresh = Uuid::new_v4().to_string();
    let duplicate = put(&fresh, assignment(READER, &principal.object_id)).await;
    assert_eq!(
        (duplicate.status, duplicate.code()),
        (409, "RoleAssignmentExists")
    );
    let name = path.rsplit('/').next().unwrap();
    let taken = put(name, assignment(OWNER, &principal.object_id)).await;
    assert_eq!(
        (taken.status, taken.code()),
        (400, "RoleAssignmentUpdateNotPermitted")
    );
    let nobody = put(&fresh, assignment(READER, &Uuid::new_v4().to_string())).await;
    assert_eq!((nobody.status, nobody.code()), (400, "PrincipalNotFound"));
    let no_role = put(
        &fresh,
        assignment(&Uuid::new_v4().to_string(), &principal.object_id),
    )
    .await;
    assert_eq!(
        (no_role.status, no_role.code()),
        (400, "RoleDefinitionDoesNotExist")
    );
    let no_guid = put("name", assignment(READER, &principal.object_id)).await;
    assert_eq!(
        (no_guid.status, no_guid.code()),
        (400, "InvalidRoleAssignmentId")
    );
    for (scope, shown) in [
        (String::new(), "'/'"),
        (
            format!("{}/repositories/app", app.registry("g", "contoso")),
            "/repositories/app'",
        ),
    ] {
        let path = format!(
            "{scope}/providers/Microsoft.Authorization/roleAssignments/{fresh}?api-version={ASSIGNMENTS}"
        );
        let elsewhere = app
            .put(&path, assignment(READER, &principal.object_id))
            .await;
        assert_eq!(elsewhere.status, 404, "{}", elsewhere.body);
        let message = elsewhere.message();
        assert!(
            message.starts_with("Roles are assigned at a subscription") && message.contains(shown),
            "{message}"
        );
    }
    let mut conditional = assignment(OWNER, &principal.object_id);
    conditional["properties"]["condition"] = json!("x");
    let refused = put(&fresh, conditional).await;
    assert_eq!((refused.status, refused.code()), (400, "InvalidCondition"));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn lists_show_what_is_asked_for(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let principal = app.create_principal("one").await;
    app.assign(&app.group("g"), READER, &principal).await;
    app.assign(&app.registry("g", "contoso"), CONTRIBUTOR, &principal)
        .await;
    let scopes = |scope: String, filter: &str| {
        let path = format!(
            "{scope}/providers/Microsoft.Authorization/roleAssignments?api-version={ASSIGNMENTS}&$filter={}",
            filter.replace(' ', "%20")
        );
        let app = &app;
        async move {
            let reply = app.get(&path).await;
            assert_eq!(reply.status, 200, "{}", reply.body);
            let mut scopes: Vec<usize> = reply.body["value"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| {
                    item["properties"]["scope"]
                        .as_str()
                        .unwrap()
                        .split('/')
                        .count()
                })
                .collect();
            scopes.sort_unstable();
            scopes
        }
    };
    // Three segments: the subscription; five: the group; nine: the registry.
    let own = format!("principalId eq '{}'", principal.object_id);
    assert_eq!(scopes(app.group("g"), "").await, [3, 5, 9]);
    assert_eq!(scopes(app.group("g"), "atScope()").await, [3, 5]);
    assert_eq!(
        scopes(app.registry("g", "contoso"), "atScope()").await,
        [3, 5, 9]
    );
    assert_eq!(scopes(app.subscription(), &own).await, [5, 9]);
    assert_eq!(
        scopes(
            app.subscription(),
            &format!("assignedTo('{}')", principal.object_id)
        )
        .await,
        [5, 9]
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_name_made_anew_inherits_no_rights(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let principal = app.create_principal("one").await;
    let registry = app.registry("g", "contoso");
    app.assign(&registry, OWNER, &principal).await;
    assert_eq!(
        app.delete(&format!("{registry}?api-version={REGISTRIES}"))
            .await
            .status,
        200
    );
    app.create_registry("g", "contoso").await;
    let reply = app
        .send(
            Method::GET,
            &format!("{registry}?api-version={REGISTRIES}"),
            &principal.token,
            None,
        )
        .await;
    assert_eq!(reply.status, 403);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn role_definitions_are_found_by_name_in_any_case(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let path = format!(
        "{}/providers/Microsoft.Authorization/roleDefinitions?api-version=2022-05-01-preview&$filter=roleName%20eq%20'acrpull'",
        app.subscription()
    );
    let reply = app.get(&path).await;
    assert_eq!(
        reply.body["value"][0]["properties"]["roleName"], "AcrPull",
        "{}",
        reply.body
    );
    assert_eq!(reply.body["value"].as_array().map(Vec::len), Some(1));
    let id = reply.body["value"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        app.get(&format!("{id}?api-version={ASSIGNMENTS}"))
            .await
            .status,
        200
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn assigning_and_taking_away_at_the_same_time_is_no_failure(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("g").await;
    let principal = app.create_principal("one").await;
    for _ in 0..10 {
        let path = at(&format!(
            "{}/providers/Microsoft.Authorization/roleAssignments/{}",
            app.group("g"),
            Uuid::new_v4()
        ));
        let calls = (0..12).map(|turn| {
            let (method, body) = if turn % 2 == 0 {
                (Method::PUT, Some(assignment(READER, &principal.object_id)))
            } else {
                (Method::DELETE, None)
            };
            app.send(method, &path, &app.token, body)
        });
        for reply in futures_util::future::join_all(calls).await {
            assert!(
                matches!(reply.status, 200 | 201 | 204),
                "{} {}",
                reply.status,
                reply.body
            );
        }
        app.delete(&path).await;
    }
}
