//! `wharfinger admin node`: letting registry nodes join, seeing what each has, renewing what one shows and signs with, and removing one.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Subcommand, ValueEnum};
use config_documents::Region;
use credentials::SystemRandomness;
use serde::Serialize;
use service::clock::Clock;
use service::configuration::{DatabaseUrlArguments, write_secret_file};
use store::Store;
use store::config::{self, OPERATOR, Position, Published};
use store::nodes::{self, LEASE, NodeState, RETIRED_KEY_VALIDITY};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{AdminError, open, recorded, say, time_text};

/// How long a removal is watched: nodes that do not answer are out of their lease by then.
pub(super) const REMOVAL_WATCHED: Duration = Duration::from_secs(LEASE.as_secs() + 5);

/// How long a rotation is watched while the node is connected.
const ROTATION_WATCHED: Duration = Duration::from_secs(60);

pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Registry nodes
#[derive(Subcommand)]
pub(crate) enum NodeCommand {
    /// Make a one-time token with which one node can join a region
    Create(CreateArguments),
    /// Show every node, and what each has of the configuration
    List(ListArguments),
    /// Give a node a new credential and a new signing key
    Rotate(NodeArguments),
    /// Remove a node: its stream, its lease and its signing key end, and it refuses every request once it is told
    Remove(NodeArguments),
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

#[derive(clap::Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(clap::Args)]
pub(crate) struct NodeArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
    /// The node's id, as `wharfinger admin node list` shows it
    #[arg(value_name = "NODE-ID")]
    node_id: Uuid,
}

/// How a list is written.
#[derive(Clone, Copy, Default, ValueEnum)]
enum Output {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

pub(super) async fn run(command: &NodeCommand, clock: &Clock) -> Result<(), AdminError> {
    match command {
        NodeCommand::Create(arguments) => create(arguments, clock).await,
        NodeCommand::List(arguments) => list(arguments).await,
        NodeCommand::Rotate(arguments) => rotate(arguments, clock).await,
        NodeCommand::Remove(arguments) => remove(arguments, clock).await,
    }
}

async fn create(arguments: &CreateArguments, clock: &Clock) -> Result<(), AdminError> {
    let store = open(&arguments.database).await?;
    let region = Region(arguments.region.clone());
    let now = clock();
    let token_id = Uuid::now_v7();
    let work = async {
        store::activity::detail("region", region.as_str());
        nodes::join_token_create(&store, token_id, &region, &SystemRandomness, now)
            .await?
            .ok_or_else(|| AdminError::NoSuchRegion(arguments.region.clone()))
    };
    let resource = format!("/providers/Wharfinger/nodeJoinTokens/{token_id}");
    let token = recorded(
        &store,
        clock,
        "Wharfinger/nodeJoinTokens/write",
        &resource,
        work,
    )
    .await?;
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

/// A node as a list shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    node_id: Uuid,
    region: String,
    /// Host and port at which other nodes reach it.
    address: String,
    #[serde(with = "time::serde::rfc3339")]
    enrolled_at: OffsetDateTime,
    /// Whether its lease runs: it said something within the last ten seconds.
    is_live: bool,
    lease_seconds: f64,
    /// What it has applied of the head's epoch; 0 when nothing.
    revision: u64,
    lag: u64,
    /// Since it last said that it has applied something.
    age_seconds: Option<f64>,
    /// Documents that it cannot understand.
    rejected: usize,
    staleness_bound_seconds: Option<i64>,
    /// Whether it is certain to refuse requests.
    is_fenced: bool,
    /// Whether it was asked for a new credential and key and does not use them yet.
    is_rotation_pending: bool,
}

impl Shown {
    fn of(node: &NodeState, head: Position) -> Self {
        let progress = node
            .progress
            .as_ref()
            .filter(|progress| progress.epoch == head.epoch);
        let revision = progress.map_or(0, |progress| progress.revision.0);
        Self {
            node_id: node.node_id,
            region: node.region.0.clone(),
            address: node.address.clone(),
            enrolled_at: node.enrolled_at,
            is_live: !node.lease_remaining.is_zero(),
            lease_seconds: node.lease_remaining.as_secs_f64(),
            revision,
            lag: head.revision.0.saturating_sub(revision),
            age_seconds: node.age.map(|age| age.as_secs_f64()),
            rejected: progress.map_or(0, |progress| progress.rejected.len()),
            staleness_bound_seconds: node.staleness_bound_seconds,
            is_fenced: node.is_fenced,
            is_rotation_pending: node.rotation_requested,
        }
    }

    fn cells(&self) -> [String; 11] {
        let none = || "-".to_owned();
        let state = match (self.is_fenced, self.is_live, self.age_seconds) {
            (true, ..) => "fenced",
            (_, true, _) => "live",
            (_, _, Some(_)) => "away",
            _ => "never connected",
        };
        [
            self.node_id.to_string(),
            self.region.clone(),
            self.address.clone(),
            time_text(self.enrolled_at),
            state.to_owned(),
            self.revision.to_string(),
            self.lag.to_string(),
            self.age_seconds
                .map_or_else(none, |age| format!("{age:.1}s")),
            self.rejected.to_string(),
            self.staleness_bound_seconds
                .map_or_else(none, |bound| format!("{bound}s")),
            if self.is_rotation_pending {
                "pending"
            } else {
                "-"
            }
            .to_owned(),
        ]
    }
}

const HEADINGS: [&str; 11] = [
    "NODE", "REGION", "ADDRESS", "ENROLLED", "STATE", "REVISION", "LAG", "AGE", "REJECTED",
    "BOUND", "ROTATION",
];

async fn list(arguments: &ListArguments) -> Result<(), AdminError> {
    let store = open(&arguments.database).await?;
    let nodes = nodes::list(&store).await?;
    // Read last, so that no node is ahead of it.
    let head = config::head(&store).await?.position;
    let shown: Vec<Shown> = nodes.iter().map(|node| Shown::of(node, head)).collect();
    match arguments.output {
        Output::Table => say(table(&shown).trim_end()),
        Output::Json => {
            let text = serde_json::to_string_pretty(&shown).expect("these have string keys only");
            say(&text)
        }
    }
}

/// Columns as wide as what is in them.
fn table(nodes: &[Shown]) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(nodes.iter().map(Shown::cells));
    let mut widths = [0; HEADINGS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

async fn remove(arguments: &NodeArguments, clock: &Clock) -> Result<(), AdminError> {
    let store = open(&arguments.database).await?;
    let node_id = arguments.node_id;
    let work = async {
        nodes::remove(&store, node_id)
            .await?
            .ok_or(AdminError::NoSuchNode(node_id))
    };
    let removal = recorded(
        &store,
        clock,
        "Wharfinger/nodes/delete",
        &resource(node_id),
        work,
    )
    .await?;
    announce(&store).await;
    say(&format!(
        "node {node_id} of region {} at {} is removed (revision {}); waiting for the other nodes",
        removal.region, removal.address, removal.published.revision
    ))?;
    let started = Instant::now();
    loop {
        let (lineage, nodes) = nodes::survey(&store).await?;
        if !lineage.holds(&removal.published) {
            say(
                "pending: the database was restored or failed over meanwhile, and the removal may be lost; `wharfinger admin node list` shows whether the node is still enrolled",
            )?;
            return Err(AdminError::NotInForce);
        }
        let (missing, is_waiting) = missing(&nodes, &removal.published);
        if missing.is_empty() {
            return say("complete: every other node has withdrawn its key");
        }
        if !is_waiting || started.elapsed() >= REMOVAL_WATCHED {
            let outcome = if is_waiting { "pending" } else { "partial" };
            let missing: Vec<String> = missing.iter().map(|node| describe(node)).collect();
            say(&format!(
                "{outcome}: these nodes may still take the removed node's tokens, until they are connected again: {}",
                missing.join(", ")
            ))?;
            return Err(AdminError::NotInForce);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A node, as the activity log names it.
fn resource(node_id: Uuid) -> String {
    format!("/providers/Wharfinger/nodes/{node_id}")
}

pub(super) fn describe(node: &NodeState) -> String {
    format!("{} ({}, {})", node.node_id, node.region, node.address)
}

/// The nodes that do not have a revision and may serve, and whether one of them may have it any moment.
pub(super) fn missing<'a>(
    nodes: &'a [NodeState],
    published: &Published,
) -> (Vec<&'a NodeState>, bool) {
    let has = |node: &NodeState| {
        node.is_fenced
            || node.progress.as_ref().is_some_and(|progress| {
                progress.epoch == published.epoch && progress.revision >= published.revision
            })
    };
    let missing: Vec<&NodeState> = nodes.iter().filter(|node| !has(node)).collect();
    let is_waiting = missing.iter().any(|node| !node.lease_remaining.is_zero());
    (missing, is_waiting)
}

async fn rotate(arguments: &NodeArguments, clock: &Clock) -> Result<(), AdminError> {
    let store = open(&arguments.database).await?;
    let node_id = arguments.node_id;
    let before = nodes::rotation_state(&store, node_id)
        .await?
        .ok_or(AdminError::NoSuchNode(node_id))?;
    let work = async {
        if nodes::rotation_request(&store, node_id).await? {
            Ok(())
        } else {
            Err(AdminError::NoSuchNode(node_id))
        }
    };
    let operation = "Wharfinger/nodes/rotate/action";
    recorded(&store, clock, operation, &resource(node_id), work).await?;
    announce(&store).await;
    say(&format!(
        "node {node_id} is asked for a new credential and signing key; its present key is {}",
        before.kid
    ))?;
    let (started, mut announced) = (Instant::now(), None);
    while started.elapsed() < ROTATION_WATCHED {
        let state = nodes::rotation_state(&store, node_id)
            .await?
            .ok_or(AdminError::NoSuchNode(node_id))?;
        if state.kid != before.kid && state.requested_at.is_none() {
            return say(&format!(
                "done: it uses its new credential and signs with key {}; the old credential is dead, and key {} is withdrawn in {} minutes, when none of its tokens is valid any more",
                state.kid,
                before.kid,
                RETIRED_KEY_VALIDITY.as_secs() / 60
            ));
        }
        if announced.is_none() && state.next_kid.is_some() {
            announced = state.next_kid;
            say("the node has announced its new key; waiting until the other nodes have it")?;
        }
        let nodes = nodes::list(&store).await?;
        let is_live = nodes
            .iter()
            .any(|node| node.node_id == node_id && !node.lease_remaining.is_zero());
        if !is_live {
            return say(
                "the node is not connected: it takes a new credential and key when it connects",
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    say(
        "not done yet: the node goes on by itself; `wharfinger admin node list` shows it as pending until then",
    )
}

/// Only for speed: control planes look by themselves now and then.
pub(super) async fn announce(store: &Store) {
    if let Err(error) = config::notify(store, OPERATOR).await {
        let line = service::errors::chain(&error);
        let _closed = writeln!(
            std::io::stderr(),
            "control planes were not told at once: {line}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config_documents::{Epoch, Revision};
    use store::nodes::NodeProgress;

    const EPOCH: Epoch = Epoch(Uuid::from_u128(7));

    fn node(revision: Option<u64>, lease_seconds: u64) -> NodeState {
        NodeState {
            node_id: Uuid::from_u128(1),
            region: Region("westus".to_owned()),
            address: "node:443".to_owned(),
            enrolled_at: OffsetDateTime::UNIX_EPOCH,
            progress: revision.map(|revision| NodeProgress {
                epoch: EPOCH,
                revision: Revision(revision),
                rejected: Vec::new(),
            }),
            forms: std::collections::BTreeMap::new(),
            staleness_bound_seconds: Some(60),
            applied_at: None,
            age: Some(Duration::from_millis(1_500)),
            is_fenced: false,
            lease_expires_at: None,
            lease_remaining: Duration::from_secs(lease_seconds),
            rotation_requested: true,
        }
    }

    #[test]
    fn a_table_has_a_line_a_node() {
        let head = Position {
            epoch: EPOCH,
            revision: Revision(12),
        };
        let text = table(&[Shown::of(&node(Some(10), 3), head)]);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0], HEADINGS);
        let expected = [
            "00000000-0000-0000-0000-000000000001",
            "westus",
            "node:443",
            "1970-01-01T00:00:00Z",
            "live",
            "10",
            "2",
            "1.5s",
            "0",
            "60s",
            "pending",
        ];
        assert_eq!(lines[1], expected);
    }

    #[test]
    fn a_removal_waits_for_live_nodes_and_names_the_others() {
        let published = Published {
            epoch: EPOCH,
            revision: Revision(12),
            regions: vec![Region::all()],
        };
        for (node, expected) in [
            (node(Some(12), 0), (0, false)),
            (node(Some(11), 5), (1, true)),
            (node(Some(11), 0), (1, false)),
            (node(None, 0), (1, false)),
            (
                NodeState {
                    is_fenced: true,
                    ..node(Some(11), 0)
                },
                (0, false),
            ),
        ] {
            let (missing, is_waiting) = missing(std::slice::from_ref(&node), &published);
            assert_eq!((missing.len(), is_waiting), expected);
        }
    }
}
