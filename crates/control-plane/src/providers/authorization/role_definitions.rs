//! Role definitions: the built-in ones.

use std::sync::Arc;

use actix_web::http::Method;
use arm::{ApiError, Filter, Page, Term};
use rbac::{RoleDefinition, RoleKind};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{DEFINITION_VERSIONS, SCOPES};
use crate::App;
use crate::front_door::{Access, Answer, Operation, Request};

const READ: &str = "Microsoft.Authorization/roleDefinitions/read";
const SUFFIX: &str = "/providers/Microsoft.Authorization/roleDefinitions";

pub(super) fn operations() -> Vec<Operation> {
    let at_scopes = SCOPES.iter().flat_map(|(scope, word, path)| {
        let access = Access::Action {
            action: READ,
            scope: *scope,
        };
        [
            list_operation(
                operation_id("RoleDefinitions_ListAt", word),
                format!("{path}{SUFFIX}"),
                access,
            ),
            get_operation(
                operation_id("RoleDefinitions_GetAt", word),
                format!("{path}{SUFFIX}"),
                access,
            ),
        ]
    });
    // Built-in roles are public knowledge: at the root there is no scope that anybody but the installation has a role at.
    let at_root = [
        list_operation(
            "RoleDefinitions_List",
            SUFFIX.to_owned(),
            Access::AnyPrincipal,
        ),
        get_operation(
            "RoleDefinitions_Get",
            SUFFIX.to_owned(),
            Access::AnyPrincipal,
        ),
    ];
    at_scopes.chain(at_root).collect()
}

/// Operation ids live as long as the process; they are made once.
pub(super) fn operation_id(start: &str, word: &str) -> &'static str {
    String::leak(format!("{start}{word}"))
}

fn list_operation(id: &'static str, path: String, access: Access) -> Operation {
    Operation::new(
        id,
        Method::GET,
        path,
        access,
        "Lists the role definitions.",
        list,
    )
    .versions("roleDefinitions", DEFINITION_VERSIONS)
    .query(&["$filter"])
    .answers::<RoleDefinitionList>(200)
}

fn get_operation(id: &'static str, path: String, access: Access) -> Operation {
    Operation::new(
        id,
        Method::GET,
        format!("{path}/{{roleDefinitionId}}"),
        access,
        "Shows a role definition.",
        get,
    )
    .versions("roleDefinitions", DEFINITION_VERSIONS)
    .answers::<RoleDefinitionBody>(200)
}

#[derive(Serialize, ToSchema)]
struct RoleDefinitionBody {
    id: String,
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    properties: RoleDefinitionProperties,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RoleDefinitionProperties {
    role_name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    description: String,
    assignable_scopes: Vec<String>,
    permissions: Vec<PermissionBody>,
    created_by: Option<String>,
    updated_by: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PermissionBody {
    actions: Vec<String>,
    not_actions: Vec<String>,
    data_actions: Vec<String>,
    not_data_actions: Vec<String>,
}

#[derive(Serialize, ToSchema)]
struct RoleDefinitionList {
    value: Vec<RoleDefinitionBody>,
}

/// The id of a role definition as answers carry it: at the subscription of the request, if it has one.
pub(super) fn id(request: &Request, role: Uuid) -> String {
    let subscription = match request.segments.first() {
        Some(first) if first.eq_ignore_ascii_case("subscriptions") => {
            format!("/subscriptions/{}", request.parameter("subscriptionId"))
        }
        _ => String::new(),
    };
    format!("{subscription}{SUFFIX}/{role}")
}

fn body(request: &Request, role: &RoleDefinition) -> RoleDefinitionBody {
    let texts = |patterns: &[rbac::ActionPattern]| {
        patterns
            .iter()
            .map(|pattern| pattern.as_str().to_owned())
            .collect()
    };
    RoleDefinitionBody {
        id: id(request, role.id),
        name: role.id.to_string(),
        kind: "Microsoft.Authorization/roleDefinitions",
        properties: RoleDefinitionProperties {
            role_name: role.role_name.clone(),
            kind: match role.kind {
                RoleKind::BuiltIn => "BuiltInRole",
                RoleKind::Custom => "CustomRole",
            },
            description: role.description.clone(),
            assignable_scopes: role
                .assignable_scopes
                .iter()
                .map(|scope| scope.as_str().to_owned())
                .collect(),
            permissions: role
                .permissions
                .iter()
                .map(|permission| PermissionBody {
                    actions: texts(&permission.actions),
                    not_actions: texts(&permission.not_actions),
                    data_actions: texts(&permission.data_actions),
                    not_data_actions: texts(&permission.not_data_actions),
                })
                .collect(),
            created_by: None,
            updated_by: None,
        },
    }
}

fn keeps(term: &Term, role: &RoleDefinition) -> Result<bool, ApiError> {
    match term {
        Term::Equals { property, value } if property == "rolename" => {
            Ok(arm::canonical_key(&role.role_name) == arm::canonical_key(value))
        }
        Term::Equals { property, value } if property == "type" => Ok(match role.kind {
            RoleKind::BuiltIn => value.eq_ignore_ascii_case("BuiltInRole"),
            RoleKind::Custom => value.eq_ignore_ascii_case("CustomRole"),
        }),
        // Every role that there is can be assigned at every scope.
        Term::Call { function, argument: None } if function == "atscopeandbelow" => Ok(true),
        _ => Err(ApiError::invalid(
            "BadRequestFormat",
            "Role definitions are filtered by roleName eq '…', type eq '…' and atScopeAndBelow() only.",
        )
        .with_target("$filter")),
    }
}

async fn list(_app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let terms = match request
        .query("$filter")
        .filter(|filter| !filter.trim().is_empty())
    {
        None => Vec::new(),
        Some(filter) => {
            Filter::parse(filter)
                .map_err(|error| {
                    ApiError::invalid("BadRequestFormat", error.to_string()).with_target("$filter")
                })?
                .0
        }
    };
    let mut value = Vec::new();
    for role in rbac::built_in_roles() {
        let mut kept = true;
        for term in &terms {
            kept &= keeps(term, role)?;
        }
        if kept {
            value.push(body(&request, role));
        }
    }
    Answer::ok(&Page::single(value))
}

async fn get(_app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let text = request.parameter("roleDefinitionId");
    let role = Uuid::try_parse(text)
        .ok()
        .and_then(crate::front_door::built_in_role)
        .ok_or_else(|| {
            ApiError::not_found(
                "RoleDefinitionDoesNotExist",
                format!("The specified role definition with ID '{text}' does not exist."),
            )
        })?;
    Answer::ok(&body(&request, role))
}
