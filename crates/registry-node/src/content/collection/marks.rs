//! What is referred to, in eight bytes each.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use crate::names::Digest;

/// A set of names, each held as a hash of it. Two names with one hash count as one: then something is kept that nobody refers to, never
/// the other way round.
#[derive(Default)]
pub(super) struct Marks(HashMap<u64, Met>);

/// Whether what a mark is about was found.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Met {
    #[default]
    No,
    Yes,
}

fn hash_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Marks {
    pub(super) fn mark(&mut self, name: &str) {
        self.0.entry(hash_of(name)).or_default();
    }

    pub(super) fn mark_digest(&mut self, digest: &Digest) {
        self.mark(digest.as_str());
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(&hash_of(name))
    }

    /// Whether the name is marked; if it is, it counts as met from now on.
    pub(super) fn meet(&mut self, name: &str) -> bool {
        match self.0.get_mut(&hash_of(name)) {
            Some(met) => {
                *met = Met::Yes;
                true
            }
            None => false,
        }
    }

    /// Whether there is a mark that was never met.
    pub(super) fn has_unmet(&self) -> bool {
        self.0.values().any(|met| *met == Met::No)
    }

    /// Whether the name is marked and was never met.
    pub(super) fn is_unmet(&self, name: &str) -> bool {
        self.0.get(&hash_of(name)) == Some(&Met::No)
    }
}
