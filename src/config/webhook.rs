//! The section `[webhook]`.

use std::fmt;
use std::time::Duration;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::domain::webhook::Schedule;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    pub allow_private: bool,
    pub timeout_ms: u64,
    #[serde(deserialize_with = "numbers")]
    pub retry_schedule_ms: Vec<u64>,
    pub max_concurrent: usize,
    pub max_concurrent_per_endpoint: usize,
    pub disable_after_ms: u64,
    pub secret_overlap_ms: u64,
    pub retention_days: u64,
}

impl WebhookSettings {
    pub fn schedule(&self) -> Schedule {
        Schedule::new(self.retry_schedule_ms.iter().map(|ms| Duration::from_millis(*ms)))
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub fn disable_after(&self) -> Duration {
        Duration::from_millis(self.disable_after_ms)
    }

    pub fn secret_overlap(&self) -> Duration {
        Duration::from_millis(self.secret_overlap_ms)
    }

    pub fn retention(&self) -> Duration {
        Duration::from_secs(self.retention_days * 24 * 60 * 60)
    }
}

/// A list of numbers, or, as a variable of the environment has it, a text with commas between them.
fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    struct Numbers;

    impl<'de> Visitor<'de> for Numbers {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of milliseconds, such as [5000, 300000], or \"5000, 300000\"")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<u64>, E> {
            let text = text.trim().trim_start_matches('[').trim_end_matches(']');
            let numbers = text.split(',').map(str::trim).filter(|number| !number.is_empty());
            numbers
                .map(|number| {
                    number.parse().map_err(|_| E::invalid_value(serde::de::Unexpected::Str(number), &self))
                })
                .collect()
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u64>, A::Error> {
            let mut numbers = Vec::new();
            while let Some(number) = seq.next_element()? {
                numbers.push(number);
            }
            Ok(numbers)
        }
    }

    deserializer.deserialize_any(Numbers)
}
