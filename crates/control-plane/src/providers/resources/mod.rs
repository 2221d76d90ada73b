//! `Microsoft.Resources`: tenants, subscriptions, locations, providers, resource groups, and the list of all resources.

mod provider_registrations;
mod resource_groups;
mod resource_list;
mod subscriptions;

use crate::front_door::Operation;

pub(crate) fn operations() -> Vec<Operation> {
    let mut operations = subscriptions::operations();
    operations.extend(provider_registrations::operations());
    operations.extend(resource_groups::operations());
    operations.extend(resource_list::operations());
    operations
}

/// API versions of tenants, subscriptions and locations.
pub(crate) const SUBSCRIPTION_VERSIONS: &[&str] = &[
    "2022-12-01",
    "2021-01-01",
    "2020-01-01",
    "2019-06-01",
    "2016-06-01",
];

/// API versions of resource groups, providers and the list of resources: the members used here are the same in all of them.
pub(crate) const RESOURCE_VERSIONS: &[&str] = &[
    "2025-04-01",
    "2024-11-01",
    "2024-03-01",
    "2022-09-01",
    "2021-04-01",
    "2020-06-01",
    "2019-10-01",
];

pub(crate) use resource_groups::{
    check_place_of_list, group_of, known_location, missing_subscription,
};
