//! What an operator does goes into the activity log like what principals do.

use std::sync::Arc;

use service::clock::Clock;
use store::Store;
use store::activity::{Attempt, Conclusion, attempted};
use uuid::Uuid;

use super::AdminError;

/// Does work and records it: in the transaction of its change, or, when it failed or changed nothing, afterwards.
///
/// # Errors
/// Those of the work; and that it cannot be recorded, when nothing was changed.
pub(super) async fn recorded<T>(
    store: &Store,
    clock: &Clock,
    operation: &str,
    resource: &str,
    work: impl Future<Output = Result<T, AdminError>>,
) -> Result<T, AdminError> {
    let mut attempt = Attempt::new(Uuid::new_v4(), clock(), operation, resource);
    attempt.caller_name = Some(operator());
    let attempt = Arc::new(attempt);
    let outcome = attempted(Arc::clone(&attempt), work).await;
    let conclusion = Conclusion {
        http_status: None,
        failure: match &outcome {
            Ok(_) | Err(AdminError::NotInForce) => None,
            Err(error) => Some(("Failed".to_owned(), service::errors::chain(error))),
        },
    };
    let written = store.activity_conclude(&attempt, &conclusion).await;
    match (outcome, written) {
        (Ok(_), Err(error)) if !attempt.has_begun() => Err(error.into()),
        (outcome, _) => outcome,
    }
}

/// Who types, as far as the machine says: nothing vouches for it.
fn operator() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let shown: String = format!(
        "wharfinger admin ({}@{})",
        user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw())),
        host.trim()
    );
    shown
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect()
}
