//! Events to miss ratios: reads what the core's curve needs from each event.

use crate::curve::{Amount, ByteLru, Distances, Keys};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use xxhash_rust::xxh3::Xxh3;

/// Counts uses of keys; with `byte_sizes` in caches of so many bytes, else by stack distance.
#[pyclass(name = "_Curve", module = "forwardcache._core")]
pub(super) struct Curve {
    keys: Keys,
    distances: Distances,
    simulated: Option<Vec<ByteLru>>,
    bytes: Vec<u64>,
    total: Amount,
    without_key: u64,
}

struct Use {
    key: u128,
    computed: Option<f64>,
    bytes: Option<u64>,
}

#[pymethods]
impl Curve {
    #[new]
    #[pyo3(signature = (byte_sizes=None))]
    fn new(byte_sizes: Option<Vec<u64>>) -> Self {
        Self {
            keys: Keys::default(),
            distances: Distances::default(),
            simulated: byte_sizes.map(|sizes| sizes.into_iter().map(ByteLru::new).collect()),
            bytes: Vec::new(),
            total: Amount::default(),
            without_key: 0,
        }
    }

    /// Counts events; those whose computation failed stored nothing and are left out.
    fn add(&mut self, events: &Bound<'_, PyList>) -> PyResult<()> {
        for event in events {
            if event.getattr(intern!(event.py(), "error"))?.is_none() {
                match use_of(&event)? {
                    Some(one) => self.touch(&one),
                    None => self.without_key += 1,
                }
            }
        }
        Ok(())
    }

    /// Uses and seconds of all of them.
    fn total(&self) -> (u64, f64) {
        (self.total.count, self.total.seconds)
    }

    /// Events that name no key.
    fn without_key(&self) -> u64 {
        self.without_key
    }

    /// Size in entries, and uses and seconds that hit from this size on and not below.
    fn gains(&self) -> Vec<(usize, u64, f64)> {
        let by_size = self.distances.hits().iter().enumerate();
        by_size
            .filter(|(_, hits)| hits.count > 0)
            .map(|(n, hits)| (n + 1, hits.count, hits.seconds))
            .collect()
    }

    /// Uses and seconds that missed, for each of the sizes in bytes.
    fn misses(&self) -> Vec<(u64, f64)> {
        let caches = self.simulated.iter().flatten();
        caches.map(|cache| (cache.misses().count, cache.misses().seconds)).collect()
    }
}

impl Curve {
    fn touch(&mut self, one: &Use) {
        let (key, seconds) = self.keys.meet(one.key, one.computed);
        self.total.count += 1;
        self.total.seconds += seconds;
        let Some(caches) = &mut self.simulated else {
            self.distances.touch(key, seconds);
            return;
        };
        let at = key as usize;
        if at >= self.bytes.len() {
            self.bytes.resize(at + 1, 0);
        }
        self.bytes[at] = one.bytes.unwrap_or(self.bytes[at]);
        for cache in caches {
            cache.touch(key, self.bytes[at], seconds);
        }
    }
}

fn use_of(event: &Bound<'_, PyAny>) -> PyResult<Option<Use>> {
    let py = event.py();
    let key = event.getattr(intern!(py, "key"))?;
    if key.is_none() {
        return Ok(None);
    }
    let run = event.getattr(intern!(py, "run"))?;
    let is_hit: bool = event.getattr(intern!(py, "hit"))?.extract()?;
    let wall_ms: f64 = event.getattr(intern!(py, "wall_ms"))?.extract()?;
    let bytes: Option<u64> = event.getattr(intern!(py, "bytes"))?.extract()?;
    let computed = (!is_hit && wall_ms.is_finite()).then_some(wall_ms / 1000.0);
    Ok(Some(Use { key: identity(&run, &key)?, computed, bytes }))
}

/// Run and key as one number: a digest is comparable within its run only.
fn identity(run: &Bound<'_, PyAny>, key: &Bound<'_, PyAny>) -> PyResult<u128> {
    let mut hasher = Xxh3::new();
    for text in [run, key] {
        if !text.is_none() {
            hasher.update(text.cast::<PyString>()?.to_str()?.as_bytes());
        }
        hasher.update(&[0]);
    }
    Ok(hasher.digest128())
}
