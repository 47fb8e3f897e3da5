//! Single flight with Python objects: waiting with the interpreter released, and Ctrl-C working.

use super::key::{Query, SharedKey, Verdicts};
use crate::cache::flight::{Ended, Flight, Flights, Joined, Refused, Ticket};
use crate::cache::{Match, Undecided};
use crate::clock;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};
use std::sync::Arc;
use std::time::Duration;

/// A signal is seen after at most this long.
const SLICE: Duration = Duration::from_millis(50);

pub(super) type PyFlight = Arc<Flight<Py<PyAny>>>;
pub(super) type PyTicket<'f> = Ticket<'f, FlightKey, Py<PyAny>>;
pub(super) type PyJoined<'f> = Joined<'f, FlightKey, Py<PyAny>>;

/// A key, and the generation in which its computation begins: whoever comes after an invalidation
/// doesn't join a flight from before it.
#[derive(Clone)]
pub(super) struct FlightKey {
    key: SharedKey,
    generation: u32,
}

/// The flights of one instrumentation.
pub(super) struct PyFlights {
    flights: Flights<FlightKey, Py<PyAny>>,
    timeout: Duration,
}

/// What waiting for another thread's computation came to.
pub(super) enum Waited {
    /// Its value.
    Value { value: Py<PyAny>, wait_s: f64 },
    /// It failed: look again, and perhaps compute.
    Failed { wait_s: f64 },
    /// Waiting on would not end: compute as well.
    Alone { wait_s: f64 },
}

impl PyFlights {
    /// # Errors
    /// `ValueError` if `timeout_s` is not a positive number of seconds.
    pub(super) fn new(timeout_s: f64) -> PyResult<Self> {
        let timeout = Duration::try_from_secs_f64(timeout_s).ok().filter(|span| !span.is_zero());
        let timeout = timeout.ok_or_else(|| {
            PyValueError::new_err(format!(
                "flight_timeout must be positive seconds, got {timeout_s}"
            ))
        })?;
        Ok(Self { flights: Flights::default(), timeout })
    }

    /// How many flights have ended.
    #[inline]
    pub(super) fn ended(&self) -> u64 {
        self.flights.ended()
    }

    /// Joins the flight of `query`, or begins it for `key`.
    ///
    /// # Errors
    /// Those of `__eq__`.
    pub(super) fn join(
        &self,
        query: &Query<'_, '_>,
        key: &SharedKey,
        generation: u32,
    ) -> PyResult<PyJoined<'_>> {
        let mut verdicts = Verdicts::default();
        loop {
            let same = |id, stored: &FlightKey| match stored.generation == generation {
                true => verdicts.compare(id, query, &stored.key),
                false => Match::No,
            };
            let begin = || FlightKey { key: Arc::clone(key), generation };
            match self.flights.join(query.hash, same, begin) {
                Ok(joined) => return Ok(joined),
                Err(Undecided { id, key }) => {
                    Python::attach(|_| verdicts.ask(query, &Undecided { id, key: key.key }))?
                }
            }
        }
    }

    /// Waits for the end of a flight, with the interpreter released.
    ///
    /// # Errors
    /// `RuntimeError` if this thread computes the key itself; whatever a signal handler raises.
    pub(super) fn wait(&self, py: Python<'_>, flight: &PyFlight) -> PyResult<Waited> {
        let _edge = match self.flights.begin_wait(flight) {
            Ok(edge) => edge,
            Err(Refused::Cycle) => return Ok(Waited::Alone { wait_s: 0.0 }),
            Err(Refused::Own) => {
                return Err(PyRuntimeError::new_err(
                    "compute asked for the key that it computes: it would wait for itself",
                ));
            }
        };
        let began = clock::now();
        loop {
            let ended = py.detach(|| flight.wait(SLICE, |_| ()));
            let wait_s = began.elapsed_s();
            match ended {
                Ended::Failed => return Ok(Waited::Failed { wait_s }),
                Ended::Value(()) => {
                    let value = flight.wait(Duration::ZERO, |value| value.clone_ref(py));
                    if let Ended::Value(value) = value {
                        return Ok(Waited::Value { value, wait_s });
                    }
                }
                Ended::No => {
                    py.check_signals()?;
                    if wait_s > self.timeout.as_secs_f64() {
                        return Ok(Waited::Alone { wait_s });
                    }
                }
            }
        }
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.flights.try_for_each(|key| key.key.traverse(visit))
    }
}
