//! What a worker has done: counters that the heartbeat reads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::Delivery;

/// The span over which the rate is taken.
const RATE_SPAN: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Tally {
    in_flight: AtomicI64,
    ready: AtomicU64,
    failed: AtomicU64,
    provider_error: Mutex<Option<String>>,
    /// Moments and counts of what became ready lately.
    recent: Mutex<VecDeque<(Instant, u64)>>,
}

/// Deliveries counted as in flight for as long as this lives, a panic included.
pub(super) struct InFlight<'t> {
    tally: &'t Tally,
    deliveries: i64,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.tally.in_flight.fetch_sub(self.deliveries, Ordering::Relaxed);
    }
}

impl Tally {
    /// Deliveries that are worked on; not those that a broker has sent ahead.
    pub fn in_flight(&self) -> i64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Embeddings made since the start.
    pub fn ready(&self) -> u64 {
        self.ready.load(Ordering::Relaxed)
    }

    /// Tasks given up since the start.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Why the provider can't be used at the moment.
    pub fn provider_error(&self) -> Option<String> {
        lock(&self.provider_error).clone()
    }

    /// Embeddings a second over the last ten.
    pub fn ready_per_second(&self) -> f64 {
        let mut recent = lock(&self.recent);
        prune(&mut recent);
        recent.iter().map(|(_, count)| *count).sum::<u64>() as f64 / RATE_SPAN.as_secs_f64()
    }

    pub(super) fn hold(&self, batch: &[Delivery]) -> InFlight<'_> {
        let deliveries = batch.len() as i64;
        self.in_flight.fetch_add(deliveries, Ordering::Relaxed);
        InFlight { tally: self, deliveries }
    }

    pub(super) fn note_ready(&self, count: usize) {
        self.ready.fetch_add(count as u64, Ordering::Relaxed);
        let mut recent = lock(&self.recent);
        prune(&mut recent);
        recent.push_back((Instant::now(), count as u64));
    }

    pub(super) fn note_failed(&self, count: usize) {
        self.failed.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Sets or clears the provider's trouble; returns what it was before.
    pub(super) fn set_provider_error(&self, error: Option<String>) -> Option<String> {
        std::mem::replace(&mut *lock(&self.provider_error), error)
    }
}

fn prune(recent: &mut VecDeque<(Instant, u64)>) {
    while recent.front().is_some_and(|(at, _)| at.elapsed() > RATE_SPAN) {
        recent.pop_front();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
