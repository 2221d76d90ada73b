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
    /// The secret that the token was issued for; the token dies with it.
    pub(crate) cred: Uuid,
}
