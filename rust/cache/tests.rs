//! The cache beside a list: the same answers, the same evictions, after any sequence of calls.
//!
//! Threads are checked in `histories`. Not checked here: Python's own equality (tests of the
//! package).

mod histories;

use super::*;
use proptest::prelude::*;
use std::cell::Cell;

fn cache(maxsize: usize) -> Cache<u32, u64> {
    bounded(maxsize, 0)
}

/// 0 is no limit.
fn bounded(entries: usize, bytes: u64) -> Cache<u32, u64> {
    Cache::new(Capacity { entries: NonZeroUsize::new(entries), bytes: NonZeroU64::new(bytes) })
}

/// A value's weight in these tests: 0 to 9 bytes.
fn weight(value: u64) -> u64 {
    value % 10
}

/// Few hashes for many keys, so that candidates of one hash are met all the time.
fn hash(key: u32) -> u64 {
    u64::from(key % 3)
}

fn same(key: u32) -> impl Fn(EntryId, &u32) -> Match {
    move |_, stored| {
        if *stored == key { Match::Yes } else { Match::No }
    }
}

fn get(cache: &Cache<u32, u64>, key: u32) -> Option<u64> {
    cache.get(hash(key), same(key), |_, value| *value).unwrap()
}

fn put(cache: &Cache<u32, u64>, key: u32, value: u64) -> Put<u32, u64> {
    cache.put(hash(key), weight(value), same(key), || true, || (key, value)).unwrap()
}

#[derive(Clone, Debug)]
enum Call {
    Get(u32),
    Peek(u32),
    Put(u32, u64),
    Clear,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        8 => (0..12_u32).prop_map(Call::Get),
        2 => (0..12_u32).prop_map(Call::Peek),
        8 => (0..12_u32, any::<u64>()).prop_map(|(key, value)| Call::Put(key, value)),
        1 => Just(Call::Clear),
    ]
}

/// The model: the first element is the most recent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct List(Vec<(u32, u64)>);

impl List {
    fn take(&mut self, key: u32) -> Option<(u32, u64)> {
        let position = self.0.iter().position(|(stored, _)| *stored == key)?;
        Some(self.0.remove(position))
    }

    fn get(&mut self, key: u32) -> Option<u64> {
        let entry = self.take(key)?;
        self.0.insert(0, entry);
        Some(entry.1)
    }

    fn put(&mut self, capacity: Capacity, key: u32, value: u64) -> Put<u32, u64> {
        let removed = |(key, value)| Removed { hash: hash(key), key, value };
        let mut gone = Vec::from_iter(self.take(key).map(removed));
        if capacity.bytes.is_some_and(|most| weight(value) > most.get()) {
            gone.push(Removed { hash: hash(key), key, value });
            return Put { stored: false, evicted: 0, removed: gone };
        }
        self.0.insert(0, (key, value));
        let mut evicted = 0;
        while self.is_over(capacity) {
            gone.extend(self.0.pop().map(removed));
            evicted += 1;
        }
        Put { stored: true, evicted, removed: gone }
    }

    fn is_over(&self, capacity: Capacity) -> bool {
        capacity.entries.is_some_and(|most| self.0.len() > most.get())
            || capacity.bytes.is_some_and(|most| self.weight() > most.get())
    }

    fn weight(&self) -> u64 {
        self.0.iter().map(|(_, value)| weight(*value)).sum()
    }
}

proptest! {
    #[test]
    fn any_sequence_of_calls_gives_what_a_list_gives(
        entries in prop::sample::select(vec![0_usize, 1, 2, 3, 8, 64]),
        bytes in prop::sample::select(vec![0_u64, 1, 5, 20, 100]),
        calls in prop::collection::vec(call(), 1..200),
    ) {
        let (ours, mut list) = (bounded(entries, bytes), List::default());
        for call in calls {
            match call {
                Call::Get(key) => prop_assert_eq!(get(&ours, key), list.get(key)),
                Call::Peek(key) => {
                    let held = ours.peek(hash(key), same(key), |_, value| *value).unwrap();
                    let listed = list.0.iter().find(|(stored, _)| *stored == key);
                    prop_assert_eq!(held, listed.map(|(_, value)| *value));
                }
                Call::Put(key, value) => {
                    prop_assert_eq!(put(&ours, key, value), list.put(ours.capacity(), key, value));
                }
                Call::Clear => {
                    prop_assert_eq!(ours.clear().len(), list.0.len());
                    list.0.clear();
                }
            }
            lock(&ours.lru).validate();
            prop_assert_eq!(ours.len(), list.0.len());
            prop_assert_eq!(ours.weight(), list.weight());
        }
    }
}

#[test]
fn a_hit_saves_an_entry_from_eviction() {
    let cache = cache(2);
    put(&cache, 1, 10);
    put(&cache, 2, 20);
    assert_eq!(get(&cache, 1), Some(10));
    assert_eq!(put(&cache, 3, 30).removed[0].value, 20);
}

#[test]
fn an_undecided_comparison_changes_nothing_and_names_the_entry() {
    let cache = cache(2);
    put(&cache, 1, 10);
    put(&cache, 2, 20);
    let unsure = |_: EntryId, _: &u32| Match::Unknown;
    let stored = cache.get(hash(1), unsure, |_, value| *value).unwrap_err();
    assert_eq!(stored.key, 1);
    let built = Cell::new(false);
    let entry = || {
        built.set(true);
        (1, 11)
    };
    assert!(cache.put(hash(1), 0, unsure, || true, entry).is_err());
    assert!(!built.get());
    assert_eq!(put(&cache, 3, 30).removed[0].value, 10, "the order is as it was");
}

#[test]
fn a_sure_match_needs_no_verdict_on_other_candidates() {
    let cache = cache(8);
    put(&cache, 0, 1);
    put(&cache, 3, 2);
    let one_unknown = |_: EntryId, stored: &u32| match stored {
        3 => Match::Yes,
        _ => Match::Unknown,
    };
    assert_eq!(cache.get(hash(3), one_unknown, |_, value| *value).unwrap(), Some(2));
}

#[test]
fn a_value_too_large_for_the_cache_takes_the_old_value_with_it() {
    let cache = bounded(0, 5);
    assert!(put(&cache, 1, 3).stored);
    let put = put(&cache, 1, 9);
    assert_eq!((put.stored, put.evicted), (false, 0));
    assert_eq!(get(&cache, 1), None);
    assert_eq!((cache.len(), cache.weight()), (0, 0));
}

#[test]
fn ids_are_never_used_twice() {
    let cache = cache(1);
    let id = |key| {
        let seen = Cell::new(None);
        let spy = |id: EntryId, _: &u32| {
            seen.set(Some(id));
            Match::Yes
        };
        cache.peek(hash(key), spy, |_, _| ()).unwrap();
        seen.get().unwrap()
    };
    put(&cache, 1, 1);
    let first = id(1);
    put(&cache, 4, 4);
    put(&cache, 1, 1);
    assert_ne!(first, id(1));
}

#[test]
fn threads_lose_no_entry_and_hold_the_capacity() {
    let cache = cache(16);
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let cache = &cache;
            scope.spawn(move || {
                for step in 0..5_000_u32 {
                    let key = (step * 7 + thread) % 40;
                    put(cache, key, u64::from(key));
                    assert!(get(cache, key).is_none_or(|value| value == u64::from(key)));
                }
            });
        }
    });
    assert_eq!(cache.len(), 16);
    lock(&cache.lru).validate();
}
