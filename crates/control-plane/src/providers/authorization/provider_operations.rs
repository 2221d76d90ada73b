//! The operations that roles can be about, by their published names. Custom roles are held to them; clients list them.
//!
//! The list has more than is built here: a role says what may be done, also of what comes later, and roles that were written elsewhere
//! keep their meaning.

mod of_provider;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use actix_web::http::Method;
use arm::{ApiError, Page};
use rbac::{Action, ActionPattern};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::VERSIONS;
use crate::App;
use crate::front_door::{Access, Answer, Operation, Request};

const PATH: &str = "/providers/Microsoft.Authorization/providerOperations";

/// A resource type, below its namespace, with the last parts of its operations' names; the empty type is the namespace itself.
type TypeOperations = (&'static str, &'static [&'static str]);

struct Namespace {
    name: &'static str,
    display_name: &'static str,
    operations: &'static [TypeOperations],
    data_operations: &'static [TypeOperations],
}

const READ: &[&str] = &["read"];
const READ_WRITE: &[&str] = &["read", "write"];
const ALL: &[&str] = &["read", "write", "delete"];
const ALL_WITH_STATUSES: &[&str] = &["read", "write", "delete", "operationStatuses/read"];

const NAMESPACES: &[Namespace] = &[
    Namespace {
        name: "Microsoft.Authorization",
        display_name: "Microsoft Authorization",
        operations: &[
            ("", &["elevateAccess/action"]),
            ("permissions", READ),
            ("providerOperations", READ),
            ("roleAssignments", ALL),
            ("roleDefinitions", ALL),
        ],
        data_operations: &[],
    },
    Namespace {
        name: "Microsoft.ContainerRegistry",
        display_name: "Microsoft Container Registry",
        operations: CONTAINER_REGISTRY,
        data_operations: &[
            ("registries/catalog", READ),
            ("registries/quarantinedArtifacts", READ_WRITE),
            ("registries/repositories/content", ALL),
            ("registries/repositories/metadata", ALL),
            ("registries/trustedCollections", &["write"]),
        ],
    },
    Namespace {
        name: "Microsoft.Insights",
        display_name: "Microsoft Insights",
        operations: &[
            ("eventtypes/values", READ),
            ("eventtypes/digestevents", READ),
        ],
        data_operations: &[],
    },
    Namespace {
        name: "Microsoft.Resources",
        display_name: "Microsoft Resources",
        operations: &[
            ("deployments", ALL),
            ("deploymentStacks", &["manageDenySetting/action"]),
            ("resources", READ),
            ("subscriptions", READ),
            ("subscriptions/locations", READ),
            ("subscriptions/providers", READ),
            ("subscriptions/resourceGroups", ALL),
            ("subscriptions/resourcegroups/resources", READ),
            ("subscriptions/resources", READ),
            ("tenants", READ),
        ],
        data_operations: &[],
    },
];

const CONTAINER_REGISTRY: &[TypeOperations] = &[
    ("", &["register/action", "unregister/action"]),
    ("checkNameAvailability", READ),
    ("locations/deleteVirtualNetworkOrSubnets", &["action"]),
    ("locations/operationResults", READ),
    ("operations", READ),
    (
        "registries",
        &[
            "read",
            "write",
            "delete",
            "listCredentials/action",
            "regenerateCredential/action",
            "generateCredentials/action",
            "importImage/action",
            "getBuildSourceUploadUrl/action",
            "queueBuild/action",
            "listBuildSourceUploadUrl/action",
            "scheduleRun/action",
            "privateEndpointConnectionsApproval/action",
        ],
    ),
    (
        "registries/agentpools",
        &[
            "read",
            "write",
            "delete",
            "listQueueStatus/action",
            "operationResults/status/read",
            "operationStatuses/read",
        ],
    ),
    ("registries/artifacts", &["delete"]),
    (
        "registries/builds",
        &["read", "write", "getLogLink/action", "cancel/action"],
    ),
    (
        "registries/buildTasks",
        &[
            "read",
            "write",
            "delete",
            "listSourceRepositoryProperties/action",
        ],
    ),
    (
        "registries/buildTasks/steps",
        &["read", "write", "delete", "listBuildArguments/action"],
    ),
    ("registries/cacheRules", ALL_WITH_STATUSES),
    (
        "registries/connectedRegistries",
        &["read", "write", "delete", "deactivate/action"],
    ),
    ("registries/credentialSets", ALL_WITH_STATUSES),
    ("registries/deleted", &["read", "restore/action"]),
    ("registries/eventGridFilters", ALL),
    ("registries/exportPipelines", ALL),
    ("registries/importPipelines", ALL),
    ("registries/listPolicies", READ),
    ("registries/listUsages", READ),
    ("registries/metadata", READ_WRITE),
    ("registries/operationStatuses", READ),
    ("registries/packages/archives", ALL),
    ("registries/packages/archives/versions", ALL_WITH_STATUSES),
    ("registries/pipelineRuns", ALL_WITH_STATUSES),
    (
        "registries/privateEndpointConnectionProxies",
        &[
            "validate/action",
            "read",
            "write",
            "delete",
            "operationStatuses/read",
        ],
    ),
    ("registries/privateEndpointConnections", ALL_WITH_STATUSES),
    (
        "registries/providers/Microsoft.Insights/diagnosticSettings",
        READ_WRITE,
    ),
    (
        "registries/providers/Microsoft.Insights/logDefinitions",
        READ,
    ),
    (
        "registries/providers/Microsoft.Insights/metricDefinitions",
        READ,
    ),
    ("registries/pull", READ),
    ("registries/push", &["write"]),
    ("registries/quarantine", READ_WRITE),
    ("registries/replications", ALL_WITH_STATUSES),
    (
        "registries/runs",
        &["read", "write", "listLogSasUrl/action", "cancel/action"],
    ),
    ("registries/scopeMaps", ALL_WITH_STATUSES),
    ("registries/sign", &["write"]),
    (
        "registries/taskruns",
        &[
            "read",
            "write",
            "delete",
            "listDetails/action",
            "operationStatuses/read",
        ],
    ),
    (
        "registries/tasks",
        &["read", "write", "delete", "listDetails/action"],
    ),
    ("registries/tokens", ALL_WITH_STATUSES),
    ("registries/updatePolicies", &["write"]),
    (
        "registries/webhooks",
        &[
            "read",
            "write",
            "delete",
            "getCallbackConfig/action",
            "ping/action",
            "listEvents/action",
            "operationStatuses/read",
        ],
    ),
];

/// Every operation with whether it is a data action.
static ACTIONS: LazyLock<Vec<(Action, bool)>> = LazyLock::new(|| {
    let of = |namespace: &'static Namespace| {
        tables(namespace).map(move |(resource_type, name, is_data)| {
            let action = Action::parse(&full_name(namespace, resource_type, name))
                .expect("the tables hold actions only");
            (action, is_data)
        })
    };
    NAMESPACES.iter().flat_map(of).collect()
});

/// The operations of a provider: resource type, last parts of the name, and whether it is a data action.
fn tables(namespace: &Namespace) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
    let of = |types: &'static [TypeOperations], is_data: bool| {
        types.iter().flat_map(move |(resource_type, names)| {
            names
                .iter()
                .map(move |name| (*resource_type, *name, is_data))
        })
    };
    of(namespace.operations, false).chain(of(namespace.data_operations, true))
}

fn full_name(namespace: &Namespace, resource_type: &str, name: &str) -> String {
    match resource_type {
        "" => format!("{}/{name}", namespace.name),
        resource_type => format!("{}/{resource_type}/{name}", namespace.name),
    }
}

/// How a pattern of a custom role fits the operations that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It names some.
    Named,
    /// It is about providers that are not here, and means nothing here.
    Foreign,
    /// It names data actions where others are wanted, or the other way round.
    OtherKind,
    /// It names nothing of a provider that is here.
    Nothing,
}

pub(super) fn fit(pattern: &ActionPattern, is_data: bool) -> Fit {
    let mut named = ACTIONS
        .iter()
        .filter(|(action, _)| pattern.matches(action))
        .peekable();
    if named.peek().is_some() {
        return if named.any(|(_, data)| *data == is_data) {
            Fit::Named
        } else {
            Fit::OtherKind
        };
    }
    match pattern.as_str().split_once('/') {
        Some((namespace, _)) if !is_ours(namespace) && namespace.contains('.') => Fit::Foreign,
        _ => Fit::Nothing,
    }
}

fn is_ours(namespace: &str) -> bool {
    NAMESPACES
        .iter()
        .any(|known| known.name.eq_ignore_ascii_case(namespace))
}

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            "ProviderOperations_List",
            Method::GET,
            PATH,
            Access::AnyPrincipal,
            "Lists the operations that roles can be about, by resource provider.",
            list,
        )
        .query(&["$expand"])
        .answers::<ProviderOperationsList>(200),
        Operation::new(
            "ProviderOperations_Get",
            Method::GET,
            format!("{PATH}/{{resourceProviderNamespace}}"),
            Access::AnyPrincipal,
            "Shows the operations of a resource provider.",
            get,
        )
        .query(&["$expand"])
        .answers::<ProviderOperationsBody>(200),
    ]
    .into_iter()
    .map(|operation| operation.versions("providerOperations", VERSIONS))
    .chain(of_provider::operations())
    .collect()
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ProviderOperationsBody {
    id: String,
    name: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    display_name: &'static str,
    resource_types: Vec<ResourceTypeBody>,
    operations: Vec<ProviderOperation>,
}

#[derive(Serialize, ToSchema)]
struct ProviderOperationsList {
    value: Vec<ProviderOperationsBody>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ResourceTypeBody {
    name: &'static str,
    display_name: &'static str,
    operations: Vec<ProviderOperation>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ProviderOperation {
    name: String,
    display_name: String,
    description: String,
    origin: &'static str,
    #[schema(value_type = Option<Object>)]
    properties: Option<Value>,
    is_data_action: bool,
}

fn described(
    namespace: &Namespace,
    resource_type: &str,
    name: &str,
    is_data_action: bool,
) -> ProviderOperation {
    let of = if resource_type.is_empty() {
        namespace.name
    } else {
        resource_type
    };
    let what = match name {
        "read" => format!("Read {of}"),
        "write" => format!("Create or change {of}"),
        "delete" => format!("Delete {of}"),
        other => match other.strip_suffix("/action") {
            Some(verb) => format!("Call {verb} on {of}"),
            None => format!("Read {} of {of}", other.trim_end_matches("/read")),
        },
    };
    ProviderOperation {
        name: full_name(namespace, resource_type, name),
        description: format!("{what}."),
        display_name: what,
        origin: "user,system",
        properties: None,
        is_data_action,
    }
}

fn body(namespace: &Namespace) -> ProviderOperationsBody {
    let mut own = Vec::new();
    let mut by_type: BTreeMap<&'static str, Vec<ProviderOperation>> = BTreeMap::new();
    for (resource_type, name, is_data) in tables(namespace) {
        let described = described(namespace, resource_type, name, is_data);
        if resource_type.is_empty() {
            own.push(described);
        } else {
            by_type.entry(resource_type).or_default().push(described);
        }
    }
    ProviderOperationsBody {
        id: format!("{PATH}/{}", namespace.name),
        name: namespace.name,
        kind: "Microsoft.Authorization/providerOperations",
        display_name: namespace.display_name,
        resource_types: by_type
            .into_iter()
            .map(|(name, operations)| ResourceTypeBody {
                name,
                display_name: name,
                operations,
            })
            .collect(),
        operations: own,
    }
}

async fn list(_app: Arc<App>, _request: Request) -> Result<Answer, ApiError> {
    Answer::ok(&Page::single(
        NAMESPACES.iter().map(body).collect::<Vec<_>>(),
    ))
}

async fn get(_app: Arc<App>, request: Request) -> Result<Answer, ApiError> {
    let name = request.parameter("resourceProviderNamespace");
    Answer::ok(&body(namespace(name)?))
}

fn namespace(name: &str) -> Result<&'static Namespace, ApiError> {
    NAMESPACES
        .iter()
        .find(|known| known.name.eq_ignore_ascii_case(name))
        .ok_or_else(|| {
            ApiError::not_found("ProviderNotFound", format!("Provider '{name}' not found."))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, is_data: bool) -> Fit {
        fit(&ActionPattern::parse(pattern).unwrap(), is_data)
    }

    #[test]
    fn patterns_are_held_to_what_there_is() {
        for (pattern, is_data, expected) in [
            ("*", false, Fit::Named),
            ("*/read", true, Fit::Named),
            (
                "microsoft.containerregistry/registries/PULL/read",
                false,
                Fit::Named,
            ),
            (
                "Microsoft.ContainerRegistry/registries/pul/read",
                false,
                Fit::Nothing,
            ),
            (
                "Microsoft.ContainerRegistry/registries/repositories/content/read",
                false,
                Fit::OtherKind,
            ),
            (
                "Microsoft.ContainerRegistry/registries/repositories/*",
                true,
                Fit::Named,
            ),
            (
                "Microsoft.ContainerRegistry/registries/pull/read",
                true,
                Fit::OtherKind,
            ),
            ("Microsoft.Support/*", false, Fit::Foreign),
            ("Microsoft.Support/tickets/read", true, Fit::Foreign),
            ("nonsense", false, Fit::Nothing),
            ("nonsense/read", false, Fit::Nothing),
        ] {
            assert_eq!(fits(pattern, is_data), expected, "{pattern}");
        }
    }

    #[test]
    fn every_pattern_of_a_built_in_role_could_stand_in_a_custom_one() {
        for role in rbac::built_in_roles() {
            for permission in &role.permissions {
                for (patterns, is_data) in [
                    (&permission.actions, false),
                    (&permission.not_actions, false),
                    (&permission.data_actions, true),
                ] {
                    for pattern in patterns {
                        assert!(
                            matches!(fit(pattern, is_data), Fit::Named | Fit::Foreign),
                            "{}: {pattern:?} {:?}",
                            role.role_name,
                            fit(pattern, is_data)
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn every_action_that_an_operation_here_declares_is_listed() {
        for operation in crate::operations() {
            if let Access::Action { action, .. } | Access::FilteredList(action) = operation.access {
                let action = Action::named(action);
                assert!(
                    ACTIONS.iter().any(|(known, _)| *known == action),
                    "{action}"
                );
            }
        }
    }
}
