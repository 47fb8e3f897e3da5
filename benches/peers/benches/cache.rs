//! The cache in Rust alone, beside its peers: reads on one thread and on two, and a read that misses
//! with the put and the eviction after it.
//!
//! `make bench-rust`. Two threads read disjoint keys: what they lose against one is what the
//! cache makes them share. On two shared cores the figures of two threads are noisy.

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use forwardcache::cache::{Cache, Capacity, EntryId, Match, Offer, Question};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

const ENTRIES: u64 = 256;

/// What is measured: a cache of `ENTRIES` numbers.
trait Numbers: Sync {
    fn get(&self, key: u64) -> Option<u64>;
    fn put(&self, key: u64, value: u64);
}

fn hash(key: u64) -> u64 {
    key.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

struct Is(u64);

impl Question<u64> for Is {
    fn matches(&mut self, _: EntryId, stored: &u64) -> Match {
        if *stored == self.0 { Match::Yes } else { Match::No }
    }

    fn is_still_good(&mut self, _: &u64, generation: u32) -> Option<u32> {
        Some(generation)
    }
}

struct Ours(Cache<u64, u64>);

impl Numbers for Ours {
    fn get(&self, key: u64) -> Option<u64> {
        let at = self.0.clock().now();
        self.0.get(hash(key), at, &mut Is(key), |_, value| *value).expect("numbers can be compared")
    }

    fn put(&self, key: u64, value: u64) {
        let content = Some((key, value));
        let mut offer = Offer { hash: hash(key), weight: 0, began: None, content };
        self.0.put(&mut offer, &mut Is(key)).expect("numbers can be compared");
    }
}

/// A list in a table behind one lock: the exact order, as it is usually kept.
#[derive(Default)]
struct Locked(Mutex<List>);

#[derive(Default)]
struct List {
    places: HashMap<u64, usize>,
    nodes: Vec<Node>,
    newest: usize,
    oldest: usize,
}

struct Node {
    key: u64,
    value: u64,
    newer: usize,
    older: usize,
}

const NONE: usize = usize::MAX;

impl List {
    fn unlink(&mut self, place: usize) {
        let (newer, older) = (self.nodes[place].newer, self.nodes[place].older);
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older].newer = newer,
        }
    }

    fn link(&mut self, place: usize) {
        let second = if self.places.len() <= 1 { NONE } else { self.newest };
        (self.nodes[place].newer, self.nodes[place].older) = (NONE, second);
        match second {
            NONE => self.oldest = place,
            second => self.nodes[second].newer = place,
        }
        self.newest = place;
    }
}

impl Numbers for Locked {
    fn get(&self, key: u64) -> Option<u64> {
        let mut list = self.0.lock().expect("nobody panics");
        let place = *list.places.get(&key)?;
        if list.newest != place {
            list.unlink(place);
            list.link(place);
        }
        Some(list.nodes[place].value)
    }

    fn put(&self, key: u64, value: u64) {
        let mut list = self.0.lock().expect("nobody panics");
        let node = Node { key, value, newer: NONE, older: NONE };
        let place = if list.nodes.len() < ENTRIES as usize {
            list.nodes.push(node);
            list.nodes.len() - 1
        } else {
            let place = list.oldest;
            list.unlink(place);
            let gone = list.nodes[place].key;
            list.places.remove(&gone);
            list.nodes[place] = node;
            place
        };
        list.places.insert(key, place);
        list.link(place);
    }
}

impl Numbers for moka::sync::Cache<u64, u64> {
    fn get(&self, key: u64) -> Option<u64> {
        self.get(&key)
    }

    fn put(&self, key: u64, value: u64) {
        self.insert(key, value);
    }
}

impl Numbers for quick_cache::sync::Cache<u64, u64> {
    fn get(&self, key: u64) -> Option<u64> {
        self.get(&key)
    }

    fn put(&self, key: u64, value: u64) {
        self.insert(key, value);
    }
}

/// The table alone: no order, no bound.
impl Numbers for papaya::HashMap<u64, u64> {
    fn get(&self, key: u64) -> Option<u64> {
        self.pin().get(&key).copied()
    }

    fn put(&self, key: u64, value: u64) {
        let pinned = self.pin();
        pinned.insert(key, value);
        pinned.remove(&key.wrapping_sub(ENTRIES));
    }
}

fn peers() -> Vec<(&'static str, Box<dyn Numbers>)> {
    let capacity = Capacity { entries: NonZeroUsize::new(ENTRIES as usize), bytes: None };
    vec![
        ("forwardcache", Box::new(Ours(Cache::new(capacity)))),
        ("mutex LRU", Box::new(Locked::default())),
        ("moka", Box::new(moka::sync::Cache::new(ENTRIES))),
        ("quick_cache", Box::new(quick_cache::sync::Cache::new(ENTRIES as usize))),
        ("papaya alone", Box::new(papaya::HashMap::<u64, u64>::new())),
    ]
}

/// Reads `keys` in turn for `rounds` reads.
fn read(cache: &dyn Numbers, keys: std::ops::Range<u64>, rounds: u64) {
    let width = keys.end - keys.start;
    for round in 0..rounds {
        std::hint::black_box(cache.get(keys.start + round % width));
    }
}

/// The time of the slower of two threads that read half of the keys each.
fn read_by_two(cache: &dyn Numbers, rounds: u64) -> Duration {
    let start = Barrier::new(2);
    let half = ENTRIES / 2;
    std::thread::scope(|scope| {
        let readers = [0..half, half..ENTRIES].map(|keys| {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                let began = Instant::now();
                read(cache, keys, rounds);
                began.elapsed()
            })
        });
        let times = readers.map(|reader| reader.join().expect("a reader doesn't panic"));
        times.into_iter().max().expect("there are two")
    })
}

fn reads(criterion: &mut Criterion) {
    let mut one = criterion.benchmark_group("get, one thread");
    one.throughput(Throughput::Elements(1));
    each(&mut one, |cache, rounds| {
        let began = Instant::now();
        read(cache, 0..ENTRIES, rounds);
        began.elapsed()
    });
    one.finish();
    let mut two = criterion.benchmark_group("get, two threads");
    two.throughput(Throughput::Elements(2));
    each(&mut two, read_by_two);
    two.finish();
}

fn misses(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("miss, put, evict");
    let mut key = ENTRIES;
    each(&mut group, |cache, rounds| {
        let began = Instant::now();
        for _ in 0..rounds {
            key += 1;
            if cache.get(key).is_none() {
                cache.put(key, key);
            }
        }
        began.elapsed()
    });
    group.finish();
}

fn each(
    group: &mut BenchmarkGroup<'_, criterion::measurement::WallTime>,
    mut run: impl FnMut(&dyn Numbers, u64) -> Duration,
) {
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    for (name, cache) in peers() {
        (0..ENTRIES).for_each(|key| cache.put(key, key));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| run(cache.as_ref(), rounds));
        });
    }
}

criterion_group!(benches, reads, misses);
criterion_main!(benches);
