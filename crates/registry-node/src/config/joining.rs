//! Join, then serve: when a node that starts may open its data port.

use std::time::Duration;

use service::clock::Clock;
use tokio::sync::watch;

use super::{Configuration, Connection, Identities, Progress, Refusal};

/// Returns when the node may serve: a control plane has vouched for the configuration, with this
/// key of this node in it; or none had this node among its nodes within `timeout` and there is a copy; or it was removed, which
/// it has to say. Until then `report` hears why not.
pub async fn wait_until_servable(
    configuration: &Configuration,
    identities: &Identities,
    timeout: Duration,
    clock: &Clock,
    report: impl Fn(&str),
) {
    let mut progress = configuration.subscribe();
    let deadline = tokio::time::sleep(timeout);
    tokio::pin!(deadline);
    let mut is_late = false;
    loop {
        let current = progress.borrow_and_update().clone();
        if let Some(Refusal::Removed { .. }) = configuration.standing().refusal() {
            // Whoever asks is told so.
            return;
        }
        let has_key = identities.signing_key(&configuration.index()).is_some();
        if current.is_confirmed && has_key {
            return;
        }
        // A control plane that answers is worth waiting for, also if its answer takes a while. One that does not know this node says nothing
        // about it: its database may be of before the node joined, and a node that was removed is told so.
        let is_alone = current.connection != Connection::Connected;
        if is_late && is_alone && !current.is_confirmed && current.state.is_some() {
            tracing::warn!(
                "no control plane sent a configuration within {timeout:?}: serving from the copy, {}",
                current.describe(clock())
            );
            return;
        }
        report(&why_waiting(&current, has_key));
        tokio::select! {
            () = &mut deadline, if !is_late => is_late = true,
            () = wait_for_change(&mut progress) => {}
        }
    }
}

/// Returns at the next progress.
pub async fn wait_for_change(progress: &mut watch::Receiver<Progress>) {
    progress
        .changed()
        .await
        .expect("the configuration outlives those who wait for it");
}

fn why_waiting(progress: &Progress, has_key: bool) -> String {
    if progress.is_confirmed && !has_key {
        return "this node's signing key is not in the configuration yet".to_owned();
    }
    match (&progress.connection, progress.state) {
        (Connection::Refused(reason), _) => {
            format!("the control plane refuses this node: {reason}")
        }
        (_, Some(_)) => "the control plane's current configuration is not applied yet".to_owned(),
        (_, None) => {
            "there is no copy of the configuration to serve from, and no control plane has sent one"
                .to_owned()
        }
    }
}
