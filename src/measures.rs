//! What this process measures as it goes: distributions, kept since its start. Whoever adds up several processes
//! does it by their buckets.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::traces::Traces;

/// Seconds, from a millisecond to ten minutes: waits, calls and statements.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 3_600.0,
];
/// Texts in a call.
const TEXTS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_048.0];
/// A sum is kept in whole millionths.
const MILLION: f64 = 1e6;

/// A distribution in fixed buckets.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One a bound, and one for what is beyond the last.
    counts: Box<[AtomicU64]>,
    millionths: AtomicU64,
}

/// What a histogram held at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Each bound with how many were at most that; without the infinite one.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum: f64,
}

impl Histogram {
    fn of(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, millionths: AtomicU64::new(0) }
    }

    fn seconds() -> Self {
        Self::of(SECONDS)
    }

    /// One more, of a time.
    pub fn took(&self, took: Duration) {
        self.observe(took.as_secs_f64());
    }

    /// One more. What is no number, or negative, counts as 0.
    pub fn observe(&self, value: f64) {
        let value = value.max(0.0);
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.millionths.fetch_add((value * MILLION) as u64, Ordering::Relaxed);
    }

    /// The count is that of the buckets, whatever is added meanwhile.
    pub fn snapshot(&self) -> Snapshot {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(self.bounds.len());
        for (n, of) in self.counts.iter().enumerate() {
            count += of.load(Ordering::Relaxed);
            buckets.extend(self.bounds.get(n).map(|bound| (*bound, count)));
        }
        Snapshot { buckets, count, sum: self.millionths.load(Ordering::Relaxed) as f64 / MILLION }
    }
}

/// How a call to the provider ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    Answered,
    /// It refused a text.
    Rejected,
    /// It asked to wait.
    Refused,
    Failed,
}

impl CallOutcome {
    pub const ALL: [Self; 4] = [Self::Answered, Self::Rejected, Self::Refused, Self::Failed];

    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Rejected => "rejected",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// A kind of request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKind {
    pub method: String,
    /// As it is declared: `/api/recommendations/{id}`.
    pub route: String,
    pub status: u16,
}

/// Everything that is measured.
#[derive(Debug)]
pub struct Measures {
    /// From the moment a task was enqueued until a worker took it up for the first time, by lane.
    pub queue_wait: [Histogram; 3],
    /// Calls to the provider, by [`CallOutcome`].
    pub provider_call: [Histogram; 4],
    /// Texts in a call that brings documents.
    pub call_texts: Histogram,
    /// A batch's vectors, until they are committed.
    pub write_back: Histogram,
    /// From the moment a task was enqueued until its vector was stored; without regenerations.
    pub save_to_ready: Histogram,
    /// A batch handed to the broker, until its last confirm.
    pub publish: Histogram,
    requests: Mutex<BTreeMap<RequestKind, Arc<Histogram>>>,
    /// And what is told of single tasks.
    pub traces: Traces,
}

impl Default for Measures {
    fn default() -> Self {
        Self::new(Traces::default())
    }
}

impl Measures {
    pub fn new(traces: Traces) -> Self {
        Self {
            queue_wait: std::array::from_fn(|_| Histogram::seconds()),
            provider_call: std::array::from_fn(|_| Histogram::seconds()),
            call_texts: Histogram::of(TEXTS),
            write_back: Histogram::seconds(),
            save_to_ready: Histogram::seconds(),
            publish: Histogram::seconds(),
            requests: Mutex::default(),
            traces,
        }
    }

    /// One more request. There are as many kinds as routes and statuses: a path that is none comes as one route.
    pub fn request(&self, kind: RequestKind, took: Duration) {
        let histogram = {
            let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
            requests.entry(kind).or_insert_with(|| Arc::new(Histogram::seconds())).clone()
        };
        histogram.took(took);
    }

    pub fn requests(&self) -> Vec<(RequestKind, Snapshot)> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().map(|(kind, histogram)| (kind.clone(), histogram.snapshot())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_for_its_bound_and_for_all_above_it() {
        let histogram = Histogram::of(&[1.0, 2.0, 5.0]);
        for value in [0.5, 1.0, 1.5, 5.0, 7.0, -3.0, f64::NAN] {
            histogram.observe(value);
        }
        let Snapshot { buckets, count, sum } = histogram.snapshot();
        assert_eq!((buckets, count), (vec![(1.0, 4), (2.0, 5), (5.0, 6)], 7));
        assert!((sum - 15.0).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn bounds_rise() {
        for bounds in [SECONDS, TEXTS] {
            assert!(bounds.is_sorted_by(|a, b| a < b), "{bounds:?}");
        }
    }
}
