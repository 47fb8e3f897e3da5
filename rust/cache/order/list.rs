//! The order of use of threads that take turns: a list, which every use changes.
//!
//! The table links its entries by the tick of their last use (`table/by_use.rs`), so the oldest is the
//! first of them, and no eviction does more than the one before (O2).

use super::Meeting;
use crate::cache::entry::Entry;
use crate::cache::table::{Guard, Table};
use crate::cache::tick::Tick;

/// The list itself is the table's.
#[derive(Debug, Default)]
pub(in crate::cache) struct Order(());

impl Order {
    /// The entry whose last use is the oldest, with the tick of that use; `None` if there is none.
    pub(in crate::cache) fn oldest<'g, K, V>(
        &self,
        table: &'g Table<K, V>,
        meeting: Meeting<'_>,
        guard: &'g Guard<'_, K, V>,
    ) -> Option<(&'g Entry<K, V>, Tick)> {
        loop {
            let alive = |entry: &'g Entry<K, V>| Some((entry, entry.tick()? == Tick::NEW));
            let (entry, is_new) = table.by_use(guard).find_map(alive)?;
            let tick = meeting.with(entry)?;
            if !is_new {
                return Some((entry, tick));
            }
            // A put that stalls before its tick is given one now, and so becomes the youngest.
            table.used(entry);
        }
    }
}
