//! What a node shows and signs with: a credential and a signing key that go together, and beside them the pair that takes their place or
//! had it. None is forgotten before another one is known to count, so a crash at any instant of a rotation loses nothing, and neither
//! does a database that is restored to the time before one.

use std::{path::PathBuf, sync::Arc};

use credentials::{Secret, SigningKey};
use parking_lot::Mutex;
use uuid::Uuid;

use super::{
    Index,
    enrolment::{self, EnrolmentError},
};
use config_documents::Region;

/// A credential and the key that was announced with it. Clones are the same.
#[derive(Clone)]
pub struct Identity {
    /// The bearer of the node's stream.
    pub credential: Secret,
    /// What it signs registry tokens with.
    pub signing_key: Arc<SigningKey>,
    /// Whether a control plane has said that the region's nodes have the key.
    pub is_announced: bool,
}

impl Identity {
    /// The name of the key, and of the pair.
    pub fn kid(&self) -> &str {
        self.signing_key.kid()
    }
}

/// The one or two identities of a node.
pub struct Identities {
    node_id: Uuid,
    region: Region,
    /// Where they are kept; `None` keeps them in memory only.
    directory: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Clone)]
pub(super) struct State {
    /// The newest first; at least one and at most two.
    pub(super) identities: Vec<Identity>,
    /// Which of them a control plane accepted last.
    pub(super) in_use: usize,
    /// Which of them is shown first.
    pub(super) preferred: usize,
}

impl Identities {
    pub(super) fn new(
        node_id: Uuid,
        region: Region,
        directory: Option<PathBuf>,
        state: State,
    ) -> Self {
        Self {
            node_id,
            region,
            directory,
            state: Mutex::new(state),
        }
    }

    /// One identity, kept in memory only.
    pub fn in_memory(node_id: Uuid, region: Region, credential: Secret, key: SigningKey) -> Self {
        Self::new(
            node_id,
            region,
            None,
            State {
                identities: vec![Identity {
                    credential,
                    signing_key: Arc::new(key),
                    is_announced: true,
                }],
                in_use: 0,
                preferred: 0,
            },
        )
    }

    /// The node's id.
    pub fn node_id(&self) -> Uuid {
        self.node_id
    }

    /// Where the node belongs.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// What a control plane accepted last.
    pub fn in_use(&self) -> Identity {
        let state = self.state.lock();
        state.identities[state.in_use].clone()
    }

    /// The key to sign with: the newest that the other nodes have, as far as is known, and that this node accepts itself; `None` when it
    /// accepts none of its own.
    pub fn signing_key(&self, index: &Index) -> Option<Arc<SigningKey>> {
        let state = self.state.lock();
        let accepted = |identity: &&Identity| index.signing_key(identity.kid()).is_some();
        let announced = |identity: &&Identity| identity.is_announced && accepted(identity);
        let identities = &state.identities;
        identities
            .iter()
            .find(announced)
            .or_else(|| identities.iter().find(accepted))
            .map(|identity| Arc::clone(&identity.signing_key))
    }

    /// What to show to a control plane, in this order, until one is accepted.
    pub(super) fn attempts(&self) -> Vec<Identity> {
        let state = self.state.lock();
        let mut attempts = state.identities.clone();
        attempts.rotate_left(state.preferred);
        attempts
    }

    /// A control plane accepted a stream with this one. True when it is the newest one's first time.
    ///
    /// # Errors
    /// When that cannot be kept; it is tried again with the next stream.
    pub(super) fn accepted(&self, kid: &str) -> Result<bool, EnrolmentError> {
        self.change(|state| {
            let Some(place) = state.place_of(kid) else {
                return false;
            };
            state.preferred = place;
            std::mem::replace(&mut state.in_use, place) != place
        })
    }

    /// The identity that takes the place of the one named: one that was made before and never accepted, or a new one. It is durable when
    /// this returns.
    ///
    /// # Errors
    /// When it cannot be kept; nothing has changed then.
    pub(super) fn successor_of(
        &self,
        kid: &str,
        make: impl FnOnce() -> Identity,
    ) -> Result<Identity, EnrolmentError> {
        self.change(|state| {
            if state.place_of(kid) == Some(0) {
                state.identities.truncate(1);
                state.identities.insert(0, make());
                state.in_use = 1;
                state.preferred = 1;
            }
            true
        })?;
        Ok(self.state.lock().identities[0].clone())
    }

    /// The region's nodes have this key, and the credential that goes with it may be shown.
    ///
    /// # Errors
    /// When that cannot be kept; it counts until the node ends.
    pub(super) fn announced(&self, kid: &str) -> Result<(), EnrolmentError> {
        self.change(|state| {
            let Some(place) = state.place_of(kid) else {
                return false;
            };
            state.preferred = place;
            !std::mem::replace(&mut state.identities[place].is_announced, true)
        })
        .map(|_| ())
    }

    /// Changes the state, durably if `change` says that it did.
    fn change(&self, change: impl FnOnce(&mut State) -> bool) -> Result<bool, EnrolmentError> {
        let mut state = self.state.lock();
        let mut changed = state.clone();
        let is_changed = change(&mut changed);
        if is_changed && let Some(directory) = &self.directory {
            enrolment::keep(directory, self.node_id, &self.region, &changed)?;
        }
        *state = changed;
        Ok(is_changed)
    }
}

impl State {
    fn place_of(&self, kid: &str) -> Option<usize> {
        self.identities
            .iter()
            .position(|identity| identity.kid() == kid)
    }
}
