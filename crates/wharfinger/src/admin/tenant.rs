//! `wharfinger admin tenant`: the installation's tenant, of which there is one.

use clap::Subcommand;
use service::clock::Clock;
use service::configuration::DatabaseUrlArguments;

use super::{AdminError, display_name, open, recorded, say};

/// The tenant
#[derive(Subcommand)]
pub(crate) enum TenantCommand {
    /// Show its id and name
    Show(ShowArguments),
    /// Give it another name; control planes show it when they are started again
    Rename(RenameArguments),
}

#[derive(clap::Args)]
pub(crate) struct ShowArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
}

#[derive(clap::Args)]
pub(crate) struct RenameArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
    /// The new name
    name: String,
}

pub(super) async fn run(command: &TenantCommand, clock: &Clock) -> Result<(), AdminError> {
    match command {
        TenantCommand::Show(arguments) => {
            let installation = open(&arguments.database).await?.installation().await?;
            say(&format!(
                "{}  {}",
                installation.tenant_id, installation.tenant_display_name
            ))
        }
        TenantCommand::Rename(arguments) => {
            let name = display_name("name", &arguments.name)?;
            let store = open(&arguments.database).await?;
            let rename = async { Ok(store.tenant_rename(name).await?) };
            let tenant = "/providers/Wharfinger/tenant";
            recorded(&store, clock, "Wharfinger/tenant/write", tenant, rename).await?;
            say(&format!("the tenant is called {name}"))
        }
    }
}
