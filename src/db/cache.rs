//! Vectors that were paid for, by the hash of their text: what is asked for again is not paid for again, after a
//! delete and an import of the same text either, in this process or another.
//!
//! A bounded table of its own: rows come and go with their recommendations, and a column of hashes there would be
//! one more index that each write-back has to keep.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use sea_orm::{FromQueryResult, Value};

use super::{Db, DbError, sql};
use crate::domain::embedding::{Embedding, components};

/// Rows in one statement.
const ROWS: usize = 200;

/// How much is kept, and how much came since it was last cut back to that.
#[derive(Debug)]
pub(super) struct Bound {
    limit: u64,
    added: AtomicU64,
}

impl Bound {
    pub fn new(limit: u64) -> Self {
        Self { limit, added: AtomicU64::new(0) }
    }

    /// Whether the table is to be cut back now: once for a twentieth of the limit.
    fn is_due(&self, added: u64) -> bool {
        let slack = (self.limit / 20).max(1);
        let before = self.added.fetch_add(added, Ordering::Relaxed);
        before / slack != (before + added) / slack
    }
}

/// A vector and the parts that it is the mean of.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub embedding: Embedding,
    pub parts: usize,
}

#[derive(FromQueryResult)]
struct Row {
    hash: String,
    embedding: Vec<u8>,
    parts: i32,
}

#[derive(FromQueryResult)]
struct Hash {
    hash: String,
}

impl Db {
    /// The vectors of this model that are kept for these hashes, none that was made before `since`; they count as
    /// just used.
    pub async fn kept_vectors(
        &self,
        hashes: &[&str],
        since: Option<DateTime<Utc>>,
    ) -> Result<HashMap<String, Kept>, DbError> {
        let mut kept = HashMap::new();
        if self.cache.limit == 0 {
            return Ok(kept);
        }
        for hashes in hashes.chunks(ROWS) {
            let mut values: Vec<Value> = vec![self.model().id.to_string().into()];
            values.extend(hashes.iter().map(|hash| Value::from(*hash)));
            let mut among = format!("model = $1 AND hash IN {}", sql::tuple(2, hashes.len()));
            if let Some(since) = since {
                values.push(since.into());
                among.push_str(&format!(" AND made_at >= ${}", values.len()));
            }
            let select = format!("SELECT hash, embedding, parts FROM embedding_cache WHERE {among}");
            let rows: Vec<Row> = sql::all(self.read(), &select, values.clone()).await?;
            if rows.is_empty() {
                continue;
            }
            values.push(sql::now().into());
            let used = format!("UPDATE embedding_cache SET used_at = ${} WHERE {among}", values.len());
            self.change(used, values).await?;
            kept.extend(rows.into_iter().filter_map(|row| self.usable(row)));
        }
        Ok(kept)
    }

    /// Those of these hashes of which a vector is kept; nothing counts as used.
    pub async fn kept_among(&self, hashes: &[String]) -> Result<HashSet<String>, DbError> {
        let mut kept = HashSet::new();
        for hashes in hashes.chunks(ROWS).filter(|_| self.cache.limit > 0) {
            let mut values: Vec<Value> = vec![self.model().id.to_string().into()];
            values.extend(hashes.iter().map(|hash| Value::from(hash.clone())));
            let among = format!("model = $1 AND hash IN {}", sql::tuple(2, hashes.len()));
            let select = format!("SELECT hash FROM embedding_cache WHERE {among}");
            kept.extend(sql::all::<Hash>(self.read(), &select, values).await?.into_iter().map(|row| row.hash));
        }
        Ok(kept)
    }

    /// One of another length is of another configuration of the model.
    fn usable(&self, row: Row) -> Option<(String, Kept)> {
        let embedding = Embedding::new(components(&row.embedding).collect(), self.model().dimensions).ok()?;
        Some((row.hash, Kept { embedding, parts: row.parts.max(1) as usize }))
    }

    /// Keeps vectors by the hashes of their texts; the longest unused make room.
    pub async fn keep_vectors(&self, made: &[(String, Kept)]) -> Result<(), DbError> {
        if self.cache.limit == 0 {
            return Ok(());
        }
        // PostgreSQL refuses a statement that names a row twice; sorted, two of them never wait for each other.
        let mut seen = HashSet::new();
        let mut made: Vec<&(String, Kept)> = made.iter().filter(|(hash, _)| seen.insert(hash)).collect();
        made.sort_by(|a, b| a.0.cmp(&b.0));
        for made in made.chunks(ROWS) {
            let tuples = (0..made.len()).map(|n| {
                let first = 3 + 3 * n;
                format!("($1, ${}, ${}, ${}, $2, $2)", first, first + 1, first + 2)
            });
            let insert = format!(
                "INSERT INTO embedding_cache (model, hash, embedding, parts, made_at, used_at) VALUES {} \
                 ON CONFLICT (model, hash) DO UPDATE SET embedding = excluded.embedding, parts = excluded.parts, \
                 made_at = excluded.made_at, used_at = excluded.used_at",
                tuples.collect::<Vec<_>>().join(", ")
            );
            let mut values: Vec<Value> = vec![self.model().id.to_string().into(), sql::now().into()];
            for (hash, kept) in made {
                values.push(hash.clone().into());
                values.push(kept.embedding.to_bytes().into());
                values.push(i32::try_from(kept.parts).unwrap_or(i32::MAX).into());
            }
            self.change(insert, values).await?;
        }
        if self.cache.is_due(made.len() as u64) {
            self.cut_back().await?;
        }
        Ok(())
    }

    /// Deletes what has been unused longest, down to the limit.
    async fn cut_back(&self) -> Result<(), DbError> {
        let newest = "SELECT used_at FROM embedding_cache ORDER BY used_at DESC LIMIT 1 OFFSET $1";
        let oldest: Option<DateTime<Utc>> =
            sql::scalar(self.read(), newest, [Value::from(self.cache.limit as i64)]).await?;
        if let Some(oldest) = oldest {
            let deleted = self.change("DELETE FROM embedding_cache WHERE used_at <= $1", [oldest.into()]).await?;
            tracing::debug!(vectors = deleted, "made room among the kept vectors");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_cut_back_once_for_a_twentieth() {
        let bound = Bound::new(100);
        let due: Vec<bool> = [1, 3, 1, 4, 1, 12, 0].map(|added| bound.is_due(added)).into();
        assert_eq!(due, [false, false, true, false, true, true, false]);
        assert!(Bound::new(1).is_due(1));
    }
}
