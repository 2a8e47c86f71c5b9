//! Search in the embedded database: the vectors in memory ([`Matrix`]), the words in FTS5.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::{DatabaseConnection, FromQueryResult};
use uuid::Uuid;

use super::matrix::{Matrix, Viewer};
use super::{ByMeaning, ByWords, Found, IndexChange, Scope, VectorIndex, fts};
use crate::db::{DbError, sql};

pub(in crate::db) struct SqliteIndex {
    matrix: Arc<Matrix>,
    read: DatabaseConnection,
}

#[derive(FromQueryResult)]
struct Followed {
    following_id: Uuid,
}

impl SqliteIndex {
    pub(in crate::db) fn new(matrix: Matrix, read: DatabaseConnection) -> Self {
        Self { matrix: Arc::new(matrix), read }
    }

    async fn nearest(&self, by: ByMeaning<'_>, scope: Scope) -> Result<Vec<(i64, f32)>, DbError> {
        let viewer = self.viewer(scope.viewer).await?;
        let (matrix, query, floor) = (self.matrix.clone(), by.query.clone(), by.floor);
        // The scan takes milliseconds of pure computing: not on a thread that serves others.
        let scan = tokio::task::spawn_blocking(move || {
            matrix.nearest(&query, &viewer, scope.content_type, floor, scope.k)
        });
        scan.await.map_err(|e| DbError::Unavailable(format!("the vector scan ended: {e}")))
    }

    /// Whom the viewer follows, which the scan must know of every row.
    async fn viewer(&self, id: Option<Uuid>) -> Result<Viewer, DbError> {
        let Some(user) = id else { return Ok(Viewer::default()) };
        let select = "SELECT following_id FROM user_follows WHERE follower_id = $1";
        let followed: Vec<Followed> = sql::all(&self.read, select, [user.into()]).await?;
        Ok(Viewer { id, following: followed.into_iter().map(|f| f.following_id).collect() })
    }
}

#[async_trait]
impl VectorIndex for SqliteIndex {
    async fn find(
        &self,
        meaning: Option<ByMeaning<'_>>,
        words: Option<ByWords<'_>>,
        scope: Scope,
    ) -> Result<Found, DbError> {
        let by_meaning = async {
            match meaning {
                Some(by) => self.nearest(by, scope).await,
                None => Ok(Vec::new()),
            }
        };
        let by_words = async {
            match words {
                Some(by) => fts::hits(&self.read, by, scope).await,
                None => Ok(Vec::new()),
            }
        };
        let (by_meaning, by_words) = tokio::join!(by_meaning, by_words);
        let (by_meaning, by_words) = (by_meaning?, by_words?);
        let ids: Vec<i64> = by_words.iter().map(|(id, _)| *id).collect();
        let cosines = meaning.map(|by| self.matrix.similarities(by.query, &ids)).unwrap_or_default();
        Ok(Found { by_meaning, by_words, cosines })
    }

    fn apply(&self, changes: Vec<IndexChange>) {
        self.matrix.apply(changes);
    }

    async fn vectors(&self) -> Result<u64, DbError> {
        Ok(self.matrix.len() as u64)
    }
}
