//! Lists, look-ups and bad input of the directory.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::directory::{APPLICATIONS, PRINCIPALS, application_of, text};
use crate::support::TestApp;

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn lists_come_in_pages_that_hold_every_object_once(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let mut created = Vec::new();
    for number in 0..5 {
        let name = format!("Team 100%_{number}");
        let reply = app.post(APPLICATIONS, json!({ "displayName": name })).await;
        created.push(text(&reply.body["id"]));
    }
    app.post(APPLICATIONS, json!({ "displayName": "Team 1000" }))
        .await;
    created.sort();
    let mut path = format!(
        "{APPLICATIONS}?$top=2&$select=id,DisplayName&$filter=startswith(displayName,'team 100%25_')"
    );
    let mut found = Vec::new();
    loop {
        let reply = app.get(&path).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        let page = reply.body["value"].as_array().unwrap();
        assert!((1..=2).contains(&page.len()));
        for object in page {
            let names: Vec<&String> = object.as_object().unwrap().keys().collect();
            assert_eq!(names, ["id", "displayName"]);
            found.push(text(&object["id"]));
        }
        let Some(next) = reply.body["@odata.nextLink"].as_str() else {
            break;
        };
        path = next
            .strip_prefix(&app.base)
            .expect("it is on the public URL")
            .to_owned();
    }
    assert_eq!(found, created);
    let reply = app
        .get(&format!(
            "{APPLICATIONS}?$filter=displayName eq 'TEAM 100%25_3'"
        ))
        .await;
    assert_eq!(reply.body["value"].as_array().unwrap().len(), 1);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn assignees_are_found_as_the_azure_cli_looks_for_them(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let bot = app.create_principal("bot").await;
    let by_name =
        |name: &str| format!("{PRINCIPALS}?$filter=servicePrincipalNames/any(c:c%20eq%20'{name}')");
    let reply = app.get(&by_name(&bot.app_id.to_uppercase())).await;
    assert_eq!(reply.body["value"][0]["id"], json!(bot.object_id));
    for nobody in ["http://nobody", "11111111-2222-4333-8444-555555555555"] {
        let reply = app.get(&by_name(nobody)).await;
        assert_eq!((reply.status, &reply.body["value"]), (200, &json!([])));
    }
    let application = application_of(&app, &bot).await;
    let unknown = Uuid::new_v4().to_string();
    let by_ids =
        |types: Value| json!({ "ids": [bot.object_id, application, unknown], "types": types });
    let path = "/v1.0/directoryObjects/getByIds";
    let reply = app
        .post(
            path,
            by_ids(json!([
                "user",
                "group",
                "servicePrincipal",
                "directoryObjectPartnerReference"
            ])),
        )
        .await;
    assert_eq!(reply.status, 200);
    let found = reply.body["value"].as_array().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["@odata.type"], "#microsoft.graph.servicePrincipal");
    assert_eq!(found[0]["servicePrincipalNames"], json!([bot.app_id]));
    let reply = app.post(path, by_ids(json!(null))).await;
    assert_eq!(reply.body["value"].as_array().unwrap().len(), 2);
    let selecting = format!("{path}?$select=ID,displayName");
    let reply = app
        .post(&selecting, by_ids(json!(["servicePrincipal"])))
        .await;
    assert_eq!(
        reply.body["value"],
        json!([{ "@odata.type": "#microsoft.graph.servicePrincipal", "id": bot.object_id, "displayName": "bot" }])
    );
    let me = "/v1.0/me";
    for (path, body, code) in [
        (
            format!("{path}?$select=colour"),
            by_ids(json!(null)),
            "Request_BadRequest",
        ),
        (
            format!("{path}?$top=1"),
            by_ids(json!(null)),
            "Request_UnsupportedQuery",
        ),
        (
            format!("{me}/getMemberGroups?$top=1"),
            json!({ "securityEnabledOnly": false }),
            "Request_UnsupportedQuery",
        ),
        (
            format!("{me}/checkMemberGroups?$select=id"),
            json!({ "groupIds": [] }),
            "Request_UnsupportedQuery",
        ),
    ] {
        let reply = app.post(&path, body).await;
        assert_eq!((reply.status, reply.code()), (400, code), "{path}");
    }
    let many: Vec<String> = (0..1001).map(|_| unknown.clone()).collect();
    for (body, shown) in [
        (json!({ "ids": ["ci-bot"] }), "ci-bot"),
        (json!({ "ids": many }), "1001"),
        (json!({ "ids": [], "types": ["printer"] }), "printer"),
    ] {
        let reply = app.post(path, body).await;
        assert_eq!((reply.status, reply.code()), (400, "Request_BadRequest"));
        assert!(reply.message().contains(shown), "{}", reply.message());
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn nobody_is_found_by_the_name_of_nobody_and_unknown_collections_are_refused(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let path = "/v1.0/users?$filter=userPrincipalName%20eq%20'ann@wharf.test'";
    let reply = app.get(path).await;
    assert_eq!((reply.status, &reply.body["value"]), (200, &json!([])));
    assert_eq!(app.send(Method::GET, path, "", None).await.status, 401);
    let reply = app.get("/v1.0/users/ann@wharf.test").await;
    assert_eq!(
        (reply.status, reply.code()),
        (404, "Request_ResourceNotFound")
    );
    assert!(reply.message().contains("ann@wharf.test"));
    for (path, segment) in [
        ("/v1.0/devices", "'devices'"),
        ("/v1.0/oauth2PermissionGrants", "'oauth2PermissionGrants'"),
        ("/v1.0/users/ann/checkMemberObjects", "'checkMemberObjects'"),
        ("/v1.0/me/revokeSignInSessions", "'revokeSignInSessions'"),
        ("/v1.0/groups/devs/members/$count", "Counting"),
        ("/v1.0/users/$count", "Counting"),
    ] {
        let reply = app.get(path).await;
        assert_eq!((reply.status, reply.code()), (400, "BadRequest"), "{path}");
        assert!(reply.message().contains(segment), "{}", reply.message());
        assert!(reply.body["error"]["innerError"]["request-id"].is_string());
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn bad_input_is_refused_with_the_value_and_the_rule(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let bot = app.create_principal("bot").await;
    let application = format!("{APPLICATIONS}/{}", application_of(&app, &bot).await);
    let principal = format!("{PRINCIPALS}/{}", bot.object_id);
    let long = "x".repeat(257);
    let post = Method::POST;
    for (method, path, body, shown) in [
        (&post, APPLICATIONS, json!({}), "displayName"),
        (
            &post,
            APPLICATIONS,
            json!({ "displayName": "" }),
            "1 to 256",
        ),
        (
            &post,
            APPLICATIONS,
            json!({ "displayName": long }),
            "1 to 256",
        ),
        (
            &post,
            APPLICATIONS,
            json!({ "displayName": "a", "keyCredentials": [{ "key": "x!" }] }),
            "is not base64",
        ),
        (
            &post,
            APPLICATIONS,
            json!({ "displayName": "a", "signInAudience": "AzureADMultipleOrgs" }),
            "signInAudience",
        ),
        (&post, PRINCIPALS, json!({ "appId": "ci-bot" }), "ci-bot"),
        (
            &post,
            PRINCIPALS,
            json!({ "appId": Uuid::nil() }),
            "00000000-0000-0000-0000-000000000000",
        ),
        (
            &post,
            &format!("{application}/addPassword"),
            json!({ "passwordCredential": { "endDateTime": "2001-01-01T00:00:00Z" } }),
            "2001-01-01",
        ),
        (
            &post,
            &format!("{application}/addPassword"),
            json!({ "passwordCredential": { "endDateTime": "soon" } }),
            "soon",
        ),
        (
            &post,
            &format!("{application}/addPassword"),
            json!({ "passwordCredential": { "secretText": "mine" } }),
            "secretText",
        ),
        (
            &post,
            &format!("{application}/removePassword"),
            json!({ "keyId": "first" }),
            "first",
        ),
        (
            &post,
            &format!("{application}/addPassword"),
            json!({ "passwordCredential": { "displayName": "a\u{7}b" } }),
            "control characters",
        ),
        (
            &Method::PATCH,
            &application,
            json!({ "web": { "redirectUris": [] } }),
            "web",
        ),
        (
            &Method::PATCH,
            &application,
            json!({ "displayName": null }),
            "'displayName': it cannot be null",
        ),
        (
            &Method::PATCH,
            &principal,
            json!({ "accountEnabled": null }),
            "'accountEnabled': it cannot be null",
        ),
        (
            &Method::PATCH,
            &principal,
            json!({ "displayName": "x" }),
            "displayName",
        ),
        (
            &Method::PATCH,
            &principal,
            json!({ "accountEnabled": "no" }),
            "accountEnabled",
        ),
        (
            &Method::GET,
            &format!("{APPLICATIONS}/ci-bot"),
            Value::Null,
            "ci-bot",
        ),
        (
            &Method::GET,
            &format!("{APPLICATIONS}?$top=0"),
            Value::Null,
            "'0'",
        ),
        (
            &Method::GET,
            &format!("{APPLICATIONS}?$select=nonsense"),
            Value::Null,
            "nonsense",
        ),
        (
            &Method::GET,
            &format!("{APPLICATIONS}?$skiptoken=nonsense"),
            Value::Null,
            "nonsense",
        ),
        (
            &Method::GET,
            &format!("{APPLICATIONS}?$orderby=displayName"),
            Value::Null,
            "$orderby",
        ),
        (
            &Method::GET,
            &format!("{PRINCIPALS}?$filter=userType eq 'Guest'"),
            Value::Null,
            "userType",
        ),
    ] {
        let body = (method != Method::GET).then_some(body);
        let reply = app.send(method.clone(), path, &app.token, body).await;
        assert_eq!(reply.status, 400, "{method} {path}: {}", reply.body);
        assert!(
            reply.code().starts_with("Request_"),
            "{method} {path}: {}",
            reply.body
        );
        // The name `accountEnabled` is not in serde's message, its place is.
        let shown = if shown == "accountEnabled" {
            "boolean"
        } else {
            shown
        };
        assert!(
            reply.message().contains(shown),
            "{method} {path}: {}",
            reply.message()
        );
        assert!(
            reply.message().len() < 600,
            "{method} {path}: {}",
            reply.message()
        );
    }
    // A member that is there twice is no choice, and faults are named with their places, with and without a null beside them.
    for rest in ["", r#", "web": null"#] {
        for (members, shown) in [
            (
                r#""displayName": "a", "displayName": "b""#,
                "duplicate field `displayName` at line 1",
            ),
            (r#""displayName": 7"#, "expected a string at line 1 column"),
        ] {
            let request = app
                .request(Method::PATCH, &application)
                .bearer_auth(&app.token)
                .body(format!("{{{members}{rest}}}"));
            let reply = app.read(request).await;
            assert_eq!((reply.status, reply.code()), (400, "Request_BadRequest"));
            assert!(reply.message().contains(shown), "{}", reply.message());
        }
    }
    let missing = app.get(&format!("{PRINCIPALS}/{}", Uuid::new_v4())).await;
    assert_eq!(
        (missing.status, missing.code()),
        (404, "Request_ResourceNotFound")
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn who_did_not_double_an_apostrophe_in_a_filter_is_told_to(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let value = "'miles.o'brien@wharf.test'";
    let events = "providers/Microsoft.Insights/eventtypes/management/values";
    for path in [
        format!(
            "/v1.0/users?$filter=userPrincipalName%20eq%20{value}%20and%20displayName%20eq%20'm'"
        ),
        format!("/v1.0/users?$filter=startswith(userPrincipalName,{value})"),
        format!(
            "{}/{events}?api-version=2015-04-01&$filter=caller%20eq%20{value}",
            app.subscription()
        ),
    ] {
        let reply = app.get(&path).await;
        assert_eq!(reply.status, 400, "{}", reply.body);
        let hint = "An apostrophe inside a value is doubled.";
        assert!(reply.message().contains(hint), "{}", reply.message());
    }
}
