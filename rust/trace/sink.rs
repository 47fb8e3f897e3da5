//! The `.jsonl` file: whole lines at its end, whoever else appends and however a write stops.

use super::lockfile::Held;
use super::recover::{self, Recovered};
use std::fs::{File, OpenOptions, create_dir_all};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A line of ours of which the file holds the beginning.
#[derive(Clone, Copy, Debug)]
struct Fragment {
    /// Bytes of the line that are there.
    bytes: usize,
    /// Size of the file after them; if it is another now, somebody has ended the line.
    end: u64,
}

/// How much of a block is in the file.
#[derive(Debug)]
pub(super) struct Appended {
    /// Whole lines.
    pub(super) lines: usize,
    /// Why there are no more.
    pub(super) result: io::Result<()>,
}

/// A trace that is open for append.
#[derive(Debug)]
pub(super) struct Sink {
    path: PathBuf,
    file: File,
    is_regular: bool,
    fsync: bool,
    fragment: Option<Fragment>,
}

impl Sink {
    /// Opens `path` for append; its folders are made and the file is there at once.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn open(path: &Path, fsync: bool) -> io::Result<Self> {
        let (file, is_regular) = open(path)?;
        Ok(Self { path: path.to_path_buf(), file, is_regular, fsync, fragment: None })
    }

    /// Whether it is a file that has an end to look at, and not a device or a pipe.
    pub(super) fn is_regular(&self) -> bool {
        self.is_regular
    }

    /// Makes the end of the file ready for a line, and says where a block will begin: at the end,
    /// or at the fragment of our own that is there.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn prepare(&mut self, held: Option<&Held<'_>>) -> io::Result<u64> {
        if !self.is_regular {
            return Ok(0);
        }
        self.reopen_if_gone()?;
        let size = self.file.metadata()?.len();
        self.fragment = self.fragment.filter(|fragment| fragment.end == size);
        if let Some(fragment) = self.fragment {
            return Ok(size - fragment.bytes as u64);
        }
        if ends_whole(&self.file, size)? {
            return Ok(size);
        }
        if let Some(held) = held {
            recover::complete(&self.path, &self.file, held)?;
        }
        end_line(&self.file)
    }

    /// Completes what dead processes left, and ends a line that somebody else has begun.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn recover(&mut self, held: &Held<'_>) -> io::Result<Recovered> {
        let recovered = recover::complete(&self.path, &self.file, held)?;
        end_line(&self.file)?;
        Ok(recovered)
    }

    /// Whether a line of ours has been begun and not ended.
    pub(super) fn has_fragment(&self) -> bool {
        self.fragment.is_some()
    }

    /// Gives up a line that has been begun; the next one ends it first.
    pub(super) fn forget_fragment(&mut self) {
        self.fragment = None;
    }

    /// Appends a block that begins where `prepare` said; `ends` are the ends of its lines.
    pub(super) fn append(&mut self, text: &[u8], ends: &[usize]) -> Appended {
        let skipped = self.fragment.take().map_or(0, |fragment| fragment.bytes);
        let (written, mut result) = write(&self.file, text.get(skipped..).unwrap_or_default());
        if result.is_ok() && self.fsync {
            result = self.file.sync_data();
        }
        let reached = skipped + written;
        let lines = ends.partition_point(|&end| end <= reached);
        let whole = lines.checked_sub(1).map_or(0, |last| ends[last]);
        if reached > whole {
            let end = self.file.metadata().map_or(0, |file| file.len());
            self.fragment = Some(Fragment { bytes: reached - whole, end });
        }
        Appended { lines, result }
    }

    /// Somebody removed or moved the file: what comes goes where a new reader looks.
    fn reopen_if_gone(&mut self) -> io::Result<()> {
        let ours = self.file.metadata()?;
        let there = std::fs::metadata(&self.path);
        let same =
            |there: &std::fs::Metadata| (there.dev(), there.ino()) == (ours.dev(), ours.ino());
        if !there.is_ok_and(|there| same(&there)) {
            (self.file, self.is_regular) = open(&self.path)?;
            self.fragment = None;
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, bool)> {
    if let Some(folder) = path.parent() {
        create_dir_all(folder)?;
    }
    let is_special = std::fs::metadata(path).is_ok_and(|there| {
        let kind = there.file_type();
        kind.is_char_device() || kind.is_fifo() || kind.is_socket() || kind.is_block_device()
    });
    // Its end is read, to see whether the last line is whole.
    let file = OpenOptions::new().create(true).append(true).read(!is_special).open(path)?;
    Ok((file, !is_special))
}

/// Whether a file of `size` bytes is empty or ends with a newline.
///
/// # Errors
/// Those of the system.
pub(super) fn ends_whole(file: &File, size: u64) -> io::Result<bool> {
    let mut last = [b'\n'];
    if let Some(at) = size.checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    Ok(last == [b'\n'])
}

/// Ends a line that somebody else has begun, if there is one; returns the file's size.
fn end_line(file: &File) -> io::Result<u64> {
    let size = file.metadata()?.len();
    if !ends_whole(file, size)? {
        write(file, b"\n").1?;
    }
    Ok(file.metadata()?.len())
}

/// Writes all, and says how far it came.
pub(super) fn write(mut file: &File, text: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < text.len() {
        match file.write(&text[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}
