//! What a removal or a clear ends, what comes too late for one, and what comes in during one.

use super::*;
#[cfg(not(take_turns))]
use crate::sync::{Mutex, SharedBool, lock};

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
fn what_is_not_good_any_longer_leaves_at_its_next_read() {
    let cache = cache(2);
    put(&cache, 1, 10);
    // As if the removal were still on its way to the entry.
    cache.epoch.fetch_add(Epoch::GENERATION, Ordering::AcqRel);
    assert_eq!((get(&cache, 1), cache.len()), (None, 0));
    put(&cache, 1, 11);
    cache.epoch.fetch_add(Epoch::CLEAR, Ordering::AcqRel);
    assert_eq!((peek(&cache, 1), cache.len()), (None, 0));
}

#[test]
fn a_read_leaves_to_a_removal_what_that_is_about_to_sweep() {
    let cache = cache(2);
    put(&cache, 1, 10);
    cache.sweeps.fetch_add(1, Ordering::Relaxed);
    cache.epoch.fetch_add(Epoch::CLEAR, Ordering::AcqRel);
    assert_eq!(get(&cache, 1), None);
    assert_eq!(cache.len(), 1, "it counts until it is swept");
    cache.sweeps.fetch_sub(1, Ordering::Release);
    assert_eq!(get(&cache, 1), None);
    assert_eq!(cache.len(), 0, "what a sweep has left behind goes with the first read");
}

/// A value whose computation began at generation n is judged by what was written down from the n-th
/// on, so two removals at once may not write in one order and raise the generation in the other.
#[cfg(not(take_turns))]
#[test]
fn removals_raise_the_generation_in_the_order_in_which_they_are_written_down() {
    let (cache, log) = (cache(8), Mutex::new(Vec::new()));
    let remove = |class: u32| {
        let commit = || {
            let written = lock(&log).len();
            assert_eq!(cache.generation() as usize, written);
            lock(&log).push(class);
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        cache.remove_matching(|_, _| Match::No, commit).unwrap();
    };
    std::thread::scope(|scope| {
        let remove = &remove;
        (0..4).for_each(|class| drop(scope.spawn(move || remove(class))));
    });
    assert_eq!((cache.generation(), lock(&log).len()), (4, 4));
}
