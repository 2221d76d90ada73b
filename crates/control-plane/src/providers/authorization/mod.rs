//! `Microsoft.Authorization`: role definitions and role assignments, at every scope there is, what the caller may do there, and the
//! operations that roles can be about.

mod custom_roles;
mod permissions;
mod provider_operations;
mod role_assignments;
mod role_definitions;

use crate::front_door::{Operation, PathScope, Request};

/// API versions of role assignments, role definitions, permissions and provider operations, newest first.
pub(crate) const VERSIONS: &[&str] = &[
    "2022-05-01-preview",
    "2022-04-01",
    "2018-01-01-preview",
    "2015-07-01",
];

/// Those in which role assignments have descriptions and conditions, and role definitions say who made them.
const DETAILED_VERSIONS: &[&str] = &["2022-05-01-preview", "2022-04-01"];

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
    operations.extend(custom_roles::operations());
    operations.extend(role_assignments::operations());
    operations.extend(permissions::operations());
    operations.extend(provider_operations::operations());
    operations
}

/// Operation ids live as long as the process; they are made once.
fn operation_id(start: &str, word: &str) -> &'static str {
    String::leak(format!("{start}{word}"))
}

fn is_one_of(request: &Request, versions: &[&str]) -> bool {
    let version = request.api_version.as_ref();
    version.is_some_and(|version| versions.contains(&version.as_str()))
}

/// Whether the request's API version has what came with [`DETAILED_VERSIONS`].
fn has_details(request: &Request) -> bool {
    is_one_of(request, DETAILED_VERSIONS)
}

/// Whether the request's API version has data actions.
fn has_data_actions(request: &Request) -> bool {
    !is_one_of(request, &["2015-07-01"])
}

/// A caller's text as a message repeats it.
fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}
