//! What the caller may do at a scope: clients hide what would be refused.

use std::sync::Arc;

use actix_web::http::Method;
use arm::{ApiError, Page};
use utoipa::ToSchema;

use super::role_definitions::{PermissionBody, scope_of};
use super::{SCOPES, VERSIONS, operation_id};
use crate::App;
use crate::front_door::{Access, Answer, Operation, Request};
use crate::providers::Visibility;

const READ: &str = "Microsoft.Authorization/permissions/read";

pub(super) fn operations() -> Vec<Operation> {
    SCOPES
        .iter()
        .map(|(_, word, path)| {
            Operation::new(
                operation_id("Permissions_ListAt", word),
                Method::GET,
                format!("{path}/providers/Microsoft.Authorization/permissions"),
                Access::FilteredList(READ),
                "Lists the caller's permissions at a scope: those of each role that it holds there or above.",
                list,
            )
            .versions("permissions", VERSIONS)
            .answers::<PermissionList>(200)
        })
        .collect()
}

#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the answer in the OpenAPI document; the body is a page"
)]
struct PermissionList {
    value: Vec<PermissionBody>,
}

async fn list(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let visibility = Visibility::load(&app, &request).await?;
    let mut roles = match scope_of(&request) {
        None => Vec::new(),
        Some(scope) => visibility.roles_at(&scope),
    };
    // A role that is held twice says nothing more.
    roles.sort_by_key(|role| role.id);
    roles.dedup_by_key(|role| role.id);
    let value = roles
        .iter()
        .flat_map(|role| &role.permissions)
        .map(|permission| PermissionBody::of(permission, &request))
        .collect();
    Answer::ok(&Page::single(value))
}
