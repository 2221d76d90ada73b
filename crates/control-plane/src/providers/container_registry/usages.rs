//! `listUsages`: how much a registry stores, and how much it may.

use std::sync::Arc;

use actix_web::http::Method;
use arm::{ApiError, format_time};
use serde::Serialize;
use utoipa::ToSchema;

use super::registries::{PATH, at_registry, registry_of};
use super::versions::VERSIONS;
use crate::App;
use crate::front_door::{Answer, Operation, Request, store_error};

/// What stands for "no limit", as elsewhere among usages.
const UNLIMITED: i64 = -1;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            "Registries_ListUsages",
            Method::GET,
            format!("{PATH}/listUsages"),
            at_registry("Microsoft.ContainerRegistry/registries/listUsages/read"),
            "Shows how much a registry stores, as its nodes last told, and how much it may.",
            list,
        )
        .answers::<RegistryUsageList>(200)
        .versions("registries", VERSIONS),
    ]
}

#[derive(Serialize, ToSchema)]
struct RegistryUsageList {
    value: Vec<RegistryUsage>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RegistryUsage)]
struct RegistryUsage {
    name: &'static str,
    /// -1: no limit.
    limit: i64,
    current_value: i64,
    unit: &'static str,
    /// When the current value was so (a member of our own); absent while no node has told.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_updated_time: Option<String>,
}

async fn list(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let registry = registry_of(&request)?;
    let usage = app
        .store
        .registry_usage(registry.uid, &registry.sku)
        .await
        .map_err(store_error)?;
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let size = RegistryUsage {
        name: "Size",
        limit: usage.limit_bytes.map_or(UNLIMITED, number),
        current_value: usage.stored.map_or(0, |(bytes, _)| number(bytes)),
        unit: "Bytes",
        last_updated_time: usage.stored.map(|(_, counted_at)| format_time(counted_at)),
    };
    Answer::ok(&RegistryUsageList { value: vec![size] })
}
