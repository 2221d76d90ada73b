//! The data port: TLS, HTTP/1.1 and HTTP/2, and every request to the gate.

use std::{io, net::SocketAddr, sync::Arc};

use actix_web::{
    App, HttpServer,
    dev::{Server, ServerHandle},
    web,
};
use rustls::ServerConfig;

use super::Gate;
use crate::limits::{CONNECTIONS_MAXIMUM, KEEP_ALIVE, REQUEST_HEAD_TIMEOUT, SHUTDOWN_TIMEOUT};

/// Threads that serve requests. More would only cost memory: what takes time is done elsewhere.
const WORKERS: usize = 2;
/// Threads for reading and writing local files, for each worker.
const BLOCKING_THREADS: usize = 16;

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
}

impl GateServer {
    /// Opens the port on all addresses, with TLS.
    ///
    /// # Errors
    /// [`ListenError`] for the first address that cannot be opened.
    pub fn open(
        gate: Arc<Gate>,
        listen: &[SocketAddr],
        tls: &ServerConfig,
    ) -> Result<Self, ListenError> {
        let mut server = HttpServer::new(move || {
            let gate = Arc::clone(&gate);
            App::new().default_service(web::to(move |request, payload| {
                let gate = Arc::clone(&gate);
                async move { gate.serve(request, payload).await }
            }))
        })
        .workers(WORKERS)
        .worker_max_blocking_threads(BLOCKING_THREADS)
        .max_connections(CONNECTIONS_MAXIMUM / WORKERS)
        .client_request_timeout(REQUEST_HEAD_TIMEOUT)
        .keep_alive(KEEP_ALIVE)
        .shutdown_timeout(SHUTDOWN_TIMEOUT.as_secs())
        .disable_signals();
        for address in listen {
            server = server
                .bind_rustls_0_23(address, tls.clone())
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
        })
    }

    /// The addresses as opened; port 0 took a free one.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// To stop it: requests under way are finished first.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Serves until stopped.
    ///
    /// # Errors
    /// When a port breaks.
    pub async fn serve(self) -> io::Result<()> {
        self.server.await
    }
}
