//! The embedder room: text in, vectors out, and errors named by what the caller does next.

pub mod batch;
pub mod local;
pub mod openai;
pub mod query;
#[cfg(test)]
mod scripted;

use std::time::Duration;

use async_trait::async_trait;

use crate::config::embedder::EmbedderSettings;
use crate::domain::embedding::Embedding;

/// What one call may carry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Texts in one call.
    pub max_inputs: usize,
    /// UTF-8 bytes of one text: an upper bound of its tokens. Longer texts are embedded in parts.
    pub max_input_bytes: usize,
}

/// A text of which no vector can be made, whoever tries again: blank, emoji only, refused by the provider.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Unembeddable(pub String);

/// A call that failed as a whole.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EmbedError {
    /// Rate limit or overload: wait, and count no attempt.
    #[error("the provider asks to wait {after:?}: {reason}")]
    Wait { after: Duration, reason: String },
    /// Try again later: timeouts, connection trouble, 5xx.
    #[error("{0}")]
    Transient(String),
    /// Nothing will work before a person changes something: key, model, dimension.
    #[error("{0}")]
    Misconfigured(String),
    /// These texts, or one of them, are refused: split the batch until the guilty one stands alone.
    #[error("{0}")]
    Rejected(String),
}

#[async_trait]
pub trait Embedder: Send + Sync + 'static {
    /// The model's id, with its revision where the weights can change under the name. Vectors of two ids
    /// never mix.
    fn model(&self) -> &str;

    /// Components of a vector.
    fn dimensions(&self) -> usize;

    fn limits(&self) -> Limits;

    /// The cosine from which a result counts as a match, calibrated for this model; 0.7 where nobody has
    /// measured, as MapX had it.
    fn default_threshold(&self) -> f32;

    /// Embeds `texts` (at most [`Limits::max_inputs`], each within [`Limits::max_input_bytes`]): one answer
    /// a text, in order. Texts are embedded whole, never cut.
    async fn embed(&self, texts: &[String]) -> Result<Vec<Result<Embedding, Unembeddable>>, EmbedError>;
}

/// The threshold of a model that nobody has calibrated: the one MapX had, for text-embedding-ada-002.
const UNMEASURED_THRESHOLD: f32 = 0.7;

/// Settings of which no embedder can be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("embedder.{key}: {problem}")]
pub struct BuildError {
    /// The key in `[embedder]` that must change.
    pub key: &'static str,
    pub problem: String,
}

impl BuildError {
    fn new(key: &'static str, problem: impl Into<String>) -> Self {
        Self { key, problem: problem.into() }
    }
}

/// A negative threshold asks for the model's own.
fn configured_threshold(settings: &EmbedderSettings) -> Option<f32> {
    (settings.threshold >= 0.0).then_some(settings.threshold)
}
