//! Registries and their admin account.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::{REGISTRIES, TestApp};

fn at(path: &str) -> String {
    format!("{path}?api-version={REGISTRIES}")
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_registry_lives_from_creation_to_deletion(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("g").await;
    let path = app.registry("g", "Contoso");
    let created = app
        .put(
            &at(&path),
            json!({ "location": "West US", "sku": { "name": "standard" } }),
        )
        .await;
    assert_eq!(created.status, 201, "{}", created.body);
    assert_eq!(created.header("x-wharfinger-propagation"), "complete");
    assert!(!created.header("x-wharfinger-revision").is_empty());
    assert_eq!(created.body["location"], "westus");
    assert_eq!(
        created.body["sku"],
        json!({ "name": "Standard", "tier": "Standard" })
    );
    assert_eq!(created.body["tags"], json!({}));
    assert_eq!(created.body["properties"]["adminUserEnabled"], false);
    assert_eq!(created.body["properties"]["provisioningState"], "Succeeded");
    let shown = app.get(&at(&path)).await;
    assert_eq!(shown.body, created.body);

    let again = app
        .put(
            &at(&path),
            json!({ "location": "westus", "sku": { "name": "Basic" }, "tags": { "a": "b" } }),
        )
        .await;
    assert_eq!(
        (again.status, &again.body["tags"]),
        (200, &json!({ "a": "b" }))
    );
    let patch = json!({ "tags": { "c": "d" }, "properties": { "adminUserEnabled": true } });
    let patched = app
        .send(Method::PATCH, &at(&path), &app.token, Some(patch))
        .await;
    assert_eq!(
        (patched.status, &patched.body["tags"]),
        (200, &json!({ "c": "d" }))
    );
    assert_eq!(patched.body["properties"]["adminUserEnabled"], true);
    assert_eq!(patched.header("x-wharfinger-propagation"), "complete");

    for list in [app.subscription(), app.group("G")] {
        let reply = app
            .get(&at(&format!(
                "{list}/providers/Microsoft.ContainerRegistry/registries"
            )))
            .await;
        assert_eq!(
            reply.body["value"].as_array().map(Vec::len),
            Some(1),
            "{}",
            reply.body
        );
    }
    let found = app
        .get(&format!(
            "{}/resources?api-version=2024-11-01&$filter=resourceType%20eq%20'Microsoft.ContainerRegistry/registries'",
            app.subscription()
        ))
        .await;
    assert_eq!(found.body["value"][0]["id"], path);

    assert_eq!(app.delete(&at(&path)).await.status, 200);
    assert_eq!(app.delete(&at(&path)).await.status, 204);
    let gone = app.get(&at(&path)).await;
    assert_eq!((gone.status, gone.code()), (404, "ResourceNotFound"));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn names_are_one_for_the_installation_whatever_their_case(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    app.create_group("other").await;
    let body = json!({ "location": "westus", "sku": { "name": "Basic" } });
    let reply = app
        .put(&at(&app.registry("other", "CONTOSO")), body.clone())
        .await;
    assert_eq!(
        (reply.status, reply.code()),
        (409, "RegistryNameAlreadyInUse")
    );
    let check = format!(
        "{}/providers/Microsoft.ContainerRegistry/checkNameAvailability",
        app.subscription()
    );
    let ask =
        |name: &str| json!({ "name": name, "type": "Microsoft.ContainerRegistry/registries" });
    let taken = app.post(&at(&check), ask("Contoso")).await;
    assert_eq!(
        (&taken.body["nameAvailable"], &taken.body["reason"]),
        (&json!(false), &json!("AlreadyExists"))
    );
    let invalid = app.post(&at(&check), ask("a-b")).await;
    assert_eq!(
        (&invalid.body["nameAvailable"], &invalid.body["reason"]),
        (&json!(false), &json!("Invalid"))
    );
    let free = app.post(&at(&check), ask("fabrikam")).await;
    assert_eq!(
        free.body,
        json!({ "availableLoginServerName": "fabrikam.registry.localhost:5443", "nameAvailable": true })
    );
    for name in ["abcd", "has-dash", "ünicode", &"x".repeat(51)] {
        let reply = app.put(&at(&app.registry("g", name)), body.clone()).await;
        assert_eq!(
            (reply.status, reply.code()),
            (400, "InvalidResourceName"),
            "{name}"
        );
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_is_not_built_is_refused_by_name(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let path = at(&app.registry("g", "contoso"));
    let patch = json!({ "properties": { "publicNetworkAccess": "Disabled", "zoneRedundancy": "disabled" } });
    let reply = app
        .send(Method::PATCH, &path, &app.token, Some(patch))
        .await;
    assert_eq!((reply.status, reply.code()), (400, "FeatureNotSupported"));
    assert_eq!(
        reply.body["error"]["target"],
        "properties.publicNetworkAccess"
    );
    let elsewhere = json!({ "location": "northeurope", "sku": { "name": "Basic" } });
    let reply = app.put(&path, elsewhere).await;
    assert_eq!(
        (reply.status, reply.code()),
        (409, "InvalidResourceLocation")
    );
    let nowhere = json!({ "location": "mars", "sku": { "name": "Basic" } });
    let reply = app.put(&path, nowhere).await;
    assert_eq!(
        (reply.status, reply.code()),
        (400, "LocationNotAvailableForResourceType")
    );
    assert!(reply.message().contains("westus"), "{}", reply.message());
    let shown = app.get(&path).await;
    assert_eq!(
        app.put(&path, shown.body.clone()).await.body["properties"],
        shown.body["properties"]
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn admin_passwords_are_shown_renewed_one_by_one_and_refused_while_off(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let path = app.registry("g", "contoso");
    let credentials = app
        .post(&at(&format!("{path}/listCredentials")), json!({}))
        .await;
    assert_eq!(
        (credentials.status, &credentials.body["username"]),
        (200, &json!("contoso"))
    );
    let value =
        |body: &Value, at: usize| body["passwords"][at]["value"].as_str().unwrap().to_owned();
    let renew = at(&format!("{path}/regenerateCredential"));
    let renewed = app.post(&renew, json!({ "name": "password2" })).await;
    assert_eq!(renewed.status, 200, "{}", renewed.body);
    assert_eq!(renewed.header("x-wharfinger-propagation"), "complete");
    assert_eq!(value(&renewed.body, 0), value(&credentials.body, 0));
    assert_ne!(value(&renewed.body, 1), value(&credentials.body, 1));
    assert_eq!(
        app.post(&at(&format!("{path}/listCredentials")), json!({}))
            .await
            .body,
        renewed.body
    );
    let reply = app.post(&renew, json!({ "name": "password3" })).await;
    assert_eq!((reply.status, reply.code()), (400, "InvalidPasswordName"));

    let off = json!({ "properties": { "adminUserEnabled": false } });
    assert_eq!(
        app.send(Method::PATCH, &at(&path), &app.token, Some(off))
            .await
            .status,
        200
    );
    for action in ["listCredentials", "regenerateCredential"] {
        let reply = app
            .post(
                &at(&format!("{path}/{action}")),
                json!({ "name": "password" }),
            )
            .await;
        assert_eq!(
            (reply.status, reply.code()),
            (400, "UnAuthorizedForCredentialOperations"),
            "{action}"
        );
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn conditions_are_kept(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let path = at(&app.registry("g", "contoso"));
    let tag = app.get(&path).await.header("etag").to_owned();
    let patch = |condition: &str| {
        let request = app
            .request(Method::PATCH, &path)
            .bearer_auth(&app.token)
            .header("if-match", condition.to_owned());
        app.read(request.json(&json!({ "tags": { "at": condition } })))
    };
    assert_eq!(patch(&tag).await.status, 200);
    let stale = patch(&tag).await;
    assert_eq!((stale.status, stale.code()), (412, "PreconditionFailed"));
    let create_only = app
        .request(Method::PUT, &path)
        .bearer_auth(&app.token)
        .header("if-none-match", "*")
        .json(&json!({ "location": "westus", "sku": { "name": "Basic" } }));
    assert_eq!(app.read(create_only).await.status, 412);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn deleting_a_group_deletes_what_is_in_it(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let group = format!("{}?api-version=2024-11-01", app.group("G"));
    assert_eq!(
        app.send(Method::HEAD, &group, &app.token, None)
            .await
            .status,
        204
    );
    let deleted = app.delete(&group).await;
    assert_eq!(
        (deleted.status, deleted.header("x-wharfinger-propagation")),
        (200, "complete")
    );
    assert_eq!(
        app.send(Method::HEAD, &group, &app.token, None)
            .await
            .status,
        404
    );
    let again = app.delete(&group).await;
    assert_eq!((again.status, again.code()), (404, "ResourceGroupNotFound"));
    assert!(
        app.store
            .registry_name_owner("contoso")
            .await
            .unwrap()
            .is_none()
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn changes_at_the_same_time_are_all_there(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let renew = at(&format!(
        "{}/regenerateCredential",
        app.registry("g", "contoso")
    ));
    let replies = futures_util::future::join_all(
        (0..8).map(|_| app.post(&renew, json!({ "name": "password" }))),
    )
    .await;
    let mut revisions: Vec<u64> = replies
        .iter()
        .map(|reply| reply.header("x-wharfinger-revision").parse().unwrap())
        .collect();
    revisions.sort_unstable();
    assert!(
        revisions.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{revisions:?}"
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn of_equal_creations_at_the_same_time_one_creates_and_the_others_replace(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("g").await;
    let path = at(&app.registry("g", "contoso"));
    let body = json!({ "location": "westus", "sku": { "name": "Basic" } });
    let replies =
        futures_util::future::join_all((0..8).map(|_| app.put(&path, body.clone()))).await;
    let count = |status| {
        replies
            .iter()
            .filter(|reply| reply.status == status)
            .count()
    };
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!((count(201), count(200)), (1, 7), "{statuses:?}");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn an_entity_tag_dies_with_its_registry(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let path = at(&app.registry("g", "contoso"));
    let delete = |condition: String| {
        app.read(
            app.request(Method::DELETE, &path)
                .bearer_auth(&app.token)
                .header("if-match", condition),
        )
    };
    let tag = app.get(&path).await.header("etag").to_owned();
    assert_eq!(delete(tag.clone()).await.status, 200);
    app.create_registry("g", "contoso").await;
    let stale = delete(tag.clone()).await;
    assert_eq!((stale.status, stale.code()), (412, "PreconditionFailed"));
    assert_eq!(delete("*".to_owned()).await.status, 200);
    for condition in [tag, "*".to_owned()] {
        assert_eq!(delete(condition).await.status, 204, "nothing is there");
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn lists_come_in_pages_of_the_size_asked_for(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    for name in ["aaaaa", "bbbbb", "ccccc"] {
        app.create_registry("g", name).await;
    }
    let registries = "providers/Microsoft.ContainerRegistry/registries";
    for list in [
        at(&format!("{}/{registries}", app.subscription())),
        at(&format!("{}/{registries}", app.group("g"))),
        format!("{}/resources?api-version=2024-11-01", app.subscription()),
    ] {
        let mut next = Some(format!("{list}&$top=2"));
        let mut names = Vec::new();
        while let Some(path) = next {
            let reply = app.get(&path).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.body);
            let page = reply.body["value"].as_array().unwrap();
            assert!(page.len() <= 2, "{path}");
            names.extend(
                page.iter()
                    .map(|item| item["name"].as_str().unwrap().to_owned()),
            );
            next = reply.body["nextLink"]
                .as_str()
                .map(|link| link.replace(&app.base, ""));
        }
        assert_eq!(names, ["aaaaa", "bbbbb", "ccccc"], "{list}");
        for top in ["0", "-1", "x", ""] {
            let reply = app.get(&format!("{list}&$top={top}")).await;
            assert_eq!(
                (reply.status, reply.code()),
                (400, "InvalidTopParameter"),
                "{top}"
            );
        }
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_region_is_found_by_its_display_name(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let region = store::installation::Region {
        name: "rack1".to_owned(),
        display_name: "Cellar, left".to_owned(),
    };
    app.store.region_put(&region).await.unwrap();
    let group = format!("{}?api-version=2024-11-01", app.group("g"));
    let reply = app.put(&group, json!({ "location": "cellar, LEFT" })).await;
    assert_eq!(
        (reply.status, &reply.body["location"]),
        (201, &json!("rack1")),
        "{}",
        reply.body
    );
    let body = json!({ "location": "Cellar, left", "sku": { "name": "Basic" } });
    let reply = app.put(&at(&app.registry("g", "contoso")), body).await;
    assert_eq!(
        (reply.status, &reply.body["location"]),
        (201, &json!("rack1")),
        "{}",
        reply.body
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_filter_that_contradicts_itself_finds_nothing(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    app.create_registry("h", "fabrikam").await;
    for (path, expected) in [
        (
            format!("{}/resources", app.group("g")),
            "resourceGroup eq 'h'",
        ),
        (
            format!("{}/resources", app.subscription()),
            "name eq 'contoso' and name eq 'fabrikam'",
        ),
    ] {
        let reply = app
            .get(&format!(
                "{path}?api-version=2024-11-01&$filter={}",
                expected.replace(' ', "%20")
            ))
            .await;
        assert_eq!(reply.body["value"], json!([]), "{expected}: {}", reply.body);
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_renewal_succeeds_beside_a_password_that_cannot_be_opened(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let path = app.registry("g", "contoso");
    sqlx::query(
        "UPDATE registry_passwords SET sealed = sealed || '\\x00' WHERE slot = 'password2'",
    )
    .execute(app.store.pool())
    .await
    .unwrap();
    let renew = at(&format!("{path}/regenerateCredential"));
    let reply = app.post(&renew, json!({ "name": "password" })).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.body["passwords"].as_array().map(Vec::len), Some(1));
    assert_eq!(reply.body["passwords"][0]["name"], "password");
    let list = app
        .post(&at(&format!("{path}/listCredentials")), json!({}))
        .await;
    assert_eq!(list.status, 500, "{}", list.body);
    let reply = app.post(&renew, json!({ "name": "password2" })).await;
    assert_eq!(
        reply.body["passwords"].as_array().map(Vec::len),
        Some(2),
        "{}",
        reply.body
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_list_in_a_group_that_is_not_there_says_so_to_who_could_see_it(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let nobody = app.create_principal("nobody").await;
    for list in [
        at(&format!(
            "{}/providers/Microsoft.ContainerRegistry/registries",
            app.group("nope")
        )),
        format!("{}/resources?api-version=2024-11-01", app.group("nope")),
    ] {
        let reply = app.get(&list).await;
        assert_eq!(
            (reply.status, reply.code()),
            (404, "ResourceGroupNotFound"),
            "{list}"
        );
        let reply = app.send(Method::GET, &list, &nobody.token, None).await;
        assert_eq!(
            (reply.status, &reply.body["value"]),
            (200, &json!([])),
            "{list}"
        );
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_list_in_a_subscription_that_is_not_there_says_so(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let nobody = app.create_principal("nobody").await;
    let unknown = "11111111-2222-4333-8444-555555555555";
    for (place, version) in [
        ("resourcegroups", "2024-11-01"),
        ("resources", "2024-11-01"),
        ("resourceGroups/x/resources", "2024-11-01"),
        (
            "providers/Microsoft.ContainerRegistry/registries",
            REGISTRIES,
        ),
        (
            "resourceGroups/x/providers/Microsoft.ContainerRegistry/registries",
            REGISTRIES,
        ),
    ] {
        for token in [&app.token, &nobody.token] {
            let path = format!("/subscriptions/{unknown}/{place}?api-version={version}");
            let reply = app.send(Method::GET, &path, token, None).await;
            assert_eq!(
                (reply.status, reply.code()),
                (404, "SubscriptionNotFound"),
                "{path}"
            );
            assert_eq!(
                reply.message(),
                format!("The subscription '{unknown}' could not be found.")
            );
        }
        // Where there is one, who may read nothing there gets an empty list: az looks for a registry in it with rights to its content only.
        let path = format!("{}/{place}?api-version={version}", app.subscription());
        let reply = app.send(Method::GET, &path, &nobody.token, None).await;
        assert_eq!(
            (reply.status, &reply.body["value"]),
            (200, &json!([])),
            "{path}"
        );
    }
}
