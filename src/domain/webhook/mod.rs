//! Webhooks: what is told to whom, and how often it is tried.

pub mod address;
pub mod handover;
pub mod request;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What an endpoint may be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Event {
    /// A text has its vector.
    #[serde(rename = "embedding.ready")]
    Ready,
    /// A text was given up; it is among the dead letters.
    #[serde(rename = "embedding.failed")]
    Failed,
    /// A regeneration is completed or was cancelled.
    #[serde(rename = "regeneration.finished")]
    Finished,
    /// Somebody tries an endpoint out.
    #[serde(rename = "webhook.test")]
    Test,
}

impl Event {
    pub const ALL: [Self; 4] = [Self::Ready, Self::Failed, Self::Finished, Self::Test];
    /// Those that an endpoint is asked about; a test goes to any.
    pub const CHOSEN: [Self; 3] = [Self::Ready, Self::Failed, Self::Finished];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "embedding.ready",
            Self::Failed => "embedding.failed",
            Self::Finished => "regeneration.finished",
            Self::Test => "webhook.test",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == word)
    }
}

/// How far the telling of an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// Waits to be handed to the broker.
    Pending,
    /// With the broker, or in a worker's hands.
    Published,
    /// Failed, and waits for its next attempt.
    Retrying,
    /// Answered with a 2xx.
    Delivered,
    /// Given up; it can be redelivered.
    Failed,
}

impl DeliveryState {
    pub const ALL: [Self; 5] = [Self::Pending, Self::Published, Self::Retrying, Self::Delivered, Self::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Published => "published",
            Self::Retrying => "retrying",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// The waits between the attempts of a delivery, the first one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule(Vec<Duration>);

impl Schedule {
    pub fn new(waits: impl IntoIterator<Item = Duration>) -> Self {
        Self(waits.into_iter().collect())
    }

    /// The wait after the `failures`-th failure (from 1) of an event; `None` when it was the last attempt. Whoever
    /// tries an endpoint out looks at the answer: a test isn't repeated.
    pub fn after(&self, event: Event, failures: u32) -> Option<Duration> {
        match event {
            Event::Test => None,
            _ => self.0.get(failures.checked_sub(1)? as usize).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_word_is_read_back() {
        assert!(Event::ALL.iter().all(|event| Event::parse(event.as_str()) == Some(*event)));
        assert!(DeliveryState::ALL.iter().all(|state| DeliveryState::parse(state.as_str()) == Some(*state)));
        for event in Event::ALL {
            assert_eq!(serde_json::to_value(event).unwrap(), event.as_str());
        }
        for state in DeliveryState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }

    #[test]
    fn a_schedule_of_two_waits_has_three_attempts() {
        let secs = Duration::from_secs;
        let schedule = Schedule::new([secs(5), secs(300)]);
        let waits: Vec<_> = (1..=4).map(|failures| schedule.after(Event::Ready, failures)).collect();
        assert_eq!(waits, [Some(secs(5)), Some(secs(300)), None, None]);
        assert_eq!(schedule.after(Event::Test, 1), None);
    }
}
