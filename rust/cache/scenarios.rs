//! Four threads at once, by shuttle: more than loom can search, so many schedules of each scenario
//! are tried, half at random and half by PCT, which finds rare bugs of few preemptions.
//!
//! `make shuttle`; SCHEDULES says how many. What must hold is said at rest, from the table itself:
//! no more than the capacity, counts that are the table's, each value once and under its own key.

use super::flight::{Flights, Joined};
use super::models::{Is, Numbers, cache, fly, get, in_thread, put};
use super::{Cache, Capacity, Match, Offer};
use crate::proof::explore;
use crate::sync::Arc;
use shuttle::thread;
use std::collections::HashSet;
use std::num::NonZeroU64;

/// Values say which key they are of.
fn value(key: u32, turn: u64) -> u64 {
    u64::from(key) * 1_000 + turn
}

fn is_of(key: u32, found: Option<u64>) -> bool {
    found.is_none_or(|found| found / 1_000 == u64::from(key))
}

/// What the table has: key, value, weight.
fn contents(cache: &Numbers) -> Vec<(u32, u64, u64)> {
    let mut found = Vec::new();
    let visit = |key: &u32, value: &u64, weight| -> Result<(), ()> {
        found.push((*key, *value, weight));
        Ok(())
    };
    cache.try_for_each(visit).unwrap();
    found
}

/// Whether the cache is whole, with no call under way.
fn validate(cache: &Numbers) {
    let found = contents(cache);
    let keys: HashSet<u32> = found.iter().map(|(key, _, _)| *key).collect();
    assert_eq!((keys.len(), found.len()), (cache.len(), cache.len()), "{found:?}");
    assert!(found.iter().all(|(key, value, _)| is_of(*key, Some(*value))), "{found:?}");
    assert_eq!(found.iter().map(|(_, _, weight)| weight).sum::<u64>(), cache.weight());
    let Capacity { entries, bytes } = cache.capacity();
    assert!(entries.is_none_or(|most| cache.len() <= most.get()));
    assert!(bytes.is_none_or(|most| cache.weight() <= most.get()));
}

/// Runs `play(cache, thread)` in four threads to their ends.
fn four(cache: &Arc<Numbers>, play: impl Fn(&Numbers, u32) + Clone + Send + 'static) {
    let threads = [0, 1, 2, 3].map(|number| {
        let play = play.clone();
        in_thread(cache, move |cache| play(cache, number))
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    validate(cache);
}

#[test]
fn four_put_and_read_two_keys_in_a_cache_of_one() {
    explore(|| {
        let cache = cache(1);
        four(&cache, |cache, number| {
            for turn in 0..2 {
                let key = (number + turn) % 2;
                put(cache, key, value(key, u64::from(number)));
                assert!(is_of(1 - key, get(cache, 1 - key)));
            }
        });
        assert_eq!(cache.len(), 1);
    });
}

#[test]
fn four_evict_from_a_cache_of_two() {
    explore(|| {
        let cache = cache(2);
        let gone = Arc::new(crate::sync::Mutex::new(Vec::new()));
        let out = Arc::clone(&gone);
        four(&cache, move |cache, number| {
            for turn in 0..2 {
                let key = 2 * number + turn;
                let put = put(cache, key, value(key, 0));
                let left = put.evicted.into_iter().chain(put.removed).map(|each| each.key);
                crate::sync::lock(&out).extend(left);
            }
        });
        let mut keys: Vec<u32> = contents(&cache).iter().map(|(key, _, _)| *key).collect();
        assert_eq!(keys.len(), 2);
        keys.extend(crate::sync::lock(&gone).iter());
        keys.sort_unstable();
        assert_eq!(keys, (0..8).collect::<Vec<_>>(), "each key is there, or left once");
    });
}

#[test]
fn four_put_weights_that_do_not_fit_together() {
    explore(|| {
        let most = NonZeroU64::new(5);
        let cache = Arc::new(Cache::new(Capacity { entries: None, bytes: most }));
        four(&cache, |cache, number| {
            for weight in [u64::from(number) + 1, 2] {
                let key = number % 3;
                let content = Some((key, value(key, weight)));
                let mut offer = Offer { hash: u64::from(key), weight, began: None, content };
                cache.put(&mut offer, &mut Is { key, removed: None }).unwrap();
            }
        });
    });
}

#[test]
fn two_put_while_one_clears_and_one_removes() {
    explore(|| {
        let cache = cache(2);
        put(&cache, 1, value(1, 9));
        four(&cache, |cache, number| match number {
            0 => drop(cache.clear()),
            1 => drop(cache.remove_matching(|_, key| of_key_one(*key), || ()).unwrap()),
            _ => {
                for key in [1, 2] {
                    let began = Some(cache.generation());
                    let content = Some((key, value(key, u64::from(number))));
                    let mut offer = Offer { hash: u64::from(key), weight: 0, began, content };
                    cache.put(&mut offer, &mut Is { key, removed: Some(1) }).unwrap();
                    assert!(is_of(key, get(cache, key)));
                }
            }
        });
        let old = get(&cache, 1);
        assert_ne!(old, Some(value(1, 9)), "what was there before the removals is gone");
    });
}

fn of_key_one(key: u32) -> Match {
    if key == 1 { Match::Yes } else { Match::No }
}

#[test]
fn four_fly_and_one_of_them_fails() {
    explore(|| {
        let flights = Arc::new(Flights::<u32, u64>::default());
        let flying = [0, 1, 2].map(|number| {
            let flights = Arc::clone(&flights);
            thread::spawn(move || fly(&flights, number))
        });
        let failing = {
            let flights = Arc::clone(&flights);
            thread::spawn(move || {
                if let Joined::Mine(ticket) = flights.join(1, |_, _| Match::Yes, || 1).unwrap() {
                    drop(ticket);
                }
            })
        };
        let flown = flying.map(|thread| thread.join().unwrap());
        failing.join().unwrap();
        let computed: HashSet<u64> =
            flown.iter().filter(|(_, mine)| *mine).map(|(value, _)| *value).collect();
        assert!(!computed.is_empty() && flown.iter().all(|(value, _)| computed.contains(value)));
        assert!(flights.is_empty());
    });
}
