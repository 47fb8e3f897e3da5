//! The file of a trace: opened for append, one `write` a call, nothing held back.
//!
//! A line is complete in the file before the call that made it returns, as the plain-Python
//! original does by flushing. The file is opened with `O_APPEND` and a call's lines go out in one
//! `write`, so lines of several writers of one path don't mix.
//!
//! Writing never fails towards the caller: what could not be written is counted in `lost`.

use super::Event;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
use std::fs::{File, OpenOptions, create_dir_all};
use std::io::{self, Write as _};
use std::path::Path;

/// Events of one call, formatted, to be written together.
#[derive(Debug, Default)]
pub struct Lines {
    text: Vec<u8>,
    count: u64,
}

impl Lines {
    /// Adds an event as the next line.
    pub fn push(&mut self, event: &Event<'_>) {
        event.append_to(&mut self.text);
        self.count += 1;
    }

    /// Whether no event was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// An open trace, or a closed one that swallows events.
#[derive(Debug)]
pub struct Writer {
    file: Mutex<Option<File>>,
    lost: AtomicU64,
}

impl Writer {
    /// Opens `path` for append; parent folders are made and the file is there at once.
    ///
    /// # Errors
    /// That of the operating system.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file: Mutex::new(Some(file)), lost: AtomicU64::new(0) })
    }

    /// Writes lines out; after `close` it does nothing.
    pub fn write(&self, lines: &Lines) {
        let failed = match lock(&self.file).as_mut() {
            Some(file) => file.write_all(&lines.text).is_err(),
            None => false,
        };
        if failed {
            // Relaxed: a count publishes no other memory.
            self.lost.fetch_add(lines.count, Ordering::Relaxed);
        }
    }

    /// Closes the file; a second call does nothing.
    pub fn close(&self) {
        drop(lock(&self.file).take());
    }

    /// Whether `close` was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        lock(&self.file).is_none()
    }

    /// Events that could not be written: disk full, device gone.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::event::example;

    fn lines(count: usize) -> Lines {
        let mut lines = Lines::default();
        (0..count).for_each(|_| lines.push(&example()));
        lines
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("the temporary folder can be written")
    }

    #[test]
    fn parents_are_made_and_the_file_is_there_at_once() {
        let folder = folder();
        let path = folder.path().join("a/b/trace.jsonl");
        let _writer = Writer::open(&path).unwrap();
        assert!(path.exists());
    }

    #[test]
    fn lines_are_in_the_file_when_write_returns_and_none_after_close() {
        let folder = folder();
        let path = folder.path().join("trace.jsonl");
        std::fs::write(&path, "before\n").unwrap();
        let writer = Writer::open(&path).unwrap();
        writer.write(&lines(2));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("before\n"), "opened for append");
        assert_eq!(text.lines().count(), 3);
        writer.close();
        writer.close();
        writer.write(&lines(1));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(writer.lost(), 0);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_counted_and_never_raised() {
        let writer = Writer::open(Path::new("/dev/full")).unwrap();
        writer.write(&lines(2));
        assert_eq!(writer.lost(), 2);
    }

    #[test]
    fn lines_of_eight_threads_are_whole() {
        let folder = folder();
        let path = folder.path().join("trace.jsonl");
        let writer = Writer::open(&path).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..200).for_each(|_| writer.write(&lines(1))));
            }
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1600);
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }
}
