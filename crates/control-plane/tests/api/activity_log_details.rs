//! What the activity log says of a change beside its resource.

use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::activity_log::{ended_by, in_subscription};
use crate::directory::patch;
use crate::directory_credentials::certificate;
use crate::support::{GROUPS, READER, Reply, TestApp};

/// The properties of the one event that ends a change, without what every event has.
async fn changed(app: &TestApp, reply: &Reply) -> Value {
    assert!(reply.status < 300, "{}", reply.body);
    let found = in_subscription(app, &app.token, &ended_by(reply)).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let mut properties = found[0]["properties"].clone();
    let members = properties.as_object_mut().unwrap();
    for common in ["credentialId", "statusCode", "revision", "responseBody"] {
        members.remove(common);
    }
    properties
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_change_of_a_person_says_what_was_changed_and_no_password(pool: PgPool) {
    const PASSWORD: &str = "correct horse battery";
    let app = TestApp::spawn(pool.clone()).await;
    let body = json!({
        "userPrincipalName": "ann@wharf.test", "displayName": "Ann", "mailNickname": "ann", "accountEnabled": true,
        "passwordProfile": { "password": PASSWORD },
    });
    let created = app.post("/v1.0/users", body).await;
    let id = created.body["id"].clone();
    assert_eq!(
        changed(&app, &created).await,
        json!({ "objectId": id, "userPrincipalName": "ann@wharf.test", "accountEnabled": "true" })
    );
    let path = "/v1.0/users/ann@wharf.test";
    for (change, expected) in [
        (
            json!({ "displayName": "Ann Other" }),
            json!({ "objectId": id, "changedProperties": "displayName" }),
        ),
        (
            json!({ "accountEnabled": false }),
            json!({ "objectId": id, "changedProperties": "accountEnabled", "accountEnabled": "false" }),
        ),
        (
            json!({ "passwordProfile": { "password": format!("{PASSWORD}!"), "forceChangePasswordNextSignIn": true } }),
            json!({ "objectId": id, "changedProperties": "password,forceChangePasswordNextSignIn" }),
        ),
        (
            json!({ "userPrincipalName": "other@wharf.test" }),
            json!({ "objectId": id, "changedProperties": "userPrincipalName", "userPrincipalName": "other@wharf.test" }),
        ),
    ] {
        let reply = patch(&app, path, &app.token, change).await;
        assert_eq!(changed(&app, &reply).await, expected);
    }
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT to_jsonb(activity_log)::text FROM activity_log")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert!(rows.iter().all(|row| !row.contains(PASSWORD)), "{rows:?}");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_credential_is_traced_to_who_made_it(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    // Without a service principal, so that nodes have nothing to learn; then with one.
    let body = json!({ "displayName": "ci" });
    let created = app.post("/v1.0/applications", body).await;
    let (id, app_id) = (
        created.body["id"].as_str().unwrap(),
        created.body["appId"].as_str().unwrap(),
    );
    assert_eq!(
        changed(&app, &created).await,
        json!({ "objectId": id, "appId": app_id })
    );
    let path = format!("/v1.0/applications/{id}");
    for has_principal in [false, true] {
        if has_principal {
            let body = json!({ "appId": app_id });
            let principal = app.post("/v1.0/servicePrincipals", body).await;
            assert_eq!(
                changed(&app, &principal).await,
                json!({ "objectId": principal.body["id"], "appId": app_id, "accountEnabled": "true" })
            );
        }
        let added = app.post(&format!("{path}/addPassword"), json!({})).await;
        let key_id = json!({ "keyId": added.body["keyId"] });
        assert_eq!(changed(&app, &added).await, key_id);
        let removed = app
            .post(&format!("{path}/removePassword"), key_id.clone())
            .await;
        assert_eq!(changed(&app, &removed).await, key_id);

        let body = json!({ "keyCredentials": [certificate()] });
        let certified = patch(&app, &path, &app.token, body).await;
        let shown = app.get(&path).await;
        let key_id = &shown.body["keyCredentials"][0]["keyId"];
        assert_eq!(
            changed(&app, &certified).await,
            json!({ "changedProperties": "keyCredentials", "addedKeyIds": key_id })
        );
        let bare = patch(&app, &path, &app.token, json!({ "keyCredentials": [] })).await;
        assert_eq!(
            changed(&app, &bare).await,
            json!({ "changedProperties": "keyCredentials", "removedKeyIds": key_id })
        );

        let federated = format!("{path}/federatedIdentityCredentials");
        let (issuer, subject) = ("https://token.example", "repo:contoso/app");
        let body = json!({ "name": "main", "issuer": issuer, "subject": subject, "audiences": ["api://x"] });
        let created = app.post(&federated, body).await;
        let first = created.body["id"].clone();
        assert_eq!(
            changed(&app, &created).await,
            json!({ "federatedCredentialId": first, "issuer": issuer, "subject": subject })
        );
        let one = format!("{federated}/main");
        let other = patch(&app, &one, &app.token, json!({ "subject": "other" })).await;
        let second = app.get(&one).await.body["id"].clone();
        assert_eq!(
            changed(&app, &other).await,
            json!({
                "changedProperties": "subject", "issuer": issuer, "subject": "other",
                "federatedCredentialId": second, "formerFederatedCredentialId": first,
            })
        );
        let removed = app.delete(&one).await;
        assert_eq!(
            changed(&app, &removed).await,
            json!({ "federatedCredentialId": second, "issuer": issuer, "subject": "other" })
        );
    }
}

/// As `az role assignment list-changelogs` reads them.
#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_role_given_and_taken_is_a_beginning_and_an_end(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let bot = app.create_principal("bot").await;
    let scope = app.registry("g", "contoso");
    let assignment = app.assign(&scope, READER, &bot).await;
    let taken = app
        .delete(&format!("{assignment}?api-version=2022-04-01"))
        .await;
    assert_eq!(taken.status, 200, "{}", taken.body);
    let about = format!("resourceId eq '{assignment}'");
    let found = in_subscription(&app, &app.token, &about).await;
    let member = |name: &str| -> Vec<String> {
        let values = found.iter().map(|event| event[name]["value"].clone());
        values
            .map(|value| value.as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        member("status"),
        ["Succeeded", "Started", "Succeeded", "Started"]
    );
    let operation = |verb: &str| format!("Microsoft.Authorization/roleAssignments/{verb}");
    assert_eq!(
        member("operationName"),
        ["delete", "delete", "write", "write"].map(operation)
    );
    let expected = json!({ "properties": {
        "principalId": bot.object_id, "roleDefinitionId": READER, "scope": scope } });
    for (pair, method, at) in [
        (&found[..2], "DELETE", "/0/properties/responseBody"),
        (&found[2..], "PUT", "/1/properties/requestbody"),
    ] {
        let pair = json!(pair);
        assert_eq!(pair[0]["operationId"], pair[1]["operationId"]);
        assert_ne!(pair[0]["eventDataId"], pair[1]["eventDataId"]);
        assert_eq!(pair[1]["httpRequest"]["method"], method);
        let shown: Value =
            serde_json::from_str(pair.pointer(at).unwrap().as_str().unwrap()).unwrap();
        assert_eq!(shown, expected);
        for event in [&pair[0], &pair[1]] {
            let id = event["eventDataId"].as_str().unwrap();
            let alone = in_subscription(&app, &app.token, &format!("eventDataId eq '{id}'")).await;
            assert_eq!(json!(alone), json!([event]));
        }
        let id = pair[0]["operationId"].as_str().unwrap();
        let both = in_subscription(&app, &app.token, &format!("operationId eq '{id}'")).await;
        assert_eq!(json!(both), pair);
    }
    let begun = in_subscription(
        &app,
        &app.token,
        &format!("{about} and status eq 'started'"),
    )
    .await;
    assert_eq!(json!(begun), json!([found[1], found[3]]));
    let ended = in_subscription(
        &app,
        &app.token,
        &format!("{about} and status eq 'Succeeded'"),
    )
    .await;
    assert_eq!(json!(ended), json!([found[0], found[2]]));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_was_given_and_to_whom_is_in_the_log(pool: PgPool) {
    const REPOSITORY_READER: &str = "b93aa761-3e63-49ed-ac28-beffa264f7ac";
    const CONDITION: &str = "!(ActionMatches{'Microsoft.ContainerRegistry/registries/repositories/content/read'}) OR \
        @Request[Microsoft.ContainerRegistry/registries/repositories:name] StringEqualsIgnoreCase 'app'";
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let bot = app.create_principal("bot").await;
    let path = format!("/v1.0/servicePrincipals/{}", bot.object_id);
    let disabled = patch(&app, &path, &app.token, json!({ "accountEnabled": false })).await;
    assert_eq!(
        changed(&app, &disabled).await,
        json!({ "changedProperties": "accountEnabled", "accountEnabled": "false" })
    );
    let assignment = format!(
        "{}/providers/Microsoft.Authorization/roleAssignments/{}?api-version=2022-04-01",
        app.registry("g", "contoso"),
        Uuid::new_v4()
    );
    let body = json!({ "properties": {
        "roleDefinitionId": REPOSITORY_READER, "principalId": bot.object_id, "condition": CONDITION } });
    let expected = json!({
        "principalId": bot.object_id, "roleDefinitionId": REPOSITORY_READER, "condition": CONDITION });
    let given = app.put(&assignment, body).await;
    assert_eq!(changed(&app, &given).await, expected);
    let taken = app.delete(&assignment).await;
    assert_eq!(changed(&app, &taken).await, expected);
    let role = format!(
        "{}/providers/Microsoft.Authorization/roleDefinitions/{}?api-version=2022-04-01",
        app.subscription(),
        Uuid::new_v4()
    );
    let body = json!({ "properties": {
        "roleName": "Puller", "assignableScopes": [app.subscription()],
        "permissions": [{ "actions": ["Microsoft.ContainerRegistry/registries/pull/read"] }] } });
    let made = app.put(&role, body).await;
    assert_eq!(changed(&app, &made).await, json!({ "roleName": "Puller" }));
    let removed = app.delete(&role).await;
    assert_eq!(
        changed(&app, &removed).await,
        json!({ "roleName": "Puller" })
    );

    let mut body = json!({ "displayName": "devs", "mailNickname": "devs", "mailEnabled": false, "securityEnabled": true });
    body["members@odata.bind"] = json!([format!("{}{path}", app.base)]);
    let group = app.post("/v1.0/groups", body).await;
    let mut properties = changed(&app, &group).await;
    let owners = properties.as_object_mut().unwrap().remove("ownerIds");
    assert!(owners.is_some_and(|owners| owners.is_string()));
    assert_eq!(
        properties,
        json!({ "objectId": group.body["id"], "memberIds": bot.object_id })
    );
    let path = format!("/v1.0/groups/{}", group.body["id"].as_str().unwrap());
    let renamed = patch(&app, &path, &app.token, json!({ "displayName": "a" })).await;
    assert_eq!(
        changed(&app, &renamed).await,
        json!({ "changedProperties": "displayName" })
    );
    let left = app
        .delete(&format!("{path}/members/{}/$ref", bot.object_id))
        .await;
    assert_eq!(
        changed(&app, &left).await,
        json!({ "memberId": bot.object_id })
    );
}

/// That an event is of the same request as another one, but an event of its own.
fn assert_same(event: &Value, of_request: &Value) {
    assert_ne!(event["eventDataId"], of_request["eventDataId"]);
    for member in [
        "caller",
        "claims",
        "correlationId",
        "eventTimestamp",
        "status",
    ] {
        assert_eq!(event[member], of_request[member], "{member}");
    }
    let address = |event: &Value| event["httpRequest"]["clientIpAddress"].clone();
    assert_eq!(address(event), address(of_request));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_is_deleted_with_something_else_is_in_its_own_log(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("Logs", "contoso").await;
    app.create_registry("Logs", "fabrikam").await;
    let reader = app.create_principal("reader").await;
    app.assign(&app.subscription(), READER, &reader).await;
    let bot = app.create_principal("bot").await;
    app.assign(&app.subscription(), READER, &bot).await;
    let assignment = app.assign(&app.group("Logs"), READER, &bot).await;

    let removed = app
        .delete(&format!("/v1.0/servicePrincipals/{}", bot.object_id))
        .await;
    assert_eq!(removed.status, 204, "{}", removed.body);
    let filter = format!("{} and resourceGroupName eq 'Logs'", ended_by(&removed));
    let found = in_subscription(&app, &reader.token, &filter).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let own = in_subscription(&app, &app.token, &ended_by(&removed)).await;
    assert_eq!(own.len(), 3, "{own:?}");
    let of_request = own
        .iter()
        .find(|event| event["resourceProviderName"]["value"] == "Microsoft.Directory")
        .unwrap();
    let event = &found[0];
    assert_same(event, of_request);
    assert_eq!(event["resourceId"], assignment.as_str());
    assert_eq!(
        event["operationName"]["value"],
        "Microsoft.Authorization/roleAssignments/delete"
    );
    for (name, value) in [
        ("principalId", &json!(bot.object_id)),
        ("roleDefinitionId", &json!(READER)),
        ("credentialId", &of_request["properties"]["credentialId"]),
    ] {
        assert_eq!(&event["properties"][name], value, "{name}");
    }

    let path = format!("{}?api-version={GROUPS}", app.group("Logs"));
    let gone = app.delete(&path).await;
    assert!(gone.status < 300, "{}", gone.body);
    let all = in_subscription(&app, &reader.token, &ended_by(&gone)).await;
    assert_eq!(all.len(), 3, "{all:?}");
    let of_request = all
        .iter()
        .find(|event| event["resourceId"] == app.group("Logs"))
        .unwrap();
    for name in ["contoso", "fabrikam"] {
        let registry = app.registry("Logs", name);
        let filter = format!("resourceId eq '{registry}' and {}", ended_by(&gone));
        let found = in_subscription(&app, &reader.token, &filter).await;
        assert_eq!(found.len(), 1, "{found:?}");
        let event = &found[0];
        assert_same(event, of_request);
        assert_eq!(event["resourceId"], registry.as_str());
        assert_eq!(
            event["operationName"]["value"],
            "Microsoft.ContainerRegistry/registries/delete"
        );
    }
}
