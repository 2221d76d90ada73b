//! Connections to nodes of other regions: verified TLS, HTTP/1.1, kept open between requests. Each worker has its own, because what runs
//! on them is bound to its thread.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use hyper::{
    Request,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    http::{request, response},
};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::bodies::{Patience, RequestBody, Upload};
use crate::limits::{
    FORWARD_BUFFER_BYTES, FORWARD_CONNECT_TIMEOUT, FORWARD_CONNECTION_IDLE_TIMEOUT,
    FORWARD_CONNECTIONS_IDLE_MAXIMUM, FORWARD_DEAD_NODE_TIMEOUT, FORWARD_PROBE_INTERVAL,
};

/// Connections without request, by node and by the name that its certificate was verified for. Clones share them.
#[derive(Clone, Default)]
pub(in crate::gate) struct PeerConnections(Rc<RefCell<HashMap<Key, Vec<Idle>>>>);

type Key = (String, ServerName<'static>);

struct Idle {
    sender: SendRequest<RequestBody>,
    since: Instant,
}

/// How connections are made.
pub(super) struct Connector {
    pub(super) tls: TlsConnector,
    /// How long one may take to make, TLS included.
    pub(super) timeout: Duration,
}

/// A node of another region, asked in the name of one login server.
pub(super) struct Peer {
    key: Key,
    connections: PeerConnections,
    /// The connection of the request under way.
    sender: RefCell<Option<SendRequest<RequestBody>>>,
}

/// What it answered.
pub(super) struct Answer {
    pub(super) head: response::Parts,
    pub(super) body: Incoming,
}

/// Why there is no answer.
pub(super) enum SendFault {
    /// Nothing of the request was sent.
    NotSent(String),
    /// The connection broke when the request, or a part of it, was under way.
    Broken(String),
    /// No byte went either way for too long.
    TimedOut,
}

impl PeerConnections {
    fn take(&self, key: &Key) -> Option<SendRequest<RequestBody>> {
        let mut all = self.0.borrow_mut();
        let idle = all.get_mut(key)?;
        while let Some(Idle { sender, since }) = idle.pop() {
            if sender.is_ready() && since.elapsed() < FORWARD_CONNECTION_IDLE_TIMEOUT {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, key: Key, sender: SendRequest<RequestBody>) {
        let mut all = self.0.borrow_mut();
        all.retain(|_, idle| {
            idle.retain(|idle| {
                !idle.sender.is_closed() && idle.since.elapsed() < FORWARD_CONNECTION_IDLE_TIMEOUT
            });
            !idle.is_empty()
        });
        let count: usize = all.values().map(Vec::len).sum();
        if count < FORWARD_CONNECTIONS_IDLE_MAXIMUM {
            let since = Instant::now();
            all.entry(key).or_default().push(Idle { sender, since });
        }
    }
}

impl Peer {
    pub(super) fn new(
        address: String,
        name: ServerName<'static>,
        connections: PeerConnections,
    ) -> Self {
        Self {
            key: (address, name),
            connections,
            sender: RefCell::default(),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.key.0
    }

    /// Sends the request and waits for the head of the answer.
    pub(super) async fn send(
        &self,
        connector: &Connector,
        head: &request::Parts,
        upload: &Upload,
        patience: Patience,
    ) -> Result<Answer, SendFault> {
        loop {
            let (mut sender, is_new) = match self.connections.take(&self.key) {
                Some(sender) => (sender, false),
                None => {
                    let connected = timeout(connector.timeout, self.connect(&connector.tls)).await;
                    let sender = connected
                        .map_err(|_| {
                            SendFault::NotSent(format!(
                                "no connection within {:?}",
                                connector.timeout
                            ))
                        })?
                        .map_err(|error| SendFault::NotSent(service::errors::chain(&error)))?;
                    (sender, true)
                }
            };
            let request = Request::from_parts(head.clone(), upload.body());
            let sent = tokio::select! {
                sent = sender.try_send_request(request) => sent,
                () = upload.stalled(patience) => return Err(SendFault::TimedOut),
            };
            match sent {
                Ok(answer) => {
                    *self.sender.borrow_mut() = Some(sender);
                    let (head, body) = answer.into_parts();
                    return Ok(Answer { head, body });
                }
                Err(mut fault) => {
                    // A connection that had ended before gives the request back untouched.
                    let was_sent = fault.take_message().is_none();
                    let reason = service::errors::chain(&fault.into_error());
                    match (was_sent, is_new) {
                        (true, _) => return Err(SendFault::Broken(reason)),
                        (false, true) => return Err(SendFault::NotSent(reason)),
                        (false, false) => {}
                    }
                }
            }
        }
    }

    async fn connect(&self, tls: &TlsConnector) -> io::Result<SendRequest<RequestBody>> {
        let (address, name) = &self.key;
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        notice_death(&tcp)?;
        let stream = tls.connect(name.clone(), tcp).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(FORWARD_BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        actix_web::rt::spawn(async move {
            if let Err(error) = connection.await {
                let reason = service::errors::chain(&error);
                tracing::debug!("a connection to another node ended: {reason}");
            }
        });
        Ok(sender)
    }

    /// The answer was read to its end: the connection can serve another request once it is at rest.
    pub(super) fn keep(&self) {
        let Some(mut sender) = self.sender.borrow_mut().take() else {
            return;
        };
        let (key, connections) = (self.key.clone(), self.connections.clone());
        actix_web::rt::spawn(async move {
            let ready = timeout(FORWARD_CONNECT_TIMEOUT, sender.ready()).await;
            if matches!(ready, Ok(Ok(()))) {
                connections.keep(key, sender);
            }
        });
    }
}

/// Lets the connection break when the other machine is gone, however long an answer may take.
fn notice_death(tcp: &TcpStream) -> io::Result<()> {
    let milliseconds = u32::try_from(FORWARD_DEAD_NODE_TIMEOUT.as_millis())
        .expect("a constant of less than 49 days");
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, FORWARD_PROBE_INTERVAL)?;
    sockopt::set_tcp_keepintvl(tcp, FORWARD_PROBE_INTERVAL)?;
    // It counts for probes, too, in place of their number.
    Ok(sockopt::set_tcp_user_timeout(tcp, milliseconds)?)
}
