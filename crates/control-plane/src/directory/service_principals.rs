//! Service principals: what applications are in role assignments and at sign-in.

use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use arm::{ApiError, Kind};
use serde::{Deserialize, Serialize};
use store::directory::{
    Deletion, NewServicePrincipal, ObjectQuery, ServicePrincipalChange, ServicePrincipalCreation,
    ServicePrincipalUpdate,
};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::{self, Others, refuse_others};
use super::errors::{bad_request, denied, guid, indispensable, not_found};
use super::key_credentials::{self, KeyCredential, KeyCredentialBody};
use super::passwords::PasswordCredential;
use super::query::{
    Collection, Comparison, LIST_OPTIONS, ListRequest, Names, OBJECT_OPTIONS, check_object_options,
    select,
};
use super::{caller_gone, object_id};
use crate::App;
use crate::front_door::{Access, Answer, DirectoryRight, Operation, Request, store_error};

pub(super) const COLLECTION: Collection = Collection {
    name: "servicePrincipals",
    properties: &[
        "id",
        "appId",
        "displayName",
        "appDisplayName",
        "accountEnabled",
        "createdDateTime",
        "servicePrincipalType",
        "servicePrincipalNames",
        "appOwnerOrganizationId",
        "passwordCredentials",
        "keyCredentials",
    ],
    filters: &[
        ("displayName", Comparison::DisplayName),
        ("appId", Comparison::AppId),
        ("id", Comparison::ObjectId),
        ("accountEnabled", Comparison::Enabled),
    ],
    names: Names::AppId("servicePrincipalNames"),
};

/// The one type there is.
const TYPE: &str = "Application";

/// What may be sent because every service principal has it.
const OF_EVERY_SERVICE_PRINCIPAL: &[(&str, &str)] = &[("servicePrincipalType", TYPE)];

pub(super) fn operations() -> Vec<Operation> {
    let directory = Access::Directory;
    let path = "/v1.0/servicePrincipals";
    let object_path = "/v1.0/servicePrincipals/{objectId}";
    vec![
        Operation::new(
            "ServicePrincipals_List",
            Method::GET,
            path,
            directory(DirectoryRight::Read),
            "Lists the service principals of the directory.",
            list,
        )
        .query(LIST_OPTIONS)
        .answers::<ServicePrincipalList>(200),
        Operation::new(
            "ServicePrincipals_Create",
            Method::POST,
            path,
            directory(DirectoryRight::CreateApplication),
            "Creates the service principal of an application that the caller owns; known to every live node when this returns.",
            create,
        )
        .takes::<NewServicePrincipalBody>()
        .answers::<ServicePrincipal>(201),
        Operation::new(
            "ServicePrincipals_Get",
            Method::GET,
            object_path,
            directory(DirectoryRight::Read),
            "Shows a service principal.",
            get,
        )
        .query(OBJECT_OPTIONS)
        .answers::<ServicePrincipal>(200),
        Operation::new(
            "ServicePrincipals_Update",
            Method::PATCH,
            object_path,
            directory(DirectoryRight::Own),
            "Enables or disables a service principal, or replaces its certificates; in force at every live node when this returns.",
            update,
        )
        .takes::<ServicePrincipalChangeBody>()
        .answers_empty(204),
        Operation::new(
            "ServicePrincipals_Delete",
            Method::DELETE,
            object_path,
            directory(DirectoryRight::Own),
            "Deletes a service principal with its own secrets and its role assignments; refused at every live node when this returns.",
            delete,
        )
        .answers_empty(204),
    ]
}

/// A service principal.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServicePrincipal {
    /// The object id: what roles are assigned to.
    pub(super) id: Uuid,
    app_id: Uuid,
    display_name: String,
    app_display_name: String,
    account_enabled: bool,
    #[serde(with = "time::serde::rfc3339")]
    created_date_time: OffsetDateTime,
    service_principal_type: &'static str,
    service_principal_names: [Uuid; 1],
    /// The tenant.
    app_owner_organization_id: Uuid,
    password_credentials: Vec<PasswordCredential>,
    key_credentials: Vec<KeyCredential>,
}

impl ServicePrincipal {
    pub(super) fn new(principal: store::directory::ServicePrincipal, tenant_id: Uuid) -> Self {
        Self {
            id: principal.object_id,
            app_id: principal.app_id,
            app_display_name: principal.display_name.clone(),
            display_name: principal.display_name,
            account_enabled: principal.enabled,
            created_date_time: principal.created_at,
            service_principal_type: TYPE,
            service_principal_names: [principal.app_id],
            app_owner_organization_id: tenant_id,
            password_credentials: principal.secrets.into_iter().map(Into::into).collect(),
            key_credentials: principal.certificates.into_iter().map(Into::into).collect(),
        }
    }
}

/// A page of service principals.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "only its schema is used; `$select` may leave members out"
)]
struct ServicePrincipalList {
    value: Vec<ServicePrincipal>,
    /// Left out on the last page.
    #[schema(rename = "@odata.nextLink")]
    next_link: Option<String>,
}

/// What a new service principal is to be like.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewServicePrincipalBody {
    /// Of the application that it is to belong to.
    app_id: String,
    /// True, unless it is given.
    account_enabled: Option<bool>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// What is to change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ServicePrincipalChange)]
struct ServicePrincipalChangeBody {
    account_enabled: Option<bool>,
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
            .service_principal_list(query)
            .await
            .map_err(store_error)?,
        None => Vec::new(),
    };
    let tenant_id = app.installation.tenant_id;
    let found: Vec<ServicePrincipal> = found
        .into_iter()
        .map(|principal| ServicePrincipal::new(principal, tenant_id))
        .collect();
    let url = &app.installation.public_url;
    wanted.answer(found, |principal| principal.id, &request, &COLLECTION, url)
}

async fn get(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    check_object_options(&request, &COLLECTION)?;
    let id = object_id(&request)?;
    let found = app
        .store
        .service_principal_get(id)
        .await
        .map_err(store_error)?;
    let found = found.ok_or_else(|| not_found("service principal", id))?;
    let principal = ServicePrincipal::new(found, app.installation.tenant_id);
    Answer::ok(&select(&principal, &request, &COLLECTION)?)
}

async fn create(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let body: NewServicePrincipalBody = body::read(&request)?;
    refuse_others(&body.others, OF_EVERY_SERVICE_PRINCIPAL)?;
    let app_id = guid(&body.app_id, "appId")?;
    check_ownership(&app, &request, app_id).await?;
    let new = NewServicePrincipal {
        object_id: Uuid::new_v4(),
        app_id,
        enabled: body.account_enabled.unwrap_or(true),
        created_at: request.now,
    };
    let creation = app
        .store
        .service_principal_create(&new, request.caller().object_id)
        .await
        .map_err(store_error)?;
    match creation {
        ServicePrincipalCreation::Created(created, published) => {
            let principal = ServicePrincipal::new(created, app.installation.tenant_id);
            Ok(Answer::json(StatusCode::CREATED, &principal)?.published(Some(published)))
        }
        ServicePrincipalCreation::ApplicationNotFound => Err(no_application(app_id)),
        ServicePrincipalCreation::OwnerNotFound => Err(caller_gone(&app, &request).await),
        ServicePrincipalCreation::Exists => Err(ApiError::new(
            Kind::Conflict,
            "Request_MultipleObjectsWithSameKeyValue",
            format!(
                "The service principal cannot be created because the service principal name {app_id} is already in use: the application has one."
            ),
        )),
    }
}

/// The right depends on the application that the body names, so it is checked here.
async fn check_ownership(app: &App, request: &Request, app_id: Uuid) -> Result<(), ApiError> {
    let caller = request.caller();
    let query = ObjectQuery {
        app_id: Some(app_id),
        limit: 1,
        ..ObjectQuery::default()
    };
    let found = app
        .store
        .application_list(&query)
        .await
        .map_err(store_error)?;
    let application = found.first().ok_or_else(|| no_application(app_id))?;
    if caller.is_directory_administrator {
        return Ok(());
    }
    let owns = app
        .store
        .directory_manages(application.object_id, caller.object_id)
        .await
        .map_err(store_error)?;
    if owns {
        return Ok(());
    }
    Err(denied(format!(
        "Insufficient privileges to complete the operation. Only owners of the application '{app_id}' and directory administrators may create its service principal."
    )))
}

fn no_application(app_id: Uuid) -> ApiError {
    bad_request(format!(
        "The directory has no application with the appId '{app_id}'."
    ))
    .with_target("appId")
}

async fn update(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let id = object_id(&request)?;
    let never_null = &["accountEnabled", "keyCredentials"];
    let body: ServicePrincipalChangeBody = body::read_change(&request, never_null)?;
    if body
        .others
        .get("displayName")
        .is_some_and(|name| !name.is_null())
    {
        return Err(bad_request(
            "The displayName of a service principal is that of its application; rename the application.",
        )
        .with_target("displayName"));
    }
    refuse_others(&body.others, OF_EVERY_SERVICE_PRINCIPAL)?;
    let known = app
        .store
        .service_principal_get(id)
        .await
        .map_err(store_error)?;
    let known = known.ok_or_else(|| not_found("service principal", id))?;
    let certificates = match body.key_credentials {
        Some(wanted) => Some(key_credentials::read(wanted, request.now)?),
        None => None,
    };
    if let Some(wanted) = &certificates {
        let callers_key = request.caller().key_id;
        key_credentials::check_callers_own(&known.certificates, wanted, callers_key)?;
    }
    let change = ServicePrincipalChange {
        enabled: body.account_enabled,
        certificates,
    };
    match app
        .store
        .service_principal_update(id, &change)
        .await
        .map_err(store_error)?
    {
        ServicePrincipalUpdate::Done(published) => {
            Ok(Answer::empty(StatusCode::NO_CONTENT).published(published))
        }
        ServicePrincipalUpdate::NotFound => Err(not_found("service principal", id)),
        ServicePrincipalUpdate::Indispensable(reason) => {
            Err(indispensable("service principal", reason))
        }
        ServicePrincipalUpdate::Refused(refusal) => Err(key_credentials::refusal_error(&refusal)),
    }
}

async fn delete(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let id = object_id(&request)?;
    match app
        .store
        .service_principal_delete(id)
        .await
        .map_err(store_error)?
    {
        Deletion::Deleted(published) => {
            Ok(Answer::empty(StatusCode::NO_CONTENT).published(published))
        }
        Deletion::NotFound => Err(not_found("service principal", id)),
        Deletion::Indispensable(reason) => Err(indispensable("service principal", reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_selected_is_what_is_shown() {
        let principal = ServicePrincipal::new(
            store::directory::ServicePrincipal {
                object_id: Uuid::from_u128(1),
                app_id: Uuid::from_u128(2),
                display_name: "ci".to_owned(),
                enabled: true,
                created_at: OffsetDateTime::UNIX_EPOCH,
                secrets: Vec::new(),
                certificates: Vec::new(),
            },
            Uuid::from_u128(3),
        );
        let shown = serde_json::to_value(principal).expect("it is JSON");
        let shown: Vec<&String> = shown.as_object().expect("an object").keys().collect();
        assert_eq!(shown, COLLECTION.properties);
    }
}
