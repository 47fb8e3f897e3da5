//! How the drainer sleeps and is woken.
//!
//! While events come, the drainer looks once an interval, or sooner when somebody rings. With nothing
//! to do it falls asleep until it is rung, and says so by a flag that every producer looks at after
//! it took its position. The drainer raises the flag and then looks at the tail by a read-modify-write
//! (`tail_before_sleep`); a producer moves the tail by one and then reads the flag. Of the two
//! read-modify-writes one comes first, and the second sees what was done before it: no event waits
//! for ever (J5).

use crate::sync::{Condvar, Mutex, Ordering, SharedBool, lock, wait, wait_for};
use std::time::{Duration, Instant};

/// Wakes one drainer.
#[derive(Debug, Default)]
pub struct Doorbell {
    asleep: SharedBool,
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
        // Relaxed: ordered by the tail. The swap: one ring is enough, however long the drainer takes
        // to wake up.
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.ring();
        }
    }

    /// Waits until it is rung, unless `has_work`, which looks at `tail_before_sleep`.
    pub fn sleep(&self, has_work: impl FnOnce() -> bool) {
        // Relaxed: published by the read-modify-write in `has_work`.
        self.asleep.store(true, Ordering::Relaxed);
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
    #[cfg_attr(loom, expect(dead_code, reason = "loom knows no time"))]
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
