//! `wharfinger content usage`.

use std::process::ExitCode;

use registry_node::content::{CountedUsage, RepositoryUsage};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::{ContentCommandError, Root, bytes_text, of, print, print_json, table};
use crate::node::Output;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    root: Root,
    /// Each manifest, with the hour of its last pull
    #[arg(long)]
    manifests: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RegistryUsage {
    registry: Uuid,
    #[serde(flatten)]
    usage: CountedUsage,
}

pub(super) async fn run(arguments: &Arguments) -> Result<ExitCode, ContentCommandError> {
    let opened = arguments.root.open().await?;
    let mut counted = Vec::new();
    for registry in &opened.registries {
        let usage = opened
            .content
            .count_usage(*registry, &opened.progress)
            .await
            .map_err(of(*registry))?;
        opened
            .bar
            .done_with(*registry, &format!("{} bytes", usage.bytes));
        counted.push(RegistryUsage {
            registry: *registry,
            usage,
        });
    }
    drop(opened.bar);
    match arguments.root.output {
        Output::Json => print_json(&counted)?,
        Output::Table => print(&table(&rows(&counted, arguments.manifests)))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(counted: &[RegistryUsage], with_manifests: bool) -> Vec<Vec<String>> {
    let header = ["", "size", "blobs", "manifests", "tags", "last pulled"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for RegistryUsage { registry, usage } in counted {
        let repositories = usage.repositories.iter();
        let manifests: usize = repositories.clone().map(|one| one.manifests.len()).sum();
        let tags: u64 = repositories.clone().map(|one| one.tags).sum();
        let last_pulled = repositories.filter_map(RepositoryUsage::last_pulled).max();
        rows.push(vec![
            registry.to_string(),
            bytes_text(usage.bytes),
            usage.blobs.to_string(),
            manifests.to_string(),
            tags.to_string(),
            time_text(last_pulled),
        ]);
        for repository in &usage.repositories {
            rows.push(vec![
                format!("  {}", repository.name.as_str()),
                bytes_text(repository.bytes),
                repository.blobs.to_string(),
                repository.manifests.len().to_string(),
                repository.tags.to_string(),
                time_text(repository.last_pulled()),
            ]);
            if with_manifests {
                rows.extend(manifest_rows(repository));
            }
        }
    }
    rows
}

fn manifest_rows(repository: &RepositoryUsage) -> impl Iterator<Item = Vec<String>> {
    repository.manifests.iter().map(|manifest| {
        vec![
            format!("    {}", manifest.digest),
            bytes_text(manifest.bytes),
            String::new(),
            String::new(),
            String::new(),
            time_text(manifest.last_pulled),
        ]
    })
}

fn time_text(time: Option<OffsetDateTime>) -> String {
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "-".to_owned())
}
