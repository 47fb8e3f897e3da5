//! Threads that take turns: the list and the buckets of their table, and how much one put does.

use super::*;
use proptest::prelude::*;
use std::num::NonZeroUsize;

fn use_at(cache: &Numbers, key: u32, at: Tick) {
    assert_eq!(cache.get(u64::from(key), at, &mut Is(key), |_, _| ()).unwrap(), Some(()));
}

fn put_all(cache: &Numbers, keys: std::ops::RangeInclusive<u32>) {
    for key in keys {
        put_apart(cache, key);
    }
}

/// From the oldest use on.
fn keys(cache: &Numbers) -> Vec<u32> {
    let guard = cache.table.guard();
    let entries = cache.table.by_use(&guard);
    entries.map(|entry| entry.pin().expect("it is alive").read(|key, _| *key)).collect()
}

#[test]
fn a_use_moves_its_entry_from_anywhere_to_the_newest_end() {
    for used in 1..=4 {
        let cache = cache(4);
        put_all(&cache, 1..=4);
        use_at(&cache, used, cache.clock().now());
        let mut expected: Vec<u32> = (1..=4).filter(|key| *key != used).collect();
        expected.push(used);
        assert_eq!(keys(&cache), expected);
        validate(&cache);
    }
}

#[test]
fn a_use_that_is_told_late_goes_where_its_tick_belongs() {
    let cache = cache(5);
    let ticks: Vec<Tick> = (1..=5)
        .map(|key| {
            put_apart(&cache, key);
            cache.clock().now()
        })
        .collect();
    // Between 3 and 4; before its own place; at the newest end, where it is.
    use_at(&cache, 1, ticks[2]);
    assert_eq!(keys(&cache), [2, 3, 1, 4, 5]);
    use_at(&cache, 4, ticks[0]);
    use_at(&cache, 5, ticks[0]);
    assert_eq!(keys(&cache), [2, 3, 1, 4, 5]);
    validate(&cache);
}

#[test]
fn a_removal_from_anywhere_leaves_one_list() {
    for gone in 1..=4 {
        let cache = cache(4);
        put_all(&cache, 1..=4);
        assert_eq!(remove(&cache, |key| key == gone), 1);
        // Nothing here approves of the rest, but what is in the table counts until it is read.
        let left: Vec<u32> = (1..=4).filter(|key| *key != gone).collect();
        assert_eq!(keys(&cache), left);
        cache.table.check();
    }
}

/// Entries whose hashes end alike, of which the buckets split one after the other.
#[test]
fn entries_are_found_while_the_buckets_grow() {
    for shift in [0, 4, 10, 12, 32, 63] {
        let cache = cache(0);
        let hash = |key: u32| u64::from(key) << shift;
        let count = if shift == 63 { 300 } else { 3_000 };
        for key in 0..count {
            let mut offer = Offer { hash: hash(key), ..offer(key, 0) };
            cache.put(&mut offer, &mut Is(key)).unwrap();
            if key % 97 == 0 {
                validate(&cache);
            }
        }
        let is_there =
            |key| cache.peek(hash(key), &mut Is(key), |key, _| *key).unwrap() == Some(key);
        assert!((0..count).all(is_there) && !is_there(count), "shifted by {shift}");
        validate(&cache);
        assert_eq!(remove(&cache, |key| key % 3 > 0), count as usize / 3 * 2);
        cache.table.check();
    }
}

/// What is dropped with the cache, or taken out while somebody looks, is freed once.
#[test]
fn what_a_cache_holds_goes_with_it() {
    let cache =
        Cache::<u32, Arc<()>>::new(Capacity { entries: NonZeroUsize::new(50), bytes: None });
    let alive = Arc::new(());
    for key in 0..120 {
        let content = Some((key, Arc::clone(&alive)));
        let offer = &mut Offer { hash: u64::from(key % 7), weight: 0, began: None, content };
        cache.put(offer, &mut Is(key)).unwrap();
    }
    assert_eq!(Arc::strong_count(&alive), 51);
    drop(cache);
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn what_went_is_kept_for_who_may_still_look_at_it() {
    let cache = cache(1);
    put_apart(&cache, 1);
    let guard = cache.table.guard();
    put_apart(&cache, 2);
    assert!(cache.table.keeps_removed());
    drop(guard);
    assert!(!cache.table.keeps_removed());
}

/// However the entries were used before: a use has put its entry in its place, so the first one goes.
#[test]
fn an_eviction_takes_the_first_entry_without_a_look_at_another() {
    let cache = cache(1_000);
    put_all(&cache, 0..=999);
    // The oldest third, the youngest of it first.
    (0..333).rev().for_each(|key| use_at(&cache, key, cache.clock().now()));
    let guard = cache.table.guard();
    let oldest = cache.table.by_use(&guard).next().map(|entry| entry.id);
    let first = cache.oldest(&guard).map(|(entry, _)| entry.id);
    assert!(first.is_some() && first == oldest);
    drop(guard);
    (333..1_000).for_each(|key| assert_eq!(put_apart(&cache, 1_000 + key), Some(key)));
    (0..333).rev().for_each(|key| assert_eq!(put_apart(&cache, 2_000 + key), Some(key)));
    validate(&cache);
}

proptest! {
    /// Large enough for the buckets to be split all the while; hashes that are like those of keys.
    #[test]
    fn many_keys_are_what_a_list_has(calls in prop::collection::vec((any::<bool>(), 0..900_u32), 2_000)) {
        let cache = cache(400);
        let mut list: Vec<u32> = Vec::new();
        for (is_put, key) in calls {
            let position = list.iter().position(|other| *other == key);
            let mixed = u64::from(key).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            if is_put {
                let mut offer = Offer { hash: mixed, ..offer(key, 0) };
                let put = cache.put(&mut offer, &mut Is(key)).unwrap();
                position.map(|position| list.remove(position));
                list.push(key);
                let gone = (list.len() > 400).then(|| list.remove(0));
                prop_assert_eq!(put.evicted.first().map(|gone| gone.key), gone);
            } else {
                let at = cache.clock().now();
                let found = cache.get(mixed, at, &mut Is(key), |key, _| *key).unwrap();
                prop_assert_eq!(found, position.map(|_| key));
                if let Some(position) = position {
                    let key = list.remove(position);
                    list.push(key);
                }
            }
        }
        prop_assert_eq!(keys(&cache), list);
        validate(&cache);
    }
}
