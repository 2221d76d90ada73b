//! The activity log: who did what, from where, to which resource, and what came of it.
//!
//! Whoever serves a request or runs a command says, by [`attempted`], on whose behalf its work is done. Each transaction that the work begins
//! ([`Store::begin`]) then starts with the row of that attempt, and [`crate::config::publish`] adds the revision to it: the row is committed
//! with the change, or not at all, and no function of the store has to be handed it. What came of an attempt that changed nothing, because it was
//! refused or had nothing to do, is written afterwards ([`Store::activity_conclude`]). Sign-ins, which change nothing and are many,
//! come in batches ([`Store::activity_add_sign_ins`]).

mod read;

pub use read::{ActivityEvent, ActivityPosition, ActivityQuery, ReadableScopes};

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Store, StoreError};

/// The longest name of a resource that is kept, in bytes: keys stand in an index, and a refused request may name anything.
const MAXIMUM_RESOURCE_BYTES: usize = 1000;

tokio::task_local! {
    static CURRENT: Arc<Attempt>;
}

/// Something that somebody tries to do.
#[derive(Debug)]
pub struct Attempt {
    pub event_id: Uuid,
    pub occurred_at: OffsetDateTime,
    pub correlation_id: Uuid,
    /// The action, as the list of provider operations names it.
    pub operation_name: String,
    resource_id: String,
    /// The principal; `None` for an operator at the database, and for nodes.
    pub caller_id: Option<Uuid>,
    /// The name to show where the caller is no principal of the directory.
    pub caller_name: Option<String>,
    pub caller_address: Option<IpAddr>,
    /// The status of the answer, where success has only one.
    pub success_status: Option<u16>,
    details: Mutex<Map<String, Value>>,
    has_begun: AtomicBool,
}

impl Attempt {
    /// An attempt at an action; `resource_id` is what it is done to.
    pub fn new(
        event_id: Uuid,
        occurred_at: OffsetDateTime,
        operation_name: impl Into<String>,
        resource_id: &str,
    ) -> Self {
        Self {
            event_id,
            occurred_at,
            correlation_id: event_id,
            operation_name: operation_name.into(),
            resource_id: shorten(resource_id).to_owned(),
            caller_id: None,
            caller_name: None,
            caller_address: None,
            success_status: None,
            details: Mutex::default(),
            has_begun: AtomicBool::new(false),
        }
    }

    /// Whether a transaction was begun on its behalf, so that something may have changed.
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Adds what an auditor wants to know beside the resource. Never a secret.
    pub fn detail(&self, name: &str, value: impl Into<String>) {
        self.details
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), Value::String(value.into()));
    }

    fn properties(&self) -> Map<String, Value> {
        self.details
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn shorten(text: &str) -> &str {
    let end = text.floor_char_boundary(MAXIMUM_RESOURCE_BYTES);
    &text[..end]
}

/// Does work on behalf of an attempt: the transactions that it begins record it.
pub async fn attempted<T>(attempt: Arc<Attempt>, work: impl Future<Output = T>) -> T {
    CURRENT.scope(attempt, work).await
}

/// Adds a detail to the present attempt, if there is one: before the transaction begins, or before it publishes. Never a secret.
pub fn detail(name: &str, value: impl Into<String>) {
    // Background tasks do nothing on anybody's behalf.
    let _ = CURRENT.try_with(|attempt| attempt.detail(name, value));
}

/// The row of the present attempt, for the statement that publishes.
pub(crate) fn current() -> Option<(Uuid, Json<Map<String, Value>>)> {
    CURRENT
        .try_with(|attempt| (attempt.event_id, Json(attempt.properties())))
        .ok()
}

/// Writes the row of the present attempt, as one that succeeds, as the first thing of its transaction.
pub(crate) async fn record(transaction: &mut Transaction<'_, Postgres>) -> Result<(), StoreError> {
    let Ok(attempt) = CURRENT.try_with(Arc::clone) else {
        return Ok(());
    };
    write(
        &mut **transaction,
        &attempt,
        &Conclusion::succeeded(&attempt),
    )
    .await?;
    attempt.has_begun.store(true, Ordering::Relaxed);
    Ok(())
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conclusion {
    pub http_status: Option<u16>,
    /// Why it failed, as a code and in words; `None` when it succeeded.
    pub failure: Option<(String, String)>,
    /// Whether nothing of it can have been committed: it replaces what a transaction wrote.
    pub is_certain: bool,
}

impl Conclusion {
    fn succeeded(attempt: &Attempt) -> Self {
        Self {
            http_status: attempt.success_status,
            failure: None,
            is_certain: false,
        }
    }
}

async fn write(
    executor: impl sqlx::PgExecutor<'_>,
    attempt: &Attempt,
    conclusion: &Conclusion,
) -> Result<(), StoreError> {
    let mut properties = attempt.properties();
    let (code, message) = conclusion.failure.clone().unzip();
    if let Some(message) = message {
        properties.insert("statusMessage".to_owned(), Value::String(message));
    }
    sqlx::query!(
        r#"INSERT INTO activity_log AS known (event_id, occurred_at, correlation_id, category, operation_name, resource_id,
             resource_key, status, http_status, error_code, caller_id, caller_name, caller_address, properties)
           VALUES ($1, $2, $3, 'Administrative', $4, $5, $6, $7, $8, $9, $10, COALESCE($11,
             (SELECT user_principal_name FROM users WHERE object_id = $10),
             (SELECT app_id::text FROM service_principals WHERE object_id = $10)), $12, $13)
           ON CONFLICT (event_id) DO UPDATE SET
             status = excluded.status, http_status = excluded.http_status, error_code = excluded.error_code,
             properties = excluded.properties
           WHERE $14"#,
        attempt.event_id,
        attempt.occurred_at,
        attempt.correlation_id,
        attempt.operation_name,
        attempt.resource_id,
        arm::canonical_key(&attempt.resource_id),
        if code.is_none() { "Succeeded" } else { "Failed" },
        status_column(conclusion.http_status),
        code,
        attempt.caller_id,
        attempt.caller_name,
        attempt.caller_address.map(|address| address.to_string()),
        Json(properties) as _,
        conclusion.is_certain
    )
    .execute(executor)
    .await?;
    Ok(())
}

fn status_column(status: Option<u16>) -> Option<i16> {
    status.and_then(|status| i16::try_from(status).ok())
}

/// Sign-ins of one kind within a moment: who, from where, with what outcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SignIn {
    /// `None` when nobody in the directory is meant.
    pub caller_id: Option<Uuid>,
    /// The application or the user name; `None` when it was none that could be shown.
    pub caller_name: Option<String>,
    pub caller_address: Option<IpAddr>,
    /// `success`, or why not.
    pub outcome: &'static str,
}

impl SignIn {
    const OPERATION: &str = "Microsoft.Directory/signIns/action";
    const RESOURCE: &str = "/providers/Microsoft.Directory/signIns";
}

impl Store {
    /// Writes what came of an attempt, unless a transaction did.
    pub async fn activity_conclude(
        &self,
        attempt: &Attempt,
        conclusion: &Conclusion,
    ) -> Result<(), StoreError> {
        write(self.pool(), attempt, conclusion).await
    }

    /// Writes sign-ins, each with how many there were of it.
    pub async fn activity_add_sign_ins(
        &self,
        sign_ins: &[(SignIn, u64)],
        at: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let column = |text: &dyn Fn(&SignIn) -> Option<String>| -> Vec<Option<String>> {
            sign_ins.iter().map(|(sign_in, _)| text(sign_in)).collect()
        };
        let event_ids: Vec<Uuid> = sign_ins.iter().map(|_| Uuid::new_v4()).collect();
        let callers: Vec<Option<Uuid>> = sign_ins
            .iter()
            .map(|(sign_in, _)| sign_in.caller_id)
            .collect();
        let properties: Vec<Value> = sign_ins
            .iter()
            .map(|(sign_in, count)| {
                serde_json::json!({ "outcome": sign_in.outcome, "count": count.to_string() })
            })
            .collect();
        sqlx::query!(
            r#"INSERT INTO activity_log (event_id, occurred_at, correlation_id, category, operation_name, resource_id, resource_key,
                 status, error_code, caller_id, caller_name, caller_address, properties)
               SELECT event_id, $2, event_id, 'SignIn', $3, $4, $5,
                 CASE WHEN error_code IS NULL THEN 'Succeeded' ELSE 'Failed' END, error_code, caller_id, caller_name,
                 caller_address, properties
               FROM UNNEST($1::uuid[], $6::text[], $7::uuid[], $8::text[], $9::text[], $10::jsonb[])
                 AS input (event_id, error_code, caller_id, caller_name, caller_address, properties)"#,
            &event_ids,
            at,
            SignIn::OPERATION,
            SignIn::RESOURCE,
            arm::canonical_key(SignIn::RESOURCE),
            &column(&|sign_in| (sign_in.outcome != "success").then(|| sign_in.outcome.to_owned())) as &[Option<String>],
            &callers as &[Option<Uuid>],
            &column(&|sign_in| sign_in.caller_name.clone()) as &[Option<String>],
            &column(&|sign_in| sign_in.caller_address.map(|address| address.to_string())) as &[Option<String>],
            &properties
        )
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Forgets at most `limit` rows older than a time; how many there were.
    pub async fn activity_forget(
        &self,
        before: OffsetDateTime,
        limit: i64,
    ) -> Result<u64, StoreError> {
        let forgotten = sqlx::query!(
            "DELETE FROM activity_log WHERE event_id IN (
               SELECT event_id FROM activity_log WHERE occurred_at < $1 ORDER BY occurred_at LIMIT $2)",
            before,
            limit
        )
        .execute(self.pool())
        .await?
        .rows_affected();
        Ok(forgotten)
    }
}
