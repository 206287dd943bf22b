//! A map that never grows past its bound: the entry used longest ago makes room.

use std::collections::HashMap;
use std::hash::Hash;

#[derive(Debug)]
pub(crate) struct BoundedMap<K, V> {
    entries: HashMap<K, (u64, V)>,
    bound: usize,
    clock: u64,
}

impl<K: Copy + Eq + Hash, V> BoundedMap<K, V> {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            entries: HashMap::new(),
            bound,
            clock: 0,
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// The entry, which counts as used now.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.clock += 1;
        let (used, value) = self.entries.get_mut(key)?;
        *used = self.clock;
        Some(value)
    }

    /// The entry, which does not count as used.
    pub(crate) fn peek_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|(_, value)| value)
    }

    /// If `key` is new and the map is full: takes out the entry used longest ago, so that `key` fits.
    pub(crate) fn make_room(&mut self, key: &K) -> Option<(K, V)> {
        if self.entries.len() < self.bound || self.entries.contains_key(key) {
            return None;
        }
        let oldest = *self.entries.iter().min_by_key(|(_, (used, _))| *used)?.0;
        self.remove(&oldest).map(|value| (oldest, value))
    }

    /// The entry, made if it is not there; call [`make_room`](Self::make_room) before.
    pub(crate) fn entry(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        self.clock += 1;
        let entry = self.entries.entry(key).or_default();
        entry.0 = self.clock;
        &mut entry.1
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|(_, value)| value)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.entries.keys()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (_, value))| (key, value))
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.values_mut().map(|(_, value)| value)
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::BoundedMap;

    #[test]
    fn the_entry_used_longest_ago_makes_room() {
        let mut map = BoundedMap::new(2);
        for key in [1, 2] {
            assert_eq!(map.make_room(&key), None);
            *map.entry(key) = key * 10;
        }
        map.get_mut(&1);
        map.peek_mut(&2);
        assert_eq!(map.make_room(&2), None, "a known key needs no room");
        assert_eq!(map.make_room(&3), Some((2, 20)));
        *map.entry(3) = 30;
        assert_eq!(
            (map.get(&1), map.get(&2), map.get(&3)),
            (Some(&10), None, Some(&30))
        );
    }
}
