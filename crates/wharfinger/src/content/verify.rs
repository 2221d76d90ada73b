//! `wharfinger content verify`.

use std::process::ExitCode;

use registry_node::content::{Fault, VerifyOptions, VerifyReport};
use serde::Serialize;
use uuid::Uuid;

use super::{ContentCommandError, FAULTY, Root, bytes_text, of, print, print_json};
use crate::node::Output;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    root: Root,
    /// Read all bytes and hash them, not only look at their sizes
    #[arg(long)]
    digests: bool,
}

#[derive(Serialize)]
struct Outcome {
    registries: Vec<RegistryOutcome>,
    faults: Vec<Advised>,
}

#[derive(Serialize)]
struct RegistryOutcome {
    registry: Uuid,
    #[serde(flatten)]
    report: VerifyReport,
}

/// A fault with what to do about it.
#[derive(Serialize)]
struct Advised {
    #[serde(flatten)]
    fault: Fault,
    advice: &'static str,
}

pub(super) async fn run(arguments: &Arguments) -> Result<ExitCode, ContentCommandError> {
    let opened = arguments.root.open().await?;
    let options = VerifyOptions {
        with_digests: arguments.digests,
        progress: opened.progress.clone(),
    };
    let mut outcome = Outcome {
        registries: Vec::new(),
        faults: Vec::new(),
    };
    for registry in &opened.registries {
        let tell = |fault: Fault| {
            let advice = fault.kind.advice();
            outcome.faults.push(Advised { fault, advice });
        };
        let verified = opened.content.verify(*registry, &options, tell).await;
        let report = verified.map_err(of(*registry))?;
        opened
            .bar
            .done_with(*registry, &format!("{} faults", report.faults));
        outcome.registries.push(RegistryOutcome {
            registry: *registry,
            report,
        });
    }
    drop(opened.bar);
    match arguments.root.output {
        Output::Json => print_json(&outcome)?,
        Output::Table => print(&text(&outcome))?,
    }
    Ok(match outcome.faults.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAULTY),
    })
}

fn text(outcome: &Outcome) -> String {
    let mut lines = Vec::new();
    for Advised { fault, advice } in &outcome.faults {
        lines.push(format!(
            "registry {}, repository {}: {}: {} ({}): {advice}",
            fault.registry,
            fault.repository.as_str(),
            kind_text(fault),
            fault.subject,
            fault.detail
        ));
    }
    for RegistryOutcome { registry, report } in &outcome.registries {
        lines.push(format!(
            "registry {registry}: {} repositories, {} tags, {} manifests, {} blobs of {}: {}",
            report.repositories,
            report.tags,
            report.manifests,
            report.blobs,
            bytes_text(report.bytes),
            match report.faults {
                0 => "whole".to_owned(),
                1 => "1 fault".to_owned(),
                count => format!("{count} faults"),
            }
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn kind_text(fault: &Fault) -> String {
    let kind = serde_json::to_value(fault.kind).unwrap_or_default();
    kind.as_str().unwrap_or_default().replace('-', " ")
}
