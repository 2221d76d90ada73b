//! What requests are decided by: the configuration in memory, indexed by what requests ask for.
//!
//! Applying one document costs the same whatever the size of the index. A document that cannot be
//! understood takes away what it governs and nothing else, and is kept in a list of rejected ones.

mod access;
mod assignments;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use config_documents::{
    Document, Group, Kind, Node, Principal, Region, Registry, RegistryName, Rejected, SignInKey,
    StoredDocument,
};
use credentials::TokenVerifier;
use rbac::{RoleDefinition, Scope};
use uuid::Uuid;

use super::sharded_map::ShardedMap;
pub use access::Access;
use assignments::Assignments;

/// A registry of this node's region, ready for requests.
pub struct RegistryEntry {
    /// The document.
    pub registry: Registry,
    /// Where access to it is evaluated.
    pub scope: Scope,
    /// The canonical key of the admin account's user name.
    pub admin_user_key: Option<String>,
    /// The numbers of the scope and of all above it, in the order of [`Scope::ancestors_and_self`].
    scope_numbers: Box<[u32]>,
}

/// A key that a node signs with.
pub struct SigningKeyEntry {
    /// The node that signs with it.
    pub node_id: Uuid,
    /// Where that node is; `None` for this node's own region, whose keys alone are told without it (form 1).
    pub region: Option<Region>,
    /// The public part, prepared.
    pub verifier: TokenVerifier,
}

/// A key with which the control plane signs access tokens.
pub struct SignInKeyEntry {
    /// The document.
    pub key: SignInKey,
    /// The public part, prepared.
    pub verifier: TokenVerifier,
}

/// The configuration in memory. What there may be much of is in maps that grow in small steps.
#[derive(Default)]
pub struct Index {
    registries: ShardedMap<Uuid, Arc<RegistryEntry>>,
    /// Login servers of this region's registries, without port.
    hosts: ShardedMap<String, Uuid>,
    names: ShardedMap<String, RegistryName>,
    /// Login servers of every registry there is, without port.
    name_hosts: ShardedMap<String, String>,
    nodes: HashMap<Uuid, Node>,
    principals: ShardedMap<Uuid, Principal>,
    app_ids: ShardedMap<Uuid, Uuid>,
    groups: ShardedMap<Uuid, Group>,
    role_definitions: HashMap<Uuid, RoleDefinition>,
    assignments: Assignments,
    signing_keys: HashMap<String, Arc<SigningKeyEntry>>,
    sign_in_keys: HashMap<String, Arc<SignInKeyEntry>>,
    rejected: BTreeMap<(String, String), Rejected>,
}

impl Index {
    /// Takes up the new state of one document.
    pub fn apply(&mut self, stored: &StoredDocument) {
        self.rejected
            .remove(&(stored.kind.clone(), stored.key.clone()));
        // The old state goes first: whatever follows, it no longer counts.
        self.remove(&stored.kind, &stored.key);
        let Some(body) = &stored.body else {
            return;
        };
        let result = Document::parse(&stored.kind, &stored.key, body)
            .map_err(|error| service::errors::chain(&error))
            .and_then(|document| self.insert(document));
        if let Err(reason) = result {
            let rejected = Rejected {
                region: stored.region.clone(),
                kind: stored.kind.clone(),
                key: stored.key.clone(),
                revision: stored.revision,
                reason,
            };
            self.rejected
                .insert((stored.kind.clone(), stored.key.clone()), rejected);
        }
    }

    /// The documents that are held and cannot be understood.
    pub fn rejected(&self) -> impl ExactSizeIterator<Item = &Rejected> {
        self.rejected.values()
    }

    /// The registry of this region with this login server (lower case, without port).
    pub fn registry_by_host(&self, host: &str) -> Option<&Arc<RegistryEntry>> {
        self.registries.get(self.hosts.get(host)?)
    }

    /// The registry of this region with this uid.
    pub fn registry(&self, uid: Uuid) -> Option<&Arc<RegistryEntry>> {
        self.registries.get(&uid)
    }

    /// What is known of the registry with this login server (lower case, without port), wherever it
    /// lives.
    pub fn name_by_host(&self, host: &str) -> Option<&RegistryName> {
        self.names.get(self.name_hosts.get(host)?)
    }

    /// Whether any region has the registry with this uid. Looks through all names: not for requests.
    pub fn is_registry_named(&self, uid: Uuid) -> bool {
        self.registries.get(&uid).is_some() || self.names.values().any(|name| name.uid == uid)
    }

    /// The uids of this region's registries.
    pub fn registry_uids(&self) -> impl Iterator<Item = Uuid> {
        self.registries.keys().copied()
    }

    /// The other nodes, and this one.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.values()
    }

    /// The principal with this object id.
    pub fn principal(&self, object_id: Uuid) -> Option<&Principal> {
        self.principals.get(&object_id)
    }

    /// The service principal of the application with this id.
    pub fn principal_by_app_id(&self, app_id: Uuid) -> Option<&Principal> {
        self.principals.get(self.app_ids.get(&app_id)?)
    }

    /// The key with this name.
    pub fn signing_key(&self, kid: &str) -> Option<&Arc<SigningKeyEntry>> {
        self.signing_keys.get(kid)
    }

    /// The key with which the control plane signed a token, by its name.
    pub fn sign_in_key(&self, kid: &str) -> Option<&Arc<SignInKeyEntry>> {
        self.sign_in_keys.get(kid)
    }

    /// The key with this name, if tokens for the registry may be signed with it: only nodes of regions where the registry is known
    /// give such tokens. `own_region` is the one whose nodes these are.
    pub fn signing_key_for(
        &self,
        kid: &str,
        entry: &RegistryEntry,
        own_region: &Region,
    ) -> Option<&Arc<SigningKeyEntry>> {
        let key = self.signing_keys.get(kid)?;
        let region = key.region.as_ref().unwrap_or(own_region);
        let is_known_there = region == own_region
            || *region == entry.registry.home_region
            || self
                .names
                .get(arm::canonical_key(&entry.registry.name).as_str())
                .is_some_and(|name| {
                    name.uid == entry.registry.uid && name.regions.contains(region)
                });
        is_known_there.then_some(key)
    }

    /// Where the nodes of a region are reached, in the order of their ids.
    pub fn node_addresses(&self, region: &Region) -> Vec<(Uuid, String)> {
        let nodes = self.nodes.values().filter(|node| node.region == *region);
        let mut found: Vec<(Uuid, String)> = nodes
            .map(|node| (node.node_id, node.address.clone()))
            .collect();
        found.sort_unstable();
        found
    }

    /// Whether a node with this id is enrolled.
    pub fn has_node(&self, node_id: Uuid) -> bool {
        self.nodes.contains_key(&node_id)
    }

    /// # Errors
    /// The reason why a well-formed document cannot be used.
    fn insert(&mut self, document: Document) -> Result<(), String> {
        match document {
            Document::Registry(registry) => self.insert_registry(registry)?,
            Document::RegistryName(name) => {
                let host = host_of(&name.login_server);
                self.name_hosts.insert(host, name.name.clone());
                self.names.insert(name.name.clone(), name);
            }
            Document::Node(node) => {
                self.nodes.insert(node.node_id, node);
            }
            Document::Principal(principal) => {
                if let Some(app_id) = principal.app_id {
                    self.app_ids.insert(app_id, principal.object_id);
                }
                self.principals.insert(principal.object_id, principal);
            }
            Document::Group(group) => {
                self.groups.insert(group.object_id, group);
            }
            Document::RoleDefinition(definition) => {
                self.role_definitions.insert(definition.id, definition);
            }
            Document::RoleAssignment(assignment) => self.assignments.insert(assignment),
            Document::SignInKey(key) => {
                let verifier = TokenVerifier::new(&key.public_key);
                let kid = key.public_key.kid().to_owned();
                let entry = SignInKeyEntry { key, verifier };
                self.sign_in_keys.insert(kid, Arc::new(entry));
            }
            Document::SigningKey(key) => {
                let entry = SigningKeyEntry {
                    node_id: key.node_id,
                    region: key.region,
                    verifier: TokenVerifier::new(&key.public_key),
                };
                self.signing_keys
                    .insert(key.public_key.kid().to_owned(), Arc::new(entry));
            }
        }
        Ok(())
    }

    fn insert_registry(&mut self, registry: Registry) -> Result<(), String> {
        let scope = Scope::parse(&registry.resource_id).map_err(|error| error.to_string())?;
        let admin_user_key = registry
            .admin_user
            .as_ref()
            .map(|user| arm::canonical_key(&user.username));
        self.hosts
            .insert(host_of(&registry.login_server), registry.uid);
        let scope_numbers = scope
            .ancestors_and_self()
            .map(|key| self.assignments.number_of(key))
            .collect();
        let entry = RegistryEntry {
            scope,
            admin_user_key,
            scope_numbers,
            registry,
        };
        self.registries.insert(entry.registry.uid, Arc::new(entry));
        Ok(())
    }

    fn remove(&mut self, kind: &str, key: &str) {
        let Some(kind) = Kind::parse(kind) else {
            return;
        };
        match (kind, Uuid::try_parse(key)) {
            (Kind::RegistryName, _) => {
                if let Some(name) = self.names.remove(key) {
                    let host = host_of(&name.login_server);
                    self.name_hosts.remove_if(host.as_str(), key);
                }
            }
            (Kind::SigningKey, _) => {
                self.signing_keys.remove(key);
            }
            (Kind::SignInKey, _) => {
                self.sign_in_keys.remove(key);
            }
            // The other kinds have uuids as keys; a document with another one was never accepted.
            (_, Err(_)) => {}
            (Kind::Registry, Ok(uid)) => {
                if let Some(entry) = self.registries.remove(&uid) {
                    let host = host_of(&entry.registry.login_server);
                    self.hosts.remove_if(host.as_str(), &uid);
                    for number in &entry.scope_numbers {
                        self.assignments.give_back(*number);
                    }
                }
            }
            (Kind::Node, Ok(id)) => {
                self.nodes.remove(&id);
            }
            (Kind::Principal, Ok(id)) => {
                if let Some(app_id) = self.principals.remove(&id).and_then(|old| old.app_id) {
                    self.app_ids.remove_if(&app_id, &id);
                }
            }
            (Kind::Group, Ok(id)) => {
                self.groups.remove(&id);
            }
            (Kind::RoleDefinition, Ok(id)) => {
                self.role_definitions.remove(&id);
            }
            (Kind::RoleAssignment, Ok(id)) => self.assignments.remove(id),
        }
    }
}

/// A login server without its port.
fn host_of(login_server: &str) -> String {
    let host = login_server
        .rsplit_once(':')
        .map_or(login_server, |(host, _)| host);
    host.to_ascii_lowercase()
}
