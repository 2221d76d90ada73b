//! A node's new credential and signing key: a node that is asked for them announces them here, and the key of before is withdrawn once its
//! last token is dead.

use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use arm::ApiError;
use config_documents::RotateRequest;
use credentials::{Secret, SecretKind};
use store::nodes::{self, NodeState, RETIRED_KEY_VALIDITY, Rotation};
use tokio::time::sleep;
use utoipa::ToSchema;

use super::limits::RETIRED_KEYS_INTERVAL;
use super::operations::{check_kid, too_many_attempts};
use super::{ConfigFeed, credential};
use crate::App;
use crate::front_door::{Access, Answer, Operation, Protocol, Request, store_error};

pub(super) fn operation() -> Operation {
    Operation::new(
        "ConfigFeed_Rotate",
        Method::POST,
        "/config/v1/rotate",
        Access::Node,
        "Announces a registry node's new credential and signing key; the bearer is its present credential.",
        rotate,
    )
    .protocol(Protocol::Own)
    .takes::<RotateRequestSchema>()
    .answers_empty(204)
    .repeats_no_change()
}

/// The body of a node that takes a new credential and key.
#[derive(ToSchema)]
#[schema(as = RotateRequest)]
#[expect(
    dead_code,
    reason = "only its schema is used; the body is read as the contract's own type"
)]
struct RotateRequestSchema {
    /// Made by the node; it counts beside the present one, which dies when this one is first used.
    credential: String,
    /// The public part, as a JSON Web Key, of the key that the node will sign registry tokens with.
    #[schema(value_type = Object)]
    public_key: serde_json::Value,
}

async fn rotate(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let feed = &app.config_feed;
    let present = credential::bearer(&request.headers)?;
    if !feed.attempts.allow(request.peer) {
        return Err(too_many_attempts());
    }
    if nodes::by_credential(&feed.store, present)
        .await
        .map_err(store_error)?
        .is_none()
    {
        return Err(credential::unknown());
    }
    let body: RotateRequest = request.json()?;
    if credentials::recognise(&body.credential) != Ok(SecretKind::NodeCredential) {
        return Err(ApiError::invalid(
            "InvalidParameter",
            "The new credential is not one that a node generates.",
        )
        .with_target("credential"));
    }
    if let Some(fault) = check_kid(body.public_key.kid()) {
        return Err(ApiError::from_faults(vec![fault]));
    }
    let announced = nodes::rotation_announce(
        &feed.store,
        present,
        &Secret::new(body.credential),
        &body.public_key,
        &*app.randomness,
    )
    .await
    .map_err(store_error)?;
    match announced {
        Rotation::Announced { node_id, published } => {
            tracing::info!(
                node.id = %node_id, signing_key = body.public_key.kid(), config.revision = published.revision.0,
                "a node has announced a new signing key"
            );
            // The front door waits until other nodes have it.
            Ok(Answer::empty(StatusCode::NO_CONTENT).published(Some(published)))
        }
        Rotation::UnknownCredential => Err(credential::unknown()),
        Rotation::KeyInUse => Err(ApiError::conflict(
            "SigningKeyInUse",
            "Another key has the same 'kid'. Give the node a key of its own.",
        )),
    }
}

impl ConfigFeed {
    /// Asks those connected nodes for a new credential and key of which an operator wants them.
    pub(super) fn ask_to_rotate(&self, nodes: &[NodeState]) {
        let wanted = nodes.iter().filter(|node| node.rotation_requested);
        for connected in self
            .connections
            .of(wanted.map(|node| node.node_id))
            .into_values()
        {
            connected.stream.ask_to_rotate();
        }
    }
}

/// Withdraws keys of before a rotation. Idempotent, and every control plane does it.
pub(super) async fn withdraw_retired_keys(feed: &ConfigFeed) {
    loop {
        match nodes::retired_keys_withdraw(&feed.store, RETIRED_KEY_VALIDITY).await {
            Ok(None) => {}
            Ok(Some(published)) => {
                tracing::info!(
                    config.revision = published.revision.0,
                    "signing keys of before a rotation are withdrawn: none of their tokens is valid any more"
                );
                feed.wake();
            }
            Err(error) => tracing::debug!(
                error.cause = %service::errors::chain(&error),
                "signing keys of before a rotation are not withdrawn yet; it is tried again"
            ),
        }
        sleep(RETIRED_KEYS_INTERVAL).await;
    }
}
