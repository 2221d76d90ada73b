//! How a node stands, for operators: what `/status` on its metrics port answers, and how `wharfinger node status` asks for it.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use service::readiness::Readiness;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::collecting::CollectionStatus;
use crate::config::{Configuration, Connection, Identities, Refusal};

/// A node that does not answer within this is unreachable.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where it stands on the metrics port.
pub const PATH: &str = "/status";

/// How a node stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Absent until it is enrolled.
    pub node_id: Option<Uuid>,
    /// Where it belongs.
    pub region: String,
    /// Whether it answers requests with anything but a refusal.
    pub is_serving: bool,
    /// Why not; empty when it serves.
    pub reasons: Vec<String>,
    /// The history that the revision belongs to; absent without a configuration.
    pub epoch: Option<Uuid>,
    /// What is in force.
    pub revision: u64,
    /// Revisions announced and not in force.
    pub lag: u64,
    /// Seconds since a control plane vouched for the configuration, by the wall clocks of both; counts through restarts.
    pub age_seconds: Option<f64>,
    /// Seconds since the node sent the last answer that a control plane committed, by the machine's own clock; this is what the bound is
    /// about.
    pub unconfirmed_seconds: Option<f64>,
    /// The bound in force; absent when the node serves however old its configuration gets.
    pub staleness_bound_seconds: Option<u64>,
    /// Whether it refuses requests because of that bound.
    pub is_fenced: bool,
    /// Whether it refuses requests because it was removed.
    pub is_removed: bool,
    /// `unknown`, `connected`, `unreachable` or `refused`.
    pub connection: String,
    /// What is wrong with the connection.
    pub connection_reason: Option<String>,
    /// Documents that are held and not understood.
    pub rejected: usize,
    /// Why nothing new is applied, if what the control plane sent did not add up.
    pub divergence: Option<String>,
    /// How far the control plane's clock is ahead.
    pub clock_offset_seconds: f64,
    /// The key that tokens are signed with now.
    pub signing_key: Option<String>,
    /// How collection of content by this node stands.
    #[serde(default)]
    pub collection: CollectionStatus,
}

impl Status {
    /// How the node stands now.
    pub fn of(
        region: &str,
        configuration: &Configuration,
        identities: Option<&Arc<Identities>>,
        readiness: &Readiness,
        collection: CollectionStatus,
        now: OffsetDateTime,
    ) -> Self {
        let progress = configuration.progress();
        let standing = configuration.standing().now();
        let reasons: Vec<String> = match &standing.refusal {
            Some(refusal) => vec![refusal.to_string()],
            None => readiness.why_not(),
        };
        let key = identities.and_then(|own| own.signing_key(&configuration.index()));
        let (connection, connection_reason) = match &progress.connection {
            Connection::Unknown => ("unknown", None),
            Connection::Connected => ("connected", None),
            Connection::Unreachable(reason) => ("unreachable", Some(reason.clone())),
            Connection::Refused(reason) => ("refused", Some(reason.clone())),
        };
        Self {
            node_id: identities.map(|identities| identities.node_id()),
            region: region.to_owned(),
            is_serving: reasons.is_empty(),
            reasons,
            epoch: progress.state.map(|state| state.epoch.0),
            revision: progress.state.map_or(0, |state| state.revision.0),
            lag: progress.lag(),
            age_seconds: progress.age(now).map(|age| age.as_secs_f64()),
            unconfirmed_seconds: standing.freshness_age.map(|age| age.as_secs_f64()),
            staleness_bound_seconds: standing.bound.map(|bound| bound.as_secs()),
            is_fenced: matches!(standing.refusal, Some(Refusal::Stale { .. })),
            is_removed: matches!(standing.refusal, Some(Refusal::Removed { .. })),
            connection: connection.to_owned(),
            connection_reason,
            rejected: progress.rejected_count,
            divergence: progress.divergence.map(|divergence| divergence.reason),
            clock_offset_seconds: progress.clock_offset_seconds,
            signing_key: key.map(|key| key.kid().to_owned()),
            collection,
        }
    }
}

/// The node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody answers there.
    #[error("no node answers at {url}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Something else answers there.
    #[error("what answers at {url} is no registry node of this version: {reason}")]
    NoNode {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

/// Asks a running node. `metrics` is the URL of its metrics port.
///
/// # Errors
/// See [`StatusError`].
pub async fn fetch(metrics: &str) -> Result<Status, StatusError> {
    let url = format!("{}{PATH}", metrics.trim_end_matches('/'));
    let unreachable = |source| StatusError::Unreachable {
        url: url.clone(),
        source,
    };
    let client = reqwest::Client::builder()
        .timeout(ANSWER_TIMEOUT)
        .no_proxy()
        .build()
        .map_err(unreachable)?;
    let response = client.get(&url).send().await.map_err(unreachable)?;
    let no_node = |reason| StatusError::NoNode {
        url: url.clone(),
        reason,
    };
    if !response.status().is_success() {
        return Err(no_node(format!("it answers {}", response.status())));
    }
    let body = response.bytes().await.map_err(unreachable)?;
    serde_json::from_slice(&body).map_err(|error| no_node(error.to_string()))
}
