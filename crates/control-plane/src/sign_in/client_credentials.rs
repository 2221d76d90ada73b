//! Applications that sign in for themselves (RFC 6749, 4.4): by a secret, or by an assertion (RFC 7523, 2.2).

use actix_web::http::StatusCode;
use credentials::Secret;
use store::directory::SignInPrincipal;
use uuid::Uuid;

use super::assertion::{self, JWT_BEARER};
use super::failure_limiter::Subject;
use super::form::{self, Form, InvalidForm};
use super::issue::SignedIn;
use super::refusal::{Outcome, Refusal};
use super::secret;
use super::token::{Attempt, Failure, invalid_form};
use crate::App;
use crate::front_door::Request;

pub(super) async fn sign_in(
    app: &App,
    request: &Request,
    form: &Form,
    attempt: &mut Attempt,
) -> Result<SignedIn, Failure> {
    let (client_id, shown) = client_credentials(request, form)?;
    let app_id = Uuid::try_parse(&client_id).map_err(|_| Refusal::unknown_client(&client_id))?;
    attempt.client_id = Some(app_id);
    attempt.subject = Some(Subject::client(app_id));
    let (principal, credential_id) = match &shown {
        Shown::Secret(secret) => secret::check(app, request, app_id, secret, attempt).await?,
        Shown::Assertion(assertion) => {
            assertion::check(app, request, app_id, assertion.expose(), attempt).await?
        }
    };
    attempt.credential_id = Some(credential_id);
    let principal_id = enabled_principal(app_id, principal)?;
    attempt.principal_id = Some(principal_id);
    app.sign_in
        .used
        .note(&app.store, credential_id, request.now)
        .await;
    Ok(SignedIn {
        principal_id,
        client_id: app_id,
        credential_id,
        person: None,
    })
}

/// What an application shows.
enum Shown {
    Secret(Secret),
    Assertion(Secret),
}

/// The application and its assertion, if it sends one.
fn client_assertion(request: &Request, form: &Form) -> Result<Option<(String, Secret)>, Refusal> {
    let Some(assertion) = form.get("client_assertion") else {
        return Ok(None);
    };
    if form.get("client_secret").is_some() || request.headers.contains_key("authorization") {
        return Err(Refusal::invalid(
            "invalid_request",
            90_023,
            "The client shows a secret and an assertion; use one of them.",
        ));
    }
    let kind = form
        .get("client_assertion_type")
        .ok_or_else(|| Refusal::missing("client_assertion_type"))?;
    if kind != JWT_BEARER {
        return Err(Refusal::invalid(
            "invalid_request",
            900_144,
            format!("The 'client_assertion_type' must be '{JWT_BEARER}'."),
        ));
    }
    let client_id = match form.get("client_id") {
        Some(client_id) => client_id.to_owned(),
        None => assertion::client_id_of(assertion).ok_or_else(|| Refusal::missing("client_id"))?,
    };
    Ok(Some((client_id, Secret::new(assertion.to_owned()))))
}

/// Id and what is shown, from the form or the header, never from both.
fn client_credentials(request: &Request, form: &Form) -> Result<(String, Shown), Refusal> {
    if let Some((client_id, assertion)) = client_assertion(request, form)? {
        return Ok((client_id, Shown::Assertion(assertion)));
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
                "'client_secret' or 'client_assertion' is required for the grant type 'client_credentials'.",
            )
        })?;
        return Ok((
            client_id.to_owned(),
            Shown::Secret(Secret::new(secret.to_owned())),
        ));
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
    Ok((client_id, Shown::Secret(secret)))
}

/// The object id of the application's service principal, if it may sign in.
fn enabled_principal(app_id: Uuid, principal: Option<SignInPrincipal>) -> Result<Uuid, Refusal> {
    let refused = |number, message: String| {
        Err(Refusal::new(
            Outcome::Disabled,
            StatusCode::BAD_REQUEST,
            "unauthorized_client",
            number,
            message,
        ))
    };
    match principal {
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

    const APP: Uuid = Uuid::from_u128(1);

    #[test]
    fn a_disabled_or_missing_service_principal_is_named() {
        let principal = |enabled| {
            Some(SignInPrincipal {
                object_id: Uuid::from_u128(9),
                enabled,
            })
        };
        assert_eq!(
            enabled_principal(APP, principal(true)).expect("enabled"),
            Uuid::from_u128(9)
        );
        let number = |principal| {
            enabled_principal(APP, principal)
                .expect_err("refused")
                .number
        };
        assert_eq!(number(principal(false)), 7_000_112);
        assert_eq!(number(None), 7_000_229);
    }
}
