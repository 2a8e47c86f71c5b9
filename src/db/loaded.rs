//! What a worker reads before it embeds.

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, QueryResult};
use serde_json::Value as Json;

use super::recommendations::{labels, object};
use super::regenerations::Mark;
use super::sql::InOrder;
use super::{Db, DbError, sql};
use crate::domain::recommendation::ContentType;
use crate::domain::regeneration::Scope;
use crate::domain::status::TaskState;
use crate::domain::text::Content;

/// A row as a worker needs it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub id: i64,
    pub content_version: i64,
    pub content: Content,
    /// The version whose vector is stored.
    pub embedded_version: Option<i64>,
    /// Hash and model of the stored vector.
    pub embedded_hash: Option<String>,
    pub embedding_model: Option<String>,
    /// What its task waits for; none where it has none.
    pub state: Option<TaskState>,
    /// Failed attempts that the ledger knows of.
    pub attempts: u32,
    /// When its task was enqueued; none where it has none.
    pub enqueued_at: Option<DateTime<Utc>>,
    /// That its task is of a regeneration.
    pub mark: Option<Mark>,
}

pub(super) struct LoadedRow {
    id: i64,
    content_version: i64,
    content_type: String,
    title: Option<String>,
    description: String,
    content_data: Option<Json>,
    labels: Json,
    metadata: Option<Json>,
    rating: Option<i16>,
    embedded_version: Option<i64>,
    embedded_hash: Option<String>,
    embedding_model: Option<String>,
    place_name: Option<String>,
    place_address: Option<String>,
    service_name: Option<String>,
    service_type: Option<String>,
    service_business_name: Option<String>,
    state: Option<String>,
    attempts: Option<i32>,
    enqueued_at: Option<DateTime<Utc>>,
    leader: Option<i64>,
    marked_scope: Option<String>,
    marked_since: Option<DateTime<Utc>>,
}

impl FromQueryResult for LoadedRow {
    /// In the order of [`loading`].
    fn from_query_result(row: &QueryResult, _prefix: &str) -> Result<Self, DbErr> {
        let mut columns = InOrder::new(row);
        Ok(Self {
            id: columns.next()?,
            content_version: columns.next()?,
            content_type: columns.next()?,
            title: columns.next()?,
            description: columns.next()?,
            content_data: columns.next()?,
            labels: columns.next()?,
            metadata: columns.next()?,
            rating: columns.next()?,
            embedded_version: columns.next()?,
            embedded_hash: columns.next()?,
            embedding_model: columns.next()?,
            place_name: columns.next()?,
            place_address: columns.next()?,
            service_name: columns.next()?,
            service_type: columns.next()?,
            service_business_name: columns.next()?,
            state: columns.next()?,
            attempts: columns.next()?,
            enqueued_at: columns.next()?,
            leader: columns.next()?,
            marked_scope: columns.next()?,
            marked_since: columns.next()?,
        })
    }
}

/// What a worker reads of the row `r` and its task `t`. A regeneration's mark holds as long as there is the task of
/// this version: a message that comes twice is paid for once.
pub(super) fn loading(conn: &impl ConnectionTrait) -> String {
    let labels = sql::labels(conn, "r.labels");
    format!(
        "SELECT CAST(r.id AS BIGINT) AS id, r.content_version, r.content_type, r.title, r.description, \
         r.content_data, {labels} AS labels, r.metadata, r.rating, r.embedded_version, r.embedded_hash, \
         r.embedding_model, p.name AS place_name, p.address AS place_address, s.name AS service_name, \
         s.service_type, s.business_name AS service_business_name, t.state, t.attempts, t.enqueued_at, CAST(i.leader AS BIGINT) AS leader, \
         g.scope AS marked_scope, g.created_at AS marked_since FROM recommendations r \
         LEFT JOIN places p ON p.id = r.place_id LEFT JOIN services s ON s.id = r.service_id \
         LEFT JOIN embedding_tasks t ON t.recommendation_id = r.id AND t.target = 'current' \
         LEFT JOIN regeneration_items i ON i.recommendation_id = t.recommendation_id \
         AND i.content_version = t.content_version AND i.fed LEFT JOIN regenerations g ON g.id = i.regeneration_id"
    )
}

impl From<LoadedRow> for Loaded {
    fn from(row: LoadedRow) -> Self {
        let mark = row.marked_since.map(|since| Mark {
            anew: row.marked_scope.as_deref() == Some(Scope::All.as_str()),
            since,
            leader: row.leader,
        });
        let content = Content {
            content_type: row.content_type.parse().unwrap_or(ContentType::Unclear),
            title: row.title,
            description: row.description,
            labels: labels(&row.labels),
            rating: row.rating,
            place_name: row.place_name,
            place_address: row.place_address,
            service_name: row.service_name,
            service_type: row.service_type,
            service_business_name: row.service_business_name,
            content_data: object(&row.content_data),
            metadata: object(&row.metadata),
        };
        Self {
            id: row.id,
            content_version: row.content_version,
            content,
            embedded_version: row.embedded_version,
            embedded_hash: row.embedded_hash,
            embedding_model: row.embedding_model,
            state: row.state.as_deref().and_then(TaskState::parse),
            attempts: row.attempts.unwrap_or(0).max(0) as u32,
            enqueued_at: row.enqueued_at,
            mark,
        }
    }
}

impl Db {
    /// The rows of `ids` that still exist, in one query.
    pub async fn load_for_embedding(&self, ids: &[i64]) -> Result<Vec<Loaded>, DbError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (among, values) = sql::among(self.read(), "r.id", 1, ids);
        let select = format!("{} WHERE r.deleted_at IS NULL AND {among}", loading(self.read()));
        let rows: Vec<LoadedRow> = sql::all(self.read(), &select, values).await?;
        Ok(rows.into_iter().map(Loaded::from).collect())
    }
}
