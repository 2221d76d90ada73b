//! Resource providers as clients ask for them: which types there are, in which API versions and regions. All are registered, always.

use std::sync::Arc;

use actix_web::http::Method;
use arm::{ApiError, Page};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::RESOURCE_VERSIONS;
use crate::App;
use crate::front_door::{Access, Answer, Operation, PathScope, Request, store_error};
use crate::providers::{authorization, container_registry, insights};

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            "Providers_List",
            Method::GET,
            "/subscriptions/{subscriptionId}/providers",
            Access::AnyPrincipal,
            "Lists the resource providers.",
            list,
        )
        .query(&["$top", "$expand"])
        .answers::<ProviderList>(200),
        Operation::new(
            "Providers_Get",
            Method::GET,
            "/subscriptions/{subscriptionId}/providers/{resourceProviderNamespace}",
            Access::AnyPrincipal,
            "Shows a resource provider with its types, API versions and regions.",
            get,
        )
        .query(&["$expand"])
        .answers::<ProviderBody>(200),
        Operation::new(
            "Providers_Register",
            Method::POST,
            "/subscriptions/{subscriptionId}/providers/{resourceProviderNamespace}/register",
            Access::Action {
                action: "Microsoft.ContainerRegistry/register/action",
                scope: PathScope::Subscription,
            },
            "Registers a resource provider; it is registered already.",
            get,
        )
        .answers::<ProviderBody>(200)
        .repeats_no_change(),
    ]
    .into_iter()
    .map(|operation| operation.versions("providers", RESOURCE_VERSIONS))
    .collect()
}

/// A resource provider.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(
    dead_code,
    reason = "describes the answer in the OpenAPI document; bodies are made by `bodies`"
)]
struct ProviderBody {
    id: String,
    namespace: String,
    registration_state: String,
    registration_policy: String,
    resource_types: Vec<Value>,
}

#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the answer in the OpenAPI document; bodies are made by `bodies`"
)]
struct ProviderList {
    value: Vec<ProviderBody>,
}

/// A resource type as providers advertise it.
struct ResourceType {
    name: &'static str,
    versions: &'static [&'static str],
    /// Whether its resources live in a region.
    regional: bool,
}

const fn regional(name: &'static str, versions: &'static [&'static str]) -> ResourceType {
    ResourceType {
        name,
        versions,
        regional: true,
    }
}

const fn global(name: &'static str, versions: &'static [&'static str]) -> ResourceType {
    ResourceType {
        name,
        versions,
        regional: false,
    }
}

const CONTAINER_REGISTRY: &[ResourceType] = &[
    regional("registries", container_registry::VERSIONS),
    regional("registries/listCredentials", container_registry::VERSIONS),
    regional("registries/listUsages", container_registry::VERSIONS),
    regional(
        "registries/regenerateCredential",
        container_registry::VERSIONS,
    ),
    global("checkNameAvailability", container_registry::VERSIONS),
    global("operations", container_registry::VERSIONS),
];

const AUTHORIZATION: &[ResourceType] = &[
    global("roleAssignments", authorization::VERSIONS),
    global("roleDefinitions", authorization::VERSIONS),
    global("permissions", authorization::VERSIONS),
    global("providerOperations", authorization::VERSIONS),
    global("operations", authorization::VERSIONS),
];

const INSIGHTS: &[ResourceType] = &[global("eventtypes", insights::VERSIONS)];

const RESOURCES: &[ResourceType] = &[
    global("tenants", super::SUBSCRIPTION_VERSIONS),
    global("subscriptions", super::SUBSCRIPTION_VERSIONS),
    global("subscriptions/locations", super::SUBSCRIPTION_VERSIONS),
    global("subscriptions/providers", RESOURCE_VERSIONS),
    regional("subscriptions/resourceGroups", RESOURCE_VERSIONS),
    global("subscriptions/resources", RESOURCE_VERSIONS),
    global("operations", RESOURCE_VERSIONS),
];

/// Each namespace with its types.
const NAMESPACES: &[(&str, &[ResourceType])] = &[
    ("Microsoft.ContainerRegistry", CONTAINER_REGISTRY),
    ("Microsoft.Authorization", AUTHORIZATION),
    ("Microsoft.Insights", INSIGHTS),
    ("Microsoft.Resources", RESOURCES),
];

async fn bodies(app: &App, request: &Request) -> Result<Vec<Value>, ApiError> {
    let regions = app.store.region_list().await.map_err(store_error)?;
    let regions: Vec<&str> = regions
        .iter()
        .map(|region| region.display_name.as_str())
        .collect();
    let none: Vec<&str> = Vec::new();
    Ok(NAMESPACES
        .iter()
        .map(|(namespace, types)| {
            let types: Vec<Value> = types
                .iter()
                .map(|resource_type| {
                    json!({
                        "resourceType": resource_type.name,
                        "locations": if resource_type.regional { &regions } else { &none },
                        "apiVersions": resource_type.versions,
                        "capabilities": "None",
                    })
                })
                .collect();
            json!({
                "id": format!("/subscriptions/{}/providers/{namespace}", request.parameter("subscriptionId")),
                "namespace": namespace,
                "registrationState": "Registered",
                "registrationPolicy": "RegistrationFree",
                "resourceTypes": types,
            })
        })
        .collect())
}

async fn list(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    Answer::ok(&Page::single(bodies(&app, &request).await?))
}

async fn get(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let namespace = request.parameter("resourceProviderNamespace");
    let found = bodies(&app, &request).await?.into_iter().find(|body| {
        body["namespace"]
            .as_str()
            .is_some_and(|known| known.eq_ignore_ascii_case(namespace))
    });
    let found = found.ok_or_else(|| {
        ApiError::not_found(
            "InvalidResourceNamespace",
            format!("The resource namespace '{namespace}' is invalid."),
        )
    })?;
    Answer::ok(&found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_namespace_that_is_served_is_listed() {
        for operation in crate::operations() {
            let segments: Vec<&str> = arm::split_path(&operation.path).collect();
            let served = segments
                .windows(2)
                .filter(|pair| pair[0] == "providers" && !pair[1].starts_with('{'))
                .map(|pair| pair[1]);
            for namespace in served {
                assert!(
                    NAMESPACES.iter().any(|(known, _)| *known == namespace),
                    "{}: {namespace}",
                    operation.id
                );
            }
        }
    }
}
