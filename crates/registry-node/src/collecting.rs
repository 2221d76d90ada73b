//! What a node does with content beside serving it: it collects, one registry after the other, and writes down what was pulled.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use service::{clock::Clock, shutdown::Shutdown};
use time::OffsetDateTime;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    config::Configuration,
    content::{
        CollectOptions, CollectionReport, Content, ContentError, Progress, Removed, RetentionRules,
    },
    limits::{COLLECTION_CHECK_INTERVAL, PULL_WRITE_INTERVAL},
    metrics::NodeMetrics,
};

/// After a start, the first look is taken this much sooner: a node that is restarted often collects too.
const FIRST_LOOK_SOONER: u32 = 20;

/// Which rules of retention a registry has, by its uid; none for a registry without.
pub(crate) type RetentionOf = Arc<dyn Fn(Uuid) -> Option<RetentionRules> + Send + Sync>;

/// How collection by this node stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectionStatus {
    /// The registry whose content is being collected now.
    pub registry: Option<Uuid>,
    /// What is being done there.
    pub stage: Option<String>,
    /// Things looked at in this stage.
    pub looked_at: u64,
    /// Passes over a registry since this node started.
    pub passes: u64,
    /// Of which failed.
    pub failed_passes: u64,
    /// When the last one ended.
    #[serde(with = "time::serde::rfc3339::option", default)]
    pub last_pass_at: Option<OffsetDateTime>,
    /// What all of them removed.
    pub removed: Removed,
}

/// The status of collection, told by the task and read by whoever shows it. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct CollectionWatch {
    progress: Progress,
    status: Arc<Mutex<CollectionStatus>>,
}

impl CollectionWatch {
    pub(crate) fn now(&self) -> CollectionStatus {
        let mut status = self.status.lock().clone();
        if status.registry.is_some() {
            let (doing, looked_at) = self.progress.now();
            status.stage = Some(doing.stage.to_owned());
            status.looked_at = looked_at;
        }
        status
    }
}

/// Collects for as long as the node runs.
pub(crate) struct Collector {
    pub(crate) content: Content,
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) retention: RetentionOf,
    pub(crate) grace_period: Duration,
    pub(crate) metrics: NodeMetrics,
    pub(crate) clock: Clock,
    pub(crate) watch: CollectionWatch,
    pub(crate) shutdown: Shutdown,
}

impl Collector {
    /// Looks for registries whose turn it is, again and again. What fails is done at the next look.
    pub(crate) async fn run(self) {
        // Names this process among those that collect.
        let holder = Uuid::new_v4();
        let mut pause = with_jitter(COLLECTION_CHECK_INTERVAL / FIRST_LOOK_SOONER, holder);
        loop {
            tokio::select! {
                () = sleep(pause) => {}
                () = self.shutdown.wait() => return,
            }
            tokio::select! {
                () = self.look(holder) => {}
                // A pass can end anywhere.
                () = self.shutdown.wait() => return,
            }
            pause = with_jitter(COLLECTION_CHECK_INTERVAL, Uuid::new_v4());
        }
    }

    async fn look(&self, holder: Uuid) {
        let mut after = None;
        loop {
            match self.content.next_registry(after).await {
                Ok(Some(registry)) => {
                    self.collect(registry, holder).await;
                    after = Some(registry);
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(
                        "registries cannot be listed for collection: {}",
                        service::errors::chain(&error)
                    );
                    return;
                }
            }
        }
    }

    async fn collect(&self, registry: Uuid, holder: Uuid) {
        let began = Instant::now();
        self.watch.status.lock().registry = Some(registry);
        let outcome = self.pass(registry, holder).await;
        let mut status = self.watch.status.lock();
        status.registry = None;
        match outcome {
            Ok(None) => {}
            Ok(Some(report)) => {
                status.passes += 1;
                status.last_pass_at = Some((self.clock)());
                status.removed.add(&report.removed);
                self.metrics.collected(&report, began.elapsed());
                say(registry, &report, began.elapsed());
            }
            Err(ContentError::CollectedExclusively { .. }) => {}
            Err(error) => {
                status.passes += 1;
                status.failed_passes += 1;
                status.last_pass_at = Some((self.clock)());
                self.metrics.collection_failed();
                tracing::warn!(
                    registry.uid = %registry,
                    "a registry's content was not collected and will be later: {}",
                    service::errors::chain(&error)
                );
            }
        }
    }

    async fn pass(
        &self,
        registry: Uuid,
        holder: Uuid,
    ) -> Result<Option<CollectionReport>, ContentError> {
        if !self.settle_deletion(registry).await? {
            return Ok(None);
        }
        let options = CollectOptions {
            grace_period: self.grace_period,
            retention: (self.retention)(registry),
            progress: self.watch.progress.clone(),
            ..CollectOptions::default()
        };
        self.content
            .collect_if_due(registry, holder, &options)
            .await
    }

    /// A registry that is marked as deleted and known all the same is of a database that was restored. Whether it is known is sure
    /// only while the configuration is; `false` when it is not.
    async fn settle_deletion(&self, registry: Uuid) -> Result<bool, ContentError> {
        if !self.content.is_registry_marked_deleted(registry).await? {
            return Ok(true);
        }
        if !self.configuration.progress().is_confirmed {
            return Ok(false);
        }
        if self.configuration.index().is_registry_named(registry)
            && self.content.unmark_registry_deleted(registry).await?
        {
            tracing::warn!(
                registry.uid = %registry,
                "a registry that was deleted is there again; its content stays"
            );
        }
        Ok(true)
    }
}

fn say(registry: Uuid, report: &CollectionReport, took: Duration) {
    let removed = &report.removed;
    tracing::info!(
        registry.uid = %registry,
        collection.seconds = took.as_secs_f64(),
        collection.bytes = report.bytes,
        removed.manifests,
        removed.deletions,
        removed.links,
        removed.blobs,
        removed.uploads,
        removed.objects,
        removed.bytes,
        unreadable = report.unreadable,
        gone = report.is_gone,
        "a registry's content was collected"
    );
}

/// The time, a tenth more or less, so that nodes that started together do not look together.
fn with_jitter(time: Duration, id: Uuid) -> Duration {
    let share = f64::from(id.as_u128() as u8) / f64::from(u8::MAX);
    time.mul_f64(0.9 + 0.2 * share)
}

/// Writes down which manifests were pulled, until the node stops.
pub(crate) async fn write_pulls(content: Content, shutdown: Shutdown) {
    loop {
        let is_last = tokio::select! {
            () = sleep(PULL_WRITE_INTERVAL) => false,
            () = shutdown.wait() => true,
        };
        content.write_noted_pulls().await;
        if is_last {
            return;
        }
    }
}

/// The rules that the configuration holds for each registry.
pub(crate) fn retention_of(configuration: &Arc<Configuration>) -> RetentionOf {
    let configuration = Arc::clone(configuration);
    Arc::new(move |registry| {
        let index = configuration.index();
        let retention = index.registry(registry)?.registry.retention?;
        Some(RetentionRules {
            days_since_push: retention.days_since_push,
            days_since_pull: retention.days_since_pull,
            keep_newest: retention.keep_newest,
        })
    })
}
