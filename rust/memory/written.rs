//! Whether pages of memory were written to, as the kernel knows it.
//!
//! Since Linux 6.7 a process can have pages of its own made read-only in such a way that the first
//! write to one makes it writable again, asks nobody, and leaves a mark (`userfaultfd` with
//! `UFFD_FEATURE_WP_ASYNC`); and it can ask which pages of a range have the mark (`PAGEMAP_SCAN`).
//! Every write goes past it: of the processor, since the page can't be written otherwise; of the
//! kernel on behalf of anyone, since it must make the page writable first. A page that was given back
//! or replaced has no protection, and so counts as written to; a range that was mapped anew isn't
//! registered, which the question itself refuses. What is not seen is a write through a page that a
//! device or the kernel had pinned *before* it was protected. For those: `is_plain` refuses where
//! pages stay pinned or such a device is open, and whoever asks looks at the memory once more, a while
//! after (`watched`).
//!
//! The marks are one for the process: who protects a page again takes the mark from all others. So
//! each time that is done a common number rises, and what was protected at an earlier number counts
//! as written to. And a page that others write to all the time, since something else lies on it, is
//! *given up* by all: nobody protects it again, and what is watched on it is summed.
#![allow(unsafe_code)]

use crate::process;
use crate::sync::StaticMutex;
use std::fs::{File, read_to_string};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// One range holds more than one piece where they share pages or touch.
const MOST_RANGES: usize = 512;
/// Ranges of written pages that are told apart, at most.
const MOST_WRITTEN: usize = 32;
/// What one table of pages covers, at least; for a missing table the kernel says nothing.
const TABLE_BYTES: usize = 1 << 21;

/// Pages that are protected, and asked about together.
#[derive(Debug)]
pub struct Pages {
    ranges: Vec<Range>,
    given_up: Vec<Range>,
    since: Instant,
    /// The common number when they were protected.
    number: u64,
    forks: u64,
}

/// From an address up to another.
pub type Range = (usize, usize);

/// What the kernel knows of pages.
#[derive(Debug)]
pub enum Answer {
    /// Nothing was written to them for so long, at least.
    Untouched(Duration),
    /// These were written to, and no others.
    Written(Vec<Range>),
    /// It can't be said.
    Unknown,
}

impl Pages {
    /// Protects the pages that some pieces of memory lie on, each given by its address and bytes, so
    /// that from now on writes are seen. None where that can't be done, or they are too many apart.
    #[must_use]
    pub fn protected(pieces: impl Iterator<Item = (usize, usize)>) -> Option<Self> {
        process::watch_forks();
        let whole = merged(pieces.filter(|(_, bytes)| *bytes > 0), page_bytes());
        if whole.len() > MOST_RANGES || !is_plain(&whole) {
            return None;
        }
        with_kernel(|kernel| {
            let (ranges, given_up) = apart(whole, &kernel.given_up);
            if ranges.len() > MOST_RANGES || !ranges.iter().all(|range| kernel.register(*range)) {
                return None;
            }
            if ranges.iter().any(|range| kernel.is_written(*range)) {
                kernel.number += 1;
                if !ranges.iter().all(|range| kernel.protect(*range)) {
                    return None;
                }
            }
            let (since, number, forks) = (Instant::now(), kernel.number, kernel.forks);
            Some(Self { ranges, given_up, since, number, forks })
        })
    }

    /// Whether anything was written to them.
    ///
    /// # Safety
    /// They are mapped, and readable.
    #[must_use]
    pub unsafe fn ask(&self) -> Answer {
        if self.forks != process::generation() {
            return Answer::Unknown;
        }
        let is_written = |kernel: &Kernel, range: &Range| {
            // SAFETY: the caller vouches for it.
            unsafe { touch(*range) };
            kernel.is_written(*range)
        };
        let answer = with_kernel(|kernel| {
            if kernel.number != self.number {
                return None;
            }
            if !self.ranges.iter().any(|range| is_written(kernel, range)) {
                return Some(Answer::Untouched(self.since.elapsed()));
            }
            self.ranges
                .iter()
                .map(|range| kernel.written(*range))
                .try_fold(Vec::new(), |found, next| next.map(|next| [found, next].concat()))
                .map(Answer::Written)
        });
        answer.unwrap_or(Answer::Unknown)
    }

    /// Protects these no more, nor does anyone. Whether that can be done with so many.
    #[must_use]
    pub fn give_up(&mut self, pages: &[Range]) -> bool {
        let done = with_kernel(|kernel| {
            let all = merged_ranges([kernel.given_up.as_slice(), pages].concat());
            let (ranges, given_up) = apart(std::mem::take(&mut self.ranges), &all);
            if all.len() > MOST_RANGES || ranges.len() > MOST_RANGES {
                return None;
            }
            kernel.given_up = all;
            self.ranges = ranges;
            self.given_up.extend(given_up);
            Some(())
        });
        done.is_some()
    }

    /// Those of them that are given up.
    #[must_use]
    pub fn given_up(&self) -> &[Range] {
        &self.given_up
    }
}

/// What of some ranges lies outside of others, and what inside. Both are in order and apart.
fn apart(ranges: Vec<Range>, others: &[Range]) -> (Vec<Range>, Vec<Range>) {
    let (mut outside, mut inside) = (Vec::new(), Vec::new());
    for (mut begin, end) in ranges {
        for other in others {
            if other.0 >= end || other.1 <= begin {
                continue;
            }
            if begin < other.0 {
                outside.push((begin, other.0));
            }
            inside.push((begin.max(other.0), end.min(other.1)));
            begin = end.min(other.1);
        }
        if begin < end {
            outside.push((begin, end));
        }
    }
    (outside, inside)
}

/// Reads a byte of each table of pages: one that is missing is made, with unprotected pages in it.
///
/// # Safety
/// The range is mapped, and readable.
unsafe fn touch((begin, end): Range) {
    let tables =
        (begin / TABLE_BYTES + 1..end.div_ceil(TABLE_BYTES)).map(|table| table * TABLE_BYTES);
    for address in std::iter::once(begin).chain(tables) {
        // SAFETY: it lies in the range.
        unsafe { (address as *const u8).read_volatile() };
    }
}

/// Ranges of whole pages, in order and apart.
fn merged(pieces: impl Iterator<Item = (usize, usize)>, page: usize) -> Vec<Range> {
    let whole = |(address, bytes): (usize, usize)| {
        (address / page * page, (address + bytes).next_multiple_of(page))
    };
    merged_ranges(pieces.map(whole).collect())
}

/// The same ranges, in order and apart.
fn merged_ranges(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, earlier| {
        let touches = next.0 <= earlier.1;
        if touches {
            earlier.1 = earlier.1.max(next.1);
        }
        touches
    });
    ranges
}

fn page_bytes() -> usize {
    // SAFETY: it reads a constant of the system.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// Whether ranges are memory of this process alone, and nobody has pages of it pinned.
fn is_plain(ranges: &[(usize, usize)]) -> bool {
    let status = read_to_string("/proc/self/status").unwrap_or_default();
    let maps = read_to_string("/proc/self/maps").unwrap_or_default();
    pins_nothing(&status) && are_private(&maps, ranges)
}

/// Whether the status of a process says that none of its pages are pinned or locked.
fn pins_nothing(status: &str) -> bool {
    ["VmPin:", "VmLck:"].iter().all(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.is_some_and(|size| size.trim() == "0 kB")
    })
}

/// Devices that write to memory by themselves.
const DEVICES: [&str; 7] = [
    "/dev/nvidia",
    "/dev/kfd",
    "/dev/dri",
    "/dev/accel",
    "/dev/infiniband",
    "/dev/vfio",
    "/dev/dma",
];

/// Whether the map of a process has private memory of no file in all of each range, and no device.
fn are_private(maps: &str, ranges: &[(usize, usize)]) -> bool {
    let mut reached: Vec<usize> = ranges.iter().map(|range| range.0).collect();
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(span), Some(rights)) = (fields.next(), fields.next()) else { return false };
        let (inode, path) = (fields.nth(2), fields.next().unwrap_or_default());
        if DEVICES.iter().any(|device| path.starts_with(device)) {
            return false;
        }
        let Some((begin, end)) = span.split_once('-') else { return false };
        let parsed = (usize::from_str_radix(begin, 16), usize::from_str_radix(end, 16));
        let (Ok(begin), Ok(end)) = parsed else { return false };
        let is_own = path.is_empty() || path == "[heap]" || path.starts_with("[anon:");
        if rights == "rw-p" && inode == Some("0") && is_own {
            // Spans come in order.
            for at in reached.iter_mut().filter(|at| begin <= **at && **at < end) {
                *at = end;
            }
        }
    }
    ranges.iter().zip(reached).all(|(range, reached)| reached >= range.1)
}

static KERNEL: StaticMutex<Option<Kernel>> = StaticMutex::new(None);

/// Runs `run` with what leads to the kernel. None where there is no such way, or another thread is
/// there: a child of `fork` may find it held by nobody who is left.
fn with_kernel<T>(run: impl FnOnce(&mut Kernel) -> Option<T>) -> Option<T> {
    let mut held = KERNEL.try_lock().ok()?;
    if held.as_ref().is_none_or(|kernel| kernel.forks != process::generation()) {
        let number = held.as_ref().map_or(0, |kernel| kernel.number);
        *held = Kernel::open(number);
    }
    run(held.as_mut()?)
}

struct Kernel {
    faults: OwnedFd,
    pages: File,
    forks: u64,
    /// Rises when pages are protected that were written to.
    number: u64,
    /// Pages that nobody protects, in order and apart.
    given_up: Vec<Range>,
}

const API: libc::c_ulong = 0xC018_AA3F;
const REGISTER: libc::c_ulong = 0xC020_AA00;
const SCAN: libc::c_ulong = 0xC060_6610;
const USER_MODE_ONLY: libc::c_int = 1;
const VERSION: u64 = 0xAA;
const UNPOPULATED_TOO: u64 = 1 << 13;
const WITHOUT_ASKING: u64 = 1 << 15;
const FOR_WRITES: u64 = 2;
const PROTECT_THEM: u64 = 1;
const ONLY_REGISTERED: u64 = 2;
const WRITTEN: u64 = 2;

#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    out: u64,
    out_len: u64,
    most_pages: u64,
    inverted: u64,
    mask: u64,
    any_of: u64,
    returned: u64,
}

impl Kernel {
    fn open(number: u64) -> Option<Self> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY;
        // SAFETY: a new descriptor or -1 is given.
        let descriptor = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        let descriptor = i32::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0)?;
        // SAFETY: it was opened just now, and nobody else has it.
        let faults = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let mut asked = [VERSION, UNPOPULATED_TOO | WITHOUT_ASKING, 0];
        // SAFETY: three numbers of 64 bits are what it reads and writes.
        let answer = unsafe { libc::ioctl(faults.as_raw_fd(), API as _, asked.as_mut_ptr()) };
        let pages = File::open("/proc/self/pagemap").ok()?;
        let forks = process::generation();
        (answer == 0).then_some(Self { faults, pages, forks, number, given_up: Vec::new() })
    }

    fn register(&self, (begin, end): (usize, usize)) -> bool {
        let mut asked = [begin as u64, (end - begin) as u64, FOR_WRITES, 0];
        // SAFETY: four numbers of 64 bits are what it reads and writes; the range is private memory.
        unsafe { libc::ioctl(self.faults.as_raw_fd(), REGISTER as _, asked.as_mut_ptr()) == 0 }
    }

    /// Whether a page was written to, or that isn't known.
    fn is_written(&self, range: (usize, usize)) -> bool {
        let mut found = [0u64; 3];
        let first = Scan {
            out: found.as_mut_ptr() as u64,
            out_len: 1,
            most_pages: 1,
            mask: WRITTEN,
            returned: WRITTEN,
            ..Scan::default()
        };
        self.scan(range, first) != 0
    }

    /// The pages of a range that were written to; None where they are many, or it isn't known.
    fn written(&self, range: (usize, usize)) -> Option<Vec<Range>> {
        let mut found = [[0u64; 3]; MOST_WRITTEN];
        let all = Scan {
            out: found.as_mut_ptr() as u64,
            out_len: found.len() as u64,
            mask: WRITTEN,
            returned: WRITTEN,
            ..Scan::default()
        };
        let count = usize::try_from(self.scan(range, all)).ok()?;
        let ends = |[begin, end, _]: &[u64; 3]| (*begin as usize, *end as usize);
        // All of the room taken means that there may be more.
        (count < MOST_WRITTEN).then(|| found[..count].iter().map(ends).collect())
    }

    fn protect(&self, range: (usize, usize)) -> bool {
        let all = Scan { flags: PROTECT_THEM, mask: WRITTEN, returned: WRITTEN, ..Scan::default() };
        self.scan(range, all) == 0
    }

    fn scan(&self, (begin, end): (usize, usize), asked: Scan) -> libc::c_int {
        let mut asked = Scan {
            size: size_of::<Scan>() as u64,
            flags: asked.flags | ONLY_REGISTERED,
            start: begin as u64,
            end: end as u64,
            ..asked
        };
        // SAFETY: it is the structure that is read and written, and tells its size; what it points to
        // holds one region of three numbers.
        unsafe { libc::ioctl(self.pages.as_raw_fd(), SCAN as _, &raw mut asked) }
    }
}
