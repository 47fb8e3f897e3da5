//! Storing a value: it is published, seen and counted, and then an excess is evicted.

use super::capacity::Reserved;
use super::entry::{Entry, Killed};
use super::epoch::Epoch;
use super::order::Meeting;
use super::table::{Change, Changed, Guard, Owned};
use super::{
    Cache, Capacity, EntryId, Evicted, Leftovers, Looked, Match, Offer, Put, Question, Removed,
    Tick, Undecided, table,
};
use crate::sync::Ordering;

/// Why a put can't come in yet.
enum Refused<K> {
    /// This entry died while it was looked at.
    Died(EntryId),
    Undecided(Undecided<K>),
}

impl<K, V> Offer<K, V> {
    fn withdraw(&mut self) -> Option<Removed<K, V>> {
        let (key, value) = self.content.take()?;
        Some(Removed { hash: self.hash, key, value: Some(value) })
    }
}

/// A new entry in the table, and the epoch of the cache after it came in.
type Published<'g, K, V> = (&'g Entry<K, V>, Epoch);

impl<K: Clone, V> Cache<K, V> {
    /// Stores a value as the most recent one. Least recent entries go while there is more than the
    /// capacity.
    ///
    /// # Errors
    /// [`Undecided`]: nothing has changed; compare outside and call again.
    pub fn put(
        &self,
        offer: &mut Offer<K, V>,
        question: &mut impl Question<K>,
    ) -> Result<Put<K, V>, Undecided<K>> {
        let mut leftovers = Vec::new();
        let guard = self.table.guard();
        if self.comes_too_late(offer, question) {
            // Nor does it replace what was computed since.
            let removed = Vec::from_iter(offer.withdraw());
            return Ok(Put { stored: false, removed, evicted: Evicted::new() });
        }
        if self.capacity.bytes.is_some_and(|most| offer.weight > most.get()) {
            return self.refuse(offer, question, &guard, &mut leftovers);
        }
        let mut put = Put { stored: true, removed: Vec::new(), evicted: Evicted::new() };
        let (entry, seen) =
            self.publish(offer, question, &guard, &mut put.removed, &mut leftovers)?;
        if entry.epoch(seen) != seen
            && let Some(killed) = self.withdraw(entry, seen, question, &guard, &mut leftovers)
        {
            put.stored = false;
            put.removed.push(Removed::of(entry, killed));
        }
        self.evict_excess(&guard, &mut put);
        Ok(put)
    }

    /// Whether the key was removed since its value began to be computed.
    fn comes_too_late(&self, offer: &Offer<K, V>, question: &mut impl Question<K>) -> bool {
        let (Some(began), Some((key, _))) = (offer.began, &offer.content) else { return false };
        began != self.generation() && question.is_still_good(key, began).is_none()
    }

    /// Hands back a value that is more than the cache may hold. An old value of the key would be
    /// served instead, so it goes too.
    fn refuse(
        &self,
        offer: &mut Offer<K, V>,
        question: &mut impl Question<K>,
        guard: &Guard<'_, K, V>,
        leftovers: &mut Leftovers<K, V>,
    ) -> Result<Put<K, V>, Undecided<K>> {
        let mut put = Put { stored: false, removed: Vec::new(), evicted: Evicted::new() };
        let mut dead = Vec::new();
        loop {
            match self.look(offer.hash, question, &dead, guard, leftovers) {
                Looked::Absent => break,
                Looked::Undecided(undecided) => return Err(undecided),
                Looked::Died(id) => dead.push(id),
                Looked::Here(entry, pinned) => {
                    leftovers.extend(pinned.put_back());
                    let Some(killed) = self.remove(entry, guard) else { continue };
                    put.removed.push(Removed::of(entry, killed));
                    break;
                }
            }
        }
        put.removed.extend(offer.withdraw());
        Ok(put)
    }

    /// Puts a new entry into the table, instead of an old one of the same key.
    fn publish<'g>(
        &'g self,
        offer: &mut Offer<K, V>,
        question: &mut impl Question<K>,
        guard: &'g Guard<'_, K, V>,
        gone: &mut Vec<Removed<K, V>>,
        leftovers: &mut Leftovers<K, V>,
    ) -> Result<Published<'g, K, V>, Undecided<K>> {
        let mut unpublished = Owned::new(self.new_entry(offer));
        let mut dead = Vec::new();
        loop {
            let mut refused = Refused::Died(unpublished.id);
            let changed = self.table.change(guard, unpublished, |chain| {
                match Self::decide(chain, question, &dead, leftovers) {
                    Ok(over) => Change::Insert { over },
                    Err(why) => {
                        refused = why;
                        Change::No
                    }
                }
            });
            match (changed, refused) {
                (Changed::No(entry), Refused::Died(id)) => {
                    dead.push(id);
                    unpublished = entry;
                }
                (Changed::No(entry), Refused::Undecided(undecided)) => {
                    offer.content = Some(table::unwrapped(entry).into_content());
                    return Err(undecided);
                }
                (Changed::Inserted(entry), _) => {
                    let seen = self.see(entry);
                    self.usage.add(entry.weight);
                    return Ok((entry, seen));
                }
                (Changed::Replaced { entry, old }, _) => {
                    let seen = self.see(entry);
                    self.usage.reweigh(old.weight, entry.weight);
                    // Out of the table, and only now dead: whoever finds it dead looks again and
                    // finds the new one.
                    gone.extend(old.kill().map(|killed| Removed::of(old, killed)));
                    return Ok((entry, seen));
                }
            }
        }
    }

    /// Gives a published entry its epoch and its tick, before anybody can see by the counts that it
    /// is there; the epoch of the cache after it was published.
    fn see(&self, entry: &Entry<K, V>) -> Epoch {
        // A read-modify-write: either a removal that comes after it finds the entry in the table, or
        // this finds the removal (G1).
        let now = Epoch(self.epoch.latest());
        entry.epoch(now);
        self.settle(entry);
        now
    }

    fn new_entry(&self, offer: &mut Offer<K, V>) -> Entry<K, V> {
        let epoch = Epoch::open(offer.began);
        // Relaxed: a number of its own is all that it has to be.
        let id = EntryId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let content = offer.content.take().expect("an offer is made with its content");
        Entry::new(id, offer.hash, offer.weight, epoch, content)
    }

    /// The entry of the chain that a put replaces, if there is one.
    fn decide(
        chain: &mut dyn Iterator<Item = &Entry<K, V>>,
        question: &mut impl Question<K>,
        dead: &[EntryId],
        leftovers: &mut Leftovers<K, V>,
    ) -> Result<Option<EntryId>, Refused<K>> {
        let mut undecided = None;
        for entry in chain {
            let Some(pinned) = entry.pin() else {
                if dead.contains(&entry.id) {
                    continue;
                }
                return Err(Refused::Died(entry.id));
            };
            let (matched, key) = pinned.read(|key, _| {
                let matched = question.matches(entry.id, key);
                (matched, (matched == Match::Unknown).then(|| key.clone()))
            });
            leftovers.extend(pinned.put_back());
            if matched == Match::Yes {
                return Ok(Some(entry.id));
            }
            if let Some(key) = key {
                undecided.get_or_insert(Undecided { id: entry.id, key });
            }
        }
        undecided.map_or(Ok(None), |undecided| Err(Refused::Undecided(undecided)))
    }

    /// Takes a new entry back if its key was removed while it was computed or put.
    #[cold]
    fn withdraw(
        &self,
        entry: &Entry<K, V>,
        now: Epoch,
        question: &mut impl Question<K>,
        guard: &Guard<'_, K, V>,
        leftovers: &mut Leftovers<K, V>,
    ) -> Option<Killed<K, V>> {
        let pinned = entry.pin()?;
        let is_good = self.is_good_since(entry, &pinned, now, question);
        leftovers.extend(pinned.put_back());
        if is_good { None } else { self.remove(entry, guard) }
    }

    /// Evicts the oldest entries while there is more than the capacity.
    fn evict_excess(&self, guard: &Guard<'_, K, V>, put: &mut Put<K, V>) {
        let Capacity { entries, bytes } = self.capacity;
        while let Some(reserved) = self.usage.reserve_entry(entries) {
            if !self.evict(reserved, guard, put) {
                return;
            }
        }
        while self.usage.is_too_heavy(bytes) {
            let Some((oldest, _)) = self.oldest(guard) else { return };
            if let Some(reserved) = self.usage.reserve_weight(bytes, oldest.weight)
                && !self.evict(reserved, guard, put)
            {
                return;
            }
        }
    }

    pub(super) fn oldest<'g>(
        &'g self,
        guard: &'g Guard<'_, K, V>,
    ) -> Option<(&'g Entry<K, V>, Tick)> {
        let meeting = Meeting { clock: &self.clock, epoch: &self.epoch };
        self.order.oldest(&self.table, meeting, guard)
    }

    /// Evicts the oldest entry; false if there is none, and none came in while it was looked for.
    fn evict(&self, mut reserved: Reserved, guard: &Guard<'_, K, V>, put: &mut Put<K, V>) -> bool {
        let came = self.usage.came();
        while let Some((oldest, tick)) = self.oldest(guard) {
            self.usage.expect(&mut reserved, oldest.weight);
            let Some(killed) = oldest.kill_unused_since(tick) else { continue };
            if self.table.remove(oldest, guard) {
                put.evicted.push(Removed::of(oldest, killed));
                return true;
            }
            // A put of the same key had replaced it already: nothing was evicted.
            put.removed.push(Removed::of(oldest, killed));
        }
        self.usage.give_back(reserved);
        self.usage.came() != came
    }
}
