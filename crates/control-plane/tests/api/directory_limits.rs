//! What one caller can take of the directory and of the database, and what it cannot leave behind.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::directory::{APPLICATIONS, PRINCIPALS, patch, text};
use crate::directory_people::{GROUPS, USERS, add_member, create_group, create_user};
use crate::support::{ASSIGNMENTS, OWNER, Principal, Reply, TestApp};

const APPLICATIONS_OF_ONE: i32 = 250;
const DIRECT_GROUPS: i32 = 2000;
const REFUSALS_RECORDED: i64 = 60;

async fn create_application(app: &TestApp, token: &str) -> Reply {
    let body = json!({ "displayName": "self-made" });
    app.send(Method::POST, APPLICATIONS, token, Some(body))
        .await
}

/// Another principal, made by one that does not administer applications.
async fn create_by(app: &TestApp, creator: &Principal) -> Principal {
    let application = create_application(app, &creator.token).await;
    assert_eq!(application.status, 201, "{}", application.body);
    let app_id = text(&application.body["appId"]);
    let send = async |path: &str, body| {
        let token = &creator.token;
        app.send(Method::POST, path, token, Some(body)).await
    };
    let principal = send(PRINCIPALS, json!({ "appId": app_id })).await;
    assert_eq!(principal.status, 201, "{}", principal.body);
    let path = format!(
        "{APPLICATIONS}/{}/addPassword",
        text(&application.body["id"])
    );
    let secret = text(&send(&path, json!({})).await.body["secretText"]);
    Principal {
        object_id: text(&principal.body["id"]),
        token: app.sign_in(&app_id, &secret).await,
        app_id,
        secret,
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn who_helps_itself_has_a_quota_that_what_it_makes_counts_in(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let (team, other) = (
        app.create_principal("team").await,
        app.create_principal("other").await,
    );
    let bot = create_by(&app, &team).await;
    sqlx::query(
        "INSERT INTO applications (object_id, app_id, display_name, name_key, created_at, charged_to)
         SELECT gen_random_uuid(), gen_random_uuid(), 'x', 'x', now(), $1::uuid FROM generate_series(3, $2)",
    )
    .bind(Uuid::try_parse(&team.object_id).unwrap())
    .bind(APPLICATIONS_OF_ONE)
    .execute(&pool)
    .await
    .unwrap();
    // The last one, made by what the team made.
    assert_eq!(create_application(&app, &bot.token).await.status, 201);
    for caller in [&team, &bot] {
        let refused = create_application(&app, &caller.token).await;
        assert_eq!(
            (refused.status, refused.code()),
            (403, "Directory_QuotaExceeded"),
            "{}",
            refused.body
        );
    }
    for caller in [&other.token, &app.token] {
        assert_eq!(create_application(&app, caller).await.status, 201);
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_is_made_while_its_maker_is_deleted_is_not_made(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let team = app.create_principal("team").await;
    let id = Uuid::try_parse(&team.object_id).unwrap();
    // The deletion has begun, and waits to be committed.
    let mut deletion = pool.begin().await.unwrap();
    sqlx::query("DELETE FROM principals WHERE object_id = $1")
        .bind(id)
        .execute(&mut *deletion)
        .await
        .unwrap();
    let making = create_application(&app, &team.token);
    let deleting = async {
        until_waiting(&pool, 1).await;
        deletion.commit().await.unwrap();
    };
    let (made, ()) = tokio::join!(making, deleting);
    assert_ne!(made.status, 201, "{}", made.body);
    let ownerless: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM applications a WHERE display_name = 'self-made'
         AND NOT EXISTS (SELECT FROM directory_owners o WHERE o.object_id = a.object_id)",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(ownerless, 0);
}

/// Waits until so many statements of this database wait for a lock.
async fn until_waiting(pool: &PgPool, count: i64) {
    loop {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        if waiting >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn two_who_take_owners_away_do_not_count_on_each_others_victim(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let heir = app.create_principal("heir").await;
    let assignments = format!(
        "{}/providers/Microsoft.Authorization/roleAssignments",
        app.subscription()
    );
    let listed = app
        .get(&format!(
            "{assignments}?api-version={ASSIGNMENTS}&$filter=atScope()"
        ))
        .await;
    let owner = listed.body["value"].as_array().unwrap();
    assert_eq!(owner.len(), 1, "{}", listed.body);
    let owner = format!("{}?api-version={ASSIGNMENTS}", text(&owner[0]["id"]));
    // The one disables somebody who owns nothing yet; it goes as far as the head, which the test holds.
    let mut head = pool.begin().await.unwrap();
    sqlx::query("SELECT revision FROM config_head FOR UPDATE")
        .execute(&mut *head)
        .await
        .unwrap();
    let path = format!("{PRINCIPALS}/{}", heir.object_id);
    let disabling = patch(&app, &path, &app.token, json!({ "accountEnabled": false }));
    // Meanwhile that one becomes an Owner, and the other takes away the Owner that there was.
    let taking = async {
        until_waiting(&pool, 1).await;
        sqlx::query(
            "INSERT INTO role_assignments (name, scope, scope_key, principal_id, principal_type, role_definition_id, created_at, updated_at)
             VALUES (gen_random_uuid(), $1, $1, $2, 'ServicePrincipal', $3, now(), now())",
        )
        .bind(app.subscription())
        .bind(Uuid::try_parse(&heir.object_id).unwrap())
        .bind(Uuid::try_parse(OWNER).unwrap())
        .execute(&pool)
        .await
        .unwrap();
        app.delete(&owner).await
    };
    let letting_go = async {
        until_waiting(&pool, 2).await;
        head.rollback().await.unwrap();
    };
    let (disabled, taken, ()) = tokio::join!(disabling, taking, letting_go);
    assert_eq!(disabled.status, 204, "{}", disabled.body);
    assert_eq!(taken.status / 100, 4, "{}", taken.body);
    assert!(taken.message().contains("Owner"), "{}", taken.message());
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn nobody_gets_into_more_groups_than_one_may_be_in_by_a_new_group(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let user = text(&create_user(&app, "ann").await["id"]);
    let group = create_group(&app, "devs").await;
    sqlx::query(
        "WITH made AS (
           INSERT INTO principals (object_id, kind, display_name, name_key, enabled, created_at)
           SELECT gen_random_uuid(), 'Group', 'x', 'x', true, now() FROM generate_series(1, $2) RETURNING object_id),
         groups AS (
           INSERT INTO groups (object_id, mail_nickname, mail_nickname_key) SELECT object_id, 'x', 'x' FROM made RETURNING object_id)
         INSERT INTO group_members (group_id, member_id) SELECT object_id, $1 FROM groups",
    )
    .bind(Uuid::try_parse(&user).unwrap())
    .bind(DIRECT_GROUPS)
    .execute(&pool)
    .await
    .unwrap();
    let new = json!({
        "displayName": "more", "mailNickname": "more", "mailEnabled": false, "securityEnabled": true,
        "members@odata.bind": [format!("{}/v1.0/directoryObjects/{user}", app.base)],
    });
    for refused in [
        add_member(&app, &group, &user).await,
        app.post(GROUPS, new).await,
    ] {
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert!(
            refused.message().contains("2000 groups"),
            "{}",
            refused.message()
        );
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn an_object_is_found_at_the_path_and_address_of_its_own_kind_only(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let user = text(&create_user(&app, "ann").await["id"]);
    let bot = app.create_principal("bot").await;
    let group = create_group(&app, "devs").await;
    let address = |collection: &str, id: &str| json!({ "@odata.id": format!("{}/v1.0/{collection}/{id}", app.base) });
    let add = |object: String, reference| {
        let app = &app;
        async move { app.post(&format!("{object}/$ref"), reference).await.status }
    };
    for object in [
        format!("{APPLICATIONS}/{group}/owners"),
        format!("{PRINCIPALS}/{group}/owners"),
        format!("{GROUPS}/{}/owners", bot.object_id),
        format!("{GROUPS}/{}/members", bot.object_id),
    ] {
        let status = add(object.clone(), address("directoryObjects", &user)).await;
        assert_eq!(status, 404, "{object}");
    }
    for list in ["owners", "members"] {
        for (collection, id, status) in [
            ("servicePrincipals", &user, 404),
            ("users", &bot.object_id, 404),
            ("applications", &bot.object_id, 400),
            ("users", &user, 204),
            ("directoryObjects", &bot.object_id, 204),
        ] {
            let object = format!("{GROUPS}/{group}/{list}");
            let added = add(object, address(collection, id)).await;
            assert_eq!(added, status, "{list} {collection}/{id}");
        }
    }
    let owner = |collection: &str| format!("{collection}/{group}/owners/{user}/$ref");
    assert_eq!(app.delete(&owner(PRINCIPALS)).await.status, 404);
    assert_eq!(app.delete(&owner(GROUPS)).await.status, 204);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn who_is_refused_without_end_fills_no_database(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let stranger = app.create_principal("stranger").await;
    let (user, group) = (format!("{USERS}/x"), format!("{GROUPS}/{}", Uuid::nil()));
    let begun = Instant::now();
    for _ in 0..REFUSALS_RECORDED {
        for path in [&user, &group] {
            let refused = app.send(Method::DELETE, path, &stranger.token, None).await;
            assert_eq!(refused.status, 403, "{}", refused.body);
        }
    }
    let rows: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM activity_log WHERE caller_id = $1 AND http_status = 403",
    )
    .bind(Uuid::try_parse(&stranger.object_id).unwrap())
    .fetch_one(&pool)
    .await
    .unwrap();
    // The allowance fills up again meanwhile, one a second.
    let most = REFUSALS_RECORDED + i64::try_from(begun.elapsed().as_secs()).unwrap() + 2;
    assert!((REFUSALS_RECORDED..=most).contains(&rows), "{rows}");
}
