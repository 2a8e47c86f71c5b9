//! What stands in the database, read from outside.

use std::time::Duration;

use chrono::Utc;
use mapx_embeddings::domain::embedding::{Embedding, components};
use sea_orm::prelude::PgVector;
use sea_orm::{ConnectionTrait, FromQueryResult, Statement, Value};

use super::data::TestData;

/// A row's embedding as it is stored.
#[derive(Debug, FromQueryResult)]
pub struct Stored {
    pub id: i64,
    pub description: String,
    pub content_version: i64,
    pub embedded_version: Option<i64>,
    pub embedding: Option<Vec<u8>>,
}

impl Stored {
    /// Whether the stored vector is this one, but for what rounding does.
    pub fn holds(&self, expected: &Embedding) -> bool {
        let stored: Vec<f32> = components(self.embedding.as_deref().unwrap_or_default()).collect();
        let expected = expected.as_slice();
        stored.len() == expected.len() && stored.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5)
    }
}

#[derive(FromQueryResult)]
struct OnPostgres {
    id: i64,
    description: String,
    content_version: i64,
    embedded_version: Option<i64>,
    embedding: Option<PgVector>,
}

impl From<OnPostgres> for Stored {
    fn from(row: OnPostgres) -> Self {
        let OnPostgres { id, description, content_version, embedded_version, embedding } = row;
        let bytes = |vector: PgVector| vector.as_slice().iter().flat_map(|n| n.to_le_bytes()).collect();
        Self { id, description, content_version, embedded_version, embedding: embedding.map(bytes) }
    }
}

/// All rows by id.
pub async fn rows(data: &TestData) -> Vec<Stored> {
    let conn = data.connect().await;
    let select = "SELECT CAST(id AS BIGINT) AS id, description, content_version, embedded_version, embedding \
                  FROM recommendations ORDER BY id";
    let statement = Statement::from_string(conn.get_database_backend(), select);
    let rows = conn.query_all_raw(statement).await.expect("the rows");
    conn.close().await.expect("closes");
    let stored = rows.iter().map(|row| match data.is_postgres() {
        true => OnPostgres::from_query_result(row, "").map(Stored::from),
        false => Stored::from_query_result(row, ""),
    });
    stored.map(|row| row.expect("the columns")).collect()
}

pub async fn row(data: &TestData, id: i64) -> Option<Stored> {
    rows(data).await.into_iter().find(|row| row.id == id)
}

/// Tasks in this state of the ledger; `%` for any.
pub async fn tasks(data: &TestData, state: &str) -> i64 {
    number(data, "SELECT count(*) FROM embedding_tasks WHERE state LIKE $1", [state.into()]).await
}

/// Tasks that the broker has taken.
pub async fn handed_over(data: &TestData) -> i64 {
    let count = "SELECT count(*) FROM embedding_tasks t WHERE state = 'published' \
                 AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.token = t.claim)";
    number(data, count, []).await
}

/// Vectors that are kept for texts that may come again.
pub async fn kept_vectors(data: &TestData) -> i64 {
    number(data, "SELECT count(*) FROM embedding_cache", []).await
}

/// As a relay leaves it that dies between its claim and the broker's answer, that long ago.
pub async fn claimed_by_the_dead(data: &TestData, id: i64, ago: Duration) {
    let conn = data.connect().await;
    let then = Utc::now() - ago;
    let note = ("INSERT INTO claims (token, claimed_at) VALUES ('of the dead', $1)", vec![then.into()]);
    let claim = "UPDATE embedding_tasks SET state = 'published', claim = 'of the dead', published_at = $1 \
                 WHERE recommendation_id = $2";
    for (statement, values) in [note, (claim, vec![then.into(), id.into()])] {
        let statement = Statement::from_sql_and_values(conn.get_database_backend(), statement, values);
        conn.execute_raw(statement).await.expect("written");
    }
    conn.close().await.expect("closes");
}

async fn number(data: &TestData, count: &str, values: impl IntoIterator<Item = Value>) -> i64 {
    let conn = data.connect().await;
    let count = Statement::from_sql_and_values(conn.get_database_backend(), count, values);
    let count = conn.query_one_raw(count).await.expect("the count").expect("a row");
    conn.close().await.expect("closes");
    count.try_get_by_index(0).expect("a number")
}
