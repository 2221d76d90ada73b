//! `Microsoft.Insights`: the activity log, as `az monitor activity-log list` asks for it. What is recorded is decided in the front door.

mod activity_log;
mod event;

use crate::front_door::Operation;

pub(crate) fn operations() -> Vec<Operation> {
    activity_log::operations()
}

/// API versions of the activity log.
pub(crate) const VERSIONS: &[&str] = &["2015-04-01", "2014-04-01"];

/// By this action the events of a scope may be read.
const READ: &str = "Microsoft.Insights/eventtypes/values/read";
