//! One entry: a key, a value, and one word that says whether they are there and who reads them.
//!
//! ```text
//! state   | tick of the last use (56 bits) | readers that have it in hand (8 bits) |
//!           NEW    published, or about to be: counts as the newest, is claimed by nobody
//!           1..    alive
//!           DEAD   evicted, replaced or removed: never alive again
//! ```
//!
//! The word changes by compare-and-swap alone, so each of these happens at one moment: a reader takes
//! the entry in hand ([`Entry::pin`], refused once it is dead); it gives it back with the tick of its
//! use ([`Pinned::touch`]); somebody ends it ([`Entry::kill`], by exactly one thread). The content
//! leaves the entry by whoever makes the word `DEAD` with no reader left: the killer, or else the
//! last reader (E2). So a value outlives its entry by the readers that have it in hand and by no
//! more, however long the memory of the entry itself is kept for others that still look at it.

use super::table::Links;
use super::tick::{Clock, Tick};
use super::{EntryId, Epoch};
use crate::sync::{Content, Ordering, Word, spin};

const READERS: u64 = 0xFF;
const READERS_BITS: u32 = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
struct State(u64);

impl State {
    fn new(tick: Tick, readers: u64) -> Self {
        Self(tick.0 << READERS_BITS | readers)
    }

    fn tick(self) -> Tick {
        Tick(self.0 >> READERS_BITS)
    }

    fn readers(self) -> u64 {
        self.0 & READERS
    }

    fn is_dead(self) -> bool {
        self.tick() == Tick::DEAD
    }
}

/// An entry of the table. What a read needs lies together: the first 64 bytes or so.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Entry<K, V> {
    state: Word,
    epoch: Word,
    content: Content<(K, V)>,
    pub(super) hash: u64,
    /// The table's alone.
    pub(super) links: Links<K, V>,
    pub(super) id: EntryId,
    pub(super) weight: u64,
}

/// An entry in a reader's hand.
pub(super) struct Pinned<'e, K, V> {
    entry: &'e Entry<K, V>,
}

/// What a dead entry held, for whoever has to drop it.
pub(super) type Orphan<K, V> = Option<(K, V)>;

/// What ending an entry gave.
pub(super) struct Killed<K, V> {
    pub(super) key: K,
    /// `None` if a reader still has it in hand and drops it.
    pub(super) value: Option<V>,
}

impl<K, V> Entry<K, V> {
    pub(super) fn new(id: EntryId, hash: u64, weight: u64, epoch: Epoch, content: (K, V)) -> Self {
        Self {
            id,
            hash,
            weight,
            state: Word::new(State::new(Tick::NEW, 0).0),
            epoch: Word::new(epoch.0),
            content: Content::new(content),
            links: Links::default(),
        }
    }

    /// What an entry holds that nobody else has seen.
    pub(super) fn into_content(self) -> (K, V) {
        self.content.into_inner()
    }

    fn load(&self) -> State {
        // Acquire: pairs with `swap`.
        State(self.state.load(Ordering::Acquire))
    }

    /// Acquire: whoever pins or takes sees what was there before. Release: whoever takes the content
    /// sees that the readers are done with it.
    fn swap(&self, from: State, to: State) -> Result<(), State> {
        self.state.swap(from.0, to.0, Ordering::AcqRel, Ordering::Acquire).map_err(State)
    }

    /// The tick of the last use; `None` once it is dead.
    pub(super) fn tick(&self) -> Option<Tick> {
        let state = self.load();
        (!state.is_dead()).then(|| state.tick())
    }

    /// The epoch under which the entry is known to be good. An entry of the table gets its first one
    /// from `now`, by whoever meets it first: a `clear` is before or after its put, never within it.
    #[inline]
    pub(super) fn epoch(&self, now: Epoch) -> Epoch {
        // Relaxed: a number that only grows; an older one costs a check.
        let epoch = Epoch(self.epoch.load(Ordering::Relaxed));
        if epoch.is_open() { self.first_epoch(epoch, now) } else { epoch }
    }

    #[cold]
    fn first_epoch(&self, open: Epoch, now: Epoch) -> Epoch {
        let close = |epoch| (epoch == open.0).then_some(open.closed(now).0);
        let closed = self.epoch.update(Ordering::Relaxed, Ordering::Relaxed, close);
        closed.map_or_else(Epoch, |_| open.closed(now))
    }

    /// Found good for a later epoch.
    pub(super) fn approve(&self, epoch: Epoch) {
        let raise = |known| (known < epoch.0).then_some(epoch.0);
        let _ = self.epoch.update(Ordering::Relaxed, Ordering::Relaxed, raise);
    }

    /// Takes the entry in hand; `None` if it is dead.
    #[inline]
    pub(super) fn pin(&self) -> Option<Pinned<'_, K, V>> {
        let mut state = self.load();
        loop {
            if state.is_dead() {
                return None;
            }
            if state.readers() == READERS {
                // 255 threads read this one entry at this moment; the first to finish lets us in.
                spin();
                state = self.load();
                continue;
            }
            match self.swap(state, State(state.0 + 1)) {
                Ok(()) => return Some(Pinned { entry: self }),
                Err(now) => state = now,
            }
        }
    }

    /// Gives an entry of the table its first tick, if nobody has (E1).
    pub(super) fn settle(&self, clock: &Clock) -> Option<Tick> {
        let mut state = self.load();
        if state.tick() != Tick::NEW {
            return self.tick();
        }
        // Read after the entry was seen in the table: no use that came before the put is later.
        let tick = clock.now();
        while state.tick() == Tick::NEW {
            match self.swap(state, State::new(tick, state.readers())) {
                Ok(()) => return Some(tick),
                Err(now) => state = now,
            }
        }
        (!state.is_dead()).then(|| state.tick())
    }

    /// Ends the entry if its last use was at `tick`.
    pub(super) fn kill_unused_since(&self, tick: Tick) -> Option<Killed<K, V>>
    where
        K: Clone,
    {
        self.kill_if(|last| last == tick)
    }

    /// Ends the entry; `None` if somebody has.
    pub(super) fn kill(&self) -> Option<Killed<K, V>>
    where
        K: Clone,
    {
        self.kill_if(|_| true)
    }

    fn kill_if(&self, may: impl Fn(Tick) -> bool) -> Option<Killed<K, V>>
    where
        K: Clone,
    {
        let mut state = self.load();
        while !state.is_dead() && may(state.tick()) {
            let is_alone = state.readers() == 0;
            // With readers about, in hand as well: its key can be read, and it leaves with the last.
            let readers = if is_alone { 0 } else { state.readers() + 1 };
            if readers > READERS {
                spin();
                state = self.load();
                continue;
            }
            match self.swap(state, State::new(Tick::DEAD, readers)) {
                Ok(()) if is_alone => {
                    let (key, value) = self.take();
                    return Some(Killed { key, value: Some(value) });
                }
                Ok(()) => return Some(self.leave_to_readers()),
                Err(now) => state = now,
            }
        }
        None
    }

    #[cold]
    fn leave_to_readers(&self) -> Killed<K, V>
    where
        K: Clone,
    {
        let mine = Pinned { entry: self };
        let key = mine.read(|key, _| key.clone());
        let value = mine.put_back().map(|(_, value)| value);
        Killed { key, value }
    }

    /// Reads what is there and sets the tick of its last use, in one turn; `None` if it is dead, has no
    /// tick yet, or another key than that wanted.
    #[cfg(all(take_turns, not(any(loom, shuttle))))]
    #[inline(always)]
    #[allow(unsafe_code)]
    pub(super) fn use_in_turn<R>(
        &self,
        clock: &Clock,
        is_it: impl FnOnce(&K) -> bool,
        read: impl FnOnce(&V) -> R,
    ) -> Option<R> {
        let state = self.load();
        if state.is_dead() || state.tick() == Tick::NEW {
            return None;
        }
        let read_it = |(key, value): &(K, V)| is_it(key).then(|| read(value));
        // SAFETY: it is alive, and who would end it needs the turn, which is this call's until the read
        // returns.
        let result = unsafe { self.content.read(read_it) }?;
        self.swap(state, State::new(clock.now(), state.readers())).ok()?;
        Some(result)
    }

    #[allow(unsafe_code)]
    fn take(&self) -> (K, V) {
        // SAFETY: the one thread that made the state DEAD with no reader calls this, once, and no
        // reader comes after that: `pin` refuses a dead entry.
        unsafe { self.content.take() }
    }
}

impl<'e, K, V> Pinned<'e, K, V> {
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn read<R>(&self, read: impl FnOnce(&K, &V) -> R) -> R {
        // SAFETY: the content leaves when the last reader has put the entry back; this one has not.
        unsafe { self.entry.content.read(|(key, value)| read(key, value)) }
    }

    /// Gives the entry back, used at `tick`; `Err` if it died meanwhile. A use that is older than the
    /// last one moves nothing.
    #[inline]
    pub(super) fn touch(self, tick: Tick, clock: &Clock) -> Result<&'e Entry<K, V>, Orphan<K, V>> {
        let entry = self.entry;
        let mut state = entry.load();
        if state.tick() == Tick::NEW {
            entry.settle(clock);
            state = entry.load();
        }
        while !state.is_dead() {
            let last = state.tick().max(tick);
            match entry.swap(state, State::new(last, state.readers() - 1)) {
                Ok(()) => {
                    std::mem::forget(self);
                    return Ok(entry);
                }
                Err(now) => state = now,
            }
        }
        Err(self.put_back())
    }

    /// Gives the entry back and leaves its tick alone.
    pub(super) fn put_back(self) -> Orphan<K, V> {
        let orphan = self.entry.unpin();
        std::mem::forget(self);
        orphan
    }
}

impl<K, V> Entry<K, V> {
    fn unpin(&self) -> Orphan<K, V> {
        // As `swap`: the last reader sees that all others are done.
        let before = State(self.state.fetch_sub(1, Ordering::AcqRel));
        (before.is_dead() && before.readers() == 1).then(|| self.take())
    }
}

impl<K, V> Drop for Pinned<'_, K, V> {
    /// Only where a comparison panicked.
    fn drop(&mut self) {
        drop(self.entry.unpin());
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn entry() -> Entry<u32, u64> {
        Entry::new(EntryId(1), 0, 0, Epoch::new(0, 0), (1, 10))
    }

    #[test]
    fn an_entry_gets_its_first_tick_once() {
        let (entry, clock) = (entry(), Clock::default());
        let first = entry.settle(&clock);
        assert!(first.is_some_and(|tick| tick < Tick::NEW));
        assert_eq!((entry.settle(&clock), entry.tick()), (first, first));
        assert!(entry.kill().is_some());
        assert_eq!((entry.settle(&clock), entry.tick()), (None, None));
    }

    #[test]
    fn an_entry_that_is_used_at_once_has_a_tick_too() {
        let (entry, clock) = (entry(), Clock::default());
        let before_the_put = clock.now();
        assert!(entry.pin().unwrap().touch(before_the_put, &clock).is_ok());
        assert!(entry.tick().is_some_and(|tick| before_the_put < tick && tick < Tick::NEW));
    }

    #[test]
    fn an_entry_that_was_used_since_is_not_ended() {
        let (entry, clock) = (entry(), Clock::default());
        let first = entry.settle(&clock).unwrap();
        let later = clock.now();
        assert!(entry.pin().unwrap().touch(later, &clock).is_ok());
        assert!(entry.kill_unused_since(first).is_none());
        assert_eq!(entry.kill_unused_since(later).unwrap().value, Some(10));
        assert!(entry.kill().is_none() && entry.pin().is_none(), "it ends once");
    }

    #[test]
    fn the_last_of_its_readers_gets_what_an_ended_entry_held() {
        let entry = entry();
        let (one, other) = (entry.pin().unwrap(), entry.pin().unwrap());
        let killed = entry.kill().unwrap();
        assert_eq!((killed.key, killed.value), (1, None));
        assert_eq!(one.read(|_, value| *value), 10);
        assert_eq!(one.put_back(), None);
        assert_eq!(other.put_back(), Some((1, 10)));
    }

    /// Who comes when an entry has all the readers that it can count waits for one to finish.
    #[cfg(not(take_turns))]
    #[test]
    fn a_reader_or_killer_too_many_waits() {
        fn waits<R: Send>(entry: &Entry<u32, u64>, comes: impl FnOnce() -> R + Send) -> R {
            let mut readers: Vec<_> = (0..READERS).map(|_| entry.pin().unwrap()).collect();
            std::thread::scope(|scope| {
                let waiting = scope.spawn(comes);
                std::thread::sleep(std::time::Duration::from_millis(20));
                assert!(!waiting.is_finished());
                assert_eq!(State(entry.state.load(Ordering::Acquire)).readers(), READERS);
                assert_eq!(readers.pop().unwrap().put_back(), None);
                waiting.join().unwrap()
            })
        }
        let entry = entry();
        waits(&entry, || entry.pin().map(Pinned::put_back)).unwrap();
        assert_eq!(waits(&entry, || entry.kill()).unwrap().value, None);
    }
}
