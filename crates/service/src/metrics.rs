//! Metrics in the Prometheus form, registered by whichever room has something to count.
//!
//! Names: lower case with underscores, units at the end (`_seconds`, `_bytes`); counters get `_total` from the encoder,
//! so it is not written in the name. Help texts end without a full stop (the encoder adds one).

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};
use time::OffsetDateTime;

use crate::clock;

/// The metrics of one process; clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<RwLock<Registry>>,
}

/// What a label set must be able to do; `#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]` gives it.
pub trait Labels: Clone + fmt::Debug + Hash + Eq + EncodeLabelSet + Send + Sync + 'static {}
impl<L: Clone + fmt::Debug + Hash + Eq + EncodeLabelSet + Send + Sync + 'static> Labels for L {}

/// A gauge that takes fractions.
pub type FloatGauge = Gauge<f64, AtomicU64>;

/// Histograms that share a name and buckets and differ in labels.
pub type HistogramFamily<L> = Family<L, Histogram, Buckets>;

/// Upper bounds of a histogram's buckets, in the unit of the metric.
#[derive(Clone, Debug)]
pub struct Buckets(Arc<[f64]>);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// Buckets for the duration of requests, in seconds: from half a millisecond to ten seconds.
pub const REQUEST_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

impl Metrics {
    /// The metrics of a process in this role (`control-plane`, `registry-node`): memory, start and build are in it.
    pub fn new(role: &'static str) -> Self {
        let metrics = Self {
            registry: Arc::new(RwLock::new(Registry::default())),
        };
        let build = Info::new(vec![("role", role), ("version", env!("CARGO_PKG_VERSION"))]);
        metrics.register("wharfinger_build", "The program and what it runs as", build);
        metrics.register_collector(ProcessCollector::started_now());
        metrics
    }

    /// Registers a metric that the caller made; the caller keeps a clone to change it.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.registry.write().register(name, help, metric);
    }

    /// Registers something that finds its values at each scrape.
    pub fn register_collector(&self, collector: impl Collector) {
        self.registry
            .write()
            .register_collector(Box::new(collector));
    }

    /// A counter without labels.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.register(name, help, counter.clone());
        counter
    }

    /// Counters that differ in labels.
    pub fn counters<L: Labels>(&self, name: &str, help: &str) -> Family<L, Counter> {
        let family = Family::default();
        self.register(name, help, family.clone());
        family
    }

    /// A gauge of whole numbers, without labels.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.register(name, help, gauge.clone());
        gauge
    }

    /// Gauges of whole numbers that differ in labels.
    pub fn gauges<L: Labels>(&self, name: &str, help: &str) -> Family<L, Gauge> {
        let family = Family::default();
        self.register(name, help, family.clone());
        family
    }

    /// A gauge of fractions, without labels.
    pub fn float_gauge(&self, name: &str, help: &str) -> FloatGauge {
        let gauge = FloatGauge::default();
        self.register(name, help, gauge.clone());
        gauge
    }

    /// A histogram without labels.
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let histogram = Histogram::new(buckets.iter().copied());
        self.register(name, help, histogram.clone());
        histogram
    }

    /// Histograms that differ in labels.
    pub fn histograms<L: Labels>(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> HistogramFamily<L> {
        let family = HistogramFamily::new_with_constructor(Buckets(buckets.into()));
        self.register(name, help, family.clone());
        family
    }

    /// All metrics in the OpenMetrics text form.
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.read())?;
        Ok(text)
    }
}

/// What the operating system knows about this process.
#[derive(Debug)]
struct ProcessCollector {
    started_at_seconds: f64,
}

impl ProcessCollector {
    fn started_now() -> Self {
        let now = (clock::of_the_system())();
        let since_epoch = now - OffsetDateTime::UNIX_EPOCH;
        Self {
            started_at_seconds: since_epoch.as_seconds_f64(),
        }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let started = ConstGauge::new(self.started_at_seconds);
        started.encode(encoder.encode_descriptor(
            "process_start_time_seconds",
            "When the process started, in seconds since 1970",
            None,
            started.metric_type(),
        )?)?;
        if let Some(bytes) = resident_memory_bytes() {
            let resident = ConstGauge::new(bytes);
            resident.encode(encoder.encode_descriptor(
                "process_resident_memory_bytes",
                "Memory of the process that is in RAM",
                None,
                resident.metric_type(),
            )?)?;
        }
        Ok(())
    }
}

/// The resident set of this process. `None` where there is no `/proc`.
fn resident_memory_bytes() -> Option<i64> {
    parse_resident_bytes(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_resident_bytes(status: &str) -> Option<i64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
    struct Outcome {
        outcome: &'static str,
    }

    #[test]
    fn registered_metrics_are_in_the_text() {
        let metrics = Metrics::new("test");
        let logins = metrics.counters::<Outcome>("logins", "Logins by outcome");
        logins.get_or_create(&Outcome { outcome: "denied" }).inc();
        let seconds = metrics.histograms::<Outcome>("wait_seconds", "Waits", REQUEST_SECONDS);
        seconds
            .get_or_create(&Outcome { outcome: "done" })
            .observe(0.003);
        metrics.gauge("lag", "Revisions behind").set(4);
        let text = metrics.clone().encode().expect("encodes");
        for line in [
            "logins_total{outcome=\"denied\"} 1\n",
            "wait_seconds_bucket{le=\"0.005\",outcome=\"done\"} 1\n",
            "lag 4\n",
            "wharfinger_build_info{role=\"test\",version=\"",
            "process_start_time_seconds ",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn resident_memory_is_read_from_the_status_of_the_process() {
        assert_eq!(
            parse_resident_bytes("Name:\tx\nVmRSS:\t   12 kB\n"),
            Some(12288)
        );
        assert_eq!(parse_resident_bytes("VmRSS: x kB\n"), None);
        assert_eq!(parse_resident_bytes(""), None);
    }
}
