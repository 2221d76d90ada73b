//! `Microsoft.Authorization`: role definitions and role assignments, at every scope there is.

mod role_assignments;
mod role_definitions;

use crate::front_door::{Operation, PathScope};

pub(crate) const ASSIGNMENT_VERSIONS: &[&str] = &["2022-04-01"];
pub(crate) const DEFINITION_VERSIONS: &[&str] = &["2022-05-01-preview", "2022-04-01"];

/// The path of each kind of scope, with a word for operation ids.
const SCOPES: [(PathScope, &str, &str); 3] = [
    (
        PathScope::Subscription,
        "Subscription",
        "/subscriptions/{subscriptionId}",
    ),
    (
        PathScope::ResourceGroup,
        "ResourceGroup",
        "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}",
    ),
    (
        PathScope::Resource,
        "Registry",
        "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.ContainerRegistry/registries/{registryName}",
    ),
];

pub(crate) fn operations() -> Vec<Operation> {
    let mut operations = role_definitions::operations();
    operations.extend(role_assignments::operations());
    operations
}
