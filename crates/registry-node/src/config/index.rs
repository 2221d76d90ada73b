//! What requests are decided by: the configuration in memory, indexed by what requests ask for.
//!
//! Applying one document costs the same whatever the size of the index. A document that cannot be
//! understood takes away what it governs and nothing else, and is kept in a list of rejected ones.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use config_documents::{
    Document, Group, Kind, Node, Principal, Registry, RegistryName, Rejected, RoleAssignmentMode,
    StoredDocument,
};
use credentials::TokenVerifier;
use rbac::{
    Candidate, Closure, RoleAssignment, RoleDefinition, Scope,
    registry::{RepositoryPermission, RepositoryPermissions},
};
use uuid::Uuid;

/// A registry of this node's region, ready for requests.
pub struct RegistryEntry {
    /// The document.
    pub registry: Registry,
    /// Where access to it is evaluated.
    pub scope: Scope,
    /// The canonical key of the admin account's user name.
    pub admin_user_key: Option<String>,
}

/// A key that tokens of this region may be signed with.
pub struct SigningKeyEntry {
    /// The node that signs with it.
    pub node_id: Uuid,
    /// The public part, prepared.
    pub verifier: TokenVerifier,
}

/// The configuration in memory.
#[derive(Default)]
pub struct Index {
    registries: HashMap<Uuid, Arc<RegistryEntry>>,
    /// Login servers of this region's registries, without port.
    hosts: HashMap<String, Uuid>,
    names: HashMap<String, RegistryName>,
    /// Login servers of every registry there is, without port.
    name_hosts: HashMap<String, String>,
    nodes: HashMap<Uuid, Node>,
    principals: HashMap<Uuid, Principal>,
    app_ids: HashMap<Uuid, Uuid>,
    groups: HashMap<Uuid, Group>,
    role_definitions: HashMap<Uuid, RoleDefinition>,
    assignments: Assignments,
    signing_keys: HashMap<String, Arc<SigningKeyEntry>>,
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

    /// The uids of this region's registries.
    pub fn registry_uids(&self) -> impl ExactSizeIterator<Item = Uuid> {
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

    /// The key with this name, if tokens signed with it are accepted.
    pub fn signing_key(&self, kid: &str) -> Option<&Arc<SigningKeyEntry>> {
        self.signing_keys.get(kid)
    }

    /// Whether the principal has a right in the registry, by its roles and those of its groups.
    pub fn permits(
        &self,
        registry: &RegistryEntry,
        object_id: Uuid,
        permission: RepositoryPermission,
    ) -> bool {
        let caller = self.closure(object_id);
        self.decide(registry, &caller, permission)
    }

    /// Every right that the principal has in the registry.
    pub fn rights(&self, registry: &RegistryEntry, object_id: Uuid) -> RepositoryPermissions {
        let caller = self.closure(object_id);
        RepositoryPermission::ALL
            .into_iter()
            .filter(|permission| self.decide(registry, &caller, *permission))
            .collect()
    }

    fn closure(&self, object_id: Uuid) -> Closure {
        rbac::closure(object_id, |id| {
            let of_principal = self.principals.get(&id).map(|principal| &principal.groups);
            let of_group = self.groups.get(&id).map(|group| &group.groups);
            of_principal.or(of_group).into_iter().flatten().copied()
        })
    }

    fn decide(
        &self,
        registry: &RegistryEntry,
        caller: &Closure,
        permission: RepositoryPermission,
    ) -> bool {
        let candidates = self.candidates(&registry.scope, caller);
        match registry.registry.role_assignment_mode {
            RoleAssignmentMode::LegacyRegistryPermissions => rbac::decide(
                candidates,
                caller,
                &registry.scope,
                permission.management_action(),
            ),
            RoleAssignmentMode::AbacRepositoryPermissions => rbac::decide_data(
                candidates,
                caller,
                &registry.scope,
                permission.data_action(),
            ),
        }
    }

    fn candidates<'a>(
        &'a self,
        scope: &'a Scope,
        caller: &'a Closure,
    ) -> impl Iterator<Item = Candidate<'a>> {
        scope.ancestors_and_self().flat_map(move |scope_key| {
            self.assignments.at(scope_key, caller).filter_map(
                move |(principal_id, role_definition_id)| {
                    Some(Candidate {
                        scope_key,
                        principal_id,
                        role: self.role_definitions.get(&role_definition_id)?,
                    })
                },
            )
        })
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
            Document::SigningKey(key) => {
                let entry = SigningKeyEntry {
                    node_id: key.node_id,
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
        let entry = RegistryEntry {
            scope,
            admin_user_key,
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
                    remove_if_same(&mut self.name_hosts, &host_of(&name.login_server), key);
                }
            }
            (Kind::SigningKey, _) => {
                self.signing_keys.remove(key);
            }
            // The other kinds have uuids as keys; a document with another one was never accepted.
            (_, Err(_)) => {}
            (Kind::Registry, Ok(uid)) => {
                if let Some(entry) = self.registries.remove(&uid) {
                    let host = host_of(&entry.registry.login_server);
                    remove_if_same(&mut self.hosts, &host, &uid);
                }
            }
            (Kind::Node, Ok(id)) => {
                self.nodes.remove(&id);
            }
            (Kind::Principal, Ok(id)) => {
                if let Some(app_id) = self.principals.remove(&id).and_then(|old| old.app_id) {
                    remove_if_same(&mut self.app_ids, &app_id, &id);
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

/// Takes the entry away unless a later document has taken its place.
fn remove_if_same<K, Q, V, W>(map: &mut HashMap<K, V>, key: &Q, value: &W)
where
    K: std::borrow::Borrow<Q> + std::hash::Hash + Eq,
    Q: std::hash::Hash + Eq + ?Sized,
    V: PartialEq<W>,
    W: ?Sized,
{
    if map.get(key).is_some_and(|found| *found == *value) {
        map.remove(key);
    }
}

/// A login server without its port.
fn host_of(login_server: &str) -> String {
    let host = login_server
        .rsplit_once(':')
        .map_or(login_server, |(host, _)| host);
    host.to_ascii_lowercase()
}

/// Role assignments by scope and principal. Scopes are numbered, so that each long key is kept once.
#[derive(Default)]
struct Assignments {
    by_id: HashMap<Uuid, (u32, Uuid)>,
    scopes: HashMap<Box<str>, u32>,
    /// For each number its key and how many assignments use it; numbers without use are free.
    uses: Vec<(Box<str>, u32)>,
    free: Vec<u32>,
    held: HashMap<(u32, Uuid), Vec<Held>>,
}

struct Held {
    assignment_id: Uuid,
    role_definition_id: Uuid,
}

impl Assignments {
    /// The principals of the closure that hold a role at exactly this scope, with the role's id.
    fn at<'a>(
        &'a self,
        scope_key: &str,
        caller: &'a Closure,
    ) -> impl Iterator<Item = (Uuid, Uuid)> + use<'a> {
        let scope = self.scopes.get(scope_key).copied();
        scope.into_iter().flat_map(move |scope| {
            caller.iter().flat_map(move |principal_id| {
                self.held
                    .get(&(scope, principal_id))
                    .into_iter()
                    .flatten()
                    .map(move |held| (principal_id, held.role_definition_id))
            })
        })
    }

    fn insert(&mut self, assignment: RoleAssignment) {
        let scope = self.number_of(assignment.scope.key());
        let place = (scope, assignment.principal_id);
        self.by_id.insert(assignment.id, place);
        self.held.entry(place).or_default().push(Held {
            assignment_id: assignment.id,
            role_definition_id: assignment.role_definition_id,
        });
    }

    fn remove(&mut self, id: Uuid) {
        let Some(place) = self.by_id.remove(&id) else {
            return;
        };
        if let Some(held) = self.held.get_mut(&place) {
            held.retain(|held| held.assignment_id != id);
            if held.is_empty() {
                self.held.remove(&place);
            }
        }
        let (key, uses) = &mut self.uses[place.0 as usize];
        *uses -= 1;
        if *uses == 0 {
            self.scopes.remove(key.as_ref());
            *key = Box::default();
            self.free.push(place.0);
        }
    }

    fn number_of(&mut self, scope_key: &str) -> u32 {
        if let Some(number) = self.scopes.get(scope_key).copied() {
            self.uses[number as usize].1 += 1;
            return number;
        }
        let entry = (Box::from(scope_key), 1);
        let number = match self.free.pop() {
            Some(number) => {
                self.uses[number as usize] = entry;
                number
            }
            None => {
                self.uses.push(entry);
                u32::try_from(self.uses.len() - 1).expect("memory ends before four billion scopes")
            }
        };
        self.scopes.insert(scope_key.into(), number);
        number
    }
}
