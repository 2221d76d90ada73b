//! What the node counts.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    dev,
    error::PayloadError,
    http::StatusCode,
    web::{self, Payload},
};
use bytes::Bytes;
use config_documents::Region;
use futures_util::{Stream, StreamExt};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use service::metrics::{FloatGauge, HistogramFamily, Metrics, REQUEST_SECONDS};
use time::OffsetDateTime;

use crate::{
    acr,
    config::{Connection, Progress, Refusal, StandingNow},
    content::CollectionReport,
    gate::LoginFailure,
    oci::{OciError, RepositoryRoute, Route},
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ChangeLabels {
    change: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PassLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RemovedLabels {
    what: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EpochLabels {
    epoch: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ForwardLabels {
    region: String,
    outcome: &'static str,
}

/// What became of a request that is for a registry of another region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForwardOutcome {
    /// The other region's node answered, whatever it said.
    Answered,
    /// It did, and then its answer broke off.
    Cut,
    /// No node of the region could be reached.
    Unreachable,
    /// The connection broke before the answer.
    Broken,
    TimedOut,
    /// The client's body broke off.
    ClientGone,
    /// Another node had forwarded it already.
    Misdirected,
    /// Too many are under way.
    Busy,
}

impl ForwardOutcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Cut => "cut",
            Self::Unreachable => "unreachable",
            Self::Broken => "broken",
            Self::TimedOut => "timed-out",
            Self::ClientGone => "client-gone",
            Self::Misdirected => "misdirected",
            Self::Busy => "busy",
        }
    }
}

/// The node's counters; clones share them.
#[derive(Clone)]
pub struct NodeMetrics {
    requests: Family<RequestLabels, Counter>,
    request_seconds: HistogramFamily<OperationLabels>,
    logins: Family<OutcomeLabels, Counter>,
    tokens: Family<OutcomeLabels, Counter>,
    content_changes: Family<ChangeLabels, Counter>,
    collections: Family<PassLabels, Counter>,
    collected: Family<RemovedLabels, Counter>,
    collected_bytes: Counter,
    collection_seconds: FloatGauge,
    limited: Family<LimitLabels, Counter>,
    received_bytes: Counter,
    sent_bytes: Counter,
    forwarded: Family<ForwardLabels, Counter>,
    revision: Family<EpochLabels, Gauge>,
    lag: Gauge,
    age_seconds: FloatGauge,
    unconfirmed_seconds: FloatGauge,
    staleness_bound_seconds: FloatGauge,
    is_fenced: Gauge,
    is_removed: Gauge,
    failed_snapshots: Gauge,
    is_connected: Gauge,
    rejected: Gauge,
    clock_offset_seconds: FloatGauge,
}

impl NodeMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.counters(
                "wharfinger_registry_requests",
                "Requests to registries by operation and status",
            ),
            request_seconds: metrics.histograms(
                "wharfinger_registry_request_seconds",
                "Time from a request's head to its answer's head",
                REQUEST_SECONDS,
            ),
            logins: metrics.counters(
                "wharfinger_registry_logins",
                "Logins with user name and password by outcome and reason",
            ),
            tokens: metrics.counters(
                "wharfinger_registry_tokens",
                "Tokens issued and refused by outcome and reason",
            ),
            content_changes: metrics.counters(
                "wharfinger_registry_content_changes",
                "Pushes and deletions by what became of them",
            ),
            collections: metrics.counters(
                "wharfinger_content_collections",
                "Passes of collection over a registry by what became of them",
            ),
            collected: metrics.counters(
                "wharfinger_content_collected",
                "What collection removed, by kind",
            ),
            collected_bytes: counter(
                metrics,
                "wharfinger_content_collected_bytes",
                "Bytes that collection removed",
            ),
            collection_seconds: metrics.float_gauge(
                "wharfinger_content_collection_seconds",
                "How long the last pass over a registry took, with its rests",
            ),
            limited: metrics.counters(
                "wharfinger_registry_limited_requests",
                "Requests answered 429 because a registry or a caller had too many, by limit",
            ),
            received_bytes: counter(
                metrics,
                "wharfinger_registry_received_bytes",
                "Bytes of request bodies to registries",
            ),
            sent_bytes: counter(
                metrics,
                "wharfinger_registry_sent_bytes",
                "Bytes of response bodies from registries",
            ),
            forwarded: metrics.counters(
                "wharfinger_registry_forwarded_requests",
                "Requests for registries of other regions, by that region and what became of them",
            ),
            revision: metrics.gauges(
                "wharfinger_config_revision",
                "Revision of the configuration that is in force",
            ),
            lag: metrics.gauge(
                "wharfinger_config_lag",
                "Revisions announced and not in force",
            ),
            age_seconds: metrics.float_gauge(
                "wharfinger_config_age_seconds",
                "Time since a control plane vouched for the configuration",
            ),
            unconfirmed_seconds: metrics.float_gauge(
                "wharfinger_config_unconfirmed_seconds",
                "Time, by the machine's own clock, since this node sent the last answer that a control plane committed; -1 when not known",
            ),
            staleness_bound_seconds: metrics.float_gauge(
                "wharfinger_config_staleness_bound_seconds",
                "Age of the configuration past which this node refuses requests; 0 for no bound",
            ),
            is_fenced: metrics.gauge(
                "wharfinger_node_fenced",
                "Whether this node refuses requests because its configuration is too old",
            ),
            is_removed: metrics.gauge(
                "wharfinger_node_removed",
                "Whether this node refuses requests because it was removed",
            ),
            failed_snapshots: metrics.gauge(
                "wharfinger_config_failed_snapshots",
                "Snapshots in a row that did not add up",
            ),
            is_connected: metrics.gauge(
                "wharfinger_config_connected",
                "Whether the stream of configuration is up",
            ),
            rejected: metrics.gauge(
                "wharfinger_config_rejected",
                "Documents of the configuration that are not understood",
            ),
            clock_offset_seconds: metrics.float_gauge(
                "wharfinger_config_clock_offset_seconds",
                "How far the control plane's clock is ahead",
            ),
        }
    }

    pub(crate) fn request(&self, operation: &'static str, status: StatusCode, took: Duration) {
        let status = status.as_u16();
        self.requests
            .get_or_create(&RequestLabels { operation, status })
            .inc();
        self.request_seconds
            .get_or_create(&OperationLabels { operation })
            .observe(took.as_secs_f64());
    }

    pub(crate) fn login(&self, failure: Option<LoginFailure>) {
        let labels = match failure {
            None => OutcomeLabels {
                outcome: "accepted",
                reason: "",
            },
            Some(failure) => OutcomeLabels {
                outcome: "refused",
                reason: failure.as_str(),
            },
        };
        self.logins.get_or_create(&labels).inc();
    }

    pub(crate) fn login_limited(&self) {
        self.logins
            .get_or_create(&OutcomeLabels {
                outcome: "limited",
                reason: "too-many-failures",
            })
            .inc();
    }

    pub(crate) fn content_change(&self, change: &'static str, outcome: &'static str) {
        self.content_changes
            .get_or_create(&ChangeLabels { change, outcome })
            .inc();
    }

    pub(crate) fn collected(&self, report: &CollectionReport, took: Duration) {
        self.collections
            .get_or_create(&PassLabels { outcome: "done" })
            .inc();
        self.collection_seconds.set(took.as_secs_f64());
        let removed = &report.removed;
        self.collected_bytes.inc_by(removed.bytes);
        for (what, count) in [
            ("manifest", removed.manifests),
            ("deletion", removed.deletions),
            ("link", removed.links),
            ("blob", removed.blobs),
            ("upload", removed.uploads),
            ("object", removed.objects),
        ] {
            self.collected
                .get_or_create(&RemovedLabels { what })
                .inc_by(count);
        }
    }

    pub(crate) fn collection_failed(&self) {
        self.collections
            .get_or_create(&PassLabels { outcome: "failed" })
            .inc();
    }

    pub(crate) fn login_busy(&self) {
        self.logins
            .get_or_create(&OutcomeLabels {
                outcome: "limited",
                reason: "too-many-slow-checks",
            })
            .inc();
    }

    pub(crate) fn token(&self, result: &Result<HttpResponse, OciError>) {
        let labels = match result {
            Ok(_) => OutcomeLabels {
                outcome: "issued",
                reason: "",
            },
            Err(error) => OutcomeLabels {
                outcome: "refused",
                reason: error.code.as_str(),
            },
        };
        self.tokens.get_or_create(&labels).inc();
    }

    pub(crate) fn exchange(&self, result: &Result<HttpResponse, OciError>) {
        let labels = match result {
            Ok(_) => OutcomeLabels {
                outcome: "exchanged",
                reason: "",
            },
            Err(error) => OutcomeLabels {
                outcome: "exchange-refused",
                reason: error.code.as_str(),
            },
        };
        self.tokens.get_or_create(&labels).inc();
    }

    pub(crate) fn token_refused(&self) {
        self.tokens
            .get_or_create(&OutcomeLabels {
                outcome: "rejected",
                reason: "not-valid-now",
            })
            .inc();
    }

    pub(crate) fn standing(&self, standing: &StandingNow) {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        self.unconfirmed_seconds
            .set(seconds(standing.freshness_age).unwrap_or(-1.0));
        self.staleness_bound_seconds
            .set(seconds(standing.bound).unwrap_or(0.0));
        let refusal = standing.refusal.as_ref();
        self.is_fenced
            .set(i64::from(matches!(refusal, Some(Refusal::Stale { .. }))));
        self.is_removed
            .set(i64::from(matches!(refusal, Some(Refusal::Removed { .. }))));
    }

    pub(crate) fn forwarded(&self, region: &Region, outcome: ForwardOutcome) {
        let labels = ForwardLabels {
            region: region.as_str().to_owned(),
            outcome: outcome.as_str(),
        };
        self.forwarded.get_or_create(&labels).inc();
    }

    pub(crate) fn configuration(&self, progress: &Progress, now: OffsetDateTime) {
        self.revision.clear();
        if let Some(state) = &progress.state {
            let labels = EpochLabels {
                epoch: state.epoch.to_string(),
            };
            let revision = i64::try_from(state.revision.0).unwrap_or(i64::MAX);
            self.revision.get_or_create(&labels).set(revision);
        }
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.lag.set(count(progress.lag()));
        self.age_seconds
            .set(progress.age(now).map_or(0.0, |age| age.as_secs_f64()));
        self.is_connected
            .set(i64::from(progress.connection == Connection::Connected));
        self.rejected.set(count(progress.rejected_count as u64));
        self.clock_offset_seconds.set(progress.clock_offset_seconds);
        let divergence = progress.divergence.as_ref();
        self.failed_snapshots.set(count(
            divergence.map_or(0, |divergence| u64::from(divergence.failed_snapshots)),
        ));
    }

    /// Counts a request's body as it is read.
    pub(crate) async fn count_received(
        &self,
        request: &HttpRequest,
        body: impl Stream<Item = Result<Bytes, PayloadError>> + 'static,
    ) -> Payload {
        let received = self.received_bytes.clone();
        let counted = body.inspect(move |chunk| {
            if let Ok(bytes) = chunk {
                received.inc_by(bytes.len() as u64);
            }
        });
        let mut counted = dev::Payload::Stream {
            payload: counted.boxed_local(),
        };
        web::Payload::from_request(request, &mut counted)
            .await
            .expect("taking a payload as it is cannot fail")
    }

    /// Counts a response's body as it is sent; one that is there already is as good as sent. `until_sent` is kept until then.
    pub(crate) fn count_sent<T: Unpin + 'static>(
        &self,
        response: HttpResponse,
        until_sent: T,
    ) -> HttpResponse {
        response.map_body(|_, body| match body.try_into_bytes() {
            Ok(bytes) => {
                self.sent_bytes.inc_by(bytes.len() as u64);
                BoxBody::new(bytes)
            }
            Err(body) => BoxBody::new(CountedBody {
                body,
                sent: self.sent_bytes.clone(),
                _until_sent: until_sent,
            }),
        })
    }

    pub(crate) fn limited(&self, limit: &'static str) {
        self.limited.get_or_create(&LimitLabels { limit }).inc();
    }
}

fn counter(metrics: &Metrics, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    metrics.register(name, help, counter.clone());
    counter
}

struct CountedBody<T> {
    body: BoxBody,
    sent: Counter,
    _until_sent: T,
}

impl<T: Unpin> MessageBody for CountedBody<T> {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        let next = Pin::new(&mut this.body).poll_next(context);
        if let Poll::Ready(Some(Ok(bytes))) = &next {
            this.sent.inc_by(bytes.len() as u64);
        }
        next
    }
}

/// The name of an operation in metrics.
pub(crate) fn operation_of(route: &Route) -> &'static str {
    match route {
        Route::Base => "base",
        Route::Catalog(_) => "catalog",
        Route::Repository(_, route) => match route {
            RepositoryRoute::ListTags(_) => "tags-list",
            RepositoryRoute::ListReferrers { .. } => "referrers-list",
            RepositoryRoute::ReadManifest(_) => "manifest-read",
            RepositoryRoute::PutManifest(_) => "manifest-put",
            RepositoryRoute::DeleteManifest(_) => "manifest-delete",
            RepositoryRoute::ReadBlob(_) => "blob-read",
            RepositoryRoute::DeleteBlob(_) => "blob-delete",
            RepositoryRoute::StartUpload { .. } => "upload-start",
            RepositoryRoute::UploadStatus(_) => "upload-status",
            RepositoryRoute::AppendToUpload(_) => "upload-append",
            RepositoryRoute::FinishUpload(..) => "upload-finish",
            RepositoryRoute::CancelUpload(_) => "upload-cancel",
        },
    }
}

pub(crate) fn operation_of_acr(route: &acr::Route) -> &'static str {
    match route {
        acr::Route::Catalog(_) => "acr-catalog",
        acr::Route::Repository(_, route) => match route {
            acr::RepositoryRoute::Read => "acr-repository-read",
            acr::RepositoryRoute::Update => "acr-repository-update",
            acr::RepositoryRoute::Delete => "acr-repository-delete",
            acr::RepositoryRoute::ListTags { .. } => "acr-tags-list",
            acr::RepositoryRoute::ReadTag(_) => "acr-tag-read",
            acr::RepositoryRoute::UpdateTag(_) => "acr-tag-update",
            acr::RepositoryRoute::DeleteTag(_) => "acr-tag-delete",
            acr::RepositoryRoute::ListManifests(_) => "acr-manifests-list",
            acr::RepositoryRoute::ReadManifest(_) => "acr-manifest-read",
            acr::RepositoryRoute::UpdateManifest(_) => "acr-manifest-update",
        },
    }
}
