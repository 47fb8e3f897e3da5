//! The one file that names atomics and locks, so that a model checker can replace them.
//!
//! Under `cfg(loom)` and `cfg(shuttle)` the types of the cache and of the trace's hand-over are those
//! of the model checker. What stands in a `static` keeps the standard types: loom's are not const,
//! and no model reaches them.

pub use std::sync::atomic::{AtomicU64 as StaticU64, Ordering};
pub use std::sync::{Mutex as StaticMutex, MutexGuard as StaticMutexGuard, OnceLock, PoisonError};
use std::time::Duration;

#[cfg(not(any(loom, shuttle)))]
mod primitives {
    pub use std::hint::spin_loop as spin;
    pub use std::sync::atomic::{AtomicBool as SharedBool, AtomicU64 as SharedU64};
    pub use std::sync::{Arc, Condvar, Mutex, MutexGuard};
    pub use std::thread::{ThreadId, current};
}

#[cfg(loom)]
mod primitives {
    pub use loom::sync::atomic::{AtomicBool as SharedBool, AtomicU64 as SharedU64};
    pub use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
    pub use loom::thread::yield_now as spin;
    pub use loom::thread::{ThreadId, current};
}

#[cfg(shuttle)]
mod primitives {
    pub use shuttle::sync::atomic::{AtomicBool as SharedBool, AtomicU64 as SharedU64};
    pub use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard};
    pub use shuttle::thread::yield_now as spin;
    pub use shuttle::thread::{ThreadId, current};
}

pub use primitives::*;

/// Locks `mutex`, also after another thread panicked inside it.
///
/// Every critical section of ours leaves its data whole at each step, so a poisoned lock guards
/// nothing that is broken.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// [`lock`] for what stands in a `static`.
pub fn lock_static<T>(mutex: &StaticMutex<T>) -> StaticMutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification.
pub fn wait<'m, T>(condition: &Condvar, guard: MutexGuard<'m, T>) -> MutexGuard<'m, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification, or until `most` has passed.
pub fn wait_for<'m, T>(
    condition: &Condvar,
    guard: MutexGuard<'m, T>,
    most: Duration,
) -> MutexGuard<'m, T> {
    let (guard, _) = condition.wait_timeout(guard, most).unwrap_or_else(PoisonError::into_inner);
    guard
}

/// The thread that asks.
#[cfg(not(any(loom, shuttle)))]
#[must_use]
pub fn current_thread() -> ThreadId {
    // To ask the standard library each time would count a reference up and down.
    thread_local!(static ME: ThreadId = current().id());
    ME.with(|me| *me)
}

/// The thread that asks.
#[cfg(any(loom, shuttle))]
#[must_use]
pub fn current_thread() -> ThreadId {
    current().id()
}

/// A word of memory that anyone may write to meanwhile, as it was before or after.
///
/// # Safety
/// It can be read, and lies on a multiple of 8.
#[inline]
#[allow(unsafe_code)]
pub unsafe fn read_word(address: *const u64) -> u64 {
    // SAFETY: the caller vouches for it; an atomic word lies in memory as a plain one does.
    let word = unsafe { &*address.cast::<StaticU64>() };
    // Relaxed: what is asked is what is there, not what was written before it.
    word.load(Ordering::Relaxed)
}

/// Whether the threads that change a [`Word`] take turns: in an extension for an interpreter with a
/// GIL they do, since every call of the cache and of the statistics is made by an attached thread. The
/// build script says so by `cfg(take_turns)`.
pub const TAKE_TURNS: bool = cfg!(take_turns);

/// What one thread at a time uses: by a lock, or, where threads take turns, by that alone.
#[derive(Debug)]
pub struct Turns<T>(turns::Inner<T>);

impl<T: Default> Default for Turns<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Turns<T> {
    /// Holds `value`.
    pub fn new(value: T) -> Self {
        Self(turns::Inner::new(value))
    }

    /// Runs `run` with the value. `run` must neither end the turn (run Python code, release the
    /// interpreter) nor come back here.
    #[inline]
    pub fn with<R>(&self, run: impl FnOnce(&mut T) -> R) -> R {
        turns::with(&self.0, run)
    }
}

#[cfg(not(all(take_turns, not(any(loom, shuttle)))))]
mod turns {
    pub type Inner<T> = super::Mutex<T>;

    pub fn with<T, R>(inner: &Inner<T>, run: impl FnOnce(&mut T) -> R) -> R {
        run(&mut super::lock(inner))
    }
}

#[cfg(all(take_turns, not(any(loom, shuttle))))]
mod turns {
    use std::cell::UnsafeCell;

    #[derive(Debug)]
    pub struct Inner<T>(UnsafeCell<T>);

    impl<T> Inner<T> {
        pub fn new(value: T) -> Self {
            Self(UnsafeCell::new(value))
        }
    }

    // SAFETY: the value is touched only inside `with`, by the thread that has the turn, so never by
    // two threads at once; T itself may be sent between threads.
    #[allow(unsafe_code)]
    unsafe impl<T: Send> Sync for Inner<T> {}

    #[inline]
    #[allow(unsafe_code)]
    pub fn with<T, R>(inner: &Inner<T>, run: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: this thread has the turn and, by the rule of `Turns::with`, keeps it until `run`
        // returns; the reference does not outlive it.
        run(unsafe { &mut *inner.0.get() })
    }
}

/// One of a thing for each of some threads, whose changes then don't wait for each other; where threads
/// take turns, one for all of them.
#[derive(Debug, Default)]
pub struct Stripes<T>([Stripe<T>; STRIPES]);

const STRIPES: usize = if TAKE_TURNS { 1 } else { 16 };

/// On cache lines of its own: two, since processors fetch them in pairs.
#[derive(Debug, Default)]
#[cfg_attr(not(take_turns), repr(align(128)))]
struct Stripe<T>(T);

impl<T> Stripes<T> {
    /// That of the thread that asks; the seventeenth thread shares one with the first, and so on.
    #[inline]
    pub fn mine(&self) -> &T {
        &self.0[stripe()].0
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|stripe| &stripe.0)
    }

    /// The first: where what belongs to no thread goes.
    pub fn first(&self) -> &T {
        &self.0[0].0
    }
}

/// Which stripe is that of the thread that asks.
#[cfg(take_turns)]
fn stripe() -> usize {
    0
}

/// Which stripe is that of the thread that asks: threads are counted as they ask first.
#[cfg(not(take_turns))]
fn stripe() -> usize {
    static NEXT: StaticU64 = StaticU64::new(0);
    // Relaxed: a number publishes nothing.
    thread_local!(static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) as usize % STRIPES);
    MINE.with(|mine| *mine)
}

/// A number that any thread changes at any time.
///
/// Where threads take turns, a change is a load and a store: a locked instruction costs as much as
/// twenty others, and waits for all that were begun before it.
#[derive(Debug, Default)]
pub struct Word(SharedU64);

impl Word {
    /// A word that holds `value`.
    #[must_use]
    pub fn new(value: u64) -> Self {
        Self(SharedU64::new(value))
    }

    /// The value.
    #[inline]
    pub fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    /// Replaces the value.
    #[inline]
    pub fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }

    /// Replaces the value by `change(value)`, if that gives one; the old value either way.
    ///
    /// # Errors
    /// The old value, which `change` refused.
    #[inline]
    pub fn update(
        &self,
        order: Ordering,
        seen: Ordering,
        mut change: impl FnMut(u64) -> Option<u64>,
    ) -> Result<u64, u64> {
        let mut value = self.0.load(seen);
        while let Some(next) = change(value) {
            match self.swap(value, next, order, seen) {
                Ok(()) => return Ok(value),
                Err(now) => value = now,
            }
        }
        Err(value)
    }

    /// Replaces `from` by `to`.
    ///
    /// # Errors
    /// What is there instead; without threads that take turns, perhaps `from` itself: try again.
    #[inline]
    pub fn swap(&self, from: u64, to: u64, order: Ordering, seen: Ordering) -> Result<(), u64> {
        if TAKE_TURNS {
            let now = self.0.load(Ordering::Relaxed);
            if now != from {
                return Err(now);
            }
            self.0.store(to, Ordering::Relaxed);
            return Ok(());
        }
        self.0.compare_exchange_weak(from, to, order, seen).map(drop)
    }

    /// Adds `n`, around the end of the numbers; the old value.
    #[inline]
    pub fn fetch_add(&self, n: u64, order: Ordering) -> u64 {
        if TAKE_TURNS {
            let value = self.0.load(Ordering::Relaxed);
            self.0.store(value.wrapping_add(n), Ordering::Relaxed);
            return value;
        }
        self.0.fetch_add(n, order)
    }

    /// Subtracts `n`, around the end of the numbers; the old value.
    #[inline]
    pub fn fetch_sub(&self, n: u64, order: Ordering) -> u64 {
        if TAKE_TURNS {
            return self.fetch_add(n.wrapping_neg(), order);
        }
        self.0.fetch_sub(n, order)
    }

    /// The value, read as the last of all changes so far.
    #[inline]
    pub fn latest(&self) -> u64 {
        if TAKE_TURNS { self.load(Ordering::Relaxed) } else { self.0.fetch_or(0, Ordering::AcqRel) }
    }
}

/// What is read by many until one thread takes it out. Who may do which is the caller's to know.
#[derive(Debug)]
pub struct Content<T>(UnsafeCell<Option<T>>);

// SAFETY: `&Content` gives `&T` to any thread by `read` and a T by `take`, each under the rules that
// are written there.
#[allow(unsafe_code)]
unsafe impl<T: Send + Sync> Sync for Content<T> {}

impl<T> Content<T> {
    /// Holds `content`.
    pub fn new(content: T) -> Self {
        Self(UnsafeCell::new(Some(content)))
    }

    /// Reads what is there.
    ///
    /// # Safety
    /// `take` is neither under way nor done, and isn't begun before this returns.
    #[inline]
    #[allow(unsafe_code)]
    pub unsafe fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        // SAFETY: by the caller's promise nobody writes meanwhile.
        self.0.with(|content| read(unsafe { &*content }.as_ref().expect("it is there")))
    }

    /// Takes out what is there.
    ///
    /// # Safety
    /// Nobody reads any longer, and nobody else takes.
    #[allow(unsafe_code)]
    pub unsafe fn take(&self) -> T {
        // SAFETY: by the caller's promise nobody else touches it.
        self.0.with_mut(|content| unsafe { &mut *content }.take()).expect("it is there")
    }

    /// What is there, of one that nobody else has.
    pub fn into_inner(self) -> T {
        self.0.into_inner().expect("it is there")
    }
}

#[cfg(loom)]
use loom::cell::UnsafeCell;

/// The standard cell, called as loom's is.
#[cfg(not(loom))]
#[derive(Debug)]
struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    fn new(content: T) -> Self {
        Self(std::cell::UnsafeCell::new(content))
    }

    #[inline]
    fn with<R>(&self, run: impl FnOnce(*const T) -> R) -> R {
        run(self.0.get())
    }

    fn with_mut<R>(&self, run: impl FnOnce(*mut T) -> R) -> R {
        run(self.0.get())
    }

    fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

/// A value that many read and any of them replaces by a newer one.
#[derive(Debug)]
pub struct Published<T>(published::Inner<T>);

impl<T> Published<T> {
    /// Publishes `value`.
    pub fn new(value: T) -> Self {
        Self(published::new(value))
    }

    /// The value that is there now.
    #[inline]
    pub fn load(&self) -> published::Loaded<T> {
        published::load(&self.0)
    }

    /// Publishes `next` if `current` is still there, and gives what is there then.
    pub fn replace(&self, current: &published::Loaded<T>, next: T) -> published::Loaded<T> {
        self.swap(current, next);
        self.load()
    }

    /// Publishes `next` if `current` is still there, and says whether it was.
    pub fn swap(&self, current: &published::Loaded<T>, next: T) -> bool {
        published::swap(&self.0, current, next)
    }
}

pub use published::Loaded;

#[cfg(not(any(loom, shuttle)))]
mod published {
    use arc_swap::{ArcSwap, Guard};
    use std::sync::Arc;

    pub type Inner<T> = ArcSwap<T>;
    /// What was published, for as long as its reader wants it.
    pub type Loaded<T> = Guard<Arc<T>>;

    pub fn new<T>(value: T) -> Inner<T> {
        ArcSwap::from_pointee(value)
    }

    #[inline]
    pub fn load<T>(inner: &Inner<T>) -> Loaded<T> {
        inner.load()
    }

    pub fn swap<T>(inner: &Inner<T>, current: &Loaded<T>, next: T) -> bool {
        let before = inner.compare_and_swap(current, Arc::new(next));
        Arc::ptr_eq(&before, current)
    }
}

/// An index into a list of all that was ever published: a pointer as a model checker sees it.
#[cfg(any(loom, shuttle))]
mod published {
    use super::{Ordering, SharedU64};
    use std::sync::{Arc, Mutex};

    #[derive(Debug)]
    pub struct Inner<T> {
        index: SharedU64,
        all: Mutex<Vec<Arc<T>>>,
    }

    /// What was published, for as long as its reader wants it.
    pub struct Loaded<T> {
        index: u64,
        value: Arc<T>,
    }

    impl<T> std::ops::Deref for Loaded<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.value
        }
    }

    pub fn new<T>(value: T) -> Inner<T> {
        Inner { index: SharedU64::new(0), all: Mutex::new(vec![Arc::new(value)]) }
    }

    pub fn load<T>(inner: &Inner<T>) -> Loaded<T> {
        let index = inner.index.load(Ordering::Acquire);
        let value = Arc::clone(&inner.all.lock().unwrap()[index as usize]);
        Loaded { index, value }
    }

    pub fn swap<T>(inner: &Inner<T>, current: &Loaded<T>, next: T) -> bool {
        let index = {
            let mut all = inner.all.lock().unwrap();
            all.push(Arc::new(next));
            all.len() as u64 - 1
        };
        let (from, to) = (Ordering::AcqRel, Ordering::Acquire);
        inner.index.compare_exchange(current.index, index, from, to).is_ok()
    }
}

#[cfg(all(test, not(any(loom, shuttle, take_turns))))]
mod tests {
    use super::*;
    use crate::stats::Counter;

    #[test]
    fn stripes_are_of_one_thread_each_and_together_have_all() {
        let (stripes, threads) = (Stripes::<Counter>::default(), STRIPES as u64 + 3);
        std::thread::scope(|scope| {
            let count = || {
                assert!(std::ptr::eq(stripes.mine(), stripes.mine()));
                (0..1_000).for_each(|_| stripes.mine().add(1));
            };
            (0..threads).for_each(|_| drop(scope.spawn(count)));
        });
        assert_eq!(stripes.iter().map(Counter::get).sum::<u64>(), 1_000 * threads);
        // How many is not certain: the threads of other tests are counted too.
        assert!(stripes.iter().filter(|stripe| stripe.get() > 0).count() > 1);
    }
}
