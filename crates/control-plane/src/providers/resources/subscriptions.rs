//! Tenants, subscriptions and their locations.

use std::sync::Arc;

use actix_web::http::Method;
use arm::{ApiError, Page};
use serde::Serialize;
use store::subscriptions::Subscription;
use utoipa::ToSchema;

use super::SUBSCRIPTION_VERSIONS;
use crate::App;
use crate::front_door::{Access, Answer, Operation, PathScope, Request, store_error};
use crate::providers::Visibility;

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            "Tenants_List",
            Method::GET,
            "/tenants",
            Access::AnyPrincipal,
            "Lists the caller's tenant.",
            tenants,
        )
        .versions("tenants", SUBSCRIPTION_VERSIONS)
        .answers::<TenantList>(200),
        Operation::new(
            "Subscriptions_List",
            Method::GET,
            "/subscriptions",
            Access::FilteredList("Microsoft.Resources/subscriptions/read"),
            "Lists the subscriptions at, above or below which the caller has any role.",
            list,
        )
        .versions("subscriptions", SUBSCRIPTION_VERSIONS)
        .answers::<SubscriptionList>(200),
        Operation::new(
            "Subscriptions_Get",
            Method::GET,
            "/subscriptions/{subscriptionId}",
            Access::Action {
                action: "Microsoft.Resources/subscriptions/read",
                scope: PathScope::Subscription,
            },
            "Shows a subscription.",
            get,
        )
        .versions("subscriptions", SUBSCRIPTION_VERSIONS)
        .answers::<SubscriptionBody>(200),
        Operation::new(
            "Subscriptions_ListLocations",
            Method::GET,
            "/subscriptions/{subscriptionId}/locations",
            Access::AnyPrincipal,
            "Lists the regions of the installation.",
            locations,
        )
        .versions("locations", SUBSCRIPTION_VERSIONS)
        .answers::<LocationList>(200),
    ]
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TenantBody {
    id: String,
    tenant_id: String,
    display_name: String,
    tenant_type: &'static str,
    tenant_category: &'static str,
}

#[derive(Serialize, ToSchema)]
struct TenantList {
    value: Vec<TenantBody>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SubscriptionBody {
    id: String,
    subscription_id: String,
    tenant_id: String,
    display_name: String,
    state: &'static str,
    managed_by_tenants: Vec<String>,
    authorization_source: &'static str,
}

#[derive(Serialize, ToSchema)]
struct SubscriptionList {
    value: Vec<SubscriptionBody>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct LocationBody {
    id: String,
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    display_name: String,
    regional_display_name: String,
    metadata: LocationMetadata,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct LocationMetadata {
    region_type: &'static str,
}

#[derive(Serialize, ToSchema)]
struct LocationList {
    value: Vec<LocationBody>,
}

fn body(subscription: Subscription) -> SubscriptionBody {
    SubscriptionBody {
        id: format!("/subscriptions/{}", subscription.subscription_id),
        subscription_id: subscription.subscription_id.to_string(),
        tenant_id: subscription.tenant_id.to_string(),
        display_name: subscription.display_name,
        state: "Enabled",
        managed_by_tenants: Vec::new(),
        authorization_source: "RoleBased",
    }
}

async fn tenants(app: Arc<App>, _request: Request) -> Result<Answer, ApiError> {
    let installation = &app.installation;
    Answer::ok(&Page::single(vec![TenantBody {
        id: format!("/tenants/{}", installation.tenant_id),
        tenant_id: installation.tenant_id.to_string(),
        display_name: installation.tenant_display_name.clone(),
        tenant_type: "AAD",
        tenant_category: "Home",
    }]))
}

async fn list(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let visibility = Visibility::load(&app, &request).await?;
    let subscriptions = app.store.subscription_list().await.map_err(store_error)?;
    let visible = subscriptions
        .into_iter()
        .filter(|subscription| {
            visibility.touches(&format!("/subscriptions/{}", subscription.subscription_id))
        })
        .map(body)
        .collect();
    Answer::ok(&Page::single(visible))
}

async fn get(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let id = request.parameter("subscriptionId");
    let subscriptions = app.store.subscription_list().await.map_err(store_error)?;
    let found = subscriptions
        .into_iter()
        .find(|subscription| {
            subscription
                .subscription_id
                .to_string()
                .eq_ignore_ascii_case(id)
        })
        .ok_or_else(|| super::missing_subscription(id))?;
    Answer::ok(&body(found))
}

async fn locations(app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let subscription = request.parameter("subscriptionId");
    let regions = app.store.region_list().await.map_err(store_error)?;
    let value = regions
        .into_iter()
        .map(|region| LocationBody {
            id: format!("/subscriptions/{subscription}/locations/{}", region.name),
            name: region.name,
            kind: "Region",
            regional_display_name: region.display_name.clone(),
            display_name: region.display_name,
            metadata: LocationMetadata {
                region_type: "Physical",
            },
        })
        .collect();
    Answer::ok(&Page::single(value))
}
