//! Which rows the activity log has, and under which names.

use std::sync::Arc;

use sqlx::PgPool;
use store::activity::{Attempt, Conclusion, attempted};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::support::TestApp;

fn failure(message: &str) -> Conclusion {
    Conclusion {
        http_status: Some(404),
        failure: Some(("NotFound".to_owned(), message.to_owned())),
    }
}

/// Begins a transaction on behalf of an attempt, and commits it or does not.
async fn attempt(app: &TestApp, commits: bool) -> Arc<Attempt> {
    let attempt = Arc::new(Attempt::new(
        Uuid::new_v4(),
        OffsetDateTime::now_utc(),
        "Microsoft.Directory/applications/write",
        "/providers/Microsoft.Directory/applications",
    ));
    let work = async {
        let transaction = app.store.begin().await.unwrap();
        if commits {
            transaction.commit().await.unwrap();
        }
    };
    attempted(Arc::clone(&attempt), work).await;
    attempt
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn no_failure_replaces_the_row_of_a_change_that_was_committed(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let row = async |attempt: &Attempt| -> (String, Option<i16>, Option<String>) {
        sqlx::query_as(
            "SELECT status, http_status, properties ->> 'statusMessage' FROM activity_log WHERE event_id = $1",
        )
        .bind(attempt.event_id)
        .fetch_one(&pool)
        .await
        .unwrap()
    };
    let conclude = async |attempt: &Attempt, conclusion: &Conclusion| {
        let concluded = app.store.activity_conclude(attempt, conclusion).await;
        concluded.unwrap();
    };
    let committed = attempt(&app, true).await;
    conclude(&committed, &failure("Gone.")).await;
    assert_eq!(row(&committed).await, ("Succeeded".to_owned(), None, None));
    let answered = Conclusion {
        http_status: Some(201),
        failure: None,
    };
    conclude(&committed, &answered).await;
    assert_eq!(
        row(&committed).await,
        ("Succeeded".to_owned(), Some(201), None)
    );

    let given_up = attempt(&app, false).await;
    // Refusals that share a row may be written again, with how many there were by then.
    for message in ["Once.", "Twice."] {
        conclude(&given_up, &failure(message)).await;
        assert_eq!(
            row(&given_up).await,
            ("Failed".to_owned(), Some(404), Some(message.to_owned()))
        );
    }
    conclude(&given_up, &answered).await;
    assert_eq!(row(&given_up).await.0, "Failed");
}
