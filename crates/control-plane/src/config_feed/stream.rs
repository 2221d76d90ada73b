//! `GET /config/v1/stream`: the WebSocket that a node opens, from its credential to its end.

use std::collections::VecDeque;
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{AggregatedMessageStream, CloseCode, CloseReason, Session};
use arm::{ApiError, Kind};
use config_documents::{ControlPlaneMessage, NodeMessage, STREAM_FORM};
use service::clock::Clock;
use store::StoreError;
use store::config::Position;
use store::nodes::{self, LEASE, NodeIdentity};
use tokio::sync::{Notify, watch};
use tokio::time::{interval, sleep, timeout};
use uuid::Uuid;

use super::ConfigFeed;
use super::connections::{Ended, Stream};
use super::credential;
use super::inbound::{Inbound, hello, next};
use super::limits::{
    MAXIMUM_MESSAGE_BYTES, MESSAGE_TIMEOUT, PING_INTERVAL, STAGGER, STAGGER_MAXIMUM,
};
use super::outbound::Outbound;
use crate::App;
use crate::front_door::store_error;

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
    #[error("no such node is enrolled")]
    Unknown,
    #[error("a new epoch of the configuration has begun")]
    NewEpoch,
    #[error(
        "the node has a revision above the newest, and a new epoch has begun for that reason a short time ago; it may come back later"
    )]
    WentBack,
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
            Self::Unknown => "unknown",
            Self::NewEpoch => "new-epoch",
            Self::WentBack => "went-back",
            Self::Shutdown => "shutdown",
            Self::Store(_) => "database",
            Self::Encode(_) => "encode",
        }
    }

    fn close_code(&self) -> CloseCode {
        match self {
            Self::Protocol(_) | Self::NoHello => CloseCode::Protocol,
            Self::Removed | Self::Unknown | Self::Replaced => CloseCode::Policy,
            Self::Shutdown => CloseCode::Away,
            Self::Store(_) | Self::Encode(_) | Self::WentBack => CloseCode::Error,
            Self::NewEpoch => CloseCode::Restart,
            Self::Disconnected | Self::Closed | Self::Silent | Self::NotReading => {
                CloseCode::Normal
            }
        }
    }
}

async fn open(http: HttpRequest, payload: web::Payload, app: web::Data<Arc<App>>) -> HttpResponse {
    let feed = &app.config_feed;
    let admitted = match admit(feed, &http).await {
        Ok(admitted) => admitted,
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
    match admitted {
        Admitted::Enrolled(identity) => {
            let clock = Arc::clone(&app.clock);
            let served = serve(Arc::clone(feed), clock, identity, session, messages);
            actix_web::rt::spawn(served);
        }
        Admitted::Removed(identity) => {
            actix_web::rt::spawn(turn_away(identity, session, messages));
        }
    }
    response
}

/// Who may open a stream.
enum Admitted {
    Enrolled(NodeIdentity),
    /// It was removed while it was away: all that it gets is to be told.
    Removed(NodeIdentity),
}

/// The node behind a request's credential.
async fn admit(feed: &ConfigFeed, http: &HttpRequest) -> Result<Admitted, ApiError> {
    // What is no credential at all costs no look-up, and does not use up the attempts of nodes behind the same address.
    let bearer = credential::bearer(http.headers())?;
    if !feed.attempts.allow(http.peer_addr().map(|peer| peer.ip())) {
        return Err(super::operations::too_many_attempts());
    }
    if let Some(identity) = nodes::by_credential(&feed.store, bearer)
        .await
        .map_err(store_error)?
    {
        return Ok(Admitted::Enrolled(identity));
    }
    nodes::removed_by_credential(&feed.store, bearer)
        .await
        .map_err(store_error)?
        .map(Admitted::Removed)
        .ok_or_else(credential::unknown)
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

/// Tells a node that it was removed.
async fn turn_away(
    identity: NodeIdentity,
    mut session: Session,
    mut messages: AggregatedMessageStream,
) {
    let told = said_removed(&mut session, &mut messages).await;
    tracing::info!(node.id = %identity.node_id, stream.told = told, "a removed node was turned away");
    close(session, &End::Removed).await;
}

/// False when the node does not understand that, or did not say what it understands.
async fn said_removed(session: &mut Session, messages: &mut AggregatedMessageStream) -> bool {
    let hello = timeout(MESSAGE_TIMEOUT, next(messages, None)).await;
    let Ok(Ok(NodeMessage::Hello { forms, .. })) = hello else {
        return false;
    };
    if forms.get(STREAM_FORM).is_none_or(|form| *form < 2) {
        return false;
    }
    say_removed(session).await
}

/// False when it could not be sent.
async fn say_removed(session: &mut Session) -> bool {
    say(session, &ControlPlaneMessage::Removed).await
}

/// Which messages this control plane understands.
fn greeting() -> ControlPlaneMessage {
    let form = config_documents::forms().get(STREAM_FORM).copied();
    ControlPlaneMessage::Greeting {
        stream_form: form.expect("this build understands a stream"),
    }
}

/// False when it could not be sent.
async fn say(session: &mut Session, message: &ControlPlaneMessage) -> bool {
    let text = serde_json::to_string(message).expect("a message has string keys only");
    let sent = timeout(MESSAGE_TIMEOUT, session.text(text)).await;
    matches!(sent, Ok(Ok(())))
}

/// Says why a stream ends. The node may be gone already.
async fn close(session: Session, end: &End) {
    let reason = CloseReason {
        code: end.close_code(),
        description: Some(end.to_string()),
    };
    let _ = timeout(MESSAGE_TIMEOUT, session.close(Some(reason))).await;
}

/// Serves a stream to its end.
async fn serve(
    feed: Arc<ConfigFeed>,
    clock: Clock,
    identity: NodeIdentity,
    mut session: Session,
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
            if matches!(end, End::Removed) && stream.is_of_second_form() {
                say_removed(&mut session).await;
            }
            feed.metrics.stream_ended(region.as_str(), end.label());
            end
        }
    };
    tracing::info!(
        node.id = %node_id, stream.end = end.label(),
        "a stream has ended: {}", service::errors::chain(&end)
    );
    close(session, &end).await;
}

/// Sends, listens and pings until one of them, or the control plane, ends the stream.
async fn follow(
    feed: &Arc<ConfigFeed>,
    clock: Clock,
    stream: &Arc<Stream>,
    copy: Option<Position>,
    mut session: Session,
    messages: AggregatedMessageStream,
) -> End {
    if stream.is_of_third_form() && !say(&mut session, &greeting()).await {
        return End::Disconnected;
    }
    let (applied, applied_seen) = watch::channel(None);
    let snapshot_wanted = Arc::new(Notify::new());
    let outbound = Outbound {
        feed: Arc::clone(feed),
        clock: Arc::clone(&clock),
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
        clock,
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
            Ended::Unknown => End::Unknown,
        },
        () = told_to_go(feed, stream.node_id) => End::Shutdown,
    }
}

/// Returns when the control plane ends; for each node at another moment, so that they do not all come to the others at once.
async fn told_to_go(feed: &ConfigFeed, node_id: Uuid) {
    feed.shutdown.wait().await;
    let count = u32::try_from(feed.connections.count()).unwrap_or(u32::MAX);
    let longest = STAGGER.saturating_mul(count).min(STAGGER_MAXIMUM);
    let (place, _) = node_id.as_u64_pair();
    #[expect(clippy::cast_precision_loss, reason = "any moment will do")]
    sleep(longest.mul_f64(place as f64 / u64::MAX as f64)).await;
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
