//! Where an entry was found, for whoever looks for it again. Only where threads take turns.
//!
//! What is in the table stays where it is until it is taken out, so as long as nothing was, an entry can
//! be met again without its hash and its bucket.

use super::Cache;
use super::entry::Entry;
use super::epoch::Epoch;
use crate::sync::Ordering;

/// An entry of one cache, as long as nothing was taken out of it.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    /// Where the entry is.
    pub place: usize,
    /// What had been taken out by then; never 0.
    pub removals: u64,
}

impl Spot {
    #[inline(always)]
    fn of<K, V>(entry: &Entry<K, V>, removals: u64) -> Self {
        Self { place: std::ptr::from_ref(entry).expose_provenance(), removals }
    }
}

impl<K: Clone, V> Cache<K, V> {
    /// Looks at the key of the entry that was used last: where it is, if `look` wants it.
    #[inline]
    pub fn newest_if(&self, look: impl FnOnce(&K) -> bool) -> Option<Spot> {
        let guard = self.table.guard();
        let newest = self.table.newest(&guard)?;
        let pinned = newest.pin()?;
        let is_wanted = pinned.read(|key, _| look(key));
        // It is alive still, so nothing comes back that would have to be dropped.
        let _none = pinned.put_back();
        let removals = self.table.removals();
        is_wanted.then(|| Spot::of(newest, removals))
    }

    /// Whether nothing was taken out since an entry was found there.
    #[inline(always)]
    pub fn is_there(&self, spot: Spot) -> bool {
        spot.removals == self.table.removals()
    }

    /// Reads the entry of a spot, if it is the one wanted, and makes it the most recent; with the spot of
    /// the entry that was used next after its last use. `None` where only [`Cache::get`] can say whether
    /// it is good.
    ///
    /// # Safety
    /// The spot is this cache's, by [`Self::newest_if`] or this, and [`Self::is_there`] has just said yes.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub unsafe fn get_at_spot<R>(
        &self,
        spot: Spot,
        is_it: impl FnOnce(&K) -> bool,
        read: impl FnOnce(&V) -> R,
    ) -> Option<(R, Option<Spot>)> {
        // SAFETY: nothing was taken out since the entry was in the table, by the caller's promise.
        let entry = unsafe { self.table.at(spot.place) };
        let now = Epoch(self.epoch.load(Ordering::Acquire));
        if entry.epoch(now) != now {
            return None;
        }
        let newer = self.table.newer(entry);
        let result = entry.use_in_turn(&self.clock, is_it, read)?;
        self.table.used(entry);
        Some((result, newer.map(|newer| Spot::of(newer, spot.removals))))
    }
}
