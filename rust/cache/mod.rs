//! Which values are kept: an exact least-recently-used cache for any number of threads, without a
//! lock, over keys that only their owner can compare.
//!
//! Reading order: `entry` (one entry and the word that says how it stands), `table` (where it is
//! found, by a hash that `as_it_is` takes as it is), `tick` and `order` (which is the oldest),
//! `capacity` (how much is held), `epoch` (what was removed), and this file, `put` and `removal`,
//! which put them together; `spot` finds an entry again. `flight` is about computations under way,
//! `ghosts` about what was evicted.
//!
//! A [`Question`] is a key that is looked for. It may answer [`Match::Unknown`] about a stored key:
//! the two can be compared only by code that must not run while the cache holds anything (a Python
//! `__eq__`). Then the call changes nothing and returns [`Undecided`] with the stored key; the caller
//! compares outside, remembers the verdict under the entry's id, and calls again. An entry's key
//! never changes and an id is never used twice (I2), so a verdict stays true and the calls come to
//! an end.
//!
//! Whatever leaves the cache is handed to the caller, or dropped by the last call that reads it once
//! that call holds nothing (I3).

#[cfg(not(any(take_turns, loom, shuttle)))]
mod as_it_is;
mod capacity;
mod entry;
mod epoch;
pub mod flight;
pub mod ghosts;
mod order;
mod put;
mod removal;
#[cfg(all(take_turns, not(any(loom, shuttle))))]
mod spot;
mod table;
mod tick;

use crate::sync::{Ordering, Turns, Word};
pub use capacity::Capacity;
use capacity::Usage;
use entry::{Entry, Killed};
use epoch::Epoch;
use order::Order;
use smallvec::SmallVec;
#[cfg(all(take_turns, not(any(loom, shuttle))))]
pub use spot::Spot;
use table::{Guard, Table};
#[cfg(not(any(loom, shuttle)))]
pub use tick::reading;
pub use tick::{Clock, Tick};

/// What comparing a key with a stored one gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Equal.
    Yes,
    /// Not equal.
    No,
    /// Only foreign code can say.
    Unknown,
}

/// Names one entry for as long as the cache lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryId(u64);

/// A stored key that has to be compared outside before the call can be made again.
#[derive(Debug)]
pub struct Undecided<K> {
    /// The entry that holds it.
    pub id: EntryId,
    /// The key itself.
    pub key: K,
}

/// A key that is looked for. Nothing here may run foreign code.
pub trait Question<K> {
    /// Whether a stored key is the one.
    fn matches(&mut self, id: EntryId, stored: &K) -> Match;

    /// Whether an entry of `generation` is still good, and up to which generation: no
    /// [`Cache::remove_matching`] since then was about its key.
    fn is_still_good(&mut self, stored: &K, generation: u32) -> Option<u32>;
}

/// What an entry held, or was not stored.
#[derive(Debug, PartialEq, Eq)]
pub struct Removed<K, V> {
    /// The hash of the key.
    pub hash: u64,
    /// The key.
    pub key: K,
    /// The value; `None` if another thread is reading it at this moment, and drops it.
    pub value: Option<V>,
}

impl<K, V> Removed<K, V> {
    fn of(entry: &Entry<K, V>, killed: Killed<K, V>) -> Self {
        Self { hash: entry.hash, key: killed.key, value: killed.value }
    }
}

/// What a put stores.
#[derive(Debug)]
pub struct Offer<K, V> {
    /// The hash of the key.
    pub hash: u64,
    /// Bytes that the entry counts for.
    pub weight: u64,
    /// The generation in which the value began to be computed; the present one if `None`.
    pub began: Option<u32>,
    /// Key and value, taken if the put comes to an end.
    pub content: Option<(K, V)>,
}

/// What was evicted for one value, nearly always one entry.
pub type Evicted<K, V> = SmallVec<[Removed<K, V>; 1]>;

/// What came of a put.
#[derive(Debug, PartialEq, Eq)]
pub struct Put<K, V> {
    /// Whether the value was stored; not if it alone is more than the cache may hold, or if its key
    /// was removed by [`Cache::remove_matching`] since it began to be computed.
    pub stored: bool,
    /// The old value of the key, and the new one if it was not stored.
    pub removed: Vec<Removed<K, V>>,
    /// Entries evicted, the least recent first.
    pub evicted: Evicted<K, V>,
}

/// An exact LRU cache for any number of threads.
#[derive(Debug)]
pub struct Cache<K, V> {
    capacity: Capacity,
    table: Table<K, V>,
    order: Order,
    usage: Usage,
    clock: Clock,
    /// The present [`Epoch`].
    epoch: Word,
    /// Removals that have begun and not swept everything yet.
    sweeps: Word,
    /// Held by a removal while it writes down what it is about and advances the epoch.
    commits: Turns<()>,
    next_id: Word,
}

/// What the first look of a read gave.
pub enum AtOnce<R> {
    /// What was read.
    Found(R),
    /// There is no such key.
    Absent,
    /// Look again, and closer: by [`Cache::get`].
    Unclear,
}

/// What looking at a chain gave.
enum Looked<'g, K, V> {
    Absent,
    Here(&'g Entry<K, V>, entry::Pinned<'g, K, V>),
    /// This entry died while it was looked at: the chain is no longer what the table has.
    Died(EntryId),
    Undecided(Undecided<K>),
}

/// What left the cache during a call, dropped when the call holds nothing.
type Leftovers<K, V> = Vec<(K, V)>;

impl<K: Clone, V> Cache<K, V> {
    /// A cache that holds at most `capacity`.
    #[must_use]
    pub fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            table: Table::default(),
            order: Order::default(),
            usage: Usage::default(),
            clock: Clock::default(),
            epoch: Word::new(Epoch::new(0, 0).0),
            sweeps: Word::new(0),
            commits: Turns::default(),
            next_id: Word::new(0),
        }
    }

    /// How much the cache may hold.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Gives the ticks of uses.
    #[inline]
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Reads the entry of a key with `read` and makes it the most recent as of the tick `at`.
    ///
    /// # Errors
    /// [`Undecided`]: compare outside and call again.
    #[inline]
    pub fn get<R>(
        &self,
        hash: u64,
        at: Tick,
        question: &mut impl Question<K>,
        mut read: impl FnMut(&K, &V) -> R,
    ) -> Result<Option<R>, Undecided<K>> {
        match self.get_at_once(hash, at, question, &mut read) {
            AtOnce::Found(result) => Ok(Some(result)),
            AtOnce::Absent => Ok(None),
            AtOnce::Unclear => self.get_by_looking(hash, at, question, read),
        }
    }

    /// [`Cache::get`] where it ends with the first look, as it nearly always does: the first entry of
    /// the hash is the key's, good and alive.
    #[inline]
    pub fn get_at_once<R>(
        &self,
        hash: u64,
        at: Tick,
        question: &mut impl Question<K>,
        read: &mut impl FnMut(&K, &V) -> R,
    ) -> AtOnce<R> {
        // Dropped last, when the guard is gone.
        let (_result, _orphan);
        let guard = self.table.guard();
        let mut is_empty = true;
        let found = self.table.find(hash, &guard, |entry| {
            is_empty = false;
            let pinned = entry.pin()?;
            // Acquire: as in `is_good`.
            let now = Epoch(self.epoch.load(Ordering::Acquire));
            let is_it = entry.epoch(now) == now
                && pinned.read(|key, _| question.matches(entry.id, key)) == Match::Yes;
            Some(if is_it { Ok(pinned) } else { Err(pinned.put_back()) })
        });
        match found {
            None if is_empty => AtOnce::Absent,
            None => AtOnce::Unclear,
            Some(Err(orphan)) => {
                _orphan = orphan;
                AtOnce::Unclear
            }
            Some(Ok(pinned)) => {
                let result = pinned.read(read);
                match pinned.touch(at, &self.clock) {
                    Ok(entry) => {
                        self.table.used(entry);
                        AtOnce::Found(result)
                    }
                    Err(orphan) => {
                        (_result, _orphan) = (result, orphan);
                        AtOnce::Unclear
                    }
                }
            }
        }
    }

    #[cold]
    fn get_by_looking<R>(
        &self,
        hash: u64,
        at: Tick,
        question: &mut impl Question<K>,
        mut read: impl FnMut(&K, &V) -> R,
    ) -> Result<Option<R>, Undecided<K>> {
        // Dropped last, when the guard is gone.
        let (mut leftovers, mut unused) = (Vec::new(), Vec::new());
        let guard = self.table.guard();
        let mut dead = Vec::new();
        loop {
            match self.look(hash, question, &dead, &guard, &mut leftovers) {
                Looked::Absent => return Ok(None),
                Looked::Undecided(undecided) => return Err(undecided),
                Looked::Died(id) => dead.push(id),
                Looked::Here(entry, pinned) => {
                    let result = pinned.read(&mut read);
                    match pinned.touch(at, &self.clock) {
                        Ok(entry) => {
                            self.table.used(entry);
                            return Ok(Some(result));
                        }
                        Err(orphan) => {
                            leftovers.extend(orphan);
                            unused.push(result);
                            dead.push(entry.id);
                        }
                    }
                }
            }
        }
    }

    /// Reads the entry of a key and leaves the order as it is.
    ///
    /// # Errors
    /// [`Undecided`]: compare outside and call again.
    pub fn peek<R>(
        &self,
        hash: u64,
        question: &mut impl Question<K>,
        read: impl FnOnce(&K, &V) -> R,
    ) -> Result<Option<R>, Undecided<K>> {
        let mut leftovers = Vec::new();
        let guard = self.table.guard();
        let mut dead = Vec::new();
        loop {
            match self.look(hash, question, &dead, &guard, &mut leftovers) {
                Looked::Absent => return Ok(None),
                Looked::Undecided(undecided) => return Err(undecided),
                Looked::Died(id) => dead.push(id),
                Looked::Here(entry, pinned) => {
                    self.settle(entry);
                    let result = pinned.read(read);
                    leftovers.extend(pinned.put_back());
                    return Ok(Some(result));
                }
            }
        }
    }

    /// Gives an entry of the table its first tick, if nobody has.
    fn settle(&self, entry: &Entry<K, V>) {
        if entry.tick() == Some(Tick::NEW) {
            entry.settle(&self.clock);
            self.table.used(entry);
        }
    }

    /// The entry of a key in the chain that the table has now. `dead` are entries that were found
    /// dead before: if the table still has one, its key is absent (E3).
    #[inline]
    fn look<'g>(
        &'g self,
        hash: u64,
        question: &mut impl Question<K>,
        dead: &[EntryId],
        guard: &'g Guard<'_, K, V>,
        leftovers: &mut Leftovers<K, V>,
    ) -> Looked<'g, K, V> {
        let (mut undecided, mut stale) = (None, None);
        let looked = self.table.find(hash, guard, |entry| {
            let Some(pinned) = entry.pin() else {
                return (!dead.contains(&entry.id)).then_some(Looked::Died(entry.id));
            };
            match pinned.read(|key, _| question.matches(entry.id, key)) {
                Match::Yes if self.is_good(entry, &pinned, question) => {
                    return Some(Looked::Here(entry, pinned));
                }
                Match::Yes if self.is_swept() => {
                    leftovers.extend(pinned.put_back());
                    stale = Some(entry);
                    return Some(Looked::Died(entry.id));
                }
                // A removal is about to take it. Another thread that took it first might count it as
                // gone only after the removal has returned.
                Match::Yes => {}
                Match::No => {}
                Match::Unknown => {
                    let key = pinned.read(|key, _| key.clone());
                    undecided.get_or_insert(Undecided { id: entry.id, key });
                }
            }
            leftovers.extend(pinned.put_back());
            None
        });
        if let Some(entry) = stale {
            leftovers.extend(self.expel(entry, guard));
        }
        looked.unwrap_or_else(|| undecided.map_or(Looked::Absent, Looked::Undecided))
    }

    /// Whether nothing removed the entry since it came in.
    #[inline]
    fn is_good(
        &self,
        entry: &Entry<K, V>,
        pinned: &entry::Pinned<'_, K, V>,
        question: &mut impl Question<K>,
    ) -> bool {
        // Acquire: pairs with the advance of the epoch, so a removal that returned before this call
        // began is seen.
        let now = Epoch(self.epoch.load(Ordering::Acquire));
        entry.epoch(now) == now || self.is_good_since(entry, pinned, now, question)
    }

    /// Whether every removal so far has swept what it is about. What it left behind came in while it
    /// swept, and could not be compared.
    fn is_swept(&self) -> bool {
        // Acquire: pairs with the end of a sweep. Whoever has seen an epoch sees its removal begun.
        self.sweeps.load(Ordering::Acquire) == 0
    }

    #[cold]
    fn is_good_since(
        &self,
        entry: &Entry<K, V>,
        pinned: &entry::Pinned<'_, K, V>,
        now: Epoch,
        question: &mut impl Question<K>,
    ) -> bool {
        let epoch = entry.epoch(now);
        if epoch.clears() != now.clears() {
            return false;
        }
        let good = pinned.read(|key, _| question.is_still_good(key, epoch.generation()));
        if let Some(generation) = good {
            entry.approve(Epoch::new(epoch.clears(), generation));
        }
        good.is_some()
    }

    /// Ends an entry and takes it out of the table; what it held, if this call did it.
    fn expel(&self, entry: &Entry<K, V>, guard: &Guard<'_, K, V>) -> Option<(K, V)> {
        let Killed { key, value } = self.remove(entry, guard)?;
        value.map(|value| (key, value))
    }

    fn remove(&self, entry: &Entry<K, V>, guard: &Guard<'_, K, V>) -> Option<Killed<K, V>> {
        let killed = entry.kill()?;
        if self.table.remove(entry, guard) {
            self.usage.subtract(entry.weight);
        }
        Some(killed)
    }

    /// How many times [`Cache::remove_matching`] was called. Read it before a value is computed.
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u32 {
        // Acquire: what was removed before is seen as removed.
        Epoch(self.epoch.load(Ordering::Acquire)).generation()
    }

    /// Calls `visit` with every key, value and weight until it fails. What it visits is held
    /// meanwhile.
    ///
    /// # Errors
    /// The first error of `visit`.
    pub fn try_for_each<E>(
        &self,
        mut visit: impl FnMut(&K, &V, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut leftovers = Vec::new();
        let guard = self.table.guard();
        let mut visited = Ok(());
        self.table.for_each(&guard, |entry| {
            let Some(pinned) = entry.pin() else { return };
            if visited.is_ok() {
                visited = pinned.read(|key, value| visit(key, value, entry.weight));
            }
            leftovers.extend(pinned.put_back());
        });
        visited
    }

    /// Entries held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.usage.entries()
    }

    /// Weight of all entries, in bytes.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.usage.weight()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(all(any(loom, shuttle), test))]
mod models;
#[cfg(all(shuttle, test))]
mod scenarios;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
