//! What an access token says.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The claims of an access token, by their names on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) aud: String,
    /// The object id of the principal, as is `oid`.
    pub(crate) sub: Uuid,
    pub(crate) oid: Uuid,
    /// The application that signed in, as is `azp`; `appid` is the name that version 1 of the protocol has for it.
    pub(crate) appid: Uuid,
    pub(crate) azp: Uuid,
    /// The tenant.
    pub(crate) tid: Uuid,
    /// Seconds since 1970, as are `nbf` and `exp`.
    pub(crate) iat: i64,
    pub(crate) nbf: i64,
    pub(crate) exp: i64,
    pub(crate) ver: String,
    pub(crate) jti: Uuid,
    /// The credential that the token came from; the token dies with it.
    pub(crate) cred: Uuid,
    /// Of a person: the user principal name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upn: Option<String>,
    /// Of a person: the display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
}

/// What a person's client is told about who signed in (OpenID Connect Core 1.0, 2). Not an access token: its audience is the client.
#[derive(Debug, Serialize)]
pub(super) struct IdentityClaims<'a> {
    pub(super) iss: &'a str,
    pub(super) aud: Uuid,
    pub(super) sub: Uuid,
    pub(super) oid: Uuid,
    pub(super) tid: Uuid,
    pub(super) iat: i64,
    pub(super) nbf: i64,
    pub(super) exp: i64,
    pub(super) ver: &'a str,
    pub(super) preferred_username: &'a str,
    pub(super) upn: &'a str,
    pub(super) name: &'a str,
}
