//! What is counted of requests: by operation and status, and how long they took.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use service::metrics::{HistogramFamily, Metrics, REQUEST_SECONDS};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationStatus {
    operation: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationName {
    operation: &'static str,
}

/// The metrics of requests.
pub(crate) struct RequestMetrics {
    requests: Family<OperationStatus, Counter>,
    durations: HistogramFamily<OperationName>,
}

impl RequestMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.counters(
                "wharfinger_requests",
                "Requests answered, by operation and status",
            ),
            durations: metrics.histograms(
                "wharfinger_request_duration_seconds",
                "Time from a request's head to its answer, by operation",
                REQUEST_SECONDS,
            ),
        }
    }

    /// Counts an answered request.
    pub(crate) fn record(&self, operation: &'static str, status: u16, duration: Duration) {
        self.requests
            .get_or_create(&OperationStatus { operation, status })
            .inc();
        self.durations
            .get_or_create(&OperationName { operation })
            .observe(duration.as_secs_f64());
    }
}
