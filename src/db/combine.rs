//! Calls that come while another is under way are made together, as one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, oneshot};

/// Items of one caller with the way to answer it.
struct Waiting<I, R> {
    ticket: u64,
    items: Vec<I>,
    reply: oneshot::Sender<Vec<R>>,
}

/// Gathers items `I`; a call answers one `R` about each.
pub(super) struct Combiner<I, R> {
    waiting: Mutex<Vec<Waiting<I, R>>>,
    tickets: AtomicU64,
    /// One for each call under way.
    turns: Semaphore,
}

impl<I, R> Combiner<I, R> {
    /// So many calls are made at once.
    pub(super) fn new(at_once: usize) -> Self {
        Self { waiting: Mutex::default(), tickets: AtomicU64::new(0), turns: Semaphore::new(at_once) }
    }

    /// The answers about `items`, in order. Whoever gets a turn makes one `call` for all that waits by then.
    /// `Ok(None)` when a call that another one made for these items failed or was given up: call again.
    pub(super) async fn call<E>(
        &self,
        items: Vec<I>,
        call: impl AsyncFnOnce(Vec<I>) -> Result<Vec<R>, E>,
    ) -> Result<Option<Vec<R>>, E> {
        let (reply, mut answer) = oneshot::channel();
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        self.lock().push(Waiting { ticket, items, reply });
        let turn = tokio::select! {
            biased;
            answers = &mut answer => return Ok(answers.ok()),
            turn = self.turns.acquire() => turn,
        };
        let waiting = std::mem::take(&mut *self.lock());
        let mine = waiting.iter().any(|waiting| waiting.ticket == ticket);
        if !waiting.is_empty() {
            let outcome = call_for(waiting, call).await;
            // Another's call may be about these items; then this failure is told to whom it concerns.
            outcome.or_else(|error| if mine { Err(error) } else { Ok(()) })?;
        }
        drop(turn);
        Ok(answer.await.ok())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiting<I, R>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call for all of them; they are answered, or told by a closed channel that it failed.
async fn call_for<I, R, E>(
    waiting: Vec<Waiting<I, R>>,
    call: impl AsyncFnOnce(Vec<I>) -> Result<Vec<R>, E>,
) -> Result<(), E> {
    let (mut all, mut replies) = (Vec::new(), Vec::with_capacity(waiting.len()));
    for Waiting { items, reply, .. } in waiting {
        replies.push((items.len(), reply));
        all.extend(items);
    }
    let mut answers = call(all).await?.into_iter();
    for (count, reply) in replies {
        // A caller that went away doesn't want to know.
        let _ = reply.send(answers.by_ref().take(count).collect());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn what_waits_is_called_together_and_answered_apart() {
        let combiner = Arc::new(Combiner::<u32, u32>::new(1));
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
        let combiner = Combiner::<u32, u32>::new(1);
        assert_eq!(combiner.call(vec![1], async |_| Err::<Vec<u32>, _>("broken")).await, Err("broken"));
        assert_eq!(combiner.call(vec![2], async |items| Ok::<_, ()>(items)).await, Ok(Some(vec![2])));
    }

    #[tokio::test]
    async fn what_another_call_is_about_is_not_called_twice() {
        let combiner = Arc::new(Combiner::<u32, u32>::new(2));
        let calls = Arc::new(AtomicUsize::new(0));
        let release = Arc::new(Notify::new());
        let tasks = (0..8u32).map(|n| {
            let (combiner, calls, release) = (combiner.clone(), calls.clone(), release.clone());
            tokio::spawn(async move {
                let call = async |items: Vec<u32>| {
                    calls.fetch_add(items.len(), Ordering::Relaxed);
                    release.notified().await;
                    Ok::<_, ()>(items)
                };
                combiner.call(vec![n], call).await
            })
        });
        let tasks: Vec<_> = tasks.collect();
        for _ in 0..100 {
            release.notify_waiters();
            tokio::task::yield_now().await;
        }
        for (n, task) in (0..8u32).zip(tasks) {
            assert_eq!(task.await.unwrap(), Ok(Some(vec![n])));
        }
        assert_eq!(calls.load(Ordering::Relaxed), 8, "each item once");
    }
}
