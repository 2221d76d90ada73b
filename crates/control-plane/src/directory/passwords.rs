//! Secrets of applications and service principals: shown once, when they are added.

use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use arm::ApiError;
use credentials::{Secret, SecretKind, Verifier};
use serde::{Deserialize, Serialize};
use store::directory::{NewSecret, SecretAddition, SecretOwner, SecretRemoval, SecretVerifier};
use time::{Duration, OffsetDateTime};
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::{self, Others, optional_display_name, refuse_others};
use super::errors::{bad_request, guid, not_found};
use super::times::{parse_time, to_microseconds};
use super::{hashing, object_id};
use crate::App;
use crate::front_door::{Access, Answer, DirectoryRight, Operation, Request, store_error};
use crate::limits::{
    MAXIMUM_CHOSEN_SECRET_CHARACTERS, MAXIMUM_CHOSEN_SECRETS, MAXIMUM_SECRETS,
    MINIMUM_CHOSEN_SECRET_CHARACTERS,
};
use crate::sign_in::SECRET_LIMITS;

/// How long a secret is good when its request does not say.
const DEFAULT_VALIDITY: Duration = Duration::days(730);

/// Characters of a secret that are kept as a hint: its prefix, which is no secret, and 3 of its 43 random ones, which leaves 238 bits.
const HINT_CHARACTERS: usize = 7;

pub(super) fn operations() -> Vec<Operation> {
    let own = Access::Directory(DirectoryRight::Own);
    vec![
        Operation::new(
            "Applications_AddPassword",
            Method::POST,
            "/v1.0/applications/{objectId}/addPassword",
            own,
            "Adds a secret to an application; accepted at every live node when this returns.",
            add_to_application,
        ),
        Operation::new(
            "ServicePrincipals_AddPassword",
            Method::POST,
            "/v1.0/servicePrincipals/{objectId}/addPassword",
            own,
            "Adds a secret to a service principal; accepted at every live node when this returns.",
            add_to_service_principal,
        ),
    ]
    .into_iter()
    .map(|operation| {
        operation
            .takes::<AddPassword>()
            .answers::<PasswordCredential>(200)
    })
    .chain(
        [
            Operation::new(
                "Applications_RemovePassword",
                Method::POST,
                "/v1.0/applications/{objectId}/removePassword",
                own,
                "Removes a secret of an application; refused at every live node when this returns.",
                remove_from_application,
            ),
            Operation::new(
                "ServicePrincipals_RemovePassword",
                Method::POST,
                "/v1.0/servicePrincipals/{objectId}/removePassword",
                own,
                "Removes a secret of a service principal; refused at every live node when this returns.",
                remove_from_service_principal,
            ),
        ]
        .map(|operation| operation.takes::<RemovePassword>().answers_empty(204)),
    )
    .collect()
}

/// A secret, as everyone may see it; `secretText` only in the answer to the request that added it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PasswordCredential {
    key_id: Uuid,
    display_name: Option<String>,
    /// The first characters of the secret; empty when the caller chose it.
    hint: String,
    #[serde(with = "time::serde::rfc3339")]
    start_date_time: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    end_date_time: OffsetDateTime,
    /// Always null.
    custom_key_identifier: Option<String>,
    secret_text: Option<String>,
    /// To the hour; null when it was never used. Not a property of Microsoft Graph's.
    #[serde(with = "time::serde::rfc3339::option")]
    last_used_date_time: Option<OffsetDateTime>,
}

impl From<store::directory::Secret> for PasswordCredential {
    fn from(secret: store::directory::Secret) -> Self {
        Self {
            key_id: secret.key_id,
            display_name: secret.display_name,
            hint: secret.hint,
            start_date_time: secret.starts_at,
            end_date_time: secret.expires_at,
            custom_key_identifier: None,
            secret_text: None,
            last_used_date_time: secret.last_used_at,
        }
    }
}

/// What is asked of `addPassword`.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AddPassword {
    password_credential: Option<NewPassword>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// What a new secret is to be like.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewPassword {
    display_name: Option<String>,
    /// Now, unless it is given.
    #[schema(format = DateTime)]
    start_date_time: Option<String>,
    /// Two years after its start, unless it is given.
    #[schema(format = DateTime)]
    end_date_time: Option<String>,
    /// The secret itself, for a caller that brings its own; generated, unless it is given. Not a request of Microsoft Graph's.
    #[schema(value_type = Option<String>)]
    secret_text: Option<Secret>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// What is asked of `removePassword`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RemovePassword {
    key_id: String,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// What a new secret is like, once it is checked.
struct Wanted {
    display_name: Option<String>,
    starts_at: OffsetDateTime,
    expires_at: OffsetDateTime,
    chosen: Option<Secret>,
}

impl NewPassword {
    fn check(self, now: OffsetDateTime) -> Result<Wanted, ApiError> {
        refuse_others(&self.others, &[])?;
        let time =
            |text: Option<String>, name: &str| text.map(|text| parse_time(&text, name)).transpose();
        let starts_at = match time(self.start_date_time, "startDateTime")? {
            Some(starts_at) => starts_at,
            None => to_microseconds(now),
        };
        let expires_at = match time(self.end_date_time, "endDateTime")? {
            Some(expires_at) => expires_at,
            None => starts_at.checked_add(DEFAULT_VALIDITY).ok_or_else(|| {
                bad_request("The startDateTime is too late for an endDateTime two years after it.")
                    .with_target("startDateTime")
            })?,
        };
        if expires_at <= starts_at {
            return Err(bad_request(format!(
                "The endDateTime '{}' must be later than the startDateTime '{}'.",
                arm::format_time(expires_at),
                arm::format_time(starts_at)
            ))
            .with_target("endDateTime"));
        }
        if expires_at <= now {
            return Err(bad_request(format!(
                "The endDateTime '{}' lies in the past.",
                arm::format_time(expires_at)
            ))
            .with_target("endDateTime"));
        }
        let display_name = optional_display_name(self.display_name)?;
        if let Some(text) = &self.secret_text {
            check_chosen(text.expose())?;
        }
        Ok(Wanted {
            display_name,
            starts_at,
            expires_at,
            chosen: self.secret_text,
        })
    }
}

/// A secret that a caller chose: long, and not to be taken for a generated one, which is looked for first.
fn check_chosen(text: &str) -> Result<(), ApiError> {
    let length = text.chars().count();
    let rule = if length < MINIMUM_CHOSEN_SECRET_CHARACTERS {
        format!("it has fewer than {MINIMUM_CHOSEN_SECRET_CHARACTERS} characters")
    } else if length > MAXIMUM_CHOSEN_SECRET_CHARACTERS {
        format!("it has more than {MAXIMUM_CHOSEN_SECRET_CHARACTERS} characters")
    } else if text.chars().any(char::is_control) {
        "it has control characters".to_owned()
    } else if SecretKind::ALL
        .iter()
        .any(|kind| text.starts_with(kind.prefix()))
    {
        "it begins like a generated secret".to_owned()
    } else {
        return Ok(());
    };
    Err(bad_request(format!("The secretText cannot be used: {rule}.")).with_target("secretText"))
}

async fn add_to_application(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let owner = SecretOwner::Application(object_id(&request)?);
    add(&app, &request, owner).await
}

async fn add_to_service_principal(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let owner = SecretOwner::ServicePrincipal(object_id(&request)?);
    add(&app, &request, owner).await
}

async fn add(app: &App, request: &Request, owner: SecretOwner) -> Result<Answer, ApiError> {
    let body: AddPassword = if request.body.is_empty() {
        AddPassword::default()
    } else {
        body::read(request)?
    };
    refuse_others(&body.others, &[])?;
    let wanted = body
        .password_credential
        .unwrap_or_default()
        .check(request.now)?;
    let is_chosen = wanted.chosen.is_some();
    let secret = wanted.chosen.unwrap_or_else(|| {
        credentials::generate(SecretKind::ServicePrincipalSecret, &*app.randomness)
    });
    let (hint, verifier) = if is_chosen {
        // Nothing slow for what is refused anyway.
        let count = app.store.secret_count(owner).await.map_err(store_error)?;
        if count.ok_or_else(|| owner_not_found(owner))? >= MAXIMUM_SECRETS {
            return Err(too_many_secrets());
        }
        let verifier = hashing::verifier_of(app, request, secret.clone()).await?;
        // Of one that is short enough to be remembered, nothing is given away.
        (String::new(), SecretVerifier::Chosen(verifier))
    } else {
        let verifier = Verifier::of(&secret, &*app.randomness);
        (hint(&secret), SecretVerifier::Generated(verifier))
    };
    let new = NewSecret {
        key_id: Uuid::new_v4(),
        display_name: wanted.display_name,
        hint,
        starts_at: wanted.starts_at,
        expires_at: wanted.expires_at,
        verifier,
    };
    let addition = app
        .store
        .secret_add(owner, &new, SECRET_LIMITS)
        .await
        .map_err(store_error)?;
    let published = match addition {
        SecretAddition::Added(published) => published,
        SecretAddition::OwnerNotFound => return Err(owner_not_found(owner)),
        SecretAddition::TooMany => return Err(too_many_secrets()),
        SecretAddition::TooManyChosen => return Err(too_many_chosen_secrets()),
    };
    let answer = Answer::ok(&PasswordCredential {
        key_id: new.key_id,
        display_name: new.display_name,
        hint: new.hint,
        start_date_time: new.starts_at,
        end_date_time: new.expires_at,
        custom_key_identifier: None,
        secret_text: Some(secret.expose().to_owned()),
        last_used_date_time: None,
    })?;
    Ok(answer
        .published(published)
        .header("cache-control", "no-store"))
}

fn too_many_secrets() -> ApiError {
    bad_request(format!(
        "The application and its service principal have {MAXIMUM_SECRETS} secrets, as many as they may. Remove some first."
    ))
}

fn too_many_chosen_secrets() -> ApiError {
    bad_request(format!(
        "The application and its service principal have {MAXIMUM_CHOSEN_SECRETS} secrets whose text was chosen (secretText), as many as they may. Remove one first, or have one generated: leave secretText out."
    ))
}

fn hint(secret: &Secret) -> String {
    secret.expose().chars().take(HINT_CHARACTERS).collect()
}

async fn remove_from_application(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let owner = SecretOwner::Application(object_id(&request)?);
    remove(&app, &request, owner).await
}

async fn remove_from_service_principal(
    app: Arc<App>,
    request: Request,
) -> Result<Answer, ApiError> {
    let owner = SecretOwner::ServicePrincipal(object_id(&request)?);
    remove(&app, &request, owner).await
}

async fn remove(app: &App, request: &Request, owner: SecretOwner) -> Result<Answer, ApiError> {
    let body: RemovePassword = body::read(request)?;
    refuse_others(&body.others, &[])?;
    let key_id = guid(&body.key_id, "keyId")?;
    if key_id == request.caller().key_id {
        // The caller's token would die with it: `az ad sp credential reset` of oneself removes first and adds afterwards, and would
        // leave nobody who can sign in.
        return Err(bad_request(format!(
            "The secret '{key_id}' is the one that you are signed in with. Add another first (az: --append), sign in with it, then remove this one."
        )));
    }
    let removal = app
        .store
        .secret_remove(owner, key_id)
        .await
        .map_err(store_error)?;
    match removal {
        SecretRemoval::Removed(published) => {
            Ok(Answer::empty(StatusCode::NO_CONTENT).published(published))
        }
        SecretRemoval::OwnerNotFound => Err(owner_not_found(owner)),
        SecretRemoval::SecretNotFound => Err(bad_request(format!(
            "No password credential found with keyId '{key_id}'."
        ))),
    }
}

fn owner_not_found(owner: SecretOwner) -> ApiError {
    match owner {
        SecretOwner::Application(id) => not_found("application", id),
        SecretOwner::ServicePrincipal(id) => not_found("service principal", id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use credentials::{SystemRandomness, generate};
    use serde_json::json;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00:00.123456789 UTC);

    fn check(body: serde_json::Value) -> Result<Wanted, ApiError> {
        let password: NewPassword = serde_json::from_value(body).expect("it has the form");
        password.check(NOW)
    }

    #[test]
    fn a_secret_is_good_for_two_years_from_now_unless_its_request_says_otherwise() {
        let Ok(wanted) = check(json!({ "displayName": null })) else {
            panic!("refused");
        };
        assert_eq!(wanted.starts_at, datetime!(2026-11-23 12:00:00.123456 UTC));
        assert_eq!(wanted.expires_at - wanted.starts_at, DEFAULT_VALIDITY);
        let Ok(wanted) = check(json!({
            "displayName": "rbac",
            "startDateTime": "2026-11-23T17:43:23+01:00",
            "endDateTime": "2027-11-23T17:43:23.1234567Z",
            "secretText": "sixteen letters!",
        })) else {
            panic!("refused");
        };
        assert_eq!(wanted.display_name.as_deref(), Some("rbac"));
        assert_eq!(wanted.starts_at, datetime!(2026-11-23 16:43:23 UTC));
        assert_eq!(wanted.expires_at, datetime!(2027-11-23 17:43:23.123456 UTC));
    }

    #[test]
    fn times_that_make_no_sense_are_refused_by_name() {
        for (body, target) in [
            (
                json!({ "endDateTime": "2026-11-23T12:00:00Z" }),
                "endDateTime",
            ),
            (
                json!({ "startDateTime": "2020-01-01T00:00:00Z", "endDateTime": "2021-01-01T00:00:00Z" }),
                "endDateTime",
            ),
            (json!({ "startDateTime": "tomorrow" }), "startDateTime"),
            (
                json!({ "startDateTime": "9999-01-01T00:00:00Z" }),
                "startDateTime",
            ),
            (
                json!({ "endDateTime": "9999-12-31T23:59:59-23:00" }),
                "endDateTime",
            ),
            (
                json!({ "startDateTime": "0000-01-01T00:00:00Z" }),
                "startDateTime",
            ),
            (json!({ "secretText": "chosen" }), "secretText"),
            (json!({ "secretText": "fifteen letters" }), "secretText"),
            (json!({ "secretText": "sixteen letters\n" }), "secretText"),
            (json!({ "secretText": "wfs_sixteen letters" }), "secretText"),
            (json!({ "secretText": "x".repeat(257) }), "secretText"),
        ] {
            let Err(error) = check(body.clone()) else {
                panic!("taken: {body}");
            };
            assert_eq!(error.target.as_deref(), Some(target), "{body}");
        }
    }

    #[test]
    fn a_hint_tells_little() {
        let secret = generate(SecretKind::ServicePrincipalSecret, &SystemRandomness);
        let hint = hint(&secret);
        assert!(secret.expose().starts_with(&hint));
        assert_eq!(hint.len(), HINT_CHARACTERS);
    }
}
