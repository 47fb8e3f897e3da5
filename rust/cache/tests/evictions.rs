//! Which entry goes: the least recently used, also where uses are told late or a snapshot is used up.

use super::entry::Entry;
use super::table::{Change, Changed, Owned};
use super::*;

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
    // Sorts all entries: 1 goes, the snapshot names 2, 3 and 4.
    assert_eq!(put_apart(&cache, 4), Some(1));
    // A use from before the snapshot's moment comes late: 2 is now younger than 3, though in its
    // range.
    use_at(&cache, 2, early);
    assert_eq!(put_apart(&cache, 5), Some(3));
    assert_eq!(put_apart(&cache, 6), Some(2));
    assert_eq!(put_apart(&cache, 7), Some(4));
}

// Where threads take turns nothing is ever sorted: `turns`.
#[cfg(not(take_turns))]
#[test]
fn entries_are_sorted_when_a_snapshot_is_used_up_and_not_before() {
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

/// Entries of one hash are met together, and some of them are younger than the snapshot.
#[cfg(not(take_turns))]
#[test]
fn a_snapshot_stays_good_next_to_younger_entries_of_its_hashes() {
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
fn an_eviction_that_met_an_entry_puts_it_before_a_later_clear() {
    let cache = cache(1);
    put(&cache, 2, 20);
    // A put of the same key that stalls between coming in and looking at the cache's epoch.
    let (key, value) = (2, 21);
    let content = (key, value);
    let entry = Entry::new(EntryId(99), hash(key), weight(value), Epoch::open(None), content);
    let guard = cache.table.guard();
    let changed = cache.table.change(&guard, Owned::new(entry), |chain| Change::Insert {
        over: chain.next().map(|first| first.id),
    });
    let Changed::Replaced { old, .. } = changed else { panic!("there was one of that key") };
    old.kill().expect("nobody has it in hand");
    // The eviction tells that 2 was put again: only so is 1 the older one.
    assert_eq!(put_apart(&cache, 1), Some(1));
    assert_eq!(cache.clear().len(), 1);
    assert_eq!(get(&cache, 2), None);
}
