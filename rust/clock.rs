//! How long something took, for a few nanoseconds a reading.
//!
//! A reading is a count of the processor's time-stamp counter where that counter is invariant (one
//! rate on all cores, through all sleep states), and of nanoseconds otherwise. `Ticks` become
//! seconds by a rate that is measured once against the monotonic clock. Plain `rdtsc` may be
//! reordered by a few nanoseconds: good enough for a duration, never used to order events; for those
//! there is [`ordered_now`].

use crate::sync::{OnceLock, TAKE_TURNS};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in time, comparable only with others of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ticks(u64);

/// The shortest span over which the rate is measured: the two clocks are read within about 50 ns
/// of each other, which makes the rate right to 1e-4 even in the youngest process.
const RATE_SPAN: Duration = Duration::from_millis(1);

/// Pairs of readings of which the closest is taken.
const PAIRS: usize = 8;

struct Start {
    instant: Instant,
    raw: u64,
}

static START: OnceLock<Start> = OnceLock::new();
static SECONDS_PER_TICK: OnceLock<f64> = OnceLock::new();

/// Takes the first reading, from which the rate is measured later. Called when the module loads.
pub fn start() {
    START.get_or_init(Start::now);
}

impl Start {
    /// Both clocks at one time: of a few pairs the one that was read fastest, so that a thread that
    /// is put aside between the two readings spoils nothing.
    fn now() -> Self {
        let pair = |_| {
            let (before, instant, after) = (raw(), Instant::now(), raw());
            let width = after.saturating_sub(before);
            (width, Self { instant, raw: before + width / 2 })
        };
        let (_, start) = (0..PAIRS).map(pair).min_by_key(|(width, _)| *width).expect("some pairs");
        start
    }
}

/// The present reading.
#[inline]
#[must_use]
pub fn now() -> Ticks {
    Ticks(raw())
}

/// The present reading, taken after everything that comes before it in the program.
///
/// Plain `rdtsc` may be read before an earlier load is done: a thread that has just seen another
/// one's result could so read an older time than that one did. Where threads take turns, plain
/// [`now`] does: between two turns lies far more time than a processor reads ahead. The fence would
/// cost a hit a tenth, and a miss the wait for all that it has begun to load.
#[inline(always)]
#[must_use]
pub fn ordered_now() -> Ticks {
    match tsc::is_invariant() {
        true if TAKE_TURNS => now(),
        true => Ticks(tsc::read_in_order()),
        false => Ticks(monotonic_ns()),
    }
}

/// Whether readings by [`ordered_now`] order events.
#[inline]
#[must_use]
pub fn orders() -> bool {
    tsc::is_invariant()
}

impl Ticks {
    /// The reading a moment later: of the next use in a row, each of which takes far longer than this.
    #[inline]
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 4)
    }

    /// The count itself.
    #[inline]
    #[must_use]
    pub fn raw(self) -> u64 {
        self.0
    }

    /// Seconds since `self` was read; 0.0 if another core's counter is behind.
    #[inline]
    #[must_use]
    pub fn elapsed_s(self) -> f64 {
        now().seconds_since(self)
    }

    /// Seconds from an earlier reading to this one.
    #[inline]
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 * seconds_per_tick()
    }
}

/// Seconds since the epoch, as Python's `time.time()` gives them.
#[must_use]
pub fn unix_time_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The wall clock, for the price of a reading of [`now`].
///
/// Readings are counted on from the last look at the system's clock, which is at most a millisecond
/// old; within that the two agree to a microsecond.
#[derive(Debug, Default)]
pub struct WallClock {
    looked: u64,
    unix_s: f64,
}

/// Seconds after which the system's clock is asked again.
const LOOK_S: f64 = 1e-3;

impl WallClock {
    /// Seconds since the epoch at a reading that was just made.
    #[inline]
    pub fn unix_time_s(&mut self, now: Ticks) -> f64 {
        let since_s = now.0.saturating_sub(self.looked) as f64 * seconds_per_tick();
        if since_s < LOOK_S { self.unix_s + since_s } else { self.look() }
    }

    #[cold]
    fn look(&mut self) -> f64 {
        (self.looked, self.unix_s) = (raw(), unix_time_s());
        self.unix_s
    }
}

#[inline]
fn seconds_per_tick() -> f64 {
    *SECONDS_PER_TICK.get_or_init(measure_rate)
}

fn measure_rate() -> f64 {
    if !tsc::is_invariant() {
        return 1e-9;
    }
    start();
    let start = START.get().expect("start() has just filled it");
    loop {
        let now = Start::now();
        let span = now.instant.duration_since(start.instant);
        let ticks = now.raw.saturating_sub(start.raw);
        if span >= RATE_SPAN && ticks > 0 {
            return span.as_secs_f64() / ticks as f64;
        }
        std::hint::spin_loop();
    }
}

#[inline]
fn raw() -> u64 {
    if tsc::is_invariant() { tsc::read() } else { monotonic_ns() }
}

fn monotonic_ns() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    ns_since(*ORIGIN.get_or_init(Instant::now))
}

/// The count of the fallback. A zero lies long before its first reading, as it does for a processor's
/// counter: a clock that has looked at nothing yet would pass for one that has just looked.
fn ns_since(origin: Instant) -> u64 {
    const LEAD: Duration = Duration::from_secs(1);
    u64::try_from((LEAD + origin.elapsed()).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(target_arch = "x86_64")]
mod tsc {
    use crate::sync::{Ordering, StaticU64};
    use std::arch::x86_64::{__cpuid, _mm_lfence, _rdtsc};

    const UNKNOWN: u64 = 0;
    const NO: u64 = 1;
    const YES: u64 = 2;
    static INVARIANT: StaticU64 = StaticU64::new(UNKNOWN);

    /// Whether the counter runs at one rate always (CPUID leaf 0x8000_0007, EDX bit 8).
    #[inline]
    pub fn is_invariant() -> bool {
        // Relaxed: the answer is a fact of the processor; whoever finds it unknown asks again.
        match INVARIANT.load(Ordering::Relaxed) {
            UNKNOWN => ask_processor(),
            answer => answer == YES,
        }
    }

    #[cold]
    fn ask_processor() -> bool {
        let has_leaf = __cpuid(0x8000_0000).eax >= 0x8000_0007;
        let invariant = has_leaf && __cpuid(0x8000_0007).edx & (1 << 8) != 0;
        INVARIANT.store(if invariant { YES } else { NO }, Ordering::Relaxed);
        invariant
    }

    #[inline]
    #[allow(unsafe_code)]
    pub fn read() -> u64 {
        // SAFETY: every x86-64 processor has RDTSC, and it touches no memory.
        unsafe { _rdtsc() }
    }

    #[inline]
    #[allow(unsafe_code)]
    pub fn read_in_order() -> u64 {
        // SAFETY: every x86-64 processor has LFENCE (SSE2) and RDTSC, and they touch no memory.
        unsafe {
            _mm_lfence();
            _rdtsc()
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod tsc {
    pub fn is_invariant() -> bool {
        false
    }

    pub fn read() -> u64 {
        0
    }

    pub fn read_in_order() -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_agrees_with_the_monotonic_clock() {
        start();
        let (ticks, instant) = (now(), Instant::now());
        std::thread::sleep(Duration::from_millis(30));
        let (ours, theirs) = (ticks.elapsed_s(), instant.elapsed().as_secs_f64());
        assert!((ours - theirs).abs() < 0.01 * theirs, "{ours} against {theirs}");
    }

    #[test]
    fn the_wall_clock_agrees_with_the_systems() {
        start();
        let mut clock = WallClock::default();
        for _ in 0..2_000 {
            let (before, ours, after) = (unix_time_s(), clock.unix_time_s(now()), unix_time_s());
            assert!(before - 2e-5 <= ours && ours <= after + 2e-5, "{before} {ours} {after}");
            std::hint::black_box((0..100).sum::<u32>());
        }
    }

    #[test]
    fn the_first_reading_of_the_fallback_is_no_recent_look_at_the_wall_clock() {
        assert!(ns_since(Instant::now()) as f64 * 1e-9 > LOOK_S);
    }

    #[test]
    fn the_fallback_counts_nanoseconds() {
        let before = monotonic_ns();
        std::thread::sleep(Duration::from_millis(2));
        assert!(monotonic_ns() - before >= 2_000_000);
    }
}
