//! `wharfinger admin key-encryption-key`: replacing the key that seals secrets at rest, while control planes serve.
//!
//! The new key goes into the file of every control plane first (each takes a changed file up within seconds); then `rotate` has it seal, waits
//! until every running control plane seals with it, and seals anew whatever was sealed with another. Typed again, it goes on where it was.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Subcommand;
use control_plane::sealing::{KeyFile, reseal};
use credentials::KeyRing;
use service::clock::Clock;
use service::configuration::DatabaseUrlArguments;
use store::Store;

use super::{AdminError, open, recorded, say};

/// How long control planes are waited for; one that says nothing for 15 s does not count.
const AGREEMENT_WATCHED: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The key that seals secrets at rest
#[derive(Subcommand)]
pub(crate) enum KeyEncryptionKeyCommand {
    /// Show how much is sealed with each key, and which keys each running control plane has
    Status(StatusArguments),
    /// Have the first key of the file seal, and seal everything anew with it, while control planes serve
    Rotate(RotateArguments),
}

#[derive(clap::Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
}

#[derive(clap::Args)]
pub(crate) struct RotateArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
    /// File with the key-encryption keys, the new one first, the present one among the others
    #[arg(long, value_name = "FILE")]
    key_encryption_key_file: PathBuf,
}

pub(super) async fn run(
    command: &KeyEncryptionKeyCommand,
    clock: &Clock,
) -> Result<(), AdminError> {
    match command {
        KeyEncryptionKeyCommand::Status(arguments) => status(arguments).await,
        KeyEncryptionKeyCommand::Rotate(arguments) => {
            let store = open(&arguments.database).await?;
            let key_ring = KeyFile(arguments.key_encryption_key_file.clone()).read()?;
            let resource = format!(
                "/providers/Wharfinger/keyEncryptionKeys/{}",
                key_ring.fingerprint()
            );
            let operation = "Wharfinger/keyEncryptionKeys/rotate/action";
            recorded(
                &store,
                clock,
                operation,
                &resource,
                rotate(&store, &key_ring),
            )
            .await
        }
    }
}

async fn status(arguments: &StatusArguments) -> Result<(), AdminError> {
    let store = open(&arguments.database).await?;
    let seals = store.installation().await?.key_encryption_fingerprint;
    say(&format!("key {seals} seals"))?;
    for sealed in store.sealed_count().await? {
        say(&format!(
            "sealed with key {}: {}",
            sealed.fingerprint, sealed.count
        ))?;
    }
    for control_plane in store.control_plane_list().await? {
        say(&format!(
            "control plane {} seals with key {} and has: {}",
            control_plane.instance_id,
            control_plane.sealing_fingerprint,
            control_plane.key_fingerprints.join(", ")
        ))?;
    }
    Ok(())
}

async fn rotate(store: &Store, key_ring: &KeyRing) -> Result<(), AdminError> {
    let present = store.installation().await?.key_encryption_fingerprint;
    let new = key_ring.fingerprint();
    if !key_ring.fingerprints().contains(&present) {
        return Err(AdminError::KeyNotInFile(present));
    }
    let lacking: Vec<String> = store
        .control_plane_list()
        .await?
        .into_iter()
        .filter(|control_plane| !control_plane.key_fingerprints.contains(&new))
        .map(|control_plane| control_plane.instance_id.to_string())
        .collect();
    if !lacking.is_empty() {
        return Err(AdminError::KeyNotEverywhere {
            fingerprint: new,
            control_planes: lacking.join(", "),
        });
    }
    if store.sealing_key_set(&new).await? {
        say(&format!("key {new} is to seal, in the place of {present}"))?;
    }
    agreed(store, &new).await?;
    let resealed = reseal(store, key_ring).await?;
    say(&format!(
        "sealed anew: {resealed}; everything is sealed with key {new}, and other keys can leave the files"
    ))
}

/// Waits until every running control plane seals with a key.
async fn agreed(store: &Store, fingerprint: &str) -> Result<(), AdminError> {
    let started = Instant::now();
    loop {
        let others = store.control_plane_list().await?;
        let is_agreed = others
            .iter()
            .all(|control_plane| control_plane.sealing_fingerprint == fingerprint);
        if is_agreed {
            return Ok(());
        }
        if started.elapsed() >= AGREEMENT_WATCHED {
            return Err(AdminError::NotSealingYet(fingerprint.to_owned()));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
