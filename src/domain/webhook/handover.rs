//! What travels through the broker for a delivery: its id and round, never the event.

use std::fmt;

use serde::{Deserialize, Serialize};

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

/// The body of a message. Tagged and versioned: a message published before a deploy is read after it.
#[derive(Serialize, Deserialize)]
struct Envelope {
    v: u32,
    #[serde(flatten)]
    payload: Payload,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Payload {
    Deliver(Handover),
}

const VERSION: u32 = 1;

/// A body that isn't one of ours.
#[derive(Debug, thiserror::Error)]
pub enum MalformedHandover {
    #[error("malformed message: {0}")]
    Json(#[from] serde_json::Error),
    #[error("unknown message version {0}, this program reads {VERSION}")]
    Version(u64),
}

impl Handover {
    /// `{"v":1,"type":"deliver","delivery_id":7,"round":1}`
    pub fn encode(&self) -> Vec<u8> {
        let Self { delivery_id, round } = self;
        format!(r#"{{"v":{VERSION},"type":"deliver","delivery_id":{delivery_id},"round":{round}}}"#).into_bytes()
    }

    /// Reads a message's body; an unknown version is told apart from one that is no delivery at all.
    pub fn decode(body: &[u8]) -> Result<Self, MalformedHandover> {
        let value: serde_json::Value = serde_json::from_slice(body)?;
        match value.get("v").and_then(serde_json::Value::as_u64) {
            Some(v) if v != u64::from(VERSION) => Err(MalformedHandover::Version(v)),
            _ => {
                let Envelope { payload: Payload::Deliver(handover), .. } = serde_json::from_value(value)?;
                Ok(handover)
            }
        }
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
