//! Requests for registries that live in another region: handed on as they are to one of that region's nodes, which checks who calls and
//! does what is asked.
//!
//! A request is handed on once. It carries a mark, so that two regions that each take the other for a registry's home do not pass it
//! back and forth; the mark also vouches for the client's address. Bytes stream both ways, held back by whichever side is slower.
//! Another node is tried only while the first cannot have begun to act.

mod bodies;
mod headers;
mod mark;
mod peers;

pub(super) use headers::id_before;
pub(super) use peers::PeerConnections;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    http::{Method, StatusCode, header::RETRY_AFTER},
    web::Payload,
};
use config_documents::Region;
use hyper::http::request::Parts;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use uuid::Uuid;

use super::{Gate, RequestId};
use crate::{
    limits::{
        FORWARD_ANSWER_TIMEOUT, FORWARD_COMPLETION_TIMEOUT, FORWARD_NODE_RETRY_AFTER,
        FORWARD_NODES_TRIED_MAXIMUM, FORWARD_READ_ANSWER_TIMEOUT, FORWARDS_MAXIMUM,
        RETRY_AFTER_SECONDS,
    },
    metrics::ForwardOutcome,
    oci::{ErrorCode, OciError},
};
use bodies::{AnswerBody, Patience, Upload, UploadFault};
use mark::Mark;
use peers::{Connector, Peer, SendFault};

/// What forwarding needs, shared by a node's requests.
pub struct Forwarding {
    region: Region,
    connector: Connector,
    /// Whose turn it is among the nodes of a region.
    turn: AtomicUsize,
    /// Nodes that could not be reached, and when that was.
    failed: Mutex<HashMap<Uuid, Instant>>,
    permits: Arc<Semaphore>,
}

/// A registry as forwarding sees it.
pub(super) struct Destination<'a> {
    pub(super) login_server: &'a str,
    pub(super) region: &'a Region,
}

impl Forwarding {
    /// For a node of `region`. Other nodes are trusted by `tls` when they have a certificate for the login server that is asked for, and passed
    /// over when they do not take a connection within `connect_timeout`.
    pub fn new(region: Region, mut tls: ClientConfig, connect_timeout: Duration) -> Self {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            region,
            connector: Connector {
                tls: TlsConnector::from(Arc::new(tls)),
                timeout: connect_timeout,
            },
            turn: AtomicUsize::new(0),
            failed: Mutex::default(),
            permits: Arc::new(Semaphore::new(FORWARDS_MAXIMUM)),
        }
    }

    /// This node's region.
    pub(super) fn region(&self) -> &Region {
        &self.region
    }

    /// The nodes in the order in which to try them: each is first in turn, and those that failed a moment ago are last.
    fn in_turn(&self, mut nodes: Vec<(Uuid, String)>, now: Instant) -> Vec<(Uuid, String)> {
        if nodes.is_empty() {
            return nodes;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % nodes.len();
        nodes.rotate_left(turn);
        let failed = self.failed.lock();
        nodes.sort_by_key(|(id, _)| {
            failed
                .get(id)
                .is_some_and(|failed_at| now - *failed_at < FORWARD_NODE_RETRY_AFTER)
        });
        nodes
    }

    /// Whether this is news.
    fn has_failed(&self, node: Uuid, now: Instant) -> bool {
        let mut failed = self.failed.lock();
        failed.retain(|_, failed_at| now - *failed_at < FORWARD_NODE_RETRY_AFTER);
        failed.insert(node, now).is_none()
    }

    fn has_answered(&self, node: Uuid) {
        self.failed.lock().remove(&node);
    }
}

/// Why one node did not answer.
enum Attempt {
    /// It cannot have begun to act: the next may be asked.
    NotBegun(String),
    /// The rest is not for another node to try.
    Failed(OciError),
}

impl Gate {
    /// Hands a request on to a node of the region. `payload` is taken when a node takes the request.
    pub(super) async fn forward(
        &self,
        request: &HttpRequest,
        payload: &mut Option<Payload>,
        destination: &Destination<'_>,
    ) -> Result<HttpResponse, OciError> {
        let region = destination.region;
        if mark::is_forwarded(request) {
            self.metrics.forwarded(region, ForwardOutcome::Misdirected);
            return Err(misdirected(destination, &self.forwarding.region));
        }
        let Ok(permit) = Arc::clone(&self.forwarding.permits).try_acquire_owned() else {
            self.metrics.forwarded(region, ForwardOutcome::Busy);
            return Err(busy());
        };
        let upload = Upload::new(request, payload.take());
        let result = self.forward_upload(request, &upload, destination).await;
        let outcome = match &result {
            Ok(_) => ForwardOutcome::Answered,
            Err(error) if error.status == StatusCode::SERVICE_UNAVAILABLE => {
                ForwardOutcome::Unreachable
            }
            Err(error) if error.status == StatusCode::GATEWAY_TIMEOUT => ForwardOutcome::TimedOut,
            Err(error) if error.status == StatusCode::BAD_GATEWAY => ForwardOutcome::Broken,
            Err(_) => ForwardOutcome::ClientGone,
        };
        self.metrics.forwarded(region, outcome);
        match result {
            Ok((answer, peer)) => {
                let metrics = self.metrics.clone();
                let was_cut = region.clone();
                let body =
                    AnswerBody::new(request, &answer.head, answer.body, peer, upload, permit)
                        .telling_if_cut(move || metrics.forwarded(&was_cut, ForwardOutcome::Cut));
                Ok(headers::answer(&answer.head, body))
            }
            Err(error) => {
                // What is left of the body is treated like that of any refused request.
                *payload = upload.give_back();
                Err(error)
            }
        }
    }

    async fn forward_upload(
        &self,
        request: &HttpRequest,
        upload: &Upload,
        destination: &Destination<'_>,
    ) -> Result<(peers::Answer, Peer), OciError> {
        let connections = request
            .app_data::<PeerConnections>()
            .expect("each worker of the server has its own");
        let host = destination.login_server;
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| unreachable(destination))?;
        let head = self.head_of(request, destination)?;
        let is_repeatable =
            upload.is_empty() && matches!(*request.method(), Method::GET | Method::HEAD);
        let nodes = {
            let index = self.configuration.index();
            index.node_addresses(destination.region)
        };
        let nodes = self.forwarding.in_turn(nodes, Instant::now());
        let mut left = nodes.len().min(FORWARD_NODES_TRIED_MAXIMUM);
        for (node, address) in nodes.into_iter().take(FORWARD_NODES_TRIED_MAXIMUM) {
            left -= 1;
            let peer = Peer::new(address, name.clone(), connections.clone());
            let may_go_on = is_repeatable && left > 0;
            let patience = match (is_repeatable, may_go_on) {
                (true, true) => Patience::of(FORWARD_READ_ANSWER_TIMEOUT),
                (true, false) => Patience::of(FORWARD_ANSWER_TIMEOUT),
                (false, _) => Patience {
                    taking: FORWARD_ANSWER_TIMEOUT,
                    answer: FORWARD_COMPLETION_TIMEOUT,
                },
            };
            let connector = &self.forwarding.connector;
            let sent = peer.send(connector, &head, upload, patience).await;
            let reason = match judge(sent, upload, left > 0, is_repeatable) {
                Ok(answer) => {
                    if is_from_the_wrong_node(&answer) {
                        // The client has to ask again, and then another node comes first.
                        self.forwarding.has_failed(node, Instant::now());
                    } else {
                        self.forwarding.has_answered(node);
                    }
                    return Ok((answer, peer));
                }
                Err(Attempt::Failed(error)) => {
                    if error.status.is_server_error() {
                        self.forwarding.has_failed(node, Instant::now());
                    }
                    return Err(error);
                }
                Err(Attempt::NotBegun(reason)) => reason,
            };
            if self.forwarding.has_failed(node, Instant::now()) {
                tracing::warn!(
                    node = %node,
                    "the node of region {} at {} is passed over: {reason}",
                    destination.region,
                    peer.address()
                );
            }
        }
        Err(unreachable(destination))
    }

    /// The request's head as the other node gets it.
    fn head_of(
        &self,
        request: &HttpRequest,
        destination: &Destination<'_>,
    ) -> Result<Parts, OciError> {
        let id = request.extensions().get::<RequestId>().copied();
        let RequestId(id) = id.expect("the gate gives each request one");
        let now = (self.sources.now)();
        let mark = Mark {
            login_server: destination.login_server.to_owned(),
            method: request.method().as_str().to_owned(),
            client: peer_address(request),
        };
        let mark = match self.tokens.signing_key(&self.configuration) {
            Some(key) => mark.sign(&key, now),
            // Nobody could verify it; that the request was handed on is said all the same.
            None => mark::UNSIGNED.to_owned(),
        };
        headers::request(request, destination.login_server, &mark, id).ok_or_else(|| {
            OciError::new(
                StatusCode::BAD_REQUEST,
                ErrorCode::Unsupported,
                "the request's path or headers cannot be handed on to the registry's region",
            )
        })
    }

    /// Where the client is, for counting: what the forwarding node vouches for, if this is a request that a node forwarded.
    pub(super) fn client_address(&self, request: &HttpRequest, login_server: &str) -> IpAddr {
        let vouched = mark::of(request).and_then(|text| {
            let index = self.configuration.index();
            Mark::verify(text, &index, (self.sources.now)())
        });
        match vouched {
            Some(mark)
                if mark.login_server == login_server
                    && mark.method == request.method().as_str() =>
            {
                mark.client
            }
            _ => peer_address(request),
        }
    }
}

/// What to do after one node: take its answer, try the next if there is one, or give up. A request that is not repeatable
/// is given to another only when the first has certainly not begun to act.
fn judge(
    sent: Result<peers::Answer, SendFault>,
    upload: &Upload,
    has_next: bool,
    is_repeatable: bool,
) -> Result<peers::Answer, Attempt> {
    let may_go_on = has_next && is_repeatable;
    let may_move_on = has_next && upload.is_empty();
    let fault = match sent {
        // A node that is starting, or has not heard of the registry yet, is no better than one that is away.
        Ok(answer)
            if (may_go_on && is_from_the_wrong_node(&answer))
                || (may_move_on && is_misdirected(&answer)) =>
        {
            return Err(Attempt::NotBegun(format!(
                "it answered {}",
                answer.head.status
            )));
        }
        Ok(answer) => return Ok(answer),
        Err(fault) => fault,
    };
    if let Some(fault) = upload.fault() {
        return Err(Attempt::Failed(of_upload(fault)));
    }
    match fault {
        SendFault::NotSent(reason) => Err(Attempt::NotBegun(reason)),
        SendFault::Broken(reason) if may_go_on => Err(Attempt::NotBegun(reason)),
        SendFault::TimedOut if may_go_on => Err(Attempt::NotBegun("no answer in time".to_owned())),
        SendFault::Broken(reason) => Err(Attempt::Failed(broken(&reason))),
        SendFault::TimedOut => Err(Attempt::Failed(timed_out())),
    }
}

fn is_from_the_wrong_node(answer: &peers::Answer) -> bool {
    is_misdirected(answer) || answer.head.status == hyper::StatusCode::SERVICE_UNAVAILABLE
}

/// Nothing was done.
fn is_misdirected(answer: &peers::Answer) -> bool {
    answer.head.status == hyper::StatusCode::MISDIRECTED_REQUEST
}

fn peer_address(request: &HttpRequest) -> IpAddr {
    request
        .peer_addr()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip())
}

/// What a request is answered whose registry is not known here. One that another node forwarded was sent by somebody who knows the
/// registry: this node may only not have heard of it yet, and another one of its region may be asked.
pub(super) fn of_unknown(request: &HttpRequest, unknown: OciError) -> OciError {
    if unknown.status == StatusCode::NOT_FOUND && mark::is_forwarded(request) {
        OciError {
            status: StatusCode::MISDIRECTED_REQUEST,
            ..unknown
        }
    } else {
        unknown
    }
}

fn misdirected(destination: &Destination<'_>, own: &Region) -> OciError {
    OciError::new(
        StatusCode::MISDIRECTED_REQUEST,
        ErrorCode::NameUnknown,
        format!(
            "another node forwarded a request for {} to a node of region {own}, which takes region {} for its home; \
             the nodes' configurations differ at this moment",
            destination.login_server, destination.region,
        ),
    )
}

fn later(error: OciError) -> OciError {
    error.with_header(RETRY_AFTER, &RETRY_AFTER_SECONDS.to_string())
}

fn busy() -> OciError {
    later(OciError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Unavailable,
        "this node forwards as many requests as it can; try again",
    ))
}

fn unreachable(destination: &Destination<'_>) -> OciError {
    later(OciError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Unavailable,
        format!(
            "the registry {} is in region {}, of which no node can be reached at this moment; try again",
            destination.login_server, destination.region
        ),
    ))
}

fn broken(reason: &str) -> OciError {
    tracing::warn!("a forwarded request broke off before it was answered: {reason}");
    OciError::new(
        StatusCode::BAD_GATEWAY,
        ErrorCode::Unavailable,
        "the connection to the registry's region broke off before the answer; try again",
    )
}

fn timed_out() -> OciError {
    OciError::new(
        StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::Unavailable,
        "the registry's region did not answer in time; try again",
    )
}

fn of_upload(fault: UploadFault) -> OciError {
    let status = match fault {
        UploadFault::Idle => StatusCode::REQUEST_TIMEOUT,
        UploadFault::Broken | UploadFault::Abandoned => StatusCode::BAD_REQUEST,
    };
    OciError::new(status, ErrorCode::BlobUploadInvalid, fault.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_take_turns_and_one_that_failed_comes_last_for_a_while() {
        service::install_crypto_provider();
        let roots = rustls::RootCertStore::empty();
        let tls = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let forwarding = Forwarding::new(Region("westus".to_owned()), tls, Duration::ZERO);
        let nodes: Vec<(Uuid, String)> = (1..=3)
            .map(|number| (Uuid::from_u128(number), number.to_string()))
            .collect();
        let now = Instant::now();
        let order = |at| -> String {
            let found = forwarding.in_turn(nodes.clone(), at);
            found.into_iter().map(|(_, address)| address).collect()
        };
        let orders = [order(now), order(now), order(now), order(now)];
        assert_eq!(orders, ["123", "231", "312", "123"]);
        assert!(forwarding.has_failed(Uuid::from_u128(2), now));
        assert!(!forwarding.has_failed(Uuid::from_u128(2), now));
        assert_eq!([order(now), order(now)], ["312", "312"]);
        let later = now + FORWARD_NODE_RETRY_AFTER;
        assert_eq!([order(later), order(later)], ["123", "231"]);
        forwarding.has_answered(Uuid::from_u128(2));
        assert_eq!([order(now), order(now)], ["312", "123"]);
        assert!(forwarding.in_turn(Vec::new(), now).is_empty());
    }
}
