//! Role assignments: who has which role at which scope.

use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use arm::{ApiError, Filter, Term, format_time};
use rbac::Scope;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::role_assignments::{RoleAssignment, RoleAssignmentFilter, RoleAssignmentPut, ScopeRow};
use utoipa::ToSchema;
use uuid::Uuid;

use super::role_definitions::operation_id;
use super::{ASSIGNMENT_VERSIONS, SCOPES};
use crate::App;
use crate::front_door::{
    Access, Answer, Operation, PathScope, Request, built_in_role, hyphenated, store_error,
};
use crate::providers::resources::{group_of, missing_subscription};
use crate::providers::{is_full, page, page_size};

const READ: &str = "Microsoft.Authorization/roleAssignments/read";
const WRITE: &str = "Microsoft.Authorization/roleAssignments/write";
const DELETE: &str = "Microsoft.Authorization/roleAssignments/delete";
const SUFFIX: &str = "/providers/Microsoft.Authorization/roleAssignments";

/// The longest description, in characters.
const MAXIMUM_DESCRIPTION_CHARACTERS: usize = 1024;

pub(super) fn operations() -> Vec<Operation> {
    SCOPES
        .iter()
        .flat_map(|(scope, word, path)| at_scope(*scope, word, path))
        .collect()
}

fn at_scope(scope: PathScope, word: &str, path: &str) -> [Operation; 4] {
    let access = |action| Access::Action { action, scope };
    let list_path = format!("{path}{SUFFIX}");
    let path = format!("{list_path}/{{roleAssignmentName}}");
    [
        Operation::new(
            operation_id("RoleAssignments_ListAt", word),
            Method::GET,
            list_path,
            access(READ),
            "Lists the role assignments at a scope, above it and, without atScope(), below it.",
            list,
        )
        .query(&["$filter", "$top", "$skiptoken"])
        .answers::<RoleAssignmentList>(200),
        Operation::new(
            operation_id("RoleAssignments_GetAt", word),
            Method::GET,
            &path,
            access(READ),
            "Shows a role assignment.",
            get,
        )
        .answers::<RoleAssignmentBody>(200),
        Operation::new(
            operation_id("RoleAssignments_CreateAt", word),
            Method::PUT,
            &path,
            access(WRITE),
            "Assigns a role to a principal; in force at every live node when this returns.",
            put,
        )
        .takes::<RoleAssignmentInput>()
        .answers::<RoleAssignmentBody>(200)
        .answers::<RoleAssignmentBody>(201),
        Operation::new(
            operation_id("RoleAssignments_DeleteAt", word),
            Method::DELETE,
            &path,
            access(DELETE),
            "Takes a role away from a principal; in force at every live node when this returns.",
            delete,
        )
        .answers::<RoleAssignmentBody>(200)
        .answers_empty(204),
    ]
    .map(|operation| operation.versions("roleAssignments", ASSIGNMENT_VERSIONS))
}

#[derive(Serialize, ToSchema)]
struct RoleAssignmentBody {
    id: String,
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    properties: RoleAssignmentProperties,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RoleAssignmentProperties {
    role_definition_id: String,
    principal_id: String,
    principal_type: String,
    scope: String,
    condition: Option<String>,
    condition_version: Option<String>,
    created_on: String,
    updated_on: String,
    created_by: Option<String>,
    updated_by: Option<String>,
    delegated_managed_identity_resource_id: Option<String>,
    description: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RoleAssignmentList {
    value: Vec<RoleAssignmentBody>,
    next_link: Option<String>,
}

/// A role assignment as clients send it; what the service sets may be sent back and changes nothing.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RoleAssignmentInput {
    properties: RoleAssignmentInputProperties,
    #[serde(rename = "id")]
    _id: Option<Value>,
    #[serde(rename = "name")]
    _name: Option<Value>,
    #[serde(rename = "type")]
    _kind: Option<Value>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RoleAssignmentInputProperties {
    /// The id of a role definition, at a subscription or at the tenant.
    role_definition_id: String,
    /// The object id of a service principal.
    principal_id: String,
    principal_type: Option<String>,
    description: Option<String>,
    condition: Option<String>,
    condition_version: Option<String>,
    delegated_managed_identity_resource_id: Option<String>,
    #[serde(rename = "scope")]
    _scope: Option<Value>,
    #[serde(rename = "createdOn")]
    _created_on: Option<Value>,
    #[serde(rename = "updatedOn")]
    _updated_on: Option<Value>,
    #[serde(rename = "createdBy")]
    _created_by: Option<Value>,
    #[serde(rename = "updatedBy")]
    _updated_by: Option<Value>,
}

fn body(request: &Request, assignment: &RoleAssignment) -> RoleAssignmentBody {
    RoleAssignmentBody {
        id: format!(
            "{}{SUFFIX}/{}",
            assignment.scope.trim_end_matches('/'),
            assignment.name
        ),
        name: assignment.name.to_string(),
        kind: "Microsoft.Authorization/roleAssignments",
        properties: RoleAssignmentProperties {
            role_definition_id: super::role_definitions::id(request, assignment.role_definition_id),
            principal_id: assignment.principal_id.to_string(),
            principal_type: assignment.principal_type.clone(),
            scope: assignment.scope.clone(),
            condition: None,
            condition_version: None,
            created_on: format_time(assignment.created_at),
            updated_on: format_time(assignment.updated_at),
            created_by: assignment.created_by.map(|id| id.to_string()),
            updated_by: assignment.updated_by.map(|id| id.to_string()),
            delegated_managed_identity_resource_id: None,
            description: assignment.description.clone(),
        },
    }
}

/// The scope of a request and the row behind it, which exists; the scope carries the casing that the resource was created with.
fn scope_of(request: &Request) -> Result<(Scope, ScopeRow), ApiError> {
    let facts = request
        .facts
        .as_ref()
        .filter(|facts| facts.subscription_exists);
    let Some(facts) = facts else {
        return Err(missing_subscription(request.parameter("subscriptionId")));
    };
    let has = |name: &str| request.parameters.iter().any(|(known, _)| known == name);
    let (path, row) = if has("registryName") {
        let group = group_of(request)?;
        let registry = facts.registry.as_ref().ok_or_else(|| {
            ApiError::not_found(
                "ResourceNotFound",
                format!(
                    "The Resource 'Microsoft.ContainerRegistry/registries/{}' under resource group '{}' was not found.",
                    request.parameter("registryName"),
                    group.name
                ),
            )
        })?;
        (
            registry.id().as_str().to_owned(),
            ScopeRow::Registry(registry.uid),
        )
    } else if has("resourceGroupName") {
        let group = group_of(request)?;
        (
            group.id().as_str().to_owned(),
            ScopeRow::ResourceGroup(group.uid),
        )
    } else {
        let id = crate::front_door::subscription_id(request.parameter("subscriptionId"))?;
        (format!("/subscriptions/{id}"), ScopeRow::Subscription(id))
    };
    Ok((Scope::parse(&path).map_err(ApiError::internal)?, row))
}

fn assignment_name(request: &Request) -> Result<Uuid, ApiError> {
    let text = request.parameter("roleAssignmentName");
    hyphenated(text).ok_or_else(|| {
        ApiError::invalid("InvalidRoleAssignmentId", format!("The role assignment ID '{text}' is not valid. The role assignment ID must be a GUID."))
            .with_target("roleAssignmentName")
    })
}

fn not_found(name: Uuid) -> ApiError {
    ApiError::not_found(
        "RoleAssignmentNotFound",
        format!("The role assignment '{name}' is not found."),
    )
}

/// The role that an id names: at a subscription, at the tenant, or the bare GUID.
fn role_of(text: &str) -> Result<Uuid, ApiError> {
    let guid = match arm::split_path(text).collect::<Vec<_>>().as_slice() {
        [.., namespace, kind, guid]
            if namespace.eq_ignore_ascii_case("Microsoft.Authorization")
                && kind.eq_ignore_ascii_case("roleDefinitions") =>
        {
            *guid
        }
        [guid] => *guid,
        _ => text,
    };
    let id = Uuid::try_parse(guid).map_err(|_| {
        ApiError::invalid(
            "InvalidRoleDefinitionId",
            format!("'{}' is not the id of a role definition.", shorten(text)),
        )
        .with_target("properties.roleDefinitionId")
    })?;
    built_in_role(id).map(|role| role.id).ok_or_else(|| {
        ApiError::invalid(
            "RoleDefinitionDoesNotExist",
            format!("The specified role definition with ID '{id}' does not exist."),
        )
        .with_target("properties.roleDefinitionId")
    })
}

fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}

/// What a caller wants to assign, checked as far as it can be without the database.
fn wanted(
    input: RoleAssignmentInput,
    request: &Request,
    scope: &Scope,
    name: Uuid,
) -> Result<RoleAssignment, ApiError> {
    let properties = input.properties;
    for (member, given) in [
        ("condition", &properties.condition),
        ("conditionVersion", &properties.condition_version),
        (
            "delegatedManagedIdentityResourceId",
            &properties.delegated_managed_identity_resource_id,
        ),
    ] {
        if given.as_ref().is_some_and(|given| !given.is_empty()) {
            return Err(ApiError::invalid(
                "FeatureNotSupported",
                format!(
                    "The property '{member}' of a role assignment is not supported; leave it out."
                ),
            )
            .with_target(format!("properties.{member}")));
        }
    }
    let principal_id = Uuid::try_parse(&properties.principal_id).map_err(|_| {
        ApiError::invalid(
            "InvalidPrincipalId",
            format!(
                "A valid principal ID must be provided for role assignment; '{}' is not a GUID.",
                shorten(&properties.principal_id)
            ),
        )
        .with_target("properties.principalId")
    })?;
    if let Some(kind) = &properties.principal_type
        && !kind.eq_ignore_ascii_case("ServicePrincipal")
    {
        return Err(ApiError::invalid(
            "UnmatchedPrincipalType",
            format!("The PrincipalId '{principal_id}' cannot have type '{}': principals are of type 'ServicePrincipal'.", shorten(kind)),
        )
        .with_target("properties.principalType"));
    }
    if properties
        .description
        .as_ref()
        .is_some_and(|text| text.chars().count() > MAXIMUM_DESCRIPTION_CHARACTERS)
    {
        return Err(ApiError::invalid(
            "InvalidRoleAssignmentDescription",
            format!("The description has more than {MAXIMUM_DESCRIPTION_CHARACTERS} characters."),
        )
        .with_target("properties.description"));
    }
    let caller = Some(request.caller().object_id);
    Ok(RoleAssignment {
        name,
        scope: scope.as_str().to_owned(),
        principal_id,
        principal_type: "ServicePrincipal".to_owned(),
        role_definition_id: role_of(&properties.role_definition_id)?,
        description: properties.description,
        created_at: request.now,
        created_by: caller,
        updated_at: request.now,
        updated_by: caller,
    })
}

async fn put(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let name = assignment_name(&request)?;
    let (scope, row) = scope_of(&request)?;
    let wanted = wanted(request.json()?, &request, &scope, name)?;
    match app.store.role_assignment_put(&wanted, &scope, row).await.map_err(store_error)? {
        RoleAssignmentPut::Created(assignment, published) => {
            Ok(Answer::json(StatusCode::CREATED, &body(&request, &assignment))?.published(Some(published)))
        }
        RoleAssignmentPut::Existing(assignment) => Answer::ok(&body(&request, &assignment)),
        RoleAssignmentPut::Duplicate(existing) => Err(ApiError::conflict(
            "RoleAssignmentExists",
            format!(
                "The role assignment already exists. The ID of the existing role assignment is {}.",
                existing.simple()
            ),
        )),
        RoleAssignmentPut::NameTaken(_) => Err(ApiError::invalid(
            "RoleAssignmentUpdateNotPermitted",
            "Tenant ID, application ID, principal ID, and scope are not allowed to be updated.",
        )),
        RoleAssignmentPut::PrincipalNotFound => Err(ApiError::invalid(
            "PrincipalNotFound",
            format!(
                "Principal {} was not found in the directory {}. Check that you have the correct object ID of the principal, not its application ID.",
                wanted.principal_id.simple(),
                app.installation.tenant_id
            ),
        )
        .with_target("properties.principalId")),
        RoleAssignmentPut::ScopeNotFound => {
            Err(ApiError::not_found("ResourceNotFound", format!("The scope '{scope}' was deleted meanwhile.")))
        }
    }
}

async fn get(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let name = assignment_name(&request)?;
    let (scope, _) = scope_of(&request)?;
    let assignment = app
        .store
        .role_assignment_get(scope.key(), name)
        .await
        .map_err(store_error)?
        .ok_or_else(|| not_found(name))?;
    Answer::ok(&body(&request, &assignment))
}

async fn delete(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let name = assignment_name(&request)?;
    let (scope, _) = scope_of(&request)?;
    match app
        .store
        .role_assignment_delete(scope.key(), name)
        .await
        .map_err(store_error)?
    {
        Some((assignment, published)) => {
            Ok(Answer::ok(&body(&request, &assignment))?.published(Some(published)))
        }
        None => Ok(Answer::empty(StatusCode::NO_CONTENT)),
    }
}

fn filter_of(request: &Request, scope: &Scope) -> Result<RoleAssignmentFilter, ApiError> {
    let mut filter = RoleAssignmentFilter {
        chain: scope.ancestors_and_self().map(str::to_owned).collect(),
        below: Some(scope.key().to_owned()),
        principal_id: None,
    };
    let invalid =
        |message: String| ApiError::invalid("BadRequestFormat", message).with_target("$filter");
    let Some(text) = request
        .query("$filter")
        .filter(|text| !text.trim().is_empty())
    else {
        return Ok(filter);
    };
    for term in Filter::parse(text)
        .map_err(|error| invalid(error.to_string()))?
        .0
    {
        let principal = match term {
            Term::Call {
                function,
                argument: None,
            } if function == "atscope" => {
                filter.below = None;
                continue;
            }
            // Without groups, what is assigned to a principal is what names it.
            Term::Call {
                function,
                argument: Some(principal),
            } if function == "assignedto" => principal,
            Term::Equals { property, value } if property == "principalid" => value,
            _ => {
                return Err(invalid(
                    "Role assignments are filtered by atScope(), assignedTo('…') and principalId eq '…' only.".to_owned(),
                ));
            }
        };
        let principal = Uuid::try_parse(&principal).map_err(|_| {
            invalid(format!(
                "The principal '{}' of the filter is not a GUID.",
                shorten(&principal)
            ))
        })?;
        if filter.principal_id.is_some_and(|known| known != principal) {
            return Err(invalid(
                "The filter asks for two principals; an assignment has one.".to_owned(),
            ));
        }
        filter.principal_id = Some(principal);
    }
    Ok(filter)
}

async fn list(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let (scope, _) = scope_of(&request)?;
    let filter = filter_of(&request, &scope)?;
    let limit = page_size(&request)?;
    let after = match request.query("$skiptoken") {
        None => Uuid::nil(),
        Some(token) => Uuid::try_parse(token).map_err(|_| {
            ApiError::invalid(
                "InvalidSkipToken",
                format!(
                    "The $skiptoken '{}' is not one that this service gave.",
                    shorten(token)
                ),
            )
            .with_target("$skiptoken")
        })?,
    };
    let assignments = app
        .store
        .role_assignment_list(&filter, after, limit)
        .await
        .map_err(store_error)?;
    let token = assignments
        .last()
        .map(|assignment| assignment.name.to_string());
    let value = assignments
        .iter()
        .map(|assignment| serde_json::to_value(body(&request, assignment)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(ApiError::internal)?;
    let is_full = is_full(assignments.len(), limit);
    Answer::ok(&page(&app, &request, token.filter(|_| is_full), value))
}
