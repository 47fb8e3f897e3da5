//! Every interleaving of the hand-over from producers to the drainer, by loom.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib trace::models`; LOOM_MAX_PREEMPTIONS bounds the
//! search. The files under test are the shipped ones, over a ring of two slots with two words.

use super::ring::{Refused, Ring, words::Words};
use super::wakeup::Wakeup;
use crate::proof::explore;
use crate::sync::{Ordering, SharedBool};
use loom::sync::Arc;
use loom::thread;

type Small = Ring<Words, 2>;

fn small(slots: usize) -> Arc<Small> {
    Arc::new(Ring::new(Words::new(slots * 2)))
}

fn push_until_taken(ring: &Small, value: u64) -> u64 {
    loop {
        match ring.push(|pos| [0, value * 100 + pos]) {
            Ok(pos) => return pos,
            Err(Refused::Full) => thread::yield_now(),
            Err(Refused::Sealed) => panic!("nobody seals"),
        }
    }
}

fn drain_one(ring: &Small) -> u64 {
    let pos = ring.head();
    loop {
        if let Some([_, value]) = ring.read(pos) {
            ring.free_until(pos + 1);
            assert_eq!(value % 100, pos, "the payload is that of the position");
            return value / 100;
        }
        thread::yield_now();
    }
}

#[test]
fn push_races_push_and_drain() {
    explore(|| {
        let ring = small(2);
        let producers: Vec<_> = [1, 2]
            .map(|value| {
                let ring = Arc::clone(&ring);
                thread::spawn(move || push_until_taken(&ring, value))
            })
            .into();
        let mut drained = [drain_one(&ring), drain_one(&ring)];
        drained.sort_unstable();
        assert_eq!(drained, [1, 2], "each once");
        let positions: Vec<_> = producers.into_iter().map(|each| each.join().unwrap()).collect();
        assert_ne!(positions[0], positions[1]);
    });
}

#[test]
fn full_races_drain() {
    explore(|| {
        // One slot: every second push meets a full ring and writes over what was drained.
        let ring = small(1);
        let producer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || (1..=3).for_each(|value| _ = push_until_taken(&ring, value)))
        };
        let drained = [drain_one(&ring), drain_one(&ring), drain_one(&ring)];
        assert_eq!(drained, [1, 2, 3], "in order, none written over");
        producer.join().unwrap();
    });
}

/// One slot: an event that takes less of it than the one before leaves that one's last word there.
#[test]
fn brief_races_drain() {
    explore(|| {
        let ring = Arc::new(Ring::<Words, 3>::new(Words::new(3)));
        let producer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                assert_eq!(ring.push(|_| [0, 1, 10]), Ok(0));
                while ring.push(|_| [0, 2]).is_err() {
                    thread::yield_now();
                }
                while ring.push(|_| [0, 3, 30]).is_err() {
                    thread::yield_now();
                }
            })
        };
        for pos in 0..3 {
            let value = loop {
                match ring.read_first(pos) {
                    Some([_, value]) => break value,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(value, pos + 1);
            if value != 2 {
                assert_eq!(ring.read(pos), Some([pos + 1, value, value * 10]), "all of it");
            }
            ring.free_until(pos + 1);
        }
        producer.join().unwrap();
    });
}

#[test]
fn seal_races_push() {
    explore(|| {
        let ring = small(2);
        let producer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || ring.push(|pos| [0, 100 + pos]))
        };
        let tail = ring.seal();
        let pushed = producer.join().unwrap();
        match pushed {
            Ok(pos) => {
                assert_eq!((pos, tail), (0, 1), "what was taken lies before the final tail");
                assert_eq!(ring.read(0), Some([1, 100]));
            }
            Err(refused) => assert_eq!((refused, tail), (Refused::Sealed, 0)),
        }
    });
}

/// The process is killed at some moment: what a returned push took is found, whole, and nothing else.
#[test]
fn kill_races_push() {
    explore(|| {
        let ring = small(2);
        let accepted = Arc::new(SharedBool::new(false));
        let producer = {
            let (ring, accepted) = (Arc::clone(&ring), Arc::clone(&accepted));
            thread::spawn(move || {
                push_until_taken(&ring, 1);
                accepted.store(true, Ordering::Release);
            })
        };
        let was_accepted = accepted.load(Ordering::Acquire);
        let found = ring.read(0);
        assert!(found.is_some() || !was_accepted, "an accepted event is found");
        assert!(found.is_none_or(|words| words == [1, 100]), "whole, or not at all");
        producer.join().unwrap();
    });
}

#[test]
fn push_races_sleep() {
    explore(|| {
        let ring = small(2);
        let wakeup = Arc::new(Wakeup::default());
        let producer = {
            let (ring, wakeup) = (Arc::clone(&ring), Arc::clone(&wakeup));
            thread::spawn(move || {
                push_until_taken(&ring, 1);
                wakeup.wake_if_asleep();
            })
        };
        // Loom reports a deadlock if the drainer sleeps through the only event.
        wakeup.sleep(|| ring.tail_before_sleep() > ring.head());
        while ring.tail() == ring.head() {
            thread::yield_now();
        }
        assert_eq!(drain_one(&ring), 1);
        producer.join().unwrap();
    });
}

#[test]
fn stop_races_sleep() {
    explore(|| {
        let wakeup = Arc::new(Wakeup::default());
        let stop = Arc::new(SharedBool::new(false));
        let stopper = {
            let (wakeup, stop) = (Arc::clone(&wakeup), Arc::clone(&stop));
            thread::spawn(move || {
                stop.store(true, Ordering::SeqCst);
                wakeup.wake();
            })
        };
        wakeup.sleep(|| stop.load(Ordering::SeqCst));
        assert!(stop.load(Ordering::SeqCst));
        stopper.join().unwrap();
    });
}
