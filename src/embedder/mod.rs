//! The embedder room: text in, vectors out, and errors named by what the caller does next.

pub mod batch;
pub mod guard;
pub mod local;
pub mod meter;
pub mod query;
pub mod remote;
#[cfg(test)]
mod scripted;
mod tokenizer;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::local::LocalEmbedder;
use self::remote::RemoteEmbedder;
use crate::config::embedder::{EmbedderSettings, Provider};
use crate::config::{SettingsError, presets};
use crate::domain::embedding::Embedding;

/// What one call may carry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Texts in one call.
    pub max_inputs: usize,
    /// Tokens of one text, as [`Embedder::tokens`] counts them. Longer texts are embedded in parts.
    pub max_input_tokens: usize,
    /// Tokens of all texts of one call together. Read before each call, so that it may change at any time.
    pub max_call_tokens: usize,
    /// Texts that a call should carry where so many wait, more than `queue.batch_size` if need be: above 1 for
    /// a model in this process, whose calls cost less than the statements around them.
    pub worthwhile_inputs: usize,
}

/// What a text's vector is for: some models are asked differently for what is searched and for what is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Document,
    Query,
}

/// What a call that went well brings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// One a text, in order.
    pub vectors: Vec<Result<Embedding, Unembeddable>>,
    /// Tokens that the provider counts for the call, where it says so.
    pub tokens: Option<u64>,
    /// What the provider says of its rate limits.
    pub allowance: Allowance,
}

/// A provider's rate limits as the headers of its answer have them; what it doesn't say is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    pub requests: Quota,
    pub tokens: Quota,
}

/// One of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// In a window, which is a minute unless the provider is known to have another.
    pub limit: Option<u64>,
    /// Left in this window.
    pub left: Option<u64>,
    /// Until all of it is there again.
    pub reset: Option<Duration>,
}

impl Answer {
    /// Of a model that counts nothing.
    pub fn of(vectors: impl IntoIterator<Item = Result<Embedding, Unembeddable>>) -> Self {
        Self { vectors: vectors.into_iter().collect(), ..Self::default() }
    }
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

    /// How many tokens `text` has: exactly where the model's tokenizer is at hand, else an upper bound.
    fn tokens(&self, text: &str) -> usize {
        text.len()
    }

    /// Whether a call is worth saving: not of a model in this process, whose vectors are made as fast as they
    /// could be read.
    fn is_paid(&self) -> bool {
        true
    }

    /// The cosine from which a result counts as a match, calibrated for this model; 0.7 where nobody has
    /// measured, as MapX had it.
    fn default_threshold(&self) -> f32;

    /// USD per million tokens, where it is known.
    fn price(&self) -> Option<f64> {
        None
    }

    /// Embeds `texts` (within [`Embedder::limits`]): one answer a text, in order. Texts are embedded whole, never cut.
    async fn embed(&self, texts: &[String], purpose: Purpose) -> Result<Answer, EmbedError>;
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

impl From<SettingsError> for BuildError {
    fn from(error: SettingsError) -> Self {
        match error {
            SettingsError::Invalid { key, problem } => {
                Self { key: key.strip_prefix("embedder.").unwrap_or(key), problem }
            }
            other => Self::new("preset", other.to_string()),
        }
    }
}

/// The embedder that `settings` describe. Loads the local model (some 20 ms) but calls no provider.
pub fn build(settings: &EmbedderSettings) -> Result<Arc<dyn Embedder>, BuildError> {
    let settings = presets::resolve(settings).map_err(BuildError::from)?;
    Ok(match settings.provider {
        Provider::Local => Arc::new(local(&settings)?),
        Provider::Openai => Arc::new(RemoteEmbedder::new(&settings)?),
    })
}

fn local(settings: &EmbedderSettings) -> Result<LocalEmbedder, BuildError> {
    let embedder = match settings.model_dir.as_str() {
        "" => LocalEmbedder::builtin(),
        dir => LocalEmbedder::from_dir(dir),
    }
    .map_err(|error| BuildError::new("model_dir", error.to_string()))?;
    let (configured, actual) = (settings.dimensions, embedder.dimensions());
    if configured != 0 && configured != actual {
        let problem = format!("is {configured}, but {} has {actual} dimensions", embedder.model());
        return Err(BuildError::new("dimensions", problem));
    }
    Ok(embedder.with_threshold(configured_threshold(settings)))
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// A negative threshold asks for the model's own.
fn configured_threshold(settings: &EmbedderSettings) -> Option<f32> {
    (settings.threshold >= 0.0).then_some(settings.threshold)
}
