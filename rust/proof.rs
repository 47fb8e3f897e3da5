//! How much the tests do, and what they have done: `make prove` asks for more and adds it up.

#[cfg(any(loom, shuttle))]
use crate::sync::{Ordering, StaticU64};
#[cfg(any(loom, shuttle))]
use std::sync::Arc;

/// A number of the environment, or what the tests do without one.
#[cfg(not(any(loom, take_turns)))]
pub(crate) fn knob(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} has to be a whole number, got {text:?}"))
}

/// Says what a test has done, in the words that `tools/prove.py` reads.
pub(crate) fn done(count: u64, unit: &str) {
    println!("prove: {count} {unit}");
}

/// Explores a scenario as far as the checker goes.
#[cfg(loom)]
pub(crate) fn explore(scenario: impl Fn() + Sync + Send + 'static) {
    let (runs, scenario) = counted(scenario);
    loom::model(scenario);
    done(runs.load(Ordering::Relaxed), "interleavings");
    // As loom itself reads it.
    let bound = std::env::var("LOOM_MAX_PREEMPTIONS").unwrap_or_else(|_| "any".to_owned());
    done(1, &format!("models at {bound} preemptions"));
}

/// Half of the schedules at random, half by PCT, which finds rare bugs of few preemptions.
#[cfg(shuttle)]
pub(crate) fn explore(scenario: impl Fn() + Sync + Send + 'static) {
    let schedules = knob("SCHEDULES", 10_000) as usize;
    let (runs, scenario) = counted(scenario);
    let scenario = Arc::new(scenario);
    let again = Arc::clone(&scenario);
    shuttle::check_random(move || scenario(), schedules / 2);
    shuttle::check_pct(move || again(), schedules / 2, 3);
    done(runs.load(Ordering::Relaxed), "schedules");
}

/// A scenario with the number of its runs, which the checker does not see.
#[cfg(any(loom, shuttle))]
fn counted<F: Fn() + Sync + Send>(scenario: F) -> (Arc<StaticU64>, impl Fn() + Sync + Send) {
    let runs = Arc::new(StaticU64::new(0));
    let counter = Arc::clone(&runs);
    let scenario = move || {
        scenario();
        counter.fetch_add(1, Ordering::Relaxed);
    };
    (runs, scenario)
}
