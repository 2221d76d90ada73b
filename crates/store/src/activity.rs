//! The activity log: who did what, from where, to which resource, and what came of it.
//!
//! Whoever serves a request or runs a command says, by [`attempted`], on whose behalf its work is done. Each transaction that the work begins
//! ([`Store::begin`]) then starts with the row of that attempt, and [`crate::config::publish`] adds the revision to it: the row is committed
//! with the change, or not at all, and no function of the store has to be handed it. What came of an attempt that changed nothing, because it was
//! refused or had nothing to do, is written afterwards ([`Store::activity_conclude`]). What is deleted along with something else has
//! a row of its own (`also_deleted`). Sign-ins, which change nothing and are many, come in batches ([`Store::activity_add_sign_ins`]).

mod read;

pub use read::{ActivityEvent, ActivityPosition, ActivityQuery, ReadableScopes};

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Store, StoreError, Transaction};

/// The longest name of a resource that is kept, in bytes: keys stand in an index, and a refused request may name anything.
const MAXIMUM_RESOURCE_BYTES: usize = 1000;

const OK: u16 = 200;
const CREATED: u16 = 201;

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
    /// The statuses that the answer may have when it succeeds.
    pub success_statuses: Vec<u16>,
    details: Mutex<Map<String, Value>>,
    has_begun: AtomicBool,
    has_created: AtomicBool,
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
            success_statuses: Vec::new(),
            details: Mutex::default(),
            has_begun: AtomicBool::new(false),
            has_created: AtomicBool::new(false),
        }
    }

    /// Whether a transaction was begun on its behalf, so that something may have changed.
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Adds what an auditor wants to know beside the resource. Never a secret; of one that slipped into a name nothing is kept.
    pub fn detail(&self, name: &str, value: impl Into<String>) {
        let value = credentials::without_secrets(&value.into()).into_owned();
        self.details
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), Value::String(value));
    }

    /// The properties of what goes with it: with the credential, as every row, and with its own details, none of the attempt's.
    fn properties_of(&self, deleted: &Deleted) -> Value {
        let own = deleted.details.iter().map(|(name, value)| {
            let value = credentials::without_secrets(value).into_owned();
            ((*name).to_owned(), Value::String(value))
        });
        let common = self.properties();
        let credential = common
            .into_iter()
            .filter(|(name, _)| name == "credentialId");
        Value::Object(credential.chain(own).collect())
    }

    /// The status of an answer that says so far only that a change succeeded: where there are several, that of something created, or the
    /// one for what was there; none at all while that is open.
    fn status_of_change(&self, is_done: bool) -> Option<u16> {
        match self.success_statuses.as_slice() {
            [only] => Some(*only),
            _ if !is_done => None,
            several => {
                let has_created = self.has_created.load(Ordering::Relaxed);
                let wanted = if has_created { CREATED } else { OK };
                several.contains(&wanted).then_some(wanted)
            }
        }
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
pub fn attempted<T>(
    attempt: Arc<Attempt>,
    work: impl Future<Output = T>,
) -> impl Future<Output = T> {
    CURRENT.scope(attempt, work)
}

/// Adds a detail to the present attempt, if there is one: before the transaction begins, or before it publishes. Never a secret.
pub fn detail(name: &str, value: impl Into<String>) {
    // Background tasks do nothing on anybody's behalf.
    let _ = CURRENT.try_with(|attempt| attempt.detail(name, value));
}

/// Adds a detail that is a list, unless there is nothing in it.
pub(crate) fn detail_list<T: ToString>(name: &str, values: impl IntoIterator<Item = T>) {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    if !values.is_empty() {
        detail(name, values.join(","));
    }
}

/// Adds which properties a change sets: those that are marked. Not their values, among which are secrets.
pub(crate) fn changed(properties: &[(&str, bool)]) {
    let set = properties.iter().filter(|(_, is_set)| *is_set);
    detail_list("changedProperties", set.map(|(name, _)| name));
}

/// Adds whether a principal is enabled, where a change says so.
pub(crate) fn enabled(enabled: Option<bool>) {
    if let Some(enabled) = enabled {
        detail("accountEnabled", enabled.to_string());
    }
}

/// Writes the details that were added since the transaction began: for a change that publishes nothing.
pub(crate) async fn write_details(transaction: &mut Transaction) -> Result<(), StoreError> {
    let Ok((event_id, properties)) =
        CURRENT.try_with(|attempt| (attempt.event_id, attempt.properties()))
    else {
        return Ok(());
    };
    sqlx::query!(
        "UPDATE activity_log SET properties = $2 WHERE event_id = $1",
        event_id,
        Json(properties) as _
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Says that the present attempt made what it is about, where it may also change what is there: before its transaction publishes.
pub(crate) fn created() {
    let _ = CURRENT.try_with(|attempt| attempt.has_created.store(true, Ordering::Relaxed));
}

/// What the statement that publishes adds to the row of the present attempt; nothing without one.
#[derive(Default)]
pub(crate) struct Publishing {
    pub(crate) event_id: Option<Uuid>,
    pub(crate) properties: Option<Json<Map<String, Value>>>,
    pub(crate) http_status: Option<i16>,
}

pub(crate) fn publishing() -> Publishing {
    let of_attempt = |attempt: &Arc<Attempt>| Publishing {
        event_id: Some(attempt.event_id),
        properties: Some(Json(attempt.properties())),
        http_status: status_column(attempt.status_of_change(true)),
    };
    CURRENT.try_with(of_attempt).unwrap_or_default()
}

/// Writes the row of the present attempt, as one that succeeds, as the first thing of its transaction.
pub(crate) async fn record(transaction: &mut Transaction) -> Result<(), StoreError> {
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

/// Something that is deleted because something else is.
pub(crate) struct Deleted {
    pub(crate) resource_id: String,
    /// What the log says of it when somebody deletes it by itself.
    pub(crate) details: Vec<(&'static str, String)>,
}

/// Writes a row for each thing that the present attempt deletes beside what it is about, so that who reads the log of that thing's scope
/// finds it there. The rows are the attempt's but for what they are about: they are committed with its own, and have its correlation id.
/// They have no revision: the statement that publishes would have to be told of them while it holds the head, and the attempt's row has it.
pub(crate) async fn also_deleted(
    transaction: &mut Transaction,
    operation_name: &str,
    deleted: &[Deleted],
) -> Result<(), StoreError> {
    let Ok(attempt) = CURRENT.try_with(Arc::clone) else {
        return Ok(());
    };
    if deleted.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = deleted
        .iter()
        .map(|one| shorten(&credentials::without_secrets(&one.resource_id)).to_owned())
        .collect();
    let keys: Vec<String> = ids.iter().map(|id| arm::canonical_key(id)).collect();
    let properties: Vec<Value> = deleted
        .iter()
        .map(|one| attempt.properties_of(one))
        .collect();
    sqlx::query!(
        r#"INSERT INTO activity_log (event_id, occurred_at, correlation_id, category, operation_name, resource_id, resource_key,
             status, caller_id, caller_name, caller_address, properties)
           SELECT gen_random_uuid(), l.occurred_at, l.correlation_id, l.category, $2, input.resource_id, input.resource_key,
             l.status, l.caller_id, l.caller_name, l.caller_address, input.properties
           FROM activity_log l
             CROSS JOIN UNNEST($3::text[], $4::text[], $5::jsonb[]) AS input (resource_id, resource_key, properties)
           WHERE l.event_id = $1"#,
        attempt.event_id,
        operation_name,
        &ids,
        &keys,
        &properties
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conclusion {
    pub http_status: Option<u16>,
    /// Why it failed, as a code and in words; `None` when it succeeded.
    pub failure: Option<(String, String)>,
}

impl Conclusion {
    fn succeeded(attempt: &Attempt) -> Self {
        Self {
            http_status: attempt.status_of_change(false),
            failure: None,
        }
    }
}

/// Writes the row of an attempt. The row of one that succeeded is there only if its change was committed, so no failure replaces it; that
/// of one that failed may come again, with how many there were of it by then.
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
           WHERE known.status = excluded.status AND (known.status = 'Failed' OR known.http_status IS NULL)"#,
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
        Json(properties) as _
    )
    .execute(executor)
    .await?;
    Ok(())
}

fn status_column(status: Option<u16>) -> Option<i16> {
    status.and_then(|status| i16::try_from(status).ok())
}

/// Sign-ins of one kind within a while: who, from where, how, with what outcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SignIn {
    /// Whoever it certainly was.
    pub principal_id: Option<Uuid>,
    /// The person in whose name it was tried, if there is one; it need not have been that one.
    pub account_id: Option<Uuid>,
    /// The application that was named, if it is known.
    pub client_id: Option<Uuid>,
    pub credential_id: Option<Uuid>,
    pub address: Option<IpAddr>,
    pub grant: Option<&'static str>,
    /// `success`, or why not.
    pub outcome: &'static str,
}

impl SignIn {
    const SUCCESS: &str = "success";
    const OPERATION: &str = "Microsoft.Directory/signIns/action";
    const RESOURCE: &str = "/providers/Microsoft.Directory/signIns";

    /// Whether it was tried in the name of nobody who is known.
    pub fn is_of_nobody(&self) -> bool {
        self.principal_id.is_none() && self.account_id.is_none() && self.client_id.is_none()
    }

    fn properties(&self, count: u64) -> Value {
        let shown = [
            ("outcome", Some(self.outcome.to_owned())),
            ("count", Some(count.to_string())),
            ("grant", self.grant.map(str::to_owned)),
            ("accountId", self.account_id.map(|id| id.to_string())),
            ("clientId", self.client_id.map(|id| id.to_string())),
            ("credentialId", self.credential_id.map(|id| id.to_string())),
        ];
        let members = shown
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), Value::String(value?))));
        Value::Object(members.collect())
    }
}

/// How many sign-ins of one kind there were, and when the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignInCount {
    pub first_at: OffsetDateTime,
    pub count: u64,
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
        sign_ins: &[(SignIn, SignInCount)],
    ) -> Result<(), StoreError> {
        let mut rows = SignInRows::default();
        for (sign_in, counted) in sign_ins {
            rows.push(sign_in, *counted);
        }
        sqlx::query!(
            r#"INSERT INTO activity_log (event_id, occurred_at, correlation_id, category, operation_name, resource_id, resource_key,
                 status, error_code, caller_id, caller_name, caller_address, properties)
               SELECT event_id, occurred_at, event_id, 'SignIn', $3, $4, $5,
                 CASE WHEN error_code IS NULL THEN 'Succeeded' ELSE 'Failed' END, error_code, caller_id,
                 COALESCE((SELECT user_principal_name FROM users WHERE object_id = caller_id), client_id), caller_address, properties
               FROM UNNEST($1::uuid[], $2::timestamptz[], $6::text[], $7::uuid[], $8::text[], $9::text[], $10::jsonb[])
                 AS input (event_id, occurred_at, error_code, caller_id, client_id, caller_address, properties)"#,
            &rows.event_ids,
            &rows.times,
            SignIn::OPERATION,
            SignIn::RESOURCE,
            arm::canonical_key(SignIn::RESOURCE),
            &rows.error_codes as &[Option<String>],
            &rows.principals as &[Option<Uuid>],
            &rows.clients as &[Option<String>],
            &rows.addresses as &[Option<String>],
            &rows.properties
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

/// Sign-ins as columns.
#[derive(Default)]
struct SignInRows {
    event_ids: Vec<Uuid>,
    times: Vec<OffsetDateTime>,
    error_codes: Vec<Option<String>>,
    principals: Vec<Option<Uuid>>,
    clients: Vec<Option<String>>,
    addresses: Vec<Option<String>>,
    properties: Vec<Value>,
}

impl SignInRows {
    fn push(&mut self, sign_in: &SignIn, counted: SignInCount) {
        let failure = (sign_in.outcome != SignIn::SUCCESS).then(|| sign_in.outcome.to_owned());
        self.event_ids.push(Uuid::new_v4());
        self.times.push(counted.first_at);
        self.error_codes.push(failure);
        self.principals.push(sign_in.principal_id);
        self.clients
            .push(sign_in.client_id.map(|id| id.to_string()));
        self.addresses
            .push(sign_in.address.map(|address| address.to_string()));
        self.properties.push(sign_in.properties(counted.count));
    }
}
