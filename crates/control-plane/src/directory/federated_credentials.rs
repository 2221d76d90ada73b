//! Federated credentials of applications (`federatedIdentityCredentials`): tokens of an external issuer that sign the service principal in.

use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use arm::{ApiError, Kind};
use serde::{Deserialize, Serialize};
use store::directory::{
    FederatedCredential as Stored, FederatedCredentialChange, FederatedCredentialName,
    FederatedCredentialPut,
};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::{self, Others, present, refuse_others};
use super::errors::{bad_request, not_found, not_found_named, shorten};
use super::object_id;
use super::query::refuse_other_options;
use crate::App;
use crate::front_door::{
    Access, Answer, DirectoryRight, Operation, Request, hyphenated, store_error,
};
use crate::limits::{
    MAXIMUM_FEDERATED_AUDIENCES, MAXIMUM_FEDERATED_CREDENTIALS, MAXIMUM_FEDERATED_NAME_CHARACTERS,
    MAXIMUM_FEDERATED_TEXT_CHARACTERS,
};
use crate::sign_in::is_own_issuer;

pub(super) fn operations() -> Vec<Operation> {
    let read = Access::Directory(DirectoryRight::Read);
    let own = Access::Directory(DirectoryRight::Own);
    let path = "/v1.0/applications/{objectId}/federatedIdentityCredentials";
    let one = "/v1.0/applications/{objectId}/federatedIdentityCredentials/{federatedCredential}";
    vec![
        Operation::new(
            "FederatedCredentials_List",
            Method::GET,
            path,
            read,
            "Lists the federated credentials of an application.",
            list,
        )
        .answers::<FederatedCredentialList>(200),
        Operation::new(
            "FederatedCredentials_Create",
            Method::POST,
            path,
            own,
            "Trusts tokens of an external issuer to sign an application's service principal in.",
            create,
        )
        .takes::<NewFederatedCredential>()
        .answers::<FederatedCredential>(201),
        Operation::new(
            "FederatedCredentials_Get",
            Method::GET,
            one,
            read,
            "Shows a federated credential, by id or name.",
            get,
        )
        .answers::<FederatedCredential>(200),
        Operation::new(
            "FederatedCredentials_Update",
            Method::PATCH,
            one,
            own,
            "Changes which tokens a federated credential trusts: what was issued for others is refused at every live node when this returns.",
            update,
        )
        .takes::<FederatedCredentialChangeBody>()
        .answers_empty(204),
        Operation::new(
            "FederatedCredentials_Delete",
            Method::DELETE,
            one,
            own,
            "Removes a federated credential: what was issued for its tokens is refused at every live node when this returns.",
            delete,
        )
        .answers_empty(204),
    ]
}

/// A federated credential.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct FederatedCredential {
    /// Another one whenever issuer, subject or audiences change.
    id: Uuid,
    name: String,
    issuer: String,
    subject: String,
    audiences: Vec<String>,
    description: Option<String>,
    /// To the hour; null when it was never used. Not a property of Microsoft Graph's.
    #[serde(with = "time::serde::rfc3339::option")]
    last_used_date_time: Option<OffsetDateTime>,
}

impl From<Stored> for FederatedCredential {
    fn from(stored: Stored) -> Self {
        Self {
            id: stored.credential_id,
            name: stored.name,
            issuer: stored.issuer,
            subject: stored.subject,
            audiences: stored.audiences,
            description: stored.description,
            last_used_date_time: stored.last_used_at,
        }
    }
}

/// The federated credentials of an application.
#[derive(Serialize, ToSchema)]
struct FederatedCredentialList {
    value: Vec<FederatedCredential>,
}

/// What a new federated credential is to be like.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewFederatedCredential {
    /// Unique in its application; cannot be changed.
    name: String,
    /// The `iss` of the tokens, as they have it.
    issuer: String,
    /// The `sub` of the tokens, as they have it.
    subject: String,
    /// One of them has to stand in the tokens' `aud`.
    audiences: Vec<String>,
    description: Option<String>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// What is to change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct FederatedCredentialChangeBody {
    /// The one that it has.
    name: Option<String>,
    issuer: Option<String>,
    subject: Option<String>,
    audiences: Option<Vec<String>>,
    /// Null takes it away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

async fn list(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    refuse_other_options(&request, &[])?;
    let found = all(&app, object_id(&request)?).await?;
    let value = found.into_iter().map(Into::into).collect();
    Answer::ok(&FederatedCredentialList { value })
}

async fn all(app: &App, application: Uuid) -> Result<Vec<Stored>, ApiError> {
    let found = app
        .store
        .federated_credential_list(application)
        .await
        .map_err(store_error)?;
    found.ok_or_else(|| not_found("application", application))
}

async fn get(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    refuse_other_options(&request, &[])?;
    let found = all(&app, object_id(&request)?).await?;
    let name = name_of(&request);
    let found = found.into_iter().find(|stored| match name {
        FederatedCredentialName::Id(id) => stored.credential_id == id,
        FederatedCredentialName::Name(name) => {
            arm::canonical_key(&stored.name) == arm::canonical_key(name)
        }
    });
    let found = found.ok_or_else(|| no_credential(&request))?;
    Answer::ok(&FederatedCredential::from(found))
}

async fn create(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let body: NewFederatedCredential = body::read(&request)?;
    refuse_others(&body.others, &[])?;
    let new = Stored {
        credential_id: Uuid::new_v4(),
        name: name(&body.name)?,
        issuer: foreign_issuer(&app, &body.issuer)?,
        subject: text(&body.subject, "subject")?,
        audiences: audiences(&body.audiences)?,
        description: optional_text(body.description.as_deref())?,
        last_used_at: None,
    };
    let put = app
        .store
        .federated_credential_create(object_id(&request)?, &new, MAXIMUM_FEDERATED_CREDENTIALS)
        .await
        .map_err(store_error)?;
    let published = outcome(put, &request)?;
    Ok(Answer::json(StatusCode::CREATED, &FederatedCredential::from(new))?.published(published))
}

async fn update(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let never_null = &["audiences", "issuer", "name", "subject"];
    let body: FederatedCredentialChangeBody = body::read_change(&request, never_null)?;
    // What clients send back as they read it.
    let mut others = body.others;
    others.remove("id");
    others.remove("lastUsedDateTime");
    refuse_others(&others, &[])?;
    if let Some(name) = &body.name {
        let known = all(&app, object_id(&request)?).await?;
        let key = arm::canonical_key(name);
        let is_its_own = known.iter().any(|stored| {
            arm::canonical_key(&stored.name) == key
                && match name_of(&request) {
                    FederatedCredentialName::Id(id) => stored.credential_id == id,
                    FederatedCredentialName::Name(asked) => arm::canonical_key(asked) == key,
                }
        });
        if !is_its_own {
            return Err(fault(
                "name",
                name,
                "the name of a federated credential cannot be changed",
            ));
        }
    }
    let change = FederatedCredentialChange {
        issuer: body
            .issuer
            .as_deref()
            .map(|text| foreign_issuer(&app, text))
            .transpose()?,
        subject: body
            .subject
            .as_deref()
            .map(|subject| text(subject, "subject"))
            .transpose()?,
        audiences: body.audiences.as_deref().map(audiences).transpose()?,
        description: match body.description {
            Some(text) => Some(optional_text(text.as_deref())?),
            None => None,
        },
    };
    let put = app
        .store
        .federated_credential_update(
            object_id(&request)?,
            name_of(&request),
            &change,
            Uuid::new_v4(),
        )
        .await
        .map_err(store_error)?;
    let published = outcome(put, &request)?;
    Ok(Answer::empty(StatusCode::NO_CONTENT).published(published))
}

async fn delete(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let put = app
        .store
        .federated_credential_delete(object_id(&request)?, name_of(&request))
        .await
        .map_err(store_error)?;
    let published = outcome(put, &request)?;
    Ok(Answer::empty(StatusCode::NO_CONTENT).published(published))
}

fn outcome(
    put: FederatedCredentialPut,
    request: &Request,
) -> Result<Option<store::config::Published>, ApiError> {
    let conflict = |message: &str| {
        ApiError::new(
            Kind::Conflict,
            "Request_MultipleObjectsWithSameKeyValue",
            message.to_owned(),
        )
    };
    match put {
        FederatedCredentialPut::Done(published) => Ok(published),
        FederatedCredentialPut::ApplicationNotFound => {
            Err(not_found("application", object_id(request)?))
        }
        FederatedCredentialPut::NotFound => Err(no_credential(request)),
        FederatedCredentialPut::NameTaken => Err(conflict(
            "FederatedIdentityCredential with this name already exists in the application.",
        )),
        FederatedCredentialPut::SubjectTaken => Err(conflict(
            "FederatedIdentityCredential with this issuer and subject already exists in the application.",
        )),
        FederatedCredentialPut::TooMany => Err(bad_request(format!(
            "The application has {MAXIMUM_FEDERATED_CREDENTIALS} federated credentials, as many as it may. Remove some first."
        ))),
    }
}

/// What the path names a credential by.
fn name_of(request: &Request) -> FederatedCredentialName<'_> {
    let text = request.parameter("federatedCredential");
    match hyphenated(text) {
        Some(id) => FederatedCredentialName::Id(id),
        None => FederatedCredentialName::Name(text),
    }
}

fn no_credential(request: &Request) -> ApiError {
    not_found_named(
        "federated credential",
        request.parameter("federatedCredential"),
    )
}

fn fault(property: &str, value: &str, rule: &str) -> ApiError {
    bad_request(format!(
        "Invalid value specified for property '{property}', '{}': {rule}.",
        shorten(value).replace(char::is_control, "\u{fffd}")
    ))
    .with_target(property)
}

fn name(value: &str) -> Result<String, ApiError> {
    let well_formed = (3..=MAXIMUM_FEDERATED_NAME_CHARACTERS).contains(&value.len())
        && value.starts_with(|first: char| first.is_ascii_alphanumeric())
        && value
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "-_".contains(character))
        // It would name another credential by id.
        && Uuid::try_parse(value).is_err();
    if well_formed {
        return Ok(value.to_owned());
    }
    let rule = format!(
        "it must have 3 to {MAXIMUM_FEDERATED_NAME_CHARACTERS} letters, digits, '-' and '_', begin with a letter or digit, and not be a GUID"
    );
    Err(fault("name", value, &rule))
}

/// An issuer that is not this installation: with its own tokens, one that is stolen could buy others without end.
fn foreign_issuer(app: &App, value: &str) -> Result<String, ApiError> {
    let value = issuer(value)?;
    if is_own_issuer(&app.installation.public_url, &value) {
        return Err(fault(
            "issuer",
            &value,
            "it is this installation, whose tokens are taken as they are",
        ));
    }
    Ok(value)
}

/// An issuer whose keys can be fetched: its discovery document is below it.
fn issuer(value: &str) -> Result<String, ApiError> {
    let value = text(value, "issuer")?;
    let rest = value.strip_prefix("https://").unwrap_or_default();
    let host = rest.split('/').next().unwrap_or_default();
    let is_url = !host.is_empty()
        && rest.is_ascii()
        && !rest.contains(['?', '#', '@', '\\', ' ', '"', '<', '>']);
    if is_url {
        return Ok(value);
    }
    Err(fault(
        "issuer",
        &value,
        "it must be an https URL without user name, query and fragment",
    ))
}

fn audiences(values: &[String]) -> Result<Vec<String>, ApiError> {
    if !(1..=MAXIMUM_FEDERATED_AUDIENCES).contains(&values.len()) {
        return Err(fault(
            "audiences",
            &values.join(", "),
            &format!("there must be 1 to {MAXIMUM_FEDERATED_AUDIENCES} of them"),
        ));
    }
    values
        .iter()
        .map(|value| text(value, "audiences"))
        .collect()
}

/// A text that is compared exactly: blanks at its ends would be a mistake that nobody sees.
fn text(value: &str, property: &str) -> Result<String, ApiError> {
    let rule = if value.is_empty() {
        "it is empty".to_owned()
    } else if value.chars().count() > MAXIMUM_FEDERATED_TEXT_CHARACTERS {
        format!("it has more than {MAXIMUM_FEDERATED_TEXT_CHARACTERS} characters")
    } else if value.trim() != value || value.chars().any(char::is_control) {
        "it begins or ends with a blank, or has control characters".to_owned()
    } else {
        return Ok(value.to_owned());
    };
    Err(fault(property, value, &rule))
}

fn optional_text(value: Option<&str>) -> Result<Option<String>, ApiError> {
    match value.filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some(value) if value.chars().count() <= MAXIMUM_FEDERATED_TEXT_CHARACTERS => {
            Ok(Some(value.to_owned()))
        }
        Some(value) => Err(fault(
            "description",
            value,
            &format!("it has more than {MAXIMUM_FEDERATED_TEXT_CHARACTERS} characters"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn issuers_are_https_urls() {
        for good in ["https://token.example", "https://w.test:8443/tenant/v2.0/"] {
            assert_eq!(issuer(good).expect(good), good);
        }
        for bad in [
            "",
            "http://token.example",
            "https://",
            "https:///x",
            "token.example",
            "https://u@h/",
            "https://h/?q",
            " https://h",
            "https://h/ä",
        ] {
            let error = issuer(bad).expect_err(bad);
            assert_eq!(error.target.as_deref(), Some("issuer"));
        }
    }

    #[test]
    fn names_stand_in_paths_and_are_no_ids() {
        assert_eq!(name("main-branch_2").expect("good"), "main-branch_2");
        for bad in [
            "",
            "ab",
            "-abc",
            "a b c",
            "a/b",
            &Uuid::nil().to_string(),
            &"x".repeat(121),
        ] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn there_are_one_to_a_few_audiences() {
        let values = |count: usize| vec!["api://x".to_owned(); count];
        assert!(audiences(&values(0)).is_err());
        assert!(audiences(&values(1)).is_ok());
        assert!(audiences(&values(MAXIMUM_FEDERATED_AUDIENCES + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_issuer_is_taken_or_refused(value in "\\PC{0,80}") {
            if let Ok(taken) = issuer(&value) {
                prop_assert!(taken.starts_with("https://"));
            }
        }
    }
}
