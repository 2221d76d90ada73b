//! `policies.retentionPolicy`: the published members `status` and `days`, and two of our own, `daysSinceLastPull` and `keepNewest`, which
//! are shown once they are set.

use arm::{ErrorDetail, format_time};
use serde_json::{Value, json};
use store::registries::{Registry, RetentionPolicy};
use time::OffsetDateTime;

use super::validation::{shorten, unknown_member};
use crate::limits::{RETENTION_DAYS_MAXIMUM, RETENTION_KEPT_MAXIMUM};

/// What a client wants of the rules, as far as it said so.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WantedRetention {
    is_enabled: Option<bool>,
    days: Option<u32>,
    /// `Some(None)`: taken away, by `null`.
    days_since_last_pull: Option<Option<u32>>,
    keep_newest: Option<Option<u32>>,
}

impl WantedRetention {
    /// The rules that follow. With `replaces` what was left out of the published members goes back to its default; our own stay, since
    /// clients that read and write back do not know them, and without them more would be removed.
    pub(crate) fn applied_to(self, before: &RetentionPolicy, replaces: bool) -> RetentionPolicy {
        let kept = if replaces {
            RetentionPolicy::default()
        } else {
            *before
        };
        RetentionPolicy {
            is_enabled: self.is_enabled.unwrap_or(kept.is_enabled),
            days: self.days.unwrap_or(kept.days),
            days_since_last_pull: self
                .days_since_last_pull
                .unwrap_or(before.days_since_last_pull),
            keep_newest: self.keep_newest.unwrap_or(before.keep_newest),
            last_updated_at: before.last_updated_at,
        }
    }
}

/// The rules with the moment of their change, if they did change.
pub(crate) fn dated(
    policy: RetentionPolicy,
    before: &RetentionPolicy,
    now: OffsetDateTime,
) -> RetentionPolicy {
    if policy.is_same_as(before) {
        return *before;
    }
    RetentionPolicy {
        last_updated_at: Some(now),
        ..policy
    }
}

pub(crate) fn shown(registry: &Registry) -> Value {
    let policy = &registry.retention;
    let updated_at = policy
        .last_updated_at
        .unwrap_or(registry.system_data.created_at);
    let mut shown = json!({
        "days": policy.days,
        "lastUpdatedTime": format_time(updated_at),
        "status": if policy.is_enabled { "enabled" } else { "disabled" },
    });
    let own = [
        ("daysSinceLastPull", policy.days_since_last_pull),
        ("keepNewest", policy.keep_newest),
    ];
    for (name, value) in own {
        if let Some(value) = value {
            shown[name] = value.into();
        }
    }
    shown
}

/// Reads what a client sent.
pub(crate) fn check(
    value: &Value,
    target: &str,
    faults: &mut Vec<ErrorDetail>,
) -> Option<WantedRetention> {
    let Value::Object(members) = value else {
        faults.push(invalid(value, target, "it must be an object"));
        return None;
    };
    let mut wanted = WantedRetention::default();
    for (name, value) in members {
        let target = format!("{target}.{name}");
        let mut number = |maximum| match whole(value, maximum) {
            Some(number) => Some(number),
            None => {
                let rule = format!("it must be a whole number from 0 to {maximum}");
                faults.push(invalid(value, &target, &rule));
                None
            }
        };
        match (name.as_str(), value.is_null()) {
            ("lastUpdatedTime", _) | ("status" | "days", true) => {}
            ("daysSinceLastPull", true) => wanted.days_since_last_pull = Some(None),
            ("keepNewest", true) => wanted.keep_newest = Some(None),
            ("days", _) => wanted.days = number(RETENTION_DAYS_MAXIMUM),
            ("daysSinceLastPull", _) => {
                wanted.days_since_last_pull = number(RETENTION_DAYS_MAXIMUM).map(Some);
            }
            ("keepNewest", _) => wanted.keep_newest = number(RETENTION_KEPT_MAXIMUM).map(Some),
            ("status", _) => match value.as_str().map(str::to_ascii_lowercase).as_deref() {
                Some("enabled") => wanted.is_enabled = Some(true),
                Some("disabled") => wanted.is_enabled = Some(false),
                _ => faults.push(invalid(
                    value,
                    &target,
                    "it must be \"enabled\" or \"disabled\"",
                )),
            },
            _ => faults.push(unknown_member(name, "a registry's retentionPolicy", target)),
        }
    }
    Some(wanted)
}

fn whole(value: &Value, maximum: u32) -> Option<u32> {
    let number = u32::try_from(value.as_u64()?).ok()?;
    (number <= maximum).then_some(number)
}

fn invalid(value: &Value, target: &str, rule: &str) -> ErrorDetail {
    let name = target.rsplit('.').next().unwrap_or(target);
    ErrorDetail::new(
        "InvalidProperty",
        format!(
            "The value {} of '{name}' is invalid: {rule}.",
            shorten(value)
        ),
        target,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn wanted(value: Value) -> WantedRetention {
        let mut faults = Vec::new();
        let wanted = check(&value, "retentionPolicy", &mut faults).unwrap();
        assert_eq!(faults.len(), 0);
        wanted
    }

    #[test]
    fn what_a_client_that_replaces_does_not_know_stays() {
        let set =
            json!({"status": "Enabled", "days": 30, "daysSinceLastPull": 14, "keepNewest": 5});
        let policy = wanted(set).applied_to(&RetentionPolicy::default(), true);
        let back = wanted(json!({"status": "enabled"})).applied_to(&policy, true);
        assert_eq!(back, RetentionPolicy { days: 7, ..policy });
        let changed = wanted(json!({"days": 0})).applied_to(&policy, false);
        assert_eq!(changed, RetentionPolicy { days: 0, ..policy });
        let taken = wanted(json!({"keepNewest": null})).applied_to(&policy, false);
        assert_eq!(
            taken,
            RetentionPolicy {
                keep_newest: None,
                ..policy
            }
        );
    }

    #[test]
    fn only_a_change_has_a_new_date() {
        let before = RetentionPolicy::default();
        let now = datetime!(2026-11-23 12:00 UTC);
        assert_eq!(dated(before, &before, now), before);
        let changed = RetentionPolicy { days: 8, ..before };
        assert_eq!(dated(changed, &before, now).last_updated_at, Some(now));
    }

    #[test]
    fn each_fault_is_named() {
        let mut faults = Vec::new();
        let value = json!({
            "status": "on", "days": 366, "daysSinceLastPull": -1, "keepNewest": 1.5, "day": 3, "lastUpdatedTime": 7
        });
        check(&value, "p", &mut faults);
        let targets: Vec<_> = faults
            .into_iter()
            .filter_map(|fault| fault.target)
            .collect();
        assert_eq!(
            targets,
            [
                "p.status",
                "p.days",
                "p.daysSinceLastPull",
                "p.keepNewest",
                "p.day"
            ]
        );
    }
}
