//! By which settings a worker goes: its own, live ones in their places, and the number of calls at once that follows
//! what the provider takes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::Instant;

use super::InForce;
use super::concurrency::Concurrency;
use crate::config::live::LiveQueue;
use crate::config::sections::QueueSettings;
use crate::domain::gradient::{Gradient, Reason, Sample};
use crate::domain::intake::Intake;

pub(super) struct Steering {
    /// This process's own.
    queue: QueueSettings,
    worthwhile_inputs: usize,
    /// Whether the number may change by itself at all.
    remote: bool,
    pub concurrency: Concurrency,
    in_force: watch::Sender<InForce>,
    state: Mutex<State>,
    began: Instant,
}

struct State {
    /// The own settings under the live ones.
    queue: QueueSettings,
    intake: Intake,
    gradient: Option<Gradient>,
    reason: Reason,
    changed_at: DateTime<Utc>,
}

/// How many calls at once there are, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConcurrencyView {
    pub min: usize,
    pub max: usize,
    pub reason: Reason,
    pub changed_at: DateTime<Utc>,
}

impl Steering {
    pub(super) fn new(queue: &QueueSettings, worthwhile_inputs: usize, remote: bool) -> Self {
        let gradient = gradient(queue, remote);
        let in_force = InForce::new(queue, calls(queue, gradient.as_ref()), worthwhile_inputs, Intake::ALL);
        let state = State {
            queue: queue.clone(),
            intake: Intake::ALL,
            gradient,
            reason: Reason::Set,
            changed_at: Utc::now(),
        };
        Self {
            queue: queue.clone(),
            worthwhile_inputs,
            remote,
            concurrency: Concurrency::new(in_force.max_concurrent),
            in_force: watch::Sender::new(in_force),
            state: Mutex::new(state),
            began: Instant::now(),
        }
    }

    pub(super) fn in_force(&self) -> InForce {
        *self.in_force.borrow()
    }

    pub(super) fn changes(&self) -> watch::Receiver<InForce> {
        self.in_force.subscribe()
    }

    /// Goes by these values from now on; another number of calls is where the search for the right one begins anew.
    pub(super) fn follow(&self, live: LiveQueue, intake: Intake) {
        let queue = self.queue.under(live);
        let mut state = self.state();
        if queue.max_concurrent != state.queue.max_concurrent {
            state.gradient = gradient(&queue, self.remote);
            (state.reason, state.changed_at) = (Reason::Set, Utc::now());
        }
        (state.queue, state.intake) = (queue, intake);
        if let Some(InForce { max_concurrent, batch_size, prefetch, intake }) = self.apply(&state) {
            tracing::info!(max_concurrent, batch_size, prefetch, ?intake, "the live settings have changed");
        }
    }

    /// Learns from a call.
    pub(super) fn learn(&self, sample: Sample) {
        let mut state = self.state();
        let now = self.began.elapsed();
        let Some(gradient) = state.gradient.as_mut() else { return };
        if !gradient.sample(now, sample) {
            return;
        }
        let reason = gradient.reason();
        (state.reason, state.changed_at) = (reason, Utc::now());
        if let Some(InForce { max_concurrent, prefetch, .. }) = self.apply(&state) {
            tracing::debug!(max_concurrent, prefetch, reason = reason.as_str(), "other calls at once");
        }
    }

    pub(super) fn view(&self) -> ConcurrencyView {
        let state = self.state();
        let fixed = state.queue.max_concurrent;
        let (min, max) = state.gradient.as_ref().and(state.queue.adapts()).unwrap_or((fixed, fixed));
        ConcurrencyView { min, max, reason: state.reason, changed_at: state.changed_at }
    }

    /// Under the lock of the state, so that two changes can't overtake each other.
    fn apply(&self, state: &State) -> Option<InForce> {
        let calls = calls(&state.queue, state.gradient.as_ref());
        let next = InForce::new(&state.queue, calls, self.worthwhile_inputs, state.intake);
        if next == self.in_force() {
            return None;
        }
        // Before it is told, so that what is begun anew finds the new limit.
        self.concurrency.resize(next.max_concurrent);
        self.in_force.send_replace(next);
        Some(next)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gradient(queue: &QueueSettings, remote: bool) -> Option<Gradient> {
    let (min, max) = queue.adapts().filter(|_| remote)?;
    Some(Gradient::new(queue.max_concurrent, min, max))
}

fn calls(queue: &QueueSettings, gradient: Option<&Gradient>) -> usize {
    gradient.map_or(queue.max_concurrent, Gradient::limit)
}
