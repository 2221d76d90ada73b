//! The mark of a forwarded request: that it was forwarded, so that it is not again; and where its client is, signed by the node that
//! saw it.
//!
//! Anybody can send the header. Without a good signature it means no more than "do not forward", and the address of whoever sent it
//! counts.

use std::net::IpAddr;

use actix_web::HttpRequest;
use credentials::{SigningKey, check_times, kid_of};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{config::Index, limits::FORWARDED_MARK_LIFETIME};

/// The header.
pub(super) const FORWARDED: &str = "x-wharfinger-forwarded";

/// The mark of a node that cannot sign yet.
pub(super) const UNSIGNED: &str = "unsigned";

/// Tells a mark from the tokens that the same keys sign.
const AUDIENCE: &str = "wharfinger-forwarded";

/// What the forwarding node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// What the request is for; the mark is of no use for another registry or method.
    pub(super) login_server: String,
    pub(super) method: String,
    /// Where it came from.
    pub(super) client: IpAddr,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: String,
    host: String,
    method: String,
    client: IpAddr,
    nbf: i64,
    exp: i64,
}

/// Whether a request says that a node forwarded it; true or not, it is not forwarded then.
pub(super) fn is_forwarded(request: &HttpRequest) -> bool {
    request.headers().contains_key(FORWARDED)
}

/// The mark's text, not verified.
pub(super) fn of(request: &HttpRequest) -> Option<&str> {
    request.headers().get(FORWARDED)?.to_str().ok()
}

impl Mark {
    pub(super) fn sign(self, key: &SigningKey, now: OffsetDateTime) -> String {
        let issued_at = now.unix_timestamp();
        let lifetime = i64::try_from(FORWARDED_MARK_LIFETIME.as_secs())
            .expect("the lifetime is far below the end of time");
        let claims = Claims {
            aud: AUDIENCE.to_owned(),
            host: self.login_server,
            method: self.method,
            client: self.client,
            nbf: issued_at,
            exp: issued_at + lifetime,
        };
        key.sign(&claims)
            .expect("the claims are plain text and numbers")
    }

    /// What an enrolled node signed a moment ago; `None` for everything else.
    pub(super) fn verify(text: &str, index: &Index, now: OffsetDateTime) -> Option<Self> {
        let key = index.signing_key(&kid_of(text)?)?;
        if !index.has_node(key.node_id) {
            return None;
        }
        let claims: Claims = key.verifier.verify(text).ok()?;
        if claims.aud != AUDIENCE {
            return None;
        }
        check_times(Some(claims.nbf), claims.exp, now).ok()?;
        Some(Self {
            login_server: claims.host,
            method: claims.method,
            client: claims.client,
        })
    }
}
