//! Counts over the ledger.

use chrono::{DateTime, Utc};
use sea_orm::FromQueryResult;

use super::{Db, DbError, sql};
use crate::domain::priority::Priority;
use crate::domain::status::TaskState;

/// How many tasks are in each state, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueCounts {
    /// Waiting for a relay, a broker or a worker, or in a worker's hands, by [`Priority::rank`].
    pub open: [u64; 3],
    /// Failed before and waiting for the next attempt.
    pub retrying: u64,
    /// The same by failed attempts.
    pub rungs: Vec<Rung>,
    pub dead: u64,
    /// When the longest waiting open task was enqueued.
    pub oldest: Option<DateTime<Utc>>,
    /// The same by lane.
    pub oldest_of: [Option<DateTime<Utc>>; 3],
}

/// Tasks that have failed equally often and wait for the next attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Rung {
    pub attempts: i32,
    pub tasks: u64,
    /// When the first of them is due.
    pub next: Option<DateTime<Utc>>,
}

#[derive(FromQueryResult)]
struct CountRow {
    state: String,
    priority: i16,
    /// Failed attempts of those that wait for another, else 0.
    again: i32,
    discarded: bool,
    tasks: i64,
    oldest: Option<DateTime<Utc>>,
    next: Option<DateTime<Utc>>,
}

impl Db {
    pub async fn queue_counts(&self) -> Result<QueueCounts, DbError> {
        // As `TaskState::status` has it for one task.
        let select = "SELECT state, priority, CASE WHEN not_before > $1 THEN attempts ELSE 0 END AS again, \
                      discarded_at IS NOT NULL AS discarded, count(*) AS tasks, min(enqueued_at) AS oldest, \
                      min(not_before) AS next FROM embedding_tasks GROUP BY 1, 2, 3, 4";
        let mut counts = QueueCounts::default();
        for row in sql::all::<CountRow>(self.read(), select, [sql::now().into()]).await? {
            let tasks = row.tasks.max(0) as u64;
            match TaskState::parse(&row.state) {
                // Nobody is to do anything about those.
                Some(TaskState::Dead) if row.discarded => {}
                Some(TaskState::Dead) => counts.dead += tasks,
                Some(TaskState::Pending | TaskState::Retrying) if row.again > 0 => counts.retry(&row, tasks),
                _ => {
                    let lane = Priority::from_rank(row.priority) as usize;
                    counts.open[lane] += tasks;
                    for oldest in [&mut counts.oldest, &mut counts.oldest_of[lane]] {
                        *oldest = [*oldest, row.oldest].into_iter().flatten().min();
                    }
                }
            }
        }
        Ok(counts)
    }

    pub(super) async fn count_recommendations(&self) -> Result<u64, DbError> {
        self.number("SELECT count(*) FROM recommendations WHERE deleted_at IS NULL").await
    }

    /// Recommendations without a vector of their text.
    pub(super) async fn count_unembedded(&self) -> Result<u64, DbError> {
        self.number("SELECT count(*) FROM embedding_tasks WHERE target = 'current'").await
    }

    /// Tasks that are neither finished nor given up.
    pub(super) async fn count_pending(&self) -> Result<u64, DbError> {
        self.number("SELECT count(*) FROM embedding_tasks WHERE state <> 'dead'").await
    }

    async fn number(&self, select: &str) -> Result<u64, DbError> {
        Ok(sql::scalar::<i64>(self.read(), select, []).await?.unwrap_or(0).max(0) as u64)
    }
}

impl QueueCounts {
    fn retry(&mut self, row: &CountRow, tasks: u64) {
        self.retrying += tasks;
        match self.rungs.iter_mut().find(|rung| rung.attempts == row.again) {
            Some(rung) => {
                rung.tasks += tasks;
                rung.next = [rung.next, row.next].into_iter().flatten().min();
            }
            None => self.rungs.push(Rung { attempts: row.again, tasks, next: row.next }),
        }
        self.rungs.sort_by_key(|rung| rung.attempts);
    }

    /// Tasks that are neither finished nor given up.
    pub fn unfinished(&self) -> u64 {
        self.open.iter().sum::<u64>() + self.retrying
    }
}
