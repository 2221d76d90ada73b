//! The operator's views of who has what.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::http::Method;
use arm::ApiError;
use config_documents::{Region, Rejected, Revision};
use serde::Serialize;
use store::config::{self, Position, Published};
use store::nodes::{self, NodeState};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::ConfigFeed;
use crate::App;
use crate::front_door::{
    Access, Answer, DirectoryRight, Operation, Protocol, Request, store_error,
};

pub(super) fn operations() -> Vec<Operation> {
    let administer = Access::Directory(DirectoryRight::Administer);
    vec![
        Operation::new(
            "ConfigFeed_ListNodes",
            Method::GET,
            "/config/v1/nodes",
            administer,
            "Lists the enrolled nodes with what each has applied.",
            list,
        )
        .protocol(Protocol::Own)
        .answers::<NodeList>(200),
        Operation::new(
            "ConfigFeed_GetPropagation",
            Method::GET,
            "/config/v1/propagation/{revision}",
            administer,
            "Says which nodes have a revision, and which lack it.",
            propagation,
        )
        .protocol(Protocol::Own)
        .answers::<PropagationView>(200),
    ]
}

/// The enrolled nodes.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NodeList {
    /// Changes when the database is restored or fails over; revisions go on.
    epoch: Uuid,
    /// The newest revision of the configuration.
    revision: u64,
    nodes: Vec<NodeView>,
}

/// An enrolled node.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NodeView {
    node_id: Uuid,
    region: String,
    /// Host and port at which other nodes reach this one.
    address: String,
    #[serde(with = "time::serde::rfc3339")]
    enrolled_at: OffsetDateTime,
    /// What it has applied of the current epoch; 0 when nothing.
    revision: u64,
    /// How many revisions it lacks.
    lag: u64,
    /// When it last said that it has applied something; absent when it never did.
    #[serde(with = "time::serde::rfc3339::option")]
    applied_at: Option<OffsetDateTime>,
    /// How many seconds ago that was.
    age_seconds: Option<f64>,
    /// Whether it was heard from within the last ten seconds.
    is_live: bool,
    #[serde(with = "time::serde::rfc3339::option")]
    lease_expires_at: Option<OffsetDateTime>,
    /// The age of its configuration past which it refuses requests; absent when it serves without bound.
    staleness_bound_seconds: Option<i64>,
    /// Whether it refuses requests because that bound has passed.
    is_fenced: bool,
    /// Whether its stream ends at the control plane that answers.
    is_connected_here: bool,
    /// The newest form of each kind of document that it understands.
    forms: BTreeMap<String, u32>,
    /// The documents that it cannot understand, those of the newest thousand; it denies what they govern.
    rejected: Vec<RejectedView>,
}

/// A document that a node cannot understand.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RejectedView {
    region: String,
    kind: String,
    key: String,
    revision: u64,
    reason: String,
}

impl RejectedView {
    fn of(rejected: &Rejected) -> Self {
        Self {
            region: rejected.region.0.clone(),
            kind: rejected.kind.clone(),
            key: rejected.key.clone(),
            revision: rejected.revision.0,
            reason: rejected.reason.clone(),
        }
    }
}

/// The nodes as they can be shown, beside a head.
fn views<'a>(
    feed: &ConfigFeed,
    nodes: impl Iterator<Item = &'a NodeState> + Clone,
    head: Position,
) -> Vec<NodeView> {
    let here = feed.connections.of(nodes.clone().map(|node| node.node_id));
    nodes
        .map(|node| {
            let progress = node
                .progress
                .as_ref()
                .filter(|progress| progress.epoch == head.epoch);
            let revision = progress.map_or(Revision(0), |progress| progress.revision);
            let rejected = progress.map_or(&[][..], |progress| &progress.rejected);
            NodeView {
                node_id: node.node_id,
                region: node.region.0.clone(),
                address: node.address.clone(),
                enrolled_at: node.enrolled_at,
                revision: revision.0,
                lag: head.revision.0.saturating_sub(revision.0),
                applied_at: node.applied_at,
                age_seconds: node.age.map(|age| age.as_secs_f64()),
                is_live: !node.lease_remaining.is_zero(),
                lease_expires_at: node.lease_expires_at,
                staleness_bound_seconds: node.staleness_bound_seconds,
                is_fenced: node.is_fenced,
                is_connected_here: here.contains_key(&node.node_id),
                forms: node.forms.clone(),
                rejected: rejected.iter().map(RejectedView::of).collect(),
            }
        })
        .collect()
}

async fn list(app: Arc<App>, _request: Request) -> Result<Answer, ApiError> {
    let feed = &app.config_feed;
    let nodes = nodes::list(&feed.store).await.map_err(store_error)?;
    // Read last, so that no node is ahead of it.
    let head = config::head(&feed.store)
        .await
        .map_err(store_error)?
        .position;
    Answer::ok(&NodeList {
        epoch: head.epoch.0,
        revision: head.revision.0,
        nodes: views(feed, nodes.iter(), head),
    })
}

/// How far a revision has got.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PropagationView {
    /// The current one; what earlier ones had and was not lost is part of it.
    epoch: Uuid,
    revision: u64,
    /// The newest revision of the configuration.
    head_revision: u64,
    /// `complete`, `partial` or `pending`, over the nodes of all regions.
    propagation: &'static str,
    /// The nodes that lack the revision or cannot understand it.
    missing: Vec<NodeView>,
    /// The nodes that lack it and refuse requests, since their bound on staleness has passed.
    fenced: Vec<NodeView>,
}

async fn propagation(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let text = request.parameter("revision");
    let revision: u64 = text.parse().map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        ApiError::invalid(
            "InvalidRevision",
            format!("The revision '{shown}' is not a whole number of at least 0."),
        )
        .with_target("revision")
    })?;
    let feed = &app.config_feed;
    let (lineage, nodes) = nodes::survey(&feed.store).await.map_err(store_error)?;
    let head = config::head(&feed.store)
        .await
        .map_err(store_error)?
        .position;
    if revision > head.revision.0 {
        return Err(ApiError::not_found(
            "RevisionNotFound",
            format!(
                "There is no revision {revision}; the newest is {}.",
                head.revision
            ),
        )
        .with_target("revision"));
    }
    let published = Published {
        epoch: head.epoch,
        revision: Revision(revision),
        regions: vec![Region::all()],
    };
    let known = feed.judge_now(&published, lineage, &nodes);
    let is_missing = |node: &&NodeState| known.missing.contains(&node.node_id);
    let lacks = |node: &&NodeState| {
        node.progress
            .as_ref()
            .is_none_or(|progress| progress.revision < published.revision)
    };
    Answer::ok(&PropagationView {
        epoch: head.epoch.0,
        revision,
        head_revision: head.revision.0,
        propagation: known.outcome.as_str(),
        missing: views(feed, nodes.iter().filter(is_missing), head),
        fenced: views(
            feed,
            nodes
                .iter()
                .filter(|node| node.is_fenced && lacks(node) && !is_missing(node)),
            head,
        ),
    })
}
