//! What happened to the prompts of a call, on its way into the trace.

use super::described::event_class;
use super::key::integer;
use super::parts::Part;
use super::trace::TraceWriter;
use crate::clock::{self, Ticks};
use crate::key::{Name, Salt};
use crate::trace::{Batch, Brief, Caller, PromptHash, Record, writer::this_thread};
use pyo3::prelude::*;
use pyo3::types::{PyNone, PyString};

/// The fields that all events of a call share.
pub(super) struct Source<'a, 'py> {
    pub(super) probe: Option<Bound<'py, PyString>>,
    pub(super) op: &'a Bound<'py, PyAny>,
    pub(super) view_id: &'a Bound<'py, PyAny>,
    pub(super) top_k: &'a Bound<'py, PyAny>,
    /// When it happened.
    pub(super) at: Ticks,
}

/// What happened to one prompt.
#[derive(Clone, Copy)]
pub(super) struct Outcome {
    name: Name,
    wall_s: f64,
    hit: bool,
    /// Whether another thread computed it while this one waited.
    waited: bool,
    batch: Option<Batch>,
    /// Bytes that the value was stored with.
    bytes: Option<u64>,
}

impl Outcome {
    pub(super) fn hit(name: Name, wall_s: f64) -> Self {
        Self { name, wall_s, hit: true, waited: false, batch: None, bytes: None }
    }

    pub(super) fn waited(name: Name, wait_s: f64) -> Self {
        Self { waited: true, ..Self::hit(name, wait_s) }
    }

    pub(super) fn miss(name: Name, wall_s: f64) -> Self {
        Self { hit: false, ..Self::hit(name, wall_s) }
    }

    /// The outcome as one of a batch's; `shared_by` prompts took `wall_s` together.
    pub(super) fn in_batch(self, id: Option<u64>, shared_by: usize, wall_s: f64) -> Self {
        let size = u32::try_from(shared_by).unwrap_or(u32::MAX);
        let batch = id.map(|id| Batch { id, size, wall_ms: wall_s * 1e3 });
        Self { batch, ..self }
    }

    /// The outcome with what its value was stored with.
    pub(super) fn stored(self, bytes: Option<u64>) -> Self {
        Self { bytes, ..self }
    }
}

impl Part<TraceWriter> {
    /// Whether events are wanted.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        match self {
            // How many instructions the question costs is measured against a build without it.
            _ if cfg!(untraced) => false,
            Self::Native(trace) => trace.get().is_on(),
            Self::Foreign(_) => true,
        }
    }

    /// What is hashed before the prompt for the `prompt_hash` of this trace.
    pub(super) fn salt(&self) -> Option<&Salt> {
        match self {
            Self::Native(trace) => trace.get().salt(),
            Self::Foreign(_) => None,
        }
    }

    /// The number of a batch that begins; None if nobody writes it down.
    pub(super) fn next_batch(&self) -> Option<u64> {
        match self {
            Self::Native(trace) => trace.get().next_batch(),
            Self::Foreign(_) => None,
        }
    }

    /// Writes the event of one hit, if everything about its caller is known. False: it is still to be
    /// written. Drops no Python object, so pyo3 need not know that this thread is attached.
    #[inline(always)]
    pub(super) fn write_hit(&self, source: &Source<'_, '_>, name: &Name, wall_s: f64) -> bool {
        match self {
            Self::Native(trace) => source.write_hit_to(trace.get(), name, wall_s),
            Self::Foreign(_) => false,
        }
    }

    /// Writes one event for each outcome; `error` is the exception's type where there was one. Returns how
    /// many could not be accepted.
    pub(super) fn write(
        &self,
        source: &Source<'_, '_>,
        outcomes: &[Outcome],
        error: Option<&Bound<'_, PyString>>,
    ) -> PyResult<u64> {
        match self {
            Self::Native(trace) => source.write_to(trace.get(), outcomes, error),
            Self::Foreign(trace) => {
                let trace = trace.bind(source.op.py());
                outcomes.iter().try_for_each(|outcome| {
                    let event = source.event_object(outcome)?;
                    trace.call_method1("write", (event,)).map(drop)
                })?;
                Ok(0)
            }
        }
    }
}

impl<'py> Source<'_, 'py> {
    #[inline(always)]
    fn write_hit_to(&self, trace: &TraceWriter, name: &Name, wall_s: f64) -> bool {
        let py = self.op.py();
        let Some((run, known)) = trace.run() else {
            return true;
        };
        let caller = self.with_row(|row| known.caller(run, row));
        let Some(caller) = caller.and_then(|caller| caller.in_thread(this_thread())) else {
            return false;
        };
        run.write_brief(&Brief {
            ts: trace.unix_time_s(py, self.at),
            wall_ms: wall_s * 1e3,
            key: name.digest,
            hash_prefix: name.hash_prefix,
            caller,
        })
    }

    /// Runs `use_row` with the objects that say who called.
    #[inline]
    fn with_row<R>(&self, use_row: impl FnOnce([&Bound<'py, PyAny>; 4]) -> R) -> R {
        let nobody = PyNone::get(self.op.py());
        let probe = self.probe.as_ref().map_or(nobody.as_any(), |probe| probe.as_any());
        use_row([self.op, self.view_id, self.top_k, probe])
    }

    fn write_to(
        &self,
        trace: &TraceWriter,
        outcomes: &[Outcome],
        error: Option<&Bound<'_, PyString>>,
    ) -> PyResult<u64> {
        let py = self.op.py();
        let Some((run, known)) = trace.run() else {
            return Ok(0);
        };
        let op = known.name(py, run, self.op)?;
        let view_id = known.name(py, run, self.view_id)?;
        let probe = self.probe.as_ref().map(|probe| known.name(py, run, probe)).transpose()?;
        let error = error.map(|error| known.name(py, run, error)).transpose()?;
        let top_k = known.top_k(run, self.top_k);
        let (Some(op), Some(view_id), Some(top_k), false, false) =
            (op, view_id, top_k, probe == Some(None), error == Some(None))
        else {
            run.lose(outcomes.len() as u64);
            return Ok(outcomes.len() as u64);
        };
        if let ([Outcome { hit: true, batch: None, .. }], None) = (outcomes, error)
            && let Some(caller) = Caller::of(probe.flatten(), Some(view_id), Some(op), top_k)
        {
            self.with_row(|row| known.keep_caller(py, run, row, caller));
        }
        let (ts, thread) = (trace.unix_time_s(py, self.at), this_thread());
        let records = outcomes.iter().map(|outcome| Record {
            ts,
            probe: probe.flatten(),
            view_id: Some(view_id),
            prompt_hash: PromptHash::hex(outcome.name.hash_prefix),
            top_k,
            op: Some(op),
            wall_ms: outcome.wall_s * 1e3,
            hit: outcome.hit,
            thread,
            key: Some(outcome.name.digest),
            batch: outcome.batch,
            bytes: outcome.bytes,
            error: error.flatten(),
            waited: outcome.waited,
            lost: None,
        });
        let mut lost = 0;
        for record in records {
            lost += u64::from(!super::trace::write(py, run, &record)?);
        }
        Ok(lost)
    }

    /// The event as the object that a foreign trace's `write` gets.
    fn event_object(&self, outcome: &Outcome) -> PyResult<Bound<'py, PyAny>> {
        let prompt_hash = std::str::from_utf8(&outcome.name.hash_prefix);
        let prompt_hash = prompt_hash.expect("hex digits are ASCII");
        event_class(self.op.py())?.call1((
            clock::unix_time_s(),
            self.probe.as_ref(),
            self.view_id,
            prompt_hash,
            integer(self.top_k),
            self.op,
            outcome.wall_s * 1e3,
            outcome.hit,
        ))
    }
}
