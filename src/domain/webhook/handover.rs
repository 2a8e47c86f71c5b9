//! What travels through the broker for a delivery: its id and round, never the event.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::envelope::{self, Malformed};

/// A delivery that was handed to the broker, for the `round`-th time. An older round is a copy of one that was taken
/// for lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Handover {
    pub delivery_id: i64,
    pub round: i64,
}

impl fmt::Display for Handover {
    /// The broker's `message_id`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "webhook:{}:r{}", self.delivery_id, self.round)
    }
}

/// What a body says.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Payload {
    Deliver(Handover),
}

impl Handover {
    /// `{"v":1,"type":"deliver","delivery_id":7,"round":1}`
    pub fn encode(&self) -> Vec<u8> {
        envelope::seal(Payload::Deliver(*self))
    }

    /// Reads a message's body.
    ///
    /// # Errors
    /// Says what is no delivery of this program's.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let Payload::Deliver(handover) = envelope::open(body)?;
        Ok(handover)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_fixed_and_a_later_one_may_add_fields() {
        let handover = Handover { delivery_id: 7, round: 2 };
        let wire = r#"{"v":1,"type":"deliver","delivery_id":7,"round":2}"#;
        assert_eq!(String::from_utf8(handover.encode()).unwrap(), wire);
        for wire in [wire, r#"{"v":1,"type":"deliver","delivery_id":7,"round":2,"shard":1}"#] {
            assert_eq!(Handover::decode(wire.as_bytes()).unwrap(), handover);
        }
    }

    #[test]
    fn what_is_no_delivery_says_why() {
        let reason = |body: &str| Handover::decode(body.as_bytes()).unwrap_err().to_string();
        assert!(reason("hello").starts_with("malformed message"));
        assert!(reason(r#"{"v":2,"type":"deliver"}"#).contains("version 2"));
        assert!(reason(r#"{"v":1,"type":"embed"}"#).contains("embed"));
    }
}
