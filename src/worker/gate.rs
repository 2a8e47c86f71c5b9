//! Holds all calls back while the provider can't be used, so that its trouble spends no document's retries.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::embedder::guard::Guarded;

/// Pauses for trouble without a stated end: the first, doubled up to the last.
const FIRST_PROBE: Duration = Duration::from_secs(1);
const LAST_PROBE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    /// A provider under control knows more: it is closed while either is.
    guard: Option<Arc<Guarded>>,
}

#[derive(Debug, Default)]
struct State {
    closed_until: Option<Instant>,
    /// Pauses in a row without a success.
    probes: u32,
}

impl Gate {
    pub(super) fn new(guard: Option<Arc<Guarded>>) -> Self {
        Self { state: Mutex::default(), guard }
    }

    pub(super) fn is_guarded(&self) -> bool {
        self.guard.is_some()
    }

    /// Whether the provider itself is known to be away, rather than to have asked for a pause.
    pub(super) fn is_refused(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.refusal().is_some())
    }

    /// Waits until calls may be made.
    pub(super) async fn open(&self) {
        loop {
            if let Some(guard) = &self.guard {
                guard.available().await;
            }
            match self.with(|state| state.closed_until).filter(|until| *until > Instant::now()) {
                Some(until) => tokio::time::sleep_until(until).await,
                None => return,
            }
        }
    }

    /// How long it stays closed; `None` while calls may be made.
    pub(super) fn closed(&self) -> Option<Duration> {
        let until = self.with(|state| state.closed_until);
        let left =
            until.map(|until| until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero());
        let refused = self.guard.as_ref().and_then(|guard| guard.refusal()).map(|refusal| refusal.after);
        left.max(refused)
    }

    /// Closes the gate for at least `pause`.
    pub(super) fn close_for(&self, pause: Duration) {
        let until = Instant::now() + pause;
        self.with(|state| state.closed_until = state.closed_until.max(Some(until)));
    }

    /// Closes the gate for a pause that grows with each failure in a row; returns the pause.
    pub(super) fn close_to_probe(&self) -> Duration {
        let pause = self.with(|state| {
            // Calls that were under way together fail together: one step, not one each.
            if state.closed_until.is_none_or(|until| until <= Instant::now()) {
                state.probes += 1;
            }
            FIRST_PROBE.saturating_mul(1 << (state.probes.max(1) - 1).min(16)).min(LAST_PROBE)
        });
        self.close_for(pause);
        pause
    }

    /// A call went well.
    pub(super) fn succeeded(&self) {
        self.with(|state| state.probes = 0);
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_pause_counts() {
        let gate = Gate::default();
        gate.open().await;
        let start = Instant::now();
        gate.close_for(Duration::from_secs(5));
        gate.close_for(Duration::from_secs(2));
        assert_eq!(gate.closed(), Some(Duration::from_secs(5)));
        gate.open().await;
        assert_eq!(gate.closed(), None);
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn probes_grow_and_start_over_after_a_success() {
        let gate = Gate::default();
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(gate.close_to_probe().as_secs(), expected);
            gate.open().await;
        }
        gate.succeeded();
        assert_eq!(gate.close_to_probe().as_secs(), 1);
        assert_eq!(gate.close_to_probe().as_secs(), 1, "failures of one moment are one step");
    }
}
