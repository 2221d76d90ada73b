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

    /// The identity that takes the place of the one named: one that was made before and is not accepted, or a new one. It is durable when
    /// this returns, and not announced: a database that was restored may have forgotten that one of before was.
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
            state.identities[0].is_announced = false;
            true
        })?;
        Ok(self.state.lock().identities[0].clone())
    }

    /// The region's nodes have this key, and the credential that goes with it may be shown.
    ///
    /// # Errors
    /// When that cannot be kept; nothing has changed then.
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use config_documents::{Document, Revision, SigningKey as SigningKeyDocument, StoredDocument};
    use credentials::{SecretKind, SystemRandomness, generate};
    use proptest::prelude::*;

    use super::*;

    fn made() -> Identity {
        Identity {
            credential: generate(SecretKind::NodeCredential, &SystemRandomness),
            signing_key: Arc::new(SigningKey::generate(&Uuid::new_v4().to_string())),
            is_announced: false,
        }
    }

    fn region() -> Region {
        Region("westus".to_owned())
    }

    /// What a control plane keeps of a node.
    #[derive(Clone)]
    struct Known {
        present: Identity,
        next: Option<Identity>,
        /// Keys of before, not withdrawn yet.
        retired: Vec<Identity>,
    }

    impl Known {
        fn accepts(&self, shown: &Identity) -> bool {
            let known = [Some(&self.present), self.next.as_ref()];
            known
                .into_iter()
                .flatten()
                .any(|known| known.kid() == shown.kid())
        }

        fn announce(&mut self, new: &Identity) {
            if self.present.kid() != new.kid() {
                self.next = Some(new.clone());
            }
        }

        fn connect(&mut self, shown: &Identity) {
            if let Some(next) = self.next.take_if(|next| next.kid() == shown.kid()) {
                let old = std::mem::replace(&mut self.present, next);
                self.retired.push(old);
            }
        }

        /// What the node's configuration says of its keys.
        fn index(&self) -> Index {
            let mut index = Index::default();
            let keys = [Some(&self.present), self.next.as_ref()]
                .into_iter()
                .flatten();
            for identity in keys.chain(&self.retired) {
                let document = Document::SigningKey(SigningKeyDocument {
                    node_id: Uuid::nil(),
                    public_key: identity.signing_key.public(),
                    region: Some(region()),
                });
                index.apply(&StoredDocument {
                    region: Region::all(),
                    kind: document.kind().as_str().to_owned(),
                    key: document.key(),
                    body: Some(document.body()),
                    revision: Revision(1),
                });
            }
            index
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// A rotation is asked for; the node dies after this many of its steps, or not at all.
        Rotate(u8),
        Reconnect,
        Restart,
        Withdraw,
        /// The database is put back to what it was at this step, and rotations since are lost.
        Backup,
        Restore,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_u8..6).prop_map(Step::Rotate),
            3 => Just(Step::Reconnect),
            2 => Just(Step::Restart),
            1 => Just(Step::Withdraw),
            1 => Just(Step::Backup),
            1 => Just(Step::Restore),
        ];
        proptest::collection::vec(step, 0..12)
    }

    struct Run<'a> {
        directory: &'a Path,
        node: Identities,
        known: Known,
    }

    impl Run<'_> {
        fn restart(&mut self) {
            let loaded = enrolment::load(self.directory, &region()).expect("readable");
            self.node = loaded.expect("enrolled");
        }

        /// As the follower does it: what is accepted first is used.
        fn connect(&mut self) -> Option<Identity> {
            let attempts = self.node.attempts();
            let accepted = attempts
                .into_iter()
                .find(|shown| self.known.accepts(shown))?;
            self.known.connect(&accepted);
            self.node.accepted(accepted.kid()).expect("writable");
            Some(accepted)
        }

        fn rotate(&mut self, dies_after: u8) {
            let in_use = self.node.in_use();
            let next = self
                .node
                .successor_of(in_use.kid(), made)
                .expect("writable");
            if dies_after == 0 {
                return self.restart();
            }
            self.known.announce(&next);
            if dies_after == 1 {
                return self.restart();
            }
            self.node.announced(next.kid()).expect("writable");
            if dies_after == 2 {
                return self.restart();
            }
            self.connect();
            if dies_after == 3 {
                self.restart();
            }
        }
    }

    #[test]
    fn a_key_that_a_restore_forgot_is_not_signed_with_before_it_is_announced_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let old = Identity {
            is_announced: true,
            ..made()
        };
        let new = Identity {
            is_announced: true,
            ..made()
        };
        let state = State {
            identities: vec![new.clone(), old.clone()],
            in_use: 1,
            preferred: 1,
        };
        enrolment::keep(directory.path(), Uuid::nil(), &region(), &state).expect("writable");
        let load = || {
            let loaded = enrolment::load(directory.path(), &region()).expect("readable");
            loaded.expect("enrolled")
        };
        let next = load().successor_of(old.kid(), made).expect("writable");
        assert_eq!((next.kid(), next.is_announced), (new.kid(), false));
        let known = Known {
            present: old.clone(),
            next: Some(new.clone()),
            retired: Vec::new(),
        };
        let signs_with = |node: &Identities| {
            let key = node.signing_key(&known.index()).expect("both count");
            key.kid().to_owned()
        };
        let restarted = load();
        assert_eq!(signs_with(&restarted), old.kid());
        restarted.announced(new.kid()).expect("writable");
        assert_eq!(signs_with(&restarted), new.kid());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Wherever the node dies, and whether or not the newest rotation is lost from the database: it is let in, with a key that counts.
        #[test]
        fn a_node_is_never_shut_out(steps in steps()) {
            let directory = tempfile::tempdir().expect("a directory");
            let state = State { identities: vec![made()], in_use: 0, preferred: 0 };
            enrolment::keep(directory.path(), Uuid::nil(), &region(), &state).expect("writable");
            let loaded = enrolment::load(directory.path(), &region()).expect("readable");
            let node = loaded.expect("enrolled");
            let known = Known { present: node.in_use(), next: None, retired: Vec::new() };
            let mut run = Run { directory: directory.path(), node, known };
            let mut backup: Option<Known> = None;
            for step in steps {
                match step {
                    Step::Rotate(dies_after) => {
                        // A second rotation since the backup is one too many: only one credential of before is kept.
                        if backup.as_ref().is_some_and(|backup| backup.present.kid() != run.node.in_use().kid()) {
                            backup = None;
                        }
                        run.rotate(dies_after);
                    }
                    Step::Reconnect => {}
                    Step::Restart => run.restart(),
                    Step::Withdraw => run.known.retired.clear(),
                    Step::Backup => backup = Some(run.known.clone()),
                    Step::Restore => {
                        if let Some(backup) = backup.take() {
                            run.known = backup;
                        }
                    }
                }
                let accepted = run.connect();
                prop_assert!(accepted.is_some(), "after {step:?}");
                let key = run.node.signing_key(&run.known.index());
                prop_assert!(key.is_some(), "after {step:?}");
                prop_assert!(run.node.attempts().len() <= 2);
            }
        }
    }
}
