//! `wharfinger admin node`: letting registry nodes join.

use std::path::PathBuf;

use clap::Subcommand;
use config_documents::Region;
use credentials::SystemRandomness;
use service::configuration::{DatabaseUrlArguments, write_secret_file};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{AdminError, open, say};

/// Registry nodes
#[derive(Subcommand)]
pub(crate) enum NodeCommand {
    /// Make a one-time token with which one node can join a region
    Create(CreateArguments),
}

#[derive(clap::Args)]
pub(crate) struct CreateArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
    /// The region that the node will serve
    #[arg(long)]
    region: String,
    /// File to write the token to, readable by its owner only; without it the token is printed
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
}

pub(super) async fn run(command: &NodeCommand) -> Result<(), AdminError> {
    let NodeCommand::Create(arguments) = command;
    let store = open(&arguments.database)?;
    let region = Region(arguments.region.clone());
    let now = OffsetDateTime::now_utc();
    let token =
        store::nodes::join_token_create(&store, Uuid::now_v7(), &region, &SystemRandomness, now)
            .await?
            .ok_or_else(|| AdminError::NoSuchRegion(arguments.region.clone()))?;
    match &arguments.join_token_file {
        Some(path) => {
            write_secret_file(path, token.secret.expose().as_bytes())?;
            say(&format!(
                "join token for one node of region {region} in {}; it is good until {}",
                path.display(),
                token.expires_at
            ))
        }
        None => say(token.secret.expose()),
    }
}
