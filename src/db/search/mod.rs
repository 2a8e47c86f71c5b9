//! Finding recommendations: by vector and by keyword ([`VectorIndex`]), one implementation a back end.

pub(super) mod fts;
pub(super) mod matrix;
pub(super) mod pgvector;
pub(super) mod sqlite;

use async_trait::async_trait;
use uuid::Uuid;

use super::{Db, DbError};
use crate::domain::embedding::Embedding;
use crate::domain::recommendation::{ContentType, Visibility};

/// What to look for besides meaning and words.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Who searches: sees what is public, their own, and what those they follow keep for friends. `None`
    /// sees what is public.
    pub viewer: Option<Uuid>,
    pub content_type: Option<ContentType>,
    /// Rows at most, from meaning and from words each.
    pub k: usize,
}

/// The rows nearest to a vector.
#[derive(Clone, Copy, Debug)]
pub struct ByMeaning<'a> {
    pub query: &'a Embedding,
    /// Least cosine of a match.
    pub floor: f32,
}

/// The rows that contain words.
#[derive(Clone, Copy, Debug)]
pub struct ByWords<'a> {
    pub words: &'a [String],
    pub wanted: Match,
}

/// Whether all words must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    All,
    Any,
}

/// What was found, each list best first.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Ids with their cosines to the query.
    pub by_meaning: Vec<(i64, f32)>,
    /// Ids with their scores: larger is better, above 0, comparable within one answer.
    pub by_words: Vec<(i64, f64)>,
    /// The cosines of those found by words that have a vector, where a vector was asked for.
    pub cosines: Vec<(i64, f32)>,
}

/// A change of the vector index that follows a committed write.
#[derive(Debug)]
pub enum IndexChange {
    /// A new vector, or another one for the same row.
    Put {
        row: IndexedRow,
        embedding: Embedding,
    },
    /// What decides who may see it; nothing happens when the row has no vector here.
    Describe(IndexedRow),
    Remove(i64),
}

/// What the index knows of a row besides its vector.
#[derive(Clone, Debug)]
pub struct IndexedRow {
    pub id: i64,
    pub owner: Uuid,
    pub visibility: Visibility,
    pub content_type: ContentType,
}

/// The vectors of the current model, as far as they are ready, and the words of all rows.
#[async_trait]
pub(super) trait VectorIndex: Send + Sync {
    /// Looks by meaning, by words, or both at once.
    async fn find(
        &self,
        meaning: Option<ByMeaning<'_>>,
        words: Option<ByWords<'_>>,
        scope: Scope,
    ) -> Result<Found, DbError>;

    /// Applies changes in order. An index that the database itself keeps has nothing to do.
    fn apply(&self, changes: Vec<IndexChange>);

    /// Vectors that a search looks through.
    async fn vectors(&self) -> Result<u64, DbError>;
}

impl Db {
    /// Looks by meaning, by words, or both at once; a word list that is empty finds nothing.
    pub async fn find(
        &self,
        meaning: Option<ByMeaning<'_>>,
        words: Option<ByWords<'_>>,
        scope: Scope,
    ) -> Result<Found, DbError> {
        self.index.find(meaning, words.filter(|by| !by.words.is_empty()), scope).await
    }

    /// Vectors that a search looks through.
    pub async fn vectors(&self) -> Result<u64, DbError> {
        self.index.vectors().await
    }
}
