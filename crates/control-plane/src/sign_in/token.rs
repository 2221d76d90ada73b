//! The token endpoint: who signs in gets an access token, and what else was asked for (RFC 6749, 3.2).

use std::net::IpAddr;
use std::sync::Arc;

use actix_web::http::Method;
use arm::ApiError;
use serde::Serialize;
use store::StoreError;
use store::activity::SignIn as SignInRecord;
use utoipa::ToSchema;
use uuid::Uuid;

use super::audience::{Audience, OFFLINE_ACCESS};
use super::failure_limiter::{Subject, counted_address};
use super::form::{Form, InvalidForm};
use super::refusal::{NO_SIGN_IN_PAGES, Outcome, Refusal, shorten};
use super::tenant::TenantForm;
use super::{SignIn, client_credentials, issue, password, refresh};
use crate::App;
use crate::front_door::{Access, Answer, Operation, Protocol, Request, store_error};

/// With which a client asks what became of the code that it showed somebody (RFC 8628, 3.4).
const DEVICE_CODE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

pub(super) fn operations() -> Vec<Operation> {
    [
        (
            "SignIn_Token",
            "/{tenant}/oauth2/v2.0/token",
            "Issues an access token to an application that shows its secret, certificate or federated token, or to a person.",
        ),
        (
            "SignIn_TokenVersion1",
            "/{tenant}/oauth2/token",
            "Issues an access token as version 2 does; `resource` may stand for `scope`.",
        ),
    ]
    .into_iter()
    .map(|(id, path, summary)| {
        Operation::new(id, Method::POST, path, Access::Public, summary, token)
            .protocol(Protocol::OAuth)
            .takes::<TokenRequest>()
            .answers::<TokenAnswer>(200)
            .has_own_log()
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
    /// `client_credentials`, `password` or `refresh_token`.
    grant_type: String,
    /// The application's id; may stand in an `Authorization: Basic` header instead.
    client_id: Option<String>,
    /// Of an application; may stand in an `Authorization: Basic` header instead.
    #[schema(format = Password)]
    client_secret: Option<String>,
    /// Of an application, instead of a secret: `urn:ietf:params:oauth:client-assertion-type:jwt-bearer`.
    client_assertion_type: Option<String>,
    /// A JSON Web Token that is signed with a certificate of the application, or by an issuer that the application trusts.
    #[schema(format = Password)]
    client_assertion: Option<String>,
    /// A person's user principal name.
    username: Option<String>,
    #[schema(format = Password)]
    password: Option<String>,
    /// What continues a person's session; good once.
    #[schema(format = Password)]
    refresh_token: Option<String>,
    /// What the token is for: `<public URL>/.default` or `https://containerregistry.azure.net/.default`; of a person also `openid`,
    /// `profile`, `email` and `offline_access`.
    scope: Option<String>,
    /// The same without `/.default`, in version 1 of the protocol.
    resource: Option<String>,
    /// `1`: say who signed in, as the Microsoft Authentication Library reads it.
    client_info: Option<String>,
}

/// An access token, and what a person's client gets besides.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenAnswer {
    pub(super) token_type: &'static str,
    /// Seconds.
    pub(super) expires_in: i64,
    pub(super) ext_expires_in: i64,
    pub(super) access_token: String,
    /// What was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scope: Option<String>,
    /// Continues the session, once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refresh_token: Option<String>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refresh_token_expires_in: Option<i64>,
    /// A JSON Web Token that says who signed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id_token: Option<String>,
    /// Who signed in, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_info: Option<String>,
}

/// An attempt that did not end with a token.
pub(super) enum Failure {
    Refused(Refusal),
    /// A failure of ours.
    Error(ApiError),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Error(store_error(error))
    }
}

/// What is known of an attempt while it goes on, and for the record when it has ended.
#[derive(Default)]
pub(super) struct Attempt {
    pub(super) grant: Option<Grant>,
    /// Only what is known to be an id: people type secrets into the wrong field.
    pub(super) client_id: Option<Uuid>,
    /// Whether the directory has an application with that id.
    pub(super) is_known_application: bool,
    /// In whose name it counts when it fails.
    pub(super) subject: Option<Subject>,
    /// Who it is, as soon as that is certain.
    pub(super) principal_id: Option<Uuid>,
    /// The person in whose name it was tried; it need not have been that one.
    pub(super) account_id: Option<Uuid>,
    /// The credential that was shown, as soon as it is known.
    pub(super) credential_id: Option<Uuid>,
}

/// How somebody signs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    ClientCredentials,
    Password,
    RefreshToken,
}

impl Grant {
    pub(super) const ALL: [Self; 3] = [Self::ClientCredentials, Self::Password, Self::RefreshToken];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::Password => "password",
            Self::RefreshToken => "refresh_token",
        }
    }

    fn of(form: &Form) -> Result<Self, Refusal> {
        let text = form
            .get("grant_type")
            .ok_or_else(|| Refusal::missing("grant_type"))?;
        if text == DEVICE_CODE_GRANT {
            return Err(Refusal::invalid(
                "unsupported_grant_type",
                70_003,
                NO_SIGN_IN_PAGES,
            ));
        }
        Self::ALL
            .into_iter()
            .find(|grant| grant.as_str() == text)
            .ok_or_else(|| {
                let known = Self::ALL.map(Self::as_str).join("', '");
                Refusal::invalid(
                    "unsupported_grant_type",
                    70_003,
                    format!(
                        "The grant type '{}' is not supported. Supported are '{known}'.",
                        shorten(text)
                    ),
                )
            })
    }
}

/// What is asked for.
pub(super) struct Wanted {
    pub(super) audience: Audience,
    /// As it is said again to a person's client.
    pub(super) scope: String,
    pub(super) refresh_token: bool,
    pub(super) client_info: bool,
}

async fn token(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let tenant = TenantForm::of(&app, &request)?;
    let sign_in = &app.sign_in;
    let mut attempt = Attempt::default();
    let (answer, outcome) = match sign_in_somebody(&app, &request, &tenant, &mut attempt).await {
        Ok(token) => (Answer::ok(&token)?, Outcome::Success),
        Err(Failure::Refused(refusal)) => {
            let refusal = count(sign_in, &request, attempt.subject, refusal);
            (
                refusal.answer(&request, &sign_in.public_url),
                refusal.outcome,
            )
        }
        Err(Failure::Error(error)) => return Err(error),
    };
    sign_in.metrics.record(outcome);
    log(&attempt, &request, outcome);
    app.activity
        .sign_in(record(&attempt, request.peer, outcome), request.now);
    Ok(answer
        .header("cache-control", "no-store")
        .header("pragma", "no-cache"))
}

/// What the activity log has of an attempt: of one in the name of nobody who is known, only where it came from. Ids that a stranger makes up
/// would make each attempt another kind.
fn record(attempt: &Attempt, peer: Option<IpAddr>, outcome: Outcome) -> SignInRecord {
    let is_of_somebody = attempt.principal_id.is_some()
        || attempt.account_id.is_some()
        || attempt.is_known_application;
    let of_address = SignInRecord {
        principal_id: None,
        account_id: None,
        client_id: None,
        credential_id: None,
        address: peer.map(counted_address),
        grant: attempt.grant.map(Grant::as_str),
        outcome: outcome.as_str(),
    };
    if outcome.is_of_anybody() || !is_of_somebody {
        return of_address;
    }
    SignInRecord {
        principal_id: attempt.principal_id,
        account_id: attempt.account_id,
        client_id: attempt.client_id,
        credential_id: attempt.credential_id,
        address: peer,
        ..of_address
    }
}

/// Whoever tries without end must not fill the disk: what is over the bounds is left to the metrics.
fn log(attempt: &Attempt, request: &Request, outcome: Outcome) {
    let Attempt {
        grant,
        client_id,
        principal_id,
        credential_id,
        ..
    } = attempt;
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(
                grant = grant.map(Grant::as_str),
                client.id = client_id.map(tracing::field::display),
                client.address = request.peer.map(tracing::field::display),
                principal.object_id = principal_id.map(tracing::field::display),
                credential.id = credential_id.map(tracing::field::display),
                outcome = outcome.as_str(),
                "sign-in"
            )
        };
    }
    match outcome {
        Outcome::Limited | Outcome::Busy => log!(debug),
        _ => log!(info),
    }
}

/// Counts a refusal that may have been a guess, and replaces it when there were too many.
fn count(
    sign_in: &SignIn,
    request: &Request,
    subject: Option<Subject>,
    refusal: Refusal,
) -> Refusal {
    if !refusal.outcome.is_guess() {
        return refusal;
    }
    match sign_in.failures.failed(request.peer, subject) {
        Ok(()) => refusal,
        Err(wait) => Refusal::limited(wait),
    }
}

async fn sign_in_somebody(
    app: &App,
    request: &Request,
    tenant: &TenantForm,
    attempt: &mut Attempt,
) -> Result<TokenAnswer, Failure> {
    let form = read_form(request)?;
    let grant = Grant::of(&form)?;
    attempt.grant = Some(grant);
    let wanted = wanted(&form, grant, &app.sign_in.public_url)?;
    let (signed_in, refresh_token) = match grant {
        Grant::ClientCredentials => {
            let signed_in = client_credentials::sign_in(app, request, &form, attempt).await?;
            (signed_in, None)
        }
        Grant::Password => {
            let signed_in = password::sign_in(app, request, &form, attempt).await?;
            let refresh_token = if wanted.refresh_token {
                Some(refresh::begin(app, request, &signed_in).await?)
            } else {
                None
            };
            (signed_in, refresh_token)
        }
        Grant::RefreshToken => {
            let (signed_in, next) = refresh::sign_in(app, request, &form, attempt).await?;
            (signed_in, Some(next))
        }
    };
    let answer = issue::answer(&app.sign_in, tenant, &signed_in, &wanted, request.now)
        .map_err(Failure::Error)?;
    Ok(TokenAnswer {
        refresh_token_expires_in: refresh_token
            .as_ref()
            .map(|_| crate::limits::REFRESH_TOKEN_LIFETIME.whole_seconds()),
        refresh_token: refresh_token.map(|token| token.expose().to_owned()),
        ..answer
    })
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

pub(super) fn invalid_form(error: &InvalidForm) -> Refusal {
    Refusal::invalid(
        "invalid_request",
        90_023,
        format!("The request is not valid: {error}."),
    )
}

/// What is asked for; `resource` counts where there is no `scope`.
fn wanted(form: &Form, grant: Grant, public_url: &str) -> Result<Wanted, Refusal> {
    let is_person = grant != Grant::ClientCredentials;
    let (text, found) = match (form.get("scope"), form.get("resource")) {
        (Some(scope), _) if is_person => (scope, Audience::of_scopes(scope, public_url)),
        (Some(scope), _) => (scope, Audience::of_scope(scope, public_url)),
        (None, Some(resource)) => (resource, Audience::of_resource(resource, public_url)),
        (None, None) => return Err(Refusal::missing("scope")),
    };
    let audience = found.ok_or_else(|| {
        let accepted = Audience::scopes(public_url).join("' and '");
        Refusal::invalid(
            "invalid_scope",
            70_011,
            format!(
                "The scope '{}' is not valid. Accepted are '{accepted}', one at a time.",
                shorten(text)
            ),
        )
    })?;
    let scope = form.get("scope").unwrap_or_default().to_owned();
    Ok(Wanted {
        audience,
        refresh_token: scope
            .split_whitespace()
            .any(|scope| scope == OFFLINE_ACCESS),
        scope,
        client_info: form.get("client_info") == Some("1"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "2001:db8::7";

    fn recorded(attempt: &Attempt, outcome: Outcome) -> SignInRecord {
        record(attempt, Some(PEER.parse().expect("an address")), outcome)
    }

    #[test]
    fn what_strangers_make_up_is_not_recorded() {
        let stranger = Attempt {
            grant: Some(Grant::ClientCredentials),
            client_id: Some(Uuid::from_u128(1)),
            ..Attempt::default()
        };
        let known = Attempt {
            is_known_application: true,
            ..stranger
        };
        for (attempt, outcome) in [
            (&stranger, Outcome::UnknownClient),
            (&stranger, Outcome::WrongAssertion),
            (&known, Outcome::Limited),
            (&known, Outcome::Busy),
        ] {
            let recorded = recorded(attempt, outcome);
            assert!(recorded.is_of_nobody(), "{recorded:?}");
            assert_eq!(recorded.address, "2001:db8::".parse().ok());
        }
        let wrong = recorded(&known, Outcome::WrongSecret);
        assert_eq!(wrong.client_id, Some(Uuid::from_u128(1)));
        assert_eq!(wrong.address, PEER.parse().ok());
    }

    #[test]
    fn a_wrong_password_is_recorded_with_the_account_if_there_is_one() {
        let of_account = |account_id| {
            let attempt = Attempt {
                grant: Some(Grant::Password),
                client_id: Some(Uuid::from_u128(1)),
                account_id,
                ..Attempt::default()
            };
            recorded(&attempt, Outcome::WrongPassword)
        };
        let account_id = Some(Uuid::from_u128(2));
        assert_eq!(of_account(account_id).account_id, account_id);
        assert!(of_account(None).is_of_nobody());
    }
}
