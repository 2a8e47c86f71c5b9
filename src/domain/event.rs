//! What listeners are told of one recommendation.

use serde::{Deserialize, Serialize};

/// What became of an embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A save or an edit asked for a vector; imports and regenerations are told by their counts alone.
    Queued,
    /// The vector of this version is stored, and found.
    Ready,
    /// Given up: it is among the dead letters.
    Failed,
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

/// One event, as it is stored and sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub kind: EventKind,
    pub recommendation_id: i64,
    /// Not told of what an edit queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_version: Option<i64>,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// From the moment its task was enqueued; of what is ready and no part of a regeneration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<i64>,
    /// Why it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
