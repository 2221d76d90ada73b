//! What both test programs share: documents, and a feed of them without a network.

#![allow(dead_code, reason = "each test program uses its part")]

use std::{collections::BTreeMap, path::Path, sync::Arc};

use config_documents::{
    AdminPassword, AdminPasswordSlot, AdminUser, Checksum, ControlPlaneMessage, Document, Epoch,
    Group, NodeMessage, Principal, PrincipalSecret, Region, Registry, RegistryName, Revision,
    RoleAssignmentMode, SigningKey as SigningKeyDocument, StoredDocument,
};
use credentials::{PublicKey, Secret, SecretKind, SystemRandomness, Verifier, generate};
use rbac::{Condition, RoleAssignment, Scope};
use registry_node::config::{Applier, Configuration, LocalCopy, Standing};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

pub(crate) const REGION: &str = "westus";
pub(crate) const SUBSCRIPTION: &str = "/subscriptions/5b1d7a52-0000-4000-8000-000000000001";

pub(crate) fn now() -> OffsetDateTime {
    (service::clock::of_the_system())()
}

pub(crate) fn region() -> Region {
    Region(REGION.to_owned())
}

/// A control plane's side of the stream, speaking directly to the applier.
pub(crate) struct Feed {
    pub(crate) applier: Applier,
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) epoch: Epoch,
    pub(crate) revision: u64,
    documents: BTreeMap<(String, String), StoredDocument>,
}

impl Feed {
    /// A node with an empty copy in the directory.
    pub(crate) fn new(directory: &Path) -> Self {
        Self::with_standing(directory, Standing::unbounded())
    }

    pub(crate) fn with_standing(directory: &Path, standing: Standing) -> Self {
        let opened = LocalCopy::open(directory, now()).expect("a fresh copy");
        let state = opened.copy.state().copied();
        let configuration = Configuration::with_standing(opened.index, state, standing);
        let configuration = Arc::new(configuration);
        let applier = Applier::new(Arc::clone(&configuration), opened.copy, region());
        Self {
            applier,
            configuration,
            epoch: Epoch(Uuid::from_u128(7)),
            revision: 0,
            documents: BTreeMap::new(),
        }
    }

    /// A node that has applied these documents.
    pub(crate) fn with(directory: &Path, documents: Vec<Document>) -> Self {
        Self::new(directory).begun_with(documents)
    }

    /// The same, having applied these documents as a snapshot.
    pub(crate) fn begun_with(self, documents: Vec<Document>) -> Self {
        let mut feed = self;
        feed.receive(ControlPlaneMessage::SnapshotBegin { epoch: feed.epoch });
        feed.send(documents);
        feed.receive(ControlPlaneMessage::SnapshotEnd);
        feed.mark();
        feed
    }

    pub(crate) fn receive(&mut self, message: ControlPlaneMessage) -> Option<NodeMessage> {
        self.applier.receive(message, now()).expect("in order")
    }

    /// Stages documents, as the control plane's next change.
    pub(crate) fn send(&mut self, documents: Vec<Document>) {
        self.revision += 1;
        let stored = documents
            .iter()
            .map(|document| self.stored(document))
            .collect();
        self.send_stored(stored);
    }

    pub(crate) fn send_stored(&mut self, stored: Vec<StoredDocument>) {
        for document in &stored {
            let key = (document.kind.clone(), document.key.clone());
            if document.body.is_some() {
                self.documents.insert(key, document.clone());
            } else {
                self.documents.remove(&key);
            }
        }
        self.receive(ControlPlaneMessage::Documents { documents: stored });
    }

    pub(crate) fn stored(&self, document: &Document) -> StoredDocument {
        StoredDocument {
            region: region(),
            kind: document.kind().as_str().to_owned(),
            key: document.key(),
            body: Some(document.body()),
            revision: Revision(self.revision),
        }
    }

    /// All documents that are there.
    pub(crate) fn live(&self) -> impl Iterator<Item = &StoredDocument> {
        self.documents.values()
    }

    /// Takes a document away without telling anybody.
    pub(crate) fn forget(&mut self, document: &Document) {
        let key = (document.kind().as_str().to_owned(), document.key());
        self.documents.remove(&key);
    }

    pub(crate) fn checksum(&self) -> Checksum {
        let mut sum = Checksum::default();
        for document in self.documents.values() {
            let body = document.body.as_deref().expect("only live ones are kept");
            sum += Checksum::of(
                document.region.as_str(),
                &document.kind,
                &document.key,
                body,
            );
        }
        sum
    }

    pub(crate) fn mark(&mut self) -> Option<NodeMessage> {
        self.mark_with(self.checksum())
    }

    pub(crate) fn mark_with(&mut self, checksum: Checksum) -> Option<NodeMessage> {
        self.receive(ControlPlaneMessage::Mark {
            epoch: self.epoch,
            revision: Revision(self.revision),
            time: now(),
            checksum,
            heard: 0,
        })
    }

    /// One change, in force when this returns.
    pub(crate) fn publish(&mut self, documents: Vec<Document>) {
        self.send(documents);
        assert_applied(self.mark());
    }

    /// One deletion, in force when this returns.
    pub(crate) fn delete(&mut self, document: &Document) {
        self.revision += 1;
        let tombstone = StoredDocument {
            body: None,
            ..self.stored(document)
        };
        self.send_stored(vec![tombstone]);
        assert_applied(self.mark());
    }
}

pub(crate) fn assert_applied(answer: Option<NodeMessage>) {
    assert!(
        matches!(answer, Some(NodeMessage::Applied { .. })),
        "{answer:?}"
    );
}

pub(crate) fn secret(kind: SecretKind) -> Secret {
    generate(kind, &SystemRandomness)
}

pub(crate) fn resource_id(name: &str) -> String {
    format!(
        "{SUBSCRIPTION}/resourceGroups/Team/providers/Microsoft.ContainerRegistry/registries/{name}"
    )
}

pub(crate) fn login_server(name: &str, port: u16) -> String {
    format!("{}.registry.localhost:{port}", name.to_lowercase())
}

/// A registry with its admin account on; `passwords` with their generations.
pub(crate) fn registry(uid: u128, name: &str, port: u16, passwords: &[(&Secret, u64)]) -> Registry {
    let admin_user = (!passwords.is_empty()).then(|| AdminUser {
        username: name.to_owned(),
        passwords: AdminPasswordSlot::ALL
            .into_iter()
            .zip(passwords)
            .map(|(slot, (password, generation))| AdminPassword {
                slot,
                generation: *generation,
                verifier: Verifier::of(password, &SystemRandomness),
            })
            .collect(),
    });
    Registry {
        uid: Uuid::from_u128(uid),
        name: name.to_owned(),
        resource_id: resource_id(name),
        login_server: login_server(name, port),
        home_region: region(),
        role_assignment_mode: RoleAssignmentMode::LegacyRegistryPermissions,
        admin_user,
        anonymous_pull_enabled: false,
        retention: None,
        quota_bytes: None,
    }
}

pub(crate) fn registry_name(registry: &Registry, home: &str) -> Document {
    Document::RegistryName(RegistryName {
        name: registry.name.to_lowercase(),
        uid: registry.uid,
        login_server: registry.login_server.clone(),
        home_region: Region(home.to_owned()),
        regions: vec![Region(home.to_owned())],
    })
}

pub(crate) fn object_id(number: u128) -> Uuid {
    Uuid::from_u128(0x0b1e_c700 + number)
}

pub(crate) fn app_id(number: u128) -> Uuid {
    Uuid::from_u128(0xabcd_ef00_0000_0000_0000_0000_0000_0000 + number)
}

/// A service principal with one secret that is valid now.
pub(crate) fn principal(number: u128, secret: &Secret, groups: &[Uuid]) -> Principal {
    Principal {
        object_id: object_id(number),
        app_id: Some(app_id(number)),
        enabled: true,
        secrets: vec![PrincipalSecret {
            key_id: Uuid::from_u128(0x5ec0 + number),
            verifier: Verifier::of(secret, &SystemRandomness),
            starts_at: now() - Duration::hours(1),
            expires_at: now() + Duration::hours(1),
        }],
        chosen_secrets: Vec::new(),
        sign_in_credentials: Vec::new(),
        groups: groups.to_vec(),
    }
}

pub(crate) fn group(object_id: Uuid, groups: &[Uuid]) -> Document {
    Document::Group(Group {
        object_id,
        groups: groups.to_vec(),
    })
}

pub(crate) fn roles() -> Vec<Document> {
    rbac::built_in_roles()
        .iter()
        .cloned()
        .map(Document::RoleDefinition)
        .collect()
}

pub(crate) fn role_id(name: &str) -> Uuid {
    rbac::built_in_roles()
        .iter()
        .find(|role| role.role_name == name)
        .expect("a built-in role")
        .id
}

pub(crate) fn assignment(number: u128, scope: &str, principal_id: Uuid, role: &str) -> Document {
    Document::RoleAssignment(RoleAssignment {
        id: Uuid::from_u128(0xa551_6000 + number),
        scope: Scope::parse(scope).expect("a scope"),
        principal_id,
        role_definition_id: role_id(role),
        condition: None,
    })
}

/// The same, restricted: `actions` are the ends of names of data actions, `comparisons` what follows the repository's name.
pub(crate) fn restricted(document: Document, actions: &[&str], comparisons: &[&str]) -> Document {
    let Document::RoleAssignment(assignment) = document else {
        panic!("an assignment");
    };
    let prefix = "Microsoft.ContainerRegistry/registries/repositories";
    let guard: Vec<String> = actions
        .iter()
        .map(|action| format!("!(ActionMatches{{'{prefix}/{action}'}})"))
        .collect();
    let names: Vec<String> = comparisons
        .iter()
        .map(|comparison| format!("@Request[{prefix}:name] {comparison}"))
        .collect();
    let text = format!("(({}) OR ({}))", guard.join(" AND "), names.join(" OR "));
    Document::RoleAssignment(RoleAssignment {
        condition: Some(Condition::parse(&text).expect("a condition")),
        ..assignment
    })
}

pub(crate) fn signing_key(key: PublicKey) -> Document {
    Document::SigningKey(SigningKeyDocument {
        node_id: Uuid::from_u128(99),
        public_key: key,
        region: Some(Region("westus".to_owned())),
    })
}
