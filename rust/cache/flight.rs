//! Single flight: one thread computes a key, the others wait for what it gives.
//!
//! A thread that misses a key *joins* its flight. The first to come owns it and holds a [`Ticket`];
//! the ticket ends the flight with a value, or as failed when it is dropped without one (an
//! exception, an interrupt, a panic), so nobody waits for ever (F1). What waiters need is made by
//! the first of them; a flight that nobody joins is a line in a table. The owner puts its value into
//! the cache before it ends the flight, and a new owner looks the key up again before it computes
//! if any flight has ended since its lookup, so a key is computed once however the two fall (F2).
//!
//! Before a thread waits it writes down which flight it waits for and follows the chain from there,
//! as far as flights are under way. A chain that comes back to it is a cycle of nested computations:
//! it computes the key itself (F3). The last of the threads in a cycle to write its edge sees the
//! whole of it, since edges are written and followed under one lock, inside which that of a flight is
//! taken and never the other way round. Nothing is locked while a thread waits or computes.
//!
//! After `fork` the child has none of the threads that own the parent's flights: the first join in
//! another process forgets them all (F4).

use super::{EntryId, Match, Undecided};
use crate::process;
use crate::sync::{
    Arc, Condvar, Mutex, Ordering, ThreadId, Turns, Word, current_thread, lock, wait_for,
};
use hashbrown::HashTable;
use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::time::Duration;

/// The flights that are under way.
#[derive(Debug)]
pub struct Flights<K, V> {
    table: Turns<Table<K, V>>,
    /// How many have ended: one that hasn't moved since a lookup says that the lookup still holds.
    ended: Word,
}

#[derive(Debug)]
struct Table<K, V> {
    /// The process that these flights are of.
    process: u64,
    next_id: u64,
    /// By the hash of the key.
    open: HashTable<Open<K, V>>,
    /// Which flight each thread waits for.
    waits: HashMap<ThreadId, Arc<Flight<V>>>,
}

#[derive(Debug)]
struct Open<K, V> {
    id: EntryId,
    hash: u64,
    key: K,
    owner: ThreadId,
    /// Made by the first to wait.
    flight: Option<Arc<Flight<V>>>,
}

impl<K, V> Open<K, V> {
    fn flight(&mut self) -> Arc<Flight<V>> {
        let owner = self.owner;
        Arc::clone(self.flight.get_or_insert_with(|| Arc::new(Flight::of(owner))))
    }
}

/// One computation, as those who wait for it see it.
#[derive(Debug)]
pub struct Flight<V> {
    owner: ThreadId,
    watched: Mutex<Watched<V>>,
    ended: Condvar,
}

#[derive(Debug)]
struct Watched<V> {
    state: State<V>,
    /// Threads that wait; without one the end of a flight asks the system for nothing.
    waiting: u32,
}

#[derive(Debug)]
enum State<V> {
    Running,
    Value(V),
    Failed,
}

/// What joining a flight made of the caller.
#[derive(Debug)]
pub enum Joined<'f, K, V> {
    /// It computes, and ends the flight with this ticket.
    Mine(Ticket<'f, K, V>),
    /// It waits.
    Theirs(Arc<Flight<V>>),
}

/// The duty to end a flight.
#[derive(Debug)]
pub struct Ticket<'f, K, V> {
    flights: &'f Flights<K, V>,
    hash: u64,
    id: EntryId,
}

/// Why a thread must not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It owns the flight itself: its computation asks for its own key.
    Own,
    /// The owner waits, directly or not, for this thread.
    Cycle,
}

/// A thread's edge to the one it waits for; taken away when dropped.
#[derive(Debug)]
pub struct Waiting<'f, K, V> {
    flights: &'f Flights<K, V>,
}

/// How a flight stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended<R> {
    /// Not yet.
    No,
    /// With a value.
    Value(R),
    /// Without one.
    Failed,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        process::watch_forks();
        let (open, waits) = (HashTable::new(), HashMap::new());
        let process = process::generation();
        let table = Table { process, next_id: 0, open, waits };
        Self { table: Turns::new(table), ended: Word::new(0) }
    }
}

impl<K: Clone, V> Flights<K, V> {
    /// Joins the flight of a key, or begins it; `key` is called to store the key of a new one.
    ///
    /// # Errors
    /// [`Undecided`]: compare outside and call again.
    pub fn join(
        &self,
        hash: u64,
        mut same: impl FnMut(EntryId, &K) -> Match,
        key: impl FnOnce() -> K,
    ) -> Result<Joined<'_, K, V>, Undecided<K>> {
        self.table.with(|table| {
            table.forget_parent();
            let mut undecided = None;
            for open in table.open.iter_hash_mut(hash).filter(|open| open.hash == hash) {
                match same(open.id, &open.key) {
                    Match::Yes => return Ok(Joined::Theirs(open.flight())),
                    Match::No => {}
                    Match::Unknown => undecided = Some(open),
                }
            }
            match undecided {
                Some(open) => Err(Undecided { id: open.id, key: open.key.clone() }),
                None => Ok(Joined::Mine(self.begin(table, hash, key()))),
            }
        })
    }

    fn begin(&self, table: &mut Table<K, V>, hash: u64, key: K) -> Ticket<'_, K, V> {
        let id = EntryId(table.next_id);
        table.next_id += 1;
        let open = Open { id, hash, key, owner: current_thread(), flight: None };
        table.open.insert_unique(hash, open, |open| open.hash);
        Ticket { flights: self, hash, id }
    }
}

impl<K, V> Flights<K, V> {
    /// Writes down that this thread waits for `flight`, unless it would wait for itself.
    ///
    /// # Errors
    /// [`Refused`]: the thread has to compute, or to say that it asks for its own key.
    pub fn begin_wait(&self, flight: &Arc<Flight<V>>) -> Result<Waiting<'_, K, V>, Refused> {
        let me = current_thread();
        if flight.owner == me {
            return Err(Refused::Own);
        }
        self.table.with(|table| {
            let mut next = Some(flight);
            // Who waits for a flight that has ended goes on, though it may not have woken yet.
            while let Some(flight) = next.filter(|flight| flight.is_running()) {
                if flight.owner == me {
                    return Err(Refused::Cycle);
                }
                next = table.waits.get(&flight.owner);
            }
            table.waits.insert(me, Arc::clone(flight));
            Ok(Waiting { flights: self })
        })
    }

    /// Calls `visit` with the key of every flight until it fails. The flights are held meanwhile.
    ///
    /// # Errors
    /// The first error of `visit`.
    pub fn try_for_each<E>(&self, visit: impl FnMut(&K) -> Result<(), E>) -> Result<(), E> {
        self.table.with(|table| table.open.iter().map(|open| &open.key).try_for_each(visit))
    }

    /// Flights under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.with(|table| table.open.len())
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many flights have ended. Read it before a lookup.
    #[inline]
    #[must_use]
    pub fn ended(&self) -> u64 {
        // Relaxed: compared after `join`, whose lock orders it after every `take_out` that it sees.
        self.ended.load(Ordering::Relaxed)
    }

    fn take_out(&self, hash: u64, id: EntryId) -> Option<Open<K, V>> {
        self.table.with(|table| {
            let open = table.open.find_entry(hash, |open| open.id == id).ok()?;
            Some(open.remove().0)
        })
    }
}

impl<K, V> Table<K, V> {
    fn forget_parent(&mut self) {
        let process = process::generation();
        if self.process != process {
            // Leaked, not dropped: what they hold belongs to threads that are not here.
            std::mem::forget(std::mem::take(&mut self.open));
            std::mem::forget(std::mem::take(&mut self.waits));
            self.process = process;
        }
    }
}

impl<V> Flight<V> {
    fn of(owner: ThreadId) -> Self {
        let watched = Watched { state: State::Running, waiting: 0 };
        Self { owner, watched: Mutex::new(watched), ended: Condvar::new() }
    }

    /// Waits for the end, for about `slice` at most; `read` gets the value while the flight is held.
    pub fn wait<R>(&self, slice: Duration, read: impl FnOnce(&V) -> R) -> Ended<R> {
        let mut watched = lock(&self.watched);
        watched.waiting += 1;
        if matches!(watched.state, State::Running) {
            watched = wait_for(&self.ended, watched, slice);
        }
        watched.waiting -= 1;
        match &watched.state {
            State::Running => Ended::No,
            State::Value(value) => Ended::Value(read(value)),
            State::Failed => Ended::Failed,
        }
    }

    fn is_running(&self) -> bool {
        matches!(lock(&self.watched).state, State::Running)
    }

    fn end(&self, state: State<V>) {
        let waiting = {
            let mut watched = lock(&self.watched);
            watched.state = state;
            watched.waiting
        };
        if waiting > 0 {
            self.ended.notify_all();
        }
    }
}

impl<K, V> Ticket<'_, K, V> {
    /// Ends the flight with a value, which is in the cache by now; `value` is called if somebody waits.
    pub fn finish(self, value: impl FnOnce() -> V) {
        let this = ManuallyDrop::new(self);
        this.end(|| State::Value(value()));
    }

    /// Takes the flight out of the table first: whoever comes now begins a new one and looks the key
    /// up again.
    fn end(&self, state: impl FnOnce() -> State<V>) {
        // Relaxed: the table's lock, taken next, publishes it.
        self.flights.ended.fetch_add(1, Ordering::Relaxed);
        let taken = self.flights.take_out(self.hash, self.id);
        if let Some(flight) = taken.as_ref().and_then(|open| open.flight.as_ref()) {
            flight.end(state());
        }
    }
}

impl<K, V> Drop for Ticket<'_, K, V> {
    fn drop(&mut self) {
        self.end(|| State::Failed);
    }
}

impl<K, V> Drop for Waiting<'_, K, V> {
    fn drop(&mut self) {
        let me = current_thread();
        self.flights.table.with(|table| table.waits.remove(&me));
    }
}

// With threads: where they take turns, the tests from Python do this.
#[cfg(all(test, not(any(loom, shuttle, take_turns))))]
mod tests;
