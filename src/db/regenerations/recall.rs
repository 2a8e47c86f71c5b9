//! Vectors of rows that had the same text embedded before.

use sea_orm::prelude::PgVector;
use sea_orm::{FromQueryResult, QueryResult};

use crate::db::cache::Kept;
use crate::db::{Db, DbError, sql};
use crate::domain::embedding::{Embedding, components};

impl Db {
    /// The stored vectors of these rows, with their texts' hashes; none of another model.
    pub async fn vectors_of(&self, ids: &[i64]) -> Result<Vec<(i64, String, Kept)>, DbError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (among, mut values) = sql::among(self.read(), "id", 2, ids);
        values.insert(0, self.model().id.to_string().into());
        let select = format!(
            "SELECT CAST(id AS BIGINT) AS id, embedded_hash, embedding_parts, embedding FROM recommendations \
             WHERE embedding_model = $1 AND embedding IS NOT NULL AND {among}"
        );
        let rows: Vec<Stored> = sql::all(self.read(), &select, values).await?;
        Ok(rows.into_iter().filter_map(|row| row.kept(self.model().dimensions)).collect())
    }
}

/// A row with its vector, whatever the back end stores it as.
struct Stored {
    id: i64,
    hash: Option<String>,
    parts: Option<i32>,
    components: Vec<f32>,
}

impl FromQueryResult for Stored {
    fn from_query_result(row: &QueryResult, prefix: &str) -> Result<Self, sea_orm::DbErr> {
        let components = match row.try_get::<Vec<u8>>(prefix, "embedding") {
            Ok(bytes) => components(&bytes).collect(),
            Err(_) => row.try_get::<PgVector>(prefix, "embedding")?.to_vec(),
        };
        Ok(Self {
            id: row.try_get(prefix, "id")?,
            hash: row.try_get(prefix, "embedded_hash")?,
            parts: row.try_get(prefix, "embedding_parts")?,
            components,
        })
    }
}

impl Stored {
    fn kept(self, dimensions: usize) -> Option<(i64, String, Kept)> {
        let embedding = Embedding::new(self.components, dimensions).ok()?;
        Some((self.id, self.hash?, Kept { embedding, parts: self.parts.unwrap_or(1).max(1) as usize }))
    }
}
