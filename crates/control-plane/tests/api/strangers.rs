//! What people whom the directory does not know can make the control plane keep: next to nothing, however often they try.

use std::time::Duration;

use reqwest::Method;
use sqlx::PgPool;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::support::TestApp;

const ATTEMPTS: usize = 80;

/// The status of an attempt by a client that nobody knows.
async fn attempt(app: &TestApp, grant_type: &str) -> u16 {
    let client_id = Uuid::new_v4().to_string();
    let scope = format!("{}/.default", app.base);
    let form = [
        ("grant_type", grant_type),
        ("client_id", client_id.as_str()),
        ("client_secret", "a guess"),
        ("username", "ann@wharf.test"),
        ("password", "a guess"),
        ("scope", &scope),
    ];
    let request = app
        .request(Method::POST, "/adfs/oauth2/v2.0/token")
        .form(&form);
    app.read(request).await.status
}

/// They are limited, and what is recorded of them is how many there were.
async fn are_limited_and_share_rows(pool: PgPool, grant_type: &str) {
    let app = TestApp::spawn(pool.clone()).await;
    let mut statuses = Vec::new();
    for _ in 0..ATTEMPTS {
        statuses.push(attempt(&app, grant_type).await);
    }
    assert_eq!(statuses.first(), Some(&400));
    // Not the last one by all means: one more is let through each second.
    assert!(statuses.contains(&429), "{statuses:?}");
    // The last thing of a process is to write what it has gathered.
    app.stop();
    let expected = i64::try_from(ATTEMPTS).unwrap();
    let (rows, with_client) = loop {
        let (rows, attempts, with_client): (i64, Option<i64>, i64) = sqlx::query_as(
            "SELECT count(*), sum((properties->>'count')::bigint)::bigint, count(properties->>'clientId')
             FROM activity_log WHERE category = 'SignIn' AND properties->>'grant' = $1 AND status = 'Failed'",
        )
        .bind(grant_type)
        .fetch_one(&pool)
        .await
        .unwrap();
        if attempts == Some(expected) {
            break (rows, with_client);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(with_client, 0);
    // One for what was unknown and one for what was limited; twice when the gathering ended meanwhile.
    assert!(rows <= 4, "{rows} rows");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn unknown_applications_are_limited_and_share_rows(pool: PgPool) {
    are_limited_and_share_rows(pool, "client_credentials").await;
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn unknown_clients_of_people_are_limited_and_share_rows(pool: PgPool) {
    are_limited_and_share_rows(pool, "password").await;
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn unknown_clients_of_sessions_are_limited_and_share_rows(pool: PgPool) {
    are_limited_and_share_rows(pool, "refresh_token").await;
}

/// Asks for a token in a person's name, and hangs up after a while: late enough for the request to be read, and before the answer.
async fn guess_and_hang_up(app: &TestApp, name: &str, after: Duration) {
    let host = app.base.trim_start_matches("http://");
    let form = format!(
        "grant_type=password&client_id=04b07795-8ddb-461a-bbee-02f9e1bf7b46&username={name}&password=wrong&scope={}/.default",
        app.base
    );
    let request = format!(
        "POST /{}/oauth2/v2.0/token HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
        app.tenant_id,
        form.len()
    );
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    tokio::time::sleep(after).await;
    // So it is reset, and not merely closed in one direction.
    stream.set_zero_linger().unwrap();
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn who_hangs_up_before_the_answer_has_guessed_all_the_same(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let scope = format!("{}/.default", app.base);
    let form = [
        ("grant_type", "password"),
        ("client_id", "04b07795-8ddb-461a-bbee-02f9e1bf7b46"),
        ("username", "nobody@wharf.test"),
        ("password", "wrong"),
        ("scope", &scope),
    ];
    let path = format!("/{}/oauth2/v2.0/token", app.tenant_id);
    // On a slow machine a request may be reset before it is read: then again with more patience. The few that are answered are not enough
    // to be limited for.
    for round in 0..8 {
        for _ in 0..20 {
            guess_and_hang_up(
                &app,
                "nobody@wharf.test",
                Duration::from_millis(10 << round),
            )
            .await;
        }
        // It has its turn after those who left.
        let reply = app.read(app.request(Method::POST, &path).form(&form)).await;
        if reply.status == 429 {
            return;
        }
        assert_eq!(reply.status, 400, "{}", reply.body);
    }
    panic!("who hangs up is not counted");
}
