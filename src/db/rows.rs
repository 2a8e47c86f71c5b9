//! The rows of `recommendations`, without their vectors.
//!
//! Not an entity: labels are `TEXT[]` on PostgreSQL, as MapX has them, and JSON text on SQLite, and an
//! entity's column has one type for both.

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, FromQueryResult, Value};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::tasks::{self, NewTask};
use super::{DbError, Tx, sql, users};
use crate::domain::priority::Priority;
use crate::domain::trace::TraceParent;

/// Rows in one INSERT on SQLite: fifteen parameters each.
const INSERT_ROWS: usize = 1000;

/// A row as it is stored.
#[derive(Clone, Debug, PartialEq, FromQueryResult)]
pub(super) struct Row {
    pub id: i64,
    pub user_id: Uuid,
    pub content_type: String,
    pub title: Option<String>,
    pub description: String,
    pub content_data: Option<Json>,
    pub labels: Json,
    pub metadata: Option<Json>,
    pub rating: Option<i16>,
    pub visibility: String,
    pub place_id: Option<i64>,
    pub service_id: Option<i64>,
    pub content_version: i64,
    pub embedded_version: Option<i64>,
}

/// A row to be inserted.
#[derive(Clone, Debug)]
pub(super) struct NewRow {
    pub user_id: Uuid,
    pub content_type: &'static str,
    pub title: Option<String>,
    pub description: String,
    pub content_data: Option<Json>,
    pub labels: Vec<String>,
    pub metadata: Option<Json>,
    pub rating: Option<i16>,
    pub visibility: &'static str,
    pub place_id: Option<i64>,
    pub service_id: Option<i64>,
    /// The lane of its task; `None` when it brings its vector along.
    pub task: Option<Priority>,
    pub trace: Option<TraceParent>,
}

/// The row with this id, locked for this transaction where the back end has locks of rows.
pub(super) async fn find(tx: &Tx<'_>, id: i64) -> Result<Option<Row>, DbError> {
    let labels = sql::labels(tx.conn(), "labels");
    let lock = if sql::is_postgres(tx.conn()) { " FOR UPDATE" } else { "" };
    let select = format!(
        "SELECT CAST(id AS BIGINT) AS id, user_id, content_type, title, description, content_data, \
         {labels} AS labels, metadata, rating, coalesce(visibility, 'friends') AS visibility, \
         CAST(place_id AS BIGINT) AS place_id, CAST(service_id AS BIGINT) AS service_id, content_version, \
         embedded_version FROM recommendations WHERE id = $1 AND deleted_at IS NULL{lock}"
    );
    sql::one(tx.conn(), &select, [id.into()]).await
}

/// Inserts rows with their tasks, and their authors where they are new; the ids are in the order of the rows.
pub(super) async fn insert(tx: &Tx<'_>, rows: &[NewRow]) -> Result<Vec<i64>, DbError> {
    if rows.iter().any(|row| row.task.is_some()) {
        tx.wake_relay();
    }
    if sql::is_postgres(tx.conn()) { insert_postgres(tx.conn(), rows).await } else { insert_sqlite(tx, rows).await }
}

#[derive(FromQueryResult)]
struct Inserted {
    id: i64,
}

/// Authors, rows and tasks in one statement, which needs no transaction around it. The ids are taken
/// beforehand: no order of RETURNING needs to be trusted. Authors who are there aren't inserted and refused, as
/// NOT NULL, which an adopted table may have, is looked at before the conflict. The sequence is looked up in a
/// subquery: once, not once a row.
///
/// # Errors
/// `Refused` for an author who isn't there, in an adopted table that wants to know more of one than an id.
pub(super) async fn insert_postgres(conn: &impl ConnectionTrait, rows: &[NewRow]) -> Result<Vec<i64>, DbError> {
    let insert = "WITH draft AS MATERIALIZED (\
          SELECT nextval((SELECT pg_get_serial_sequence('recommendations', 'id')::regclass)) AS id, d.* \
          FROM jsonb_to_recordset($1) AS d (pos INTEGER, user_id UUID, content_type TEXT, title TEXT, \
          description TEXT, content_data JSONB, labels TEXT[], metadata JSONB, rating SMALLINT, visibility TEXT, \
          place_id BIGINT, service_id BIGINT, task SMALLINT, trace TEXT)), \
        authors AS (INSERT INTO users (id, created_at) SELECT DISTINCT d.user_id, $2::timestamptz FROM draft d \
          WHERE NOT EXISTS (SELECT 1 FROM users u WHERE u.id = d.user_id) ORDER BY d.user_id \
          ON CONFLICT (id) DO NOTHING), \
        inserted AS (INSERT INTO recommendations (id, user_id, content_type, title, description, content_data, \
          labels, metadata, rating, visibility, place_id, service_id, created_at, updated_at) \
          SELECT id, user_id, content_type, title, description, content_data, labels, metadata, rating, \
          visibility, place_id, service_id, $2, $2 FROM draft ORDER BY pos), \
        queued AS (INSERT INTO embedding_tasks (recommendation_id, target, content_version, priority, state, \
          attempts, enqueued_at, not_before, updated_at, trace) \
          SELECT id, 'current', 1, task, 'pending', 0, $2, $2, $2, trace FROM draft WHERE task IS NOT NULL) \
        SELECT CAST(id AS BIGINT) AS id FROM draft ORDER BY pos";
    let drafts: Vec<Json> = rows.iter().enumerate().map(|(pos, row)| row.to_json(pos)).collect();
    let values = [Value::from(Json::Array(drafts)), sql::now().into()];
    let inserted: Vec<Inserted> = sql::all(conn, insert, values).await.map_err(users::unknown)?;
    Ok(inserted.into_iter().map(|row| row.id).collect())
}

async fn insert_sqlite(tx: &Tx<'_>, rows: &[NewRow]) -> Result<Vec<i64>, DbError> {
    let authors: Vec<Uuid> = rows.iter().map(|row| row.user_id).collect();
    users::ensure(tx, &authors).await?;
    // Within the one write transaction nobody else takes ids.
    let last = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'recommendations'), 0)";
    let first = sql::scalar::<i64>(tx.conn(), last, []).await?.unwrap_or(0) + 1;
    let now = sql::now();
    let ids = first..first + rows.len() as i64;
    for (rows, start) in rows.chunks(INSERT_ROWS).zip(ids.clone().step_by(INSERT_ROWS)) {
        let insert = format!(
            "INSERT INTO recommendations (id, user_id, content_type, title, description, content_data, labels, \
             metadata, rating, visibility, place_id, service_id, content_version, created_at, updated_at) VALUES {}",
            sql::tuples(rows.len(), 15)
        );
        let values = rows.iter().zip(start..).flat_map(|(row, id)| row.values(id, now)).collect();
        tx.conn().execute_raw(sql::bulk(tx.conn(), &insert, values)).await?;
    }
    let waiting = ids.clone().zip(rows).filter_map(|(id, row)| {
        let priority = row.task?;
        Some(NewTask { recommendation_id: id, content_version: 1, priority, trace: row.trace })
    });
    tasks::enqueue(tx, &waiting.collect::<Vec<_>>()).await?;
    Ok(ids.collect())
}

impl NewRow {
    fn to_json(&self, pos: usize) -> Json {
        json!({
            "pos": pos,
            "user_id": self.user_id,
            "content_type": self.content_type,
            "title": self.title,
            "description": self.description,
            "content_data": self.content_data,
            "labels": self.labels,
            "metadata": self.metadata,
            "rating": self.rating,
            "visibility": self.visibility,
            "place_id": self.place_id,
            "service_id": self.service_id,
            "task": self.task.map(Priority::rank),
            "trace": self.trace.as_ref().map(TraceParent::as_str),
        })
    }

    fn values(&self, id: i64, now: DateTime<Utc>) -> [Value; 15] {
        [
            id.into(),
            self.user_id.into(),
            self.content_type.into(),
            self.title.clone().into(),
            self.description.clone().into(),
            self.content_data.clone().into(),
            Json::from(self.labels.clone()).into(),
            self.metadata.clone().into(),
            self.rating.into(),
            self.visibility.into(),
            self.place_id.into(),
            self.service_id.into(),
            1i64.into(),
            now.into(),
            now.into(),
        ]
    }
}

impl Row {
    /// Writes the columns that an edit can change; those of the embedding belong to the worker.
    pub(super) async fn write_back(&self, tx: &Tx<'_>) -> Result<(), DbError> {
        let labels = match sql::is_postgres(tx.conn()) {
            true => "ARRAY(SELECT jsonb_array_elements_text($6))",
            false => "$6",
        };
        let update = format!(
            "UPDATE recommendations SET content_type = $2, title = $3, description = $4, content_data = $5, \
             labels = {labels}, metadata = $7, rating = $8, visibility = $9, place_id = $10, service_id = $11, \
             content_version = $12, updated_at = $13 WHERE id = $1"
        );
        let values: [Value; 13] = [
            self.id.into(),
            self.content_type.clone().into(),
            self.title.clone().into(),
            self.description.clone().into(),
            self.content_data.clone().into(),
            self.labels.clone().into(),
            self.metadata.clone().into(),
            self.rating.into(),
            self.visibility.clone().into(),
            self.place_id.into(),
            self.service_id.into(),
            self.content_version.into(),
            sql::now().into(),
        ];
        sql::execute(tx.conn(), &update, values).await?;
        Ok(())
    }
}

/// Nobody sees the row any more, and it isn't embedded.
pub(super) async fn mark_deleted(tx: &Tx<'_>, id: i64) -> Result<(), DbError> {
    let mark = "UPDATE recommendations SET deleted_at = $2 WHERE id = $1";
    sql::execute(tx.conn(), mark, [id.into(), sql::now().into()]).await?;
    tasks::forget(tx, id).await
}

/// Removes the row, and by its foreign keys its task.
pub(super) async fn delete(tx: &Tx<'_>, id: i64) -> Result<(), DbError> {
    sql::execute(tx.conn(), "DELETE FROM recommendations WHERE id = $1", [id.into()]).await?;
    Ok(())
}
