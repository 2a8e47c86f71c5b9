//! `[embedder]`: who makes the vectors.

use serde::{Deserialize, Serialize};

use super::secret::Secret;

/// Who makes the vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The model in the binary, or the Model2Vec directory `model_dir`.
    Local,
    /// Any server that speaks OpenAI's `/v1/embeddings`.
    Openai,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbedderSettings {
    pub provider: Provider,
    /// A Model2Vec directory that replaces the built-in model; empty for the built-in one.
    pub model_dir: String,
    /// Up to and with `/v1`; `openai` only.
    pub base_url: String,
    /// The provider's model name; `openai` only.
    pub model: String,
    /// Components of a vector; 0 takes what the local model has, `openai` needs a number.
    pub dimensions: usize,
    pub api_key: Secret,
    /// Milliseconds for a whole call, and for its connection.
    pub timeout_ms: u64,
    pub connect_timeout_ms: u64,
    /// Cosine from which a search result counts; negative takes the model's own calibrated default.
    pub threshold: f32,
    /// The provider's rate limits over all processes; 0 takes what its answers say.
    pub requests_per_minute: u64,
    pub tokens_per_minute: u64,
    /// Milliseconds over which they count.
    pub rate_window_ms: u64,
}
