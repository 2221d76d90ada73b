//! Registries: create, show, list, change, delete.

use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use arm::{ApiError, ApiVersion, ETag, Kind, SystemData, Tags};
use config_documents::{AdminPasswordSlot, RoleAssignmentMode};
use credentials::{SecretKind, Verifier};
use store::registries::{
    Registry, RegistryCreate, RegistryUpdate, RetentionPolicy, SealedPassword,
};
use uuid::Uuid;

use super::READ;
use super::credentials::seal;
use super::model::{RegistryBody, RegistryList};
use super::retention;
use super::validation::{RegistryInput, check, check_sku_has};
use super::versions::{VERSIONS, has};
use crate::App;
use crate::front_door::{Access, Answer, Operation, PathScope, Request, store_error};
use crate::providers::resources::{check_place_of_list, group_of, known_location};
use crate::providers::{Visibility, is_full, page, page_size};

pub(super) const PATH: &str = "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.ContainerRegistry/registries/{registryName}";
const LIST_PATH: &str =
    "/subscriptions/{subscriptionId}/providers/Microsoft.ContainerRegistry/registries";
const GROUP_LIST_PATH: &str = "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.ContainerRegistry/registries";
const WRITE: &str = "Microsoft.ContainerRegistry/registries/write";
const DELETE: &str = "Microsoft.ContainerRegistry/registries/delete";

/// How often a PATCH or PUT reads again and repeats when somebody else changed the registry meanwhile.
const ATTEMPTS: usize = 5;

pub(super) fn at_registry(action: &'static str) -> Access {
    Access::Action {
        action,
        scope: PathScope::Resource,
    }
}

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            "Registries_List",
            Method::GET,
            LIST_PATH,
            Access::FilteredList(READ),
            "Lists the registries of a subscription that the caller may read.",
            list,
        )
        .query(&["$top", "$skiptoken"])
        .answers::<RegistryList>(200),
        Operation::new(
            "Registries_ListByResourceGroup",
            Method::GET,
            GROUP_LIST_PATH,
            Access::FilteredList(READ),
            "Lists the registries of a resource group that the caller may read.",
            list,
        )
        .query(&["$top", "$skiptoken"])
        .answers::<RegistryList>(200),
        Operation::new(
            "Registries_Get",
            Method::GET,
            PATH,
            at_registry(READ),
            "Shows a registry.",
            get,
        )
        .answers::<RegistryBody>(200),
        Operation::new(
            "Registries_Create",
            Method::PUT,
            PATH,
            at_registry(WRITE),
            "Creates a registry, or replaces its settings.",
            put,
        )
        .takes::<RegistryInput>()
        .answers::<RegistryBody>(200)
        .answers::<RegistryBody>(201),
        Operation::new(
            "Registries_Update",
            Method::PATCH,
            PATH,
            at_registry(WRITE),
            "Changes a registry's settings.",
            patch,
        )
        .takes::<RegistryInput>()
        .answers::<RegistryBody>(200),
        Operation::new(
            "Registries_Delete",
            Method::DELETE,
            PATH,
            at_registry(DELETE),
            "Deletes a registry with its content, credentials and role assignments.",
            delete,
        )
        .answers_empty(200)
        .answers_empty(204),
    ]
    .into_iter()
    .map(|operation| operation.versions("registries", VERSIONS))
    .collect()
}

/// The registry that the path names.
///
/// # Errors
/// 404 naming the subscription, group or registry that is not there.
pub(super) fn registry_of(request: &Request) -> Result<&Registry, ApiError> {
    let group = group_of(request)?;
    request
        .facts
        .as_ref()
        .and_then(|facts| facts.registry.as_ref())
        .ok_or_else(|| missing(request.parameter("registryName"), &group.name))
}

fn missing(name: &str, group: &str) -> ApiError {
    ApiError::not_found(
        "ResourceNotFound",
        format!(
            "The Resource 'Microsoft.ContainerRegistry/registries/{name}' under resource group '{group}' was not found."
        ),
    )
}

/// The request's API version, which the front door checked against [`VERSIONS`].
pub(super) fn version(request: &Request) -> Result<&ApiVersion, ApiError> {
    request
        .api_version
        .as_ref()
        .ok_or_else(|| ApiError::internal("the operation declares its versions"))
}

/// Names one state of one registry: a registry made anew under the same name counts its changes from 1 again.
fn etag(registry: &Registry) -> ETag {
    ETag(format!("{}-{}", registry.uid.simple(), registry.generation))
}

fn shown(registry: &Registry, request: &Request, status: StatusCode) -> Result<Answer, ApiError> {
    let body = RegistryBody::of(registry, version(request)?);
    Ok(Answer::json(status, &body)?.header("ETag", etag(registry).to_string()))
}

fn check_precondition(request: &Request, current: Option<&Registry>) -> Result<(), ApiError> {
    request
        .precondition()
        .check(current.map(etag).as_ref())
        .map_err(|failed| {
            ApiError::new(
                Kind::PreconditionFailed,
                "PreconditionFailed",
                failed.to_string(),
            )
        })
}

/// Names are 5 to 50 letters and digits (arm-contract: R54, N1): they become a label of a host name.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if (5..=50).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        Ok(())
    } else {
        let name: String = name.chars().take(100).collect();
        Err(format!(
            "The registry name '{name}' is invalid: registry names have 5 to 50 characters and contain only letters and digits."
        ))
    }
}

/// What a name's login server is, or would be.
pub(super) fn login_server(app: &App, name: &str) -> String {
    format!(
        "{}{}",
        name.to_ascii_lowercase(),
        app.installation.login_server_suffix
    )
}

async fn get(_app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    shown(registry_of(&request)?, &request, StatusCode::OK)
}

async fn list(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let group = request
        .parameters
        .iter()
        .find(|(name, _)| name == "resourceGroupName")
        .map(|(_, name)| arm::canonical_key(name));
    let subscription_id = Uuid::try_parse(request.parameter("subscriptionId")).unwrap_or_default();
    let limit = page_size(&request)?;
    let visibility = Visibility::load(&app, &request).await?;
    check_place_of_list(&request, &visibility)?;
    let after = request.query("$skiptoken").unwrap_or_default();
    let registries = app
        .store
        .registry_list(subscription_id, group.as_deref(), after, limit)
        .await
        .map_err(store_error)?;
    let token = registries
        .last()
        .map(|registry| arm::canonical_key(&registry.name));
    let version = version(&request)?;
    let value = registries
        .iter()
        .filter(|registry| visibility.allows(registry.id().as_str(), READ))
        .map(|registry| serde_json::to_value(RegistryBody::of(registry, version)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(ApiError::internal)?;
    let is_full = is_full(registries.len(), limit);
    Answer::ok(&page(&app, &request, token.filter(|_| is_full), value))
}

async fn put(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let name = request.parameter("registryName");
    check_name(name)
        .map_err(|message| ApiError::invalid("InvalidResourceName", message).with_target("name"))?;
    let input: RegistryInput = request.json()?;
    let group = group_of(&request)?;
    let typed = input
        .location
        .as_deref()
        .filter(|location| !location.trim().is_empty())
        .ok_or_else(|| {
            ApiError::invalid(
                "LocationRequired",
                "The location property is required for this definition.",
            )
            .with_target("location")
        })?;
    let location = known_location(&app, typed, "Microsoft.ContainerRegistry/registries").await?;
    let mut existing = request
        .facts
        .as_ref()
        .and_then(|facts| facts.registry.clone());
    if existing.is_none() {
        check_precondition(&request, None)?;
        if let Some(answer) = create(&app, &request, &input, location.as_str()).await? {
            return Ok(answer);
        }
        // The name is taken: by another PUT of this very registry that came first, or by a registry elsewhere.
        let key = arm::canonical_key(name);
        existing = app
            .store
            .registry_get(group.uid, &key)
            .await
            .map_err(store_error)?;
    }
    let existing = existing.ok_or_else(|| name_in_use(name))?;
    if existing.location != location.as_str() {
        return Err(ApiError::conflict(
            "InvalidResourceLocation",
            format!(
                "The resource '{}' already exists in location '{}' in resource group '{}'. A resource with the same name cannot be created in location '{location}'. Please select a new resource name.",
                existing.name, existing.location, group.name
            ),
        )
        .with_target("location"));
    }
    replace(&app, &request, &input, existing, Manner::Replace).await
}

fn name_in_use(name: &str) -> ApiError {
    ApiError::conflict(
        "RegistryNameAlreadyInUse",
        format!(
            "The registry name {name} is already in use. You can check if the name is already claimed with the operation checkNameAvailability."
        ),
    )
    .with_target("name")
}

/// Creates the registry; `None` when its name is taken.
async fn create(
    app: &Arc<App>,
    request: &Request,
    input: &RegistryInput,
    location: &str,
) -> Result<Option<Answer>, ApiError> {
    let group = group_of(request)?;
    let name = request.parameter("registryName");
    let caller = request.caller();
    let mut registry = Registry {
        uid: Uuid::now_v7(),
        subscription_id: group.subscription_id,
        resource_group_name: group.name.clone(),
        name: name.to_owned(),
        login_server: login_server(app, name),
        location: location.to_owned(),
        sku: String::new(),
        tags: Tags::default(),
        admin_user_enabled: false,
        role_assignment_mode: RoleAssignmentMode::LegacyRegistryPermissions,
        anonymous_pull_enabled: false,
        retention: RetentionPolicy::default(),
        system_data: SystemData {
            created_by: caller.name.clone(),
            created_by_type: caller.created_by_type(),
            created_at: request.now,
            last_modified_by: caller.name.clone(),
            last_modified_by_type: caller.created_by_type(),
            last_modified_at: request.now,
        },
        generation: 1,
    };
    let wanted = check(input, &registry, version(request)?)?;
    registry.sku = wanted.sku.ok_or_else(sku_required)?.to_owned();
    registry.tags = wanted.tags.unwrap_or_default();
    registry.admin_user_enabled = wanted.admin_user_enabled.unwrap_or_default();
    if let Some(mode) = wanted.role_assignment_mode {
        registry.role_assignment_mode = mode;
    }
    registry.anonymous_pull_enabled = wanted.anonymous_pull_enabled.unwrap_or_default();
    if let Some(wanted) = wanted.retention {
        registry.retention = wanted.applied_to(&registry.retention, true);
    }
    check_sku_has(&registry)?;
    let passwords = AdminPasswordSlot::ALL.map(|slot| new_password(app, registry.uid, slot));
    match app
        .store
        .registry_create(&registry, group.uid, &passwords)
        .await
        .map_err(store_error)?
    {
        RegistryCreate::Created(published) => {
            let answer = shown(&registry, request, StatusCode::CREATED)?;
            Ok(Some(answer.published(Some(published))))
        }
        RegistryCreate::NameInUse => Ok(None),
        RegistryCreate::GroupNotFound => Err(ApiError::not_found(
            "ResourceGroupNotFound",
            format!("Resource group '{}' could not be found.", group.name),
        )),
    }
}

/// A new password for a slot: sealed, bound to its row, and as a verifier.
pub(super) fn new_password(app: &App, registry: Uuid, slot: AdminPasswordSlot) -> SealedPassword {
    let secret = credentials::generate(SecretKind::AdminPassword, app.randomness.as_ref());
    SealedPassword {
        slot,
        sealed: seal(app, registry, slot, &secret),
        verifier: Verifier::of(&secret, app.randomness.as_ref()),
        last_used_at: None,
    }
}

fn sku_required() -> ApiError {
    ApiError::invalid("SkuRequired", "The sku property is required for this definition: {\"name\": \"Basic\"}, \"Standard\" or \"Premium\".")
        .with_target("sku")
}

/// Whether what a client left out goes back to its default (PUT) or stays (PATCH).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Replace,
    Merge,
}

async fn patch(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let input: RegistryInput = request.json()?;
    let existing = registry_of(&request)?.clone();
    replace(&app, &request, &input, existing, Manner::Merge).await
}

async fn replace(
    app: &Arc<App>,
    request: &Request,
    input: &RegistryInput,
    mut existing: Registry,
    manner: Manner,
) -> Result<Answer, ApiError> {
    for _ in 0..ATTEMPTS {
        check_precondition(request, Some(&existing))?;
        let changed = merged(request, input, &existing, manner)?;
        if unchanged(&existing, &changed) {
            return shown(&existing, request, StatusCode::OK);
        }
        let outcome = app
            .store
            .registry_update(&changed, &existing)
            .await
            .map_err(store_error)?;
        if let RegistryUpdate::Updated(published) = outcome {
            return Ok(shown(&changed, request, StatusCode::OK)?.published(published));
        }
        existing = reread(app, request).await?;
    }
    Err(ApiError::conflict(
        "ConcurrentChange",
        format!(
            "The registry '{}' is being changed by others at the same time. Repeat the request.",
            existing.name
        ),
    ))
}

fn merged(
    request: &Request,
    input: &RegistryInput,
    existing: &Registry,
    manner: Manner,
) -> Result<Registry, ApiError> {
    let wanted = check(input, existing, version(request)?)?;
    let mut changed = existing.clone();
    let replaces = manner == Manner::Replace;
    match wanted.sku {
        Some(sku) => changed.sku = sku.to_owned(),
        None if replaces => return Err(sku_required()),
        None => {}
    }
    match wanted.tags {
        Some(tags) => changed.tags = tags,
        None if replaces => changed.tags = Tags::default(),
        None => {}
    }
    match wanted.admin_user_enabled {
        Some(enabled) => changed.admin_user_enabled = enabled,
        None if replaces => changed.admin_user_enabled = false,
        None => {}
    }
    // Which rights count is changed by whoever says so: `az acr create` on a registry that is there replaces it without a word about it.
    if let Some(mode) = wanted.role_assignment_mode {
        changed.role_assignment_mode = mode;
    }
    match wanted.anonymous_pull_enabled {
        Some(enabled) => changed.anonymous_pull_enabled = enabled,
        // What a version cannot say stays as it is.
        None if replaces && has(version(request)?, "anonymousPullEnabled") => {
            changed.anonymous_pull_enabled = false;
        }
        None => {}
    }
    let retention = match wanted.retention {
        Some(wanted) => wanted.applied_to(&existing.retention, replaces),
        None if replaces => RetentionPolicy::default(),
        None => existing.retention,
    };
    changed.retention = retention::dated(retention, &existing.retention, request.now);
    check_sku_has(&changed)?;
    changed.generation += 1;
    changed.system_data.last_modified_at = request.now;
    changed.system_data.last_modified_by = request.caller().name.clone();
    changed.system_data.last_modified_by_type = request.caller().created_by_type();
    Ok(changed)
}

fn unchanged(existing: &Registry, changed: &Registry) -> bool {
    existing.sku == changed.sku
        && existing.tags == changed.tags
        && existing.admin_user_enabled == changed.admin_user_enabled
        && existing.role_assignment_mode == changed.role_assignment_mode
        && existing.anonymous_pull_enabled == changed.anonymous_pull_enabled
        && existing.retention == changed.retention
}

/// The registry as it is now, after somebody else changed it.
async fn reread(app: &Arc<App>, request: &Request) -> Result<Registry, ApiError> {
    let group = group_of(request)?;
    let key = arm::canonical_key(request.parameter("registryName"));
    app.store
        .registry_get(group.uid, &key)
        .await
        .map_err(store_error)?
        .ok_or_else(|| missing(request.parameter("registryName"), &group.name))
}

async fn delete(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let group = group_of(&request)?;
    let mut found = request
        .facts
        .as_ref()
        .and_then(|facts| facts.registry.clone());
    // What is not there is deleted, whatever the conditions (arm-contract: table of ETags).
    while let Some(registry) = found {
        check_precondition(&request, Some(&registry))?;
        let outcome = app
            .store
            .registry_delete(&registry, !request.precondition().is_empty())
            .await
            .map_err(store_error)?;
        if let Some(published) = outcome {
            return Ok(Answer::empty(StatusCode::OK).published(Some(published)));
        }
        // Deleted or changed meanwhile; what was changed has to meet the conditions anew.
        let key = arm::canonical_key(request.parameter("registryName"));
        found = app
            .store
            .registry_get(group.uid, &key)
            .await
            .map_err(store_error)?;
    }
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}
