//! The attempts that failed: written with the ledger's own account of the failure, at most one row an attempt that a
//! task may have. A task that succeeds leaves its rows behind, for [`Db::forget_attempts`] to find: on the way to
//! success nobody writes here.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, FromQueryResult, Value};

use super::{Db, DbError, Tx, sql};
use crate::domain::task::EmbedTask;

/// Recommendations whose attempts are looked at together.
const PAGE: i64 = 300;

/// How a failure is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// No attempt could have succeeded.
    Permanent,
    /// Another one might have.
    Transient,
    /// No worker could finish it, and the broker gave it up.
    Broker,
}

impl FailureClass {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Transient => "transient",
            Self::Broker => "broker",
        }
    }
}

/// One failed attempt, as it is told.
#[derive(Clone, Debug, PartialEq, FromQueryResult)]
pub struct Attempt {
    pub attempt: i32,
    pub at: DateTime<Utc>,
    pub error: String,
    /// As [`FailureClass::as_str`] has it.
    pub class: String,
    /// The process that made it; none for the broker's own verdict.
    pub worker: Option<String>,
    /// From the moment the batch was taken.
    pub duration_ms: Option<i64>,
}

/// One failed attempt, as it is written.
pub(super) struct NewAttempt {
    pub task: EmbedTask,
    pub attempt: i32,
    pub at: DateTime<Utc>,
    pub error: String,
    pub class: FailureClass,
    pub worker: Option<String>,
    pub duration_ms: Option<i64>,
}

/// Notes attempts; a task's first one takes the place of all before it.
pub(super) async fn note(tx: &Tx<'_>, attempts: Vec<NewAttempt>) -> Result<(), DbError> {
    // One row of a key in a statement; in everybody's order.
    let attempts: BTreeMap<_, _> = attempts
        .into_iter()
        .map(|new| ((new.task.recommendation_id, new.task.target.as_str(), new.attempt), new))
        .collect();
    if attempts.is_empty() {
        return Ok(());
    }
    let fresh: Vec<i64> = attempts
        .keys()
        .filter(|(.., attempt)| *attempt <= 1)
        .map(|(recommendation_id, ..)| *recommendation_id)
        .collect();
    forget(tx, &fresh).await?;
    let insert = format!(
        "INSERT INTO embedding_attempts (recommendation_id, target, attempt, content_version, at, error, class, worker, \
         duration_ms) VALUES {} ON CONFLICT (recommendation_id, target, attempt) DO UPDATE SET \
         content_version = excluded.content_version, at = excluded.at, error = excluded.error, \
         class = excluded.class, worker = excluded.worker, duration_ms = excluded.duration_ms",
        sql::tuples(attempts.len(), 9)
    );
    let values = attempts.into_values().flat_map(|new| -> [Value; 9] {
        [
            new.task.recommendation_id.into(),
            new.task.target.as_str().into(),
            new.attempt.into(),
            new.task.content_version.into(),
            new.at.into(),
            new.error.into(),
            new.class.as_str().into(),
            new.worker.into(),
            new.duration_ms.into(),
        ]
    });
    tx.conn().execute_raw(sql::bulk(tx.conn(), &insert, values.collect())).await?;
    Ok(())
}

/// A task begins afresh.
pub(super) async fn forget(tx: &Tx<'_>, ids: &[i64]) -> Result<(), DbError> {
    if !ids.is_empty() {
        let (among, values) = sql::among(tx.conn(), "recommendation_id", 1, ids);
        sql::execute(tx.conn(), &format!("DELETE FROM embedding_attempts WHERE {among}"), values).await?;
    }
    Ok(())
}

impl Db {
    /// The failed attempts for this version of a recommendation's text, the first one first.
    pub(super) async fn attempts(&self, id: i64, content_version: i64) -> Result<Vec<Attempt>, DbError> {
        let select = "SELECT attempt, at, error, class, worker, duration_ms FROM embedding_attempts \
            WHERE recommendation_id = $1 AND target = 'current' AND content_version = $2 ORDER BY attempt";
        sql::all(self.read(), select, [id.into(), content_version.into()]).await
    }

    /// Forgets the attempts of tasks that are done or of an older text, among the next recommendations after this
    /// one. Returns where to go on; `None` at the end.
    pub async fn forget_attempts(&self, after: i64) -> Result<Option<i64>, DbError> {
        #[derive(FromQueryResult)]
        struct Row {
            recommendation_id: i64,
            kept: bool,
        }
        let select = "SELECT a.recommendation_id, EXISTS (SELECT 1 FROM embedding_tasks t \
            WHERE t.recommendation_id = a.recommendation_id AND t.target = a.target \
            AND t.content_version = a.content_version AND t.attempts > 0) AS kept FROM embedding_attempts a \
            WHERE a.recommendation_id > $1 ORDER BY a.recommendation_id, a.target, a.attempt LIMIT $2";
        let rows: Vec<Row> = sql::all(self.read(), select, [after.into(), PAGE.into()]).await?;
        let gone: Vec<i64> = rows.iter().filter(|row| !row.kept).map(|row| row.recommendation_id).collect();
        if !gone.is_empty() {
            let (among, values) = sql::among(self.read(), "recommendation_id", 1, &gone);
            // Looked at once more: it may have failed again meanwhile.
            let delete = format!(
                "DELETE FROM embedding_attempts WHERE {among} AND NOT EXISTS (SELECT 1 FROM embedding_tasks t \
                 WHERE t.recommendation_id = embedding_attempts.recommendation_id \
                 AND t.target = embedding_attempts.target \
                 AND t.content_version = embedding_attempts.content_version AND t.attempts > 0)"
            );
            self.change(delete, values).await?;
        }
        // A page that ends within a recommendation goes on after it: its rest has its turn in the next round.
        let last = rows.last().map(|row| row.recommendation_id);
        Ok(last.filter(|_| rows.len() as i64 == PAGE))
    }
}
