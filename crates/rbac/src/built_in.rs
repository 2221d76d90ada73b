//! The role definitions that every installation has, with the ids that clients know by heart.
//!
//! Names, ids and actions follow the published lists of built-in roles (general, privileged and
//! containers).

use std::sync::LazyLock;

use uuid::{Uuid, uuid};

use crate::{ActionPattern, Permission, RoleDefinition, RoleKind, Scope};

/// A role as it stands in the tables below. `~` stands for `Microsoft.ContainerRegistry/registries`,
/// and a name with `{…}` for one name per word between the braces.
struct BuiltIn {
    id: Uuid,
    role_name: &'static str,
    description: &'static str,
    actions: &'static [&'static str],
    not_actions: &'static [&'static str],
    data_actions: &'static [&'static str],
}

/// Every built-in role.
pub fn built_in_roles() -> &'static [RoleDefinition] {
    static ROLES: LazyLock<Vec<RoleDefinition>> = LazyLock::new(|| {
        GENERAL
            .iter()
            .chain(REGISTRY_CONTENT)
            .chain(REGISTRY_CONFIGURATION)
            .map(BuiltIn::definition)
            .collect()
    });
    &ROLES
}

impl BuiltIn {
    fn definition(&self) -> RoleDefinition {
        RoleDefinition {
            id: self.id,
            role_name: self.role_name.to_owned(),
            description: self.description.to_owned(),
            kind: RoleKind::BuiltIn,
            permissions: vec![Permission {
                actions: patterns(self.actions),
                not_actions: patterns(self.not_actions),
                data_actions: patterns(self.data_actions),
                not_data_actions: Vec::new(),
            }],
            assignable_scopes: vec![Scope::root()],
        }
    }
}

fn patterns(names: &[&str]) -> Vec<ActionPattern> {
    names
        .iter()
        .flat_map(|name| expand(name))
        .map(|name| ActionPattern::parse(&name).expect("the tables hold patterns only"))
        .collect()
}

fn expand(name: &str) -> Vec<String> {
    let name = name.replace('~', "Microsoft.ContainerRegistry/registries");
    match (name.split_once('{'), name.rsplit_once('}')) {
        (Some((start, _)), Some((_, end))) => name[start.len() + 1..name.len() - end.len() - 1]
            .split(',')
            .map(|word| format!("{start}{word}{end}"))
            .collect(),
        _ => vec![name],
    }
}

/// Everything that roles besides the registry's own can be about.
const GENERAL: &[BuiltIn] = &[
    BuiltIn {
        id: uuid!("8e3af657-a8ff-443c-a75c-2fe8c4bcb635"),
        role_name: "Owner",
        description: "Manages everything, and assigns roles to others.",
        actions: &["*"],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltIn {
        id: uuid!("b24988ac-6180-42a0-ab88-20f7382dd24c"),
        role_name: "Contributor",
        description: "Manages everything, but assigns no roles.",
        actions: &["*"],
        not_actions: &[
            "Microsoft.Authorization/*/Delete",
            "Microsoft.Authorization/*/Write",
            "Microsoft.Authorization/elevateAccess/Action",
            "Microsoft.Blueprint/blueprintAssignments/{write,delete}",
            "Microsoft.Compute/galleries/share/action",
            "Microsoft.Purview/consents/{write,delete}",
            "Microsoft.Resources/deploymentStacks/manageDenySetting/action",
            "Microsoft.Subscription/{cancel,enable}/action",
        ],
        data_actions: &[],
    },
    BuiltIn {
        id: uuid!("acdd72a7-3385-48ef-bd42-f606fba81ae7"),
        role_name: "Reader",
        description: "Sees everything, and changes nothing.",
        actions: &["*/read"],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltIn {
        id: uuid!("18d7d88d-d35e-4fb5-a5c3-7773c20a72d9"),
        role_name: "User Access Administrator",
        description: "Manages who has access to resources.",
        actions: &["*/read", "Microsoft.Authorization/*", "Microsoft.Support/*"],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltIn {
        id: uuid!("f58310d9-a9f6-439a-9e8d-f62e7b41a168"),
        role_name: "Role Based Access Control Administrator",
        description: "Assigns roles to others, and manages nothing else about access.",
        actions: &[
            "Microsoft.Authorization/roleAssignments/{write,delete}",
            "*/read",
            "Microsoft.Support/*",
        ],
        not_actions: &[],
        data_actions: &[],
    },
];

/// What registries hold.
const REGISTRY_CONTENT: &[BuiltIn] = &[
    BuiltIn {
        id: uuid!("7f951dda-4ed3-4680-a7ca-43fe172d538d"),
        role_name: "AcrPull",
        description: "Pulls artifacts from a registry.",
        actions: &["~/pull/read"],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltIn {
        id: uuid!("8311e382-0749-4cb8-b61a-304f252e45ec"),
        role_name: "AcrPush",
        description: "Pushes artifacts to a registry and pulls them.",
        actions: &["~/pull/read", "~/push/write"],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltIn {
        id: uuid!("c2f4ef07-c644-48eb-af81-4b1b4947fb11"),
        role_name: "AcrDelete",
        description: "Deletes repositories, tags and manifests of a registry.",
        actions: &["~/artifacts/delete"],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltIn {
        id: uuid!("6cef56e8-d556-48e5-a04f-b8e64114680f"),
        role_name: "AcrImageSigner",
        description: "Writes signatures for a registry with content trust.",
        actions: &["~/sign/write"],
        not_actions: &[],
        data_actions: &["~/trustedCollections/write"],
    },
    BuiltIn {
        id: uuid!("cdda3590-29a3-44f6-95f2-9f980659eb04"),
        role_name: "AcrQuarantineReader",
        description: "Pulls quarantined artifacts from a registry.",
        actions: &["~/quarantine/read"],
        not_actions: &[],
        data_actions: &["~/quarantinedArtifacts/read"],
    },
    BuiltIn {
        id: uuid!("c8d4ff99-41c3-41a8-9f60-21dfdad59608"),
        role_name: "AcrQuarantineWriter",
        description: "Pulls quarantined artifacts and changes their quarantine state.",
        actions: &["~/quarantine/{read,write}"],
        not_actions: &[],
        data_actions: &["~/quarantinedArtifacts/{read,write}"],
    },
    BuiltIn {
        id: uuid!("b93aa761-3e63-49ed-ac28-beffa264f7ac"),
        role_name: "Container Registry Repository Reader",
        description: "Reads repositories; does not list them.",
        actions: &[],
        not_actions: &[],
        data_actions: &["~/repositories/{metadata,content}/read"],
    },
    BuiltIn {
        id: uuid!("2a1e307c-b015-4ebd-883e-5b7698a07328"),
        role_name: "Container Registry Repository Writer",
        description: "Reads and writes repositories; does not list them.",
        actions: &[],
        not_actions: &[],
        data_actions: &[
            "~/repositories/metadata/{read,write}",
            "~/repositories/content/{read,write}",
        ],
    },
    BuiltIn {
        id: uuid!("2efddaa5-3f1f-4df3-97df-af3f13818f4c"),
        role_name: "Container Registry Repository Contributor",
        description: "Reads, writes and deletes repositories; does not list them.",
        actions: &[],
        not_actions: &[],
        data_actions: &[
            "~/repositories/metadata/{read,write,delete}",
            "~/repositories/content/{read,write,delete}",
        ],
    },
    BuiltIn {
        id: uuid!("bfdb9389-c9a5-478a-bb2f-ba9ca092c3c7"),
        role_name: "Container Registry Repository Catalog Lister",
        description: "Lists the repositories of a registry.",
        actions: &[],
        not_actions: &[],
        data_actions: &["~/catalog/read"],
    },
    BuiltIn {
        id: uuid!("577a9874-89fd-4f24-9dbd-b5034d0ad23a"),
        role_name: "Container Registry Data Importer and Data Reader",
        description: "Imports artifacts into a registry, and reads and lists what it holds.",
        actions: &["~/importImage/action", "~/read", "~/pull/read"],
        not_actions: &[],
        data_actions: &["~/repositories/{content,metadata}/read", "~/catalog/read"],
    },
];

/// How registries are set up.
const REGISTRY_CONFIGURATION: &[BuiltIn] = &[
    BuiltIn {
        id: uuid!("3bc748fc-213d-45c1-8d91-9da5725539b9"),
        role_name: "Container Registry Contributor and Data Access Configuration Administrator",
        description: "Manages registries and the credentials, tokens and scope maps that open them; has no right to what they hold.",
        actions: &[
            "~/{read,write,delete}",
            "~/operationStatuses/read",
            "~/{listCredentials,regenerateCredential,generateCredentials}/action",
            "~/{listUsages,listPolicies}/read",
            "~/updatePolicies/write",
            "~/replications/{read,write,delete,operationStatuses/read}",
            "~/privateEndpointConnectionsApproval/action",
            "~/privateEndpointConnections/{read,write,delete,operationStatuses/read}",
            "~/privateEndpointConnectionProxies/{validate/action,read,write,delete,operationStatuses/read}",
            "~/tokens/{read,write,delete,operationStatuses/read}",
            "~/scopeMaps/{read,write,delete,operationStatuses/read}",
            "~/webhooks/{read,write,delete,getCallbackConfig/action,ping/action,listEvents/action,operationStatuses/read}",
            "~/connectedRegistries/{read,write,delete,deactivate/action}",
            "~/providers/Microsoft.Insights/diagnosticSettings/{read,write}",
            "~/providers/Microsoft.Insights/{logDefinitions,metricDefinitions}/read",
            "Microsoft.ContainerRegistry/{checkNameAvailability,operations}/read",
            "Microsoft.ContainerRegistry/locations/operationResults/read",
            "Microsoft.Resources/deployments/*",
            "Microsoft.Resources/subscriptions/resourceGroups/read",
            "Microsoft.Authorization/*/read",
            "Microsoft.Network/virtualNetworks/subnets/{join,joinViaServiceEndpoint}/action",
        ],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltIn {
        id: uuid!("69b07be0-09bf-439a-b9a6-e73de851bd59"),
        role_name: "Container Registry Configuration Reader and Data Access Configuration Reader",
        description: "Sees how registries are set up, with the credentials that open them; has no right to what they hold.",
        actions: &[
            "~/{read,operationStatuses/read,listUsages/read,listPolicies/read}",
            "~/listCredentials/action",
            "~/{replications,privateEndpointConnections,privateEndpointConnectionProxies}/read",
            "~/{replications,privateEndpointConnections,privateEndpointConnectionProxies}/operationStatuses/read",
            "~/{tokens,scopeMaps,webhooks}/read",
            "~/{tokens,scopeMaps,webhooks}/operationStatuses/read",
            "~/webhooks/{getCallbackConfig,listEvents}/action",
            "~/connectedRegistries/read",
            "~/providers/Microsoft.Insights/{diagnosticSettings,logDefinitions,metricDefinitions}/read",
            "Microsoft.ContainerRegistry/{checkNameAvailability,operations}/read",
            "Microsoft.ContainerRegistry/locations/operationResults/read",
            "Microsoft.Resources/subscriptions/resourceGroups/read",
            "Microsoft.Authorization/*/read",
        ],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltIn {
        id: uuid!("f094fb07-0703-4400-ad6a-e16dd8000e14"),
        role_name: "Container Registry Credential Set Administrator",
        description: "Manages credential sets of a registry.",
        actions: &["~/credentialSets/{read,write,delete,operationStatuses/read}"],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltIn {
        id: uuid!("29093635-9924-4f2c-913b-650a12949526"),
        role_name: "Container Registry Credential Set Reader",
        description: "Sees credential sets of a registry.",
        actions: &["~/credentialSets/read"],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltIn {
        id: uuid!("df87f177-bb12-4db1-9793-a413691eff94"),
        role_name: "Container Registry Cache Rule Administrator",
        description: "Manages cache rules of a registry.",
        actions: &["~/cacheRules/{read,write,delete,operationStatuses/read}"],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltIn {
        id: uuid!("c357b964-0002-4b64-a50d-7a28f02edc52"),
        role_name: "Container Registry Cache Rule Reader",
        description: "Sees cache rules of a registry.",
        actions: &["~/cacheRules/read"],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltIn {
        id: uuid!("fb382eab-e894-4461-af04-94435c366c3f"),
        role_name: "Container Registry Tasks Contributor",
        description: "Manages and runs tasks of a registry.",
        actions: &[
            "~/read",
            "~/agentpools/{read,write,delete,listQueueStatus/action,operationResults/status/read,operationStatuses/read}",
            "~/tasks/{read,write,delete,listDetails/action}",
            "~/runs/{read,write,listLogSasUrl/action,cancel/action}",
            "~/taskruns/{read,write,delete,listDetails/action,operationStatuses/read}",
            "~/{scheduleRun,listBuildSourceUploadUrl}/action",
        ],
        not_actions: &[],
        data_actions: &[],
    },
    BuiltIn {
        id: uuid!("bf94e731-3a51-4a7c-8c54-a1ab9971dfc1"),
        role_name: "Container Registry Transfer Pipeline Contributor",
        description: "Moves artifacts in and out of a registry through pipelines.",
        actions: &[
            "~/exportPipelines/{read,write,delete}",
            "~/importPipelines/{read,write,delete}",
            "~/pipelineRuns/{read,write,delete,operationStatuses/read}",
        ],
        not_actions: &[],
        data_actions: &[],
    },
];
