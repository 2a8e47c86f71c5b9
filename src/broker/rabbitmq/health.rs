//! Whether the server can be used, told once when that changes.

use std::sync::{Mutex, PoisonError};

/// What a connection is for. They are apart because an alarm stops every write of one that publishes, acks
/// too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Publish,
    Consume,
}

impl Purpose {
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Consume => "consume",
        }
    }
}

/// The trouble of both connections.
#[derive(Debug, Default)]
pub(super) struct Health {
    troubles: Mutex<[Option<String>; 2]>,
}

impl Health {
    pub fn trouble(&self) -> Option<String> {
        first(&self.troubles.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes the trouble of a connection or its end. Logs when the first one begins and when the last one
    /// ends, not at each attempt; a new reason for a trouble that goes on is worth a line, too.
    pub fn set(&self, purpose: Purpose, trouble: Option<String>) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let before = first(&troubles);
        troubles[purpose as usize] = trouble;
        let after = first(&troubles);
        drop(troubles);
        match (before, after) {
            (None, Some(reason)) => {
                tracing::warn!(reason, "RabbitMQ can't be used; tasks wait in the ledger, and it is tried again")
            }
            (Some(before), Some(reason)) if before != reason => {
                tracing::debug!(reason, "RabbitMQ still can't be used")
            }
            (Some(_), None) => tracing::info!("RabbitMQ can be used again"),
            _ => {}
        }
    }
}

fn first(troubles: &[Option<String>; 2]) -> Option<String> {
    troubles.iter().flatten().next().cloned()
}
