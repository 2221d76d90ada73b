//! Roles of the directory itself (`directoryRoles`), and who holds them. Their ids are those of the roles that Microsoft Graph has under these
//! names in every tenant.

use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use arm::ApiError;
use serde::Serialize;
use store::directory::{DirectoryRole as Role, RoleAddition, RoleRemoval};
use utoipa::ToSchema;
use uuid::Uuid;

use super::errors::{id_in_path, last_administrator, not_found};
use super::objects::{self, MIXED_LIST_OPTIONS};
use super::query::{self, Page, refuse_other_options};
use super::references;
use crate::App;
use crate::front_door::{Access, Answer, DirectoryRight, Operation, Request, store_error};

pub(super) fn operations() -> Vec<Operation> {
    let read = Access::Directory(DirectoryRight::Read);
    let administer = Access::Directory(DirectoryRight::Administer);
    vec![
        Operation::new(
            "DirectoryRoles_List",
            Method::GET,
            "/v1.0/directoryRoles",
            read,
            "Lists the roles of the directory.",
            list,
        )
        .answers::<DirectoryRoleList>(200),
        Operation::new(
            "DirectoryRoles_Get",
            Method::GET,
            "/v1.0/directoryRoles/{roleId}",
            read,
            "Shows a role of the directory.",
            get,
        )
        .answers::<DirectoryRole>(200),
        Operation::new(
            "DirectoryRoles_ListMembers",
            Method::GET,
            "/v1.0/directoryRoles/{roleId}/members",
            read,
            "Lists who has a role of the directory.",
            list_members,
        )
        .query(MIXED_LIST_OPTIONS)
        .answers::<objects::DirectoryObjectList>(200),
        Operation::new(
            "DirectoryRoles_AddMember",
            Method::POST,
            "/v1.0/directoryRoles/{roleId}/members/$ref",
            administer,
            "Gives a user or service principal a role of the directory.",
            add_member,
        )
        .takes::<references::Reference>()
        .answers_empty(204),
        Operation::new(
            "DirectoryRoles_RemoveMember",
            Method::DELETE,
            "/v1.0/directoryRoles/{roleId}/members/{memberId}/$ref",
            administer,
            "Takes a role of the directory away.",
            remove_member,
        )
        .answers_empty(204),
    ]
}

/// A role of the directory.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DirectoryRole {
    id: Uuid,
    role_template_id: Uuid,
    display_name: &'static str,
    description: &'static str,
}

/// The roles of the directory.
#[derive(Serialize, ToSchema)]
struct DirectoryRoleList {
    value: Vec<DirectoryRole>,
}

impl From<Role> for DirectoryRole {
    fn from(role: Role) -> Self {
        let id = role.id();
        let (display_name, description) = match role {
            Role::Administrator => (
                "Global Administrator",
                "May do everything in the directory. Gives no right to resources: these are assigned as roles at scopes.",
            ),
            Role::ApplicationAdministrator => (
                "Application Administrator",
                "May create and manage all applications and service principals, but those that are Global Administrators.",
            ),
            Role::Reader => (
                "Directory Readers",
                "May read the directory, as every principal of the tenant may.",
            ),
        };
        Self {
            id,
            role_template_id: id,
            display_name,
            description,
        }
    }
}

/// The role that the path names.
fn role(request: &Request) -> Result<Role, ApiError> {
    let id = id_in_path(request, "roleId")?;
    Role::ALL
        .into_iter()
        .find(|role| role.id() == id)
        .ok_or_else(|| not_found("directory role", id))
}

async fn list(_app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    refuse_other_options(&request, &[])?;
    let value = Role::ALL.into_iter().map(Into::into).collect();
    Answer::ok(&DirectoryRoleList { value })
}

async fn get(_app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    refuse_other_options(&request, &[])?;
    Answer::ok(&DirectoryRole::from(role(&request)?))
}

async fn list_members(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let page = Page::parse(&request, MIXED_LIST_OPTIONS)?;
    let ids = app
        .store
        .directory_role_member_ids(role(&request)?, page.after, page.limit())
        .await
        .map_err(store_error)?;
    let (ids, next_link) = page.cut(ids, |id| *id, &request, &app.installation.public_url)?;
    query::list(objects::show_all(&app, &request, ids).await?, next_link)
}

async fn add_member(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let (role, principal) = (role(&request)?, references::read(&request)?);
    match app
        .store
        .directory_role_add(role, principal)
        .await
        .map_err(store_error)?
    {
        RoleAddition::Added => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        RoleAddition::Exists => Err(references::exists_already("members")),
        RoleAddition::PrincipalNotFound => {
            let only = "roles of the directory are held by";
            Err(references::no_individual(&app, principal, only).await?)
        }
    }
}

async fn remove_member(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let role = role(&request)?;
    let principal = id_in_path(&request, "memberId")?;
    match app
        .store
        .directory_role_remove(role, principal)
        .await
        .map_err(store_error)?
    {
        RoleRemoval::Removed => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        RoleRemoval::NotFound => Err(ApiError::not_found(
            "Request_ResourceNotFound",
            format!("The object '{principal}' has not got this role."),
        )),
        RoleRemoval::LastAdministrator => Err(last_administrator("principal")),
    }
}
