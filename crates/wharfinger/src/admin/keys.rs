//! `wharfinger admin keys`: the keys with which the control plane signs access tokens.

use std::path::PathBuf;
use std::time::Instant;

use clap::Subcommand;
use control_plane::sealing::KeyFile;
use control_plane::sign_in::{FormerKeys, KEYS_INTERVAL, rotate_key};
use service::clock::Clock;
use service::configuration::DatabaseUrlArguments;
use store::Store;
use store::config::Published;
use store::nodes::{self, NodeState};

use super::node::{POLL_INTERVAL, REMOVAL_WATCHED, announce, describe, missing};
use super::{AdminError, open, recorded, say, time_text};

/// Keys that sign access tokens
#[derive(Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a new key; nobody has to sign in again
    Rotate(RotateArguments),
}

#[derive(clap::Args)]
pub(crate) struct RotateArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
    /// File with the key-encryption keys, 32 bytes in base64 a line
    #[arg(long, value_name = "FILE")]
    key_encryption_key_file: PathBuf,
    /// Let nothing count any more that was signed with the keys before, as when somebody else may have one: access tokens are refused, and
    /// clients get new ones
    #[arg(long)]
    revoke: bool,
}

pub(super) async fn run(command: &KeysCommand, clock: &Clock) -> Result<(), AdminError> {
    let KeysCommand::Rotate(arguments) = command;
    let store = open(&arguments.database).await?;
    let key_ring = KeyFile(arguments.key_encryption_key_file.clone()).read()?;
    let former = if arguments.revoke {
        FormerKeys::Revoke
    } else {
        FormerKeys::Retire
    };
    let work = async { Ok(rotate_key(&store, &key_ring, former, clock()).await?) };
    let operation = match former {
        FormerKeys::Retire => "Wharfinger/signInKeys/rotate/action",
        FormerKeys::Revoke => "Wharfinger/signInKeys/revoke/action",
    };
    let rotation = recorded(
        &store,
        clock,
        operation,
        "/providers/Wharfinger/signInKeys",
        work,
    )
    .await?;
    announce(&store).await;
    match former {
        FormerKeys::Retire => say(&format!(
            "key {} signs from {} on (revision {}); what the keys before signed is good until it expires, at the latest at {}",
            rotation.kid,
            time_text(rotation.signs_from),
            rotation.published.revision,
            time_text(rotation.former_end_at)
        )),
        FormerKeys::Revoke => {
            say(&format!(
                "key {} signs from now on (revision {}); waiting until nobody takes what the keys before signed",
                rotation.kid, rotation.published.revision
            ))?;
            watch_revocation(&store, &rotation.published).await
        }
    }
}

/// Waits until control planes and nodes know it.
async fn watch_revocation(store: &Store, published: &Published) -> Result<(), AdminError> {
    let started = Instant::now();
    loop {
        let (lineage, nodes) = nodes::survey(store).await?;
        if !lineage.holds(published) {
            say(
                "pending: the database was restored or failed over meanwhile, and the new key may be lost; rotate again",
            )?;
            return Err(AdminError::NotInForce);
        }
        let (missing, is_waiting) = missing(&nodes, published);
        // Control planes look by themselves; one that serves has looked by then.
        if missing.is_empty() && started.elapsed() >= 2 * KEYS_INTERVAL {
            return say(
                "complete: every control plane and every node refuses what the keys before signed. Whoever uses az begins with az logout and az login",
            );
        }
        if !missing.is_empty() && (!is_waiting || started.elapsed() >= REMOVAL_WATCHED) {
            return not_in_force(&missing, is_waiting);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn not_in_force(missing: &[&NodeState], is_waiting: bool) -> Result<(), AdminError> {
    let outcome = if is_waiting { "pending" } else { "partial" };
    let missing: Vec<String> = missing.iter().map(|node| describe(node)).collect();
    say(&format!(
        "{outcome}: these nodes may still take what the keys before signed, until they are connected again: {}",
        missing.join(", ")
    ))?;
    Err(AdminError::NotInForce)
}
