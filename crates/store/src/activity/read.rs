//! Reading the activity log.

use std::collections::BTreeSet;

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
    /// A name as shown, or an object id, whatever the case of their letters.
    pub caller: Option<String>,
    pub status: Option<String>,
    pub category: Option<String>,
    pub after: Option<ActivityPosition>,
    pub limit: i64,
}

/// A page of rows from where a row `l` is looked for, with what decides whether it is one of them; `$1` to `$9` are the same for all.
///
/// The conditions that no index finds stand in a CASE: of that the planner thinks that half of the rows meet it, of many conditions that none
/// does, and then it would rather sort all rows of the time than read them in order until the page is full.
macro_rules! page {
    ($store:expr, $query:expr, $rows:tt, $more:tt, $($parameter:expr),+) => {{
        let (before, before_id) = $query.before();
        sqlx::query_as!(
            ActivityEvent,
            r#"SELECT event_id, occurred_at, correlation_id, category, operation_name, resource_id, status, http_status,
                 error_code, caller_id, caller_name, caller_address, revision,
                 properties AS "properties: Json<Map<String, Value>>"
               FROM ("# + $rows + r#"
                 WHERE l.occurred_at >= $1 AND (l.occurred_at, l.event_id) < ($2, $3)
                   AND CASE WHEN ($4 = '' OR l.resource_key = $4 OR starts_with(l.resource_key, $4 || '/'))
                     AND ($5::text IS NULL OR starts_with(l.operation_name, $5 || '/'))
                     AND ($6::text IS NULL OR lower(l.caller_name COLLATE "C") = lower($6 COLLATE "C")
                       OR l.caller_id::text = lower($6 COLLATE "C"))
                     AND ($7::text IS NULL OR l.status = $7)
                     AND ($8::text IS NULL OR l.category = $8)
                     AND "# + $more + r#"
               ORDER BY occurred_at DESC, event_id DESC LIMIT $9"#,
            $query.from,
            before,
            before_id,
            $query.below,
            $query.provider,
            $query.caller,
            $query.status,
            $query.category,
            $query.limit,
            $($parameter),+
        )
        .fetch_all($store.pool())
        .await
    }};
}

impl Store {
    /// A page of the log, newest first.
    ///
    /// Each of the three statements reads rows in the order of an index and stops when the page is full: by id; by the group of resources,
    /// for whoever reads or asks for no more than some; by time otherwise. A plan that suits all of them there is not.
    pub async fn activity_list(
        &self,
        query: &ActivityQuery,
    ) -> Result<Vec<ActivityEvent>, StoreError> {
        let readable = &query.readable;
        let rows = if query.correlation_id.is_some() || query.event_id.is_some() {
            page!(
                self,
                query,
                "SELECT l.* FROM activity_log l",
                r#"($11::uuid IS NULL OR l.correlation_id = $11)
                     AND (($12 AND NOT starts_with(l.resource_key, '/subscriptions/'))
                       OR EXISTS (SELECT FROM unnest($13::text[]) AS scope (key)
                         WHERE l.resource_key = scope.key OR starts_with(l.resource_key, scope.key || '/')))
                     THEN true ELSE false END
                   AND l.event_id IN (
                     SELECT event_id FROM activity_log WHERE event_id = $10
                     UNION ALL SELECT event_id FROM activity_log WHERE correlation_id = $11 AND $10::uuid IS NULL)) page"#,
                query.event_id,
                query.correlation_id,
                readable.tenant,
                &readable.all()
            )
        } else if let Some(anchors) = query.anchors() {
            page!(
                self,
                query,
                r#"SELECT found.* FROM unnest($10::text[]) AS anchor (key) CROSS JOIN LATERAL (
                     SELECT l.* FROM activity_log l"#,
                r#"(l.resource_key = anchor.key OR starts_with(l.resource_key, anchor.key || '/')) THEN true ELSE false END
                   AND split_part(l.resource_key, '/', 3) = split_part(anchor.key, '/', 3)
                   AND split_part(l.resource_key, '/', 5) = split_part(anchor.key, '/', 5)
                   ORDER BY l.occurred_at DESC, l.event_id DESC LIMIT $9) found) page"#,
                &anchors
            )
        } else {
            page!(
                self,
                query,
                "SELECT l.* FROM activity_log l",
                r#"(($10 AND NOT starts_with(l.resource_key, '/subscriptions/'))
                     OR array_to_string((string_to_array(l.resource_key, '/'))[1:3], '/') = ANY ($11)
                     OR array_to_string((string_to_array(l.resource_key, '/'))[1:5], '/') = ANY ($12)
                     OR array_to_string((string_to_array(l.resource_key, '/'))[1:9], '/') = ANY ($13)) THEN true ELSE false END
                   ORDER BY l.occurred_at DESC, l.event_id DESC LIMIT $9) page"#,
                readable.tenant,
                &readable.subscriptions,
                &readable.resource_groups,
                &readable.resources
            )
        };
        Ok(rows?)
    }
}

impl ReadableScopes {
    /// All but what belongs to no subscription.
    fn all(&self) -> Vec<String> {
        [&self.subscriptions, &self.resource_groups, &self.resources]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}

impl ActivityQuery {
    /// The place in the order that all wanted rows come after: that of the last row of the page before, or the end of the time.
    fn before(&self) -> (OffsetDateTime, Uuid) {
        match self.after {
            Some(after) if after.occurred_at <= self.until => (after.occurred_at, after.event_id),
            _ => (self.until, Uuid::max()),
        }
    }

    /// The scopes at and below which all wanted rows are, when each of them is a group of resources or lies in one.
    fn anchors(&self) -> Option<Vec<String>> {
        let is_within = |key: &str, scope: &str| {
            key.strip_prefix(scope)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if self.readable.tenant && !self.below.starts_with("/subscriptions/") {
            return None;
        }
        let anchors: BTreeSet<String> = self
            .readable
            .all()
            .into_iter()
            .filter_map(|scope| {
                if self.below.is_empty() || is_within(&scope, &self.below) {
                    Some(scope)
                } else {
                    is_within(&self.below, &scope).then(|| self.below.clone())
                }
            })
            .collect();
        let is_in_a_group = |key: &String| key.split('/').nth(3) == Some("resourcegroups");
        if !anchors.iter().all(is_in_a_group) {
            return None;
        }
        // Each row once: what lies in another anchor adds nothing.
        let outermost = anchors.iter().filter(|key| {
            !key.match_indices('/')
                .any(|(end, _)| anchors.contains(&key[..end]))
        });
        Some(outermost.cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBSCRIPTION: &str = "/subscriptions/s";
    const GROUP: &str = "/subscriptions/s/resourcegroups/g";
    const REGISTRY: &str = "/subscriptions/s/resourcegroups/g/providers/p/registries/r";

    fn anchors(scopes: &[&str], below: &str, tenant: bool) -> Option<Vec<String>> {
        let query = ActivityQuery {
            readable: ReadableScopes {
                resources: scopes.iter().map(|&scope| scope.to_owned()).collect(),
                tenant,
                ..ReadableScopes::default()
            },
            from: OffsetDateTime::UNIX_EPOCH,
            until: OffsetDateTime::UNIX_EPOCH,
            below: below.to_owned(),
            provider: None,
            correlation_id: None,
            event_id: None,
            caller: None,
            status: None,
            category: None,
            after: None,
            limit: 1,
        };
        query.anchors()
    }

    #[test]
    fn what_is_read_is_what_is_readable_and_asked_for() {
        let only = |key: &str| Some(vec![key.to_owned()]);
        assert_eq!(anchors(&[SUBSCRIPTION], GROUP, false), only(GROUP));
        assert_eq!(anchors(&[GROUP], SUBSCRIPTION, false), only(GROUP));
        assert_eq!(anchors(&[GROUP], REGISTRY, true), only(REGISTRY));
        assert_eq!(anchors(&[GROUP], &format!("{GROUP}2"), false), Some(vec![]));
        let next_to = format!("{GROUP}-x");
        assert_eq!(
            anchors(&[REGISTRY, &next_to, GROUP], "", false),
            Some(vec![GROUP.to_owned(), next_to])
        );
    }

    #[test]
    fn whoever_reads_more_than_groups_of_resources_reads_by_time() {
        assert_eq!(anchors(&[SUBSCRIPTION], SUBSCRIPTION, false), None);
        assert_eq!(anchors(&[GROUP], "", true), None);
        let at_subscription = format!("{SUBSCRIPTION}/providers/p/types/x");
        assert_eq!(anchors(&[SUBSCRIPTION], &at_subscription, false), None);
    }
}
