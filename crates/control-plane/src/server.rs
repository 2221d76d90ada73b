//! The process: its arguments, its listeners, its end.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::{App as ActixApp, HttpServer, web};
use credentials::SystemRandomness;
use rustls::ServerConfig;
use service::configuration::{ConfigurationError, DatabaseUrlArguments};
use service::logs::LogFormat;
use service::metrics::Metrics;
use service::observe::ObserveError;
use service::readiness::Readiness;
use service::shutdown::Shutdown;
use service::tls::{TlsArguments, TlsError};
use store::{Store, StoreError};

use crate::app::{App, Parts, Settings, StartError};
use crate::front_door::dispatch;
use crate::limits::{
    ACTIVITY_RETENTION_DAYS, FLUSH_TIME, HEAD_TIMEOUT, PROPAGATION_TIMEOUT_SECONDS,
    SHUTDOWN_TIMEOUT,
};
use crate::sealing::{KeyFile, KeyFileError};
use crate::sign_in::SignInError;

/// How a control plane is run.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
    /// File with the key-encryption keys, 32 bytes in base64 a line: the first seals, all open
    #[arg(long, value_name = "FILE")]
    key_encryption_key_file: PathBuf,
    /// Address to serve HTTPS on; may be given several times
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    listen: Vec<SocketAddr>,
    #[command(flatten)]
    tls: TlsArguments,
    /// Address to serve metrics and health on, plain HTTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    metrics_listen: SocketAddr,
    /// Origin whose pages may call the API from a browser; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    cors_allowed_origin: Vec<String>,
    /// File with the certificate authorities, PEM, by which external issuers of federated tokens are trusted; without it those of the system
    #[arg(long, value_name = "FILE", env = "WHARFINGER_ISSUER_CA_FILE")]
    issuer_ca_file: Option<PathBuf>,
    /// Ask external issuers of federated tokens also at loopback, link-local and private addresses
    #[arg(long, env = "WHARFINGER_ISSUER_ALLOW_PRIVATE")]
    issuer_allow_private: bool,
    /// Let only directory administrators create applications and service principals
    #[arg(long)]
    no_self_service_applications: bool,
    /// How many days what is in the activity log is kept
    #[arg(long, value_name = "DAYS", default_value_t = ACTIVITY_RETENTION_DAYS,
        value_parser = clap::value_parser!(u32).range(1..=36_500))]
    activity_log_retention: u32,
    /// How many seconds a change waits for the nodes before it is answered as pending; a silent node's lease ends after 10
    #[arg(long, value_name = "SECONDS", env = "WHARFINGER_PROPAGATION_TIMEOUT", default_value_t = PROPAGATION_TIMEOUT_SECONDS,
        value_parser = clap::value_parser!(u64).range(1..=9))]
    propagation_timeout: u64,
    /// How logs are written
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// Why a control plane ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot use the database URL")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error("cannot listen on {listen}")]
    Listen {
        listen: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the server failed")]
    Server(#[source] std::io::Error),
}

/// Threads that serve requests; the database is the limit, not they.
const WORKERS: usize = 2;

/// Runs a control plane until it is told to end.
pub fn run(arguments: Arguments) -> Result<(), RunError> {
    service::install_crypto_provider();
    service::logs::initialise(arguments.log_format);
    actix_web::rt::System::new().block_on(run_until_shutdown(arguments))
}

async fn run_until_shutdown(arguments: Arguments) -> Result<(), RunError> {
    let shutdown = Shutdown::on_signals().map_err(RunError::Server)?;
    let metrics = Metrics::new("control-plane");
    let readiness = Readiness::new(&["database", "server"]);
    service::observe::serve(arguments.metrics_listen, metrics.clone(), readiness.clone())?;
    let key_file = KeyFile(arguments.key_encryption_key_file.clone());
    let key_ring = Arc::new(key_file.read()?);
    let tls = service::tls::server_config(&arguments.tls)?;
    let mut listeners = Vec::new();
    for listen in &arguments.listen {
        let listener = TcpListener::bind(listen).map_err(|source| RunError::Listen {
            listen: *listen,
            source,
        })?;
        listeners.push(listener);
    }
    let store = Store::open(&arguments.database.resolve()?)?;
    let app = assemble_when_possible(|| Parts {
        store: store.clone(),
        key_ring: Arc::clone(&key_ring),
        key_file: Some(key_file.clone()),
        clock: service::clock::of_the_system(),
        randomness: Arc::new(SystemRandomness),
        settings: Settings {
            self_service_applications: !arguments.no_self_service_applications,
            issuer_ca_file: arguments.issuer_ca_file.clone(),
            issuer_allow_private: arguments.issuer_allow_private,
            cors_allowed_origins: arguments.cors_allowed_origin.clone(),
            activity_retention_days: arguments.activity_log_retention,
            propagation_timeout: Duration::from_secs(arguments.propagation_timeout),
        },
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        shutdown: shutdown.clone(),
    })
    .await?;
    let Some(app) = app else { return Ok(()) };
    let server = serve(Arc::clone(&app), listeners, Some(tls)).map_err(RunError::Server)?;
    readiness.set("server", Ok(format!("serving on {:?}", arguments.listen)));
    let ending = shutdown.clone();
    actix_web::rt::spawn(async move {
        ending.wait().await;
        readiness.set("server", Err("shutting down".to_owned()));
        tracing::info!(
            "shutting down: no new connections; nodes are sent to other control planes, requests under way are finished"
        );
    });
    tracing::info!(listen = ?arguments.listen, "the control plane serves");
    serve_until_done(app, server, &shutdown)
        .await
        .map_err(RunError::Server)
}

/// Serves until the shutdown is asked for, the nodes' streams are handed over and the requests under way are answered.
///
/// The server's own stop waits for connections, and a client may keep an idle one of HTTP/2 open as long as it likes; so it is not waited
/// for.
async fn serve_until_done(
    app: Arc<App>,
    server: Server,
    shutdown: &Shutdown,
) -> std::io::Result<()> {
    let handle = server.handle();
    let stopping = async {
        shutdown.wait().await;
        handle.stop(true).await;
        // It waits for connections, so it ends later than all else, or not at all.
        std::future::pending().await
    };
    tokio::select! {
        ended = server => ended,
        () = stopping => Ok(()),
        () = done(&app, shutdown) => Ok(()),
    }
}

/// Returns when the shutdown was asked for, the nodes' streams are handed over and the requests under way are answered.
pub async fn done(app: &App, shutdown: &Shutdown) {
    shutdown.wait().await;
    app.config_feed.done().await;
    app.activity.write(&app.store).await;
    tokio::time::sleep(FLUSH_TIME).await;
}

/// Waits for a database that is away or being restored; anything else that is wrong ends the process. `None`: told to end meanwhile.
async fn assemble_when_possible(parts: impl Fn() -> Parts) -> Result<Option<Arc<App>>, StartError> {
    const INTERVAL: Duration = Duration::from_millis(500);
    loop {
        let parts = parts();
        let shutdown = parts.shutdown.clone();
        match App::assemble(parts).await {
            Ok(app) => return Ok(Some(app)),
            Err(
                StartError::Store(error @ (StoreError::Unavailable(_) | StoreError::BeingRestored))
                | StartError::SignIn(SignInError::Store(
                    error @ (StoreError::Unavailable(_) | StoreError::BeingRestored),
                )),
            ) => {
                tracing::warn!(error.cause = %service::errors::chain(&error), "waiting for the database");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.wait() => return Ok(None),
        }
    }
}

/// Serves an app; without a TLS configuration in the clear, which only tests want.
pub fn serve(
    app: Arc<App>,
    listeners: Vec<TcpListener>,
    tls: Option<ServerConfig>,
) -> std::io::Result<Server> {
    let mut server = HttpServer::new(move || {
        ActixApp::new()
            .app_data(web::Data::new(app.of_worker()))
            .configure(crate::config_feed::configure)
            .default_service(web::to(dispatch))
    })
    .workers(WORKERS)
    .worker_max_blocking_threads(WORKERS)
    .client_request_timeout(HEAD_TIMEOUT)
    .shutdown_timeout(SHUTDOWN_TIMEOUT.as_secs())
    .disable_signals();
    for listener in listeners {
        server = match &tls {
            Some(tls) => server.listen_rustls_0_23(listener, tls.clone())?,
            None => server.listen(listener)?,
        };
    }
    Ok(server.run())
}
