//! Resource providers as clients ask for them: which types there are, in which API versions and regions. All are registered, always.

use std::sync::Arc;

use actix_web::http::Method;
use arm::{ApiError, Page};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::RESOURCE_VERSIONS;
use crate::App;
use crate::front_door::{Access, Answer, Operation, PathScope, Request, store_error};
use crate::providers::{authorization, container_registry};

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
        .answers::<ProviderBody>(200),
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

/// Each namespace with its types, their API versions, and whether they live in a region.
const NAMESPACES: &[(&str, &[(&str, &[&str], bool)])] = &[
    (
        "Microsoft.ContainerRegistry",
        &[
            ("registries", container_registry::VERSIONS, true),
            (
                "registries/listCredentials",
                container_registry::VERSIONS,
                true,
            ),
            (
                "registries/regenerateCredential",
                container_registry::VERSIONS,
                true,
            ),
            ("checkNameAvailability", container_registry::VERSIONS, false),
        ],
    ),
    (
        "Microsoft.Authorization",
        &[
            ("roleAssignments", authorization::ASSIGNMENT_VERSIONS, false),
            ("roleDefinitions", authorization::DEFINITION_VERSIONS, false),
        ],
    ),
    (
        "Microsoft.Resources",
        &[
            ("tenants", super::SUBSCRIPTION_VERSIONS, false),
            ("subscriptions", super::SUBSCRIPTION_VERSIONS, false),
            (
                "subscriptions/locations",
                super::SUBSCRIPTION_VERSIONS,
                false,
            ),
            ("subscriptions/providers", RESOURCE_VERSIONS, false),
            ("subscriptions/resourceGroups", RESOURCE_VERSIONS, true),
            ("subscriptions/resources", RESOURCE_VERSIONS, false),
        ],
    ),
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
                .map(|(name, versions, regional)| {
                    json!({
                        "resourceType": name,
                        "locations": if *regional { &regions } else { &none },
                        "apiVersions": versions,
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
