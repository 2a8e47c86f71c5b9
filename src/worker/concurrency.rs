//! How many calls run at once, which can change while they run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Clones share everything.
#[derive(Clone, Debug)]
pub(super) struct Concurrency {
    calls: Arc<Semaphore>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    /// Permits that were out when the limit fell: forgotten as they come back.
    owed: usize,
}

/// The right to one call, for as long as it lives.
#[derive(Debug)]
pub(super) struct Permit {
    of: Concurrency,
    permit: Option<OwnedSemaphorePermit>,
}

impl Concurrency {
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        Self { calls: Arc::new(Semaphore::new(limit)), state: Arc::new(Mutex::new(State { limit, owed: 0 })) }
    }

    /// Waits for its turn.
    pub async fn acquire(&self) -> Permit {
        loop {
            let Ok(permit) = self.calls.clone().acquire_owned().await else {
                // Nobody closes the semaphore.
                return std::future::pending().await;
            };
            // A waiter that was given a permit and then cancelled put it back without paying.
            if let Some(permit) = self.unless_owed(permit) {
                return Permit { of: self.clone(), permit: Some(permit) };
            }
        }
    }

    /// From now on at most `limit` calls start, at least one; those that run are finished.
    pub fn resize(&self, limit: usize) {
        let limit = limit.max(1);
        let mut state = self.state();
        if limit > state.limit {
            let more = limit - state.limit;
            let forgiven = more.min(state.owed);
            state.owed -= forgiven;
            self.calls.add_permits(more - forgiven);
        } else {
            let fewer = state.limit - limit;
            state.owed += fewer - self.calls.forget_permits(fewer);
        }
        state.limit = limit;
    }

    /// The permit, or nothing where one is owed: it is forgotten.
    fn unless_owed(&self, permit: OwnedSemaphorePermit) -> Option<OwnedSemaphorePermit> {
        let mut state = self.state();
        if state.owed == 0 {
            return Some(permit);
        }
        state.owed -= 1;
        permit.forget();
        None
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        drop(self.permit.take().and_then(|permit| self.of.unless_owed(permit)));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// As many permits as there are at the moment.
    fn all(concurrency: &Concurrency) -> Vec<Permit> {
        std::iter::from_fn(|| concurrency.acquire().now_or_never()).collect()
    }

    #[test]
    fn more_calls_start_at_once() {
        let concurrency = Concurrency::new(1);
        let one = all(&concurrency);
        concurrency.resize(4);
        let three = all(&concurrency);
        assert_eq!((one.len(), three.len()), (1, 3));
        drop((one, three));
        assert_eq!(all(&concurrency).len(), 4);
    }

    #[test]
    fn fewer_calls_start_and_those_that_run_are_finished() {
        let concurrency = Concurrency::new(4);
        let mut running = all(&concurrency);
        concurrency.resize(1);
        for left in [3, 2, 1] {
            running.pop();
            assert_eq!((running.len(), all(&concurrency).len()), (left, 0));
        }
        running.pop();
        assert_eq!(all(&concurrency).len(), 1);
    }

    #[test]
    fn idle_permits_go_first() {
        let concurrency = Concurrency::new(5);
        let running = concurrency.acquire().now_or_never();
        concurrency.resize(2);
        assert_eq!(all(&concurrency).len(), 1);
        drop(running);
        assert_eq!(all(&concurrency).len(), 2);
    }

    #[test]
    fn what_is_owed_is_forgiven_before_permits_are_added() {
        let concurrency = Concurrency::new(4);
        let mut running = all(&concurrency);
        concurrency.resize(1);
        concurrency.resize(3);
        running.pop();
        assert_eq!(all(&concurrency).len(), 0, "three still run");
        running.pop();
        assert_eq!(all(&concurrency).len(), 1);
        drop(running);
        assert_eq!(all(&concurrency).len(), 3);
    }

    #[test]
    fn there_is_always_one() {
        let concurrency = Concurrency::new(0);
        assert_eq!(all(&concurrency).len(), 1);
        concurrency.resize(0);
        assert_eq!(all(&concurrency).len(), 1);
    }

    #[test]
    fn a_waiter_that_is_cancelled_with_a_permit_in_its_hands_owes_it_all_the_same() {
        let concurrency = Concurrency::new(2);
        let mut running = all(&concurrency);
        let mut waiting = Box::pin(concurrency.acquire());
        assert!(waiting.as_mut().now_or_never().is_none());
        // Given to the waiter, which nobody polls any more.
        running.pop();
        concurrency.resize(1);
        drop(waiting);
        assert_eq!(all(&concurrency).len(), 0, "one still runs");
        running.pop();
        assert_eq!(all(&concurrency).len(), 1);
    }
}
