//! What one event costs the thread that writes it, in Rust alone: ours beside `tracing-appender`.
//!
//! `cargo run --release --example trace_writers -- FOLDER` prints a JSON object of nanoseconds of
//! thread CPU time an event, medians of interleaved rounds. `tracing-appender` is given the line
//! ready made, so its figure has no formatting in it; ours formats in a thread of its own.

use forwardcache::trace::writer::this_thread;
use forwardcache::trace::{Options, PromptHash, Record, TopK, Writer, Written};
use rustix::time::{ClockId, clock_gettime};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;
use tracing_appender::non_blocking::NonBlockingBuilder;

const EVENTS: u32 = 10_000;
const ROUNDS: usize = 31;

fn main() {
    if cfg!(debug_assertions) {
        eprintln!("a debug build says nothing: use --release");
        std::process::exit(2);
    }
    let folder = std::env::args().nth(1).expect("the folder to write into");
    let folder = Path::new(&folder);
    let writer = Writer::open(&folder.join("ours.jsonl"), options()).expect("the folder is there");
    let file = std::fs::File::create(folder.join("appender.jsonl")).expect("the folder is there");
    let builder = NonBlockingBuilder::default().lossy(false);
    let (mut appender, _guard) = builder.finish(file);
    let line = [b'x'; 240];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(cpu_ns(|| write_ours(&writer)));
        writer.flush();
        theirs.push(cpu_ns(|| {
            for _ in 0..EVENTS {
                appender.write_all(&line).expect("the queue takes it");
            }
        }));
        std::thread::sleep(Duration::from_millis(20));
    }
    writer.close();
    println!(
        "{{\"forwardcache\": {:.1}, \"tracing-appender\": {:.1}}}",
        median(&mut ours),
        median(&mut theirs)
    );
}

fn options() -> Options {
    Options { interval: Duration::from_millis(200), fsync: false, journal_events: 1 << 15 }
}

fn write_ours(writer: &Writer) {
    let run = writer.run().expect("it is open");
    let (view_id, op) = (run.name(b"base"), run.name(b"next_token_dist"));
    for number in 0..EVENTS {
        let record = Record {
            ts: 1_700_000_000.5,
            probe: None,
            view_id,
            prompt_hash: PromptHash::inline(b"a9993e364706").expect("it fits"),
            top_k: TopK::Integer(i64::from(number)),
            op,
            wall_ms: 0.25,
            hit: true,
            thread: this_thread(),
            key: Some(u64::from(number)),
            batch: None,
            bytes: None,
            error: None,
            waited: false,
            lost: None,
        };
        assert_eq!(run.write(&record), Written::Done, "the ring has room for a round");
    }
}

/// Nanoseconds of this thread's CPU time an event.
fn cpu_ns(write: impl FnOnce()) -> f64 {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let began = now();
    write();
    (now() - began) / f64::from(EVENTS)
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
