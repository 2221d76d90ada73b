//! `wharfinger admin epoch`: histories of configuration.

use clap::Subcommand;
use service::clock::Clock;
use service::configuration::DatabaseUrlArguments;
use store::config::{self, Cause};

use super::{AdminError, open, recorded, say};

/// Histories of configuration, which begin anew by themselves when the database was restored or failed over
#[derive(Subcommand)]
pub(crate) enum EpochCommand {
    /// Begin a new one: every node gets a whole snapshot
    Begin(BeginArguments),
}

#[derive(clap::Args)]
pub(crate) struct BeginArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
}

pub(super) async fn run(command: &EpochCommand, clock: &Clock) -> Result<(), AdminError> {
    let EpochCommand::Begin(arguments) = command;
    let store = open(&arguments.database).await?;
    let before = config::head(&store).await?.position;
    let work = async { Ok(config::epoch_begin(&store, before.epoch, Cause::Operator).await?) };
    let resource = "/providers/Wharfinger/epochs";
    let begun = recorded(
        &store,
        clock,
        "Wharfinger/epochs/begin/action",
        resource,
        work,
    )
    .await?;
    match begun {
        Some(epoch) => say(&format!(
            "epoch {epoch} has begun at revision {}, in the place of {}; every node gets a snapshot",
            before.revision, before.epoch
        )),
        None => say("another epoch has begun meanwhile; nothing was done"),
    }
}
