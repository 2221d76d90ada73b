//! The token endpoint: an application shows its secret and gets an access token (RFC 6749, 4.4).

use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use arm::ApiError;
use credentials::{NOT_BEFORE_TOLERANCE, Secret, SecretKind};
use serde::Serialize;
use store::directory::{SignInFacts, SignInSecret};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::audience::Audience;
use super::form::{self, Form, InvalidForm};
use super::refusal::{Outcome, Refusal, shorten};
use super::tenant::TenantForm;
use super::{Claims, SignIn};
use crate::App;
use crate::front_door::{Access, Answer, Operation, Protocol, Request, store_error};
use crate::limits::TOKEN_LIFETIME;

/// The one grant that is built.
pub(super) const GRANT_TYPE: &str = "client_credentials";

pub(super) fn operations() -> Vec<Operation> {
    [
        (
            "SignIn_Token",
            "/{tenant}/oauth2/v2.0/token",
            "Issues an access token to an application that shows its secret.",
        ),
        (
            "SignIn_TokenVersion1",
            "/{tenant}/oauth2/token",
            "Issues an access token to an application that shows its secret; `resource` may stand for `scope`.",
        ),
    ]
    .into_iter()
    .map(|(id, path, summary)| {
        Operation::new(id, Method::POST, path, Access::Public, summary, token)
            .protocol(Protocol::OAuth)
            .takes::<TokenRequest>()
            .answers::<TokenAnswer>(200)
    })
    .collect()
}

/// What the token endpoint is asked, as a form.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "only its schema is used; the form is read parameter by parameter"
)]
struct TokenRequest {
    /// `client_credentials`.
    grant_type: String,
    /// The application's id; may stand in an `Authorization: Basic` header instead.
    client_id: Option<String>,
    /// May stand in an `Authorization: Basic` header instead.
    #[schema(format = Password)]
    client_secret: Option<String>,
    /// What the token is for: `<public URL>/.default` or `https://containerregistry.azure.net/.default`.
    scope: Option<String>,
    /// The same without `/.default`, in version 1 of the protocol.
    resource: Option<String>,
}

/// An access token.
#[derive(Serialize, ToSchema)]
struct TokenAnswer {
    token_type: &'static str,
    /// Seconds.
    expires_in: i64,
    ext_expires_in: i64,
    access_token: String,
}

/// An attempt that did not end with a token.
enum Failure {
    Refused(Refusal),
    /// A failure of ours.
    Error(ApiError),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

async fn token(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let tenant = TenantForm::parse(request.parameter("tenant"), app.installation.tenant_id)?;
    let sign_in = &app.sign_in;
    let mut client = None;
    let (answer, outcome) = match issue(&app, &request, &tenant, &mut client).await {
        Ok(token) => (Answer::ok(&token)?, Outcome::Success),
        Err(Failure::Refused(refusal)) => {
            let refusal = count(sign_in, &request, client, refusal);
            (
                refusal.answer(&request, &sign_in.public_url),
                refusal.outcome,
            )
        }
        Err(Failure::Error(error)) => return Err(error),
    };
    sign_in.metrics.record(outcome);
    // Only what is known to be an id: people type secrets into the wrong field.
    tracing::info!(
        client.id = client.map(tracing::field::display),
        client.address = request.peer.map(tracing::field::display),
        outcome = outcome.as_str(),
        "sign-in"
    );
    Ok(answer
        .header("cache-control", "no-store")
        .header("pragma", "no-cache"))
}

/// Counts a refusal that may have been a guess, and replaces it when there were too many.
fn count(sign_in: &SignIn, request: &Request, client: Option<Uuid>, refusal: Refusal) -> Refusal {
    if !refusal.outcome.is_guess() {
        return refusal;
    }
    match sign_in.failures.failed(request.peer, client) {
        Ok(()) => refusal,
        Err(wait) => Refusal::limited(wait),
    }
}

async fn issue(
    app: &App,
    request: &Request,
    tenant: &TenantForm,
    client: &mut Option<Uuid>,
) -> Result<TokenAnswer, Failure> {
    let sign_in = &app.sign_in;
    let form = read_form(request)?;
    check_grant(&form)?;
    let audience = audience(&form, &sign_in.public_url)?;
    let (client_id, secret) = client_credentials(request, &form)?;
    let app_id = Uuid::try_parse(&client_id).map_err(|_| Refusal::unknown_client(&client_id))?;
    *client = Some(app_id);
    check_form_of_secret(app_id, &secret)?;
    let facts = app
        .store
        .sign_in_facts(app_id)
        .await
        .map_err(|error| Failure::Error(store_error(error)))?
        .ok_or_else(|| Refusal::unknown_client(&client_id))?;
    let key_id = matching_secret(app_id, &facts, &secret, request.now)?;
    let object_id = enabled_principal(app_id, &facts)?;
    let issued_at = request.now.unix_timestamp();
    let claims = Claims {
        iss: tenant.issuer(&sign_in.public_url, sign_in.tenant_id),
        aud: audience.claim(&sign_in.public_url).to_owned(),
        sub: object_id,
        oid: object_id,
        appid: app_id,
        azp: app_id,
        tid: sign_in.tenant_id,
        iat: issued_at,
        nbf: issued_at,
        exp: issued_at + TOKEN_LIFETIME.whole_seconds(),
        ver: "2.0".to_owned(),
        jti: Uuid::new_v4(),
        cred: key_id,
    };
    let access_token = sign(sign_in, &claims, request.now).map_err(Failure::Error)?;
    Ok(TokenAnswer {
        token_type: "Bearer",
        expires_in: TOKEN_LIFETIME.whole_seconds(),
        ext_expires_in: TOKEN_LIFETIME.whole_seconds(),
        access_token,
    })
}

fn sign(sign_in: &SignIn, claims: &Claims, now: OffsetDateTime) -> Result<String, ApiError> {
    let keys = sign_in.keys.current();
    let key = keys
        .signing(now)
        .ok_or_else(|| ApiError::internal("no sign-in key is in force"))?;
    key.sign(claims).map_err(ApiError::internal)
}

fn read_form(request: &Request) -> Result<Form, Refusal> {
    let is_form = request
        .headers
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.split(';').next())
        .is_some_and(|media_type| {
            media_type
                .trim()
                .eq_ignore_ascii_case("application/x-www-form-urlencoded")
        });
    if !is_form {
        return Err(Refusal::invalid(
            "invalid_request",
            90_023,
            "The request body must be a form: Content-Type: application/x-www-form-urlencoded.",
        ));
    }
    Form::parse(&request.body).map_err(|error| invalid_form(&error))
}

fn invalid_form(error: &InvalidForm) -> Refusal {
    Refusal::invalid(
        "invalid_request",
        90_023,
        format!("The request is not valid: {error}."),
    )
}

fn check_grant(form: &Form) -> Result<(), Refusal> {
    let grant_type = form
        .get("grant_type")
        .ok_or_else(|| Refusal::missing("grant_type"))?;
    if grant_type == GRANT_TYPE {
        return Ok(());
    }
    Err(Refusal::invalid(
        "unsupported_grant_type",
        70_003,
        format!(
            "The grant type '{}' is not supported. Supported is '{GRANT_TYPE}': sign in as a service principal.",
            shorten(grant_type)
        ),
    ))
}

/// What the token is to be for; `resource` counts where there is no `scope`.
fn audience(form: &Form, public_url: &str) -> Result<Audience, Refusal> {
    let (text, found) = match (form.get("scope"), form.get("resource")) {
        (Some(scope), _) => (scope, Audience::of_scope(scope, public_url)),
        (None, Some(resource)) => (resource, Audience::of_resource(resource, public_url)),
        (None, None) => return Err(Refusal::missing("scope")),
    };
    found.ok_or_else(|| {
        let accepted = Audience::scopes(public_url).join("' and '");
        Refusal::invalid(
            "invalid_scope",
            70_011,
            format!(
                "The scope '{}' is not valid. Accepted are '{accepted}', one at a time.",
                shorten(text)
            ),
        )
    })
}

/// Id and secret, from the form or the header, never from both.
fn client_credentials(request: &Request, form: &Form) -> Result<(String, Secret), Refusal> {
    if form.get("client_assertion").is_some() {
        return Err(Refusal::invalid(
            "invalid_client",
            700_027,
            "Sign-in with a certificate or a federated token (client_assertion) is not supported; use a client secret.",
        ));
    }
    let in_form = form.get("client_id");
    let secret_in_form = form.get("client_secret");
    let Some(header) = request.headers.get("authorization") else {
        let client_id = in_form.ok_or_else(|| Refusal::missing("client_id"))?;
        let secret = secret_in_form.ok_or_else(|| {
            Refusal::new(
                Outcome::InvalidRequest,
                StatusCode::UNAUTHORIZED,
                "invalid_client",
                7_000_216,
                "'client_secret' is required for the grant type 'client_credentials'.",
            )
        })?;
        return Ok((client_id.to_owned(), Secret::new(secret.to_owned())));
    };
    let text = header
        .to_str()
        .map_err(|_| invalid_form(&InvalidForm::Basic))?;
    let (client_id, secret) = form::basic(text).map_err(|error| invalid_form(&error))?;
    if secret_in_form.is_some() || in_form.is_some_and(|in_form| in_form != client_id) {
        return Err(Refusal::invalid(
            "invalid_request",
            90_023,
            "The client is given twice, in the 'Authorization' header and in the body; use one of them.",
        ));
    }
    Ok((client_id, secret))
}

/// Refuses, without a look-up, what cannot be the secret of an application.
fn check_form_of_secret(app_id: Uuid, secret: &Secret) -> Result<(), Refusal> {
    match credentials::recognise(secret.expose()) {
        Ok(SecretKind::ServicePrincipalSecret) => Ok(()),
        Ok(other) => Err(Refusal::wrong_secret(
            app_id,
            &format!("it is the {other} of something else"),
        )),
        Err(error) => Err(Refusal::wrong_secret(app_id, &error.to_string())),
    }
}

/// The key id of the secret that was shown, if it is in force.
fn matching_secret(
    app_id: Uuid,
    facts: &SignInFacts,
    shown: &Secret,
    now: OffsetDateTime,
) -> Result<Uuid, Refusal> {
    let matches = |secret: &&SignInSecret| secret.verifier.matches(shown.expose());
    let secret = facts
        .secrets
        .iter()
        .find(matches)
        .ok_or_else(|| Refusal::wrong_secret(app_id, "the application has no such secret"))?;
    let not_in_force = |number, message: String| {
        Err(Refusal::new(
            Outcome::SecretNotInForce,
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            number,
            message,
        ))
    };
    let key_id = secret.key_id;
    if now >= secret.expires_at {
        return not_in_force(
            7_000_222,
            format!(
                "The client secret '{key_id}' of the application '{app_id}' expired at {}. Add a new one.",
                arm::format_time(secret.expires_at)
            ),
        );
    }
    if secret.starts_at - now > NOT_BEFORE_TOLERANCE {
        return not_in_force(
            7_000_215,
            format!(
                "The client secret '{key_id}' of the application '{app_id}' is not valid before {}.",
                arm::format_time(secret.starts_at)
            ),
        );
    }
    Ok(key_id)
}

/// The object id of the application's service principal, if it may sign in.
fn enabled_principal(app_id: Uuid, facts: &SignInFacts) -> Result<Uuid, Refusal> {
    let refused = |number, message: String| {
        Err(Refusal::new(
            Outcome::Disabled,
            StatusCode::BAD_REQUEST,
            "unauthorized_client",
            number,
            message,
        ))
    };
    match facts.principal {
        Some(principal) if principal.enabled => Ok(principal.object_id),
        Some(_) => refused(
            7_000_112,
            format!("The service principal of the application '{app_id}' is disabled."),
        ),
        None => refused(
            7_000_229,
            format!(
                "The application '{app_id}' has no service principal. Create it with 'az ad sp create --id {app_id}'."
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use credentials::{SystemRandomness, Verifier, generate};
    use store::directory::SignInPrincipal;
    use time::Duration;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
    const APP: Uuid = Uuid::from_u128(1);

    fn facts(shown: &Secret, starts_in: Duration, expires_in: Duration) -> SignInFacts {
        let other = generate(SecretKind::ServicePrincipalSecret, &SystemRandomness);
        let secret =
            |key_id, secret: &Secret, starts_in: Duration, expires_in: Duration| SignInSecret {
                key_id: Uuid::from_u128(key_id),
                verifier: Verifier::of(secret, &SystemRandomness),
                starts_at: NOW + starts_in,
                expires_at: NOW + expires_in,
            };
        SignInFacts {
            principal: Some(SignInPrincipal {
                object_id: Uuid::from_u128(9),
                enabled: true,
            }),
            secrets: vec![
                secret(5, &other, Duration::ZERO, Duration::days(1)),
                secret(6, shown, starts_in, expires_in),
            ],
        }
    }

    #[test]
    fn a_secret_is_in_force_from_five_minutes_before_its_start_until_its_end() {
        let shown = generate(SecretKind::ServicePrincipalSecret, &SystemRandomness);
        let outcome = |starts_in, expires_in| {
            matching_secret(APP, &facts(&shown, starts_in, expires_in), &shown, NOW)
                .map_err(|refusal| refusal.number)
        };
        let day = Duration::days(1);
        assert_eq!(outcome(-day, day), Ok(Uuid::from_u128(6)));
        assert_eq!(outcome(Duration::minutes(5), day), Ok(Uuid::from_u128(6)));
        assert_eq!(outcome(Duration::seconds(301), day), Err(7_000_215));
        assert_eq!(outcome(-day, Duration::seconds(1)), Ok(Uuid::from_u128(6)));
        assert_eq!(outcome(-day, Duration::ZERO), Err(7_000_222));
    }

    #[test]
    fn another_secret_is_a_guess_and_an_expired_one_is_not() {
        let shown = generate(SecretKind::ServicePrincipalSecret, &SystemRandomness);
        let known = facts(&shown, Duration::ZERO, Duration::ZERO);
        let wrong = generate(SecretKind::ServicePrincipalSecret, &SystemRandomness);
        let refusal = matching_secret(APP, &known, &wrong, NOW).expect_err("no such secret");
        assert!(refusal.outcome.is_guess());
        let refusal = matching_secret(APP, &known, &shown, NOW).expect_err("expired");
        assert!(!refusal.outcome.is_guess());
    }

    #[test]
    fn a_mistyped_secret_and_one_of_another_kind_are_told_apart_and_never_repeated() {
        let right = generate(SecretKind::ServicePrincipalSecret, &SystemRandomness);
        assert!(check_form_of_secret(APP, &right).is_ok());
        let mistyped = Secret::new(format!("{}x", right.expose()));
        let other = generate(SecretKind::AdminPassword, &SystemRandomness);
        for secret in [mistyped, other] {
            let refusal = check_form_of_secret(APP, &secret).expect_err("not a secret");
            assert_eq!(refusal.outcome, Outcome::WrongSecret);
            assert!(!refusal.message.contains(secret.expose()));
        }
    }

    #[test]
    fn a_disabled_or_missing_service_principal_is_named() {
        let shown = generate(SecretKind::ServicePrincipalSecret, &SystemRandomness);
        let mut known = facts(&shown, Duration::ZERO, Duration::days(1));
        assert_eq!(
            enabled_principal(APP, &known).expect("enabled"),
            Uuid::from_u128(9)
        );
        known.principal = Some(SignInPrincipal {
            object_id: Uuid::from_u128(9),
            enabled: false,
        });
        assert_eq!(
            enabled_principal(APP, &known).expect_err("disabled").number,
            7_000_112
        );
        known.principal = None;
        assert_eq!(
            enabled_principal(APP, &known).expect_err("missing").number,
            7_000_229
        );
    }
}
