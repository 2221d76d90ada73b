//! Custom roles: create, change, delete.
//!
//! Whoever writes one needs the right at each of its assignable scopes, those that it had and those that it gets: the role means something
//! at all of them.

use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use arm::{ApiError, ErrorDetail, Kind};
use rbac::{ActionPattern, Permission, RoleDefinition, RoleKind, Scope};
use serde::Deserialize;
use serde_json::Value;
use store::role_definitions::{CustomRole, RoleDefinitionDeletion, RoleDefinitionPut};
use utoipa::ToSchema;
use uuid::Uuid;

use super::provider_operations::{Fit, fit};
use super::role_definitions::{
    RESOURCE_TYPE, RoleDefinitionBody, SUFFIX, at_scope, custom_body, id_of, not_found, scope_of,
};
use super::{SCOPES, VERSIONS, has_data_actions, operation_id, shorten};
use crate::App;
use crate::front_door::{Answer, Operation, PathScope, Request, built_in_role, store_error};
use crate::limits::{
    MAXIMUM_ASSIGNABLE_SCOPES, MAXIMUM_CUSTOM_ROLES, MAXIMUM_ROLE_DESCRIPTION_CHARACTERS,
    MAXIMUM_ROLE_NAME_CHARACTERS, MAXIMUM_ROLE_PATTERN_CHARACTERS, MAXIMUM_ROLE_PATTERNS,
};
use crate::providers::Visibility;

const WRITE: &str = "Microsoft.Authorization/roleDefinitions/write";
const DELETE: &str = "Microsoft.Authorization/roleDefinitions/delete";

/// How often a PUT or DELETE reads again and repeats when somebody else changed the role meanwhile.
const ATTEMPTS: usize = 5;

pub(super) fn operations() -> Vec<Operation> {
    SCOPES
        .iter()
        .flat_map(|(scope, word, path)| at(*scope, word, path))
        .collect()
}

fn at(scope: PathScope, word: &str, path: &str) -> [Operation; 2] {
    let path = format!("{path}{SUFFIX}/{{roleDefinitionId}}");
    [
        Operation::new(
            operation_id("RoleDefinitions_CreateOrUpdateAt", word),
            Method::PUT,
            &path,
            at_scope(WRITE, scope),
            "Creates or changes a custom role; in force at every live node when this returns.",
            put,
        )
        .takes::<RoleDefinitionInput>()
        .answers::<RoleDefinitionBody>(201),
        Operation::new(
            operation_id("RoleDefinitions_DeleteAt", word),
            Method::DELETE,
            &path,
            at_scope(DELETE, scope),
            "Deletes a custom role that nobody holds.",
            delete,
        )
        .answers::<RoleDefinitionBody>(200)
        .answers_empty(204),
    ]
    .map(|operation| operation.versions(RESOURCE_TYPE, VERSIONS))
}

/// A custom role as clients send it; what the service sets may be sent back and changes nothing.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RoleDefinitionInput {
    properties: RoleDefinitionInputProperties,
    #[serde(rename = "id")]
    _id: Option<Value>,
    #[serde(rename = "name")]
    _name: Option<Value>,
    #[serde(rename = "type")]
    _kind: Option<Value>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RoleDefinitionInputProperties {
    role_name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    description: Option<String>,
    assignable_scopes: Option<Vec<String>>,
    permissions: Option<Vec<PermissionInput>>,
    #[serde(rename = "createdOn")]
    _created_on: Option<Value>,
    #[serde(rename = "updatedOn")]
    _updated_on: Option<Value>,
    #[serde(rename = "createdBy")]
    _created_by: Option<Value>,
    #[serde(rename = "updatedBy")]
    _updated_by: Option<Value>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PermissionInput {
    actions: Option<Vec<String>>,
    not_actions: Option<Vec<String>>,
    data_actions: Option<Vec<String>>,
    not_data_actions: Option<Vec<String>>,
    #[serde(rename = "condition")]
    condition: Option<Value>,
    #[serde(rename = "conditionVersion")]
    _condition_version: Option<Value>,
}

/// Collects all faults of an input.
#[derive(Default)]
struct Faults(Vec<ErrorDetail>);

impl Faults {
    fn add(&mut self, code: &str, target: &str, message: impl Into<String>) {
        let fault = ErrorDetail::new(code, message, format!("properties.{target}"));
        self.0.push(fault);
    }
}

/// The role that a caller wants, checked as far as it can be without the database.
fn wanted(
    input: RoleDefinitionInputProperties,
    request: &Request,
    id: Uuid,
) -> Result<CustomRole, ApiError> {
    let mut faults = Faults::default();
    if let Some(kind) = &input.kind
        && !kind.eq_ignore_ascii_case(RoleKind::Custom.as_str())
    {
        let message = format!(
            "The type '{}' is invalid: roles that are made have the type 'CustomRole'.",
            shorten(kind)
        );
        faults.add("InvalidRoleDefinitionType", "type", message);
    }
    let role_name = role_name(input.role_name, &mut faults);
    let description = input.description.unwrap_or_default();
    if description.chars().count() > MAXIMUM_ROLE_DESCRIPTION_CHARACTERS {
        let message = format!(
            "The description has more than {MAXIMUM_ROLE_DESCRIPTION_CHARACTERS} characters."
        );
        faults.add("InvalidRoleDefinitionDescription", "description", message);
    }
    let assignable_scopes =
        assignable_scopes(&input.assignable_scopes.unwrap_or_default(), &mut faults);
    if let Some(scope) = scope_of(request)
        && !assignable_scopes.is_empty()
        && !assignable_scopes
            .iter()
            .any(|assignable| assignable.contains(&scope) || scope.contains(assignable))
    {
        let message = format!(
            "The scope of the request, '{scope}', has nothing to do with any of the assignable scopes."
        );
        faults.add("InvalidAssignableScopes", "assignableScopes", message);
    }
    let permissions = permissions(&input.permissions.unwrap_or_default(), request, &mut faults);
    if !faults.0.is_empty() {
        return Err(ApiError::from_faults(faults.0));
    }
    let caller = Some(request.caller().object_id);
    Ok(CustomRole {
        definition: RoleDefinition {
            id,
            role_name,
            description,
            kind: RoleKind::Custom,
            permissions,
            assignable_scopes,
        },
        created_at: request.now,
        created_by: caller,
        updated_at: request.now,
        updated_by: caller,
    })
}

fn role_name(given: Option<String>, faults: &mut Faults) -> String {
    let name = given.unwrap_or_default().trim().to_owned();
    if name.is_empty() || name.chars().count() > MAXIMUM_ROLE_NAME_CHARACTERS {
        let message = format!(
            "The role name is required, and has at most {MAXIMUM_ROLE_NAME_CHARACTERS} characters."
        );
        faults.add("InvalidRoleDefinitionName", "roleName", message);
    } else if name.chars().any(char::is_control) {
        faults.add(
            "InvalidRoleDefinitionName",
            "roleName",
            "The role name contains control characters.",
        );
    } else if Uuid::try_parse(&name).is_ok() {
        // Clients take a GUID for the id of a role, and would never find this one.
        faults.add(
            "InvalidRoleDefinitionName",
            "roleName",
            "The role name is a GUID, as ids of roles are.",
        );
    }
    name
}

fn assignable_scopes(given: &[String], faults: &mut Faults) -> Vec<Scope> {
    const TARGET: &str = "assignableScopes";
    if given.is_empty() || given.len() > MAXIMUM_ASSIGNABLE_SCOPES {
        let message = format!(
            "A custom role has between 1 and {MAXIMUM_ASSIGNABLE_SCOPES} assignable scopes."
        );
        faults.add("InvalidAssignableScopes", TARGET, message);
        return Vec::new();
    }
    let mut scopes: Vec<Scope> = Vec::new();
    for text in given {
        match Scope::parse(text) {
            Err(error) => faults.add("InvalidAssignableScopes", TARGET, format!("{error}.")),
            Ok(scope) if parts(&scope).is_none() => faults.add(
                "InvalidAssignableScopes",
                TARGET,
                format!("'{scope}' cannot be an assignable scope: subscriptions, resource groups and registries can."),
            ),
            Ok(scope) if scopes.contains(&scope) => {}
            Ok(scope) => scopes.push(scope),
        }
    }
    scopes
}

/// What a scope at which roles can be assigned is made of.
struct Parts<'a> {
    subscription_id: Uuid,
    resource_group_key: Option<&'a str>,
    registry_key: Option<&'a str>,
}

fn parts(scope: &Scope) -> Option<Parts<'_>> {
    let segments: Vec<&str> = scope.key().split('/').skip(1).collect();
    let (subscription, resource_group_key, registry_key) = match segments.as_slice() {
        ["subscriptions", id] => (id, None, None),
        ["subscriptions", id, "resourcegroups", group] => (id, Some(*group), None),
        [
            "subscriptions",
            id,
            "resourcegroups",
            group,
            "providers",
            "microsoft.containerregistry",
            "registries",
            registry,
        ] => (id, Some(*group), Some(*registry)),
        _ => return None,
    };
    Some(Parts {
        subscription_id: crate::front_door::hyphenated(subscription)?,
        resource_group_key,
        registry_key,
    })
}

fn permissions(
    given: &[PermissionInput],
    request: &Request,
    faults: &mut Faults,
) -> Vec<Permission> {
    const TARGET: &str = "permissions";
    let patterns = given.iter().map(|permission| {
        let lists = [
            &permission.actions,
            &permission.not_actions,
            &permission.data_actions,
            &permission.not_data_actions,
        ];
        lists
            .iter()
            .map(|list| list.as_ref().map_or(0, Vec::len))
            .sum::<usize>()
    });
    let count: usize = patterns.sum();
    if count == 0 || count > MAXIMUM_ROLE_PATTERNS {
        let message = format!("A custom role names between 1 and {MAXIMUM_ROLE_PATTERNS} actions.");
        faults.add("InvalidPermissions", TARGET, message);
        return Vec::new();
    }
    let mut permissions = Vec::with_capacity(given.len());
    for permission in given {
        if permission
            .condition
            .as_ref()
            .is_some_and(|condition| !condition.is_null())
        {
            let message = "A condition within a role definition is not supported; leave it out, or give the role assignment one.";
            faults.add("FeatureNotSupported", TARGET, message);
        }
        let has_data = permission.data_actions.is_some() || permission.not_data_actions.is_some();
        if has_data && !has_data_actions(request) {
            let message = format!(
                "Data actions are not in this api-version; use {}.",
                VERSIONS[..3].join(", ")
            );
            faults.add("InvalidRequestContent", TARGET, message);
        }
        permissions.push(Permission {
            actions: patterns_of(&permission.actions, "actions", false, faults),
            not_actions: patterns_of(&permission.not_actions, "notActions", false, faults),
            data_actions: patterns_of(&permission.data_actions, "dataActions", true, faults),
            not_data_actions: patterns_of(
                &permission.not_data_actions,
                "notDataActions",
                true,
                faults,
            ),
        });
    }
    permissions
}

fn patterns_of(
    given: &Option<Vec<String>>,
    list: &str,
    is_data: bool,
    faults: &mut Faults,
) -> Vec<ActionPattern> {
    let mut patterns = Vec::new();
    for text in given.as_deref().unwrap_or_default() {
        let target = format!("permissions.{list}");
        let shown = shorten(text);
        let pattern = match ActionPattern::parse(text) {
            Ok(pattern) if text.chars().count() <= MAXIMUM_ROLE_PATTERN_CHARACTERS => pattern,
            Ok(_) => {
                let message = format!(
                    "'{shown}' has more than {MAXIMUM_ROLE_PATTERN_CHARACTERS} characters."
                );
                faults.add("InvalidActionOrNotAction", &target, message);
                continue;
            }
            Err(error) => {
                faults.add("InvalidActionOrNotAction", &target, format!("{error}."));
                continue;
            }
        };
        match fit(&pattern, is_data) {
            Fit::Named | Fit::Foreign => patterns.push(pattern),
            Fit::OtherKind => {
                let message = if is_data {
                    format!(
                        "'{shown}' names no data action; it belongs into actions or notActions."
                    )
                } else {
                    format!(
                        "'{shown}' names data actions only; it belongs into dataActions or notDataActions."
                    )
                };
                faults.add("InvalidActionOrNotAction", &target, message);
            }
            Fit::Nothing => {
                let message = format!(
                    "'{shown}' does not match any of the actions supported by the providers."
                );
                faults.add("InvalidActionOrNotAction", &target, message);
            }
        }
    }
    patterns
}

/// Refuses a caller who lacks the right at one of the scopes.
fn check_rights(
    visibility: &Visibility,
    request: &Request,
    scopes: &[Scope],
    action: &'static str,
) -> Result<(), ApiError> {
    let lacking: Vec<&str> = scopes
        .iter()
        .map(Scope::as_str)
        .filter(|scope| !visibility.allows(scope, action))
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let caller = request.caller();
    Err(ApiError::new(
        Kind::Forbidden,
        "LinkedAuthorizationFailed",
        format!(
            "The client '{}' with object id '{}' does not have permission to perform action '{action}' on the linked scope(s) '{}', which are assignable scopes of the role.",
            caller.name,
            caller.object_id,
            lacking.join("', '")
        ),
    )
    .with_target("properties.assignableScopes"))
}

/// Refuses assignable scopes that name nothing: a role with a misspelt one could never be assigned there.
async fn check_scopes_exist(app: &App, scopes: &[Scope]) -> Result<(), ApiError> {
    for scope in scopes {
        let exists = match parts(scope) {
            None => false,
            Some(parts) => app
                .store
                .scope_exists(
                    parts.subscription_id,
                    parts.resource_group_key,
                    parts.registry_key,
                )
                .await
                .map_err(store_error)?,
        };
        if !exists {
            let message = format!("The assignable scope '{scope}' does not exist.");
            return Err(ApiError::invalid("InvalidAssignableScopes", message)
                .with_target("properties.assignableScopes"));
        }
    }
    Ok(())
}

fn refuse_built_in(id: Uuid) -> Result<(), ApiError> {
    match built_in_role(id) {
        None => Ok(()),
        Some(role) => Err(ApiError::invalid(
            "BuiltInRoleCannotBeChanged",
            format!(
                "The role definition '{id}' is the built-in role '{}', which cannot be changed or deleted.",
                role.role_name
            ),
        )),
    }
}

async fn put(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let input: RoleDefinitionInput = request.json()?;
    let id = crate::front_door::hyphenated(request.parameter("roleDefinitionId")).ok_or_else(|| {
        let text = shorten(request.parameter("roleDefinitionId"));
        let message = format!("The role definition ID '{text}' is not valid. The role definition ID must be a GUID.");
        ApiError::invalid("InvalidRoleDefinitionId", message).with_target("roleDefinitionId")
    })?;
    refuse_built_in(id)?;
    let role = wanted(input.properties, &request, id)?;
    let definition = &role.definition;
    if rbac::built_in_roles()
        .iter()
        .any(|built_in| same_name(&built_in.role_name, &definition.role_name))
    {
        return Err(name_in_use(definition));
    }
    let visibility = Visibility::load(&app, &request).await?;
    check_rights(&visibility, &request, &definition.assignable_scopes, WRITE)?;
    check_scopes_exist(&app, &definition.assignable_scopes).await?;
    for _ in 0..ATTEMPTS {
        let before = app
            .store
            .role_definition_get(id)
            .await
            .map_err(store_error)?;
        if let Some(before) = &before {
            check_rights(
                &visibility,
                &request,
                &before.definition.assignable_scopes,
                WRITE,
            )?;
            check_data_actions_kept(before, &request)?;
        }
        let outcome = app
            .store
            .role_definition_put(&role, before.as_ref(), MAXIMUM_CUSTOM_ROLES)
            .await
            .map_err(store_error)?;
        match outcome {
            RoleDefinitionPut::Created(role, published) => {
                return Ok(shown(&request, &role)?.published(Some(published)));
            }
            RoleDefinitionPut::Updated(role, published) => {
                return Ok(shown(&request, &role)?.published(published));
            }
            RoleDefinitionPut::Stale => {}
            refused => return Err(refusal(definition, &refused)),
        }
    }
    Err(concurrent(id))
}

/// A version without data actions would take them all away.
fn check_data_actions_kept(before: &CustomRole, request: &Request) -> Result<(), ApiError> {
    let has_some = before.definition.permissions.iter().any(|permission| {
        !permission.data_actions.is_empty() || !permission.not_data_actions.is_empty()
    });
    if has_some && !has_data_actions(request) {
        return Err(ApiError::invalid(
            "InvalidRequestContent",
            format!(
                "The role has data actions, which this api-version cannot say; use {}.",
                VERSIONS[..3].join(", ")
            ),
        ));
    }
    Ok(())
}

fn shown(request: &Request, role: &CustomRole) -> Result<Answer, ApiError> {
    Answer::json(StatusCode::CREATED, &custom_body(request, role))
}

fn same_name(one: &str, other: &str) -> bool {
    arm::canonical_key(one) == arm::canonical_key(other)
}

fn name_in_use(definition: &RoleDefinition) -> ApiError {
    ApiError::conflict(
        "RoleDefinitionWithSameNameExists",
        format!(
            "A role with the name '{}' already exists in this directory. Use a different name.",
            definition.role_name
        ),
    )
    .with_target("properties.roleName")
}

fn concurrent(id: Uuid) -> ApiError {
    ApiError::conflict(
        "ConcurrentChange",
        format!(
            "The role definition '{id}' is being changed by others at the same time. Repeat the request."
        ),
    )
}

fn refusal(definition: &RoleDefinition, outcome: &RoleDefinitionPut) -> ApiError {
    match outcome {
        RoleDefinitionPut::NameInUse => name_in_use(definition),
        RoleDefinitionPut::AssignedAt(scope) => ApiError::invalid(
            "RoleDefinitionHasAssignments",
            format!(
                "The assignable scopes cannot be narrowed so far: the role is assigned at '{scope}'. Delete that assignment first."
            ),
        )
        .with_target("properties.assignableScopes"),
        RoleDefinitionPut::TooMany => ApiError::invalid(
            "RoleDefinitionLimitExceeded",
            format!("No more role definitions can be created: there are {MAXIMUM_CUSTOM_ROLES} custom roles."),
        ),
        _ => concurrent(definition.id),
    }
}

async fn delete(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let id = id_of(&request).ok_or_else(|| not_found(&request))?;
    refuse_built_in(id)?;
    let visibility = Visibility::load(&app, &request).await?;
    for _ in 0..ATTEMPTS {
        let before = app
            .store
            .role_definition_get(id)
            .await
            .map_err(store_error)?;
        let Some(before) = before else {
            return Ok(Answer::empty(StatusCode::NO_CONTENT));
        };
        check_rights(
            &visibility,
            &request,
            &before.definition.assignable_scopes,
            DELETE,
        )?;
        match app
            .store
            .role_definition_delete(&before)
            .await
            .map_err(store_error)?
        {
            RoleDefinitionDeletion::Deleted(role, published) => {
                return Ok(Answer::ok(&custom_body(&request, &role))?.published(Some(published)));
            }
            RoleDefinitionDeletion::NotFound => return Ok(Answer::empty(StatusCode::NO_CONTENT)),
            RoleDefinitionDeletion::InUse { count, scope } => {
                return Err(ApiError::invalid(
                    "RoleDefinitionHasAssignments",
                    format!(
                        "There are existing role assignments referencing role '{}': {count}, one of them at '{scope}'. Delete them first.",
                        before.definition.role_name
                    ),
                ));
            }
            RoleDefinitionDeletion::Stale => {}
        }
    }
    Err(concurrent(id))
}
