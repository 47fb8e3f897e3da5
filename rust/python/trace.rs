//! `TraceWriter`: the trace of a backend, and events that others write into it.

use super::described::Described;
use super::known::KnownNames;
use crate::clock::{self, Ticks, WallClock};
use crate::key::Salt;
use crate::sync::{OnceLock, Turns};
use crate::trace::{Options, Record, Run, Writer, Written};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyRuntimeWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use std::ffi::CString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub(super) const DEFAULT_INTERVAL_S: f64 = 0.2;
pub(super) const DEFAULT_JOURNAL_EVENTS: u64 = 1 << 15;
/// A signal is seen after at most this long.
const SLICE: Duration = Duration::from_millis(50);

/// Writes one JSON line per event.
///
/// An event is accepted when the call that wrote it returns: it then lies in a journal next to the
/// file, which survives the end of the process however it comes (SIGKILL, ``os._exit``), and the next
/// writer of the path, or ``forwardcache trace recover``, completes the file from it. A thread appends
/// the accepted events every ``interval_s``. After ``close`` or the interpreter's end there is only the
/// file. What can't be written (disk full) is counted in ``lost`` and never raised.
///
/// Args:
///     path: File to append to; its folders are made and it is there at once. None: writes nothing.
///     interval_s: Seconds after which an accepted event is in the file, at most.
///     fsync: Sync the file to its disk after every block, so that a power failure costs at most the
///         events of one interval. Without it, power failures are not provided for.
///     journal_events: Events that the journal takes; 128 bytes each. Rounded up to a power of two.
///         A full journal makes calls wait; after five seconds without progress events are lost.
///     salt: Is hashed before the prompt for its `prompt_hash`. The SHA-1 of a short prompt can be
///         guessed; with a secret salt it can't.
///
/// Writers of one path in one process share a journal, with the options of the first.
///
/// Raises:
///     OSError: the file can't be opened.
///     ValueError: `interval_s` is not a positive number of seconds, or `journal_events` is not
///         between 2 and 2**26.
#[pyclass(frozen, subclass, weakref, module = "forwardcache._core")]
#[derive(Default)]
pub(super) struct TraceWriter {
    /// Opened by `__init__`, which a subclass calls with arguments of its own choice.
    opened: OnceLock<Opened>,
}

#[derive(Default)]
struct Opened {
    writer: Option<Writer>,
    path: Option<PathBuf>,
    salt: Option<Salt>,
    known: KnownNames,
    clock: Turns<WallClock>,
}

/// How a `TraceWriter` is opened.
pub(super) struct Opening {
    pub(super) path: Option<PathBuf>,
    pub(super) interval_s: f64,
    pub(super) fsync: bool,
    pub(super) journal_events: u64,
    pub(super) salt: Option<Vec<u8>>,
}

impl Opening {
    fn options(&self) -> PyResult<Options> {
        let interval = Duration::try_from_secs_f64(self.interval_s).ok();
        let interval = interval.filter(|span| !span.is_zero()).ok_or_else(|| {
            let given = self.interval_s;
            PyValueError::new_err(format!("interval_s must be positive seconds, got {given}"))
        })?;
        if !(2..=1 << 26).contains(&self.journal_events) {
            let given = self.journal_events;
            return Err(PyValueError::new_err(format!(
                "journal_events must be between 2 and 2**26, got {given}"
            )));
        }
        let journal_events = self.journal_events.next_power_of_two();
        Ok(Options { interval, fsync: self.fsync, journal_events })
    }

    fn open(self) -> PyResult<Opened> {
        let options = self.options()?;
        let writer = self.path.as_ref().map(|path| Writer::open(path, options)).transpose();
        let writer = writer.map_err(|error| os_error(&error, self.path.as_ref()))?;
        let salt = self.salt.map(Salt::new);
        Ok(Opened { writer, path: self.path, salt, ..Opened::default() })
    }
}

fn os_error(error: &io::Error, path: Option<&PathBuf>) -> PyErr {
    let reason = error.to_string();
    // With the number first, Python raises FileNotFoundError, PermissionError and so on.
    match error.raw_os_error() {
        // Not as a `Path`, which imports `pathlib`: there may be no descriptor left for that.
        Some(number) => {
            PyOSError::new_err((number, reason, path.map(|path| path.clone().into_os_string())))
        }
        None => PyOSError::new_err(reason),
    }
}

impl TraceWriter {
    pub(super) fn open(opening: Opening) -> PyResult<Self> {
        Ok(Self { opened: OnceLock::from(opening.open()?) })
    }

    #[inline]
    fn writer(&self) -> Option<&Writer> {
        self.opened.get().and_then(|opened| opened.writer.as_ref())
    }

    /// The run that takes events now, and the names that recur from call to call.
    #[inline]
    pub(super) fn run(&self) -> Option<(Run<'_>, &KnownNames)> {
        let opened = self.opened.get()?;
        Some((opened.writer.as_ref()?.run()?, &opened.known))
    }

    /// Whether an event would be written.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.writer().is_some_and(|writer| !writer.is_closed())
    }

    pub(super) fn salt(&self) -> Option<&Salt> {
        self.opened.get().and_then(|opened| opened.salt.as_ref())
    }

    pub(super) fn next_batch(&self) -> Option<u64> {
        self.run().map(|(run, _)| run.next_batch())
    }

    /// Seconds since the epoch at a reading that was just made.
    #[inline]
    pub(super) fn unix_time_s(&self, _py: Python<'_>, now: Ticks) -> f64 {
        let clock = self.opened.get().map(|opened| &opened.clock);
        clock.map_or_else(clock::unix_time_s, |clock| clock.with(|clock| clock.unix_time_s(now)))
    }

    /// Appends what is accepted, with the interpreter free meanwhile.
    pub(super) fn flush_now(&self, py: Python<'_>) {
        if let Some(writer) = self.writer() {
            py.detach(|| writer.flush());
        }
    }

    /// Closes the file and warns once if it doesn't have every event.
    ///
    /// # Errors
    /// The warning, where it is made an error.
    pub(super) fn shut(&self, py: Python<'_>) -> PyResult<u64> {
        let Some(writer) = self.writer() else {
            return Ok(0);
        };
        let was_open = !writer.is_closed();
        let missing = py.detach(|| writer.close());
        if was_open && missing > 0 {
            let path = self.opened.get().and_then(|opened| opened.path.as_ref());
            let path = path.map_or_else(String::new, |path| path.display().to_string());
            let message =
                format!("{missing} events are not in the trace {path}: it can't be written");
            let message = CString::new(message).unwrap_or_default();
            PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &message, 1)?;
        }
        Ok(missing)
    }
}

/// Accepts one event; waits, with the interpreter free, while the journal is full. False: it is lost.
///
/// # Errors
/// Whatever a signal handler raises during the wait; the event is lost then.
#[inline]
pub(super) fn write(py: Python<'_>, run: Run<'_>, record: &Record) -> PyResult<bool> {
    match run.write(record) {
        Written::Done => Ok(true),
        Written::Lost => Ok(false),
        Written::Full => wait_and_write(py, run, record),
    }
}

#[cold]
fn wait_and_write(py: Python<'_>, run: Run<'_>, record: &Record) -> PyResult<bool> {
    let mut patience = run.patience();
    loop {
        match run.write(record) {
            Written::Done => return Ok(true),
            Written::Lost => return Ok(false),
            Written::Full => {}
        }
        if !py.detach(|| run.wait_for_room(&mut patience, SLICE)) {
            run.lose(1);
            return Ok(false);
        }
        py.check_signals().inspect_err(|_| run.lose(1))?;
    }
}

#[pymethods]
impl TraceWriter {
    /// Takes whatever a subclass's own `__init__` takes; see `__init__`.
    #[new]
    #[pyo3(
        signature = (*_arguments, **_keywords),
        text_signature = "(path=None, *, interval_s=0.2, fsync=False, journal_events=32768, \
                          salt=None)"
    )]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Self {
        Self::default()
    }

    #[pyo3(signature = (
        path=None, *, interval_s=DEFAULT_INTERVAL_S, fsync=false,
        journal_events=DEFAULT_JOURNAL_EVENTS, salt=None,
    ))]
    fn __init__(
        &self,
        py: Python<'_>,
        path: Option<PathBuf>,
        interval_s: f64,
        fsync: bool,
        journal_events: u64,
        salt: Option<Bound<'_, PyBytes>>,
    ) -> PyResult<()> {
        let again = |_| PyRuntimeError::new_err("this writer has a file: make another one");
        let salt = salt.map(|salt| salt.as_bytes().to_vec());
        let opening = Opening { path, interval_s, fsync, journal_events, salt };
        let opened = py.detach(|| opening.open())?;
        self.opened.set(opened).map_err(again)
    }

    /// The file, None if nothing is written.
    #[getter]
    fn path(&self) -> Option<PathBuf> {
        self.opened.get().and_then(|opened| opened.path.clone())
    }

    /// Whether `close` was called.
    #[getter]
    fn closed(&self) -> bool {
        self.writer().is_some_and(Writer::is_closed)
    }

    /// Events that could not be accepted: the disk was full, or writing had become impossible.
    #[getter]
    fn lost(&self) -> u64 {
        self.writer().map_or(0, Writer::lost)
    }

    /// Accepts one event; it is in the file after `interval_s`, or when `flush` or `close` returns.
    ///
    /// Does nothing without a path or after `close`.
    ///
    /// Args:
    ///     event: A `TraceEvent`, or any object with its eight fields as attributes; times in seconds
    ///         since the epoch (`ts`) and milliseconds (`wall_ms`). Further fields of a `TraceLine` are
    ///         written too, but for `run`, `thread` and `seq`, which are this writer's.
    ///
    /// Raises:
    ///     AttributeError, TypeError: a field is missing or has another type.
    fn write(&self, event: &Bound<'_, PyAny>) -> PyResult<()> {
        let Some((run, known)) = self.run() else {
            return Ok(());
        };
        match Described::new(known, run, event)?.record()? {
            Some(record) => write(event.py(), run, &record).map(drop),
            None => {
                run.lose(1);
                Ok(())
            }
        }
    }

    /// Appends every event that is accepted by now to the file.
    fn flush(&self, py: Python<'_>) {
        self.flush_now(py);
    }

    /// Closes the file; a second call does nothing.
    ///
    /// Returns:
    ///     The number of events that the file doesn't have, 0 if all went well. If there are any, a
    ///     `RuntimeWarning` says so once. Those that a journal still holds are appended by the next
    ///     writer of the path.
    fn close(&self, py: Python<'_>) -> PyResult<u64> {
        self.shut(py)
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.shut(py).map(drop)
    }
}

/// The name of an exception's class, as the trace gives it.
pub(super) fn error_name(py: Python<'_>, error: &PyErr) -> PyResult<Py<PyString>> {
    Ok(error.get_type(py).qualname()?.unbind())
}

/// Completes the trace at `path` from the journals that dead processes left next to it.
///
/// Args:
///     path: The trace file, a `str` or a path.
///
/// Returns:
///     `recovered`: events appended; `journals`: journals completed; `damaged`: parts of them that
///     could not be read; `alive`: journals of living processes, which are left alone; `lost`: events
///     that the dead processes said were lost.
///
/// Raises:
///     OSError: the trace or a journal can't be read or written.
#[pyfunction]
pub(super) fn recover_trace(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyDict>> {
    let recovered = py.detach(|| crate::trace::recover(&path));
    let recovered = recovered.map_err(|error| os_error(&error, Some(&path)))?;
    let counts = PyDict::new(py);
    counts.set_item("recovered", recovered.events)?;
    counts.set_item("journals", recovered.journals)?;
    counts.set_item("damaged", recovered.damaged)?;
    counts.set_item("alive", recovered.alive)?;
    counts.set_item("lost", recovered.lost)?;
    Ok(counts)
}
