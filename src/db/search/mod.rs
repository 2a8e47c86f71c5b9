//! Finding recommendations: by vector ([`VectorIndex`]), by keyword ([`keyword`]), and as rows.

pub mod keyword;
pub mod matrix;

use uuid::Uuid;

use crate::domain::embedding::Embedding;
use crate::domain::recommendation::{ContentType, Visibility};

/// Who searches: decides what may be seen.
#[derive(Clone, Debug, Default)]
pub struct Viewer {
    /// `None` sees what is public.
    pub id: Option<Uuid>,
    /// Those whose `friends` recommendations the viewer sees.
    pub following: Vec<Uuid>,
}

/// What to look for besides the words.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub content_type: Option<ContentType>,
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

/// The vectors of the current model, as far as they are ready.
pub trait VectorIndex: Send + Sync {
    /// The `k` rows with the largest cosine to `query` of at least `floor` that `viewer` may see and that
    /// `filter` lets through, best first. Exact, and takes a moment: call it where blocking is fine.
    fn nearest(&self, query: &Embedding, viewer: &Viewer, filter: &Filter, floor: f32, k: usize)
    -> Vec<(i64, f32)>;

    /// The cosines of `ids` to `query`; a row without a vector is missing in the answer.
    fn similarities(&self, query: &Embedding, ids: &[i64]) -> Vec<(i64, f32)>;

    /// Applies changes in order.
    fn apply(&self, changes: Vec<IndexChange>);

    /// Vectors held.
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
