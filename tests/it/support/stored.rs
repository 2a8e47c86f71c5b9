//! What stands in the database file, read from outside.

use std::path::Path;

use mapx_embeddings::domain::embedding::{Embedding, components};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, FromQueryResult, Statement};

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

async fn connect(file: &Path) -> DatabaseConnection {
    Database::connect(format!("sqlite://{}?mode=rw", file.display())).await.expect("the file opens")
}

/// All rows by id.
pub async fn rows(file: &Path) -> Vec<Stored> {
    let conn = connect(file).await;
    let select = "SELECT id, description, content_version, embedded_version, embedding FROM recommendations \
                  ORDER BY id";
    let statement = Statement::from_string(conn.get_database_backend(), select);
    let rows = conn.query_all_raw(statement).await.expect("the rows");
    conn.close().await.expect("closes");
    rows.iter().map(|row| Stored::from_query_result(row, "").expect("the columns")).collect()
}

pub async fn row(file: &Path, id: i64) -> Option<Stored> {
    rows(file).await.into_iter().find(|row| row.id == id)
}

/// Tasks in this state of the ledger; `%` for any.
pub async fn tasks(file: &Path, state: &str) -> i64 {
    let conn = connect(file).await;
    let count = "SELECT count(*) FROM embedding_tasks WHERE state LIKE $1";
    let count = Statement::from_sql_and_values(conn.get_database_backend(), count, [state.into()]);
    let count = conn.query_one_raw(count).await.expect("the count").expect("a row");
    conn.close().await.expect("closes");
    count.try_get_by_index(0).expect("a number")
}
