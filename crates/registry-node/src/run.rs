//! From the command line to a serving node, and down again in order.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use config_documents::Region;
use credentials::{Secret, SigningKey, SystemRandomness};
use service::{
    clock::Clock,
    logs::LogFormat,
    metrics::Metrics,
    observe::{self, Page},
    readiness::Readiness,
    shutdown::Shutdown,
    tls::TlsArguments,
};
use tokio::sync::{
    mpsc::{self, UnboundedSender},
    watch,
};
use uuid::Uuid;

use crate::{
    collecting::{self, CollectionWatch, Collector},
    config::{
        self, Applier, BootClock, Configuration, ControlPlane, ControlPlaneError, CopyError,
        Follower, Identities, LocalCopy, Standing, StandingError,
        enrolment::{self, EnrolmentError},
    },
    content::{Content, Sources},
    content_arguments::{ContentArguments, ContentArgumentsError},
    gate::{Forwarding, Gate, GateServer, ListenError, LoadLimits},
    limits::{
        FORWARD_CONNECT_TIMEOUT, GRACE_PERIOD, GRACE_PERIOD_MINIMUM, JOIN_TIMEOUT,
        JOIN_TIMEOUT_MINIMUM, SHUTDOWN_TIMEOUT_SECONDS, STALENESS_BOUND_MINIMUM,
    },
    metrics::NodeMetrics,
    status::{self, Status},
    watching,
};

/// Threads for the configuration, signals and the like; requests have their own.
const RUNTIME_THREADS: usize = 2;
/// How long the content store may take for the last sums of bytes when the node ends.
const SETTLING_TIMEOUT: Duration = Duration::from_secs(2);
const JOIN_RETRY_MAXIMUM: Duration = Duration::from_secs(5);

pub(crate) const CONFIGURATION: &str = "configuration";
const CONTENT: &str = "content";
const DATA_PORT: &str = "data-port";

/// How a registry node is started.
#[derive(Clone, clap::Args)]
pub struct Arguments {
    /// Region of this node; the same for good
    #[arg(long, value_name = "REGION")]
    pub region: String,
    /// Directory for what makes this process a node: its credential and its copy of the configuration
    #[arg(long, value_name = "DIRECTORY")]
    pub state_dir: PathBuf,
    /// Where the region's content is
    #[command(flatten)]
    pub content: ContentArguments,
    /// URL of the control plane, https://host[:port]
    #[arg(long, value_name = "URL")]
    pub control_plane: String,
    /// Certificates of the authorities that vouch for the control plane, PEM (default: those of the system)
    #[arg(long, value_name = "FILE")]
    pub control_plane_ca: Option<PathBuf>,
    /// Certificates of the authorities that vouch for nodes of other regions, PEM (default: those of the system)
    #[arg(long, value_name = "FILE")]
    pub node_ca: Option<PathBuf>,
    /// File with the one-time join token; needed at the first start only
    #[arg(long, value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// Address for registry clients; may be given several times
    #[arg(long, value_name = "ADDRESS:PORT", required = true)]
    pub listen: Vec<SocketAddr>,
    /// Host and port at which other nodes reach this one
    #[arg(long, value_name = "HOST:PORT")]
    pub advertised_address: String,
    /// The certificate that registry clients see
    #[command(flatten)]
    pub tls: TlsArguments,
    /// Address for metrics and health, plain HTTP
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Refuse every request once no control plane has confirmed the configuration for this long, at least 10 (default: serve on)
    #[arg(long, value_name = "SECONDS")]
    pub staleness_bound: Option<u32>,
    /// Content that nothing refers to is kept for this long, at least 3600
    #[arg(long, value_name = "SECONDS", default_value_t = GRACE_PERIOD.as_secs())]
    pub grace_period: u64,
    /// How long requests under way, downloads and uploads too, may take to end when the node stops; new ones are refused meanwhile
    #[arg(long, value_name = "SECONDS", default_value_t = SHUTDOWN_TIMEOUT_SECONDS)]
    pub shutdown_timeout: u64,
    /// What one registry, and one caller, may have of the node
    #[command(flatten)]
    pub load: LoadLimits,
    /// How log lines are written
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Why the node did not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An argument cannot be used.
    #[error("--{name} '{value}' cannot be used: {rule}")]
    Argument {
        /// The flag.
        name: &'static str,
        /// What was given.
        value: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The state directory cannot be made.
    #[error("cannot make the directory {}", path.display())]
    StateDirectory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Threads or signal handlers could not be made.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] service::tls::TlsError),
    /// Nodes of other regions cannot be verified.
    #[error("nodes of other regions cannot be verified; name their authorities with --node-ca")]
    NodeAuthorities(#[source] service::tls::TlsError),
    /// The control plane's URL or authorities cannot be used.
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
    /// The join token cannot be read.
    #[error("this node is not enrolled")]
    JoinToken(#[source] service::configuration::ConfigurationError),
    /// This process is no node.
    #[error(transparent)]
    Enrolment(#[from] EnrolmentError),
    /// The copy of the configuration cannot be used.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// Whether this node may serve is not known.
    #[error(transparent)]
    Standing(#[from] StandingError),
    /// The content cannot be used.
    #[error(transparent)]
    Content(#[from] ContentArgumentsError),
    /// The metrics port cannot be opened.
    #[error(transparent)]
    Observe(#[from] service::observe::ObserveError),
    /// The data port cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The data port broke.
    #[error("the data port ended")]
    DataPort(#[source] io::Error),
}

/// Runs a node until it is asked to stop. Blocks.
///
/// # Errors
/// See [`StartError`].
pub fn run(arguments: Arguments) -> Result<(), StartError> {
    service::install_crypto_provider();
    service::logs::initialise(arguments.log_format);
    check(&arguments)?;
    crate::open_files::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()
        .map_err(StartError::Runtime)?;
    let result = runtime.block_on(serve(arguments));
    // What is still under way was given its time already.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

fn check(arguments: &Arguments) -> Result<(), StartError> {
    let refuse = |name, value: &str, rule| {
        Err(StartError::Argument {
            name,
            value: value.to_owned(),
            rule,
        })
    };
    let region = &arguments.region;
    if region.is_empty() || !region.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return refuse("region", region, "a region is letters and digits");
    }
    let address = &arguments.advertised_address;
    let is_address = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if !is_address {
        return refuse(
            "advertised-address",
            address,
            "it is a host, a colon and a port",
        );
    }
    if Duration::from_secs(arguments.grace_period) < GRACE_PERIOD_MINIMUM {
        return refuse(
            "grace-period",
            &arguments.grace_period.to_string(),
            "it is at least 3600 seconds",
        );
    }
    if let Some(seconds) = arguments.staleness_bound
        && Duration::from_secs(seconds.into()) < STALENESS_BOUND_MINIMUM
    {
        return refuse(
            "staleness-bound",
            &seconds.to_string(),
            "it is at least 10 seconds",
        );
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&arguments.state_dir)
        .map_err(|source| StartError::StateDirectory {
            path: arguments.state_dir.clone(),
            source,
        })
}

async fn serve(arguments: Arguments) -> Result<(), StartError> {
    let started_at = Instant::now();
    let shutdown = Shutdown::on_signals().map_err(StartError::Runtime)?;
    let sources = Sources::of_the_system();
    let readiness = Readiness::new(&[CONFIGURATION, CONTENT, DATA_PORT]);
    let metrics = Metrics::new("registry-node");
    let node_metrics = NodeMetrics::new(&metrics);
    let region = Region(arguments.region.clone());
    let tls = service::tls::server_config(&arguments.tls)?;
    let control_plane = ControlPlane::new(
        &arguments.control_plane,
        arguments.control_plane_ca.as_deref(),
    )?;
    let peers = service::tls::client_config(arguments.node_ca.as_deref())
        .map_err(StartError::NodeAuthorities)?;
    let forwarding = Forwarding::new(region.clone(), peers, FORWARD_CONNECT_TIMEOUT);
    let clock = Arc::clone(&sources.now);
    let (configuration, copy) = open_copy(&arguments, &clock)?;
    let (enrolled, enrolment) = watch::channel(None);
    let collection = CollectionWatch::default();
    if let Some(listen) = arguments.metrics_listen {
        let page = status_page(
            &arguments,
            &configuration,
            enrolment,
            &readiness,
            &collection,
            &clock,
        );
        observe::serve_with(listen, metrics, readiness.clone(), page)?;
    }
    tokio::spawn(watching::watch(
        Arc::clone(&configuration),
        readiness.clone(),
        node_metrics.clone(),
        Arc::clone(&clock),
    ));
    let content = open_content(&arguments, &readiness, &sources).await?;
    let identities = tokio::select! {
        identities = enrol(&arguments, &control_plane, &region, &readiness) => identities?,
        () = shutdown.wait() => return Ok(()),
    };
    let identities = Arc::new(identities);
    enrolled.send_replace(Some(Arc::clone(&identities)));
    let deleted = mark_deletions(&content, &configuration, &copy)?;
    let follower = Follower {
        control_plane,
        identities: Arc::clone(&identities),
        address: arguments.advertised_address.clone(),
        configuration: Arc::clone(&configuration),
        applier: Applier::new(Arc::clone(&configuration), copy, region)
            .telling_of_deleted_registries(deleted),
        clock: Arc::clone(&clock),
        randomness: Arc::new(SystemRandomness),
        shutdown: shutdown.clone(),
    };
    let following = tokio::spawn(follower.run());
    let join_timeout = JOIN_TIMEOUT.saturating_sub(started_at.elapsed());
    let join_timeout = join_timeout.max(JOIN_TIMEOUT_MINIMUM);
    tokio::select! {
        () = config::wait_until_servable(&configuration, &identities, join_timeout, &clock, |why| {
            readiness.set(DATA_PORT, Err(format!("closed: {why}")));
        }) => {}
        () = shutdown.wait() => return Ok(()),
    }
    tokio::spawn(watching::add_up_usage(
        content.clone(),
        Arc::clone(&configuration),
    ));
    let collector = Collector {
        content: content.clone(),
        configuration: Arc::clone(&configuration),
        retention: collecting::retention_of(&configuration),
        grace_period: Duration::from_secs(arguments.grace_period),
        metrics: node_metrics.clone(),
        clock,
        watch: collection,
        shutdown: shutdown.clone(),
    };
    if content.collects_online() {
        tokio::spawn(collector.run());
    }
    let writing_pulls = tokio::spawn(collecting::write_pulls(content.clone(), shutdown.clone()));
    let gate = Gate::new(
        configuration,
        content.clone(),
        identities,
        node_metrics,
        sources,
        forwarding,
        arguments.load,
    );
    let served = serve_gate(Arc::new(gate), &arguments, &tls, &readiness, &shutdown).await;
    shutdown.request();
    // The follower ends at once; a panic in it has been reported by the runtime.
    let _ = following.await;
    if tokio::time::timeout(SETTLING_TIMEOUT, content.settle_usage())
        .await
        .is_err()
    {
        tracing::warn!(
            "what was written last is missing in the sums of registries until the next collection"
        );
    }
    let _ = writing_pulls.await;
    tracing::info!("the node has stopped");
    served
}

/// Starts to mark the content of deleted registries: those that an earlier start left, and those that are sent.
fn mark_deletions(
    content: &Content,
    configuration: &Arc<Configuration>,
    copy: &LocalCopy,
) -> Result<UnboundedSender<Uuid>, StartError> {
    let (deleted, of_deleted) = mpsc::unbounded_channel();
    let deletions = copy.deleted_registries();
    for registry in deletions.list()? {
        // The receiver is here.
        let _ = deleted.send(registry);
    }
    tokio::spawn(watching::mark_deleted(
        content.clone(),
        Arc::clone(configuration),
        deletions,
        of_deleted,
    ));
    Ok(deleted)
}

fn status_page(
    arguments: &Arguments,
    configuration: &Arc<Configuration>,
    enrolment: watch::Receiver<Option<Arc<Identities>>>,
    readiness: &Readiness,
    collection: &CollectionWatch,
    clock: &Clock,
) -> Page {
    let (region, readiness) = (arguments.region.clone(), readiness.clone());
    let (collection, clock) = (collection.clone(), Arc::clone(clock));
    let configuration = Arc::clone(configuration);
    let show = move || {
        let identities = enrolment.borrow().clone();
        let now = clock();
        let status = Status::of(
            &region,
            &configuration,
            identities.as_ref(),
            &readiness,
            collection.now(),
            now,
        );
        serde_json::to_value(status).expect("a status has string keys only")
    };
    Page {
        path: status::PATH,
        show: Arc::new(show),
    }
}

fn open_copy(
    arguments: &Arguments,
    clock: &Clock,
) -> Result<(Arc<Configuration>, LocalCopy), StartError> {
    let bound = arguments.staleness_bound.map(u64::from);
    let standing = Standing::open(
        &arguments.state_dir,
        BootClock::of_the_system(),
        Arc::clone(clock),
        bound.map(Duration::from_secs),
    )?;
    let opened = LocalCopy::open(&arguments.state_dir, clock())?;
    if let Some((aside, reason)) = &opened.set_aside {
        tracing::error!(
            copy.aside = %aside.display(),
            "the copy of the configuration is damaged and was moved to {}: {reason}",
            aside.display()
        );
    }
    let state = opened.copy.state().copied();
    let configuration = Configuration::with_standing(opened.index, state, standing);
    Ok((Arc::new(configuration), opened.copy))
}

async fn open_content(
    arguments: &Arguments,
    readiness: &Readiness,
    sources: &Sources,
) -> Result<Content, StartError> {
    let content = arguments
        .content
        .open(&arguments.region, sources.clone())
        .await?;
    let place = arguments.content.shown();
    let detail = match content.collects_online() {
        true => format!("open in {place}"),
        false => {
            tracing::warn!(
                "the content store {place} does not delete at a version: removed records leave tombstones, and collection \
                 beside pushes is off"
            );
            format!(
                "open in {place}, which does not delete at a version: collection beside pushes is off"
            )
        }
    };
    tracing::info!("content is {detail}");
    readiness.set(CONTENT, Ok(detail));
    Ok(content)
}

/// The enrolment of an earlier start, or a new one. Waits for a control plane as long as it takes.
async fn enrol(
    arguments: &Arguments,
    control_plane: &ControlPlane,
    region: &Region,
    readiness: &Readiness,
) -> Result<Identities, StartError> {
    if let Some(identities) = enrolment::load(&arguments.state_dir, region)? {
        return Ok(identities);
    }
    let token = service::configuration::require_secret(
        "join-token",
        None,
        arguments.join_token_file.as_deref(),
    )
    .map_err(StartError::JoinToken)?;
    let token = Secret::new(token);
    let kid = Uuid::new_v4().to_string();
    let key = SigningKey::generate(&kid);
    let mut wait = Duration::from_millis(200);
    loop {
        let copy = SigningKey::from_pkcs8(&kid, key.pkcs8())
            .expect("a key that was generated can be read");
        let joined = enrolment::join(
            control_plane,
            &token,
            region,
            &arguments.advertised_address,
            copy,
            &arguments.state_dir,
        )
        .await;
        let error = match joined {
            Ok(identities) => {
                tracing::info!(
                    node = %identities.node_id(),
                    "enrolled as node {} of region {region}",
                    identities.node_id()
                );
                return Ok(identities);
            }
            Err(EnrolmentError::Join(error)) if !error.is_refusal() => error,
            Err(error) => return Err(error.into()),
        };
        let reason = service::errors::chain(&error);
        tracing::warn!("waiting to enrol: {reason}");
        readiness.set(DATA_PORT, Err(format!("waiting to enrol: {reason}")));
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(JOIN_RETRY_MAXIMUM);
    }
}

async fn serve_gate(
    gate: Arc<Gate>,
    arguments: &Arguments,
    tls: &rustls::ServerConfig,
    readiness: &Readiness,
    shutdown: &Shutdown,
) -> Result<(), StartError> {
    let timeout = Duration::from_secs(arguments.shutdown_timeout);
    let server = GateServer::open(gate, &arguments.listen, tls, timeout)?;
    let addresses: Vec<String> = server.addresses().iter().map(ToString::to_string).collect();
    let addresses = addresses.join(", ");
    tracing::info!("registries are served on {addresses}");
    readiness.set(DATA_PORT, Ok(format!("open on {addresses}")));
    let stopper = server.stopper();
    let serving = tokio::spawn(server.serve());
    let stopping = async {
        shutdown.wait().await;
        readiness.set(DATA_PORT, Err("stopping".to_owned()));
        stopper.stop().await;
    };
    tokio::select! {
        served = serving => match served {
            Ok(result) => result.map_err(StartError::DataPort),
            Err(error) => Err(StartError::DataPort(io::Error::other(error))),
        },
        () = stopping => Ok(()),
    }
}
