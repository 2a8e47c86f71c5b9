//! `[embedder]`: who makes the vectors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::secret::{Secret, ServerUrl};

/// Who makes the vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The model in the binary, or the Model2Vec directory `model_dir`.
    #[default]
    Local,
    /// A server: one that speaks OpenAI's `/v1/embeddings`, unless `preset` knows better.
    Openai,
}

/// For those who reach a server, 0 and empty mean what the preset has; [`presets::resolve`](super::presets::resolve)
/// puts it in their place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbedderSettings {
    pub provider: Provider,
    /// `NAME:MODEL` of [`PRESETS`](super::presets::PRESETS); implies a server.
    pub preset: String,
    /// A Model2Vec directory that replaces the built-in model; empty for the built-in one.
    pub model_dir: String,
    /// Up to and with `/v1`.
    pub base_url: String,
    /// The provider's model name.
    pub model: String,
    /// Components of a vector; 0 takes what the local model has.
    pub dimensions: usize,
    pub api_key: Secret,
    /// Texts in a request.
    pub max_inputs: usize,
    /// Tokens of a text; a longer one is embedded in parts.
    pub max_input_tokens: usize,
    /// Tokens of a request.
    pub max_request_tokens: usize,
    /// USD.
    pub price_per_million_tokens: f64,
    /// Milliseconds for a whole call, and for its connection.
    pub timeout_ms: u64,
    pub connect_timeout_ms: u64,
    /// `http://USER:PASSWORD@HOST:PORT`; empty for what the environment's `HTTPS_PROXY` says.
    pub proxy: ServerUrl,
    /// PEM file of the only authorities to trust; empty for those of the system.
    pub ca_file: String,
    /// Cosine from which a search result counts; negative takes the model's own calibrated default.
    pub threshold: f32,
    /// The provider's rate limits over all processes; 0 takes what its answers say.
    pub requests_per_minute: u64,
    pub tokens_per_minute: u64,
    /// Milliseconds over which they count.
    pub rate_window_ms: u64,
    /// Sent with every request. Their values may be secrets, and are treated as such.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
}

impl EmbedderSettings {
    /// What to call the provider in a status: `local`, `openai`, or the preset's name.
    pub fn provider_name(&self) -> &str {
        match (self.preset.split(':').next(), self.provider) {
            (Some(name), _) if !name.is_empty() => name,
            (_, Provider::Local) => "local",
            (_, Provider::Openai) => "openai",
        }
    }
}
