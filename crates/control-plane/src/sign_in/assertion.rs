//! Applications that sign in with a client assertion (RFC 7523, 2.2): a token that is signed with one of their certificates, or a token of
//! an external issuer that one of their federated credentials names.
//!
//! An assertion is good until it expires, however often it is shown: clients keep one and ask for several tokens with it. It is short-lived,
//! and only for this installation.

use credentials::{Certificate, NOT_BEFORE_TOLERANCE, TokenError, UnverifiedHeader, check_times};
use serde::Deserialize;
use store::directory::{AssertionFacts, SignInCertificate, SignInFederated, SignInPrincipal};
use time::OffsetDateTime;
use uuid::Uuid;

use super::issuers::NoKey;
use super::refusal::{Outcome, Refusal, shorten};
use super::tenant::TenantForm;
use super::token::{Attempt, Failure};
use crate::App;
use crate::front_door::Request;
use crate::limits::{ASSERTION_LIFETIME, FEDERATED_TOKEN_LIFETIME, MAXIMUM_ASSERTION_BYTES};

/// The one form of assertions that there is.
pub(super) const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What an assertion says.
#[derive(Debug, Clone, Deserialize)]
struct AssertionClaims {
    iss: String,
    sub: String,
    aud: Audiences,
    /// Seconds since 1970; some clients write fractions.
    exp: f64,
    nbf: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Audiences {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// The application that an assertion says it is of, if it says so of itself.
pub(super) fn client_id_of(assertion: &str) -> Option<String> {
    let (_, claims) = read(assertion).ok()?;
    (claims.iss == claims.sub).then_some(claims.sub)
}

/// The service principal of the application, and the id of the credential that the assertion came from.
pub(super) async fn check(
    app: &App,
    request: &Request,
    app_id: Uuid,
    assertion: &str,
    attempt: &mut Attempt,
) -> Result<(Option<SignInPrincipal>, Uuid), Failure> {
    let (header, claims) = read(assertion)?;
    let facts = app
        .store
        .sign_in_assertion_facts(app_id)
        .await?
        .ok_or_else(|| Refusal::unknown_client(&app_id.to_string()))?;
    attempt.is_known_application = true;
    // A certificate's assertion is issued by the application itself; an external issuer is a URL.
    let credential_id = if Uuid::try_parse(&claims.iss).is_ok() {
        let expected = TenantForm::token_endpoints(&app.sign_in.public_url, app.sign_in.tenant_id);
        of_certificate(app_id, &facts, &header, assertion, &expected, request.now)?
    } else {
        of_issuer(
            app,
            app_id,
            &facts,
            &header,
            &claims,
            assertion,
            request.now,
        )
        .await?
    };
    Ok((facts.principal, credential_id))
}

fn read(assertion: &str) -> Result<(UnverifiedHeader, AssertionClaims), Refusal> {
    if assertion.len() > MAXIMUM_ASSERTION_BYTES {
        return Err(Refusal::wrong_assertion(
            50_027,
            format!("The client assertion is longer than {MAXIMUM_ASSERTION_BYTES} bytes."),
        ));
    }
    credentials::read_unverified(assertion).map_err(|error| {
        let reason = match error {
            TokenError::Algorithm => "its algorithm is none of RS256, PS256 and ES256",
            TokenError::Claims => "it must have the claims iss, sub, aud and exp",
            _ => "it is not a JSON Web Token",
        };
        Refusal::wrong_assertion(
            50_027,
            format!("The client assertion is not valid: {reason}."),
        )
    })
}

fn of_certificate(
    app_id: Uuid,
    facts: &AssertionFacts,
    header: &UnverifiedHeader,
    assertion: &str,
    expected_audiences: &[String],
    now: OffsetDateTime,
) -> Result<Uuid, Refusal> {
    let is_named = |certificate: &&SignInCertificate| match (
        &header.thumbprint_sha256,
        &header.thumbprint_sha1,
    ) {
        (Some(thumbprint), _) => certificate.thumbprint_sha256 == *thumbprint,
        (None, Some(thumbprint)) => certificate.thumbprint_sha1 == *thumbprint,
        (None, None) => true,
    };
    let signed = facts
        .certificates
        .iter()
        .filter(is_named)
        .find_map(|certificate| {
            let key = Certificate::parse(&certificate.certificate).ok()?.key;
            let claims: AssertionClaims = key.verify(assertion).ok()?;
            Some((certificate, claims))
        });
    let (certificate, claims) = signed.ok_or_else(|| {
        Refusal::wrong_assertion(
            700_027,
            format!(
                "The client assertion is not signed (RS256, PS256 or ES256) with the key of a certificate of the application '{app_id}'."
            ),
        )
    })?;
    let is_of_client = |text: &str| Uuid::try_parse(text) == Ok(app_id);
    if !is_of_client(&claims.iss) || !is_of_client(&claims.sub) {
        return Err(Refusal::wrong_assertion(
            700_021,
            format!(
                "The claims 'iss' and 'sub' of the client assertion must be '{app_id}', the application that signs in."
            ),
        ));
    }
    let audiences = claims.aud.as_slice();
    if !audiences.iter().any(|aud| expected_audiences.contains(aud)) {
        return Err(Refusal::wrong_assertion(
            700_023,
            format!(
                "The claim 'aud' of the client assertion must be the token endpoint of this installation, '{}', and not '{}'.",
                expected_audiences.first().map_or("", String::as_str),
                shorten(&audiences.join(" "))
            ),
        ));
    }
    in_time(&claims, ASSERTION_LIFETIME, now)?;
    certificate_in_force(app_id, certificate, now)?;
    Ok(certificate.key_id)
}

fn certificate_in_force(
    app_id: Uuid,
    certificate: &SignInCertificate,
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    let key_id = certificate.key_id;
    let when = if now >= certificate.expires_at {
        format!("expired at {}", arm::format_time(certificate.expires_at))
    } else if certificate.starts_at - now > NOT_BEFORE_TOLERANCE {
        format!(
            "is not valid before {}",
            arm::format_time(certificate.starts_at)
        )
    } else {
        return Ok(());
    };
    Err(Refusal::new(
        Outcome::SecretNotInForce,
        actix_web::http::StatusCode::UNAUTHORIZED,
        "invalid_client",
        700_027,
        format!("The certificate '{key_id}' of the application '{app_id}' {when}."),
    ))
}

/// By the clock of this installation, with the tolerance that its own tokens have.
fn in_time(
    claims: &AssertionClaims,
    longest: time::Duration,
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a time that does not fit is the end of time, which is as wrong"
    )]
    let whole = |seconds: f64| seconds.floor() as i64;
    let ends_at = whole(claims.exp);
    let reason = match check_times(claims.nbf.map(whole), ends_at, now) {
        Ok(()) if ends_at - now.unix_timestamp() <= longest.whole_seconds() => {
            return Ok(());
        }
        Ok(()) => format!("it ends in more than {} hours", longest.whole_hours()),
        Err(TokenError::Expired) => "it has expired".to_owned(),
        Err(_) => "it is not valid yet".to_owned(),
    };
    Err(Refusal::wrong_assertion(
        700_024,
        format!(
            "The client assertion is not within its valid time range: {reason}. The time here is {}.",
            arm::format_time(now)
        ),
    ))
}

async fn of_issuer(
    app: &App,
    app_id: Uuid,
    facts: &AssertionFacts,
    header: &UnverifiedHeader,
    claims: &AssertionClaims,
    assertion: &str,
    now: OffsetDateTime,
) -> Result<Uuid, Refusal> {
    // Before anybody is asked for keys: only what an owner named is.
    let credential = matching(app_id, &facts.federated, claims)?;
    if is_own_issuer(&app.sign_in.public_url, &credential.issuer) {
        return Err(Refusal::wrong_assertion(
            700_222,
            "Tokens of this installation cannot be used as federated tokens.",
        ));
    }
    let key = app
        .sign_in
        .issuers
        .key(&credential.issuer, header, now)
        .await
        .map_err(|no_key| without_key(&credential.issuer, &no_key))?;
    let verified: AssertionClaims = key.verify(assertion).map_err(|error| {
        let reason = match error {
            TokenError::Algorithm => "it is not signed with the algorithm of the issuer's key",
            _ => "its signature is not that of the issuer's key",
        };
        Refusal::wrong_assertion(
            50_027,
            format!("The federated token is not valid: {reason}."),
        )
    })?;
    in_time(&verified, FEDERATED_TOKEN_LIFETIME, now)?;
    Ok(matching(app_id, &facts.federated, &verified)?.credential_id)
}

/// Whether an issuer is this installation. With its own tokens, one that is dead or stolen could buy new ones without end.
pub(crate) fn is_own_issuer(public_url: &str, issuer: &str) -> bool {
    let (Ok(own), Ok(issuer)) = (reqwest::Url::parse(public_url), reqwest::Url::parse(issuer))
    else {
        return false;
    };
    own.host() == issuer.host() && own.port_or_known_default() == issuer.port_or_known_default()
}

/// The federated credential whose issuer, subject and audience a token has, each exactly.
fn matching<'a>(
    app_id: Uuid,
    credentials: &'a [SignInFederated],
    claims: &AssertionClaims,
) -> Result<&'a SignInFederated, Refusal> {
    let audiences = claims.aud.as_slice();
    credentials
        .iter()
        .find(|credential| {
            credential.issuer == claims.iss
                && credential.subject == claims.sub
                && audiences
                    .iter()
                    .any(|audience| credential.audiences.contains(audience))
        })
        .ok_or_else(|| {
            Refusal::wrong_assertion(
                700_213,
                format!(
                    "No federated credential of the application '{app_id}' has the issuer '{}', the subject '{}' and the audience '{}' of the token. All three are compared exactly.",
                    shorten(&claims.iss),
                    shorten(&claims.sub),
                    shorten(&audiences.join(" "))
                ),
            )
        })
}

fn without_key(issuer: &str, NoKey { error, wait }: &NoKey) -> Refusal {
    let issuer = shorten(issuer);
    if error.is_passing() {
        let message = format!(
            "The federated token cannot be verified: the keys of the issuer '{issuer}' cannot be had now. The log of the control plane says why."
        );
        // Not 503: it is not this service that is away, and MSAL shows what is wrong only of 4xx.
        return Refusal::later(
            Outcome::IssuerUnavailable,
            actix_web::http::StatusCode::BAD_REQUEST,
            50_166,
            &message,
            wait.unsigned_abs(),
        );
    }
    Refusal::wrong_assertion(
        50_166,
        format!("The federated token cannot be verified: of the issuer '{issuer}', {error}."),
    )
}
