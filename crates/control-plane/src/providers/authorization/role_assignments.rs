//! Role assignments: who has which role at which scope.

mod list;

use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use arm::{ApiError, Kind, format_time};
use rbac::{Condition, Scope};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::access::PrincipalKind;
use store::role_assignments::{
    CONDITION_VERSION, NewRoleAssignment, RoleAssignment, RoleAssignmentDeletion,
    RoleAssignmentDetails, RoleAssignmentPut, ScopeRow, resource_id,
};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{DETAILED_VERSIONS, SCOPES, VERSIONS, has_details, operation_id, shorten};
use crate::App;
use crate::front_door::{
    Access, Answer, Operation, PathScope, Request, built_in_role, hyphenated, store_error,
};
use crate::limits::MAXIMUM_ROLE_DESCRIPTION_CHARACTERS;
use crate::providers::resources::{group_of, missing_subscription};

const READ: &str = "Microsoft.Authorization/roleAssignments/read";
const WRITE: &str = "Microsoft.Authorization/roleAssignments/write";
const DELETE: &str = "Microsoft.Authorization/roleAssignments/delete";
const SUFFIX: &str = "/providers/Microsoft.Authorization/roleAssignments";

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
            list::list,
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
    .map(|operation| operation.versions("roleAssignments", VERSIONS))
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
    #[serde(flatten)]
    details: Option<RoleAssignmentDetailsBody>,
    created_on: String,
    updated_on: String,
    created_by: Option<String>,
    updated_by: Option<String>,
}

/// What the oldest API versions do not show.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RoleAssignmentDetailsBody {
    condition: Option<String>,
    condition_version: Option<&'static str>,
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
    /// The object id of a service principal, a user or a group.
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
        id: resource_id(&assignment.scope, assignment.name),
        name: assignment.name.to_string(),
        kind: "Microsoft.Authorization/roleAssignments",
        properties: RoleAssignmentProperties {
            role_definition_id: super::role_definitions::id(request, assignment.role_definition_id),
            principal_id: assignment.principal_id.to_string(),
            principal_type: assignment.principal_type.clone(),
            scope: assignment.scope.clone(),
            details: has_details(request).then(|| RoleAssignmentDetailsBody {
                condition: assignment.condition.clone(),
                condition_version: assignment.condition.as_ref().map(|_| CONDITION_VERSION),
                delegated_managed_identity_resource_id: None,
                description: assignment.description.clone(),
            }),
            created_on: format_time(assignment.created_at),
            updated_on: format_time(assignment.updated_at),
            created_by: assignment.created_by.map(|id| id.to_string()),
            updated_by: assignment.updated_by.map(|id| id.to_string()),
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
    Uuid::try_parse(guid).map_err(|_| {
        ApiError::invalid(
            "InvalidRoleDefinitionId",
            format!("'{}' is not the id of a role definition.", shorten(text)),
        )
        .with_target("properties.roleDefinitionId")
    })
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.trim().is_empty())
}

/// The details that a caller wants, as far as the API version has them.
fn details(
    properties: &RoleAssignmentInputProperties,
    request: &Request,
) -> Result<Option<RoleAssignmentDetails>, ApiError> {
    let invalid = |code, member: &str, message: String| {
        ApiError::invalid(code, message).with_target(format!("properties.{member}"))
    };
    if given(&properties.delegated_managed_identity_resource_id).is_some() {
        let member = "delegatedManagedIdentityResourceId";
        let message =
            format!("The property '{member}' of a role assignment is not supported; leave it out.");
        return Err(invalid("FeatureNotSupported", member, message));
    }
    let members = [
        ("description", &properties.description),
        ("condition", &properties.condition),
        ("conditionVersion", &properties.condition_version),
    ];
    if !has_details(request) {
        // Left out silently, a condition would leave more rights than were meant.
        return match members.iter().find(|(_, text)| text.is_some()) {
            None => Ok(None),
            Some((member, _)) => Err(invalid(
                "InvalidRequestContent",
                member,
                format!(
                    "The property '{member}' of a role assignment is not in this api-version; use {}.",
                    DETAILED_VERSIONS.join(" or ")
                ),
            )),
        };
    }
    if properties
        .description
        .as_ref()
        .is_some_and(|text| text.chars().count() > MAXIMUM_ROLE_DESCRIPTION_CHARACTERS)
    {
        let message = format!(
            "The description has more than {MAXIMUM_ROLE_DESCRIPTION_CHARACTERS} characters."
        );
        return Err(invalid(
            "InvalidRoleAssignmentDescription",
            "description",
            message,
        ));
    }
    Ok(Some(RoleAssignmentDetails {
        description: properties.description.clone(),
        condition: condition(properties)?,
    }))
}

/// The condition, of which only null and nothing at all are none: a blank one taken for none would give more than was meant.
fn condition(properties: &RoleAssignmentInputProperties) -> Result<Option<Condition>, ApiError> {
    let wrong_version = |message: String| {
        ApiError::invalid("InvalidConditionVersion", message)
            .with_target("properties.conditionVersion")
    };
    match (&properties.condition, &properties.condition_version) {
        (_, Some(version)) if version != CONDITION_VERSION => Err(wrong_version(format!(
            "The condition version '{}' is not supported: it must be '{CONDITION_VERSION}'.",
            shorten(version)
        ))),
        (None, Some(_)) => Err(wrong_version(
            "There is a condition version and no condition; give both, or neither.".to_owned(),
        )),
        (None, None) => Ok(None),
        (Some(text), _) => Condition::parse(text).map(Some).map_err(|error| {
            ApiError::invalid(
                "InvalidCondition",
                format!("The role assignment's condition was refused: {error}."),
            )
            .with_target("properties.condition")
        }),
    }
}

/// What a caller takes a principal for.
fn principal_kind(text: &Option<String>) -> Result<Option<PrincipalKind>, ApiError> {
    let Some(text) = given(text) else {
        return Ok(None);
    };
    PrincipalKind::ALL
        .into_iter()
        .find(|kind| kind.as_str().eq_ignore_ascii_case(text))
        .map(Some)
        .ok_or_else(|| {
            let kinds = PrincipalKind::ALL.map(PrincipalKind::as_str).join(", ");
            ApiError::invalid(
                "UnsupportedPrincipalType",
                format!("The principal type '{}' is not supported: principals are of the types {kinds}.", shorten(text)),
            )
            .with_target("properties.principalType")
        })
}

/// What a caller wants to assign, checked as far as it can be without the database.
fn wanted(
    properties: &RoleAssignmentInputProperties,
    request: &Request,
) -> Result<NewRoleAssignment, ApiError> {
    let name = assignment_name(request)?;
    let (scope, scope_row) = scope_of(request)?;
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
    Ok(NewRoleAssignment {
        name,
        scope,
        scope_row,
        principal_id,
        principal_kind: principal_kind(&properties.principal_type)?,
        role_definition_id: role_of(&properties.role_definition_id)?,
        details: details(properties, request)?,
        now: request.now,
        caller_id: request.caller().object_id,
    })
}

/// A condition has to restrict something that the role allows, or whoever set it would be mistaken about what it gives away.
async fn check_condition(app: &App, wanted: &NewRoleAssignment) -> Result<(), ApiError> {
    let details = wanted.details.as_ref();
    let Some(condition) = details.and_then(|details| details.condition.as_ref()) else {
        return Ok(());
    };
    let id = wanted.role_definition_id;
    let custom;
    let role = match built_in_role(id) {
        Some(role) => Some(role),
        None => {
            let found = app.store.role_definition_get(id).await;
            custom = found.map_err(store_error)?.map(|role| role.definition);
            custom.as_ref()
        }
    };
    match role {
        Some(role) if !condition.restricts(role) => Err(ApiError::invalid(
            "InvalidCondition",
            format!(
                "The role assignment's condition was refused: the role '{}' allows none of the data actions that it names, so it would restrict nothing. Leave the condition out, or assign a role with data actions, such as 'Container Registry Repository Reader'.",
                role.role_name
            ),
        )
        .with_target("properties.condition")),
        // A role that is not there is refused by what follows.
        _ => Ok(()),
    }
}

async fn put(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let input: RoleAssignmentInput = request.json()?;
    let wanted = wanted(&input.properties, &request)?;
    check_condition(&app, &wanted).await?;
    match app
        .store
        .role_assignment_put(&wanted)
        .await
        .map_err(store_error)?
    {
        RoleAssignmentPut::Created(assignment, published) => Ok(Answer::json(
            StatusCode::CREATED,
            &body(&request, &assignment),
        )?
        .published(Some(published))),
        RoleAssignmentPut::Existing(assignment, published) => {
            // The oldest versions know 201 only.
            let status = if has_details(&request) {
                StatusCode::OK
            } else {
                StatusCode::CREATED
            };
            Ok(Answer::json(status, &body(&request, &assignment))?.published(published))
        }
        refused => Err(refusal(&app, &wanted, &refused)),
    }
}

/// Why an assignment cannot be.
fn refusal(app: &App, wanted: &NewRoleAssignment, outcome: &RoleAssignmentPut) -> ApiError {
    let (principal, role) = (wanted.principal_id, wanted.role_definition_id);
    match outcome {
        RoleAssignmentPut::Duplicate(existing) => ApiError::conflict(
            "RoleAssignmentExists",
            format!(
                "The role assignment already exists. The ID of the existing role assignment is {}.",
                existing.simple()
            ),
        ),
        RoleAssignmentPut::NameTaken => ApiError::invalid(
            "RoleAssignmentUpdateNotPermitted",
            "Tenant ID, application ID, principal ID, and scope are not allowed to be updated.",
        ),
        RoleAssignmentPut::PrincipalNotFound => ApiError::invalid(
            "PrincipalNotFound",
            format!(
                "Principal {} was not found in the directory {}. Check that you have the correct object ID of the principal, not its application ID.",
                principal.simple(),
                app.installation.tenant_id
            ),
        )
        .with_target("properties.principalId"),
        RoleAssignmentPut::OtherPrincipalKind(kind) => ApiError::invalid(
            "UnmatchedPrincipalType",
            format!(
                "The PrincipalId '{}' has type '{}', which is different from specified PrincipalType '{}'.",
                principal.simple(),
                kind.as_str(),
                wanted.principal_kind.map_or("", PrincipalKind::as_str)
            ),
        )
        .with_target("properties.principalType"),
        RoleAssignmentPut::RoleNotFound => ApiError::invalid(
            "RoleDefinitionDoesNotExist",
            format!("The specified role definition with ID '{role}' does not exist."),
        )
        .with_target("properties.roleDefinitionId"),
        RoleAssignmentPut::RoleNotAssignable => ApiError::invalid(
            "RoleDefinitionNotAssignableAtScope",
            format!(
                "The role definition with ID '{role}' cannot be assigned at the scope '{}': none of its assignable scopes is that scope or above it.",
                wanted.scope
            ),
        )
        .with_target("properties.roleDefinitionId"),
        _ => ApiError::not_found(
            "ResourceNotFound",
            format!("The scope '{}' was deleted meanwhile.", wanted.scope),
        ),
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
    let outcome = app
        .store
        .role_assignment_delete(scope.key(), name)
        .await
        .map_err(store_error)?;
    match outcome {
        RoleAssignmentDeletion::Deleted(assignment, published) => {
            Ok(Answer::ok(&body(&request, &assignment))?.published(Some(published)))
        }
        RoleAssignmentDeletion::NotFound => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        RoleAssignmentDeletion::LastOwner => Err(ApiError::new(
            Kind::Forbidden,
            "CannotDeleteLastRbacAdminAssignment",
            format!(
                "Cannot delete the last RBAC admin assignment: nobody would be Owner of '{scope}'. Assign the role to somebody else first."
            ),
        )),
    }
}
