//! `wharfinger admin region`: the regions where registries can live.

use clap::Subcommand;
use service::clock::Clock;
use service::configuration::DatabaseUrlArguments;
use store::installation::Region;

use super::{AdminError, display_name as readable, open, recorded, say};

/// Regions where registries can live
#[derive(Subcommand)]
pub(crate) enum RegionCommand {
    /// Add a region, or change its display name
    Create(CreateArguments),
}

#[derive(clap::Args)]
pub(crate) struct CreateArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
    /// Name: lower-case letters and digits
    name: String,
    /// Name as people read it; the name itself when left out
    #[arg(long)]
    display_name: Option<String>,
}

pub(super) async fn run(command: &RegionCommand, clock: &Clock) -> Result<(), AdminError> {
    let RegionCommand::Create(arguments) = command;
    let region = parse(&arguments.name, arguments.display_name.as_deref())?;
    let store = open(&arguments.database).await?;
    let resource = format!("/providers/Wharfinger/regions/{}", region.name);
    let work = async { Ok(store.region_put(&region).await?) };
    recorded(&store, clock, "Wharfinger/regions/write", &resource, work).await?;
    say(&format!("region {} is there", region.name))
}

/// A region from its typed name: what ARM calls a location's short name.
pub(super) fn parse(name: &str, display_name: Option<&str>) -> Result<Region, AdminError> {
    let valid = (2..=50).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !valid {
        return Err(AdminError::Argument {
            argument: "region",
            value: name.to_owned(),
            rule: "a region's name has 2 to 50 lower-case letters and digits",
        });
    }
    let display_name = readable("display-name", display_name.unwrap_or(name))?;
    Ok(Region {
        name: name.to_owned(),
        display_name: display_name.to_owned(),
    })
}
