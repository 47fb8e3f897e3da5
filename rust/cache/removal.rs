//! Entries that go together: those of a view or an op, or all.

use super::entry::Entry;
use super::epoch::Epoch;
use super::{Cache, EntryId, Match, Removed, Undecided};
use crate::sync::{Ordering, Word};

/// A removal under way.
struct Sweep<'c>(&'c Word);

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        // Release: whoever sees that no sweep is left sees what was swept.
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl<K: Clone, V> Cache<K, V> {
    /// Removes the entries that `matches` accepts and returns them. `commit` writes down, before the
    /// first is gone, what [`Question::is_still_good`] will go by: once the epoch is advanced, no read
    /// finds an entry that is to be removed. It neither comes back here nor drops what runs foreign
    /// code: what it returns is dropped for it.
    ///
    /// # Errors
    /// [`Undecided`]: nothing was removed; compare outside and call again.
    pub fn remove_matching<F>(
        &self,
        mut matches: impl FnMut(EntryId, &K) -> Match,
        commit: impl FnOnce() -> F,
    ) -> Result<Vec<Removed<K, V>>, Undecided<K>> {
        self.ask_about_all(&mut matches)?;
        // One after the other: what is written down as the n-th raises the generation to n (I7).
        let (_forgotten, _sweep, before) = self.commits.with(|()| {
            let forgotten = commit();
            let sweep = self.begin_sweep();
            // Release: pairs with `is_good`; acquire: what was put before the epoch advanced is found.
            let before = self.epoch.fetch_add(Epoch::GENERATION, Ordering::AcqRel);
            (forgotten, sweep, Epoch(before))
        });
        let now = Epoch::new(before.clears(), before.generation() + 1);
        // What came in after the epoch advanced stays; what came shortly before and can't be compared
        // is looked at again at its first read.
        let is_older = |entry: &Entry<K, V>| entry.epoch(now).generation() < now.generation();
        let mut goes = |id, key: &K| matches(id, key) == Match::Yes;
        Ok(self.sweep(|entry, key| is_older(entry) && goes(entry.id, key)))
    }

    fn ask_about_all(
        &self,
        matches: &mut impl FnMut(EntryId, &K) -> Match,
    ) -> Result<(), Undecided<K>> {
        let mut leftovers = Vec::new();
        let guard = self.table.guard();
        let mut undecided = None;
        self.table.for_each(&guard, |entry| {
            let Some(pinned) = entry.pin() else { return };
            if undecided.is_none() {
                let mut is_unknown = |key: &K| matches(entry.id, key) == Match::Unknown;
                let key = pinned.read(|key, _| is_unknown(key).then(|| key.clone()));
                undecided = key.map(|key| Undecided { id: entry.id, key });
            }
            leftovers.extend(pinned.put_back());
        });
        undecided.map_or(Ok(()), Err)
    }

    /// Removes every entry and returns them.
    pub fn clear(&self) -> Vec<Removed<K, V>> {
        let _sweep = self.begin_sweep();
        // As in `remove_matching`.
        let before = Epoch(self.epoch.fetch_add(Epoch::CLEAR, Ordering::AcqRel));
        let now = Epoch::new(before.clears() + 1, before.generation());
        self.sweep(|entry, _| entry.epoch(now).clears() < now.clears())
    }

    /// Says that a removal has begun, before the epoch does.
    fn begin_sweep(&self) -> Sweep<'_> {
        // Relaxed: the epoch, advanced next, publishes it.
        self.sweeps.fetch_add(1, Ordering::Relaxed);
        Sweep(&self.sweeps)
    }

    fn sweep(&self, mut goes: impl FnMut(&Entry<K, V>, &K) -> bool) -> Vec<Removed<K, V>> {
        let (mut gone, mut leftovers) = (Vec::new(), Vec::new());
        let guard = self.table.guard();
        let mut going = Vec::new();
        self.table.for_each(&guard, |entry| {
            let Some(pinned) = entry.pin() else { return };
            if pinned.read(|key, _| goes(entry, key)) {
                going.push(entry);
            }
            leftovers.extend(pinned.put_back());
        });
        for entry in going {
            gone.extend(self.remove(entry, &guard).map(|killed| Removed::of(entry, killed)));
        }
        gone
    }
}
