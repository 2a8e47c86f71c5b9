//! How vectors are written back, and how far the embedding of a row is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use sea_orm::prelude::PgVector;
use sea_orm::{ConnectionTrait, FromQueryResult, Value};
use uuid::Uuid;

use super::search::{IndexChange, IndexedRow};
use super::webhooks::{Ready, tell_ready};
use super::{Db, DbError, ModelSpec, Tx, Writes, sql, write_back};
use crate::domain::embedding::Embedding;
use crate::domain::recommendation::{ContentType, Visibility};
use crate::domain::status::{EmbeddingStatus, TaskState};
use crate::domain::task::EmbedTask;

/// A task that is done.
#[derive(Clone, Debug)]
pub struct Finished {
    pub task: EmbedTask,
    pub made: Made,
    /// When the task was enqueued; none where the ledger had none any more.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// Whether a regeneration asked for it.
    pub regenerated: bool,
}

#[derive(Clone, Debug)]
pub enum Made {
    /// A new vector, of the text with this hash, averaged over so many parts.
    Vector { embedding: Embedding, hash: String, parts: usize },
    /// The stored vector is that of this text already.
    Unchanged,
}

/// What the API says of one recommendation's embedding.
#[derive(Clone, Debug)]
pub struct EmbeddingState {
    pub owner: Uuid,
    pub status: EmbeddingStatus,
    pub attempts: i32,
    pub last_error: Option<String>,
    pub model: Option<String>,
    pub parts: Option<i32>,
    pub content_version: i64,
    pub embedded_version: Option<i64>,
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When somebody decided that it stays without a vector.
    pub discarded_at: Option<DateTime<Utc>>,
    pub updated_at: DateTime<Utc>,
}

#[derive(FromQueryResult)]
struct StateRow {
    user_id: Uuid,
    content_version: i64,
    embedded_version: Option<i64>,
    embedding_model: Option<String>,
    embedding_parts: Option<i32>,
    embedded_at: Option<DateTime<Utc>>,
    row_updated_at: DateTime<Utc>,
    state: Option<String>,
    attempts: Option<i32>,
    last_error: Option<String>,
    not_before: Option<DateTime<Utc>>,
    discarded_at: Option<DateTime<Utc>>,
    task_updated_at: Option<DateTime<Utc>>,
}

impl Db {
    /// Writes vectors back, each only where the row still has the task's version, and ends their tasks.
    /// Says of each, in order, whether it was current.
    ///
    /// Batches that finish while others are being written are written together: one statement costs the
    /// same for five rows as for fifty, and the batches of a fast model are small.
    pub async fn finish(&self, finished: Vec<Finished>) -> Result<Vec<bool>, DbError> {
        loop {
            let answer = self.finishing().call(finished.clone(), async |all| self.finish_now(all).await).await?;
            if let Some(current) = answer {
                self.chronicle().note_finished(&finished, &current);
                return Ok(current);
            }
        }
    }

    async fn finish_now(&self, finished: Vec<Finished>) -> Result<Vec<bool>, DbError> {
        let model = self.model().clone();
        if let Writes::SideBySide { pooled, .. } = &self.writes {
            return write_back::finish(pooled, &model, &finished).await;
        }
        let finished = Arc::new(finished);
        let listeners = self.listeners.clone();
        self.write(move |tx| {
            let (model, finished, listeners) = (model.clone(), finished.clone(), listeners.clone());
            async move {
                let tasks: Vec<EmbedTask> = finished.iter().map(|f| f.task).collect();
                let current = store(tx, &model, &finished).await?;
                if listeners.may_be() {
                    let ready = current
                        .iter()
                        .map(|(id, content_version)| Ready { id: *id, content_version: *content_version });
                    tell_ready(tx, &model.id, &ready.collect::<Vec<_>>()).await?;
                }
                let current: HashSet<(i64, i64)> = current.into_iter().collect();
                end_tasks(tx, &tasks).await?;
                Ok(tasks.iter().map(|t| current.contains(&(t.recommendation_id, t.content_version))).collect())
            }
            .boxed()
        })
        .await
    }

    /// Enqueues, at low priority, every row that has no vector of its text, or none of this model where that is
    /// wanted too, and no task. Returns how many.
    pub(super) async fn enqueue_missing(&self, of_other_models: bool) -> Result<u64, DbError> {
        let model = self.model().id.to_string();
        let other = if of_other_models { "OR r.embedding_model IS DISTINCT FROM $1" } else { "OR $1 IS NULL" };
        // A scalar and no NOT EXISTS, which PostgreSQL makes a join of: without statistics, after an import, it
        // compared each row with each task, nine seconds for 20,000.
        let missing = format!(
            "FROM recommendations r WHERE r.deleted_at IS NULL AND (r.embedded_version IS NULL \
             OR r.embedded_version <> r.content_version {other}) AND \
             (SELECT t.target FROM embedding_tasks t WHERE t.recommendation_id = r.id AND t.target = 'current') IS NULL"
        );
        let any = format!("SELECT EXISTS (SELECT 1 {missing})");
        if sql::scalar::<bool>(self.read(), &any, [model.clone().into()]).await? != Some(true) {
            return Ok(0);
        }
        // Several processes may start at once.
        let insert = format!(
            "INSERT INTO embedding_tasks (recommendation_id, target, content_version, priority, state, \
             attempts, enqueued_at, not_before, updated_at) \
             SELECT r.id, 'current', r.content_version, 2, 'pending', 0, $2, $2, $2 {missing} \
             ON CONFLICT (recommendation_id, target) DO NOTHING"
        );
        self.change(insert, [model.into(), sql::now().into()]).await
    }

    /// How far the embedding of one recommendation is; `None` when there is no such row.
    pub async fn embedding_state(&self, id: i64) -> Result<Option<EmbeddingState>, DbError> {
        let select = "SELECT r.user_id, r.content_version, r.embedded_version, r.embedding_model, \
            r.embedding_parts, r.embedded_at, r.updated_at AS row_updated_at, t.state, t.attempts, t.last_error, \
            t.not_before, t.discarded_at, t.updated_at AS task_updated_at FROM recommendations r LEFT JOIN embedding_tasks t \
            ON t.recommendation_id = r.id AND t.target = 'current' WHERE r.id = $1";
        let row: Option<StateRow> = sql::one(self.read(), select, [id.into()]).await?;
        Ok(row.map(EmbeddingState::from))
    }
}

impl From<StateRow> for EmbeddingState {
    fn from(row: StateRow) -> Self {
        let attempts = row.attempts.unwrap_or(0);
        let due = row.not_before.is_none_or(|at| at <= Utc::now());
        // Without a task: ready when the vector is of this version, otherwise nobody has enqueued it yet.
        let status = match row.state.as_deref().and_then(TaskState::parse) {
            Some(state) => state.status(attempts, due),
            None if row.embedded_version == Some(row.content_version) => EmbeddingStatus::Ready,
            None => EmbeddingStatus::Pending,
        };
        let waits = !due && status != EmbeddingStatus::Failed;
        Self {
            owner: row.user_id,
            status,
            attempts,
            last_error: row.last_error,
            model: row.embedding_model,
            parts: row.embedding_parts,
            content_version: row.content_version,
            embedded_version: row.embedded_version,
            next_attempt_at: row.not_before.filter(|_| waits),
            discarded_at: row.discarded_at.filter(|_| status == EmbeddingStatus::Failed),
            updated_at: row.task_updated_at.or(row.embedded_at).unwrap_or(row.row_updated_at),
        }
    }
}

#[derive(FromQueryResult)]
struct StoredRow {
    id: i64,
    content_version: i64,
    user_id: Uuid,
    visibility: String,
    content_type: String,
}

/// Rows in one UPDATE: six parameters each.
const STORE_ROWS: usize = 500;

/// Stores what was made where the version is still the row's. Returns the ids and versions that were.
pub(super) async fn store(
    tx: &Tx<'_>,
    model: &ModelSpec,
    finished: &[Finished],
) -> Result<Vec<(i64, i64)>, DbError> {
    let mut current = Vec::with_capacity(finished.len());
    let mut vectors = Vec::new();
    for Finished { task, made, .. } in finished {
        match made {
            Made::Vector { embedding, hash, parts } => vectors.push((*task, embedding, hash, *parts)),
            Made::Unchanged => {
                let update = "UPDATE recommendations SET embedded_version = content_version \
                              WHERE id = $1 AND content_version = $2";
                let values = [task.recommendation_id.into(), task.content_version.into()];
                if sql::execute(tx.conn(), update, values).await?.rows_affected() > 0 {
                    current.push((task.recommendation_id, task.content_version));
                }
            }
        }
    }
    for vectors in vectors.chunks(STORE_ROWS) {
        current.extend(store_vectors(tx, model, vectors).await?);
    }
    Ok(current)
}

async fn store_vectors(
    tx: &Tx<'_>,
    model: &ModelSpec,
    vectors: &[(EmbedTask, &Embedding, &String, usize)],
) -> Result<Vec<(i64, i64)>, DbError> {
    let update = format!(
        "WITH made (id, version, embedding, hash, parts) AS (VALUES {}) \
         UPDATE recommendations SET embedding = made.embedding, embedded_version = made.version, \
         embedded_hash = made.hash, embedding_parts = made.parts, embedding_model = ?, embedded_at = ? \
         FROM made WHERE recommendations.id = made.id AND recommendations.content_version = made.version \
         RETURNING CAST(recommendations.id AS BIGINT) AS id, content_version, user_id, visibility, content_type",
        sql::tuples(vectors.len(), 5)
    );
    let postgres = sql::is_postgres(tx.conn());
    let mut values: Vec<Value> = Vec::with_capacity(vectors.len() * 5 + 2);
    for (task, embedding, hash, parts) in vectors {
        values.push(task.recommendation_id.into());
        values.push(task.content_version.into());
        values.push(match postgres {
            true => PgVector::from(embedding.as_slice().to_vec()).into(),
            false => embedding.to_bytes().into(),
        });
        values.push((*hash).clone().into());
        values.push((*parts as i32).into());
    }
    values.extend([Value::from(model.id.to_string()), sql::now().into()]);
    let rows = tx.conn().query_all_raw(sql::bulk(tx.conn(), &update, values)).await?;
    let rows = rows.iter().map(|row| StoredRow::from_query_result(row, "")).collect::<Result<Vec<_>, _>>()?;
    let current = rows.iter().map(|row| (row.id, row.content_version)).collect();
    // By version too: an old and a new one of the same row may be in one batch.
    let made: HashMap<(i64, i64), &Embedding> =
        vectors.iter().map(|(t, made, ..)| ((t.recommendation_id, t.content_version), *made)).collect();
    for row in rows {
        if let Some(embedding) = made.get(&(row.id, row.content_version)) {
            tx.on_commit(IndexChange::Put { row: row.into(), embedding: (*embedding).clone() });
        }
    }
    Ok(current)
}

impl From<StoredRow> for IndexedRow {
    fn from(row: StoredRow) -> Self {
        Self {
            id: row.id,
            owner: row.user_id,
            visibility: row.visibility.parse().unwrap_or(Visibility::Friends),
            content_type: row.content_type.parse().unwrap_or(ContentType::Unclear),
        }
    }
}

/// Ends tasks of exactly these versions: one that was edited meanwhile stays.
async fn end_tasks(tx: &Tx<'_>, tasks: &[EmbedTask]) -> Result<(), DbError> {
    for tasks in tasks.chunks(STORE_ROWS) {
        let delete = format!(
            "DELETE FROM embedding_tasks WHERE (recommendation_id, target, content_version) IN (VALUES {})",
            sql::tuples(tasks.len(), 3)
        );
        let values = tasks.iter().flat_map(|task| -> [Value; 3] {
            [task.recommendation_id.into(), task.target.as_str().into(), task.content_version.into()]
        });
        tx.conn().execute_raw(sql::bulk(tx.conn(), &delete, values.collect())).await?;
    }
    Ok(())
}
