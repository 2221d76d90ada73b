//! `GET /config/v1/stream`: the WebSocket that a node opens, from its credential to its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, Session};
use arm::{ApiError, Kind};
use config_documents::{NodeMessage, Rejected, Revision};
use credentials::SecretKind;
use store::StoreError;
use store::config::Position;
use store::nodes::{self, LEASE, NodeIdentity, Progress};
use tokio::sync::{Notify, watch};
use tokio::time::{interval, timeout};

use super::ConfigFeed;
use super::connections::{Ended, LocalProgress, Stream};
use super::limits::{MAXIMUM_MESSAGE_BYTES, MESSAGE_TIMEOUT, PING_INTERVAL};
use super::outbound::Outbound;
use crate::{App, Clock};

/// Mounts the stream; it is no operation of the table, since it answers with another protocol.
pub(crate) fn configure(services: &mut web::ServiceConfig) {
    services.route("/config/v1/stream", web::get().to(open));
}

/// Why a stream ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the node is gone")]
    Disconnected,
    #[error("the node closed the stream")]
    Closed,
    #[error("the node said nothing for {} seconds", LEASE.as_secs())]
    Silent,
    #[error("the node does not read what it is sent")]
    NotReading,
    #[error("the node did not say hello within {} seconds", MESSAGE_TIMEOUT.as_secs())]
    NoHello,
    #[error("{0}")]
    Protocol(String),
    #[error("the node opened another stream")]
    Replaced,
    #[error("the node is not enrolled any more")]
    Removed,
    #[error("a new epoch of the configuration has begun")]
    NewEpoch,
    #[error(
        "the node has revision {node} and the head of the same epoch is {head}: the database was restored; begin a new epoch"
    )]
    AheadOfHead { node: Revision, head: Revision },
    #[error("the control plane is stopping")]
    Shutdown,
    #[error("the database failed")]
    Store(#[source] StoreError),
    #[error("a message cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
}

impl End {
    /// For the metric.
    fn label(&self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::NotReading => "not-reading",
            Self::NoHello => "no-hello",
            Self::Protocol(_) => "protocol",
            Self::Replaced => "replaced",
            Self::Removed => "removed",
            Self::NewEpoch => "new-epoch",
            Self::AheadOfHead { .. } => "ahead-of-head",
            Self::Shutdown => "shutdown",
            Self::Store(_) => "database",
            Self::Encode(_) => "encode",
        }
    }

    fn close_code(&self) -> CloseCode {
        match self {
            Self::Protocol(_) | Self::NoHello => CloseCode::Protocol,
            Self::Removed | Self::Replaced | Self::AheadOfHead { .. } => CloseCode::Policy,
            Self::Shutdown => CloseCode::Away,
            Self::Store(_) | Self::Encode(_) => CloseCode::Error,
            Self::NewEpoch => CloseCode::Restart,
            Self::Disconnected | Self::Closed | Self::Silent | Self::NotReading => {
                CloseCode::Normal
            }
        }
    }
}

async fn open(http: HttpRequest, payload: web::Payload, app: web::Data<Arc<App>>) -> HttpResponse {
    let feed = &app.config_feed;
    let identity = match admit(feed, &http).await {
        Ok(identity) => identity,
        Err(error) => return refuse(&error),
    };
    let (response, session, messages) = match actix_ws::handle(&http, payload) {
        Ok(opened) => opened,
        Err(error) => {
            return refuse(&ApiError::invalid(
                "WebSocketRequired",
                format!("This path takes a WebSocket upgrade of HTTP/1.1 only: {error}."),
            ));
        }
    };
    let messages = messages
        .max_frame_size(MAXIMUM_MESSAGE_BYTES)
        .aggregate_continuations()
        .max_continuation_size(MAXIMUM_MESSAGE_BYTES);
    let served = serve(
        Arc::clone(feed),
        Arc::clone(&app.clock),
        identity,
        session,
        messages,
    );
    actix_web::rt::spawn(served);
    response
}

/// The enrolled node behind a request's credential. A user's token, or anything else that is not a node's credential, is told so.
async fn admit(feed: &ConfigFeed, http: &HttpRequest) -> Result<NodeIdentity, ApiError> {
    let unauthenticated =
        |message: &str| ApiError::new(Kind::Unauthenticated, "InvalidNodeCredential", message);
    if !feed.attempts.allow(http.peer_addr().map(|peer| peer.ip())) {
        return Err(super::operations::too_many_attempts());
    }
    let bearer = http
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| {
            unauthenticated(
                "The stream needs a node's credential as bearer in the Authorization header.",
            )
        })?;
    if credentials::recognise(bearer) != Ok(SecretKind::NodeCredential) {
        return Err(unauthenticated(
            "The bearer is not a node's credential: tokens of users and applications cannot open the stream.",
        ));
    }
    nodes::by_credential(&feed.store, bearer)
        .await
        .map_err(crate::front_door::store_error)?
        .ok_or_else(|| {
            unauthenticated(
                "No enrolled node has this credential: the node was removed, or never joined.",
            )
        })
}

/// The answer to a request that is no node's.
fn refuse(error: &ApiError) -> HttpResponse {
    let status = match error.kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    tracing::warn!(
        http.status = status.as_u16(),
        error.code = error.code,
        error.cause = error
            .cause
            .as_ref()
            .map(|cause| service::errors::chain(cause.as_ref())),
        "a stream was refused: {}",
        error.message
    );
    let mut builder = HttpResponse::build(status);
    if status == StatusCode::UNAUTHORIZED {
        builder.insert_header(("WWW-Authenticate", "Bearer"));
    }
    if let Some(seconds) = error.retry_after_seconds {
        builder.insert_header(("Retry-After", seconds.to_string()));
    }
    builder
        .content_type("application/json; charset=utf-8")
        .body(error.body().to_string())
}

/// Serves a stream to its end.
async fn serve(
    feed: Arc<ConfigFeed>,
    clock: Clock,
    identity: NodeIdentity,
    session: Session,
    mut messages: AggregatedMessageStream,
) {
    let node_id = identity.node_id;
    let end = match hello(&feed, &identity, &mut messages).await {
        Err(end) => end,
        Ok((stream, copy)) => {
            let region = stream.region.clone();
            feed.metrics.stream_begun(region.as_str());
            tracing::info!(
                node.id = %node_id, node.region = %region,
                node.epoch = copy.map(|copy| copy.epoch.to_string()),
                node.revision = copy.map(|copy| copy.revision.0),
                "a node is connected"
            );
            let end = follow(&feed, clock, &stream, copy, session.clone(), messages).await;
            feed.connections.end(&stream);
            feed.metrics.stream_ended(region.as_str(), end.label());
            end
        }
    };
    tracing::info!(
        node.id = %node_id, stream.end = end.label(),
        "a stream has ended: {}", service::errors::chain(&end)
    );
    let reason = CloseReason {
        code: end.close_code(),
        description: Some(end.to_string()),
    };
    // The node may be gone already.
    let _ = timeout(MESSAGE_TIMEOUT, session.close(Some(reason))).await;
}

/// Takes a node's first message, and commits its lease: whoever publishes after that waits for this node.
async fn hello(
    feed: &ConfigFeed,
    identity: &NodeIdentity,
    messages: &mut AggregatedMessageStream,
) -> Result<(Arc<Stream>, Option<Position>), End> {
    let first = timeout(MESSAGE_TIMEOUT, next(messages, None))
        .await
        .map_err(|_| End::NoHello)??;
    let NodeMessage::Hello {
        node_id,
        region,
        forms,
        epoch,
        revision,
        address,
        staleness_bound_seconds: _,
    } = first
    else {
        return Err(End::Protocol("the first message must be 'hello'".into()));
    };
    if node_id != identity.node_id || region != identity.region {
        return Err(End::Protocol(format!(
            "the credential is that of node {} of region '{}', not of node {node_id} of region '{region}'",
            identity.node_id, identity.region
        )));
    }
    if address != identity.address {
        super::operations::check_address(&address).map_err(End::Protocol)?;
        let published = nodes::address_update(&feed.store, node_id, &address)
            .await
            .map_err(End::Store)?;
        if published.is_some() {
            feed.wake();
        }
    }
    let copy = epoch.map(|epoch| Position { epoch, revision });
    // Only for the lease's row: what the node lacks is read after the lease is committed.
    let head = store::config::head(&feed.store)
        .await
        .map_err(End::Store)?
        .position;
    let has = copy
        .filter(|copy| copy.epoch == head.epoch)
        .map_or(Revision(0), |copy| copy.revision);
    if has > head.revision {
        return Err(End::AheadOfHead {
            node: has,
            head: head.revision,
        });
    }
    let stream = Stream::new(node_id, region, forms, head.epoch);
    lease(feed, &stream, has).await?;
    feed.connections.begin(&stream, has);
    Ok((stream, copy))
}

async fn lease(feed: &ConfigFeed, stream: &Stream, revision: Revision) -> Result<(), End> {
    let progress = Progress {
        node_id: stream.node_id,
        epoch: stream.epoch,
        revision,
        rejected: Vec::new(),
        forms: stream.forms.clone(),
        begins_stream: true,
    };
    let enrolled = nodes::progress_write(&feed.store, &[progress])
        .await
        .map_err(End::Store)?;
    if enrolled.is_empty() {
        return Err(End::Removed);
    }
    Ok(())
}

/// Sends, listens and pings until one of them, or the control plane, ends the stream.
async fn follow(
    feed: &Arc<ConfigFeed>,
    clock: Clock,
    stream: &Arc<Stream>,
    copy: Option<Position>,
    session: Session,
    messages: AggregatedMessageStream,
) -> End {
    let (applied, applied_seen) = watch::channel(Revision(0));
    let snapshot_wanted = Arc::new(Notify::new());
    let outbound = Outbound {
        feed: Arc::clone(feed),
        clock,
        stream: Arc::clone(stream),
        session: session.clone(),
        // Before the first reading, so that nothing falls between the two.
        batches: feed.reader.subscribe(),
        applied: applied_seen,
        snapshot_wanted: Arc::clone(&snapshot_wanted),
        sent: None,
        unanswered: VecDeque::new(),
        snapshot_at: None,
    };
    let inbound = Inbound {
        feed: Arc::clone(feed),
        stream: Arc::clone(stream),
        applied,
        snapshot_wanted,
        sequence: 0,
        rejected: 0,
    };
    tokio::select! {
        end = outbound.run(copy) => end,
        end = inbound.run(messages, session.clone()) => end,
        end = ping(session) => end,
        ended = stream.ended() => match ended {
            Ended::Replaced => End::Replaced,
            Ended::Removed => End::Removed,
        },
        () = feed.shutdown.wait() => End::Shutdown,
    }
}

async fn ping(mut session: Session) -> End {
    let mut tick = interval(PING_INTERVAL);
    loop {
        tick.tick().await;
        if session.ping(b"").await.is_err() {
            return End::Disconnected;
        }
    }
}

/// The listening half of a stream.
struct Inbound {
    feed: Arc<ConfigFeed>,
    stream: Arc<Stream>,
    applied: watch::Sender<Revision>,
    snapshot_wanted: Arc<Notify>,
    /// The last one.
    sequence: u64,
    /// How many documents the node could not understand when it last answered.
    rejected: usize,
}

impl Inbound {
    async fn run(mut self, mut messages: AggregatedMessageStream, mut session: Session) -> End {
        loop {
            let taken = match next(&mut messages, Some(&mut session)).await {
                Ok(message) => self.take(message),
                Err(end) => Err(end),
            };
            if let Err(end) = taken {
                return end;
            }
        }
    }

    fn take(&mut self, message: NodeMessage) -> Result<(), End> {
        match message {
            NodeMessage::Hello { .. } => Err(End::Protocol("'hello' was said before".into())),
            NodeMessage::SnapshotWanted { reason } => {
                tracing::error!(
                    node.id = %self.stream.node_id, node.region = %self.stream.region, reason,
                    "a node's copy diverged; it gets a snapshot"
                );
                self.snapshot_wanted.notify_one();
                Ok(())
            }
            NodeMessage::Applied {
                sequence,
                epoch: _,
                revision,
                rejected,
            } => self.take_applied(sequence, revision, rejected),
        }
    }

    fn take_applied(
        &mut self,
        sequence: u64,
        revision: Revision,
        rejected: Vec<Rejected>,
    ) -> Result<(), End> {
        if sequence <= self.sequence {
            return Err(End::Protocol(format!(
                "the sequence {sequence} of 'applied' follows {}",
                self.sequence
            )));
        }
        let marked = self.stream.marked();
        if revision > marked {
            return Err(End::Protocol(format!(
                "revision {revision} is 'applied', but the newest mark is {marked}"
            )));
        }
        self.sequence = sequence;
        if rejected.len() != self.rejected {
            self.rejected = rejected.len();
            let first = rejected.first();
            tracing::warn!(
                node.id = %self.stream.node_id, node.region = %self.stream.region,
                rejected.count = rejected.len(),
                rejected.kind = first.map(|first| first.kind.as_str()),
                rejected.key = first.map(|first| first.key.as_str()),
                rejected.reason = first.map(|first| first.reason.as_str()),
                "the documents that a node cannot understand have changed; it denies what they govern"
            );
        }
        let progress = LocalProgress {
            epoch: self.stream.epoch,
            revision,
            rejected: rejected.into(),
            at: Instant::now(),
        };
        self.feed
            .connections
            .applied(&self.stream, sequence, progress);
        self.applied.send_replace(revision);
        Ok(())
    }
}

/// The next message of a node. Pings are answered; whatever arrives is a sign of life.
///
/// # Errors
/// The end of the stream: a closed or broken connection, silence for a lease, or what is no message.
async fn next(
    messages: &mut AggregatedMessageStream,
    mut session: Option<&mut Session>,
) -> Result<NodeMessage, End> {
    loop {
        let message = match timeout(LEASE, messages.recv()).await {
            Err(_) => return Err(End::Silent),
            Ok(None) => return Err(End::Disconnected),
            Ok(Some(Err(error))) => return Err(End::Protocol(error.to_string())),
            Ok(Some(Ok(message))) => message,
        };
        match message {
            AggregatedMessage::Text(text) => {
                return serde_json::from_str(&text)
                    .map_err(|error| End::Protocol(format!("a message cannot be read: {error}")));
            }
            AggregatedMessage::Binary(_) => {
                return Err(End::Protocol("messages are text, not binary".into()));
            }
            AggregatedMessage::Close(_) => return Err(End::Closed),
            AggregatedMessage::Pong(_) => {}
            AggregatedMessage::Ping(payload) => {
                if let Some(session) = session.as_deref_mut() {
                    session
                        .pong(&payload)
                        .await
                        .map_err(|_| End::Disconnected)?;
                }
            }
        }
    }
}
