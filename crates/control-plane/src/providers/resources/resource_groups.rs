//! Resource groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::http::{Method, StatusCode};
use arm::{ApiError, Location, ResourceGroupName, Tags};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::installation::Region;
use store::resource_groups::{ResourceGroup, ResourceGroupPut};
use utoipa::ToSchema;
use uuid::Uuid;

use super::RESOURCE_VERSIONS;
use crate::App;
use crate::front_door::{Access, Answer, Operation, PathScope, Request, store_error};
use crate::providers::{Visibility, is_full, page, page_size};

const PATH: &str = "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}";
const READ: &str = "Microsoft.Resources/subscriptions/resourceGroups/read";
const WRITE: &str = "Microsoft.Resources/subscriptions/resourceGroups/write";
const DELETE: &str = "Microsoft.Resources/subscriptions/resourceGroups/delete";

pub(crate) fn operations() -> Vec<Operation> {
    let at_group = |action| Access::Action {
        action,
        scope: PathScope::ResourceGroup,
    };
    vec![
        Operation::new(
            "ResourceGroups_List",
            Method::GET,
            "/subscriptions/{subscriptionId}/resourceGroups",
            Access::FilteredList(READ),
            "Lists the resource groups that the caller may read.",
            list,
        )
        .query(&["$filter", "$top", "$skiptoken"])
        .answers::<ResourceGroupList>(200),
        Operation::new(
            "ResourceGroups_Get",
            Method::GET,
            PATH,
            at_group(READ),
            "Shows a resource group.",
            get,
        )
        .answers::<ResourceGroupBody>(200),
        Operation::new(
            "ResourceGroups_CheckExistence",
            Method::HEAD,
            PATH,
            at_group(READ),
            "Says whether a resource group exists: 204 or 404.",
            exists,
        )
        .answers_empty(204),
        Operation::new(
            "ResourceGroups_CreateOrUpdate",
            Method::PUT,
            PATH,
            at_group(WRITE),
            "Creates a resource group, or replaces its tags.",
            put,
        )
        .takes::<ResourceGroupInput>()
        .answers::<ResourceGroupBody>(200)
        .answers::<ResourceGroupBody>(201)
        .repeats_no_change(),
        Operation::new(
            "ResourceGroups_Update",
            Method::PATCH,
            PATH,
            at_group(WRITE),
            "Replaces a resource group's tags.",
            patch,
        )
        .takes::<ResourceGroupPatch>()
        .answers::<ResourceGroupBody>(200)
        .repeats_no_change(),
        Operation::new(
            "ResourceGroups_Delete",
            Method::DELETE,
            PATH,
            at_group(DELETE),
            "Deletes a resource group with everything in it.",
            delete,
        )
        .answers_empty(200),
    ]
    .into_iter()
    .map(|operation| operation.versions("resourceGroups", RESOURCE_VERSIONS))
    .collect()
}

#[derive(Serialize, ToSchema)]
struct ResourceGroupBody {
    id: String,
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    location: String,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    tags: Tags,
    properties: ResourceGroupProperties,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ResourceGroupProperties {
    provisioning_state: &'static str,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ResourceGroupList {
    value: Vec<ResourceGroupBody>,
    next_link: Option<String>,
}

/// A resource group as clients send it; `id`, `name`, `type` and `properties` may be sent back as they were read and change nothing.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResourceGroupInput {
    location: Option<String>,
    tags: Option<BTreeMap<String, Option<String>>>,
    managed_by: Option<String>,
    #[serde(rename = "id")]
    _id: Option<Value>,
    #[serde(rename = "name")]
    _name: Option<Value>,
    #[serde(rename = "type")]
    _kind: Option<Value>,
    properties: Option<ResourceGroupInputProperties>,
}

/// What may be sent back of a group's properties; it changes nothing.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResourceGroupInputProperties {
    provisioning_state: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResourceGroupPatch {
    tags: Option<BTreeMap<String, Option<String>>>,
    managed_by: Option<String>,
    #[serde(rename = "name")]
    _name: Option<Value>,
    properties: Option<ResourceGroupInputProperties>,
}

fn body(group: &ResourceGroup) -> ResourceGroupBody {
    ResourceGroupBody {
        id: group.id().as_str().to_owned(),
        name: group.name.clone(),
        kind: "Microsoft.Resources/resourceGroups",
        location: group.location.clone(),
        tags: group.tags.clone(),
        properties: ResourceGroupProperties {
            provisioning_state: "Succeeded",
        },
    }
}

/// ARM's answer to a subscription that is not there.
pub(crate) fn missing_subscription(id: &str) -> ApiError {
    ApiError::not_found(
        "SubscriptionNotFound",
        format!("The subscription '{id}' could not be found."),
    )
}

/// The resource group that the path names.
///
/// # Errors
/// 404 naming the subscription or the group that is not there.
pub(crate) fn group_of(request: &Request) -> Result<&ResourceGroup, ApiError> {
    check_subscription(request)?;
    let facts = request.facts.as_ref();
    facts
        .and_then(|facts| facts.resource_group.as_ref())
        .ok_or_else(|| {
            ApiError::not_found(
                "ResourceGroupNotFound",
                format!(
                    "Resource group '{}' could not be found.",
                    request.parameter("resourceGroupName")
                ),
            )
        })
}

/// Refuses what is in a subscription that is not there. So do lists: an empty one would hide that the id is mistyped.
///
/// # Errors
/// 404 naming the subscription.
fn check_subscription(request: &Request) -> Result<(), ApiError> {
    let facts = request.facts.as_ref();
    match facts.is_some_and(|facts| facts.subscription_exists) {
        true => Ok(()),
        false => Err(missing_subscription(request.parameter("subscriptionId"))),
    }
}

/// Refuses a list in a subscription that is not there; one in a group that is not there to callers who could see the group. To others that
/// is empty, like one they may not see.
///
/// # Errors
/// 404 naming the subscription or the group.
pub(crate) fn check_place_of_list(
    request: &Request,
    visibility: &Visibility,
) -> Result<(), ApiError> {
    check_subscription(request)?;
    let is_in_group = request
        .parameters
        .iter()
        .any(|(name, _)| name == "resourceGroupName");
    if !is_in_group {
        return Ok(());
    }
    let id = arm::ResourceId::resource_group(
        subscription_id(request),
        request.parameter("resourceGroupName"),
    );
    if visibility.allows(id.as_str(), READ) {
        group_of(request)?;
    }
    Ok(())
}

fn tags(tags: Option<BTreeMap<String, Option<String>>>) -> Result<Tags, ApiError> {
    Tags::parse(tags.unwrap_or_default()).map_err(|invalid| ApiError::from_faults(invalid.0))
}

/// A `provisioningState` that a client sends must be the one there is (RPC "PUT", R23).
fn check_properties(properties: Option<&ResourceGroupInputProperties>) -> Result<(), ApiError> {
    match properties.and_then(|properties| properties.provisioning_state.as_deref()) {
        None | Some("Succeeded") => Ok(()),
        Some(other) => Err(ApiError::invalid(
            "BadRequest",
            format!("The 'provisioningState' '{other}' differs from the resource's, 'Succeeded'."),
        )
        .with_target("properties.provisioningState")),
    }
}

fn refuse_managed_by(managed_by: Option<&String>) -> Result<(), ApiError> {
    match managed_by {
        None => Ok(()),
        Some(_) => Err(ApiError::invalid(
            "FeatureNotSupported",
            "The property 'managedBy' is not supported; leave it out.",
        )
        .with_target("managedBy")),
    }
}

async fn list(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    if request
        .query("$filter")
        .is_some_and(|filter| !filter.trim().is_empty())
    {
        return Err(ApiError::invalid(
            "InvalidFilter",
            "Resource groups cannot be filtered; leave out $filter.",
        )
        .with_target("$filter"));
    }
    check_subscription(&request)?;
    let subscription_id = subscription_id(&request);
    let limit = page_size(&request)?;
    let visibility = Visibility::load(&app, &request).await?;
    let after = request.query("$skiptoken").unwrap_or_default();
    let groups = app
        .store
        .resource_group_list(subscription_id, after, limit)
        .await
        .map_err(store_error)?;
    let token = groups.last().map(|group| arm::canonical_key(&group.name));
    let value = groups
        .iter()
        .filter(|group| visibility.allows(group.id().as_str(), READ))
        .map(|group| serde_json::to_value(body(group)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(ApiError::internal)?;
    let is_full = is_full(groups.len(), limit);
    Answer::ok(&page(&app, &request, token.filter(|_| is_full), value))
}

/// The path's subscription id, which the front door has parsed before.
fn subscription_id(request: &Request) -> Uuid {
    Uuid::try_parse(request.parameter("subscriptionId")).unwrap_or_default()
}

async fn get(_app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    Answer::ok(&body(group_of(&request)?))
}

async fn exists(_app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    group_of(&request)?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

async fn put(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let name =
        ResourceGroupName::parse(request.parameter("resourceGroupName")).map_err(|error| {
            ApiError::invalid("InvalidResourceGroup", error.to_string())
                .with_target("resourceGroupName")
        })?;
    let input: ResourceGroupInput = request.json()?;
    refuse_managed_by(input.managed_by.as_ref())?;
    check_properties(input.properties.as_ref())?;
    check_subscription(&request)?;
    let location = input
        .location
        .filter(|location| !location.trim().is_empty())
        .ok_or_else(|| {
            ApiError::invalid(
                "LocationRequired",
                "The location property is required for this definition.",
            )
            .with_target("location")
        })?;
    let location = known_location(&app, &location, "resourceGroups").await?;
    let group = ResourceGroup {
        uid: Uuid::now_v7(),
        subscription_id: subscription_id(&request),
        name: name.as_str().to_owned(),
        location: location.as_str().to_owned(),
        tags: tags(input.tags)?,
        created_at: request.now,
    };
    match app
        .store
        .resource_group_put(&group)
        .await
        .map_err(store_error)?
    {
        ResourceGroupPut::Created(group) => Answer::json(StatusCode::CREATED, &body(&group)),
        ResourceGroupPut::Updated(group) => Answer::ok(&body(&group)),
        ResourceGroupPut::OtherLocation(group) => Err(ApiError::conflict(
            "InvalidResourceGroupLocation",
            format!(
                "Invalid resource group location '{location}'. The resource group '{}' already exists in location '{}'.",
                group.name, group.location
            ),
        )),
    }
}

/// The region of the installation that a caller typed the name or display name of.
pub(crate) async fn known_location(
    app: &App,
    typed: &str,
    resource_type: &str,
) -> Result<Location, ApiError> {
    let location = Location::normalise(typed);
    let regions = app.store.region_list().await.map_err(store_error)?;
    let by_name = |region: &&Region| region.name == location.as_str();
    let by_display_name = |region: &&Region| Location::normalise(&region.display_name) == location;
    // A name wins over a display name that reads the same.
    if let Some(region) = regions
        .iter()
        .find(by_name)
        .or_else(|| regions.iter().find(by_display_name))
    {
        return Ok(Location::normalise(&region.name));
    }
    let names: Vec<&str> = regions.iter().map(|region| region.name.as_str()).collect();
    Err(ApiError::invalid(
        "LocationNotAvailableForResourceType",
        format!(
            "The provided location '{typed}' is not available for resource type '{resource_type}'. List of available regions for the resource type is '{}'.",
            names.join(",")
        ),
    )
    .with_target("location"))
}

async fn patch(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let input: ResourceGroupPatch = request.json()?;
    refuse_managed_by(input.managed_by.as_ref())?;
    check_properties(input.properties.as_ref())?;
    let mut group = group_of(&request)?.clone();
    if input.tags.is_some() {
        group.tags = tags(input.tags)?;
        app.store
            .resource_group_set_tags(group.uid, &group.tags)
            .await
            .map_err(store_error)?
            .ok_or_else(|| {
                ApiError::not_found(
                    "ResourceGroupNotFound",
                    format!("Resource group '{}' could not be found.", group.name),
                )
            })?;
    }
    Answer::ok(&body(&group))
}

async fn delete(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let group = group_of(&request)?;
    let published = app
        .store
        .resource_group_delete(group)
        .await
        .map_err(store_error)?
        .ok_or_else(|| {
            ApiError::not_found(
                "ResourceGroupNotFound",
                format!("Resource group '{}' could not be found.", group.name),
            )
        })?;
    Ok(Answer::empty(StatusCode::OK).published(published))
}
