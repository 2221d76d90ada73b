//! `wharfinger node`: asking a running registry node how it stands.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use registry_node::collecting::CollectionStatus;
use registry_node::status::{self, Status, StatusError};
use time::format_description::well_known::Rfc3339;

/// A registry node that runs on this machine
#[derive(Subcommand)]
pub(crate) enum NodeCommand {
    /// Show how a running node stands; exits with 0 when it serves, 1 when it does not, 2 when it cannot be asked
    Status(StatusArguments),
}

#[derive(clap::Args)]
pub(crate) struct StatusArguments {
    /// URL of the node's metrics port
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9465")]
    metrics: String,
    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// How an answer for an operator is written.
#[derive(Clone, Copy, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// Why the status cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error("cannot write to standard output")]
    Output(#[source] std::io::Error),
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
}

/// The exit codes of `status`.
const NOT_SERVING: u8 = 1;
const UNREACHABLE: u8 = 2;

pub(crate) fn run(command: &NodeCommand) -> ExitCode {
    let NodeCommand::Status(arguments) = command;
    match show(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_SERVING),
        Err(error) => {
            let _one = crate::fail(error);
            ExitCode::from(UNREACHABLE)
        }
    }
}

/// True when the node serves.
fn show(arguments: &StatusArguments) -> Result<bool, NodeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(NodeError::Runtime)?;
    let status = runtime.block_on(status::fetch(&arguments.metrics))?;
    let text = match arguments.output {
        Output::Table => table(&status),
        Output::Json => {
            let mut text =
                serde_json::to_string_pretty(&status).expect("a status has string keys only");
            text.push('\n');
            text
        }
    };
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())
        .map_err(NodeError::Output)?;
    Ok(status.is_serving)
}

fn table(status: &Status) -> String {
    let none = || "-".to_owned();
    let seconds = |seconds: Option<f64>| seconds.map_or_else(none, |value| format!("{value:.1} s"));
    let standing = match (status.is_removed, status.is_fenced, status.is_serving) {
        (true, ..) => "removed",
        (_, true, _) => "fenced",
        (_, _, true) => "serving",
        _ => "not ready",
    };
    let connection = match &status.connection_reason {
        Some(reason) => format!("{}: {reason}", status.connection),
        None => status.connection.clone(),
    };
    let id = status.node_id.map_or_else(none, |id| id.to_string());
    let epoch = status.epoch.map_or_else(none, |epoch| epoch.to_string());
    let bound = status
        .staleness_bound_seconds
        .map_or_else(|| "none".to_owned(), |bound| format!("{bound} s"));
    let mut lines = vec![
        ("node", id),
        ("region", status.region.clone()),
        ("state", standing.to_owned()),
        ("epoch", epoch),
        ("revision", status.revision.to_string()),
        ("lag", status.lag.to_string()),
        ("age", seconds(status.age_seconds)),
        (
            "confirmed",
            match status.unconfirmed_seconds {
                Some(value) => format!("{value:.1} s ago"),
                None => "not since it or its machine started".to_owned(),
            },
        ),
        ("staleness bound", bound),
        ("control plane", connection),
        ("rejected", status.rejected.to_string()),
        (
            "clock offset",
            format!("{:.3} s", status.clock_offset_seconds),
        ),
        (
            "signing key",
            status.signing_key.clone().unwrap_or_else(none),
        ),
    ];
    lines.push(("collection", collection(&status.collection)));
    if let Some(divergence) = &status.divergence {
        lines.push(("divergence", divergence.clone()));
    }
    lines.extend(
        status
            .reasons
            .iter()
            .map(|reason| ("reason", reason.clone())),
    );
    let mut text = String::new();
    for (name, value) in lines {
        writeln!(text, "{name:<16} {value}").expect("a string takes all text");
    }
    text
}

/// How collection of content stands, in a few words.
fn collection(status: &CollectionStatus) -> String {
    let now = match (&status.registry, &status.stage) {
        (Some(registry), Some(stage)) => {
            format!("registry {registry}: {stage}, {}", status.looked_at)
        }
        _ => "resting".to_owned(),
    };
    let last = status
        .last_pass_at
        .and_then(|time| time.format(&Rfc3339).ok())
        .map_or_else(String::new, |time| format!(", the last at {time}"));
    format!(
        "{now}; {} passes since the start ({} failed){last}",
        status.passes, status.failed_passes
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            node_id: Some(uuid::Uuid::from_u128(7)),
            region: "westus".to_owned(),
            is_serving: true,
            reasons: Vec::new(),
            epoch: None,
            revision: 12,
            lag: 0,
            age_seconds: Some(0.25),
            unconfirmed_seconds: None,
            staleness_bound_seconds: Some(60),
            is_fenced: false,
            is_removed: false,
            connection: "connected".to_owned(),
            connection_reason: None,
            rejected: 0,
            divergence: None,
            clock_offset_seconds: 0.001,
            signing_key: None,
            collection: Default::default(),
        }
    }

    #[test]
    fn the_table_says_what_an_operator_looks_for() {
        let serving = table(&status());
        for line in [
            "state            serving",
            "revision         12",
            "staleness bound  60 s",
            "control plane    connected",
        ] {
            assert!(serving.lines().any(|found| found == line), "{serving}");
        }
        let fenced = table(&Status {
            is_serving: false,
            is_fenced: true,
            reasons: vec!["no control plane for 61 seconds".to_owned()],
            ..status()
        });
        assert!(fenced.contains("state            fenced"), "{fenced}");
        assert!(
            fenced.contains("reason           no control plane"),
            "{fenced}"
        );
    }
}
