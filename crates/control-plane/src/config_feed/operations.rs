//! The operations beside the stream: joining, and the operator's views of who has what.

use std::sync::Arc;

use actix_web::http::Method;
use arm::{ApiError, ErrorDetail, Kind};
use config_documents::{JoinAnswer, JoinRequest, Region, Revision};
use credentials::{SecretKind, Verifier};
use serde::Serialize;
use store::config::{self, Published};
use store::nodes::{self, Enrolment, NewNode, NodeState};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::front_door::{
    Access, Answer, DirectoryRight, Operation, Protocol, Request, store_error,
};

/// The longest address of a node, in characters: a name of DNS and a port.
const MAXIMUM_ADDRESS_CHARACTERS: usize = 260;

/// The longest name of a node's key, in characters.
const MAXIMUM_KID_CHARACTERS: usize = 100;

pub(crate) fn operations() -> Vec<Operation> {
    let administer = Access::Directory(DirectoryRight::Administer);
    vec![
        Operation::new(
            "ConfigFeed_Join",
            Method::POST,
            "/config/v1/join",
            Access::Node,
            "Enrols a registry node with a one-time join token.",
            join,
        )
        .protocol(Protocol::Own)
        .takes::<JoinRequestSchema>()
        .answers::<JoinAnswerSchema>(201),
        Operation::new(
            "ConfigFeed_ListNodes",
            Method::GET,
            "/config/v1/nodes",
            administer,
            "Lists the enrolled nodes with what each has applied.",
            list,
        )
        .protocol(Protocol::Own)
        .answers::<NodeList>(200),
        Operation::new(
            "ConfigFeed_GetPropagation",
            Method::GET,
            "/config/v1/propagation/{revision}",
            administer,
            "Says which nodes have a revision, and which lack it.",
            propagation,
        )
        .protocol(Protocol::Own)
        .answers::<PropagationView>(200),
    ]
}

/// The body of a node that joins.
#[derive(ToSchema)]
#[schema(as = JoinRequest)]
#[expect(
    dead_code,
    reason = "only its schema is used; the body is read as the contract's own type"
)]
struct JoinRequestSchema {
    /// From `wharfinger admin node create`; can be used once.
    join_token: String,
    region: String,
    /// The public part, as a JSON Web Key, of the key that the node signs registry tokens with.
    #[schema(value_type = Object)]
    public_key: serde_json::Value,
    /// Host and port at which other nodes reach this one.
    address: String,
}

/// What a node gets when it joins.
#[derive(ToSchema)]
#[schema(as = JoinAnswer)]
#[expect(
    dead_code,
    reason = "only its schema is used; the body is written as the contract's own type"
)]
struct JoinAnswerSchema {
    node_id: Uuid,
    /// The bearer of the node's stream; shown once.
    credential: String,
}

pub(super) fn too_many_attempts() -> ApiError {
    let mut error = ApiError::new(
        Kind::TooManyRequests,
        "TooManyRequests",
        "Too many nodes connect or join from this address. Repeat the request later.",
    );
    error.retry_after_seconds = Some(1);
    error
}

async fn join(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let feed = &app.config_feed;
    if !feed.attempts.allow(request.peer) {
        return Err(too_many_attempts());
    }
    let body: JoinRequest = request.json()?;
    check_join(&body)?;
    let randomness = &*app.randomness;
    let credential = credentials::generate(SecretKind::NodeCredential, randomness);
    let new = NewNode {
        node_id: Uuid::new_v4(),
        region: body.region,
        address: body.address,
        verifier: Verifier::of(&credential, randomness),
        public_key: body.public_key,
    };
    let enrolment = nodes::enrol(&feed.store, &body.join_token, &new, request.now)
        .await
        .map_err(store_error)?;
    let (node_id, published) = enrolled(enrolment, &new.region)?;
    tracing::info!(node.id = %node_id, node.region = %new.region, node.address = new.address, "a node has joined");
    let mut answer = Answer::json(
        actix_web::http::StatusCode::CREATED,
        &JoinAnswer {
            node_id,
            credential: credential.expose().to_owned(),
        },
    )?;
    if let Some(published) = published {
        // Other nodes accept the new node's tokens once they have its key. The node itself has no stream yet.
        let propagation = feed.wait_but_for(&published, Some(node_id)).await;
        for (name, value) in propagation.headers() {
            answer = answer.header(name, value);
        }
    }
    Ok(answer.header("cache-control", "no-store"))
}

/// The node's id and what was published, or why it may not join.
fn enrolled(enrolment: Enrolment, region: &Region) -> Result<(Uuid, Option<Published>), ApiError> {
    let refused = |code: &str, message: String| Err(ApiError::new(Kind::Forbidden, code, message));
    let create = "Make a new one with 'wharfinger admin node create'.";
    match enrolment {
        Enrolment::Enrolled { node_id, published } => Ok((node_id, published)),
        Enrolment::UnknownToken => Err(unknown_token()),
        Enrolment::TokenUsed { used_at } => refused(
            "JoinTokenUsed",
            format!(
                "The join token was used at {}; it can be used once. {create}",
                arm::format_time(used_at)
            ),
        ),
        Enrolment::TokenExpired { expired_at } => refused(
            "JoinTokenExpired",
            format!(
                "The join token expired at {}. {create}",
                arm::format_time(expired_at)
            ),
        ),
        Enrolment::OtherRegion { region: of } => refused(
            "JoinTokenOfOtherRegion",
            format!("The join token is for region '{of}', and the node is of region '{region}'."),
        ),
        Enrolment::KeyInUse => Err(ApiError::conflict(
            "SigningKeyInUse",
            "Another node signs with a key of the same 'kid'. Give the node a key of its own.",
        )),
    }
}

fn unknown_token() -> ApiError {
    ApiError::new(
        Kind::Unauthenticated,
        "InvalidJoinToken",
        "There is no such join token.",
    )
}

fn check_join(body: &JoinRequest) -> Result<(), ApiError> {
    if credentials::recognise(&body.join_token) != Ok(SecretKind::JoinToken) {
        return Err(unknown_token());
    }
    let mut faults = Vec::new();
    let mut fault = |target: &str, message: String| {
        faults.push(ErrorDetail::new("InvalidParameter", message, target));
    };
    let region = body.region.as_str();
    if region.is_empty()
        || region.len() > 64
        || !region.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        let shown: String = region.chars().take(64).collect();
        fault(
            "region",
            format!("The region '{shown}' is not a name of at most 64 letters and digits."),
        );
    }
    if let Err(message) = check_address(&body.address) {
        fault("address", message);
    }
    let kid = body.public_key.kid();
    if kid.is_empty()
        || kid.len() > MAXIMUM_KID_CHARACTERS
        || !kid
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    {
        fault(
            "public_key.kid",
            format!(
                "The 'kid' of the key must be 1 to {MAXIMUM_KID_CHARACTERS} letters, digits, '.', '_' and '-'."
            ),
        );
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(ApiError::from_faults(faults))
    }
}

/// Whether a text is a host and a port at which a node can be reached; otherwise the rule that it breaks.
pub(super) fn check_address(address: &str) -> Result<(), String> {
    let shown: String = address.chars().take(100).collect();
    let refuse = |rule: &str| Err(format!("The address '{shown}' is not HOST:PORT: {rule}."));
    if address.len() > MAXIMUM_ADDRESS_CHARACTERS {
        return refuse("it is longer than 260 characters");
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        return refuse("it has no port");
    };
    if !port.bytes().all(|byte| byte.is_ascii_digit())
        || !port.parse::<u16>().is_ok_and(|port| port > 0)
    {
        return refuse("the port is not a number from 1 to 65535");
    }
    let is_ipv6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    let is_name = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    if is_ipv6 || is_name {
        Ok(())
    } else {
        refuse("the host is neither a name nor an IP address (IPv6 in brackets)")
    }
}

/// The enrolled nodes.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NodeList {
    epoch: Uuid,
    /// The newest revision of the configuration.
    revision: u64,
    nodes: Vec<NodeView>,
}

/// An enrolled node.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NodeView {
    node_id: Uuid,
    region: String,
    /// Host and port at which other nodes reach this one.
    address: String,
    #[serde(with = "time::serde::rfc3339")]
    enrolled_at: OffsetDateTime,
    /// What it has applied of the current epoch; 0 when nothing.
    revision: u64,
    /// How many revisions it lacks.
    lag: u64,
    /// Whether it was heard from within the last ten seconds.
    is_live: bool,
    #[serde(with = "time::serde::rfc3339::option")]
    lease_expires_at: Option<OffsetDateTime>,
    /// The documents that it cannot understand; it denies what they govern.
    rejected: Vec<RejectedView>,
}

/// A document that a node cannot understand.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RejectedView {
    region: String,
    kind: String,
    key: String,
    revision: u64,
    reason: String,
}

impl NodeView {
    fn of(node: &NodeState, head: config::Position) -> Self {
        let progress = node
            .progress
            .as_ref()
            .filter(|progress| progress.epoch == head.epoch);
        let revision = progress.map_or(Revision(0), |progress| progress.revision);
        let rejected = progress.map_or(&[][..], |progress| &progress.rejected);
        Self {
            node_id: node.node_id,
            region: node.region.0.clone(),
            address: node.address.clone(),
            enrolled_at: node.enrolled_at,
            revision: revision.0,
            lag: head.revision.0.saturating_sub(revision.0),
            is_live: !node.lease_remaining.is_zero(),
            lease_expires_at: node.lease_expires_at,
            rejected: rejected
                .iter()
                .map(|rejected| RejectedView {
                    region: rejected.region.0.clone(),
                    kind: rejected.kind.clone(),
                    key: rejected.key.clone(),
                    revision: rejected.revision.0,
                    reason: rejected.reason.clone(),
                })
                .collect(),
        }
    }
}

async fn list(app: Arc<App>, _request: Request) -> Result<Answer, ApiError> {
    let store = &app.config_feed.store;
    let nodes = nodes::list(store).await.map_err(store_error)?;
    // Read last, so that no node is ahead of it.
    let head = config::head(store).await.map_err(store_error)?.position;
    Answer::ok(&NodeList {
        epoch: head.epoch.0,
        revision: head.revision.0,
        nodes: nodes.iter().map(|node| NodeView::of(node, head)).collect(),
    })
}

/// How far a revision has got.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PropagationView {
    epoch: Uuid,
    revision: u64,
    /// `complete`, `partial` or `pending`, over the nodes of all regions.
    propagation: &'static str,
    /// The nodes that lack the revision or cannot understand it.
    missing: Vec<NodeView>,
}

async fn propagation(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let text = request.parameter("revision");
    let revision: u64 = text.parse().map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        ApiError::invalid(
            "InvalidRevision",
            format!("The revision '{shown}' is not a whole number of at least 0."),
        )
        .with_target("revision")
    })?;
    let feed = &app.config_feed;
    let nodes = nodes::list(&feed.store).await.map_err(store_error)?;
    let head = config::head(&feed.store)
        .await
        .map_err(store_error)?
        .position;
    if revision > head.revision.0 {
        return Err(ApiError::not_found(
            "RevisionNotFound",
            format!(
                "There is no revision {revision}; the newest is {}.",
                head.revision
            ),
        )
        .with_target("revision"));
    }
    let published = Published {
        epoch: head.epoch,
        revision: Revision(revision),
        regions: vec![Region::all()],
    };
    let known = feed.judge_now(&published, &nodes);
    Answer::ok(&PropagationView {
        epoch: head.epoch.0,
        revision,
        propagation: known.outcome.as_str(),
        missing: nodes
            .iter()
            .filter(|node| known.missing.contains(&node.node_id))
            .map(|node| NodeView::of(node, head))
            .collect(),
    })
}
