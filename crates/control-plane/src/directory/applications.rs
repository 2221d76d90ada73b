//! Applications.

use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use arm::ApiError;
use serde::{Deserialize, Serialize};
use store::directory::{
    ApplicationChange, ApplicationCreation, ApplicationUpdate, Creator, Deletion, NewApplication,
};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::{self, Others, display_name, refuse_others};
use super::errors::{indispensable, not_found, quota_exceeded};
use super::key_credentials::{self, KeyCredential, KeyCredentialBody};
use super::passwords::PasswordCredential;
use super::query::{
    Collection, Comparison, LIST_OPTIONS, ListRequest, Names, OBJECT_OPTIONS, check_object_options,
    select,
};
use super::{caller_gone, object_id};
use crate::App;
use crate::front_door::{Access, Answer, DirectoryRight, Operation, Request, store_error};
use crate::limits::MAXIMUM_SELF_SERVICE_APPLICATIONS;

pub(super) const COLLECTION: Collection = Collection {
    name: "applications",
    properties: &[
        "id",
        "appId",
        "displayName",
        "createdDateTime",
        "signInAudience",
        "identifierUris",
        "passwordCredentials",
        "keyCredentials",
        "requiredResourceAccess",
    ],
    filters: &[
        ("displayName", Comparison::DisplayName),
        ("appId", Comparison::AppId),
        ("id", Comparison::ObjectId),
    ],
    names: Names::None("identifierUris"),
};

/// Who may sign in by the application: those of its own tenant, which is the only one.
const SIGN_IN_AUDIENCE: &str = "AzureADMyOrg";

/// What may be sent because every application has it.
const OF_EVERY_APPLICATION: &[(&str, &str)] = &[("signInAudience", SIGN_IN_AUDIENCE)];

pub(super) fn operations() -> Vec<Operation> {
    let directory = Access::Directory;
    let path = "/v1.0/applications";
    let object_path = "/v1.0/applications/{objectId}";
    vec![
        Operation::new(
            "Applications_List",
            Method::GET,
            path,
            directory(DirectoryRight::Read),
            "Lists the applications of the directory.",
            list,
        )
        .query(LIST_OPTIONS)
        .answers::<ApplicationList>(200),
        Operation::new(
            "Applications_Create",
            Method::POST,
            path,
            directory(DirectoryRight::CreateApplication),
            "Creates an application, which the caller then owns.",
            create,
        )
        .takes::<NewApplicationBody>()
        .answers::<Application>(201)
        .repeats_no_change(),
        Operation::new(
            "Applications_Get",
            Method::GET,
            object_path,
            directory(DirectoryRight::Read),
            "Shows an application.",
            get,
        )
        .query(OBJECT_OPTIONS)
        .answers::<Application>(200),
        Operation::new(
            "Applications_Update",
            Method::PATCH,
            object_path,
            directory(DirectoryRight::Own),
            "Renames an application, and with it its service principal, or replaces its certificates; in force at every live node when this returns.",
            update,
        )
        .takes::<ApplicationChangeBody>()
        .answers_empty(204),
        Operation::new(
            "Applications_Delete",
            Method::DELETE,
            object_path,
            directory(DirectoryRight::Own),
            "Deletes an application with its service principal, their secrets and its role assignments; refused at every live node when this returns.",
            delete,
        )
        .answers_empty(204),
    ]
}

/// An application.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Application {
    /// The object id.
    pub(super) id: Uuid,
    app_id: Uuid,
    display_name: String,
    #[serde(with = "time::serde::rfc3339")]
    created_date_time: OffsetDateTime,
    sign_in_audience: &'static str,
    /// Always empty.
    identifier_uris: Vec<String>,
    password_credentials: Vec<PasswordCredential>,
    key_credentials: Vec<KeyCredential>,
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    required_resource_access: Vec<serde_json::Value>,
}

impl From<store::directory::Application> for Application {
    fn from(application: store::directory::Application) -> Self {
        Self {
            id: application.object_id,
            app_id: application.app_id,
            display_name: application.display_name,
            created_date_time: application.created_at,
            sign_in_audience: SIGN_IN_AUDIENCE,
            identifier_uris: Vec::new(),
            password_credentials: application.secrets.into_iter().map(Into::into).collect(),
            key_credentials: application
                .certificates
                .into_iter()
                .map(Into::into)
                .collect(),
            required_resource_access: Vec::new(),
        }
    }
}

/// A page of applications.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "only its schema is used; `$select` may leave members out"
)]
struct ApplicationList {
    value: Vec<Application>,
    /// Left out on the last page.
    #[schema(rename = "@odata.nextLink")]
    next_link: Option<String>,
}

/// What a new application is to be like.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewApplicationBody {
    display_name: String,
    #[serde(default)]
    key_credentials: Vec<KeyCredentialBody>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// What is to change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ApplicationChange)]
struct ApplicationChangeBody {
    display_name: Option<String>,
    /// All certificates that it is to have: those that are left out go.
    key_credentials: Option<Vec<KeyCredentialBody>>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

async fn list(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let wanted = ListRequest::parse(&request, &COLLECTION)?;
    let found = match &wanted.query {
        Some(query) => app
            .store
            .application_list(query)
            .await
            .map_err(store_error)?,
        None => Vec::new(),
    };
    let found: Vec<Application> = found.into_iter().map(Into::into).collect();
    let url = &app.installation.public_url;
    wanted.answer(
        found,
        |application| application.id,
        &request,
        &COLLECTION,
        url,
    )
}

async fn get(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    check_object_options(&request, &COLLECTION)?;
    let id = object_id(&request)?;
    let found = app.store.application_get(id).await.map_err(store_error)?;
    let application: Application = found.ok_or_else(|| not_found("application", id))?.into();
    Answer::ok(&select(&application, &request, &COLLECTION)?)
}

async fn create(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let body: NewApplicationBody = body::read(&request)?;
    refuse_others(&body.others, OF_EVERY_APPLICATION)?;
    let new = NewApplication {
        object_id: Uuid::new_v4(),
        app_id: Uuid::new_v4(),
        display_name: display_name(&body.display_name)?,
        certificates: key_credentials::read_new(body.key_credentials, request.now)?,
        created_at: request.now,
    };
    let caller = request.caller();
    let administers = caller.is_directory_administrator || caller.is_application_administrator;
    let creator = Creator {
        object_id: caller.object_id,
        quota: (!administers).then_some(MAXIMUM_SELF_SERVICE_APPLICATIONS),
    };
    match app
        .store
        .application_create(&new, creator)
        .await
        .map_err(store_error)?
    {
        ApplicationCreation::Created => {
            let created = store::directory::Application::from(new);
            Answer::json(StatusCode::CREATED, &Application::from(created))
        }
        ApplicationCreation::CreatorNotFound => Err(caller_gone(&app, &request).await),
        ApplicationCreation::QuotaExceeded => Err(quota_exceeded()),
    }
}

async fn update(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let id = object_id(&request)?;
    let never_null = &["displayName", "keyCredentials"];
    let body: ApplicationChangeBody = body::read_change(&request, never_null)?;
    refuse_others(&body.others, OF_EVERY_APPLICATION)?;
    let known = app.store.application_get(id).await.map_err(store_error)?;
    let known = known.ok_or_else(|| not_found("application", id))?;
    let certificates = match body.key_credentials {
        Some(wanted) => Some(key_credentials::read(wanted, request.now)?),
        None => None,
    };
    if let Some(wanted) = &certificates {
        let callers_key = request.caller().key_id;
        key_credentials::check_callers_own(&known.certificates, wanted, callers_key)?;
    }
    let change = ApplicationChange {
        display_name: body.display_name.as_deref().map(display_name).transpose()?,
        certificates,
    };
    match app
        .store
        .application_update(id, &change)
        .await
        .map_err(store_error)?
    {
        ApplicationUpdate::Done(published) => {
            Ok(Answer::empty(StatusCode::NO_CONTENT).published(published))
        }
        ApplicationUpdate::NotFound => Err(not_found("application", id)),
        ApplicationUpdate::Refused(refusal) => Err(key_credentials::refusal_error(&refusal)),
    }
}

async fn delete(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let id = object_id(&request)?;
    match app
        .store
        .application_delete(id)
        .await
        .map_err(store_error)?
    {
        Deletion::Deleted(published) => {
            Ok(Answer::empty(StatusCode::NO_CONTENT).published(published))
        }
        Deletion::NotFound => Err(not_found("application", id)),
        Deletion::Indispensable(reason) => Err(indispensable("service principal", reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_selected_is_what_is_shown() {
        let application = Application::from(store::directory::Application {
            object_id: Uuid::from_u128(1),
            app_id: Uuid::from_u128(2),
            display_name: "ci".to_owned(),
            created_at: OffsetDateTime::UNIX_EPOCH,
            secrets: Vec::new(),
            certificates: Vec::new(),
        });
        let shown = serde_json::to_value(application).expect("it is JSON");
        let shown: Vec<&String> = shown.as_object().expect("an object").keys().collect();
        assert_eq!(shown, COLLECTION.properties);
    }
}
