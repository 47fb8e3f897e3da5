//! The order of use: a slab of entries in a doubly linked list, found by hash.
//!
//! The list runs from the most to the least recently used entry. Free slots form a second list
//! through `older`. Nothing here compares, clones or drops a key or a value of a live entry.

use super::{EntryId, Match, Removed, Undecided};
use hashbrown::HashTable;

/// Where an entry lies in the slab.
pub(super) type Slot = u32;

/// The end of a list.
const NONE: Slot = Slot::MAX;

#[derive(Debug)]
struct Node<K, V> {
    hash: u64,
    id: EntryId,
    weight: u64,
    newer: Slot,
    older: Slot,
    /// `None` while the slot is free.
    entry: Option<(K, V)>,
}

#[derive(Debug)]
pub(super) struct Lru<K, V> {
    table: HashTable<Slot>,
    nodes: Vec<Node<K, V>>,
    newest: Slot,
    oldest: Slot,
    free: Slot,
    next_id: u64,
    /// Sum of the weights of all entries.
    weight: u64,
}

impl<K: Clone, V> Lru<K, V> {
    pub(super) fn new() -> Self {
        Self {
            table: HashTable::new(),
            nodes: Vec::new(),
            newest: NONE,
            oldest: NONE,
            free: NONE,
            next_id: 0,
            weight: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    /// The slot of the key that `same` accepts.
    #[inline]
    pub(super) fn find(
        &self,
        hash: u64,
        mut same: impl FnMut(EntryId, &K) -> Match,
    ) -> Result<Option<Slot>, Undecided<K>> {
        let mut undecided = None;
        let found = self.table.find(hash, |&slot| {
            let node = &self.nodes[slot as usize];
            node.hash == hash
                && match same(node.id, self.entry(slot).0) {
                    Match::Yes => true,
                    Match::No => false,
                    Match::Unknown => {
                        undecided.get_or_insert(slot);
                        false
                    }
                }
        });
        match (found, undecided) {
            (None, Some(slot)) => Err(self.undecided(slot)),
            _ => Ok(found.copied()),
        }
    }

    /// The slots of all keys that `matches` accepts.
    pub(super) fn find_all(
        &self,
        matches: &mut impl FnMut(EntryId, &K) -> Match,
    ) -> Result<Vec<Slot>, Undecided<K>> {
        let mut found = Vec::new();
        for (slot, node) in (0..).zip(&self.nodes) {
            let Some((key, _)) = &node.entry else { continue };
            match matches(node.id, key) {
                Match::Yes => found.push(slot),
                Match::No => {}
                Match::Unknown => return Err(self.undecided(slot)),
            }
        }
        Ok(found)
    }

    #[cold]
    fn undecided(&self, slot: Slot) -> Undecided<K> {
        Undecided { id: self.nodes[slot as usize].id, key: self.entry(slot).0.clone() }
    }

    #[inline]
    pub(super) fn entry(&self, slot: Slot) -> (&K, &V) {
        let (key, value) =
            self.nodes[slot as usize].entry.as_ref().expect("a slot in the table is in use");
        (key, value)
    }

    /// Makes an entry the most recent.
    #[inline]
    pub(super) fn touch(&mut self, slot: Slot) {
        if self.newest != slot {
            self.unlink(slot);
            self.link_newest(slot);
        }
    }

    /// Puts another value into an entry and gives back the old one.
    pub(super) fn replace(&mut self, slot: Slot, value: V, weight: u64) -> V {
        let node = &mut self.nodes[slot as usize];
        self.weight = self.weight - node.weight + weight;
        node.weight = weight;
        let (_, held) = node.entry.as_mut().expect("a slot in the table is in use");
        std::mem::replace(held, value)
    }

    /// Stores a key that is not there as the most recent entry.
    pub(super) fn insert(&mut self, hash: u64, key: K, value: V, weight: u64) {
        let slot = self.take_slot(Node {
            hash,
            id: EntryId(self.next_id),
            weight,
            newer: NONE,
            older: NONE,
            entry: Some((key, value)),
        });
        self.next_id += 1;
        self.weight += weight;
        let nodes = &self.nodes;
        self.table.insert_unique(hash, slot, |&other| nodes[other as usize].hash);
        self.link_newest(slot);
    }

    /// Removes the least recent entry.
    pub(super) fn pop_oldest(&mut self) -> Option<Removed<K, V>> {
        (self.oldest != NONE).then(|| self.remove(self.oldest)).flatten()
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<Removed<K, V>> {
        let Node { hash, weight, .. } = self.nodes[slot as usize];
        if let Ok(found) = self.table.find_entry(hash, |&other| other == slot) {
            found.remove();
        }
        self.weight -= weight;
        self.unlink(slot);
        self.give_slot(slot)
    }

    /// Removes every entry, the least recent first.
    pub(super) fn drain(&mut self) -> Vec<Removed<K, V>> {
        let mut removed = Vec::with_capacity(self.len());
        while let Some(entry) = self.pop_oldest() {
            removed.push(entry);
        }
        removed
    }

    pub(super) fn try_for_each<E>(
        &self,
        mut visit: impl FnMut(&K, &V, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        self.nodes.iter().try_for_each(|node| match &node.entry {
            Some((key, value)) => visit(key, value, node.weight),
            None => Ok(()),
        })
    }

    fn take_slot(&mut self, node: Node<K, V>) -> Slot {
        if self.free != NONE {
            let slot = self.free;
            self.free = self.nodes[slot as usize].older;
            self.nodes[slot as usize] = node;
            return slot;
        }
        let slot = Slot::try_from(self.nodes.len()).ok().filter(|&slot| slot != NONE);
        self.nodes.push(node);
        slot.expect("fewer than 2^32 - 1 entries fit into memory")
    }

    fn give_slot(&mut self, slot: Slot) -> Option<Removed<K, V>> {
        let node = &mut self.nodes[slot as usize];
        node.older = self.free;
        self.free = slot;
        let hash = node.hash;
        node.entry.take().map(|(key, value)| Removed { hash, key, value })
    }

    #[inline]
    fn unlink(&mut self, slot: Slot) {
        let Node { newer, older, .. } = self.nodes[slot as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
    }

    #[inline]
    fn link_newest(&mut self, slot: Slot) {
        let second = std::mem::replace(&mut self.newest, slot);
        let node = &mut self.nodes[slot as usize];
        (node.newer, node.older) = (NONE, second);
        match second {
            NONE => self.oldest = slot,
            second => self.nodes[second as usize].newer = slot,
        }
    }

    /// Checks what must hold between any two calls.
    #[cfg(test)]
    pub(super) fn validate(&self) {
        let mut seen = Vec::new();
        let (mut newer, mut slot) = (NONE, self.newest);
        while slot != NONE {
            let node = &self.nodes[slot as usize];
            assert_eq!(node.newer, newer, "the list reads the same both ways");
            assert!(node.entry.is_some(), "a listed slot is in use");
            assert!(self.table.find(node.hash, |&other| other == slot).is_some());
            seen.push(slot);
            (newer, slot) = (slot, node.older);
        }
        assert_eq!(self.oldest, newer);
        assert_eq!(seen.len(), self.table.len());
        let used = self.nodes.iter().filter(|node| node.entry.is_some()).count();
        assert_eq!(used, seen.len(), "a slot is listed or free");
        let weights = seen.iter().map(|&slot| self.nodes[slot as usize].weight);
        assert_eq!(weights.sum::<u64>(), self.weight);
    }
}
