//! `wharfinger admin storage-limit`: how much registries may store.

use clap::Subcommand;
use service::clock::Clock;
use service::configuration::DatabaseUrlArguments;
use store::registries::STORAGE_SKUS;

use super::node::announce;
use super::{AdminError, open, recorded, say};

/// How much registries may store; there is no limit until one is set
#[derive(Subcommand)]
pub(crate) enum StorageLimitCommand {
    /// Set or lift the limit
    Set(SetArguments),
    /// Show the limits
    List(ListArguments),
}

#[derive(clap::Args)]
pub(crate) struct SetArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
    /// What each registry may store: bytes, also with KiB, MiB, GiB or TiB behind the number, or `none`
    limit: String,
    /// Only for registries of this SKU (Basic, Standard or Premium); for all when left out
    #[arg(long)]
    sku: Option<String>,
}

#[derive(clap::Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
}

pub(super) async fn run(command: &StorageLimitCommand, clock: &Clock) -> Result<(), AdminError> {
    match command {
        StorageLimitCommand::Set(arguments) => set(arguments, clock).await,
        StorageLimitCommand::List(arguments) => list(arguments).await,
    }
}

async fn set(arguments: &SetArguments, clock: &Clock) -> Result<(), AdminError> {
    let limit_bytes = parse_limit(&arguments.limit)?;
    let skus = match &arguments.sku {
        Some(sku) => vec![parse_sku(sku)?],
        None => STORAGE_SKUS.to_vec(),
    };
    let store = open(&arguments.database).await?;
    let work = async { Ok(store.storage_limit_set(&skus, limit_bytes).await?) };
    let resource = "/providers/Wharfinger/storageLimits";
    let published = recorded(
        &store,
        clock,
        "Wharfinger/storageLimits/write",
        resource,
        work,
    )
    .await?;
    if published.is_some() {
        announce(&store).await;
    }
    let in_force = published.map_or_else(String::new, |published| {
        format!(" (revision {})", published.revision)
    });
    for sku in skus {
        say(&format!("{}{in_force}", describe(sku, limit_bytes)))?;
    }
    Ok(())
}

async fn list(arguments: &ListArguments) -> Result<(), AdminError> {
    let store = open(&arguments.database).await?;
    for limit in store.storage_limit_list().await? {
        say(&describe(&limit.sku, limit.limit_bytes))?;
    }
    Ok(())
}

fn describe(sku: &str, limit_bytes: Option<u64>) -> String {
    match limit_bytes {
        Some(bytes) => format!("{sku}: each registry may store {bytes} bytes"),
        None => format!("{sku}: no limit"),
    }
}

fn parse_sku(text: &str) -> Result<&'static str, AdminError> {
    STORAGE_SKUS
        .into_iter()
        .find(|sku| sku.eq_ignore_ascii_case(text))
        .ok_or_else(|| AdminError::Argument {
            argument: "sku",
            value: text.to_owned(),
            rule: "it is Basic, Standard or Premium",
        })
}

fn parse_limit(text: &str) -> Result<Option<u64>, AdminError> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" => Some(1),
        "KiB" => Some(1_u64 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    let bytes = factor
        .zip(digits.trim().parse::<u64>().ok())
        .and_then(|(factor, number)| number.checked_mul(factor))
        .filter(|bytes| i64::try_from(*bytes).is_ok());
    bytes.map(Some).ok_or_else(|| AdminError::Argument {
        argument: "limit",
        value: text.to_owned(),
        rule: "it is a number of bytes below 8 EiB, also with KiB, MiB, GiB or TiB behind it, or none",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_bytes_with_or_without_a_unit() {
        let read = |text: &str| parse_limit(text).ok();
        assert_eq!(read("none"), Some(None));
        assert_eq!(read("1000"), Some(Some(1000)));
        assert_eq!(read("10GiB"), Some(Some(10_737_418_240)));
        assert_eq!(read("2 MiB"), Some(Some(2_097_152)));
        for text in [
            "",
            "GiB",
            "10GB",
            "-1",
            "1.5GiB",
            "99999999TiB",
            "8388608TiB",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
