//! What somebody who signed in is given.

use arm::ApiError;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::claims::IdentityClaims;
use super::tenant::TenantForm;
use super::token::{TokenAnswer, Wanted};
use super::{Claims, SignIn};

/// Who signed in, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SignedIn {
    pub(super) principal_id: Uuid,
    /// The application that asked: itself, or a person's client.
    pub(super) client_id: Uuid,
    /// What was shown; tokens die with it.
    pub(super) credential_id: Uuid,
    pub(super) person: Option<Person>,
}

/// A person as clients show one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) user_principal_name: String,
    pub(super) display_name: String,
}

/// The answer, without a refresh token.
pub(super) fn answer(
    sign_in: &SignIn,
    tenant: &TenantForm,
    who: &SignedIn,
    wanted: &Wanted,
    now: OffsetDateTime,
) -> Result<TokenAnswer, ApiError> {
    let keys = sign_in.keys.current();
    let key = keys
        .signing(now)
        .ok_or_else(|| ApiError::internal("no sign-in key is in force"))?;
    let issued_at = now.unix_timestamp();
    let lifetime = wanted.audience.token_lifetime().whole_seconds();
    let claims = Claims {
        iss: tenant.issuer(&sign_in.public_url, sign_in.tenant_id),
        aud: wanted.audience.claim(&sign_in.public_url).to_owned(),
        sub: who.principal_id,
        oid: who.principal_id,
        appid: who.client_id,
        azp: who.client_id,
        tid: sign_in.tenant_id,
        iat: issued_at,
        nbf: issued_at,
        exp: issued_at + lifetime,
        ver: "2.0".to_owned(),
        jti: Uuid::new_v4(),
        cred: who.credential_id,
        upn: who
            .person
            .as_ref()
            .map(|person| person.user_principal_name.clone()),
        name: who
            .person
            .as_ref()
            .map(|person| person.display_name.clone()),
    };
    let id_token = match &who.person {
        Some(person) => {
            let identity = identity(&claims, who, person);
            Some(key.sign(&identity).map_err(ApiError::internal)?)
        }
        None => None,
    };
    let is_person = who.person.is_some();
    Ok(TokenAnswer {
        token_type: "Bearer",
        expires_in: lifetime,
        ext_expires_in: lifetime,
        access_token: key.sign(&claims).map_err(ApiError::internal)?,
        scope: (is_person && !wanted.scope.is_empty()).then(|| wanted.scope.clone()),
        refresh_token: None,
        refresh_token_expires_in: None,
        id_token,
        client_info: (is_person && wanted.client_info).then(|| {
            let text = json!({ "uid": who.principal_id, "utid": sign_in.tenant_id }).to_string();
            URL_SAFE_NO_PAD.encode(text)
        }),
    })
}

fn identity<'a>(claims: &'a Claims, who: &SignedIn, person: &'a Person) -> IdentityClaims<'a> {
    IdentityClaims {
        iss: &claims.iss,
        aud: who.client_id,
        sub: claims.sub,
        oid: claims.oid,
        tid: claims.tid,
        iat: claims.iat,
        nbf: claims.nbf,
        exp: claims.exp,
        ver: &claims.ver,
        preferred_username: &person.user_principal_name,
        upn: &person.user_principal_name,
        name: &person.display_name,
    }
}
