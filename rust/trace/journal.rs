//! The file next to a trace that holds what is accepted and not yet written as a line.
//!
//! ```text
//! byte 0      header: magic, capacity, run, checksum; losses; intent; head
//! 4096        slots of the ring, 128 bytes each; a brief event takes the first half of one
//! then        names, appended: length u32, checksum u32, bytes
//! ```
//!
//! Header and slots are mapped, so they outlive the process in the page cache; names are written
//! with `write`, before the first event that uses them. The file's blocks are allocated before they
//! are mapped: touching a hole on a full disk would kill the process. The owner holds a POSIX lock on
//! the file for as long as it lives, which is how others tell that it does (W4).
//!
//! The *intent* is one word: where in the trace the block begins that is being appended. It is set
//! before the first byte of a block and cleared after `head` has moved past its events, so whoever
//! finds it set reads the trace from there and sees which of the events it owes are in it (J6).

use super::brief;
use super::lockfile::{companion, try_lock, unlock};
use super::name::{JsonNames, NameId};
use super::record::{Record, WORDS, Words};
use super::ring::{InSlot, Memory, Ring, found_in_slot};
use crate::key::digest_hex;
use crate::sync::{Ordering, SharedU64};
use memmap2::{MmapMut, MmapOptions};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const MAGIC: u64 = u64::from_le_bytes(*b"fwdjrnl2");
/// That of journals in which every event took a whole slot; they are read like those of today.
const MAGIC_OF_WHOLE_SLOTS: u64 = u64::from_le_bytes(*b"fwdjrnl1");
/// Of the bits that say that a word is a number; the same in journals of both kinds.
const NUMBER_SEED: u64 = MAGIC_OF_WHOLE_SLOTS;
const HEADER_WORDS: usize = 512;
const WORD: usize = 8;

const AT_MAGIC: usize = 0;
const AT_CAPACITY: usize = 1;
const AT_RUN: usize = 2;
const AT_CHECKSUM: usize = 3;
const AT_LOST: usize = 8;
const AT_INTENT: usize = 16;
const AT_HEAD: usize = 24;

/// The mapped words of a journal.
#[derive(Debug)]
pub(super) struct Mapping(MmapMut);

impl Deref for Mapping {
    type Target = [SharedU64];

    #[allow(unsafe_code)]
    #[inline]
    fn deref(&self) -> &[SharedU64] {
        let (bytes, length) = (self.0.as_ptr(), self.0.len());
        // SAFETY: a mapping begins at a page, so it is aligned; every bit pattern is a u64; it lives
        // as long as `self`, and this process touches it only through these atomics.
        unsafe { std::slice::from_raw_parts(bytes.cast(), length / WORD) }
    }
}

impl Memory for Mapping {
    #[inline]
    fn slots(&self) -> &[SharedU64] {
        &self[HEADER_WORDS..]
    }

    fn head(&self) -> u64 {
        number_of(self[AT_HEAD].load(Ordering::Acquire))
    }

    fn set_head(&self, pos: u64) {
        self[AT_HEAD].store(checked_word(pos), Ordering::Release);
    }
}

/// A journal that this process writes.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    pub(super) ring: Ring<Mapping, WORDS>,
}

impl Journal {
    /// Makes the journal of a run next to `trace`. Under the trace's lock, so that nobody takes it
    /// for a dead one's before it is locked itself.
    ///
    /// # Errors
    /// Those of the system; `Unsupported` where blocks can't be allocated.
    pub(super) fn create(trace: &Path, run: u64, capacity: u64) -> io::Result<Self> {
        let path = path_of(trace, run);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Self::build(file, path.clone(), run, capacity).inspect_err(|_| {
            let _ = std::fs::remove_file(&path);
        })
    }

    fn build(file: File, path: PathBuf, run: u64, capacity: u64) -> io::Result<Self> {
        if !try_lock(&file)? {
            return Err(io::Error::other("a new journal is locked by somebody else"));
        }
        let length = names_offset(capacity);
        allocate(&file, length)?;
        let mapping = Mapping(map(&file, length)?);
        let store = |at: usize, word: u64| mapping[at].store(word, Ordering::Relaxed);
        store(AT_CAPACITY, capacity);
        store(AT_RUN, run);
        store(AT_HEAD, checked_word(0));
        store(AT_CHECKSUM, header_checksum(capacity, run));
        // Release: a header with its magic is whole.
        mapping[AT_MAGIC].store(MAGIC, Ordering::Release);
        Ok(Self { path, file, ring: Ring::new(mapping) })
    }

    /// Writes the text of a name down, at `offset` of the file's names. Returns the next offset.
    ///
    /// # Errors
    /// Those of the system; the name is not there then.
    pub(super) fn write_name(
        &self,
        run: u64,
        id: NameId,
        text: &[u8],
        offset: u64,
    ) -> io::Result<u64> {
        let Ok(length) = u32::try_from(text.len()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut entry = length.to_le_bytes().to_vec();
        entry.extend_from_slice(&name_checksum(run, id, text).to_le_bytes());
        entry.extend_from_slice(text);
        self.file.write_all_at(&entry, names_offset(self.ring.capacity()) + offset)?;
        Ok(offset + entry.len() as u64)
    }

    /// The event at `pos`, if it is accepted; none in it if its words are damaged. The further half of a
    /// slot is looked at only if its event is there.
    pub(super) fn read(&self, run: u64, pos: u64) -> Option<Option<Record>> {
        let half = self.ring.read_first(pos)?;
        if brief::is_brief(&half) {
            return Some(brief::record_of_half(run, pos, &half));
        }
        self.ring.read(pos).map(|words| Record::of_words(run, pos, &words))
    }

    /// Says that a block is appended to the trace, from `offset` on.
    pub(super) fn set_intent(&self, offset: u64) {
        // Release: before the first byte is written, as the compiler sees it; a kill keeps the order.
        self.ring.memory()[AT_INTENT].store(checked_word(offset), Ordering::Release);
    }

    /// Says that every event before `head` is in the trace, and nothing else.
    pub(super) fn clear_intent(&self) {
        // Release: after `head` was moved.
        self.ring.memory()[AT_INTENT].store(0, Ordering::Release);
    }

    /// Events that were lost and are in no line yet.
    pub(super) fn lost(&self) -> &SharedU64 {
        &self.ring.memory()[AT_LOST]
    }

    /// Removes the file; all of its events are in the trace.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    /// Lets others recover it, if it is still there.
    pub(super) fn unlock(&self) {
        unlock(&self.file);
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Sets the intent of a journal that this process doesn't map.
pub(super) fn write_intent(journal: &File, offset: u64) -> io::Result<()> {
    journal.write_all_at(&checked_word(offset).to_le_bytes(), (AT_INTENT * WORD) as u64)
}

/// The journal of a run.
pub(super) fn path_of(trace: &Path, run: u64) -> PathBuf {
    let run = digest_hex(run);
    let run = std::str::from_utf8(&run).expect("hex digits are ASCII");
    companion(trace, &format!("{run}.journal"))
}

/// Whether `name` is that of a journal of a trace called `trace`.
pub(super) fn is_journal_of(name: &[u8], trace: &[u8]) -> bool {
    let run = name.strip_prefix(trace).and_then(|rest| rest.strip_prefix(b"."));
    let run = run.and_then(|rest| rest.strip_suffix(b".journal"));
    run.is_some_and(|run| run.len() == 16 && run.iter().all(u8::is_ascii_hexdigit))
}

/// What a journal says that nobody writes any more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The run.
    pub run: u64,
    /// Accepted events that are not known to be in the trace, by position.
    pub events: Vec<(u64, Record)>,
    /// The texts that they use.
    pub names: JsonNames,
    /// Where in the trace a block was begun, if one was.
    pub intent: Option<u64>,
    /// Events that were lost and are in no line yet.
    pub lost: u64,
    /// Slots, or other parts, that hold nothing that a writer writes.
    pub damaged: u64,
    /// A position after all others.
    pub next: u64,
}

/// Reads a journal. Never fails: what can't be read is counted as damaged.
///
/// None: nothing was ever accepted, since the header was not finished.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Found> {
    let words = bytes.as_chunks::<WORD>().0;
    let word = |at: usize| words.get(at).map_or(0, |word| u64::from_le_bytes(*word));
    let (capacity, run) = (word(AT_CAPACITY), word(AT_RUN));
    if word(AT_MAGIC) == 0 && words.iter().take(AT_LOST).all(|word| *word == [0; WORD]) {
        return None;
    }
    let whole = matches!(word(AT_MAGIC), MAGIC | MAGIC_OF_WHOLE_SLOTS)
        && word(AT_CHECKSUM) == header_checksum(capacity, run)
        && capacity.is_power_of_two();
    if !whole {
        return Some(Found { damaged: 1, ..Found::default() });
    }
    let mut found = Found { run, lost: word(AT_LOST), ..Found::default() };
    let head = checked_number(word(AT_HEAD));
    found.intent = match (word(AT_INTENT), head) {
        (0, Some(_)) => None,
        (intent, _) => {
            Some(checked_number(intent).filter(|_| head.is_some()).unwrap_or_else(|| {
                found.damaged += 1;
                // Every event may be in the trace; reading all of it is always right.
                0
            }))
        }
    };
    read_names(&mut found, bytes, names_offset(capacity));
    read_slots(&mut found, words, capacity, head.unwrap_or(0));
    Some(found)
}

fn read_names(found: &mut Found, bytes: &[u8], offset: u64) {
    let mut rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
    while let Some([l0, l1, l2, l3, c0, c1, c2, c3, after @ ..]) = rest {
        let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
        let sum = u32::from_le_bytes([*c0, *c1, *c2, *c3]);
        let Some(text) = after.get(..length) else {
            break;
        };
        let next = u32::try_from(found.names.len() + 1).ok().and_then(NameId::of_number);
        if next.is_none_or(|id| name_checksum(found.run, id, text) != sum) {
            break;
        }
        found.names.push(text);
        rest = after.get(length..);
    }
}

fn read_slots(found: &mut Found, words: &[[u8; WORD]], capacity: u64, head: u64) {
    let slots = words.get(HEADER_WORDS..).unwrap_or_default();
    let present = usize::try_from(capacity).map_or(slots.len(), |capacity| capacity * WORDS);
    let slots = slots.get(..present).unwrap_or(slots).as_chunks::<WORDS>().0;
    found.damaged += capacity.saturating_sub(slots.len() as u64);
    for (slot, bytes) in (0..).zip(slots) {
        let words: Words = bytes.map(u64::from_le_bytes);
        match found_in_slot(words[0], slot, capacity) {
            InSlot::Nothing => {}
            InSlot::Damage => found.damaged += 1,
            // Also where the next event's payload was begun: the old one is written.
            InSlot::Event(pos) if pos < head => found.next = found.next.max(pos + 1),
            InSlot::Event(pos) => match Record::of_words(found.run, pos, &words) {
                Some(record) if record.is_named_in(&found.names) => {
                    found.next = found.next.max(pos + 1);
                    found.events.push((pos, record));
                }
                _ => found.damaged += 1,
            },
        }
    }
    found.events.sort_unstable_by_key(|(pos, _)| *pos);
}

fn names_offset(capacity: u64) -> u64 {
    let slots = capacity.saturating_mul((WORDS * WORD) as u64);
    slots.saturating_add((HEADER_WORDS * WORD) as u64)
}

fn header_checksum(capacity: u64, run: u64) -> u64 {
    xxh3_64_with_seed(&capacity.to_le_bytes(), run)
}

fn name_checksum(run: u64, id: NameId, text: &[u8]) -> u32 {
    let seed = run ^ u64::from(NameId::number(Some(id))).rotate_left(32);
    xxh3_64_with_seed(text, seed) as u32
}

const NUMBER_BITS: u32 = 48;

/// A number, and 16 bits that say that it is one; never 0. One store writes both.
fn checked_word(number: u64) -> u64 {
    number
        | (xxh3_64_with_seed(&number.to_le_bytes(), NUMBER_SEED) >> NUMBER_BITS | 1) << NUMBER_BITS
}

fn number_of(word: u64) -> u64 {
    word & ((1 << NUMBER_BITS) - 1)
}

/// The number of a word that this process may not have written; None if it is damaged.
fn checked_number(word: u64) -> Option<u64> {
    (checked_word(number_of(word)) == word).then(|| number_of(word))
}

/// Takes the blocks of a file, so that a mapping of it never meets a full disk.
#[cfg(target_os = "linux")]
fn allocate(file: &File, length: u64) -> io::Result<()> {
    if !filesystem::keeps_its_blocks(file)? {
        return Err(io::ErrorKind::Unsupported.into());
    }
    loop {
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, length) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(_file: &File, _length: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
mod filesystem {
    use std::fs::File;
    use std::io;

    /// File systems that write elsewhere than they allocated, or over a network, by their magic
    /// numbers (`statfs(2)`): a mapping may fail there long after it was made.
    const OTHERS: [u32; 16] = [
        0x6969,      // NFS
        0x517B,      // SMB
        0xFF53_4D42, // CIFS
        0xFE53_4D42, // SMB2
        0x6573_5546, // FUSE
        0x0102_1997, // 9P
        0x9123_683E, // btrfs
        0x2FC1_2FC1, // ZFS
        0xCA45_1A4E, // bcachefs
        0x00C3_6400, // Ceph
        0x5346_414F, // AFS
        0x7375_7245, // Coda
        0x4750_4653, // GPFS
        0x0BD0_0BD0, // Lustre
        0x0116_1970, // GFS2
        0x7461_636F, // OCFS2
    ];

    pub(super) fn keeps_its_blocks(file: &File) -> io::Result<bool> {
        let kind = rustix::fs::fstatfs(file)?.f_type;
        Ok(!OTHERS.contains(&(kind as u32)))
    }
}

#[allow(unsafe_code)]
fn map(file: &File, length: u64) -> io::Result<MmapMut> {
    let length = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the file was just made by this process, which holds its lock; others that keep to the
    // protocol don't touch it while it is locked. Its memory is only used as atomics.
    let mapping = unsafe { MmapOptions::new().len(length).map_mut(file)? };
    #[cfg(target_os = "linux")]
    mapping.advise(memmap2::Advice::DontFork)?;
    Ok(mapping)
}
