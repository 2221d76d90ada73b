//! The activity log: what is written, with the change and about refusals, and who may read which of it.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{CONTRIBUTOR, GROUPS, READER, REGISTRIES, TestApp};

const VALUES: &str = "providers/Microsoft.Insights/eventtypes/management/values";

/// The events that a filter finds, as somebody sees them.
async fn events(app: &TestApp, place: &str, token: &str, filter: &str) -> Vec<Value> {
    let mut url = reqwest::Url::parse(&format!("{}{place}/{VALUES}", app.base)).unwrap();
    url.query_pairs_mut()
        .append_pair("api-version", "2015-04-01")
        .append_pair("$filter", filter);
    let path = url.as_str().strip_prefix(&app.base).unwrap().to_owned();
    let reply = app.send(Method::GET, &path, token, None).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body["value"].as_array().unwrap().clone()
}

pub(crate) async fn in_subscription(app: &TestApp, token: &str, filter: &str) -> Vec<Value> {
    events(app, &app.subscription(), token, filter).await
}

fn operations(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["operationName"]["value"].as_str().unwrap())
        .collect()
}

pub(crate) fn by_correlation(reply: &crate::support::Reply) -> String {
    format!(
        "correlationId eq '{}'",
        reply.header("x-ms-correlation-request-id")
    )
}

/// Finds what a change ended with, without what it began with.
pub(crate) fn ended_by(reply: &crate::support::Reply) -> String {
    format!("{} and status eq 'Succeeded'", by_correlation(reply))
}

fn registry_body() -> Value {
    json!({ "location": "westus", "sku": { "name": "Basic" }, "properties": { "adminUserEnabled": true } })
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_change_is_recorded_with_who_from_where_what_and_the_revision(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("Logs").await;
    let registry = app.registry("Logs", "contoso");
    let correlation = Uuid::new_v4();
    let request = app
        .request(Method::PUT, &format!("{registry}?api-version={REGISTRIES}"))
        .bearer_auth(&app.token)
        .header("x-ms-correlation-request-id", correlation.to_string())
        .json(&registry_body());
    let reply = app.read(request).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    let found = in_subscription(
        &app,
        &app.token,
        &format!("correlationId eq '{correlation}'"),
    )
    .await;
    assert_eq!(found.len(), 1, "{found:?}");
    let event = &found[0];
    assert_eq!(event["caller"], app.client_id.as_str());
    assert_eq!(event["httpRequest"]["clientIpAddress"], "127.0.0.1");
    assert_eq!(
        event["operationName"]["value"],
        "Microsoft.ContainerRegistry/registries/write"
    );
    assert_eq!(
        event["resourceProviderName"]["value"],
        "Microsoft.ContainerRegistry"
    );
    assert_eq!(
        event["resourceType"]["value"],
        "Microsoft.ContainerRegistry/registries"
    );
    assert_eq!(event["resourceId"], registry.as_str());
    assert_eq!(event["resourceGroupName"], "Logs");
    assert_eq!(event["correlationId"], correlation.to_string());
    assert_eq!(event["operationId"], reply.header("x-ms-request-id"));
    assert_eq!(event["status"]["value"], "Succeeded");
    assert_eq!(
        event["properties"]["revision"],
        reply.header("x-wharfinger-revision")
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_may_be_answered_with_several_statuses_shows_the_one_that_was(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let principal = app.create_principal("reader").await;
    let group = format!("{}?api-version={GROUPS}", app.group("g"));
    let registry = format!("{}?api-version={REGISTRIES}", app.registry("g", "contoso"));
    let role = format!(
        "{}/providers/Microsoft.Authorization/roleDefinitions/{READER}",
        app.subscription()
    );
    let assignment = format!(
        "{}/providers/Microsoft.Authorization/roleAssignments/{}?api-version=2022-04-01",
        app.registry("g", "contoso"),
        Uuid::new_v4()
    );
    let role = json!({ "properties": {
        "roleDefinitionId": role, "principalId": principal.object_id, "principalType": "ServicePrincipal" } });
    for (path, body) in [
        (&group, json!({ "location": "westus" })),
        (&registry, registry_body()),
        (&assignment, role),
    ] {
        let steps = [
            (app.put(path, body.clone()).await, 201, "Created"),
            (app.put(path, body).await, 200, "OK"),
        ];
        for (reply, status, sub_status) in steps {
            assert_sub_status(&app, &reply, status, sub_status).await;
        }
    }
    for path in [&assignment, &registry] {
        let steps = [
            (app.delete(path).await, 200, "OK"),
            (app.delete(path).await, 204, "NoContent"),
        ];
        for (reply, status, sub_status) in steps {
            assert_sub_status(&app, &reply, status, sub_status).await;
        }
    }
}

async fn assert_sub_status(
    app: &TestApp,
    reply: &crate::support::Reply,
    status: u16,
    sub_status: &str,
) {
    assert_eq!(reply.status, status, "{}", reply.body);
    let found = in_subscription(app, &app.token, &ended_by(reply)).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["subStatus"]["value"], sub_status);
    assert_eq!(found[0]["properties"]["statusCode"], status.to_string());
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn refused_attempts_are_recorded_with_their_reason(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let reader = app.create_principal("reader").await;
    app.assign(&app.subscription(), READER, &reader).await;
    let path = format!("{}?api-version={REGISTRIES}", app.registry("g", "fabrikam"));
    let forbidden = app
        .send(Method::PUT, &path, &reader.token, Some(registry_body()))
        .await;
    let mut invalid = registry_body();
    invalid["sku"]["name"] = json!("Huge");
    let invalid = app.put(&path, invalid).await;
    let taken = format!("{}?api-version={REGISTRIES}", app.registry("h", "contoso"));
    app.create_group("h").await;
    let conflict = app.put(&taken, registry_body()).await;
    for (reply, status, sub_status) in [
        (&forbidden, 403, "Forbidden"),
        (&invalid, 400, "BadRequest"),
        (&conflict, 409, "Conflict"),
    ] {
        assert_eq!(reply.status, status, "{}", reply.body);
        let found = in_subscription(&app, &app.token, &by_correlation(reply)).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0]["status"]["value"], "Failed");
        assert_eq!(found[0]["level"], "Error");
        assert_eq!(found[0]["subStatus"]["value"], sub_status);
        assert_eq!(found[0]["properties"]["errorCode"], reply.code());
        assert_eq!(found[0]["properties"]["statusMessage"], reply.message());
    }
    let found = in_subscription(
        &app,
        &app.token,
        &format!("caller eq '{}' and status eq 'Failed'", reader.app_id),
    )
    .await;
    assert_eq!(found.len(), 1, "{found:?}");
    let stranger = app
        .send(Method::PUT, &path, "", Some(registry_body()))
        .await;
    assert_eq!(stranger.status, 401);
    let found = in_subscription(&app, &app.token, &by_correlation(&stranger)).await;
    assert!(found.is_empty(), "anybody could fill the log: {found:?}");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_is_only_read_is_not_recorded_and_secrets_shown_are(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let registry = app.registry("g", "contoso");
    let shown = app
        .get(&format!("{registry}?api-version={REGISTRIES}"))
        .await;
    let name = json!({ "name": "free", "type": "Microsoft.ContainerRegistry/registries" });
    let checked = app
        .post(
            &format!(
                "{}/providers/Microsoft.ContainerRegistry/checkNameAvailability?api-version={REGISTRIES}",
                app.subscription()
            ),
            name,
        )
        .await;
    for reply in [&shown, &checked] {
        assert_eq!(reply.status, 200, "{}", reply.body);
        let found = in_subscription(&app, &app.token, &by_correlation(reply)).await;
        assert!(found.is_empty(), "{found:?}");
    }
    let listed = app
        .post(
            &format!("{registry}/listCredentials?api-version={REGISTRIES}"),
            json!({}),
        )
        .await;
    assert_eq!(listed.status, 200, "{}", listed.body);
    let found = in_subscription(&app, &app.token, &by_correlation(&listed)).await;
    assert_eq!(
        operations(&found),
        ["Microsoft.ContainerRegistry/registries/listCredentials/action"]
    );
    assert_eq!(found[0]["resourceId"], registry.as_str());
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn each_sees_the_events_of_the_scopes_that_it_may_read(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    app.create_registry("g2", "fabrikam").await;
    let of_group = app.create_principal("of-group").await;
    app.assign(&app.group("G"), READER, &of_group).await;
    let of_registry = app.create_principal("of-registry").await;
    app.assign(&app.registry("g2", "fabrikam"), READER, &of_registry)
        .await;
    let nobody = app.create_principal("nobody").await;
    let resources = |found: &[Value]| -> Vec<String> {
        let mut ids: Vec<String> = found
            .iter()
            .map(|event| event["resourceId"].as_str().unwrap().to_owned())
            .filter(|id| !id.contains("roleAssignments"))
            .collect();
        ids.sort();
        ids
    };
    let seen = in_subscription(&app, &of_group.token, "").await;
    assert_eq!(
        resources(&seen),
        [app.group("g"), app.registry("g", "contoso")]
    );
    let seen = in_subscription(&app, &of_registry.token, "").await;
    assert_eq!(resources(&seen), [app.registry("g2", "fabrikam")]);
    assert!(in_subscription(&app, &nobody.token, "").await.is_empty());
    let seen = in_subscription(&app, &app.token, "").await;
    assert_eq!(resources(&seen).len(), 4, "{seen:?}");
    let other = format!("/subscriptions/{}", Uuid::new_v4());
    assert!(events(&app, &other, &app.token, "").await.is_empty());
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_was_done_in_the_directory_is_for_directory_administrators(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let owner = app.create_principal("owner").await;
    app.assign(&app.subscription(), READER, &owner).await;
    let found = events(&app, "", &app.token, "").await;
    let mut done = operations(&found);
    done.retain(|operation| !operation.contains("signIns"));
    assert_eq!(
        done,
        [
            "Microsoft.Directory/servicePrincipals/write",
            "Microsoft.Directory/applications/addPassword/action",
            "Microsoft.Directory/applications/write",
        ]
    );
    assert!(events(&app, "", &owner.token, "").await.is_empty());
    let of_directory = "resourceProvider eq 'microsoft.directory' and category eq 'Administrative'";
    assert_eq!(
        in_subscription(&app, &app.token, of_directory).await.len(),
        3
    );
    assert!(
        in_subscription(&app, &owner.token, of_directory)
            .await
            .is_empty()
    );
    let in_place = in_subscription(&app, &app.token, "").await;
    assert!(
        operations(&in_place)
            .iter()
            .all(|operation| !operation.starts_with("Microsoft.Directory")),
        "{in_place:?}"
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn filters_leave_what_they_say(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    app.create_registry("g2", "fabrikam").await;
    let found = async |filter: &str| in_subscription(&app, &app.token, filter).await.len();
    assert_eq!(found("").await, 4);
    assert_eq!(found("resourceGroupName eq 'G'").await, 2);
    let registry = app.registry("G2", "Fabrikam");
    assert_eq!(found(&format!("resourceId eq '{registry}'")).await, 1);
    assert_eq!(found(&format!("resourceUri eq '{registry}/'")).await, 1);
    assert_eq!(found("resourceProvider eq 'microsoft.resources'").await, 2);
    assert_eq!(found("resourceProvider eq 'Microsoft.Unknown'").await, 0);
    assert_eq!(found("status eq 'succeeded'").await, 4);
    assert_eq!(found("status eq 'Failed'").await, 0);
    for caller in [app.client_id.clone(), app.client_id.to_uppercase()] {
        let by_caller = format!("category eq 'Administrative' and caller eq '{caller}'");
        assert_eq!(found(&by_caller).await, 4);
    }
    assert_eq!(found("eventTimestamp ge '2100-01-01'").await, 0);
    assert_eq!(found("eventTimestamp le 2020-01-01T00:00:00").await, 0);
    assert_eq!(found("eventTimestamp ge 2020-01-01T00:00:00.5").await, 4);
    let path = format!(
        "{}/{VALUES}?api-version=2015-04-01&$select=caller,%20operationName",
        app.subscription()
    );
    let reply = app.get(&path).await;
    let members = reply.body["value"][0].as_object().unwrap();
    assert_eq!(
        members.keys().map(String::as_str).collect::<Vec<_>>(),
        ["operationName", "caller"]
    );
    let whole = in_subscription(&app, &app.token, "").await;
    let members: Vec<&String> = whole[0].as_object().unwrap().keys().collect();
    for place in [app.subscription(), String::new()] {
        let path = format!("{place}/{VALUES}?api-version=2015-04-01&$select=caller,colour");
        let refused = app.get(&path).await;
        assert_eq!(
            (refused.status, refused.code()),
            (400, "InvalidQueryParameterValue")
        );
        assert_eq!(
            refused.message(),
            format!(
                "Events have no property 'colour'. They have: {}.",
                members
                    .iter()
                    .map(|name| name.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        );
    }
    let refused = app
        .get(&format!(
            "{}/{VALUES}?api-version=2015-04-01&$filter=colour%20eq%20'red'",
            app.subscription()
        ))
        .await;
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert!(refused.message().contains("colour"), "{}", refused.body);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_time_that_ends_before_it_starts_is_refused(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let filter = |from: &str, until: &str| {
        format!("$filter=eventTimestamp%20ge%20{from}%20and%20eventTimestamp%20le%20{until}")
    };
    for place in [app.subscription(), String::new()] {
        let list = |filter: String| format!("{place}/{VALUES}?api-version=2015-04-01&{filter}");
        let refused = app
            .get(&list(filter("2026-11-24", "2026-11-23T12:00:00")))
            .await;
        assert_eq!(
            (refused.status, refused.code()),
            (400, "InvalidFilterInQueryString")
        );
        for part in ["start", "2026-11-24T00:00:00", "end", "2026-11-23T12:00:00"] {
            assert!(refused.message().contains(part), "{}", refused.body);
        }
        let moment = app.get(&list(filter("2026-11-24", "2026-11-24"))).await;
        assert_eq!(moment.status, 200, "{}", moment.body);
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn pages_follow_each_other_without_loss(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let path = format!("{}?api-version={GROUPS}", app.group("g"));
    for at in 0..3 {
        let reply = app
            .put(
                &path,
                json!({ "location": "westus", "tags": { "at": at.to_string() } }),
            )
            .await;
        assert!(reply.status < 300, "{}", reply.body);
    }
    // Of many at the very same time too, each once.
    sqlx::query(
        "INSERT INTO activity_log (event_id, occurred_at, correlation_id, category, operation_name, resource_id,
           resource_key, status, properties)
         SELECT gen_random_uuid(), occurred_at, correlation_id, category, operation_name, resource_id, resource_key, status, properties
         FROM activity_log, generate_series(1, 149) WHERE operation_name LIKE 'Microsoft.Resources/%'",
    )
    .execute(&pool)
    .await
    .unwrap();
    let mut next = Some(format!(
        "{}{}/{VALUES}?api-version=2015-04-01&$filter=resourceGroupName%20eq%20'g'",
        app.base,
        app.subscription()
    ));
    let (mut ids, mut pages) = (Vec::new(), 0);
    while let Some(url) = next {
        let path = url.strip_prefix(&app.base).unwrap();
        let reply = app.get(path).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        let value = reply.body["value"].as_array().unwrap();
        ids.extend(value.iter().map(|event| event["eventDataId"].to_string()));
        pages += 1;
        next = reply.body["nextLink"].as_str().map(str::to_owned);
    }
    assert_eq!((ids.len(), pages), (450, 3));
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 450);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_change_that_cannot_be_recorded_is_not_made_and_secrets_are_not_shown(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    app.create_registry("g", "contoso").await;
    let refuse = |word: &'static str| {
        let pool = pool.clone();
        async move {
            let statement = match word {
                "on" => "ALTER TABLE activity_log ADD CONSTRAINT full_disk CHECK (false) NOT VALID",
                _ => "ALTER TABLE activity_log DROP CONSTRAINT full_disk",
            };
            sqlx::query(statement).execute(&pool).await.unwrap();
        }
    };
    refuse("on").await;
    let registry = format!("{}?api-version={REGISTRIES}", app.registry("g", "fabrikam"));
    let group = format!("{}?api-version={GROUPS}", app.group("h"));
    assert_eq!(app.put(&registry, registry_body()).await.status, 500);
    assert_eq!(
        app.put(&group, json!({ "location": "westus" }))
            .await
            .status,
        500
    );
    let application = json!({ "displayName": "a" });
    assert_eq!(
        app.post("/v1.0/applications", application).await.status,
        500
    );
    let credentials = format!(
        "{}/listCredentials?api-version={REGISTRIES}",
        app.registry("g", "contoso")
    );
    let shown = app.post(&credentials, json!({})).await;
    assert_eq!(shown.status, 500, "{}", shown.body);
    refuse("off").await;
    assert_eq!(app.get(&registry).await.status, 404);
    assert_eq!(app.get(&group).await.status, 404);
    assert_eq!(app.post(&credentials, json!({})).await.status, 200);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn no_secret_is_ever_in_the_log(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    app.create_registry("g", "contoso").await;
    let principal = app.create_principal("careless").await;
    app.assign(&app.subscription(), CONTRIBUTOR, &principal)
        .await;
    let listed = app
        .post(
            &format!(
                "{}/listCredentials?api-version={REGISTRIES}",
                app.registry("g", "contoso")
            ),
            json!({}),
        )
        .await;
    let password = listed.body["passwords"][0]["value"].as_str().unwrap();
    // Secrets in the wrong place: as a name in the path, and as a value that a message repeats.
    for secret in [password, &principal.secret] {
        let path = format!("{}?api-version={REGISTRIES}", app.registry("g", secret));
        let refused = app.put(&path, registry_body()).await;
        assert_eq!(refused.status, 400, "{}", refused.body);
        let mut body = registry_body();
        body["sku"]["name"] = json!(secret);
        let path = format!("{}?api-version={REGISTRIES}", app.registry("g", "other"));
        assert_eq!(app.put(&path, body).await.status, 400);
    }
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT to_jsonb(activity_log)::text FROM activity_log")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert!(rows.len() >= 8, "{rows:?}");
    for row in rows {
        for secret in [
            password,
            principal.secret.as_str(),
            app.client_secret.as_str(),
        ] {
            assert!(!row.contains(secret), "{row}");
            assert!(
                !row.to_lowercase().contains(&secret.to_lowercase()),
                "{row}"
            );
        }
        assert!(!row.contains(&principal.token), "{row}");
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn sign_ins_are_recorded_like_ones_together(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let principal = app.create_principal("ci").await;
    for _ in 0..3 {
        app.sign_in(&principal.app_id, &principal.secret).await;
    }
    let wrong = credentials::generate(
        credentials::SecretKind::ServicePrincipalSecret,
        &credentials::SystemRandomness,
    );
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", principal.app_id.as_str()),
        ("client_secret", wrong.expose()),
        ("scope", "https://containerregistry.azure.net/.default"),
    ];
    let request = app
        .request(Method::POST, "/adfs/oauth2/v2.0/token")
        .form(&form);
    assert_eq!(app.read(request).await.status, 401);
    let filter = format!("category eq 'SignIn' and caller eq '{}'", principal.app_id);
    let count = |found: &[Value], status: &str| -> u64 {
        let of_status = found
            .iter()
            .filter(|event| event["status"]["value"] == status);
        of_status
            .map(|event| {
                let count = event["properties"]["count"].as_str().unwrap();
                count.parse::<u64>().unwrap()
            })
            .sum()
    };
    let found = loop {
        let found = events(&app, "", &app.token, &filter).await;
        if count(&found, "Succeeded") + count(&found, "Failed") >= 5 {
            break found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(
        (count(&found, "Succeeded"), count(&found, "Failed")),
        (4, 1)
    );
    let failed = found
        .iter()
        .find(|event| event["status"]["value"] == "Failed")
        .unwrap();
    assert_eq!(failed["properties"]["errorCode"], "wrong_secret");
    assert_eq!(failed["httpRequest"]["clientIpAddress"], "127.0.0.1");
    let succeeded = found
        .iter()
        .find(|event| event["status"]["value"] == "Succeeded")
        .unwrap();
    assert_eq!(
        succeeded["claims"]["http://schemas.microsoft.com/identity/claims/objectidentifier"],
        principal.object_id.as_str()
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_is_older_than_the_retention_is_forgotten(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    app.create_group("g").await;
    app.create_group("h").await;
    let aged = sqlx::query(
        "UPDATE activity_log SET occurred_at = occurred_at - interval '31 days' WHERE resource_key LIKE '%/g'",
    )
    .execute(&pool)
    .await
    .unwrap()
    .rows_affected();
    assert_eq!(aged, 1);
    // A control plane looks when it starts.
    let _replica = app.replica().await;
    loop {
        let found = in_subscription(&app, &app.token, "").await;
        if found.len() == 1 {
            assert_eq!(found[0]["resourceGroupName"], "h");
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
