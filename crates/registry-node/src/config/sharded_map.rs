//! A map that grows in small steps. A hash map of a hundred thousand entries stands still for tens of milliseconds when it doubles,
//! and all decisions would wait for it; here only one part of many does so at a time.

use std::{
    borrow::Borrow,
    hash::{Hash, Hasher},
};

use hashbrown::HashMap;

/// A power of two. With so many, the largest pause at a million entries stays around a millisecond.
const SHARDS: usize = 256;

/// Odd, and without a pattern: the golden ratio's digits.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// A map in parts.
pub(super) struct ShardedMap<K, V> {
    shards: Box<[HashMap<K, V>]>,
}

impl<K, V> Default for ShardedMap<K, V> {
    fn default() -> Self {
        Self {
            shards: std::iter::repeat_with(HashMap::new).take(SHARDS).collect(),
        }
    }
}

impl<K: Hash + Eq, V> ShardedMap<K, V> {
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards[shard_of(key)].get(key)
    }

    pub(super) fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.shards[shard_of(key)].get_mut(key)
    }

    pub(super) fn get_or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        self.shards[shard_of(&key)].entry(key).or_default()
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.shards[shard_of(&key)].insert(key, value)
    }

    pub(super) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.shards[shard_of(key)].remove(key)
    }

    /// Takes the entry away unless it has another value by now.
    pub(super) fn remove_if<Q, W>(&mut self, key: &Q, value: &W)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: PartialEq<W>,
        W: ?Sized,
    {
        let shard = &mut self.shards[shard_of(key)];
        if shard.get(key).is_some_and(|found| *found == *value) {
            shard.remove(key);
        }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.shards.iter().flat_map(HashMap::keys)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.shards.iter().flat_map(HashMap::values)
    }
}

fn shard_of<Q: Hash + ?Sized>(key: &Q) -> usize {
    let mut hasher = Spreader::default();
    key.hash(&mut hasher);
    (hasher.finish() >> 32) as usize % SHARDS
}

/// Spreads keys over the shards: quickly, and no more than that. Inside a shard the keys are hashed anew, with a secret.
#[derive(Default)]
struct Spreader(u64);

impl Hasher for Spreader {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR);
        }
    }

    /// A product's upper bits depend on all lower ones, and not the other way round: they are mixed once more.
    fn finish(&self) -> u64 {
        (self.0 ^ (self.0 >> 32)).wrapping_mul(FACTOR)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(changes in proptest::collection::vec((0_u8..20, any::<Option<u8>>()), 0..200)) {
            let mut map = ShardedMap::<String, u8>::default();
            let mut expected = HashMap::new();
            for (key, value) in changes {
                let key = key.to_string();
                match value {
                    Some(value) => prop_assert_eq!(
                        map.insert(key.clone(), value),
                        expected.insert(key, value)
                    ),
                    None => prop_assert_eq!(map.remove(key.as_str()), expected.remove(&key)),
                }
            }
            for key in (0..20).map(|key| key.to_string()) {
                prop_assert_eq!(map.get(key.as_str()), expected.get(&key));
            }
            let mut keys: Vec<&String> = map.keys().collect();
            let mut expected: Vec<&String> = expected.keys().collect();
            keys.sort();
            expected.sort();
            prop_assert_eq!(keys, expected);
        }
    }

    /// However alike the keys are: a full shard would stand still as long as one map for all.
    #[test]
    fn entries_are_spread() {
        const ENTRIES: u128 = 100_000;
        let spread = |keys: &mut dyn Iterator<Item = usize>| {
            let mut counts = [0_u128; SHARDS];
            keys.for_each(|shard| counts[shard] += 1);
            counts.into_iter().max().unwrap_or_default()
        };
        let mean = ENTRIES / SHARDS as u128;
        let uuids = &mut (0..ENTRIES).map(|number| shard_of(&Uuid::from_u128(number)));
        let pairs = &mut (0..ENTRIES).map(|number| shard_of(&(number as u32, Uuid::nil())));
        let texts = &mut (0..ENTRIES).map(|number| {
            shard_of(format!("/subscriptions/0/resourcegroups/g/registries/{number}").as_str())
        });
        for (what, fullest) in [
            ("uuids", spread(uuids)),
            ("pairs", spread(pairs)),
            ("texts", spread(texts)),
        ] {
            assert!(fullest < 2 * mean, "{what}: {fullest} of {ENTRIES} in one");
        }
    }
}
