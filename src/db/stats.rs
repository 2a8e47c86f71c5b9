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
    pub dead: u64,
    /// When the longest waiting open task was enqueued.
    pub oldest: Option<DateTime<Utc>>,
}

#[derive(FromQueryResult)]
struct CountRow {
    state: String,
    priority: i16,
    again: bool,
    tasks: i64,
    oldest: Option<DateTime<Utc>>,
}

impl Db {
    pub async fn queue_counts(&self) -> Result<QueueCounts, DbError> {
        // As `TaskState::status` has it for one task.
        let select = "SELECT state, priority, attempts > 0 AND not_before > $1 AS again, count(*) AS tasks, \
                      min(enqueued_at) AS oldest FROM embedding_tasks GROUP BY 1, 2, 3";
        let mut counts = QueueCounts::default();
        for row in sql::all::<CountRow>(self.read(), select, [sql::now().into()]).await? {
            let tasks = row.tasks.max(0) as u64;
            match TaskState::parse(&row.state) {
                Some(TaskState::Dead) => counts.dead += tasks,
                Some(TaskState::Pending | TaskState::Retrying) if row.again => counts.retrying += tasks,
                _ => {
                    counts.open[Priority::from_rank(row.priority) as usize] += tasks;
                    counts.oldest = [counts.oldest, row.oldest].into_iter().flatten().min();
                }
            }
        }
        Ok(counts)
    }

    /// Recommendations in all, and those that still have no vector of their text.
    pub async fn coverage(&self) -> Result<(u64, u64), DbError> {
        let all: Option<i64> =
            sql::scalar(self.read(), "SELECT count(*) FROM recommendations WHERE deleted_at IS NULL", []).await?;
        let open = "SELECT count(*) FROM embedding_tasks WHERE target = 'current'";
        let open: Option<i64> = sql::scalar(self.read(), open, []).await?;
        Ok((all.unwrap_or(0).max(0) as u64, open.unwrap_or(0).max(0) as u64))
    }

    /// Tasks that a search can't find by meaning yet, or only by an older text.
    pub async fn pending_embeddings(&self) -> Result<u64, DbError> {
        let select = "SELECT count(*) FROM embedding_tasks WHERE state <> 'dead'";
        Ok(sql::scalar::<i64>(self.read(), select, []).await?.unwrap_or(0).max(0) as u64)
    }
}
