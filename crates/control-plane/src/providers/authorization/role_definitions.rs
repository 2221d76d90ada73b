//! Role definitions as they are shown and found: the built-in ones and custom ones. How custom ones change is in
//! [`custom_roles`](super::custom_roles).

use std::sync::Arc;

use actix_web::http::Method;
use arm::{ApiError, Filter, Page, Term, format_time};
use rbac::{Permission, RoleDefinition, RoleKind, Scope};
use serde::Serialize;
use store::role_definitions::CustomRole;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{SCOPES, VERSIONS, has_data_actions, has_details, operation_id};
use crate::App;
use crate::front_door::{
    Access, Answer, Operation, PathScope, Request, built_in_role, hyphenated, store_error,
};
use crate::providers::Visibility;

const READ: &str = "Microsoft.Authorization/roleDefinitions/read";
pub(super) const SUFFIX: &str = "/providers/Microsoft.Authorization/roleDefinitions";
pub(super) const RESOURCE_TYPE: &str = "roleDefinitions";

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
    // Built-in roles are public knowledge; of custom ones the tenant's path shows those that the caller may read at a scope of theirs.
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

fn list_operation(id: &'static str, path: String, access: Access) -> Operation {
    Operation::new(
        id,
        Method::GET,
        path,
        access,
        "Lists the role definitions that can be assigned at a scope and, with atScopeAndBelow(), below it.",
        list,
    )
    .versions(RESOURCE_TYPE, VERSIONS)
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
    .versions(RESOURCE_TYPE, VERSIONS)
    .answers::<RoleDefinitionBody>(200)
}

#[derive(Serialize, ToSchema)]
pub(super) struct RoleDefinitionBody {
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
    #[serde(flatten)]
    history: Option<RoleDefinitionHistory>,
}

/// Who made a role and when; of built-in roles nobody did. The oldest API versions do not show it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RoleDefinitionHistory {
    created_on: Option<String>,
    updated_on: Option<String>,
    created_by: Option<String>,
    updated_by: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PermissionBody {
    actions: Vec<String>,
    not_actions: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_actions: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_data_actions: Option<Vec<String>>,
}

impl PermissionBody {
    pub(super) fn of(permission: &Permission, request: &Request) -> Self {
        let texts = |patterns: &[rbac::ActionPattern]| -> Vec<String> {
            let texts = patterns.iter().map(|pattern| pattern.as_str().to_owned());
            texts.collect()
        };
        let data = has_data_actions(request);
        Self {
            actions: texts(&permission.actions),
            not_actions: texts(&permission.not_actions),
            data_actions: data.then(|| texts(&permission.data_actions)),
            not_data_actions: data.then(|| texts(&permission.not_data_actions)),
        }
    }
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

/// A custom role as answers show it.
pub(super) fn custom_body(request: &Request, role: &CustomRole) -> RoleDefinitionBody {
    let history = RoleDefinitionHistory {
        created_on: Some(format_time(role.created_at)),
        updated_on: Some(format_time(role.updated_at)),
        created_by: role.created_by.map(|id| id.to_string()),
        updated_by: role.updated_by.map(|id| id.to_string()),
    };
    body(request, &role.definition, history)
}

fn built_in_body(request: &Request, role: &RoleDefinition) -> RoleDefinitionBody {
    let history = RoleDefinitionHistory {
        created_on: None,
        updated_on: None,
        created_by: None,
        updated_by: None,
    };
    body(request, role, history)
}

fn body(
    request: &Request,
    role: &RoleDefinition,
    history: RoleDefinitionHistory,
) -> RoleDefinitionBody {
    let scopes = role.assignable_scopes.iter();
    let permissions = role.permissions.iter();
    RoleDefinitionBody {
        id: id(request, role.id),
        name: role.id.to_string(),
        kind: "Microsoft.Authorization/roleDefinitions",
        properties: RoleDefinitionProperties {
            role_name: role.role_name.clone(),
            kind: role.kind.as_str(),
            description: role.description.clone(),
            assignable_scopes: scopes.map(|scope| scope.as_str().to_owned()).collect(),
            permissions: permissions
                .map(|permission| PermissionBody::of(permission, request))
                .collect(),
            history: has_details(request).then_some(history),
        },
    }
}

/// What a list is asked for.
#[derive(Default)]
struct Asked {
    role_name_key: Option<String>,
    kind: Option<String>,
    /// Also roles that can be assigned only below the scope.
    and_below: bool,
}

impl Asked {
    fn read(request: &Request) -> Result<Self, ApiError> {
        let mut asked = Self::default();
        let text = request.query("$filter").unwrap_or_default();
        if text.trim().is_empty() {
            return Ok(asked);
        }
        let filter = Filter::parse(text).map_err(|error| invalid_filter(error.to_string()))?;
        for term in filter.0 {
            match term {
                Term::Equals { property, value } if property == "rolename" => {
                    set(
                        &mut asked.role_name_key,
                        arm::canonical_key(&value),
                        "roleName",
                    )?;
                }
                Term::Equals { property, value } if property == "type" => {
                    set(&mut asked.kind, value, "type")?;
                }
                Term::Call {
                    function,
                    argument: None,
                } if function == "atscopeandbelow" => asked.and_below = true,
                _ => {
                    return Err(invalid_filter(
                        "Role definitions are filtered by roleName eq '…', type eq '…' and atScopeAndBelow() only.",
                    ));
                }
            }
        }
        Ok(asked)
    }

    fn keeps(&self, role: &RoleDefinition) -> bool {
        let name = self.role_name_key.as_ref();
        name.is_none_or(|key| arm::canonical_key(&role.role_name) == *key)
            && self
                .kind
                .as_ref()
                .is_none_or(|kind| kind.eq_ignore_ascii_case(role.kind.as_str()))
    }
}

fn set<T>(place: &mut Option<T>, value: T, property: &str) -> Result<(), ApiError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(invalid_filter(format!(
            "'{property}' stands in the filter more than once."
        ))),
    }
}

fn invalid_filter(message: impl Into<String>) -> ApiError {
    ApiError::invalid("BadRequestFormat", message).with_target("$filter")
}

/// The scope that a request's path names, as far as it is one; `None` at the tenant's path.
pub(super) fn scope_of(request: &Request) -> Option<Scope> {
    let at = request.segments.windows(2).rposition(|pair| {
        pair[0].eq_ignore_ascii_case("providers")
            && pair[1].eq_ignore_ascii_case("Microsoft.Authorization")
    })?;
    let path = format!("/{}", request.segments[..at].join("/"));
    Scope::parse(&path).ok().filter(|scope| scope.key() != "/")
}

/// Whether a custom role can be assigned at the scope or, if that is asked for, below it.
fn is_at(role: &RoleDefinition, scope: &Scope, and_below: bool) -> bool {
    role.assignable_scopes
        .iter()
        .any(|assignable| assignable.contains(scope) || (and_below && scope.contains(assignable)))
}

/// Which custom roles a request may see.
enum Sight {
    At(Scope),
    /// At the tenant's path: those that can be read at one of their scopes.
    Readable(Visibility),
}

impl Sight {
    async fn of(app: &App, request: &Request) -> Result<Self, ApiError> {
        Ok(match scope_of(request) {
            Some(scope) => Self::At(scope),
            None => Self::Readable(Visibility::load(app, request).await?),
        })
    }

    fn shows(&self, role: &RoleDefinition, and_below: bool) -> bool {
        match self {
            Self::At(scope) => is_at(role, scope, and_below),
            Self::Readable(visibility) => role
                .assignable_scopes
                .iter()
                .any(|scope| visibility.allows(scope.as_str(), READ)),
        }
    }
}

async fn list(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let asked = Asked::read(&request)?;
    let mut value: Vec<RoleDefinitionBody> = rbac::built_in_roles()
        .iter()
        .filter(|role| asked.keeps(role))
        .map(|role| built_in_body(&request, role))
        .collect();
    let wants_custom = asked
        .kind
        .as_ref()
        .is_none_or(|kind| kind.eq_ignore_ascii_case(RoleKind::Custom.as_str()));
    if wants_custom {
        let sight = Sight::of(&app, &request).await?;
        let custom = app
            .store
            .role_definition_list()
            .await
            .map_err(store_error)?;
        let shown = custom.iter().filter(|role| {
            asked.keeps(&role.definition) && sight.shows(&role.definition, asked.and_below)
        });
        value.extend(shown.map(|role| custom_body(&request, role)));
    }
    Answer::ok(&Page::single(value))
}

/// The role's id in the path.
pub(super) fn id_of(request: &Request) -> Option<Uuid> {
    hyphenated(request.parameter("roleDefinitionId"))
}

pub(super) fn not_found(request: &Request) -> ApiError {
    ApiError::not_found(
        "RoleDefinitionDoesNotExist",
        format!(
            "The specified role definition with ID '{}' does not exist.",
            request.parameter("roleDefinitionId")
        ),
    )
}

async fn get(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let id = id_of(&request).ok_or_else(|| not_found(&request))?;
    if let Some(role) = built_in_role(id) {
        return Answer::ok(&built_in_body(&request, role));
    }
    let role = app
        .store
        .role_definition_get(id)
        .await
        .map_err(store_error)?;
    let sight = Sight::of(&app, &request).await?;
    let role = role.filter(|role| sight.shows(&role.definition, true));
    Answer::ok(&custom_body(
        &request,
        &role.ok_or_else(|| not_found(&request))?,
    ))
}

/// What an operation on a custom role at a scope declares.
pub(super) fn at_scope(action: &'static str, scope: PathScope) -> Access {
    Access::Action { action, scope }
}
