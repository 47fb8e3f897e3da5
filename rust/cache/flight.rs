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
mod tests {
    use super::*;
    use crate::stats::Counter;
    use std::sync::Barrier;
    use std::time::Instant;

    type Numbers = Flights<u32, u64>;

    fn join(flights: &Numbers, key: u32) -> Joined<'_, u32, u64> {
        let same = |_: EntryId, stored: &u32| match *stored == key {
            true => Match::Yes,
            false => Match::No,
        };
        flights.join(7, same, || key).unwrap()
    }

    fn own(flights: &Numbers, key: u32) -> Ticket<'_, u32, u64> {
        match join(flights, key) {
            Joined::Mine(ticket) => ticket,
            Joined::Theirs(_) => panic!("somebody else flies {key}"),
        }
    }

    fn their(flights: &Numbers, key: u32) -> Arc<Flight<u64>> {
        match join(flights, key) {
            Joined::Theirs(flight) => flight,
            Joined::Mine(_) => panic!("nobody flies {key}"),
        }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn one_thread_computes_and_all_get_its_value() {
        let (flights, computed) = (Numbers::default(), Counter::default());
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    match join(&flights, 1) {
                        Joined::Mine(ticket) => {
                            computed.add(1);
                            std::thread::sleep(Duration::from_millis(50));
                            ticket.finish(|| 42);
                        }
                        Joined::Theirs(flight) => {
                            let began = Instant::now();
                            assert_eq!(flight.wait(LONG, |value| *value), Ended::Value(42));
                            assert!(began.elapsed() < LONG, "it was woken");
                        }
                    }
                });
            }
        });
        assert_eq!(computed.get(), 1);
        assert!(flights.is_empty());
    }

    #[test]
    fn a_dropped_ticket_fails_the_flight_and_the_next_to_come_owns_a_new_one() {
        let flights = Numbers::default();
        let ticket = own(&flights, 1);
        let flight = their(&flights, 1);
        assert_eq!(flight.wait(Duration::ZERO, |value| *value), Ended::No);
        drop(ticket);
        assert_eq!(flight.wait(LONG, |value| *value), Ended::Failed);
        own(&flights, 1).finish(|| 2);
        assert!(flights.is_empty());
    }

    #[test]
    fn a_panic_in_the_computation_fails_the_flight() {
        let flights = Numbers::default();
        let panicked = std::thread::scope(|scope| {
            let computing = scope.spawn(|| {
                let _ticket = own(&flights, 1);
                panic!("no value");
            });
            computing.join().is_err()
        });
        assert!(panicked && flights.is_empty());
    }

    #[test]
    fn a_thread_does_not_wait_for_itself() {
        let flights = Numbers::default();
        let _ticket = own(&flights, 1);
        assert_eq!(flights.begin_wait(&their(&flights, 1)).unwrap_err(), Refused::Own);
    }

    #[test]
    fn the_last_edge_of_a_cycle_is_refused() {
        let flights = Numbers::default();
        let (owning, waiting) = (Barrier::new(3), Barrier::new(3));
        let refused = std::thread::scope(|scope| {
            let waiters = [(1, 2), (2, 3)].map(|(mine, other)| {
                let (flights, owning, waiting) = (&flights, &owning, &waiting);
                scope.spawn(move || {
                    let ticket = own(flights, mine);
                    owning.wait();
                    let flight = their(flights, other);
                    let edge = flights.begin_wait(&flight).unwrap();
                    waiting.wait();
                    let ended = flight.wait(LONG, |value| *value);
                    drop(edge);
                    ticket.finish(|| u64::from(mine));
                    ended
                })
            });
            let ticket = own(&flights, 3);
            owning.wait();
            waiting.wait();
            let refused = flights.begin_wait(&their(&flights, 1)).err();
            ticket.finish(|| 3);
            for waiter in waiters {
                waiter.join().unwrap();
            }
            refused
        });
        assert_eq!(refused, Some(Refused::Cycle));
    }

    #[test]
    fn who_has_waited_may_be_waited_for() {
        let flights = Numbers::default();
        let ticket = own(&flights, 1);
        let flight = their(&flights, 1);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                let ticket = own(&flights, 2);
                drop(flights.begin_wait(&flight).unwrap());
                std::mem::forget(ticket);
            });
            other.join().unwrap();
        });
        assert!(flights.begin_wait(&their(&flights, 2)).is_ok());
        ticket.finish(|| 1);
    }

    #[test]
    fn who_waits_for_what_has_ended_is_waited_for() {
        let flights = Numbers::default();
        let (joined, waiting, done) = (Barrier::new(2), Barrier::new(2), Barrier::new(2));
        let ticket = own(&flights, 1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mine = own(&flights, 2);
                joined.wait();
                joined.wait();
                mine.finish(|| 2);
                let edge = flights.begin_wait(&their(&flights, 1)).unwrap();
                waiting.wait();
                done.wait();
                drop(edge);
            });
            joined.wait();
            let flight = their(&flights, 2);
            joined.wait();
            waiting.wait();
            ticket.finish(|| 1);
            assert!(flights.begin_wait(&flight).is_ok(), "its value is there");
            done.wait();
        });
    }

    #[test]
    fn keys_of_one_hash_are_flights_of_their_own() {
        let flights = Numbers::default();
        let (one, two) = (own(&flights, 1), own(&flights, 2));
        assert_eq!((flights.len(), flights.is_empty()), (2, false));
        let before = flights.ended();
        two.finish(|| 2);
        assert_eq!(flights.ended(), before + 1);
        assert_eq!(their(&flights, 1).wait(Duration::ZERO, |value| *value), Ended::No);
        drop(one);
        assert_eq!((flights.ended(), flights.is_empty()), (before + 2, true));
    }

    #[test]
    fn every_flight_is_visited_until_one_fails() {
        let flights = Numbers::default();
        let _tickets = [1, 2, 3].map(|key| own(&flights, key));
        let mut seen = Vec::new();
        let visit = |key: &u32| {
            seen.push(*key);
            if seen.len() == 2 { Err("enough") } else { Ok(()) }
        };
        assert_eq!(flights.try_for_each(visit), Err("enough"));
        assert!(seen.len() == 2 && seen[0] != seen[1], "in any order: {seen:?}");
    }

    #[test]
    fn a_child_process_forgets_its_parents_flights() {
        let flights = Numbers::default();
        std::mem::forget(own(&flights, 1));
        flights.table.with(|table| table.process += 1);
        own(&flights, 1).finish(|| 1);
    }
}
