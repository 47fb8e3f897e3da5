//! How the drainer sleeps and is woken.
//!
//! While events come, the drainer looks once per interval, or sooner when somebody wakes it. With
//! nothing to do it sleeps until it is woken, and says so by a flag that every producer reads after
//! it has taken its position. The drainer raises the flag and then reads the tail by a
//! read-modify-write (`tail_before_sleep`); a producer moves the tail by a read-modify-write and then
//! reads the flag. One of the two comes first, and the second sees what was done before it: no event
//! waits for ever (J5).

use crate::sync::{Condvar, Mutex, Ordering, SharedBool, lock, wait, wait_for};
use std::time::{Duration, Instant};

/// Wakes one drainer.
#[derive(Debug, Default)]
pub struct Wakeup {
    asleep: SharedBool,
    woken: Mutex<bool>,
    condition: Condvar,
}

impl Wakeup {
    /// Wakes the drainer, now or at its next wait.
    pub fn wake(&self) {
        *lock(&self.woken) = true;
        self.condition.notify_one();
    }

    /// Wakes the drainer if it sleeps without a time limit. Called after the ring's `push`.
    #[inline]
    pub fn wake_if_asleep(&self) {
        // Relaxed: ordered by the tail. The swap: waking it once is enough, however long it takes to
        // wake up.
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.wake();
        }
    }

    /// Waits until it is woken, unless `has_work`, which looks at `tail_before_sleep`.
    pub fn sleep(&self, has_work: impl FnOnce() -> bool) {
        // Relaxed: published by the read-modify-write in `has_work`.
        self.asleep.store(true, Ordering::Relaxed);
        if !has_work() {
            let mut woken = lock(&self.woken);
            while !*woken {
                woken = wait(&self.condition, woken);
            }
            *woken = false;
        }
        // Relaxed: whoever still sees the flag wakes it once too often.
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Waits until it is woken or `interval` has passed.
    #[cfg_attr(loom, expect(dead_code, reason = "loom knows no time"))]
    pub fn wait(&self, interval: Duration) {
        let end = Instant::now() + interval;
        let mut woken = lock(&self.woken);
        while !*woken {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            woken = wait_for(&self.condition, woken, left);
        }
        *woken = false;
    }
}
