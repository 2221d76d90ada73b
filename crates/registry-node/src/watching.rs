//! What a node does beside serving: it keeps readiness, metrics and logs at how its configuration stands, marks the content of deleted
//! registries, and adds up how much registries store.

use std::{sync::Arc, time::Duration};

use service::{clock::Clock, readiness::Readiness};
use time::OffsetDateTime;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, interval, sleep},
};
use uuid::Uuid;

use crate::{
    config::{self, Configuration, Connection, DeletedRegistries, Progress, StandingNow},
    content::Content,
    limits::{AGE_LOG_INTERVAL, USAGE_INTERVAL},
    metrics::NodeMetrics,
    run::CONFIGURATION,
};

/// The content store is asked this often to take a mark that it refused.
const DELETED_RETRY: Duration = Duration::from_secs(5);

/// Keeps readiness, metrics and logs at what the configuration is.
pub(crate) async fn watch(
    configuration: Arc<Configuration>,
    readiness: Readiness,
    metrics: NodeMetrics,
    clock: Clock,
) {
    let mut tick = interval(Duration::from_secs(1));
    let mut progress = configuration.subscribe();
    let mut log = Log::default();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = config::wait_for_change(&mut progress) => {}
        }
        let now = clock();
        let current = progress.borrow_and_update().clone();
        let standing = configuration.standing().now();
        metrics.configuration(&current, now);
        metrics.standing(&standing);
        log.write(&current, &standing, now);
        let detail = describe(&current, &standing, now);
        let state = match (&standing.refusal, current.state) {
            (Some(refusal), _) => Err(format!("{refusal}; {detail}")),
            (None, Some(_)) => Ok(detail),
            (None, None) => Err(detail),
        };
        readiness.set(CONFIGURATION, state);
    }
}

fn describe(progress: &Progress, standing: &StandingNow, now: OffsetDateTime) -> String {
    let confirmed = match standing.freshness_age {
        Some(age) => format!("confirmed {} seconds ago", age.as_secs()),
        None => "not confirmed since this node or its machine started".to_owned(),
    };
    let bound = match standing.bound {
        Some(bound) => format!("staleness bound {} seconds", bound.as_secs()),
        None => "no staleness bound".to_owned(),
    };
    format!("{}; {confirmed}; {bound}", progress.describe(now))
}

/// What was logged last, so that each thing is said once, and the age again and again while it grows.
#[derive(Default)]
struct Log {
    refused: Option<String>,
    lost_at: Option<Instant>,
}

impl Log {
    fn write(&mut self, progress: &Progress, standing: &StandingNow, now: OffsetDateTime) {
        match (&standing.refusal, &self.refused) {
            (Some(refusal), None) => {
                tracing::error!("requests are refused from now on: {refusal}");
                self.refused = Some(refusal.to_string());
            }
            (None, Some(_)) => {
                tracing::info!("requests are served again");
                self.refused = None;
            }
            _ => {}
        }
        if matches!(
            progress.connection,
            Connection::Connected | Connection::Unknown
        ) {
            self.lost_at = None;
            return;
        }
        let said_at = *self.lost_at.get_or_insert_with(Instant::now);
        if said_at.elapsed() >= AGE_LOG_INTERVAL {
            self.lost_at = Some(Instant::now());
            tracing::warn!(
                config.age_seconds = progress.age(now).map(|age| age.as_secs()),
                "no control plane is connected: {}",
                describe(progress, standing, now)
            );
        }
    }
}

/// Marks the content of registries that were deleted. What a crash interrupts is done after the next start.
pub(crate) async fn mark_deleted(
    content: Content,
    configuration: Arc<Configuration>,
    deletions: DeletedRegistries,
    mut registries: UnboundedReceiver<Uuid>,
) {
    let mut progress = configuration.subscribe();
    while let Some(registry) = registries.recv().await {
        // What an earlier start left may be older than a restore of the database.
        while !progress.borrow_and_update().is_confirmed {
            config::wait_for_change(&mut progress).await;
        }
        // A database that was restored may have it again; and one that was withdrawn from this region is not deleted.
        let is_there = configuration.index().is_registry_named(registry);
        if !is_there {
            mark(&content, registry).await;
        }
        let forgotten = tokio::task::block_in_place(|| deletions.marked(registry));
        if let Err(error) = forgotten {
            tracing::warn!(
                registry.uid = %registry,
                "the content of a deleted registry will be marked once more: {}",
                service::errors::chain(&error)
            );
        }
    }
}

/// Adds up how much registries store, and has it told to the control plane.
pub(crate) async fn add_up_usage(content: Content, configuration: Arc<Configuration>) {
    let mut tick = interval(USAGE_INTERVAL);
    loop {
        tick.tick().await;
        for usage in content.settle_usage().await {
            configuration.usage().note(usage);
        }
    }
}

async fn mark(content: &Content, registry: Uuid) {
    while let Err(error) = content.mark_registry_deleted(registry).await {
        tracing::warn!(
            registry.uid = %registry,
            "the content of a deleted registry is not marked yet: {}",
            service::errors::chain(&error)
        );
        sleep(DELETED_RETRY).await;
    }
    tracing::info!(registry.uid = %registry, "a registry was deleted; its content is marked");
}
