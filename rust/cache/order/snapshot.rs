//! The order of use of threads that run at once: sorted only when somebody has to go.
//!
//! A use moves the tick in its entry and nothing else. An eviction reads the oldest entry off a
//! *snapshot*: the hashes of all entries that were last used up to some moment, by rising tick. Ticks
//! only rise, so a snapshot stays good while it is used up: what it names at a tick can only be
//! younger than that, and what it doesn't name is younger than its moment (O1). The first entry of
//! the snapshot that still has the tick under which it is named is therefore the oldest of all. An
//! entry with another tick was used since, or is gone, and is passed over for good. When a snapshot
//! is used up, the table is read and sorted again. Each name in it is paid for by the eviction or the
//! use that used it up, so an eviction costs O(log n) over any sequence of calls, though a single one
//! may sort everything.
//!
//! A snapshot holds numbers only: it keeps no entry alive, and needs no upkeep when entries are
//! replaced or removed.

use super::Meeting;
use crate::cache::entry::Entry;
use crate::cache::table::{Guard, Table};
use crate::cache::tick::Tick;
use crate::sync::{Ordering, Published, Word};

/// An entry by the tick of its last use and its hash.
type Name = (Tick, u64);

/// The oldest entries, by rising tick.
#[derive(Debug)]
struct Snapshot {
    /// Every entry whose last use is not after this is named.
    until: Tick,
    names: Vec<Name>,
    /// Names before this one are used up.
    next: Word,
}

#[derive(Debug)]
pub(in crate::cache) struct Order {
    snapshot: Published<Snapshot>,
}

impl Default for Order {
    fn default() -> Self {
        Self { snapshot: Published::new(Snapshot::sorted(Tick::DEAD, Vec::new())) }
    }
}

/// What a snapshot says of its next name.
enum Named<E> {
    /// Still unused.
    Here(E),
    /// Used since, or gone.
    UsedUp,
    /// An entry of this hash has a tick that the snapshot should name and doesn't: a use with an older
    /// tick came late.
    Misplaced,
}

impl Snapshot {
    fn sorted(until: Tick, mut names: Vec<Name>) -> Self {
        names.sort_unstable();
        Self { until, names, next: Word::new(0) }
    }

    /// Acquire: pairs with `pass`.
    fn next(&self) -> Option<(u64, Name)> {
        let index = self.next.load(Ordering::Acquire);
        Some((index, *self.names.get(usize::try_from(index).ok()?)?))
    }

    /// Release: what used the name up is seen by whoever sees the next one.
    fn pass(&self, index: u64) {
        let pass = |next| (next == index).then_some(index + 1);
        let _ = self.next.update(Ordering::AcqRel, Ordering::Relaxed, pass);
    }

    fn names(&self, tick: Tick, hash: u64) -> bool {
        self.names.binary_search(&(tick, hash)).is_ok()
    }
}

impl Order {
    /// The moment of the last time that everything was sorted.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(in crate::cache) fn sorted_at(&self) -> Tick {
        self.snapshot.load().until
    }

    /// The entry whose last use is the oldest, with the tick of that use; `None` if there is none.
    pub(in crate::cache) fn oldest<'g, K, V>(
        &self,
        table: &'g Table<K, V>,
        meeting: Meeting<'_>,
        guard: &'g Guard<'_, K, V>,
    ) -> Option<(&'g Entry<K, V>, Tick)> {
        let mut snapshot = self.snapshot.load();
        loop {
            while let Some((index, (tick, hash))) = snapshot.next() {
                match find(table, meeting, guard, &snapshot, (tick, hash)) {
                    Named::Here(entry) => return Some((entry, tick)),
                    Named::UsedUp => snapshot.pass(index),
                    Named::Misplaced => break,
                }
            }
            let next = read_all(table, meeting, guard)?;
            snapshot = self.snapshot.replace(&snapshot, next);
        }
    }
}

fn find<'g, K, V>(
    table: &'g Table<K, V>,
    meeting: Meeting<'_>,
    guard: &'g Guard<'_, K, V>,
    snapshot: &Snapshot,
    (tick, hash): Name,
) -> Named<&'g Entry<K, V>> {
    let mut misplaced = false;
    let unused = table.find(hash, guard, |entry| {
        // Whoever sees that an entry replaced another has seen its put: it gets its tick now.
        let last = meeting.with(entry)?;
        misplaced |= last != tick && last <= snapshot.until && !snapshot.names(last, hash);
        (last == tick).then_some(entry)
    });
    match unused {
        Some(entry) => Named::Here(entry),
        None if misplaced => Named::Misplaced,
        None => Named::UsedUp,
    }
}

/// A snapshot of all that is there; `None` if nothing is.
fn read_all<K, V>(
    table: &Table<K, V>,
    meeting: Meeting<'_>,
    guard: &Guard<'_, K, V>,
) -> Option<Snapshot> {
    loop {
        // Read before the table: what comes in later is younger, and so needn't be seen.
        let until = meeting.clock.now();
        let (mut names, mut is_empty) = (Vec::new(), true);
        table.for_each(guard, |entry| {
            // A put that stalls before its tick is given one now, or it would get an older tick than
            // `until` without being named.
            let Some(tick) = meeting.with(entry) else { return };
            is_empty = false;
            if tick <= until {
                names.push((tick, entry.hash));
            }
        });
        if !names.is_empty() {
            return Some(Snapshot::sorted(until, names));
        }
        if is_empty {
            return None;
        }
    }
}
