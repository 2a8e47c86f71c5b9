//! What every message's body has in common: a version beside what it says. A message published before a deploy is read
//! after it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Envelope<P> {
    v: u32,
    #[serde(flatten)]
    payload: P,
}

/// A body that isn't one of ours; the reason goes with it to the dead letters.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error("malformed message: {0}")]
    Json(#[from] serde_json::Error),
    #[error("unknown message version {0}, this program reads {VERSION}")]
    Version(u64),
}

/// The body that says `payload`, a tagged enum of numbers and fixed words.
pub(super) fn seal<P: Serialize>(payload: P) -> Vec<u8> {
    serde_json::to_vec(&Envelope { v: VERSION, payload }).expect("numbers and fixed words always serialise")
}

/// What a body says; an unknown version is told apart from one that is no message of ours at all.
pub(super) fn open<P: DeserializeOwned>(body: &[u8]) -> Result<P, Malformed> {
    // Nearly always: without the tree of values, in a third of the time.
    if let Ok(Envelope { v: VERSION, payload }) = serde_json::from_slice(body) {
        return Ok(payload);
    }
    let value: serde_json::Value = serde_json::from_slice(body)?;
    match value.get("v").and_then(serde_json::Value::as_u64) {
        Some(v) if v != u64::from(VERSION) => Err(Malformed::Version(v)),
        _ => Ok(serde_json::from_value::<Envelope<P>>(value)?.payload),
    }
}
