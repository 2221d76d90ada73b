//! The tenant itself (`organization`), the only one of the installation.

use std::sync::Arc;

use actix_web::http::Method;
use arm::ApiError;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::errors::not_found;
use super::object_id;
use super::query::refuse_other_options;
use crate::App;
use crate::front_door::{Access, Answer, DirectoryRight, Operation, Request};
use crate::sign_in::default_domain;

pub(super) fn operations() -> Vec<Operation> {
    let read = Access::Directory(DirectoryRight::Read);
    vec![
        Operation::new(
            "Organization_List",
            Method::GET,
            "/v1.0/organization",
            read,
            "Lists the tenants: there is one.",
            list,
        )
        .answers::<OrganizationList>(200),
        Operation::new(
            "Organization_Get",
            Method::GET,
            "/v1.0/organization/{objectId}",
            read,
            "Shows the tenant.",
            get,
        )
        .answers::<Organization>(200),
    ]
}

/// The tenant.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Organization {
    /// The tenant's id.
    id: Uuid,
    display_name: String,
    tenant_type: &'static str,
    verified_domains: Vec<VerifiedDomain>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct VerifiedDomain {
    name: String,
    is_default: bool,
    is_initial: bool,
}

#[derive(Serialize, ToSchema)]
struct OrganizationList {
    value: Vec<Organization>,
}

fn organization(app: &App) -> Organization {
    let installation = &app.installation;
    Organization {
        id: installation.tenant_id,
        display_name: installation.tenant_display_name.clone(),
        tenant_type: "AAD",
        verified_domains: vec![VerifiedDomain {
            name: default_domain(&installation.public_url).to_owned(),
            is_default: true,
            is_initial: true,
        }],
    }
}

async fn list(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    refuse_other_options(&request, &[])?;
    Answer::ok(&OrganizationList {
        value: vec![organization(&app)],
    })
}

async fn get(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    refuse_other_options(&request, &[])?;
    let id = object_id(&request)?;
    if id == app.installation.tenant_id {
        Answer::ok(&organization(&app))
    } else {
        Err(not_found("organization", id))
    }
}
