//! The kinds of documents and their bodies.

use credentials::{PasswordVerifier, PublicKey, Verifier};
use rbac::{RoleAssignment, RoleDefinition};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Region;

/// What a document is about. Kinds and forms that a node does not know are rejected by it one by one, and hold up nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Registry,
    RegistryName,
    Node,
    Principal,
    Group,
    RoleDefinition,
    RoleAssignment,
    SigningKey,
    SignInKey,
}

/// Each kind with its name on the wire and the newest form that this build writes and reads.
const KINDS: [(Kind, &str, u32); 9] = [
    // Form 2 adds anonymous pull, retention and the quota. Without them an earlier build lets nobody in and removes nothing; storage it
    // never limited.
    (Kind::Registry, "registry", 2),
    (Kind::RegistryName, "registry-name", 1),
    (Kind::Node, "node", 1),
    // Form 2 adds secrets that the caller chose, and credentials that only sign in. An earlier build denies what they would allow.
    (Kind::Principal, "principal", 2),
    (Kind::Group, "group", 1),
    (Kind::RoleDefinition, "role-definition", 1),
    // Form 2 adds the condition. Never written in form 1 with one: an earlier build would grant more.
    (Kind::RoleAssignment, "role-assignment", 2),
    // Form 2 names the node's region, so that the document can be for all regions.
    (Kind::SigningKey, "signing-key", 2),
    (Kind::SignInKey, "sign-in-key", 1),
];

/// The newest form of each kind that this build understands, and of the stream's messages, as a node announces it.
pub fn forms() -> BTreeMap<String, u32> {
    KINDS
        .iter()
        .map(|(_, name, form)| ((*name).to_owned(), *form))
        .chain([(crate::STREAM_FORM.to_owned(), NEWEST_STREAM_FORM)])
        .collect()
}

/// The newest form of the stream's messages that this build understands.
const NEWEST_STREAM_FORM: u32 = 4;

impl Kind {
    pub fn parse(name: &str) -> Option<Self> {
        KINDS
            .iter()
            .find(|(_, known, _)| *known == name)
            .map(|(kind, _, _)| *kind)
    }

    pub fn as_str(self) -> &'static str {
        self.entry().1
    }

    /// The form that documents of this kind are written in.
    pub fn form(self) -> u32 {
        self.entry().2
    }

    fn entry(self) -> &'static (Kind, &'static str, u32) {
        KINDS
            .iter()
            .find(|(kind, _, _)| *kind == self)
            .expect("every kind stands in the table")
    }
}

/// One fact that nodes need. Key and body together say all of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    Registry(Registry),
    RegistryName(RegistryName),
    Node(Node),
    Principal(Principal),
    Group(Group),
    RoleDefinition(RoleDefinition),
    RoleAssignment(RoleAssignment),
    SigningKey(SigningKey),
    SignInKey(SignInKey),
}

/// A registry: who it is, where it stands in the tree of scopes, and its admin account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registry {
    /// Immutable; names the registry's content, so a re-created name starts empty.
    pub uid: Uuid,
    pub name: String,
    /// The ARM id, which is the scope that access is evaluated at.
    pub resource_id: String,
    /// With the port, in lower case; what clients type.
    pub login_server: String,
    pub home_region: Region,
    pub role_assignment_mode: RoleAssignmentMode,
    /// Absent while the admin account is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_user: Option<AdminUser>,
    /// Whether everybody may pull, without credentials (form 2).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anonymous_pull_enabled: bool,
    /// Which manifests without a tag are removed (form 2). Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Pushes are refused while more is stored (form 2). Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
}

/// A manifest that no tag names is removed when every rule that is here allows it; one that is not here allows it always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// It was pushed so many days ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days_since_push: Option<u32>,
    /// It was not pulled for so many days. One that was never pulled counts from its push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days_since_pull: Option<u32>,
    /// It is not among so many of its repository that were pushed last and have no tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_newest: Option<u32>,
}

/// Which rights count in a registry's data plane (`roleAssignmentMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoleAssignmentMode {
    LegacyRegistryPermissions,
    AbacRepositoryPermissions,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdminUser {
    pub username: String,
    pub passwords: Vec<AdminPassword>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdminPassword {
    pub slot: AdminPasswordSlot,
    /// Another number, never used before, whenever this password is renewed or the account is switched on again; tokens of another
    /// generation are dead.
    pub generation: u64,
    pub verifier: Verifier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AdminPasswordSlot {
    #[serde(rename = "password")]
    Password,
    #[serde(rename = "password2")]
    Password2,
}

impl AdminPasswordSlot {
    pub const ALL: [Self; 2] = [Self::Password, Self::Password2];

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|slot| slot.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Password2 => "password2",
        }
    }
}

/// A name that is taken by a registry, and where that registry lives; every node has all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistryName {
    /// Lower case.
    pub name: String,
    pub uid: Uuid,
    pub login_server: String,
    pub home_region: Region,
    pub regions: Vec<Region>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub node_id: Uuid,
    pub region: Region,
    /// Host and port at which other nodes reach this one.
    pub address: String,
}

/// A principal that can hold roles. People's passwords never appear here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Principal {
    pub object_id: Uuid,
    /// The user name of a service principal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_id: Option<Uuid>,
    pub enabled: bool,
    pub secrets: Vec<PrincipalSecret>,
    /// Secrets that the caller chose (form 2).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chosen_secrets: Vec<ChosenSecret>,
    /// Credentials that nodes never see, but that sign in at the control plane: certificates, federated credentials, and the password of a
    /// person (form 2). Tokens that came from one which is not here, or is over, are dead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sign_in_credentials: Vec<SignInCredential>,
    /// The groups that it is a direct member of.
    #[serde(default)]
    pub groups: Vec<Uuid>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrincipalSecret {
    pub key_id: Uuid,
    pub verifier: Verifier,
    /// Five minutes of clock difference are allowed.
    #[serde(with = "time::serde::rfc3339")]
    pub starts_at: OffsetDateTime,
    /// By the node's own clock, without allowance.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

/// A secret with little entropy: checking it is slow on purpose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChosenSecret {
    pub key_id: Uuid,
    pub verifier: PasswordVerifier,
    /// Five minutes of clock difference are allowed.
    #[serde(with = "time::serde::rfc3339")]
    pub starts_at: OffsetDateTime,
    /// By the node's own clock, without allowance.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignInCredential {
    /// What tokens of sign-in name as `cred`.
    pub key_id: Uuid,
    /// Absent for one that does not end by itself.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    pub expires_at: Option<OffsetDateTime>,
}

/// The public part of a key with which the control plane signs access tokens; nodes take such tokens at `/oauth2/exchange`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignInKey {
    pub public_key: PublicKey,
    pub tenant_id: Uuid,
    /// Every `iss` that a token may have.
    pub issuers: Vec<String>,
    /// Every `aud` that nodes take: that of the control plane, and that of registries.
    pub audiences: Vec<String>,
    /// From then on tokens that it signed count no more. What nodes gave for one before counts while the document is there.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    pub ends_at: Option<OffsetDateTime>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    pub object_id: Uuid,
    /// The groups that this one is a direct member of.
    pub groups: Vec<Uuid>,
}

/// The public part of the key with which a node signs its registry tokens; accepted only for registries present in that node's region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SigningKey {
    pub node_id: Uuid,
    pub public_key: PublicKey,
    /// Where the node is. Absent in form 1, whose documents are for the node's region only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
}

/// A document that this build cannot understand.
#[derive(Debug, thiserror::Error)]
pub enum MalformedDocument {
    #[error("kind '{0}' is unknown")]
    UnknownKind(String),
    #[error("form {form} of kind '{kind}' is unknown; the newest known is {newest}")]
    UnknownForm {
        kind: &'static str,
        form: u64,
        newest: u32,
    },
    #[error("the body of kind '{kind}' is malformed")]
    Body {
        kind: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("the body of kind '{kind}' belongs to the key '{body}', not to '{key}'")]
    Key {
        kind: &'static str,
        key: String,
        body: String,
    },
}

impl Document {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Registry(_) => Kind::Registry,
            Self::RegistryName(_) => Kind::RegistryName,
            Self::Node(_) => Kind::Node,
            Self::Principal(_) => Kind::Principal,
            Self::Group(_) => Kind::Group,
            Self::RoleDefinition(_) => Kind::RoleDefinition,
            Self::RoleAssignment(_) => Kind::RoleAssignment,
            Self::SigningKey(_) => Kind::SigningKey,
            Self::SignInKey(_) => Kind::SignInKey,
        }
    }

    /// The key within the kind; derivable from the body, so a document cannot stand under a wrong one.
    pub fn key(&self) -> String {
        match self {
            Self::Registry(registry) => registry.uid.to_string(),
            Self::RegistryName(name) => name.name.clone(),
            Self::Node(node) => node.node_id.to_string(),
            Self::Principal(principal) => principal.object_id.to_string(),
            Self::Group(group) => group.object_id.to_string(),
            Self::RoleDefinition(definition) => definition.id.to_string(),
            Self::RoleAssignment(assignment) => assignment.id.to_string(),
            Self::SigningKey(key) => key.public_key.kid().to_owned(),
            Self::SignInKey(key) => key.public_key.kid().to_owned(),
        }
    }

    /// The JSON text that is stored, sent and summed: `form`, the newest, beside the members of the kind.
    pub fn body(&self) -> String {
        self.text(self.kind().form())
    }

    /// The same in an older form, without what that cannot say, as long as a node then allows no more than it should. `None` where it would,
    /// and in form 0, which stands for nodes that do not know the kind.
    pub fn body_in_form(&self, form: u32) -> Option<String> {
        if form == 0 {
            return None;
        }
        let older = match self {
            Self::Registry(content) if form == 1 => Self::Registry(Registry {
                anonymous_pull_enabled: false,
                retention: None,
                quota_bytes: None,
                ..content.clone()
            }),
            Self::Principal(content) if form == 1 => Self::Principal(Principal {
                chosen_secrets: Vec::new(),
                sign_in_credentials: Vec::new(),
                ..content.clone()
            }),
            Self::SigningKey(content) if form == 1 => Self::SigningKey(SigningKey {
                region: None,
                ..content.clone()
            }),
            Self::RoleAssignment(content) if form == 1 && content.condition.is_some() => {
                return None;
            }
            _ => return Some(self.text(form)),
        };
        Some(older.text(form))
    }

    /// Whether an older form says all of the document. The region of a signing key is not missed: it is that which form 1 is stored for.
    pub fn is_whole_in_form(&self, form: u32) -> bool {
        match self {
            _ if form == 0 => false,
            Self::Registry(content) if form == 1 => {
                !content.anonymous_pull_enabled
                    && content.retention.is_none()
                    && content.quota_bytes.is_none()
            }
            Self::Principal(content) if form == 1 => {
                content.chosen_secrets.is_empty() && content.sign_in_credentials.is_empty()
            }
            Self::RoleAssignment(content) if form == 1 => content.condition.is_none(),
            _ => true,
        }
    }

    fn text(&self, form: u32) -> String {
        #[derive(Serialize)]
        struct Body<'a, T> {
            form: u32,
            #[serde(flatten)]
            content: &'a T,
        }
        fn text<T: Serialize>(form: u32, content: &T) -> String {
            serde_json::to_string(&Body { form, content }).expect("documents have string keys only")
        }
        match self {
            Self::Registry(content) => text(form, content),
            Self::RegistryName(content) => text(form, content),
            Self::Node(content) => text(form, content),
            Self::Principal(content) => text(form, content),
            Self::Group(content) => text(form, content),
            Self::RoleDefinition(content) => text(form, content),
            Self::RoleAssignment(content) => text(form, content),
            Self::SigningKey(content) => text(form, content),
            Self::SignInKey(content) => text(form, content),
        }
    }

    /// Reads a stored body back.
    ///
    /// # Errors
    /// An unknown kind or form, a malformed body, or a body that belongs to another key.
    pub fn parse(kind: &str, key: &str, body: &str) -> Result<Self, MalformedDocument> {
        #[derive(Deserialize)]
        struct Form {
            form: u64,
        }
        fn read<'a, T: Deserialize<'a>>(kind: Kind, body: &'a str) -> Result<T, MalformedDocument> {
            serde_json::from_str(body).map_err(|source| MalformedDocument::Body {
                kind: kind.as_str(),
                source,
            })
        }
        let kind = Kind::parse(kind)
            .ok_or_else(|| MalformedDocument::UnknownKind(kind.chars().take(40).collect()))?;
        let Form { form } = read(kind, body)?;
        if form == 0 || form > u64::from(kind.form()) {
            return Err(MalformedDocument::UnknownForm {
                kind: kind.as_str(),
                form,
                newest: kind.form(),
            });
        }
        let document = match kind {
            Kind::Registry => Self::Registry(read(kind, body)?),
            Kind::RegistryName => Self::RegistryName(read(kind, body)?),
            Kind::Node => Self::Node(read(kind, body)?),
            Kind::Principal => Self::Principal(read(kind, body)?),
            Kind::Group => Self::Group(read(kind, body)?),
            Kind::RoleDefinition => Self::RoleDefinition(read(kind, body)?),
            Kind::RoleAssignment => Self::RoleAssignment(read(kind, body)?),
            Kind::SigningKey => Self::SigningKey(read(kind, body)?),
            Kind::SignInKey => Self::SignInKey(read(kind, body)?),
        };
        if document.key() == key {
            Ok(document)
        } else {
            Err(MalformedDocument::Key {
                kind: kind.as_str(),
                key: key.to_owned(),
                body: document.key(),
            })
        }
    }
}
