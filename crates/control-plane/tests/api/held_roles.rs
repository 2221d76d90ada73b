//! Roles held by groups and by people, conditions, the last Owner, and what callers are told of their rights.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{
    ASSIGNMENTS, CONTRIBUTOR, GROUPS, OWNER, Principal, READER, REGISTRIES, TestApp,
};

const REPOSITORY_READER: &str = "b93aa761-3e63-49ed-ac28-beffa264f7ac";
const CONDITION: &str = "((!(ActionMatches{'Microsoft.ContainerRegistry/registries/repositories/content/read'}) AND \
    !(ActionMatches{'Microsoft.ContainerRegistry/registries/repositories/metadata/read'})) OR \
    (@Request[Microsoft.ContainerRegistry/registries/repositories:name] StringStartsWithIgnoreCase 'backend/'))";

fn assignment(scope: &str, name: impl std::fmt::Display) -> String {
    format!(
        "{scope}/providers/Microsoft.Authorization/roleAssignments/{name}?api-version={ASSIGNMENTS}"
    )
}

fn body(role: &str, principal: &str) -> Value {
    json!({ "properties": { "roleDefinitionId": role, "principalId": principal } })
}

async fn group(app: &TestApp, name: &str) -> String {
    let group = json!({ "displayName": name, "mailNickname": name, "mailEnabled": false, "securityEnabled": true });
    let reply = app.post("/v1.0/groups", group).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    reply.body["id"].as_str().unwrap().to_owned()
}

async fn add(app: &TestApp, group: &str, member: &str) {
    let reference = json!({ "@odata.id": format!("{}/v1.0/directoryObjects/{member}", app.base) });
    let reply = app
        .post(&format!("/v1.0/groups/{group}/members/$ref"), reference)
        .await;
    assert_eq!(reply.status, 204, "{}", reply.body);
}

async fn remove(app: &TestApp, group: &str, member: &str) -> u16 {
    app.delete(&format!("/v1.0/groups/{group}/members/{member}/$ref"))
        .await
        .status
}

async fn give(app: &TestApp, scope: &str, role: &str, principal: &str) -> String {
    let path = assignment(scope, Uuid::new_v4());
    let reply = app.put(&path, body(role, principal)).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    path
}

async fn show(app: &TestApp, registry: &str, principal: &Principal) -> u16 {
    let path = format!("{registry}?api-version={REGISTRIES}");
    app.send(Method::GET, &path, &principal.token, None)
        .await
        .status
}

/// The principals of the assignments that a list shows.
async fn holders(app: &TestApp, scope: &str, filter: &str) -> Vec<String> {
    let path = format!(
        "{scope}/providers/Microsoft.Authorization/roleAssignments?api-version={ASSIGNMENTS}&$filter={}",
        filter.replace(' ', "%20")
    );
    let reply = app.get(&path).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let items = reply.body["value"].as_array().unwrap();
    let text = |item: &Value| {
        item["properties"]["principalId"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let mut holders: Vec<String> = items.iter().map(text).collect();
    holders.sort_unstable();
    holders
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_group_holds_roles_for_its_members_however_deep(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let contoso = app.registry("g", "contoso");
    let member = app.create_principal("member").await;
    let outer = group(&app, "outer").await;
    let inner = group(&app, "inner").await;
    give(&app, &app.group("g"), READER, &outer).await;
    add(&app, &outer, &inner).await;
    assert_eq!(show(&app, &contoso, &member).await, 403);
    add(&app, &inner, &member.object_id).await;
    assert_eq!(show(&app, &contoso, &member).await, 200);
    // Groups that contain each other are no trap.
    add(&app, &inner, &outer).await;
    assert_eq!(show(&app, &contoso, &member).await, 200);
    let registries = format!(
        "{}/providers/Microsoft.ContainerRegistry/registries?api-version={REGISTRIES}",
        app.subscription()
    );
    let listed = app
        .send(Method::GET, &registries, &member.token, None)
        .await;
    assert_eq!(
        listed.body["value"].as_array().map(Vec::len),
        Some(1),
        "{}",
        listed.body
    );
    let subscriptions = app
        .send(
            Method::GET,
            "/subscriptions?api-version=2022-12-01",
            &member.token,
            None,
        )
        .await;
    assert_eq!(
        subscriptions.body["value"].as_array().map(Vec::len),
        Some(1)
    );
    let held = format!("assignedTo('{}')", member.object_id);
    assert_eq!(
        holders(&app, &app.subscription(), &held).await,
        [outer.as_str()]
    );
    assert_eq!(
        holders(&app, &contoso, &format!("atScope() and {held}")).await,
        [outer.as_str()]
    );
    let direct = format!("principalId eq '{}'", member.object_id);
    for of_its_own in [
        direct.clone(),
        format!("{direct} and {held}"),
        format!("{held} and {direct}"),
    ] {
        assert_eq!(
            holders(&app, &app.subscription(), &of_its_own).await,
            [""; 0],
            "{of_its_own}"
        );
    }
    assert_eq!(
        holders(
            &app,
            &app.subscription(),
            &format!("principalId eq '{outer}'")
        )
        .await,
        [outer.as_str()]
    );
    let path = format!(
        "{}/providers/Microsoft.Authorization/roleAssignments?api-version={ASSIGNMENTS}&$filter=assignedTo('{outer}')",
        app.subscription()
    );
    let refused = app.get(&path).await;
    assert_eq!((refused.status, refused.code()), (400, "BadRequestFormat"));
    assert_eq!(remove(&app, &inner, &member.object_id).await, 204);
    assert_eq!(show(&app, &contoso, &member).await, 403);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn the_kind_of_a_principal_is_what_it_is(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("g").await;
    let team = group(&app, "team").await;
    let put = async |principal: &str, kind: &str| {
        let mut body = body(READER, principal);
        body["properties"]["principalType"] = json!(kind);
        app.put(&assignment(&app.group("g"), Uuid::new_v4()), body)
            .await
    };
    let other = put(&team, "ServicePrincipal").await;
    assert_eq!(
        (other.status, other.code()),
        (400, "UnmatchedPrincipalType")
    );
    assert!(other.message().contains("'Group'"), "{}", other.message());
    let unknown = put(&team, "Device").await;
    assert_eq!(
        (unknown.status, unknown.code()),
        (400, "UnsupportedPrincipalType")
    );
    let right = put(&team, "group").await;
    assert_eq!(
        (right.status, &right.body["properties"]["principalType"]),
        (201, &json!("Group"))
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_condition_is_understood_or_refused_and_never_lost(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let contoso = app.registry("g", "contoso");
    let principal = app.create_principal("one").await;
    let name = Uuid::new_v4();
    let with = |condition: Value, version: Value| {
        let mut body = body(REPOSITORY_READER, &principal.object_id);
        body["properties"]["condition"] = condition;
        body["properties"]["conditionVersion"] = version;
        body
    };
    let created = app
        .put(
            &assignment(&contoso, name),
            with(json!(CONDITION), json!("2.0")),
        )
        .await;
    assert_eq!(created.status, 201, "{}", created.body);
    assert_eq!(created.header("x-wharfinger-propagation"), "complete");
    let shown = app.get(&assignment(&contoso, name)).await;
    let properties = &shown.body["properties"];
    assert_eq!(
        (&properties["condition"], &properties["conditionVersion"]),
        (&json!(CONDITION), &json!("2.0"))
    );
    for (condition, version, code) in [
        (json!("true"), json!("2.0"), "InvalidCondition"),
        (
            json!(CONDITION.replace("StringStartsWith", "StringLike")),
            json!("2.0"),
            "InvalidCondition",
        ),
        // Taken for none, a blank condition would give all repositories.
        (json!(""), json!("2.0"), "InvalidCondition"),
        (json!("   "), Value::Null, "InvalidCondition"),
        (json!(CONDITION), json!("1.0"), "InvalidConditionVersion"),
        (json!(CONDITION), json!(""), "InvalidConditionVersion"),
        (Value::Null, json!("2.0"), "InvalidConditionVersion"),
    ] {
        let refused = app
            .put(
                &assignment(&contoso, Uuid::new_v4()),
                with(condition, version),
            )
            .await;
        assert_eq!(
            (refused.status, refused.code()),
            (400, code),
            "{}",
            refused.body
        );
    }
    let mut of_nothing = with(json!(CONDITION), json!("2.0"));
    of_nothing["properties"]["roleDefinitionId"] = json!(READER);
    let refused = app
        .put(&assignment(&contoso, Uuid::new_v4()), of_nothing)
        .await;
    assert_eq!(
        (refused.status, refused.code()),
        (400, "InvalidCondition"),
        "{}",
        refused.body
    );
    // Another condition for the same assignment, which nodes are told of.
    let changed = CONDITION.replace("backend/", "frontend/");
    let reply = app
        .put(
            &assignment(&contoso, name),
            with(json!(changed), json!("2.0")),
        )
        .await;
    assert_eq!(
        (reply.status, &reply.body["properties"]["condition"]),
        (200, &json!(changed))
    );
    assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
    let same = app
        .put(
            &assignment(&contoso, name),
            with(json!(changed), Value::Null),
        )
        .await;
    assert_eq!(
        (same.status, same.header("x-wharfinger-revision")),
        (200, "")
    );
    // A version that cannot say the condition neither shows it nor takes it away, and is not given one.
    let old = assignment(&contoso, name).replace(ASSIGNMENTS, "2015-07-01");
    let kept = app
        .put(&old, body(REPOSITORY_READER, &principal.object_id))
        .await;
    assert_eq!(kept.status, 201, "{}", kept.body);
    assert_eq!(kept.body["properties"].get("condition"), None);
    for condition in [CONDITION, " "] {
        let refused = app.put(&old, with(json!(condition), Value::Null)).await;
        assert_eq!(
            (refused.status, refused.code()),
            (400, "InvalidRequestContent")
        );
    }
    assert_eq!(
        app.get(&assignment(&contoso, name)).await.body["properties"]["condition"],
        json!(changed)
    );
    let dropped = app
        .put(&assignment(&contoso, name), with(Value::Null, Value::Null))
        .await;
    assert_eq!(
        (dropped.status, &dropped.body["properties"]["condition"]),
        (200, &Value::Null)
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_subscription_keeps_an_owner(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("g").await;
    let subscription = app.subscription();
    let list = app
        .get(&format!(
            "{subscription}/providers/Microsoft.Authorization/roleAssignments?api-version={ASSIGNMENTS}"
        ))
        .await;
    let first = list.body["value"][0]["id"].as_str().unwrap().to_owned();
    let first = format!("{first}?api-version={ASSIGNMENTS}");
    let delete_first = async || app.delete(&first).await;
    let refused = delete_first().await;
    assert_eq!(
        (refused.status, refused.code()),
        (403, "CannotDeleteLastRbacAdminAssignment"),
        "{}",
        refused.body
    );
    // Neither an Owner below nor another role nor a group without members is one.
    let second = app.create_principal("second").await;
    give(&app, &app.group("g"), OWNER, &second.object_id).await;
    give(&app, &subscription, CONTRIBUTOR, &second.object_id).await;
    let owners = group(&app, "owners").await;
    let of_group = give(&app, &subscription, OWNER, &owners).await;
    assert_eq!(delete_first().await.status, 403);
    let inner = group(&app, "inner").await;
    add(&app, &owners, &inner).await;
    add(&app, &inner, &second.object_id).await;
    assert_eq!(delete_first().await.status, 200);
    // Now the group's member is the last one, whichever way it would go.
    let send = async |method: Method, path: &str, body: Option<Value>| {
        app.send(method, path, &second.token, body).await.status
    };
    assert_eq!(send(Method::DELETE, &of_group, None).await, 403);
    let me = format!("/v1.0/servicePrincipals/{}", second.object_id);
    assert_eq!(app.delete(&me).await.status, 400);
    let disabled = app
        .send(
            Method::PATCH,
            &me,
            &app.token,
            Some(json!({ "accountEnabled": false })),
        )
        .await;
    assert_eq!(disabled.status, 400, "{}", disabled.body);
    assert_eq!(
        app.delete(&format!("/v1.0/groups/{owners}")).await.status,
        400
    );
    assert_eq!(remove(&app, &inner, &second.object_id).await, 400);
    assert_eq!(
        send(
            Method::GET,
            &format!("{subscription}?api-version=2022-12-01"),
            None
        )
        .await,
        200
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn two_owners_cannot_remove_each_other_at_the_same_time(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let subscription = app.subscription();
    for _ in 0..5 {
        let list = app
            .get(&format!(
                "{subscription}/providers/Microsoft.Authorization/roleAssignments?api-version={ASSIGNMENTS}&$filter=atScope()"
            ))
            .await;
        let first = list.body["value"][0]["id"].as_str().unwrap().to_owned();
        let holder = list.body["value"][0]["properties"]["principalId"]
            .as_str()
            .unwrap()
            .to_owned();
        let other = app.create_principal("other").await;
        let second = give(&app, &subscription, OWNER, &other.object_id).await;
        let first = format!("{first}?api-version={ASSIGNMENTS}");
        let (one, two) = tokio::join!(
            app.send(Method::DELETE, &first, &app.token, None),
            app.send(Method::DELETE, &second, &app.token, None)
        );
        let statuses = [one.status, two.status];
        assert!(
            statuses.contains(&200) && statuses.contains(&403),
            "{statuses:?}: {} {}",
            one.body,
            two.body
        );
        if one.status == 200 {
            // Back to where it was: the other one assigns the first again, and goes.
            let again = assignment(&subscription, Uuid::new_v4());
            let reply = app
                .send(
                    Method::PUT,
                    &again,
                    &other.token,
                    Some(body(OWNER, &holder)),
                )
                .await;
            assert_eq!(reply.status, 201, "{}", reply.body);
            assert_eq!(app.delete(&second).await.status, 200);
        }
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn callers_learn_what_they_may_do_at_a_scope(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let contoso = app.registry("g", "contoso");
    let principal = app.create_principal("one").await;
    give(&app, &app.group("g"), READER, &principal.object_id).await;
    let permissions = async |scope: &str| {
        let path =
            format!("{scope}/providers/Microsoft.Authorization/permissions?api-version=2022-04-01");
        let reply = app.send(Method::GET, &path, &principal.token, None).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.body["value"].clone()
    };
    let reader = json!([{ "actions": ["*/read"], "notActions": [], "dataActions": [], "notDataActions": [] }]);
    assert_eq!(permissions(&app.group("g").to_lowercase()).await, reader);
    assert_eq!(permissions(&contoso).await, reader);
    assert_eq!(permissions(&app.group("h")).await, json!([]));
    assert_eq!(permissions(&app.subscription()).await, json!([]));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn the_operations_of_providers_are_listed(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let path = "/providers/Microsoft.Authorization/providerOperations";
    let all = app
        .get(&format!(
            "{path}?api-version=2022-04-01&$expand=resourceTypes"
        ))
        .await;
    let providers = all.body["value"].as_array().unwrap();
    assert!(
        providers
            .iter()
            .any(|provider| provider["name"] == "Microsoft.Authorization"),
        "{}",
        all.body
    );
    let one = app
        .get(&format!(
            "{path}/microsoft.containerregistry?api-version=2015-07-01"
        ))
        .await;
    let types = one.body["resourceTypes"].as_array().unwrap();
    let is_data = |name: &str| {
        let mut operations = types
            .iter()
            .flat_map(|kind| kind["operations"].as_array().unwrap());
        operations
            .find(|operation| operation["name"] == name)
            .map(|operation| operation["isDataAction"].clone())
    };
    assert_eq!(
        is_data("Microsoft.ContainerRegistry/registries/pull/read"),
        Some(json!(false))
    );
    assert_eq!(
        is_data("Microsoft.ContainerRegistry/registries/repositories/content/read"),
        Some(json!(true))
    );
    let unknown = app
        .get(&format!("{path}/Microsoft.Compute?api-version=2022-04-01"))
        .await;
    assert_eq!((unknown.status, unknown.code()), (404, "ProviderNotFound"));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn the_role_assignment_mode_is_chosen_and_nodes_are_told(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let path = format!("{}?api-version=2025-11-01", app.registry("g", "contoso"));
    let mode = |body: &Value| {
        body["properties"]["roleAssignmentMode"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(
        mode(&app.get(&path).await.body),
        "LegacyRegistryPermissions"
    );
    let patch =
        async |path: &str, body: Value| app.send(Method::PATCH, path, &app.token, Some(body)).await;
    let reply = patch(
        &path,
        json!({ "properties": { "roleAssignmentMode": "abacrepositorypermissions" } }),
    )
    .await;
    assert_eq!(
        (reply.status, mode(&reply.body).as_str()),
        (200, "AbacRepositoryPermissions"),
        "{}",
        reply.body
    );
    assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
    let refused = patch(
        &path,
        json!({ "properties": { "roleAssignmentMode": "Both" } }),
    )
    .await;
    assert_eq!((refused.status, refused.code()), (400, "InvalidProperty"));
    // Renewing a password and a version without the mode leave it as it is.
    let renew = format!(
        "{}/regenerateCredential?api-version={REGISTRIES}",
        app.registry("g", "contoso")
    );
    assert_eq!(
        app.post(&renew, json!({ "name": "password" })).await.status,
        200
    );
    let old = path.replace("2025-11-01", "2023-07-01");
    let replaced = json!({ "location": "westus", "sku": { "name": "Basic" }, "properties": { "adminUserEnabled": true } });
    assert_eq!(app.put(&old, replaced.clone()).await.status, 200);
    assert_eq!(
        mode(&app.get(&path).await.body),
        "AbacRepositoryPermissions"
    );
    let unknown = patch(
        &old,
        json!({ "properties": { "roleAssignmentMode": "AbacRepositoryPermissions" } }),
    )
    .await;
    assert_eq!(unknown.status, 400, "{}", unknown.body);
    // What `az acr create` sends for a registry that is there.
    assert_eq!(app.put(&path, replaced.clone()).await.status, 200);
    assert_eq!(
        mode(&app.get(&path).await.body),
        "AbacRepositoryPermissions"
    );
    let mut said = replaced;
    said["properties"]["roleAssignmentMode"] = json!("LegacyRegistryPermissions");
    assert_eq!(app.put(&path, said).await.status, 200);
    assert_eq!(
        mode(&app.get(&path).await.body),
        "LegacyRegistryPermissions"
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn each_provider_lists_its_operations_to_anybody_signed_in(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let nobody = app.create_principal("nobody").await;
    let list = async |provider: &str, version: &str| {
        let path = format!("/providers/{provider}/operations?api-version={version}");
        app.send(Method::GET, &path, &nobody.token, None).await
    };
    let reply = list("microsoft.containerregistry", "2023-07-01").await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let operations = reply.body["value"].as_array().unwrap();
    let named = |name: &str| {
        operations
            .iter()
            .find(|operation| operation["name"] == name)
    };
    assert!(named("Microsoft.ContainerRegistry/register/action").is_some());
    assert_eq!(
        named("Microsoft.ContainerRegistry/registries/repositories/content/read"),
        Some(&json!({
            "name": "Microsoft.ContainerRegistry/registries/repositories/content/read",
            "isDataAction": true,
            "origin": "user,system",
            "display": {
                "provider": "Microsoft Container Registry",
                "resource": "registries/repositories/content",
                "operation": "Read registries/repositories/content",
                "description": "Read registries/repositories/content.",
            },
        }))
    );
    for (provider, version) in [
        ("Microsoft.Authorization", ASSIGNMENTS),
        ("Microsoft.ContainerRegistry", REGISTRIES),
        ("Microsoft.Resources", GROUPS),
    ] {
        let reply = list(provider, version).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        let operations = reply.body["value"].as_array().unwrap();
        assert!(!operations.is_empty(), "{provider}");
        let is_own = |operation: &Value| {
            let name = operation["name"].as_str().unwrap();
            name.starts_with(&format!("{provider}/"))
        };
        assert!(operations.iter().all(is_own), "{}", reply.body);
    }
    let refused = list("Microsoft.ContainerRegistry", "2001-01-01").await;
    assert_eq!(refused.status, 400, "{}", refused.body);
}
