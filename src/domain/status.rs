//! The states of a task in the ledger, and what the API calls them.

use serde::{Deserialize, Serialize};

/// What the API says of a recommendation's embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EmbeddingStatus {
    /// In the ledger, not yet handed to the broker.
    Pending,
    /// With the broker or in a worker's hands.
    Queued,
    /// Failed at least once and waits for its next attempt.
    Retrying,
    /// The stored vector is that of the current text.
    Ready,
    /// Given up; it waits in the dead letters for a person.
    Failed,
}

/// The `state` column of `embedding_tasks`. A finished task has no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskState {
    Pending,
    /// With the broker, or claimed by a relay that is asking it.
    Published,
    /// In a retry rung of the broker until `not_before`.
    Retrying,
    Dead,
}

impl TaskState {
    pub const ALL: [Self; 4] = [Self::Pending, Self::Published, Self::Retrying, Self::Dead];

    /// The word stored in the column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Published => "published",
            Self::Retrying => "retrying",
            Self::Dead => "dead",
        }
    }

    /// The state of a stored word, or `None` for a word this version doesn't know.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// What the API calls it, after so many failed attempts and with the next one `due` or not. The delay
    /// before a retry may pass in the ledger or with the broker; once it is over, the task waits like others.
    pub fn status(self, attempts: i32, due: bool) -> EmbeddingStatus {
        match self {
            Self::Pending | Self::Retrying if attempts > 0 && !due => EmbeddingStatus::Retrying,
            Self::Pending => EmbeddingStatus::Pending,
            Self::Published | Self::Retrying => EmbeddingStatus::Queued,
            Self::Dead => EmbeddingStatus::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_word_is_read_back() {
        for state in TaskState::ALL {
            assert_eq!(TaskState::parse(state.as_str()), Some(state));
        }
        assert_eq!(TaskState::parse("lost"), None);
    }
}
