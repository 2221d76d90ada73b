//! What operators see of the feed.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use service::metrics::{FloatGauge, HistogramFamily, Metrics, REQUEST_SECONDS};
use store::config::Position;
use store::nodes::NodeState;

use super::propagation::Outcome;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RegionLabels {
    region: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct NodeLabels {
    node_id: String,
    region: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndLabels {
    reason: &'static str,
}

pub(super) struct FeedMetrics {
    head_revision: Gauge,
    reader_failures: Counter,
    connected_nodes: Family<RegionLabels, Gauge>,
    streams_begun: Counter,
    streams_ended: Family<EndLabels, Counter>,
    snapshots: Counter,
    node_lag: Family<NodeLabels, Gauge>,
    node_rejected: Family<NodeLabels, Gauge>,
    node_lease: Family<NodeLabels, FloatGauge>,
    node_age: Family<NodeLabels, FloatGauge>,
    node_fenced: Family<NodeLabels, Gauge>,
    epochs_begun: Counter,
    tombstones_purged: Counter,
    propagation: HistogramFamily<OutcomeLabels>,
}

impl FeedMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let node_lease = Family::default();
        metrics.register(
            "wharfinger_node_lease_remaining_seconds",
            "How long an enrolled node still counts as alive; 0 when it does not",
            node_lease.clone(),
        );
        let node_age = Family::default();
        metrics.register(
            "wharfinger_node_age_seconds",
            "How long ago an enrolled node last said that it has applied the configuration; not there for one that never did",
            node_age.clone(),
        );
        Self {
            head_revision: metrics.gauge(
                "wharfinger_config_head_revision",
                "The newest revision of the configuration that this control plane has read",
            ),
            reader_failures: metrics.counter(
                "wharfinger_config_read_failures",
                "Reads of the configuration that failed",
            ),
            connected_nodes: metrics.gauges(
                "wharfinger_config_connected_nodes",
                "Nodes whose stream ends at this control plane",
            ),
            streams_begun: metrics.counter(
                "wharfinger_config_streams_begun",
                "Streams that nodes opened, reconnections too",
            ),
            streams_ended: metrics.counters(
                "wharfinger_config_streams_ended",
                "Streams of nodes that ended, by reason",
            ),
            snapshots: metrics.counter(
                "wharfinger_config_snapshots",
                "Snapshots of the configuration sent to nodes",
            ),
            node_lag: metrics.gauges(
                "wharfinger_node_lag_revisions",
                "How many revisions an enrolled node lacks, wherever it is connected",
            ),
            node_rejected: metrics.gauges(
                "wharfinger_node_rejected_documents",
                "Documents that an enrolled node cannot understand",
            ),
            node_lease,
            node_age,
            node_fenced: metrics.gauges(
                "wharfinger_node_fenced",
                "1 for an enrolled node that refuses requests because its bound on staleness has passed",
            ),
            epochs_begun: metrics.counter(
                "wharfinger_config_epochs_begun",
                "New epochs of the configuration that this control plane has seen begin",
            ),
            tombstones_purged: metrics.counter(
                "wharfinger_config_tombstones_purged",
                "Tombstones of documents that this control plane has purged",
            ),
            propagation: metrics.histograms(
                "wharfinger_config_propagation_seconds",
                "From the commit of a change to the answer, by outcome",
                REQUEST_SECONDS,
            ),
        }
    }

    pub(super) fn head(&self, head: Position) {
        self.head_revision
            .set(i64::try_from(head.revision.0).unwrap_or(i64::MAX));
    }

    pub(super) fn epoch_begun(&self) {
        self.epochs_begun.inc();
    }

    pub(super) fn purged(&self, tombstones: u64) {
        self.tombstones_purged.inc_by(tombstones);
    }

    pub(super) fn read_failed(&self) {
        self.reader_failures.inc();
    }

    pub(super) fn stream_begun(&self, region: &str) {
        self.streams_begun.inc();
        self.connected(region).inc();
    }

    pub(super) fn stream_ended(&self, region: &str, reason: &'static str) {
        self.streams_ended
            .get_or_create(&EndLabels { reason })
            .inc();
        self.connected(region).dec();
    }

    fn connected(&self, region: &str) -> Gauge {
        let labels = RegionLabels {
            region: region.to_owned(),
        };
        self.connected_nodes.get_or_create_owned(&labels)
    }

    pub(super) fn snapshot_sent(&self) {
        self.snapshots.inc();
    }

    pub(super) fn propagated(&self, outcome: Outcome, after: Duration) {
        let labels = OutcomeLabels {
            outcome: outcome.as_str(),
        };
        self.propagation
            .get_or_create(&labels)
            .observe(after.as_secs_f64());
    }

    /// Shows all enrolled nodes and no others.
    pub(super) fn nodes(&self, head: Position, nodes: &[NodeState]) {
        self.node_lag.clear();
        self.node_rejected.clear();
        self.node_lease.clear();
        self.node_age.clear();
        self.node_fenced.clear();
        for node in nodes {
            let labels = NodeLabels {
                node_id: node.node_id.to_string(),
                region: node.region.0.clone(),
            };
            let progress = node
                .progress
                .as_ref()
                .filter(|progress| progress.epoch == head.epoch);
            let has = progress.map_or(0, |progress| progress.revision.0);
            let lag = i64::try_from(head.revision.0.saturating_sub(has)).unwrap_or(i64::MAX);
            self.node_lag.get_or_create(&labels).set(lag);
            let rejected = progress.map_or(0, |progress| progress.rejected.len());
            self.node_rejected
                .get_or_create(&labels)
                .set(i64::try_from(rejected).unwrap_or(i64::MAX));
            self.node_lease
                .get_or_create(&labels)
                .set(node.lease_remaining.as_secs_f64());
            if let Some(age) = node.age {
                self.node_age.get_or_create(&labels).set(age.as_secs_f64());
            }
            self.node_fenced
                .get_or_create(&labels)
                .set(i64::from(node.is_fenced));
        }
    }
}
