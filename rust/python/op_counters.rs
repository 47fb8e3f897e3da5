//! Counters of each op and view, found by the identity of the objects that name them.

use super::identity::ByIdentity;
use super::text::Text;
use crate::stats::CallFigures;
use crate::sync::Turns;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::collections::HashMap;

/// An op, a view, and what was done for them.
pub(super) type Named = (Py<PyString>, Py<PyString>, CallFigures);

/// What one call adds to the statistics.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) passes: u64,
    pub(super) failed: u64,
    /// Hits that another thread computed meanwhile, and the seconds of waiting for them.
    pub(super) waits: u64,
    pub(super) wait_s: f64,
    /// Computations of what another thread was computing too.
    pub(super) duplicates: u64,
    /// Events that the trace could not accept.
    pub(super) lost: u64,
    /// Seconds of computations that hits did not repeat.
    pub(super) saved_s: f64,
    /// Values computed again after they had been evicted.
    pub(super) recomputed: u64,
    /// Size of the batch that was handed to the computation.
    pub(super) batch: u64,
    pub(super) wall_s: f64,
}

/// The counters of one instrumentation, a line for each op and view.
#[derive(Default)]
pub(super) struct OpCounters(Turns<Lines>);

#[derive(Default)]
struct Lines {
    figures: Vec<Line>,
    index: HashMap<Texts, usize>,
    known: ByIdentity<2, usize>,
}

/// Op and view, as text.
type Texts = (Box<[u8]>, Box<[u8]>);

struct Line {
    op: Py<PyString>,
    view_id: Py<PyString>,
    figures: CallFigures,
}

impl OpCounters {
    /// Changes the figures of an op and a view; Python code may run before, none meanwhile.
    ///
    /// # Errors
    /// Those of `__str__`, where op or view is no `str`.
    #[inline]
    pub(super) fn change(
        &self,
        op: &Bound<'_, PyAny>,
        view_id: &Bound<'_, PyAny>,
        change: impl Fn(&mut CallFigures),
    ) -> PyResult<()> {
        match self.change_known(op, view_id, &change) {
            true => Ok(()),
            false => Python::attach(|_| self.change_by_text(op, view_id, change)),
        }
    }

    /// Changes the figures of an op and a view that are known by their identity; false if they aren't.
    #[inline(always)]
    pub(super) fn change_known(
        &self,
        op: &Bound<'_, PyAny>,
        view_id: &Bound<'_, PyAny>,
        change: impl Fn(&mut CallFigures),
    ) -> bool {
        self.0.with(|lines| {
            let line = lines.known.get([op, view_id]);
            line.inspect(|line| change(&mut lines.figures[*line].figures)).is_some()
        })
    }

    #[cold]
    fn change_by_text(
        &self,
        op: &Bound<'_, PyAny>,
        view_id: &Bound<'_, PyAny>,
        change: impl Fn(&mut CallFigures),
    ) -> PyResult<()> {
        let (op_text, view_text) = (op.str()?, view_id.str()?);
        let texts =
            (Text::of(&op_text)?.as_bytes().into(), Text::of(&view_text)?.as_bytes().into());
        let row = [op, view_id];
        let (op, view_id) = (op_text.unbind(), view_text.unbind());
        // What isn't needed is dropped here, with nothing held.
        let (_forgotten, _unused) = self.0.with(|lines| {
            let next = lines.figures.len();
            let line = *lines.index.entry(texts).or_insert(next);
            let unused = match line == next {
                false => Some((op, view_id)),
                true => {
                    lines.figures.push(Line { op, view_id, figures: CallFigures::default() });
                    None
                }
            };
            change(&mut lines.figures[line].figures);
            (lines.known.keep(row, line), unused)
        });
        Ok(())
    }

    /// Adds every line of `other`, or takes it away.
    ///
    /// # Errors
    /// None but that of memory.
    pub(super) fn combine(
        &self,
        py: Python<'_>,
        other: &Self,
        combine: impl Fn(&mut CallFigures, &CallFigures),
    ) -> PyResult<()> {
        other.lines(py).iter().try_for_each(|(op, view_id, figures)| {
            let (op, view_id) = (op.bind(py).as_any(), view_id.bind(py).as_any());
            self.change(op, view_id, |mine| combine(mine, figures))
        })
    }

    /// All lines.
    pub(super) fn lines(&self, py: Python<'_>) -> Vec<Named> {
        self.0.with(|lines| {
            let line =
                |line: &Line| (line.op.clone_ref(py), line.view_id.clone_ref(py), line.figures);
            lines.figures.iter().map(line).collect()
        })
    }

    /// The sum of all lines.
    pub(super) fn total(&self) -> CallFigures {
        self.0.with(|lines| {
            let mut total = CallFigures::default();
            lines.figures.iter().for_each(|line| total.add(&line.figures));
            total
        })
    }
}
