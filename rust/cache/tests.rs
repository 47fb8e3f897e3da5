//! The cache as one thread sees it: comparisons, readers and what it holds.
//!
//! `list` has any sequence of calls, `evictions` which entry goes, `removals` what a removal ends,
//! `histories` four threads, `turns` the table of threads that take turns. Not checked here: Python's
//! own equality (tests of the package).

mod evictions;
#[cfg(not(take_turns))]
mod histories;
mod list;
mod removals;
#[cfg(take_turns)]
mod turns;

use super::epoch::Epoch;
use super::*;
use std::num::{NonZeroU64, NonZeroUsize};
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

/// Stores a key under a hash of its own; the key that was evicted for it.
fn put_apart(cache: &Numbers, key: u32) -> Option<u32> {
    let mut offer = Offer { hash: u64::from(key), ..offer(key, 0) };
    cache.put(&mut offer, &mut Is(key)).unwrap().evicted.first().map(|evicted| evicted.key)
}

/// Checks what must hold between any two calls.
fn validate(cache: &Numbers) {
    let guard = cache.table.guard();
    let mut seen = std::collections::HashSet::new();
    let (mut entries, mut weight) = (0, 0);
    cache.table.for_each(&guard, |entry| {
        let tick = entry.tick().expect("what is in the table is alive");
        assert!(tick < Tick::NEW, "and has a tick");
        let now = Epoch(cache.epoch.load(Ordering::Acquire));
        assert_eq!(entry.epoch(now).clears(), now.clears());
        let key = entry.pin().expect("it is alive").read(|key, _| *key);
        assert!(seen.insert(key), "{key} is there once");
        (entries, weight) = (entries + 1, weight + entry.weight);
    });
    assert_eq!((cache.len(), cache.weight()), (entries, weight), "the counts are the table's");
    assert!(cache.usage.fits(cache.capacity()));
    assert_eq!(cache.is_empty(), entries == 0);
    #[cfg(take_turns)]
    cache.table.check();
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
