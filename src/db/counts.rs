//! The counts of the status, cheap however long the queue is.
//!
//! Counting 200,000 tasks takes PostgreSQL a tenth of a second, more than an answer may take and more than a
//! search may wait. So while there is much to count, a count is made in the background, at most a tenth of
//! the time, and those who ask get the last one. While there is little, everybody gets a count of their own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::stats::QueueCounts;
use super::{Db, DbError};

/// From so many rows on, counts are shared.
const MANY: u64 = 50_000;
/// How long a shared count is good, at least; one that takes long is good for twenty times as long.
const LIFETIME: Duration = Duration::from_secs(2);
/// Counting goes on for so long after somebody last asked.
const INTEREST: Duration = Duration::from_secs(60);
/// How often to look whether a count is due.
const LOOK: Duration = Duration::from_millis(250);

/// What the status tells of the ledger and the rows, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    pub queue: QueueCounts,
    /// Recommendations in all.
    pub recommendations: u64,
    /// Those that have no vector of their text yet.
    pub unembedded: u64,
}

#[derive(Clone, Debug)]
struct Counted {
    counts: Counts,
    at: Instant,
    cost: Duration,
}

impl Counted {
    fn is_shared(&self) -> bool {
        self.counts.recommendations + self.counts.unembedded >= MANY
    }

    fn lifetime(&self) -> Duration {
        LIFETIME.max(self.cost * 20)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counter {
    last: Mutex<Option<Arc<Counted>>>,
    asked: Mutex<Option<Instant>>,
    /// Held by the one who counts for all.
    turn: tokio::sync::Mutex<()>,
}

impl Counter {
    /// The last count, if it is one to share and was made within `age` or its own lifetime.
    fn shared(&self, age: Duration) -> Option<Arc<Counted>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        (last.is_shared() && last.at.elapsed() <= age.max(last.lifetime())).then_some(last)
    }

    fn note(&self, counted: Counted) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(counted));
    }

    fn note_asked(&self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Somebody still asks, and the last count is half through its life.
    fn is_due(&self) -> bool {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let interested = asked.is_some_and(|at| at.elapsed() < INTEREST);
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        interested && last.is_some_and(|last| last.is_shared() && last.at.elapsed() * 2 > last.lifetime())
    }
}

impl Db {
    /// The counts of now; where there is much to count, of some seconds ago.
    pub async fn counts(&self) -> Result<Counts, DbError> {
        self.counter.note_asked();
        if let Some(counted) = self.counter.shared(Duration::ZERO) {
            return Ok(counted.counts.clone());
        }
        self.count().await
    }

    /// Embeddings still being made: a search can't find them by meaning yet, or only by an older text. Where
    /// there is much to count, of up to a minute ago.
    pub async fn pending_embeddings(&self) -> Result<u64, DbError> {
        if let Some(counted) = self.counter.shared(INTEREST) {
            self.counter.note_asked();
            return Ok(counted.counts.queue.unfinished());
        }
        let pending = self.count_pending().await?;
        if pending >= MANY {
            // The next search needn't count.
            self.counts().await?;
        }
        Ok(pending)
    }

    /// Keeps the shared count fresh until `shutdown`.
    pub async fn keep_counted(&self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            if self.counter.is_due()
                && let Err(error) = self.count().await
            {
                tracing::debug!(%error, "counting failed");
            }
            let _ = tokio::time::timeout(LOOK, shutdown.cancelled()).await;
        }
    }

    async fn count(&self) -> Result<Counts, DbError> {
        let many = self.counter.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let asked = Instant::now();
        // One at a time where it is expensive; whoever waited for it takes what was begun after they asked.
        let _turn = match many.is_some_and(|last| last.is_shared()) {
            true => Some(self.counter.turn.lock().await),
            false => None,
        };
        if let Some(counted) = self.counter.shared(Duration::ZERO).filter(|counted| counted.at >= asked) {
            return Ok(counted.counts.clone());
        }
        let at = Instant::now();
        let (queue, rows, open) =
            tokio::join!(self.queue_counts(), self.count_recommendations(), self.count_unembedded());
        let counts = Counts { queue: queue?, recommendations: rows?, unembedded: open? };
        self.counter.note(Counted { counts: counts.clone(), at, cost: at.elapsed() });
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(rows: u64, ago: Duration, cost: Duration) -> Counted {
        let counts = Counts { recommendations: rows, ..Counts::default() };
        Counted { counts, at: Instant::now() - ago, cost }
    }

    #[test]
    fn a_small_count_is_never_shared_and_a_large_one_for_its_lifetime() {
        let (counter, second) = (Counter::default(), Duration::from_secs(1));
        let shared = |rows, ago, cost, age| {
            counter.note(counted(rows, ago, cost));
            counter.shared(age).is_some()
        };
        assert!(!shared(MANY - 1, Duration::ZERO, Duration::ZERO, INTEREST));
        assert!(shared(MANY, second, Duration::ZERO, Duration::ZERO));
        assert!(!shared(MANY, 3 * second, Duration::ZERO, Duration::ZERO));
        assert!(shared(MANY, 3 * second, Duration::ZERO, INTEREST));
        // One that took half a second is good for ten.
        assert!(shared(MANY, 9 * second, second / 2, Duration::ZERO));
        assert!(!shared(MANY, 11 * second, second / 2, Duration::ZERO));
    }

    #[test]
    fn a_count_is_made_again_while_somebody_asks() {
        let counter = Counter::default();
        counter.note(counted(MANY, Duration::from_millis(1_500), Duration::ZERO));
        assert!(!counter.is_due(), "nobody has asked");
        counter.note_asked();
        assert!(counter.is_due());
        counter.note(counted(MANY, Duration::from_millis(500), Duration::ZERO));
        assert!(!counter.is_due(), "it is fresh");
        counter.note(counted(MANY - 1, Duration::from_secs(9), Duration::ZERO));
        assert!(!counter.is_due(), "it isn't shared");
    }
}
