//! What nodes call beside the stream: joining, and taking a new credential ([`super::rotation`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::http::Method;
use arm::{ApiError, ErrorDetail, Kind};
use config_documents::{JoinAnswer, JoinRequest, Region};
use credentials::{SecretKind, Verifier};
use store::config::Published;
use store::nodes::{self, Enrolment, NewNode};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::front_door::{Access, Answer, Operation, Protocol, Request, store_error};

/// The longest address of a node, in characters: a name of DNS and a port.
const MAXIMUM_ADDRESS_CHARACTERS: usize = 260;

/// The longest name of a node's key, in characters.
const MAXIMUM_KID_CHARACTERS: usize = 100;

pub(crate) fn operations() -> Vec<Operation> {
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
        .answers::<JoinAnswerSchema>(201)
        .repeats_no_change(),
        super::rotation::operation(),
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
    /// The newest form of each kind of document that the node understands; without it, the first form of each.
    forms: Option<BTreeMap<String, u32>>,
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
        forms: body.forms,
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
        Enrolment::FormsBeyond { forms } => refused("NodeTooOld", too_old(&forms)),
    }
}

/// Why a node whose build is too old may not join.
fn too_old(forms: &[(String, u32)]) -> String {
    let named: Vec<String> = forms
        .iter()
        .map(|(kind, form)| format!("'{kind}' in form {form}"))
        .collect();
    format!(
        "The node does not understand documents that are in use: {}. Install a newer build on it; the join token is still good.",
        named.join(", ")
    )
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
    faults.extend(check_kid(body.public_key.kid()));
    if faults.is_empty() {
        Ok(())
    } else {
        Err(ApiError::from_faults(faults))
    }
}

/// What is wrong with the name of a node's key.
pub(super) fn check_kid(kid: &str) -> Option<ErrorDetail> {
    let is_name = !kid.is_empty()
        && kid.len() <= MAXIMUM_KID_CHARACTERS
        && kid
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    (!is_name).then(|| {
        ErrorDetail::new(
            "InvalidParameter",
            format!(
                "The 'kid' of the key must be 1 to {MAXIMUM_KID_CHARACTERS} letters, digits, '.', '_' and '-'."
            ),
            "public_key.kid",
        )
    })
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
