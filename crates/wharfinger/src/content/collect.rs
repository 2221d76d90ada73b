//! `wharfinger content collect`.

use std::process::ExitCode;
use std::time::Duration;

use registry_node::content::{
    CollectOptions, CollectionReport, Content, ExclusiveError, Pace, RetentionRules,
};
use registry_node::limits::{EXCLUSIVE_WAIT, GRACE_PERIOD, GRACE_PERIOD_MINIMUM};
use serde::Serialize;
use uuid::Uuid;

use super::{ContentCommandError, Opened, Root, bytes_text, of, print, print_json};
use crate::node::Output;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    root: Root,
    /// Change nothing; say what would go
    #[arg(long)]
    dry_run: bool,
    /// Let all nodes refuse pushes and deletions meanwhile: for stores that cannot delete conditionally
    #[arg(long, conflicts_with = "dry_run")]
    exclusive: bool,
    /// Leave alone what was touched within this time, at least 3600
    #[arg(long, value_name = "SECONDS", default_value_t = GRACE_PERIOD.as_secs())]
    grace_period: u64,
    /// Delete untagged manifests that were pushed at least so many days ago …
    #[arg(long, value_name = "DAYS")]
    days_since_push: Option<u32>,
    /// … and pulled at least so many days ago …
    #[arg(long, value_name = "DAYS")]
    days_since_pull: Option<u32>,
    /// … but not this many of each repository that were pushed last
    #[arg(long, value_name = "COUNT")]
    keep_newest: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RegistryOutcome {
    registry: Uuid,
    is_dry_run: bool,
    #[serde(flatten)]
    report: CollectionReport,
}

pub(super) async fn run(arguments: &Arguments) -> Result<ExitCode, ContentCommandError> {
    let grace_period = Duration::from_secs(arguments.grace_period);
    if grace_period < GRACE_PERIOD_MINIMUM {
        return Err(ContentCommandError::GracePeriod(arguments.grace_period));
    }
    let opened = arguments.root.open().await?;
    let is_alone = arguments.exclusive || arguments.dry_run;
    if !is_alone && !opened.content.collects_online() {
        return Err(ContentCommandError::NotOnline);
    }
    let rules = RetentionRules {
        days_since_push: arguments.days_since_push,
        days_since_pull: arguments.days_since_pull,
        keep_newest: arguments.keep_newest,
    };
    let options = CollectOptions {
        grace_period,
        retention: (!rules.is_empty()).then_some(rules),
        is_dry_run: arguments.dry_run,
        pace: Pace::Full,
        progress: opened.progress.clone(),
    };
    let outcomes = match arguments.exclusive {
        false => collect(&opened, &opened.content, &options).await?,
        true => collect_alone(&opened, &options).await?,
    };
    drop(opened.bar);
    match arguments.root.output {
        Output::Json => print_json(&outcomes)?,
        Output::Table => print(&text(&outcomes))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn collect(
    opened: &Opened,
    content: &Content,
    options: &CollectOptions,
) -> Result<Vec<RegistryOutcome>, ContentCommandError> {
    let mut outcomes = Vec::new();
    for registry in &opened.registries {
        let report = content
            .collect(*registry, options)
            .await
            .map_err(of(*registry))?;
        opened.bar.done_with(*registry, "collected");
        outcomes.push(RegistryOutcome {
            registry: *registry,
            is_dry_run: options.is_dry_run,
            report,
        });
    }
    Ok(outcomes)
}

async fn collect_alone(
    opened: &Opened,
    options: &CollectOptions,
) -> Result<Vec<RegistryOutcome>, ContentCommandError> {
    opened.bar.say(&format!(
        "pushes and deletions are refused from now on; waiting {} seconds for those under way",
        EXCLUSIVE_WAIT.as_secs()
    ));
    let mut exclusive = opened.content.collect_alone().await?;
    let content = exclusive.content().clone();
    let collected = tokio::select! {
        collected = exclusive.run(collect(opened, &content, options)) => collected,
        // Interrupted: nodes are let go at once and not when the record expires.
        _ = tokio::signal::ctrl_c() => Err(ExclusiveError::Interrupted.into()),
    };
    let ended = exclusive.end().await;
    let outcomes = collected?;
    ended?;
    opened.bar.say("pushes and deletions are taken again");
    Ok(outcomes)
}

fn text(outcomes: &[RegistryOutcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        text.push_str(&line(outcome));
        text.push('\n');
    }
    text
}

fn line(outcome: &RegistryOutcome) -> String {
    let RegistryOutcome {
        registry, report, ..
    } = outcome;
    let verb = match outcome.is_dry_run {
        true => "would remove",
        false => "removed",
    };
    let removed = &report.removed;
    let mut parts: Vec<String> = [
        (removed.manifests, "untagged manifests"),
        (removed.deletions, "manifests whose deletion was begun"),
        (removed.links, "unused blobs of repositories"),
        (removed.blobs, "unused blobs"),
        (removed.uploads, "idle uploads"),
    ]
    .iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    if removed.objects > 0 {
        let bytes = bytes_text(removed.bytes);
        parts.push(format!("{} objects of {bytes}", removed.objects));
    }
    let removed = match parts.is_empty() {
        true => "nothing".to_owned(),
        false => parts.join(", "),
    };
    let left = match report.is_gone {
        true => "the registry was deleted".to_owned(),
        false => format!(
            "{} manifests and {} blobs of {} stay",
            report.manifests,
            report.blobs,
            bytes_text(report.bytes)
        ),
    };
    let unreadable = match report.unreadable {
        0 => String::new(),
        count => format!("; {count} records cannot be read: see `wharfinger content verify`"),
    };
    format!("registry {registry}: {verb} {removed}; {left}{unreadable}")
}
