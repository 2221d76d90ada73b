//! A person's change of the own password.

use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use arm::{ApiError, Kind};
use credentials::Secret;
use serde::Deserialize;
use store::access::PrincipalKind;
use store::directory::Password;
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::{self, Others, refuse_others};
use super::errors::bad_request;
use super::hashing;
use super::users::check_password;
use crate::App;
use crate::front_door::{
    Access, Answer, DirectoryRight, Operation, Request, decide_again, store_error,
};
use crate::limits::MAXIMUM_PASSWORD_BYTES;
use crate::sign_in::NotShown;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            "Me_ChangePassword",
            Method::POST,
            "/v1.0/me/changePassword",
            Access::Directory(DirectoryRight::OwnAccount),
            "Replaces the caller's password, which has to be shown, and ends all of the caller's sessions, this one too; in force at every live node when this returns.",
            change,
        )
        .takes::<PasswordChange>()
        .answers_empty(204),
    ]
}

/// The password that a person has, and the one to have from now on.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PasswordChange {
    current_password: String,
    new_password: String,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

async fn change(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let body: PasswordChange = body::read(&request)?;
    refuse_others(&body.others, &[])?;
    let caller = request.caller();
    if caller.kind != PrincipalKind::User {
        return Err(bad_request(
            "Only people have a password. The secrets of applications are set with addPassword.",
        ));
    }
    let (current, new) = (
        Secret::new(body.current_password),
        Secret::new(body.new_password),
    );
    check_password(new.expose(), &caller.name).map_err(|error| error.with_target("newPassword"))?;
    if current.expose() == new.expose() {
        return Err(bad_request("The new password is the current one.").with_target("newPassword"));
    }
    show_current(&app, &request, current).await?;
    let password = Password {
        verifier: hashing::verifier_of(&app, &request, new).await?,
        credential_id: Uuid::new_v4(),
    };
    let changed = app
        .store
        .user_change_own_password(caller.object_id, caller.key_id, &password)
        .await
        .map_err(store_error)?;
    match changed {
        Some(published) => Ok(Answer::empty(StatusCode::NO_CONTENT).published(Some(published))),
        // Somebody else changed it since the token was looked at, so that does not count any more.
        None => {
            decide_again(&app, &request).await?;
            Err(wrong())
        }
    }
}

/// Goes on when the password that is shown is the caller's. Guessing counts as guessing at sign-in does.
async fn show_current(app: &App, request: &Request, current: Secret) -> Result<(), ApiError> {
    let name = &request.caller().name;
    let user = app.store.sign_in_user(name).await.map_err(store_error)?;
    let Some(user) = user.filter(|user| user.object_id == request.caller().object_id) else {
        return Err(wrong());
    };
    if current.expose().len() > MAXIMUM_PASSWORD_BYTES {
        return Err(wrong());
    }
    app.sign_in
        .show_password(request.peer, &user, &current)
        .await
        .map_err(|error| match error {
            NotShown::Wrong => wrong(),
            NotShown::Busy => hashing::busy(),
            NotShown::Limited(wait) => {
                let mut limited = ApiError::new(
                    Kind::TooManyRequests,
                    "TooManyRequests",
                    "Too many wrong passwords were shown in this name. Try again later.",
                );
                let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX);
                limited.retry_after_seconds = Some(seconds.saturating_add(1));
                limited
            }
        })
}

fn wrong() -> ApiError {
    bad_request("The current password is wrong.").with_target("currentPassword")
}
