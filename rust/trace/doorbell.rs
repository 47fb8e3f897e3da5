//! How the drainer sleeps and is woken.
//!
//! While events come, the drainer looks once an interval, or sooner when somebody rings. With nothing
//! to do it falls asleep until it is rung, and says so by a flag that every producer looks at after
//! it took its position. Producer: move `tail`, then read the flag. Drainer: raise the flag, then
//! read `tail`. All four are SeqCst, so one of the two sees the other (J4): no event waits for ever.

use crate::sync::{AtomicBool, Condvar, Mutex, Ordering, lock, wait, wait_for};
use std::time::{Duration, Instant};

/// Wakes one drainer.
#[derive(Debug, Default)]
pub struct Doorbell {
    asleep: AtomicBool,
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Doorbell {
    /// Wakes the drainer, now or at its next wait.
    pub fn ring(&self) {
        *lock(&self.rung) = true;
        self.bell.notify_one();
    }

    /// Wakes the drainer if it sleeps without an end. After the ring's `push`.
    #[inline]
    pub fn ring_if_asleep(&self) {
        // The swap: one ring is enough, however long the drainer takes to wake up.
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.ring();
        }
    }

    /// Waits until it is rung, unless `has_work` by then.
    pub fn sleep(&self, has_work: impl FnOnce() -> bool) {
        self.asleep.store(true, Ordering::SeqCst);
        if !has_work() {
            let mut rung = lock(&self.rung);
            while !*rung {
                rung = wait(&self.bell, rung);
            }
            *rung = false;
        }
        // Relaxed: whoever still sees the flag rings once too often.
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Waits until it is rung or `interval` has passed.
    pub fn wait(&self, interval: Duration) {
        let end = Instant::now() + interval;
        let mut rung = lock(&self.rung);
        while !*rung {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            rung = wait_for(&self.bell, rung, left);
        }
        *rung = false;
    }
}
