//! Writing vectors back to PostgreSQL: one statement a batch, unless that is a large one.
//!
//! Measured at 100,000 rows of 256 dimensions: one `unnest` writes 32,000 to 41,000 rows a second, a loop of
//! single updates 9,000.

use std::collections::HashSet;

use sea_orm::prelude::PgVector;
use sea_orm::sqlx::{self, Row as _};

use super::embeddings::{Finished, Made};
use super::pooled::{Pooled, Races};
use super::webhooks::tell_stored;
use super::{DbError, ModelSpec, sql};
use crate::domain::embedding::Embedding;
use crate::domain::task::EmbedTask;

/// Vectors and the end of their tasks, of exactly these versions. The rows are locked in the order of their
/// ids first: another batch, or the renaming of a place, locks them in the same order.
///
/// Every step reaches its rows by their keys, whatever the planner believes of the tables: the lock row by row, as
/// a subquery that locks is never joined otherwise, and the others through `= ANY`. Joined to the batch alone,
/// tables that were filled a moment ago, of which there are no statistics yet, were read from end to end for each
/// batch: of 38 ms for 250 rows beside 20,000 these were 27. The last steps tell those who want to know.
const STORE: &str = concat!(
    "WITH made AS (SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::vector[], $4::text[], \
        $5::integer[]) AS m (id, version, embedding, hash, parts)), \
    locked AS MATERIALIZED (SELECT m.* FROM (SELECT * FROM made ORDER BY id) m CROSS JOIN LATERAL \
        (SELECT FROM recommendations r WHERE r.id = m.id AND r.content_version = m.version FOR NO KEY UPDATE) r), \
    stored AS (UPDATE recommendations r SET embedding = locked.embedding, embedded_version = locked.version, \
        embedded_hash = locked.hash, embedding_parts = locked.parts, embedding_model = $6, embedded_at = $7 \
        FROM locked WHERE r.id = locked.id AND r.content_version = locked.version AND r.id = ANY($1) \
        RETURNING CAST(r.id AS BIGINT) AS id, r.content_version AS version), \
    ended AS (DELETE FROM embedding_tasks t USING made WHERE t.recommendation_id = made.id \
        AND t.target = 'current' AND t.content_version = made.version AND t.recommendation_id = ANY($1) \
        RETURNING CAST(t.recommendation_id AS BIGINT) AS id, t.content_version AS version), ",
    tell_stored!("$6", "$7"),
    " SELECT id, version FROM stored"
);

/// Bytes of vectors in one statement. Batches that wait for a turn are written together, which saves small ones most of
/// their cost. Of what is over PostgreSQL's `work_mem` (4 MB), it keeps each of its copies in a file: at 1,536
/// dimensions a row then cost the server 69 µs instead of 61.
const STATEMENT: usize = 2 << 20;

/// Tasks whose stored vector is that of their text already.
const UNCHANGED: &str = concat!(
    "WITH made AS (SELECT * FROM unnest($1::bigint[], $2::bigint[]) AS m (id, version)), \
    locked AS MATERIALIZED (SELECT m.* FROM (SELECT * FROM made ORDER BY id) m CROSS JOIN LATERAL \
        (SELECT FROM recommendations r WHERE r.id = m.id AND r.content_version = m.version FOR NO KEY UPDATE) r), \
    stored AS (UPDATE recommendations r SET embedded_version = locked.version FROM locked \
        WHERE r.id = locked.id AND r.content_version = locked.version AND r.id = ANY($1) \
        RETURNING CAST(r.id AS BIGINT) AS id, r.content_version AS version), \
    ended AS (DELETE FROM embedding_tasks t USING made WHERE t.recommendation_id = made.id \
        AND t.target = 'current' AND t.content_version = made.version AND t.recommendation_id = ANY($1) \
        RETURNING CAST(t.recommendation_id AS BIGINT) AS id, t.content_version AS version), ",
    tell_stored!("$3", "$4"),
    " SELECT id, version FROM stored"
);

/// What was made, column by column.
#[derive(Default)]
struct Columns {
    ids: Vec<i64>,
    versions: Vec<i64>,
    vectors: Vec<PgVector>,
    hashes: Vec<String>,
    parts: Vec<i32>,
}

/// Stores what was made where the version is still the row's and ends the tasks of these versions. Says of
/// each, in order, whether it was current. After an error some may be stored, and storing them again is harmless.
pub(super) async fn finish(
    pooled: &Pooled,
    model: &ModelSpec,
    finished: &[Finished],
) -> Result<Vec<bool>, DbError> {
    let most = (STATEMENT / (model.dimensions * size_of::<f32>()).max(1)).max(1);
    let statements = finished.len().div_ceil(most).max(1);
    let mut current = Vec::with_capacity(finished.len());
    for part in finished.chunks(finished.len().div_ceil(statements).max(1)) {
        current.extend(finish_at_once(pooled, model, part).await?);
    }
    Ok(current)
}

async fn finish_at_once(pooled: &Pooled, model: &ModelSpec, finished: &[Finished]) -> Result<Vec<bool>, DbError> {
    let (mut made, mut unchanged) = (Columns::default(), Columns::default());
    for Finished { task, made: outcome, .. } in finished {
        match outcome {
            Made::Vector { embedding, hash, parts } => made.push(task, embedding, hash, *parts),
            Made::Unchanged => unchanged.name(task),
        }
    }
    let mut current = HashSet::with_capacity(finished.len());
    if !made.ids.is_empty() {
        current.extend(store(pooled, model, &made).await?);
    }
    if !unchanged.ids.is_empty() {
        current.extend(keep(pooled, model, &unchanged).await?);
    }
    let tasks = finished.iter().map(|f| (f.task.recommendation_id, f.task.content_version));
    Ok(tasks.map(|key| current.contains(&key)).collect())
}

impl Columns {
    fn name(&mut self, task: &EmbedTask) {
        self.ids.push(task.recommendation_id);
        self.versions.push(task.content_version);
    }

    fn push(&mut self, task: &EmbedTask, embedding: &Embedding, hash: &str, parts: usize) {
        self.name(task);
        self.vectors.push(PgVector::from(embedding.as_slice().to_vec()));
        self.hashes.push(hash.to_owned());
        self.parts.push(i32::try_from(parts).unwrap_or(i32::MAX));
    }
}

/// Through the driver itself, as sea-orm has no type for an array of vectors.
async fn store(pooled: &Pooled, model: &ModelSpec, made: &Columns) -> Result<Vec<(i64, i64)>, DbError> {
    let query = || {
        sqlx::query(STORE)
            .bind(&made.ids)
            .bind(&made.versions)
            .bind(&made.vectors)
            .bind(&made.hashes)
            .bind(&made.parts)
            .bind(&*model.id)
            .bind(sql::now())
    };
    settled(pooled, query).await
}

async fn keep(pooled: &Pooled, model: &ModelSpec, unchanged: &Columns) -> Result<Vec<(i64, i64)>, DbError> {
    let query =
        || sqlx::query(UNCHANGED).bind(&unchanged.ids).bind(&unchanged.versions).bind(&*model.id).bind(sql::now());
    settled(pooled, query).await
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// The ids and versions that a query returns once it has lost no race.
async fn settled<'q>(pooled: &Pooled, query: impl Fn() -> Query<'q>) -> Result<Vec<(i64, i64)>, DbError> {
    let pool = pooled.conn().get_postgres_connection_pool();
    let mut races = Races::default();
    loop {
        match query().fetch_all(pool).await {
            Ok(rows) => return keys(rows),
            Err(error) => races.again(error.into()).await?,
        }
    }
}

fn keys(rows: Vec<sqlx::postgres::PgRow>) -> Result<Vec<(i64, i64)>, DbError> {
    let keys = rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("version")?)));
    Ok(keys.collect::<Result<_, sqlx::Error>>()?)
}
