//! What every request shares, and how it is put together from its parts.

use std::sync::Arc;
use std::time::Duration;

use credentials::{KeyRing, Randomness};
use service::clock::Clock;
use service::in_flight::InFlight;
use service::metrics::Metrics;
use service::readiness::Readiness;
use service::shutdown::Shutdown;
use store::installation::Installation;
use store::{Store, StoreError};

use crate::activity::Activity;
use crate::config_feed::ConfigFeed;
use crate::front_door::Router;
use crate::limits::{STATEMENT_TIMEOUT, WORKER_CONNECTIONS};
use crate::metrics::RequestMetrics;
use crate::sealing::{self, KeyFile};
use crate::sign_in::{SignIn, SignInError};
use crate::slow_work::SlowWork;

/// What every request shares.
#[derive(Clone)]
pub struct App {
    pub(crate) store: Store,
    pub(crate) installation: Installation,
    pub(crate) key_ring: Arc<KeyRing>,
    pub(crate) clock: Clock,
    pub(crate) randomness: Arc<dyn Randomness>,
    pub(crate) sign_in: Arc<SignIn>,
    pub(crate) slow_work: SlowWork,
    pub(crate) activity: Arc<Activity>,
    pub(crate) config_feed: Arc<ConfigFeed>,
    pub(crate) settings: Settings,
    pub(crate) router: Arc<Router>,
    pub(crate) request_metrics: Arc<RequestMetrics>,
    pub(crate) requests: InFlight,
}

/// What an operator may choose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether every principal may create applications and their service principals.
    pub self_service_applications: bool,
    /// The authorities by which external issuers of federated tokens are trusted, PEM; those of the system without it.
    pub issuer_ca_file: Option<std::path::PathBuf>,
    /// Whether external issuers may be at loopback, link-local and private addresses.
    pub issuer_allow_private: bool,
    /// The origins whose pages may call the API from a browser.
    pub cors_allowed_origins: Vec<String>,
    /// How many days rows of the activity log are kept.
    pub activity_retention_days: u32,
    /// How long an operation waits for nodes before it answers `pending`.
    pub propagation_timeout: Duration,
}

/// What an [`App`] is made of.
pub struct Parts {
    pub store: Store,
    pub key_ring: Arc<KeyRing>,
    /// Where the key ring came from, if changes are to be taken up.
    pub key_file: Option<KeyFile>,
    pub clock: Clock,
    pub randomness: Arc<dyn Randomness>,
    pub settings: Settings,
    pub metrics: Metrics,
    pub readiness: Readiness,
    pub shutdown: Shutdown,
}

/// Why a control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the installation cannot be read")]
    Store(#[from] StoreError),
    #[error(
        "the key-encryption key is not the one of this installation: none of the file's keys has the fingerprint {expected}, with which it was initialised"
    )]
    WrongKey { expected: String },
    #[error("sign-in cannot start")]
    SignIn(#[from] SignInError),
}

impl App {
    /// Reads the installation, checks the key-encryption key and starts the background tasks. The database must be there.
    pub async fn assemble(parts: Parts) -> Result<Arc<Self>, StartError> {
        let installation = parts.store.installation().await?;
        if !parts
            .key_ring
            .seal_with(&installation.key_encryption_fingerprint)
        {
            return Err(StartError::WrongKey {
                expected: installation.key_encryption_fingerprint,
            });
        }
        store::config::publish_built_in_roles(&parts.store).await?;
        let slow_work = SlowWork::default();
        let sign_in = SignIn::load(&parts, &installation, slow_work.clone()).await?;
        sealing::keep_keys(
            parts.store.clone(),
            Arc::clone(&parts.key_ring),
            parts.key_file.clone(),
            uuid::Uuid::new_v4(),
            parts.shutdown.clone(),
        );
        let activity = Activity::start(&parts);
        let requests = InFlight::default();
        let config_feed = ConfigFeed::start(&parts, &requests);
        watch_database(
            parts.store.clone(),
            parts.readiness.clone(),
            parts.shutdown.clone(),
        );
        Ok(Arc::new(Self {
            request_metrics: Arc::new(RequestMetrics::new(&parts.metrics)),
            store: parts.store,
            installation,
            key_ring: parts.key_ring,
            clock: parts.clock,
            randomness: parts.randomness,
            sign_in,
            slow_work,
            activity,
            config_feed,
            settings: parts.settings,
            router: Arc::new(Router::new(crate::operations())),
            requests,
        }))
    }
}

impl App {
    /// The same app for one of the threads that serve requests, with database connections of its own.
    pub(crate) fn of_worker(&self) -> Arc<Self> {
        Arc::new(Self {
            store: self.store.with_own_pool(WORKER_CONNECTIONS),
            ..self.clone()
        })
    }
}

/// Keeps the readiness check `database` true to what the database answers.
fn watch_database(store: Store, readiness: Readiness, shutdown: Shutdown) {
    const INTERVAL: Duration = Duration::from_secs(2);
    tokio::spawn(async move {
        while !shutdown.is_requested() {
            let state = match store::within(STATEMENT_TIMEOUT, store.ping()).await {
                Ok(()) => Ok("the database answers".to_owned()),
                Err(error) => Err(service::errors::chain(&error)),
            };
            readiness.set("database", state);
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = shutdown.wait() => {}
            }
        }
        readiness.set("database", Err("shutting down".to_owned()));
    });
}
