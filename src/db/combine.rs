//! Calls that come while another is under way are made together, as one.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Items of one caller with the way to answer it.
struct Waiting<I, R> {
    items: Vec<I>,
    reply: oneshot::Sender<Vec<R>>,
}

/// Gathers items `I`; a call answers one `R` about each.
pub(super) struct Combiner<I, R> {
    waiting: Mutex<Vec<Waiting<I, R>>>,
    /// Held by the caller that calls for all.
    turn: tokio::sync::Mutex<()>,
}

impl<I, R> Default for Combiner<I, R> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }
}

impl<I, R> Combiner<I, R> {
    /// The answers about `items`, in order. Whoever gets the turn makes one `call` for all that waits by
    /// then. `Ok(None)` when a call that another one made for these items failed or was given up: call again.
    pub(super) async fn call<E>(
        &self,
        items: Vec<I>,
        call: impl AsyncFnOnce(Vec<I>) -> Result<Vec<R>, E>,
    ) -> Result<Option<Vec<R>>, E> {
        let (reply, mut answer) = oneshot::channel();
        self.lock().push(Waiting { items, reply });
        let turn = self.turn.lock().await;
        match answer.try_recv() {
            Ok(answers) => return Ok(Some(answers)),
            Err(oneshot::error::TryRecvError::Closed) => return Ok(None),
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
        let waiting = std::mem::take(&mut *self.lock());
        let (mut all, mut replies) = (Vec::new(), Vec::with_capacity(waiting.len()));
        for Waiting { items, reply } in waiting {
            replies.push((items.len(), reply));
            all.extend(items);
        }
        let mut answers = call(all).await?.into_iter();
        for (count, reply) in replies {
            // A caller that went away doesn't want to know.
            let _ = reply.send(answers.by_ref().take(count).collect());
        }
        drop(turn);
        Ok(answer.try_recv().ok())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiting<I, R>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn what_waits_is_called_together_and_answered_apart() {
        let combiner = Arc::new(Combiner::<u32, u32>::default());
        let calls = Arc::new(AtomicUsize::new(0));
        let (started, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let first = {
            let (combiner, started, release) = (combiner.clone(), started.clone(), release.clone());
            tokio::spawn(async move {
                let call = async |items: Vec<u32>| {
                    started.notify_one();
                    release.notified().await;
                    Ok::<_, ()>(items)
                };
                combiner.call(vec![1], call).await
            })
        };
        started.notified().await;
        let later = (2..6u32).map(|n| {
            let (combiner, calls) = (combiner.clone(), calls.clone());
            tokio::spawn(async move {
                let call = async |items: Vec<u32>| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, ()>(items.iter().map(|n| n * 10).collect())
                };
                combiner.call(vec![n, n + 100], call).await
            })
        });
        let later: Vec<_> = later.collect();
        while combiner.lock().len() < 4 {
            tokio::task::yield_now().await;
        }
        release.notify_one();
        assert_eq!(first.await.unwrap(), Ok(Some(vec![1])));
        for (n, task) in (2..6u32).zip(later) {
            assert_eq!(task.await.unwrap(), Ok(Some(vec![n * 10, (n + 100) * 10])));
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_failure_is_told_to_the_one_who_called() {
        let combiner = Combiner::<u32, u32>::default();
        assert_eq!(combiner.call(vec![1], async |_| Err::<Vec<u32>, _>("broken")).await, Err("broken"));
        assert_eq!(combiner.call(vec![2], async |items| Ok::<_, ()>(items)).await, Ok(Some(vec![2])));
    }
}
