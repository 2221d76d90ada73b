//! The same operations as each resource provider lists them itself, in the shape that the providers' SDKs read.

use std::sync::Arc;

use actix_web::http::Method;
use arm::{ApiError, Page};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Namespace, described, namespace, tables};
use crate::App;
use crate::front_door::{Access, Answer, Operation, Request};
use crate::providers::{authorization, container_registry, resources};

/// The providers that list their operations, with the operation's id and versions.
const PROVIDERS: [(&str, &str, &[&str]); 3] = [
    (
        "Microsoft.Authorization",
        "AuthorizationOperations_List",
        authorization::VERSIONS,
    ),
    (
        "Microsoft.ContainerRegistry",
        "Operations_List",
        container_registry::VERSIONS,
    ),
    (
        "Microsoft.Resources",
        "ResourcesOperations_List",
        resources::RESOURCE_VERSIONS,
    ),
];

pub(super) fn operations() -> impl Iterator<Item = Operation> {
    PROVIDERS.into_iter().map(|(name, id, versions)| {
        Operation::new(
            id,
            Method::GET,
            format!("/providers/{name}/operations"),
            Access::AnyPrincipal,
            "Lists the operations of this resource provider.",
            list,
        )
        .answers::<OperationListResult>(200)
        .versions("operations", versions)
    })
}

#[derive(Serialize, ToSchema)]
struct OperationListResult {
    value: Vec<OperationDefinition>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OperationDefinition {
    name: String,
    is_data_action: bool,
    origin: &'static str,
    display: OperationDisplayDefinition,
}

#[derive(Serialize, ToSchema)]
struct OperationDisplayDefinition {
    provider: &'static str,
    resource: &'static str,
    operation: String,
    description: String,
}

fn definitions(namespace: &Namespace) -> Vec<OperationDefinition> {
    tables(namespace)
        .map(|(resource_type, name, is_data)| {
            let operation = described(namespace, resource_type, name, is_data);
            OperationDefinition {
                name: operation.name,
                is_data_action: operation.is_data_action,
                origin: operation.origin,
                display: OperationDisplayDefinition {
                    provider: namespace.display_name,
                    resource: match resource_type {
                        "" => namespace.name,
                        resource_type => resource_type,
                    },
                    operation: operation.display_name,
                    description: operation.description,
                },
            }
        })
        .collect()
}

async fn list(_app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let name = request.segments.get(1).map_or("", String::as_str);
    Answer::ok(&Page::single(definitions(namespace(name)?)))
}
