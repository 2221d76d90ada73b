//! The generic list of resources, by which the Azure CLI finds a registry's resource group from its name.

use std::sync::Arc;

use actix_web::http::Method;
use arm::{ApiError, Filter, Term};
use serde_json::{Value, json};
use store::registries::{RESOURCE_TYPE, Registry};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{RESOURCE_VERSIONS, check_place_of_list};
use crate::App;
use crate::front_door::{Access, Answer, Operation, Request, store_error};
use crate::providers::container_registry::READ;
use crate::providers::{Visibility, is_full, page, page_size};

pub(crate) fn operations() -> Vec<Operation> {
    [
        (
            "Resources_List",
            "/subscriptions/{subscriptionId}/resources",
        ),
        (
            "Resources_ListByResourceGroup",
            "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/resources",
        ),
    ]
    .into_iter()
    .map(|(id, path)| {
        Operation::new(
            id,
            Method::GET,
            path,
            Access::FilteredList(READ),
            "Lists the resources that the caller may read, of every type.",
            list,
        )
        .versions("resources", RESOURCE_VERSIONS)
        .query(&["$filter", "$expand", "$top", "$skiptoken"])
        .answers::<ResourceList>(200)
    })
    .collect()
}

/// A page of resources, without their properties.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(
    dead_code,
    reason = "describes the answer in the OpenAPI document; bodies are made by `body`"
)]
struct ResourceList {
    value: Vec<Value>,
    next_link: Option<String>,
}

/// What a filter leaves.
#[derive(Default)]
struct Wanted {
    resource_type: Option<String>,
    resource_group: Option<String>,
    name: Option<String>,
    location: Option<String>,
    /// Two different values of one property: nothing has both.
    contradicts_itself: bool,
}

impl Wanted {
    fn parse(request: &Request) -> Result<Self, ApiError> {
        let mut wanted = Self {
            resource_group: request
                .parameters
                .iter()
                .find(|(name, _)| name == "resourceGroupName")
                .map(|(_, value)| arm::canonical_key(value)),
            ..Self::default()
        };
        let Some(filter) = request
            .query("$filter")
            .filter(|filter| !filter.trim().is_empty())
        else {
            return Ok(wanted);
        };
        let filter = Filter::parse(filter).map_err(|error| invalid_filter(error.to_string()))?;
        for term in filter.0 {
            match term {
                Term::Equals { property, value } => {
                    let place = match property.as_str() {
                        "resourcetype" => &mut wanted.resource_type,
                        "resourcegroup" => &mut wanted.resource_group,
                        "name" => &mut wanted.name,
                        "location" => &mut wanted.location,
                        _ => {
                            return Err(invalid_filter(format!(
                                "Resources cannot be filtered by '{property}'."
                            )));
                        }
                    };
                    let key = arm::canonical_key(&value);
                    wanted.contradicts_itself |= place.as_ref().is_some_and(|known| *known != key);
                    *place = Some(key);
                }
                _ => {
                    return Err(invalid_filter(
                        "Resources are filtered by property eq 'value' only.".to_owned(),
                    ));
                }
            }
        }
        Ok(wanted)
    }

    fn takes(&self, registry: &Registry) -> bool {
        let equal = |wanted: &Option<String>, value: &str| {
            wanted
                .as_ref()
                .is_none_or(|wanted| *wanted == arm::canonical_key(value))
        };
        equal(&self.name, &registry.name) && equal(&self.location, &registry.location)
    }
}

fn invalid_filter(message: String) -> ApiError {
    ApiError::invalid("InvalidFilterInQueryString", message).with_target("$filter")
}

fn body(registry: &Registry) -> Value {
    json!({
        "id": registry.id().as_str(),
        "name": registry.name,
        "type": RESOURCE_TYPE,
        "sku": { "name": registry.sku, "tier": registry.sku },
        "location": registry.location,
        "tags": registry.tags,
        "createdTime": arm::format_time(registry.system_data.created_at),
        "changedTime": arm::format_time(registry.system_data.last_modified_at),
        "provisioningState": "Succeeded",
    })
}

async fn list(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let wanted = Wanted::parse(&request)?;
    let subscription_id = Uuid::try_parse(request.parameter("subscriptionId")).unwrap_or_default();
    let limit = page_size(&request)?;
    let visibility = Visibility::load(&app, &request).await?;
    check_place_of_list(&request, &visibility)?;
    let of_another_type = wanted
        .resource_type
        .as_ref()
        .is_some_and(|wanted| *wanted != arm::canonical_key(RESOURCE_TYPE));
    if of_another_type || wanted.contradicts_itself {
        return Answer::ok(&arm::Page::<Value>::single(Vec::new()));
    }
    let after = request.query("$skiptoken").unwrap_or_default();
    let registries = app
        .store
        .registry_list(
            subscription_id,
            wanted.resource_group.as_deref(),
            after,
            limit,
        )
        .await
        .map_err(store_error)?;
    let token = registries
        .last()
        .map(|registry| arm::canonical_key(&registry.name));
    let value = registries
        .iter()
        .filter(|registry| {
            wanted.takes(registry) && visibility.allows(registry.id().as_str(), READ)
        })
        .map(body)
        .collect();
    let is_full = is_full(registries.len(), limit);
    Answer::ok(&page(&app, &request, token.filter(|_| is_full), value))
}
