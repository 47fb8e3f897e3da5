//! Recorded histories of four threads compared with the list: some order of the calls explains them all.
//!
//! The search is Wing and Gong's: a call may come next if no other call had returned before it
//! began, and if the list answers what the cache answered. Positions with the same list are tried
//! once. A history that no order explains is a call that was not one step.
//!
//! Not checked here: the orders of memory that this machine never shows.

use super::*;
use crate::proof::{done, knob};
use crate::sync::{Ordering, SharedU64};
use std::collections::HashSet;
use std::sync::{Barrier, Mutex};

const THREADS: usize = 4;
/// Calls of each thread. A search takes the longer the more of them overlap, so few are this long.
const CALLS: [usize; 8] = [6, 8, 10, 12, 6, 8, 10, 32];

#[derive(Clone, Copy, Debug)]
enum Asked {
    Get(u32),
    Put(u32, u64),
    /// All keys of a remainder by three.
    Remove(u32),
    Clear,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Got(Option<u64>),
    /// The keys that a put evicted, in order.
    Evicted(Vec<u32>),
    Done,
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
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// A key that gives the processor away in some comparisons, so that other threads' calls come in the
/// middle of this one, with the log of what was removed.
struct Interrupted<'a> {
    key: u32,
    rest: u64,
    log: &'a Mutex<Vec<u32>>,
}

impl Question<u32> for Interrupted<'_> {
    fn matches(&mut self, id: EntryId, stored: &u32) -> Match {
        if self.rest.is_multiple_of(4) {
            std::thread::yield_now();
        }
        self.rest >>= 2;
        Is(self.key).matches(id, stored)
    }

    fn is_still_good(&mut self, stored: &u32, generation: u32) -> Option<u32> {
        let log = self.log.lock().unwrap();
        let is_good = log[generation as usize..].iter().all(|class| stored % 3 != *class);
        is_good.then_some(log.len() as u32)
    }
}

fn ask(cache: &Numbers, log: &Mutex<Vec<u32>>, asked: Asked, rest: u64) -> Answer {
    let question = |key| Interrupted { key, rest, log };
    match asked {
        Asked::Get(key) => {
            let at = cache.clock().now();
            let got = cache.get(hash(key), at, &mut question(key), |_, value| *value);
            Answer::Got(got.unwrap())
        }
        Asked::Put(key, value) => {
            let put = cache.put(&mut offer(key, value), &mut question(key)).unwrap();
            Answer::Evicted(put.evicted.iter().map(|gone| gone.key).collect())
        }
        Asked::Remove(class) => {
            let is = |_: EntryId, key: &u32| if key % 3 == class { Match::Yes } else { Match::No };
            cache.remove_matching(is, || log.lock().unwrap().push(class)).unwrap();
            Answer::Done
        }
        Asked::Clear => {
            cache.clear();
            Answer::Done
        }
    }
}

fn record(cache: &Numbers, seed: u64) -> History {
    let (clock, start) = (SharedU64::new(0), Barrier::new(THREADS));
    let log = Mutex::new(Vec::new());
    let calls = CALLS[(seed / 8 % 8) as usize];
    let calls = |thread: u64| {
        let mut dice = Dice(seed * THREADS as u64 + thread);
        start.wait();
        let call = |call: usize| {
            let number = dice.next();
            let key = (number % 6) as u32;
            // No value comes twice, so that an answer tells which put it is from.
            let value = thread << 32 | call as u64;
            let asked = match number >> 8 & 31 {
                0 => Asked::Remove(key % 3),
                1 => Asked::Clear,
                2..16 => Asked::Get(key),
                _ => Asked::Put(key, value),
            };
            // SeqCst: one order of all moments, which no call is moved across.
            let began = clock.fetch_add(1, Ordering::SeqCst);
            let answer = ask(cache, &log, asked, number >> 16);
            let returned = clock.fetch_add(1, Ordering::SeqCst);
            Recorded { began, asked, answer, returned }
        };
        (0..calls).map(call).collect()
    };
    std::thread::scope(|scope| {
        let calls = &calls;
        let threads = (0..THREADS as u64).map(|thread| scope.spawn(move || calls(thread)));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// How far a search has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Position {
    /// For each thread the calls that are done, and the steps of the next one.
    done: Vec<(usize, usize)>,
    /// What a read finds, and what was removed but still counts.
    entries: Vec<Listed>,
    /// Bytes that each thread has reserved for an entry that it is about to evict.
    reserved: Vec<Option<u64>>,
    /// Entries and bytes of each thread's put that came in and is not counted yet.
    uncounted: Vec<(i64, i64)>,
}

/// An entry of the list; the first is the most recent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Listed {
    key: u32,
    value: u64,
    /// The thread whose removal it fell to: no read finds it, and it counts until it is swept.
    removed_by: Option<usize>,
}

impl Position {
    fn is_over(&self, capacity: Capacity) -> bool {
        let reserved = self.reserved.iter().flatten();
        let uncounted = self.uncounted.iter().fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        let weights = self.entries.iter().map(|entry| weight(entry.value));
        let weight =
            weights.sum::<u64>() as i64 - reserved.clone().sum::<u64>() as i64 - uncounted.1;
        let len = self.entries.len() as i64 - reserved.count() as i64 - uncounted.0;
        capacity.entries.is_some_and(|most| len > most.get() as i64)
            || capacity.bytes.is_some_and(|most| weight > most.get() as i64)
    }

    fn find(&self, key: u32) -> Option<usize> {
        self.entries.iter().position(|entry| entry.key == key && entry.removed_by.is_none())
    }

    fn removing(mut self, thread: usize, goes: impl Fn(u32) -> bool) -> Self {
        for entry in &mut self.entries {
            if entry.removed_by.is_none() && goes(entry.key) {
                entry.removed_by = Some(thread);
            }
        }
        self
    }

    /// Everywhere that the next step of a thread's call may lead.
    ///
    /// A read or the beginning of a removal is one step; what was removed then goes one by one. A put
    /// comes in and is counted. For each entry that it evicts it makes a reservation, legal only while
    /// there is too much, and takes what is the last of the list by then, if a removal has left
    /// anything. It returns only when there is no excess.
    fn after(mut self, thread: usize, call: &Recorded, capacity: Capacity) -> Vec<Self> {
        let step = self.done[thread].1;
        self.done[thread].1 += 1;
        match (&call.asked, &call.answer) {
            (Asked::Get(key), Answer::Got(value)) => self.read(thread, *key, *value),
            (Asked::Remove(class), _) if step == 0 => {
                vec![self.removing(thread, |key| key % 3 == *class)]
            }
            (Asked::Clear, _) if step == 0 => vec![self.removing(thread, |_| true)],
            (Asked::Remove(_) | Asked::Clear, _) => self.swept(thread),
            (Asked::Put(key, value), Answer::Evicted(evicted)) => {
                let too_large = capacity.bytes.is_some_and(|most| weight(*value) > most.get());
                let returns = 2 + 2 * evicted.len();
                match step {
                    0 if too_large => vec![self.removing(thread, |other| other == *key)],
                    _ if too_large => self.swept(thread),
                    0 => {
                        let mut after = self.replacing_removed(thread, *key);
                        after.push(self.putting(thread, *key, *value));
                        after
                    }
                    1 => {
                        self.uncounted[thread] = (0, 0);
                        vec![self]
                    }
                    _ if step == returns && !self.is_over(capacity) => vec![self.returned(thread)],
                    _ if step == returns => self.reserving(thread, capacity),
                    _ if step > returns => self.giving_back(thread),
                    even if even % 2 == 0 => self.reserving(thread, capacity),
                    odd => self.evicting(thread, evicted[odd / 2 - 1]),
                }
            }
            (asked, answer) => unreachable!("{asked:?} was answered by {answer:?}"),
        }
    }

    fn returned(mut self, thread: usize) -> Self {
        self.done[thread] = (self.done[thread].0 + 1, 0);
        self
    }

    fn read(mut self, thread: usize, key: u32, value: Option<u64>) -> Vec<Self> {
        let found = self.find(key);
        if found.map(|index| self.entries[index].value) != value {
            return Vec::new();
        }
        if let Some(index) = found {
            self.entries[..=index].rotate_right(1);
        }
        vec![self.returned(thread)]
    }

    fn putting(mut self, thread: usize, key: u32, value: u64) -> Self {
        if let Some(index) = self.find(key) {
            self.take_over(thread, index);
        }
        self.uncounted[thread].0 += 1;
        self.uncounted[thread].1 += weight(value) as i64;
        self.entries.insert(0, Listed { key, value, removed_by: None });
        self
    }

    /// An entry goes from the table for a put that will count both together.
    fn take_over(&mut self, thread: usize, index: usize) {
        let old = self.entries.remove(index);
        self.uncounted[thread].0 -= 1;
        self.uncounted[thread].1 -= weight(old.value) as i64;
    }

    /// A put may replace an entry that a removal has ended and not swept yet, before its
    /// own entry has its tick.
    fn replacing_removed(&self, thread: usize, key: u32) -> Vec<Self> {
        let is_there = |entry: &Listed| entry.key == key && entry.removed_by.is_some();
        let indices = (0..self.entries.len()).filter(|&index| is_there(&self.entries[index]));
        let replaced = indices.map(|index| {
            let mut after = self.clone();
            after.take_over(thread, index);
            after.done[thread].1 = 0;
            after
        });
        replaced.collect()
    }

    /// One of the removed entries goes, or the removal has nothing left to sweep and returns.
    fn swept(self, thread: usize) -> Vec<Self> {
        let mine = |entry: &Listed| entry.removed_by == Some(thread);
        let indices = (0..self.entries.len()).filter(|&index| mine(&self.entries[index]));
        let swept: Vec<_> = indices
            .map(|index| {
                let mut after = self.clone();
                after.entries.remove(index);
                after
            })
            .collect();
        if swept.is_empty() { vec![self.returned(thread)] } else { swept }
    }

    /// The bytes that are reserved are those of what was the oldest a moment ago.
    fn reserving(self, thread: usize, capacity: Capacity) -> Vec<Self> {
        if !self.is_over(capacity) {
            return Vec::new();
        }
        let weights = self.entries.iter().map(|entry| weight(entry.value));
        let reserved = weights.collect::<HashSet<_>>().into_iter().map(|weight| {
            let mut after = self.clone();
            after.reserved[thread] = Some(weight);
            after
        });
        reserved.collect()
    }

    /// A removal left nothing to evict.
    fn giving_back(mut self, thread: usize) -> Vec<Self> {
        self.reserved[thread] = None;
        let has_entries = self.entries.iter().any(|entry| entry.removed_by.is_none());
        if has_entries { Vec::new() } else { vec![self.returned(thread)] }
    }

    /// The last of the list goes. What a removal has ended already can't be evicted, so each of those
    /// may be passed over.
    fn evicting(mut self, thread: usize, victim: u32) -> Vec<Self> {
        self.reserved[thread] = None;
        let kept = self.entries.iter().rposition(|entry| entry.removed_by.is_none());
        let indices = kept.unwrap_or(0)..self.entries.len();
        let indices = indices.filter(|&index| self.entries[index].key == victim);
        let after = indices.map(|index| {
            let mut after = self.clone();
            after.entries.remove(index);
            after
        });
        after.collect()
    }
}

/// Whether some order of the calls' steps gives every answer.
fn is_explained(history: &History, capacity: Capacity) -> bool {
    let mut tried = HashSet::new();
    let threads = history.len();
    let (done, reserved) = (vec![(0, 0); threads], vec![None; threads]);
    let uncounted = vec![(0, 0); threads];
    let mut open = vec![Position { done, entries: Vec::new(), reserved, uncounted }];
    while let Some(position) = open.pop() {
        let next = |thread: usize| history[thread].get(position.done[thread].0);
        let Some(first) = (0..threads).filter_map(|t| Some(next(t)?.returned)).min() else {
            return true;
        };
        if !tried.insert(position.clone()) {
            continue;
        }
        let mut may: Vec<_> = (0..threads).filter_map(|t| Some((t, next(t)?))).collect();
        may.retain(|(_, call)| call.began < first);
        // What returned first is tried first: it is the likeliest to have taken effect.
        may.sort_unstable_by_key(|(_, call)| std::cmp::Reverse(call.returned));
        for (thread, call) in may {
            open.extend(position.clone().after(thread, call, capacity));
        }
    }
    false
}

/// A history for a reader: the calls in the order in which they began.
fn told(history: &History) -> String {
    let calls = history.iter().enumerate().flat_map(|(thread, calls)| {
        let told = move |call: &Recorded| {
            let Recorded { began, asked, answer, returned } = call;
            (*began, format!("{began:3}-{returned:3} thread {thread}: {asked:?} -> {answer:?}\n"))
        };
        calls.iter().map(told)
    });
    let mut lines: Vec<_> = calls.collect();
    lines.sort_unstable();
    lines.into_iter().map(|(_, line)| line).collect()
}

fn overlaps(history: &History) -> bool {
    history.iter().flatten().any(|call| call.returned > call.began + 1)
}

#[test]
fn every_history_of_four_threads_is_one_order_of_its_calls() {
    let (histories, first) = (knob("HISTORIES", 2_000), knob("SEED", 0));
    let mut overlapping = 0;
    for seed in first..first + histories {
        let entries = [1, 2, 3, 8][(seed % 4) as usize];
        let cache = if seed % 8 < 4 { bounded(entries, 0) } else { bounded(0, 4 * entries as u64) };
        let history = record(&cache, seed);
        validate(&cache);
        let explained = is_explained(&history, cache.capacity());
        assert!(explained, "history {seed} of {:?}:\n{}", cache.capacity(), told(&history));
        overlapping += u64::from(overlaps(&history));
    }
    assert!(overlapping > histories / 10, "only {overlapping} histories had calls that overlap");
    done(histories, "histories");
    done(overlapping, "histories with calls that overlap");
}

fn call(asked: Asked, answer: Answer, began: u64, returned: u64) -> Recorded {
    Recorded { began, asked, answer, returned }
}

fn put_evicting(key: u32, evicted: Vec<u32>, began: u64, returned: u64) -> Recorded {
    call(Asked::Put(key, u64::from(key) * 10), Answer::Evicted(evicted), began, returned)
}

fn got(key: u32, value: Option<u64>, began: u64, returned: u64) -> Recorded {
    call(Asked::Get(key), Answer::Got(value), began, returned)
}

const TWO: Capacity = Capacity { entries: NonZeroUsize::new(2), bytes: None };

#[test]
fn a_read_of_what_a_finished_put_replaced_is_no_order() {
    let puts = |returned| {
        let again = call(Asked::Put(1, 11), Answer::Evicted(vec![]), 2, returned);
        vec![put_evicting(1, vec![], 0, 1), again]
    };
    assert!(!is_explained(&vec![puts(3), vec![got(1, Some(10), 4, 5)]], TWO));
    assert!(is_explained(&vec![puts(5), vec![got(1, Some(10), 3, 4)]], TWO), "the two overlap");
}

#[test]
fn an_eviction_of_any_but_the_oldest_is_no_order() {
    let puts = |victim| {
        let first = vec![put_evicting(1, vec![], 0, 1), put_evicting(2, vec![], 2, 3)];
        vec![first.into_iter().chain([put_evicting(3, vec![victim], 6, 7)]).collect()]
    };
    assert!(is_explained(&puts(1), TWO) && !is_explained(&puts(2), TWO));
    let with_a_hit = |victim| {
        let mut history = puts(victim);
        history.push(vec![got(1, Some(10), 4, 5)]);
        history
    };
    assert!(is_explained(&with_a_hit(2), TWO) && !is_explained(&with_a_hit(1), TWO));
}

/// The excess is there until a put that replaced what was removed has counted that it is lighter.
#[test]
fn an_eviction_for_what_a_put_under_way_replaced_is_an_order() {
    let twelve = Capacity { entries: None, bytes: NonZeroU64::new(12) };
    let put = |key, value, evicted, began, returned| {
        call(Asked::Put(key, value), Answer::Evicted(evicted), began, returned)
    };
    let explained_with = |lighter| {
        let remove = call(Asked::Remove(2), Answer::Done, 3, 4);
        let first = vec![put(2, 9, vec![], 0, 1), remove, put(0, 4, vec![0], 5, 6)];
        is_explained(&vec![first, vec![lighter]], twelve)
    };
    assert!(explained_with(put(2, 3, vec![], 2, 7)));
    assert!(!explained_with(put(2, 3, vec![], 7, 8)), "it came after the eviction");
    assert!(!explained_with(put(5, 3, vec![], 2, 7)), "it replaced nothing");
}

#[test]
fn two_evictions_for_one_excess_or_none_are_no_order() {
    let puts = |evicted| {
        vec![vec![
            put_evicting(1, vec![], 0, 1),
            put_evicting(2, vec![], 2, 3),
            put_evicting(3, evicted, 4, 5),
        ]]
    };
    assert!(!is_explained(&puts(vec![1, 2]), TWO) && !is_explained(&puts(vec![]), TWO));
}
