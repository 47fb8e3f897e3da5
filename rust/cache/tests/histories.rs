//! Recorded histories of four threads beside the list: some order of the calls explains them all.
//!
//! The search is Wing and Gong's: a call may come next if no other call had returned before it
//! began, and if the list answers what the cache answered. Positions with the same list are tried
//! once. A history that no order explains is a call that was not one step.
//!
//! Not checked here: the orders of memory that this machine never shows.

use super::*;
use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

const THREADS: usize = 4;
const CALLS: usize = 32;
const HISTORIES: u64 = 2_000;

#[derive(Clone, Copy, Debug)]
enum Asked {
    Get(u32),
    Put(u32, u64),
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Got(Option<u64>),
    Put(Put<u32, u64>),
}

/// A call with the moments between which it took effect.
#[derive(Debug)]
struct Recorded {
    began: u64,
    asked: Asked,
    answer: Answer,
    returned: u64,
}

type History = Vec<Vec<Recorded>>;

/// A fixed sequence of numbers for every seed (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// Gives the processor away in some comparisons, so that others call in the midst of this call.
fn interrupted(key: u32, rest: u64) -> impl FnMut(EntryId, &u32) -> Match {
    let mut rest = rest;
    move |id, stored| {
        if rest.is_multiple_of(4) {
            std::thread::yield_now();
        }
        rest >>= 2;
        same(key)(id, stored)
    }
}

fn ask(cache: &Cache<u32, u64>, asked: Asked, rest: u64) -> Answer {
    match asked {
        Asked::Get(key) => {
            Answer::Got(cache.get(hash(key), interrupted(key, rest), |_, value| *value).unwrap())
        }
        Asked::Put(key, value) => Answer::Put(
            cache
                .put(hash(key), weight(value), interrupted(key, rest), || true, || (key, value))
                .unwrap(),
        ),
    }
}

fn record(cache: &Cache<u32, u64>, seed: u64) -> History {
    let (clock, start) = (AtomicU64::new(0), Barrier::new(THREADS));
    let calls = |thread: u64| {
        let mut numbers = Numbers(seed * THREADS as u64 + thread);
        start.wait();
        let call = |call: usize| {
            let number = numbers.next();
            let key = (number % 6) as u32;
            // No value comes twice, so that an answer tells which put it is from.
            let value = thread * CALLS as u64 + call as u64;
            let asked = if number & 64 == 0 { Asked::Get(key) } else { Asked::Put(key, value) };
            // SeqCst: one order of all moments, which no call is moved across.
            let began = clock.fetch_add(1, Ordering::SeqCst);
            let answer = ask(cache, asked, number >> 8);
            let returned = clock.fetch_add(1, Ordering::SeqCst);
            Recorded { began, asked, answer, returned }
        };
        (0..CALLS).map(call).collect()
    };
    std::thread::scope(|scope| {
        let calls = &calls;
        let threads = (0..THREADS as u64).map(|thread| scope.spawn(move || calls(thread)));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Whether some order of the calls gives every answer.
fn is_explained(history: &History, capacity: Capacity) -> bool {
    let mut tried = HashSet::new();
    let mut open = vec![(vec![0; history.len()], List::default())];
    while let Some((done, list)) = open.pop() {
        let next = |thread: usize| history[thread].get(done[thread]);
        let Some(first) = (0..history.len()).filter_map(|t| Some(next(t)?.returned)).min() else {
            return true;
        };
        if !tried.insert((done.clone(), list.clone())) {
            continue;
        }
        for thread in 0..history.len() {
            let Some(call) = next(thread).filter(|call| call.began < first) else { continue };
            let mut list = list.clone();
            let answer = match call.asked {
                Asked::Get(key) => Answer::Got(list.get(key)),
                Asked::Put(key, value) => Answer::Put(list.put(capacity, key, value)),
            };
            if answer == call.answer {
                let mut done = done.clone();
                done[thread] += 1;
                open.push((done, list));
            }
        }
    }
    false
}

fn overlaps(history: &History) -> bool {
    history.iter().flatten().any(|call| call.returned > call.began + 1)
}

#[test]
fn every_history_of_four_threads_is_one_order_of_its_calls() {
    let mut overlapping = 0;
    for seed in 0..HISTORIES {
        let entries = [1, 2, 3, 8][(seed % 4) as usize];
        let cache = bounded(entries, if seed % 8 < 4 { 0 } else { 12 });
        let history = record(&cache, seed);
        lock(&cache.lru).validate();
        assert!(is_explained(&history, cache.capacity()), "history {seed}: {history:#?}");
        overlapping += u64::from(overlaps(&history));
    }
    assert!(overlapping > HISTORIES / 10, "only {overlapping} histories had calls that overlap");
}

#[test]
fn a_read_of_what_a_finished_put_replaced_is_no_order() {
    let capacity = Capacity { entries: NonZeroUsize::new(2), bytes: None };
    let stored =
        |gone: Vec<Removed<u32, u64>>| Answer::Put(Put { stored: true, evicted: 0, removed: gone });
    let old = Removed { hash: hash(1), key: 1, value: 10 };
    let puts = |returned| {
        vec![
            Recorded { began: 0, asked: Asked::Put(1, 10), answer: stored(vec![]), returned: 1 },
            Recorded {
                began: 2,
                asked: Asked::Put(1, 11),
                answer: stored(vec![Removed { ..old }]),
                returned,
            },
        ]
    };
    let read = |began, returned| {
        vec![Recorded { began, asked: Asked::Get(1), answer: Answer::Got(Some(10)), returned }]
    };
    assert!(!is_explained(&vec![puts(3), read(4, 5)], capacity));
    assert!(is_explained(&vec![puts(5), read(3, 4)], capacity), "the two overlap");
}
