//! The data port: TLS, HTTP/1.1 and HTTP/2, and every request to the gate.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_web::{
    App, HttpServer,
    dev::{Server, ServerHandle},
    web,
};
use rustls::ServerConfig;
use service::in_flight::InFlight;
use tokio::time::sleep;

use super::{Gate, forwarding::PeerConnections};
use crate::limits::{
    CONNECTIONS_MAXIMUM, IDLE_CONNECTION_TIME, KEEP_ALIVE, READER_IDLE_TIMEOUT,
    REQUEST_HEAD_TIMEOUT,
};

/// Threads that serve requests. More would only cost memory: what takes time is done elsewhere.
const WORKERS: usize = 2;
/// Threads for reading and writing local files, for each worker.
const BLOCKING_THREADS: usize = 16;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for registry clients on {listen}")]
pub struct ListenError {
    listen: SocketAddr,
    #[source]
    source: io::Error,
}

/// An open data port.
pub struct GateServer {
    server: Server,
    handle: ServerHandle,
    addresses: Vec<SocketAddr>,
    gate: Arc<Gate>,
    requests: InFlight,
    shutdown_timeout: Duration,
}

/// Ends a data port in order.
pub struct Stopper {
    gate: Arc<Gate>,
    handle: ServerHandle,
    /// Downloads too.
    requests: InFlight,
    timeout: Duration,
}

impl Stopper {
    /// Takes no more requests, and returns when those under way have ended, or have had their time.
    pub async fn stop(&self) {
        self.gate.take_no_more();
        let idle = async {
            self.requests.none().await;
            sleep(IDLE_CONNECTION_TIME).await;
        };
        tokio::select! {
            () = self.handle.stop(true) => {}
            () = idle => {}
            () = sleep(self.timeout + Duration::from_secs(1)) => {
                tracing::warn!("requests that took longer than {:?} were cut off", self.timeout);
            }
        }
    }
}

impl GateServer {
    /// Opens the port on all addresses, with TLS. When it is stopped, what is under way may take as long as `shutdown_timeout`.
    ///
    /// # Errors
    /// [`ListenError`] for the first address that cannot be opened.
    pub fn open(
        gate: Arc<Gate>,
        listen: &[SocketAddr],
        tls: &ServerConfig,
        shutdown_timeout: Duration,
    ) -> Result<Self, ListenError> {
        let requests = InFlight::default();
        let (served, counted) = (Arc::clone(&gate), requests.clone());
        let mut server = HttpServer::new(move || {
            let (gate, requests) = (Arc::clone(&served), counted.clone());
            let app = App::new().app_data(PeerConnections::default());
            app.default_service(web::to(move |request, payload| {
                let (gate, under_way) = (Arc::clone(&gate), requests.begin());
                async move { under_way.until_sent(gate.serve(request, payload).await) }
            }))
        })
        .workers(WORKERS)
        .worker_max_blocking_threads(BLOCKING_THREADS)
        .max_connections(CONNECTIONS_MAXIMUM / WORKERS)
        // Connections that do not get on with TLS must not keep others from it; they are closed after three seconds.
        .max_connection_rate(CONNECTIONS_MAXIMUM / WORKERS)
        .client_request_timeout(REQUEST_HEAD_TIMEOUT)
        .keep_alive(KEEP_ALIVE)
        .shutdown_timeout(shutdown_timeout.as_secs())
        .disable_signals();
        for address in listen {
            server = listener(address)
                .and_then(|listener| server.listen_rustls_0_23(listener, tls.clone()))
                .map_err(|source| ListenError {
                    listen: *address,
                    source,
                })?;
        }
        let addresses = server.addrs();
        let server = server.run();
        Ok(Self {
            handle: server.handle(),
            server,
            addresses,
            gate,
            requests,
            shutdown_timeout,
        })
    }

    /// The addresses as opened; port 0 took a free one.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// To stop it at once.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// To stop it: requests under way are finished first.
    pub fn stopper(&self) -> Stopper {
        Stopper {
            gate: Arc::clone(&self.gate),
            handle: self.handle.clone(),
            requests: self.requests.clone(),
            timeout: self.shutdown_timeout,
        }
    }

    /// Serves until stopped.
    ///
    /// # Errors
    /// When a port breaks.
    pub async fn serve(self) -> io::Result<()> {
        self.server.await
    }
}

/// A listener whose connections are ended by the operating system when their client takes nothing for too long. They inherit that.
fn listener(address: &SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    let milliseconds = u32::try_from(READER_IDLE_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(&listener, milliseconds)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}
