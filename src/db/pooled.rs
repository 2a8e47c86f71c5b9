//! Writing to PostgreSQL: a transaction each, side by side.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use sea_orm::{DatabaseConnection, TransactionTrait};
use tokio::sync::Notify;

use super::tx::{Effects, Tx, Work};
use super::{DbError, error};

/// A transaction that lost a deadlock or a race is run again this often.
const RETRIES: usize = 6;
/// Attempts that may fail at a unique or foreign key.
const CLASHES: usize = 4;
/// The longest pause before it is.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// The races that a piece of work has lost so far.
pub(super) struct Races {
    pauses: ExponentialBackoff,
    lost: usize,
}

impl Default for Races {
    fn default() -> Self {
        let pauses = ExponentialBuilder::default().with_min_delay(Duration::from_millis(5));
        let pauses = pauses.with_max_delay(MAX_PAUSE).with_max_times(RETRIES).with_jitter().build();
        Self { pauses, lost: 0 }
    }
}

impl Races {
    /// Waits a moment when the work should be done again, as it only lost a race.
    ///
    /// # Errors
    /// Everything else, and the race that was one too many.
    pub(super) async fn again(&mut self, error: DbError) -> Result<(), DbError> {
        let (reason, rule) = match error {
            DbError::Conflict(reason) => (reason, false),
            DbError::Clash(reason) => (reason, true),
            other => return Err(other),
        };
        self.lost += 1;
        // A key that is in the way again and again is the tables' rule and no race.
        let pause = self.pauses.next().filter(|_| !rule || self.lost < CLASHES);
        let Some(pause) = pause else {
            return Err(if rule { DbError::Clash(reason) } else { DbError::Unavailable(reason) });
        };
        tracing::debug!(reason, "a transaction lost a race and is run again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// The pool of connections as a writer.
#[derive(Clone)]
pub(super) struct Pooled {
    conn: DatabaseConnection,
    enqueued: Arc<Notify>,
}

impl Pooled {
    pub(super) fn new(conn: DatabaseConnection, enqueued: Arc<Notify>) -> Self {
        Self { conn, enqueued }
    }

    pub(super) fn conn(&self) -> &DatabaseConnection {
        &self.conn
    }

    /// There are new tasks: wakes the relay of this process.
    pub(super) fn wake_relay(&self) {
        // A permit is kept when nobody waits just now.
        self.enqueued.notify_one();
    }

    /// In a task of its own: a caller that goes away can't leave a commit behind whose outcome nobody
    /// knows, and a panic ends this piece of work alone.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, DbError> {
        let this = self.clone();
        let settled = tokio::spawn(async move {
            let mut races = Races::default();
            loop {
                match this.attempt(&work).await {
                    Err(error) => races.again(error).await?,
                    done => return done,
                }
            }
        });
        settled.await.unwrap_or_else(|end| Err(DbError::Failed(error::ended(end))))
    }

    async fn attempt<T: Send + 'static>(&self, work: &impl Work<T>) -> Result<T, DbError> {
        let conn = self.conn.begin().await?;
        let tx = Tx::new(&conn);
        let outcome = work(&tx).await;
        let Effects { enqueued, .. } = tx.into_effects();
        match outcome {
            Ok(value) => {
                conn.commit().await?;
                if enqueued {
                    self.wake_relay();
                }
                Ok(value)
            }
            Err(error) => {
                // The server does it by itself when the connection is gone.
                let _ = conn.rollback().await;
                Err(error)
            }
        }
    }
}
