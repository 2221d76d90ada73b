//! Faults put in on purpose, to show that the run under faults finds them (docs/reliability.md). No release has the feature that brings
//! this.

use std::sync::OnceLock;

/// Whether the environment variable `WHARFINGER_FAULT` names this fault.
pub fn is_on(fault: &str) -> bool {
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    CHOSEN
        .get_or_init(|| std::env::var("WHARFINGER_FAULT").ok())
        .as_deref()
        == Some(fault)
}
