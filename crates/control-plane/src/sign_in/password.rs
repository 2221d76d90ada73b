//! People who sign in with user name and password (RFC 6749, 4.3).

use std::net::IpAddr;
use std::time::Duration;

use credentials::Secret;
use store::directory::SignInUser;
use uuid::{Uuid, uuid};

use super::SignIn;
use super::form::Form;
use super::issue::{Person, SignedIn};
use super::refusal::{Outcome, Refusal, shorten};
use super::token::{Attempt, Failure};
use crate::App;
use crate::front_door::Request;
use crate::limits::MAXIMUM_PASSWORD_BYTES;
use crate::slow_work::Busy;

/// Programs that people sign in with and that keep no secret of their own: the Azure CLI (and SDKs, which use its id), and Azure PowerShell.
const PUBLIC_CLIENTS: [Uuid; 2] = [
    uuid!("04b07795-8ddb-461a-bbee-02f9e1bf7b46"),
    uuid!("1950a258-227b-4e31-a9cf-717495945fc2"),
];

pub(super) async fn sign_in(
    app: &App,
    request: &Request,
    form: &Form,
    attempt: &mut Attempt,
) -> Result<SignedIn, Failure> {
    let client_id = public_client(form, attempt)?;
    let name = form
        .get("username")
        .ok_or_else(|| Refusal::missing("username"))?
        .trim();
    let password = form
        .get("password")
        .ok_or_else(|| Refusal::missing("password"))?;
    let subject = app.sign_in.failures.named(&arm::canonical_key(name));
    attempt.subject = Some(subject);
    if password.len() > MAXIMUM_PASSWORD_BYTES {
        return Err(wrong().into());
    }
    let password = Secret::new(password.to_owned());
    let user = app.store.sign_in_user(name).await?;
    attempt.account_id = user.as_ref().map(|user| user.object_id);
    let checks = &app.sign_in.slow_checks;
    let place = checks.place().await.map_err(Refusal::from)?;
    app.sign_in
        .failures
        .check(request.peer, subject)
        .map_err(Refusal::limited)?;
    let verifier = user
        .as_ref()
        .map_or(checks.decoy(), |user| &user.password_verifier);
    let (matches, place) = checks.matches(place, verifier, &password).await;
    drop(place);
    let Some(user) = user.filter(|_| matches) else {
        return Err(wrong().into());
    };
    attempt.principal_id = Some(user.object_id);
    attempt.credential_id = Some(user.credential_id);
    app.sign_in.failures.succeeded(request.peer, subject);
    if !user.enabled {
        return Err(disabled(&user.user_principal_name).into());
    }
    if user.must_change_password {
        return Err(to_be_changed(&user.user_principal_name).into());
    }
    app.store
        .sign_in_user_seen(user.object_id, request.now)
        .await?;
    Ok(SignedIn {
        principal_id: user.object_id,
        client_id,
        credential_id: user.credential_id,
        person: Some(Person {
            user_principal_name: user.user_principal_name,
            display_name: user.display_name,
        }),
    })
}

/// Why a password that was shown does not count.
pub(crate) enum NotShown {
    Wrong,
    /// Not looked at: there were too many wrong ones; how long to wait.
    Limited(Duration),
    Busy,
}

impl From<Busy> for NotShown {
    fn from(_: Busy) -> Self {
        Self::Busy
    }
}

impl SignIn {
    /// Checks a password that a person, who is known by a token, shows once more. Failures count as those of signing in do.
    ///
    /// # Errors
    /// See [`NotShown`].
    pub(crate) async fn show_password(
        &self,
        peer: Option<IpAddr>,
        user: &SignInUser,
        password: &Secret,
    ) -> Result<(), NotShown> {
        let name_key = arm::canonical_key(&user.user_principal_name);
        let subject = self.failures.named(&name_key);
        let place = self.slow_checks.place().await?;
        self.failures
            .check(peer, subject)
            .map_err(NotShown::Limited)?;
        let verifier = &user.password_verifier;
        let (matches, _) = self.slow_checks.matches(place, verifier, password).await;
        if matches {
            return Ok(());
        }
        Err(match self.failures.failed(peer, Some(subject)) {
            Ok(()) => NotShown::Wrong,
            Err(wait) => NotShown::Limited(wait),
        })
    }
}

/// The program that a person signs in with.
pub(super) fn public_client(form: &Form, attempt: &mut Attempt) -> Result<Uuid, Refusal> {
    let text = form
        .get("client_id")
        .ok_or_else(|| Refusal::missing("client_id"))?;
    let client_id = Uuid::try_parse(text).map_err(|_| Refusal::unknown_client(text))?;
    attempt.client_id = Some(client_id);
    if PUBLIC_CLIENTS.contains(&client_id) {
        return Ok(client_id);
    }
    let known = PUBLIC_CLIENTS.map(|id| id.to_string()).join("' and '");
    Err(Refusal::new(
        Outcome::UnknownClient,
        actix_web::http::StatusCode::BAD_REQUEST,
        "unauthorized_client",
        700_016,
        format!(
            "People cannot sign in by the client '{}'. They sign in by the Azure CLI or Azure PowerShell, with the client ids '{known}', which SDKs may use too.",
            shorten(text)
        ),
    ))
}

/// Says the same whether there is such a person or not.
fn wrong() -> Refusal {
    Refusal::invalid_grant(
        Outcome::WrongPassword,
        50_126,
        "The user name or the password is wrong.",
    )
}

pub(super) fn disabled(user_principal_name: &str) -> Refusal {
    Refusal::invalid_grant(
        Outcome::Disabled,
        50_057,
        format!("The account '{user_principal_name}' is disabled."),
    )
    .may_soon_be_right()
}

pub(super) fn to_be_changed(user_principal_name: &str) -> Refusal {
    Refusal::invalid_grant(
        Outcome::PasswordToBeChanged,
        50_055,
        format!(
            "The password of '{user_principal_name}' has to be changed first. Ask an administrator of the directory for another one: az ad user update --id {user_principal_name} --password PASSWORD --force-change-password-next-sign-in false."
        ),
    )
}
