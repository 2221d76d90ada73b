//! How a node joins: `POST /config/v1/join` with a one-time join token.

use credentials::PublicKey;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Region;

/// Marks come at least this often when nothing changes: progress and liveness are the same thing.
pub const MINIMUM_MARK_INTERVAL_MILLISECONDS: u64 = 1_000;

#[derive(Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The one-time token, in clear: the request travels over verified TLS.
    pub join_token: String,
    pub region: Region,
    /// The key that the node made for signing its registry tokens.
    pub public_key: PublicKey,
    /// Host and port at which other nodes reach this one.
    pub address: String,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct JoinAnswer {
    pub node_id: Uuid,
    /// The bearer of the node's stream, in clear; the control plane keeps only its verifier.
    pub credential: String,
}
