//! Every interleaving of the races of a cache and of its flights, by loom, and many by shuttle.
//!
//! `make loom` and `make shuttle`. The files under test are the shipped ones, over a model of the
//! table, whose orderings are those of the real one, and a clock that orders nothing but itself.

use super::flight::{Ended, Flights, Joined};
use super::{Cache, Capacity, EntryId, Match, Offer, Put, Question};
use crate::proof::explore;
use crate::sync::Arc;
use std::num::NonZeroUsize;
use std::time::Duration;

#[cfg(loom)]
use loom::thread;
#[cfg(shuttle)]
use shuttle::thread;

/// A key, and keys that were removed since an older generation.
pub(super) struct Is {
    pub(super) key: u32,
    pub(super) removed: Option<u32>,
}

impl Question<u32> for Is {
    fn matches(&mut self, _: EntryId, stored: &u32) -> Match {
        if *stored == self.key { Match::Yes } else { Match::No }
    }

    fn is_still_good(&mut self, stored: &u32, _: u32) -> Option<u32> {
        (self.removed != Some(*stored)).then_some(1)
    }
}

pub(super) type Numbers = Cache<u32, u64>;

pub(super) fn cache(entries: usize) -> Arc<Numbers> {
    Arc::new(Cache::new(Capacity { entries: NonZeroUsize::new(entries), bytes: None }))
}

pub(super) fn get(cache: &Numbers, key: u32) -> Option<u64> {
    let mut is = Is { key, removed: None };
    cache.get(u64::from(key), cache.clock().now(), &mut is, |_, value| *value).unwrap()
}

pub(super) fn put(cache: &Numbers, key: u32, value: u64) -> Put<u32, u64> {
    let hash = u64::from(key);
    let mut offer = Offer { hash, weight: 0, began: None, content: Some((key, value)) };
    cache.put(&mut offer, &mut Is { key, removed: None }).unwrap()
}

pub(super) fn in_thread<R: 'static + Send>(
    cache: &Arc<Numbers>,
    run: impl FnOnce(&Numbers) -> R + Send + 'static,
) -> thread::JoinHandle<R> {
    let cache = Arc::clone(cache);
    thread::spawn(move || run(&cache))
}

#[test]
fn publish_races_get() {
    explore(|| {
        let cache = cache(2);
        let putting = in_thread(&cache, |cache| drop(put(cache, 1, 10)));
        assert!(get(&cache, 1).is_none_or(|value| value == 10), "whole, or not there");
        putting.join().unwrap();
        assert_eq!((get(&cache, 1), cache.len()), (Some(10), 1));
    });
}

#[test]
fn get_races_evict() {
    explore(|| {
        let cache = cache(2);
        put(&cache, 1, 10);
        put(&cache, 2, 20);
        let putting = in_thread(&cache, |cache| put(cache, 3, 30));
        let got = get(&cache, 1);
        let put = putting.join().unwrap();
        let victim = put.evicted[0].key;
        assert_eq!(put.evicted.len(), 1);
        // A hit came before the eviction, which then took the other one, or else found 1 gone.
        assert_eq!(got, (victim == 2).then_some(10));
        assert_eq!((get(&cache, victim), get(&cache, 3), cache.len()), (None, Some(30), 2));
    });
}

#[test]
fn get_races_replace() {
    explore(|| {
        let cache = cache(2);
        put(&cache, 1, 10);
        let putting = in_thread(&cache, |cache| drop(put(cache, 1, 11)));
        let got = get(&cache, 1);
        assert!(got == Some(10) || got == Some(11), "a key that is there is never missed: {got:?}");
        putting.join().unwrap();
        assert_eq!((get(&cache, 1), cache.len()), (Some(11), 1));
    });
}

/// Two in a row: the look after the first dead entry may meet the second.
#[test]
fn get_races_two_replacements() {
    explore(|| {
        let cache = cache(2);
        put(&cache, 1, 10);
        let putting = in_thread(&cache, |cache| {
            put(cache, 1, 11);
            put(cache, 1, 12);
        });
        assert!(get(&cache, 1).is_some(), "a key that is there is never missed");
        putting.join().unwrap();
        assert_eq!((get(&cache, 1), cache.len()), (Some(12), 1));
    });
}

#[test]
fn put_races_put_of_one_key() {
    explore(|| {
        let cache = cache(1);
        let putting = in_thread(&cache, |cache| put(cache, 1, 10));
        let mine = put(&cache, 1, 11);
        let theirs = putting.join().unwrap();
        assert!(mine.evicted.is_empty() && theirs.evicted.is_empty(), "nothing had to be evicted");
        assert_eq!(mine.removed.len() + theirs.removed.len(), 1, "one replaced the other");
        assert!(get(&cache, 1).is_some());
        assert_eq!(cache.len(), 1);
    });
}

#[test]
fn evict_races_evict() {
    explore(|| {
        let cache = cache(1);
        put(&cache, 0, 0);
        let putting = in_thread(&cache, |cache| put(cache, 1, 10));
        let mine = put(&cache, 2, 20);
        let theirs = putting.join().unwrap();
        assert_eq!(mine.evicted.len() + theirs.evicted.len(), 2, "no more than there was too much");
        let left = [1, 2].map(|key| get(&cache, key).is_some());
        assert_eq!((left[0] ^ left[1], cache.len()), (true, 1));
        assert_eq!(get(&cache, 0), None, "the oldest went first");
    });
}

#[test]
fn replace_races_evict() {
    explore(|| {
        let cache = cache(1);
        put(&cache, 1, 10);
        let putting = in_thread(&cache, |cache| put(cache, 1, 11));
        let puts = [put(&cache, 2, 20), putting.join().unwrap()];
        let gone: usize = puts.iter().map(|put| put.removed.len() + put.evicted.len()).sum();
        assert_eq!(gone, 2, "each value left once");
        let left = [1, 2].map(|key| get(&cache, key));
        assert!(left == [Some(11), None] || left == [None, Some(20)], "{left:?}");
        assert_eq!(cache.len(), 1);
    });
}

#[test]
fn invalidate_races_put() {
    explore(|| {
        let cache = cache(2);
        let began = Some(cache.generation());
        let putting = in_thread(&cache, move |cache| {
            let mut offer = Offer { hash: 1, weight: 0, began, content: Some((1, 10)) };
            cache.put(&mut offer, &mut Is { key: 1, removed: Some(1) }).unwrap().stored
        });
        cache.remove_matching(|_, _| Match::Yes, || ()).unwrap();
        let mut is = Is { key: 1, removed: Some(1) };
        let read = |_: &u32, value: &u64| *value;
        let after = cache.get(1, cache.clock().now(), &mut is, read).unwrap();
        assert_eq!(after, None, "a value from before is not served after");
        putting.join().unwrap();
        assert_eq!(cache.len(), 0, "nor kept");
    });
}

#[test]
fn clear_races_put() {
    explore(|| {
        let cache = cache(2);
        put(&cache, 1, 10);
        let putting = in_thread(&cache, |cache| drop(put(cache, 2, 20)));
        cache.clear();
        assert_eq!(get(&cache, 1), None);
        putting.join().unwrap();
        let left = usize::from(get(&cache, 2).is_some());
        assert_eq!(cache.len(), left, "the count is the table's");
    });
}

type Passes = Flights<u32, u64>;

fn join(flights: &Passes) -> Joined<'_, u32, u64> {
    flights.join(1, |_, _| Match::Yes, || 1).unwrap()
}

const SLICE: Duration = Duration::from_secs(1);

/// Computes, or waits for the one who does; the value, and whether it was computed here.
pub(super) fn fly(flights: &Passes, value: u64) -> (u64, bool) {
    loop {
        match join(flights) {
            Joined::Mine(ticket) => {
                ticket.finish(|| value);
                return (value, true);
            }
            Joined::Theirs(flight) => {
                let _edge = flights.begin_wait(&flight).unwrap();
                loop {
                    match flight.wait(SLICE, |value| *value) {
                        Ended::Value(value) => return (value, false),
                        Ended::Failed => break,
                        Ended::No => thread::yield_now(),
                    }
                }
            }
        }
    }
}

#[test]
fn flight_finished_races_waiter() {
    explore(|| {
        let flights = Arc::new(Passes::default());
        let other = {
            let flights = Arc::clone(&flights);
            thread::spawn(move || fly(&flights, 10))
        };
        let (mine, computed) = fly(&flights, 11);
        let (theirs, they_computed) = other.join().unwrap();
        assert!(computed || they_computed);
        assert_eq!(mine == theirs, computed != they_computed, "who waits gets the other's");
        assert!(flights.is_empty());
    });
}

#[test]
fn flight_failed_races_waiter() {
    explore(|| {
        let flights = Arc::new(Passes::default());
        let failing = {
            let flights = Arc::clone(&flights);
            thread::spawn(move || match join(&flights) {
                Joined::Mine(ticket) => drop(ticket),
                Joined::Theirs(_) => {}
            })
        };
        assert_eq!(fly(&flights, 11), (11, true), "whoever waited for a failure computes");
        failing.join().unwrap();
        assert!(flights.is_empty());
    });
}
