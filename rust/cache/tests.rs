//! The cache beside a list: the same answers, the same evictions, after any sequence of calls.
//!
//! Threads are checked in `histories`. Not checked here: Python's own equality (tests of the
//! package).

#[cfg(not(take_turns))]
mod histories;

use super::stamp::Stamp;
use super::*;
#[cfg(not(take_turns))]
use crate::sync::SharedBool;
use proptest::prelude::*;
use std::sync::Arc;

fn cache(maxsize: usize) -> Numbers {
    bounded(maxsize, 0)
}

/// 0 is no limit.
fn bounded(entries: usize, bytes: u64) -> Numbers {
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

/// A key that compares as numbers do.
struct Is(u32);

impl Question<u32> for Is {
    fn matches(&mut self, _: EntryId, stored: &u32) -> Match {
        if *stored == self.0 { Match::Yes } else { Match::No }
    }

    fn is_still_good(&mut self, _: &u32, _: u32) -> Option<u32> {
        None
    }
}

/// Compares by a function; nothing older than an invalidation is good.
struct By<F>(F);

impl<F: FnMut(EntryId, &u32) -> Match> Question<u32> for By<F> {
    fn matches(&mut self, id: EntryId, stored: &u32) -> Match {
        (self.0)(id, stored)
    }

    fn is_still_good(&mut self, _: &u32, _: u32) -> Option<u32> {
        None
    }
}

type Numbers = Cache<u32, u64>;

fn get(cache: &Numbers, key: u32) -> Option<u64> {
    cache.get(hash(key), cache.clock().now(), &mut Is(key), |_, value| *value).unwrap()
}

fn peek(cache: &Numbers, key: u32) -> Option<u64> {
    cache.peek(hash(key), &mut Is(key), |_, value| *value).unwrap()
}

fn offer(key: u32, value: u64) -> Offer<u32, u64> {
    let content = Some((key, value));
    Offer { hash: hash(key), weight: weight(value), began: None, content }
}

fn put(cache: &Numbers, key: u32, value: u64) -> Put<u32, u64> {
    cache.put(&mut offer(key, value), &mut Is(key)).unwrap()
}

fn remove(cache: &Numbers, is: impl Fn(u32) -> bool) -> usize {
    let matches = |_: EntryId, key: &u32| if is(*key) { Match::Yes } else { Match::No };
    cache.remove_matching(matches, || ()).unwrap().len()
}

/// Checks what must hold between any two calls.
fn validate(cache: &Numbers) {
    let guard = cache.table.guard();
    let mut seen = std::collections::HashSet::new();
    let (mut entries, mut weight) = (0, 0);
    cache.table.for_each(&guard, |entry| {
        let tick = entry.tick().expect("what is in the table is alive");
        assert!(tick < Tick::NEW, "and has a tick");
        let now = Stamp(cache.stamp.load(Ordering::Acquire));
        assert_eq!(entry.stamp(now).clears(), now.clears());
        let key = entry.pin().expect("it is alive").read(|key, _| *key);
        assert!(seen.insert(key), "{key} is there once");
        (entries, weight) = (entries + 1, weight + entry.weight);
    });
    assert_eq!((cache.len(), cache.weight()), (entries, weight), "the counts are the table's");
    assert!(cache.room.holds(cache.capacity()));
    assert_eq!(cache.is_empty(), entries == 0);
}

#[derive(Clone, Debug)]
enum Call {
    Get(u32),
    Peek(u32),
    Put(u32, u64),
    Remove(u32),
    Clear,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        8 => (0..12_u32).prop_map(Call::Get),
        2 => (0..12_u32).prop_map(Call::Peek),
        8 => (0..12_u32, any::<u64>()).prop_map(|(key, value)| Call::Put(key, value)),
        1 => (1..12_u32).prop_map(Call::Remove),
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
        let removed = |(key, value)| Removed { hash: hash(key), key, value: Some(value) };
        let mut put = Put { stored: true, removed: Vec::new(), evicted: Evicted::new() };
        put.removed.extend(self.take(key).map(removed));
        if capacity.bytes.is_some_and(|most| weight(value) > most.get()) {
            put.removed.push(removed((key, value)));
            return Put { stored: false, ..put };
        }
        self.0.insert(0, (key, value));
        while self.is_over(capacity) {
            put.evicted.extend(self.0.pop().map(removed));
        }
        put
    }

    fn is_over(&self, capacity: Capacity) -> bool {
        capacity.entries.is_some_and(|most| self.0.len() > most.get())
            || capacity.bytes.is_some_and(|most| self.weight() > most.get())
    }

    fn weight(&self) -> u64 {
        self.0.iter().map(|(_, value)| weight(*value)).sum()
    }
}

/// A hundred calls each; more than proptest's own number, since they cost little.
fn sequences() -> ProptestConfig {
    let asked = ProptestConfig::default();
    ProptestConfig { cases: asked.cases.max(1_024), ..asked }
}

proptest! {
    #![proptest_config(sequences())]

    #[test]
    fn any_sequence_of_calls_gives_what_a_list_gives(
        entries in prop::sample::select(vec![0_usize, 1, 2, 3, 8, 64]),
        bytes in prop::sample::select(vec![0_u64, 1, 5, 20, 100]),
        calls in prop::collection::vec(call(), 1..200),
    ) {
        let (ours, mut list) = (bounded(entries, bytes), List::default());
        let asked = calls.len() as u64;
        for call in calls {
            match call {
                Call::Get(key) => prop_assert_eq!(get(&ours, key), list.get(key)),
                Call::Peek(key) => {
                    let listed = list.0.iter().find(|(stored, _)| *stored == key);
                    prop_assert_eq!(peek(&ours, key), listed.map(|(_, value)| *value));
                }
                Call::Put(key, value) => {
                    prop_assert_eq!(put(&ours, key, value), list.put(ours.capacity(), key, value));
                }
                Call::Remove(factor) => {
                    let before = list.0.len();
                    list.0.retain(|(key, _)| key % factor != 0);
                    prop_assert_eq!(remove(&ours, |key| key % factor == 0), before - list.0.len());
                    // Nothing here approves of the rest, so it is put again.
                    let mut rest = list.0.clone();
                    rest.reverse();
                    for (key, value) in rest {
                        put(&ours, key, value);
                    }
                }
                Call::Clear => {
                    prop_assert_eq!(ours.clear().len(), list.0.len());
                    list.0.clear();
                }
            }
            validate(&ours);
            prop_assert_eq!(ours.len(), list.0.len());
            prop_assert_eq!(ours.weight(), list.weight());
        }
        crate::proof::done(asked, "operations");
    }
}

#[test]
fn a_hit_saves_an_entry_from_eviction() {
    let cache = cache(2);
    put(&cache, 1, 10);
    put(&cache, 2, 20);
    assert_eq!(get(&cache, 1), Some(10));
    assert_eq!(put(&cache, 3, 30).evicted[0].value, Some(20));
}

#[test]
fn a_use_that_is_told_late_moves_nothing_back() {
    let cache = cache(2);
    put(&cache, 1, 10);
    let early = cache.clock().now();
    put(&cache, 2, 20);
    let read = |_: &u32, value: &u64| *value;
    assert_eq!(cache.get(hash(2), early, &mut Is(2), read).unwrap(), Some(20));
    assert_eq!(put(&cache, 3, 30).evicted[0].key, 1);
}

/// Stores a key under a hash of its own; the key that was evicted for it.
fn put_apart(cache: &Numbers, key: u32) -> Option<u32> {
    let mut offer = Offer { hash: u64::from(key), ..offer(key, 0) };
    cache.put(&mut offer, &mut Is(key)).unwrap().evicted.first().map(|evicted| evicted.key)
}

fn use_at(cache: &Numbers, key: u32, at: Tick) {
    assert_eq!(cache.get(u64::from(key), at, &mut Is(key), |_, _| ()).unwrap(), Some(()));
}

#[test]
fn a_use_between_two_readings_of_the_order_is_found_in_the_right_place() {
    let cache = cache(3);
    for key in 1..=3 {
        put_apart(&cache, key);
    }
    let early = cache.clock().now();
    // Sorts all entries: 1 goes, the run names 2, 3 and 4.
    assert_eq!(put_apart(&cache, 4), Some(1));
    // A use from before the run's moment comes late: 2 is now younger than 3, though in its range.
    use_at(&cache, 2, early);
    assert_eq!(put_apart(&cache, 5), Some(3));
    assert_eq!(put_apart(&cache, 6), Some(2));
    assert_eq!(put_apart(&cache, 7), Some(4));
}

#[test]
fn entries_are_sorted_when_a_run_is_used_up_and_not_before() {
    let cache = cache(100);
    for key in 0..100 {
        put_apart(&cache, key);
    }
    assert_eq!(put_apart(&cache, 100), Some(0));
    let sorted_at = cache.order.sorted_at();
    // Half of the names are used up by uses, the other half by evictions.
    (50..100).for_each(|key| use_at(&cache, key, cache.clock().now()));
    (1..50).for_each(|key| assert_eq!(put_apart(&cache, 100 + key), Some(key)));
    assert_eq!(cache.order.sorted_at(), sorted_at);
    // The name of 100 is the last; what comes then was used later.
    assert_eq!(put_apart(&cache, 150), Some(100));
    assert_eq!(put_apart(&cache, 151), Some(50));
    assert!(cache.order.sorted_at() > sorted_at);
}

/// Entries of one hash are met together, and some of them are younger than the run.
#[test]
fn a_run_is_good_beside_younger_entries_of_its_hashes() {
    let cache = cache(6);
    (1..=6).for_each(|key| drop(put(&cache, key, 0)));
    assert_eq!(put(&cache, 7, 0).evicted[0].key, 1);
    let sorted_at = cache.order.sorted_at();
    get(&cache, 3);
    (8..=9).zip([2, 4]).for_each(|(key, oldest)| {
        assert_eq!(put(&cache, key, 0).evicted[0].key, oldest);
    });
    assert_eq!(cache.order.sorted_at(), sorted_at);
}

#[test]
fn an_undecided_comparison_changes_nothing_and_names_the_entry() {
    let cache = cache(2);
    put(&cache, 1, 10);
    put(&cache, 2, 20);
    let mut unsure = By(|_: EntryId, _: &u32| Match::Unknown);
    let at = cache.clock().now();
    let stored = cache.get(hash(1), at, &mut unsure, |_, value| *value).unwrap_err();
    assert_eq!(stored.key, 1);
    let mut offer = offer(1, 11);
    assert!(cache.put(&mut offer, &mut unsure).is_err());
    assert_eq!(offer.content, Some((1, 11)), "the content is there for the next call");
    assert_eq!(put(&cache, 3, 30).evicted[0].value, Some(10), "the order is as it was");
}

#[test]
fn a_sure_match_needs_no_verdict_on_other_candidates() {
    let cache = cache(8);
    put(&cache, 0, 1);
    put(&cache, 3, 2);
    let mut one_unknown = By(|_: EntryId, stored: &u32| match stored {
        3 => Match::Yes,
        _ => Match::Unknown,
    });
    let at = cache.clock().now();
    assert_eq!(cache.get(hash(3), at, &mut one_unknown, |_, value| *value).unwrap(), Some(2));
}

#[test]
fn a_value_too_large_for_the_cache_takes_the_old_value_with_it() {
    let cache = bounded(0, 5);
    assert!(put(&cache, 1, 3).stored);
    let put = put(&cache, 1, 9);
    assert!(!put.stored && put.evicted.is_empty());
    assert_eq!(get(&cache, 1), None);
    assert_eq!((cache.len(), cache.weight()), (0, 0));
}

#[test]
fn a_value_computed_before_its_key_was_removed_is_not_stored() {
    let cache = cache(2);
    let began = Some(cache.generation());
    remove(&cache, |key| key == 1);
    let put = cache.put(&mut Offer { began, ..offer(1, 10) }, &mut Is(1)).unwrap();
    assert!(!put.stored && put.removed[0].value == Some(10));
    assert_eq!((get(&cache, 1), cache.len()), (None, 0));
}

#[test]
fn a_value_that_comes_too_late_leaves_what_was_computed_since() {
    let cache = cache(2);
    let began = Some(cache.generation());
    remove(&cache, |key| key == 1);
    put(&cache, 1, 11);
    let put = cache.put(&mut Offer { began, ..offer(1, 10) }, &mut Is(1)).unwrap();
    assert!(!put.stored && put.removed[0].value == Some(10));
    assert_eq!(get(&cache, 1), Some(11));
}

#[test]
fn a_value_computed_before_another_key_was_removed_is_stored() {
    struct Good(u32);
    impl Question<u32> for Good {
        fn matches(&mut self, id: EntryId, stored: &u32) -> Match {
            Is(self.0).matches(id, stored)
        }

        fn is_still_good(&mut self, _: &u32, generation: u32) -> Option<u32> {
            Some(generation + 1)
        }
    }
    let cache = cache(2);
    let began = Some(cache.generation());
    remove(&cache, |key| key == 2);
    assert!(cache.put(&mut Offer { began, ..offer(1, 10) }, &mut Good(1)).unwrap().stored);
    // Approved once: from now on nobody is asked, and this one would say no.
    assert_eq!(get(&cache, 1), Some(10));
}

#[test]
fn a_value_computed_after_a_removal_is_stored() {
    let cache = cache(2);
    for removals in 1..3 {
        remove(&cache, |_| true);
        let began = Some(cache.generation());
        let put = cache.put(&mut Offer { began, ..offer(1, 10) }, &mut Is(1)).unwrap();
        assert!(put.stored, "after {removals} removals");
    }
}

#[test]
fn a_removal_that_can_not_compare_removes_nothing() {
    let cache = cache(2);
    put(&cache, 1, 10);
    put(&cache, 2, 20);
    let matches = |_: EntryId, key: &u32| if *key == 1 { Match::Unknown } else { Match::Yes };
    let undecided = cache.remove_matching(matches, || panic!("it has begun")).err().unwrap();
    assert_eq!((undecided.key, cache.len(), cache.generation()), (1, 2, 0));
}

// Calls from within a removal: with turns there is no such thing.
#[cfg(not(take_turns))]
#[test]
fn what_comes_in_during_a_removal_stays() {
    let cache = cache(0);
    put(&cache, 0, 0);
    let has_begun = std::cell::Cell::new(false);
    let matches = |_: EntryId, key: &u32| {
        if *key == 0 && has_begun.get() {
            (1..1000).for_each(|new| drop(put(&cache, new, 0)));
        }
        Match::Yes
    };
    assert_eq!(cache.remove_matching(matches, || has_begun.set(true)).unwrap().len(), 1);
    assert_eq!(cache.len(), 999);
}

#[cfg(not(take_turns))]
#[test]
fn what_comes_in_during_a_clear_stays() {
    const OLD: u32 = 20_000;
    let cache = cache(0);
    for key in 0..OLD {
        put_apart(&cache, key);
    }
    let is_there = |key: u32| {
        let at = cache.clock().now();
        cache.get(u64::from(key), at, &mut Is(key), |_, _| ()).unwrap().is_some()
    };
    let has_ended = SharedBool::new(false);
    let came = std::thread::scope(|scope| {
        let putting = scope.spawn(|| {
            // From the moment on at which the clear shows.
            while is_there(OLD / 2) {}
            let mut key = OLD;
            while (!has_ended.load(Ordering::Acquire) && key < 2 * OLD) || key == OLD {
                put_apart(&cache, key);
                key += 1;
            }
            OLD..key
        });
        assert!(cache.clear().len() as u32 <= OLD);
        has_ended.store(true, Ordering::Release);
        putting.join().unwrap()
    });
    assert_eq!(cache.len(), came.len());
    assert!(came.into_iter().all(is_there));
}

#[test]
fn every_entry_is_visited_until_one_fails() {
    let cache = cache(8);
    (0..5).for_each(|key| drop(put(&cache, key, u64::from(key) * 10)));
    let mut seen = Vec::new();
    let visit = |key: &u32, value: &u64, weight: u64| {
        seen.push((*key, *value, weight));
        Ok::<_, ()>(())
    };
    assert_eq!(cache.try_for_each(visit), Ok(()));
    seen.sort_unstable();
    assert_eq!(seen, [(0, 0, 0), (1, 10, 0), (2, 20, 0), (3, 30, 0), (4, 40, 0)]);
    let mut visits = 0;
    let fails = |_: &u32, _: &u64, _: u64| {
        visits += 1;
        if visits == 2 { Err("full") } else { Ok(()) }
    };
    assert_eq!((cache.try_for_each(fails), visits), (Err("full"), 2));
}

#[test]
fn what_is_not_good_any_longer_leaves_at_its_next_read() {
    let cache = cache(2);
    put(&cache, 1, 10);
    // As if the removal were still on its way to the entry.
    cache.stamp.fetch_add(Stamp::GENERATION, Ordering::AcqRel);
    assert_eq!((get(&cache, 1), cache.len()), (None, 0));
    put(&cache, 1, 11);
    cache.stamp.fetch_add(Stamp::CLEAR, Ordering::AcqRel);
    assert_eq!((peek(&cache, 1), cache.len()), (None, 0));
}

#[test]
fn ids_are_never_used_twice() {
    let cache = cache(1);
    let id = |key| {
        let mut seen = None;
        let spy = |id: EntryId, _: &u32| {
            seen = Some(id);
            Match::Yes
        };
        cache.peek(hash(key), &mut By(spy), |_, _| ()).unwrap();
        seen.unwrap()
    };
    put(&cache, 1, 1);
    let first = id(1);
    put(&cache, 4, 4);
    put(&cache, 1, 1);
    assert_ne!(first, id(1));
}

// Calls from within a read: with turns there is no such thing.
#[cfg(not(take_turns))]
#[test]
fn a_value_that_is_being_read_outlives_its_entry_by_that_reader() {
    let cache = Cache::<u32, Arc<()>>::new(Capacity { entries: NonZeroUsize::new(1), bytes: None });
    let value = Arc::new(());
    let of = |key: u32, value: &Arc<()>| Offer {
        hash: 0,
        weight: 0,
        began: None,
        content: Some((key, Arc::clone(value))),
    };
    cache.put(&mut of(1, &value), &mut Is(1)).unwrap();
    let at = cache.clock().now();
    let read = cache.get(0, at, &mut Is(1), |_, held| {
        let put = cache.put(&mut of(2, &Arc::new(())), &mut Is(2)).unwrap();
        assert_eq!((put.evicted[0].key, &put.evicted[0].value), (1, &None));
        assert_eq!(Arc::strong_count(held), 2, "the reader's");
    });
    assert_eq!(read.unwrap(), None, "it was gone before the read came to its end");
    assert_eq!(Arc::strong_count(&value), 1, "the reader has dropped it");
}

#[test]
fn a_comparison_that_panics_leaves_the_entry_as_it_was() {
    let cache = cache(1);
    put(&cache, 1, 10);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut panics = By(|_: EntryId, _: &u32| -> Match { panic!("no answer") });
        cache.peek(hash(1), &mut panics, |_, _| ())
    }));
    assert!(panicked.is_err());
    assert_eq!(put(&cache, 4, 40).evicted[0].value, Some(10), "no reader is left behind");
}

#[test]
fn no_more_values_live_than_entries_and_readers() {
    let cache = Cache::<u32, Arc<()>>::new(Capacity { entries: NonZeroUsize::new(2), bytes: None });
    let alive = Arc::new(());
    for key in 0..10_000 {
        let content = Some((key, Arc::clone(&alive)));
        let mut offer = Offer { hash: u64::from(key), weight: 0, began: None, content };
        cache.put(&mut offer, &mut Is(key)).unwrap();
        assert!(Arc::strong_count(&alive) <= 3);
    }
}

#[cfg(not(take_turns))]
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
                    assert!(cache.len() <= 16 + 4, "at most one more for each put under way");
                }
            });
        }
    });
    assert_eq!(cache.len(), 16);
    validate(&cache);
}
