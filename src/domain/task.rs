//! What travels through the broker: an id and a version, never the text.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which vector a task is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// The vector that searches use.
    Current,
    /// The vector of the model that is being switched to.
    Next,
}

impl Target {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Next => "next",
        }
    }
}

/// One recommendation to embed, at one version of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EmbedTask {
    pub recommendation_id: i64,
    pub content_version: i64,
    pub target: Target,
}

impl fmt::Display for EmbedTask {
    /// The broker's `message_id`: the task's key and version.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:v{}", self.recommendation_id, self.target.as_str(), self.content_version)
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
    Embed(EmbedTask),
}

const VERSION: u32 = 1;

/// A body that isn't one of ours; the reason goes with it to the dead letters.
#[derive(Debug, thiserror::Error)]
pub enum MalformedTask {
    #[error("malformed message: {0}")]
    Json(#[from] serde_json::Error),
    #[error("unknown message version {0}, this program reads {VERSION}")]
    Version(u64),
}

impl EmbedTask {
    /// `{"v":1,"type":"embed","recommendation_id":7,"content_version":2,"target":"current"}`
    pub fn encode(&self) -> Vec<u8> {
        let envelope = Envelope { v: VERSION, payload: Payload::Embed(*self) };
        serde_json::to_vec(&envelope).expect("numbers and fixed words always serialise")
    }

    /// Reads a message's body; an unknown version is told apart from one that is no task at all.
    pub fn decode(body: &[u8]) -> Result<Self, MalformedTask> {
        let value: serde_json::Value = serde_json::from_slice(body)?;
        match value.get("v").and_then(serde_json::Value::as_u64) {
            Some(v) if v != u64::from(VERSION) => Err(MalformedTask::Version(v)),
            _ => {
                let Envelope { payload: Payload::Embed(task), .. } = serde_json::from_value(value)?;
                Ok(task)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: EmbedTask = EmbedTask { recommendation_id: 7, content_version: 2, target: Target::Current };

    #[test]
    fn the_wire_form_is_fixed() {
        let wire = r#"{"v":1,"type":"embed","recommendation_id":7,"content_version":2,"target":"current"}"#;
        assert_eq!(String::from_utf8(TASK.encode()).unwrap(), wire);
        assert_eq!(EmbedTask::decode(wire.as_bytes()).unwrap(), TASK);
        assert_eq!(TASK.to_string(), "7:current:v2");
    }

    #[test]
    fn a_later_version_may_add_fields() {
        let wire =
            r#"{"v":1,"type":"embed","recommendation_id":7,"content_version":2,"target":"current","shard":3}"#;
        assert_eq!(EmbedTask::decode(wire.as_bytes()).unwrap(), TASK);
    }

    #[test]
    fn what_is_no_task_says_why() {
        let reason = |body: &str| EmbedTask::decode(body.as_bytes()).unwrap_err().to_string();
        assert!(reason("hello").starts_with("malformed message"));
        assert!(reason("{}").contains("missing field"));
        assert!(reason(r#"{"v":2,"type":"embed"}"#).contains("version 2"));
        assert!(reason(r#"{"v":1,"type":"delete"}"#).contains("delete"));
    }
}
