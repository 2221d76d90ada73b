//! Reading the activity log.

use serde_json::{Map, Value};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Store, StoreError};

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct ActivityEvent {
    pub event_id: Uuid,
    pub occurred_at: OffsetDateTime,
    pub correlation_id: Uuid,
    pub category: String,
    pub operation_name: String,
    pub resource_id: String,
    pub status: String,
    pub http_status: Option<i16>,
    pub error_code: Option<String>,
    pub caller_id: Option<Uuid>,
    pub caller_name: Option<String>,
    pub caller_address: Option<String>,
    pub revision: Option<i64>,
    pub properties: Json<Map<String, Value>>,
}

/// The scopes whose rows somebody may read, as canonical keys, by their depth.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadableScopes {
    pub subscriptions: Vec<String>,
    pub resource_groups: Vec<String>,
    pub resources: Vec<String>,
    /// What belongs to no subscription: the directory, sign-ins, what an operator did.
    pub tenant: bool,
}

/// A row's place in the order, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActivityPosition {
    pub occurred_at: OffsetDateTime,
    pub event_id: Uuid,
}

/// Which rows are wanted.
#[derive(Debug, Clone)]
pub struct ActivityQuery {
    pub readable: ReadableScopes,
    pub from: OffsetDateTime,
    pub until: OffsetDateTime,
    /// The canonical key of a scope: rows of it and of what is below; all when empty.
    pub below: String,
    /// A provider's namespace, as operations name it.
    pub provider: Option<String>,
    pub correlation_id: Option<Uuid>,
    pub event_id: Option<Uuid>,
    /// A name as shown, or an object id.
    pub caller: Option<String>,
    pub status: Option<String>,
    pub category: Option<String>,
    pub after: Option<ActivityPosition>,
    pub limit: i64,
}

impl Store {
    /// A page of the log, newest first.
    pub async fn activity_list(
        &self,
        query: &ActivityQuery,
    ) -> Result<Vec<ActivityEvent>, StoreError> {
        let after = query.after;
        let rows = sqlx::query_as!(
            ActivityEvent,
            r#"SELECT event_id, occurred_at, correlation_id, category, operation_name, resource_id, status, http_status,
                 error_code, caller_id, caller_name, caller_address, revision,
                 properties AS "properties: Json<Map<String, Value>>"
               FROM activity_log
               WHERE occurred_at >= $1 AND occurred_at <= $2
                 AND ($3::timestamptz IS NULL OR (occurred_at, event_id) < ($3, $4::uuid))
                 AND (($5 AND NOT starts_with(resource_key, '/subscriptions/'))
                   OR array_to_string((string_to_array(resource_key, '/'))[1:3], '/') = ANY ($6)
                   OR array_to_string((string_to_array(resource_key, '/'))[1:5], '/') = ANY ($7)
                   OR array_to_string((string_to_array(resource_key, '/'))[1:9], '/') = ANY ($8))
                 AND ($9 = '' OR resource_key = $9 OR starts_with(resource_key, $9 || '/'))
                 AND ($10::text IS NULL OR starts_with(operation_name, $10 || '/'))
                 AND ($11::uuid IS NULL OR correlation_id = $11)
                 AND ($12::uuid IS NULL OR event_id = $12)
                 AND ($13::text IS NULL OR caller_name = $13 OR caller_id::text = $13)
                 AND ($14::text IS NULL OR status = $14)
                 AND ($15::text IS NULL OR category = $15)
               ORDER BY occurred_at DESC, event_id DESC LIMIT $16"#,
            query.from,
            query.until,
            after.map(|position| position.occurred_at),
            after.map(|position| position.event_id),
            query.readable.tenant,
            &query.readable.subscriptions,
            &query.readable.resource_groups,
            &query.readable.resources,
            query.below,
            query.provider,
            query.correlation_id,
            query.event_id,
            query.caller,
            query.status,
            query.category,
            query.limit
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }
}
