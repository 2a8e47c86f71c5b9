//! What travels through the broker: an id and a version, never the text.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::envelope::{self, Malformed};

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

/// What a body says.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Payload {
    Embed(EmbedTask),
}

impl EmbedTask {
    /// `{"v":1,"type":"embed","recommendation_id":7,"content_version":2,"target":"current"}`
    pub fn encode(&self) -> Vec<u8> {
        envelope::seal(Payload::Embed(*self))
    }

    /// Reads a message's body.
    ///
    /// # Errors
    /// Says what is no task of this program's.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let Payload::Embed(task) = envelope::open(body)?;
        Ok(task)
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
