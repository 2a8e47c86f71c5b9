//! A provider behind HTTP: OpenAI's API as many servers speak it, and its relatives.

mod answer;
mod blot;
mod client;
mod failure;
mod info;
mod limits;
mod request;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Response, Url};
use tokio::sync::OnceCell;

use self::blot::Blot;
use self::request::Shape;
use super::tokenizer::Tokenizer;
use super::{
    Answer, BuildError, EmbedError, Embedder, Limits, Purpose, UNMEASURED_THRESHOLD, configured_threshold,
};
use crate::config::embedder::EmbedderSettings;
use crate::config::presets::{self, Api};

/// Of the body of an error no more than this is read.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// Tokens of a text where no limit is known: none is longer, so that nothing is split.
const NO_LIMIT: usize = usize::MAX;

/// One provider, one model, one pool of connections.
pub struct RemoteEmbedder {
    client: Client,
    endpoint: Url,
    info: Url,
    shape: Shape,
    dimensions: usize,
    tokenizer: Tokenizer,
    threshold: f32,
    price: Option<f64>,
    timeout: Duration,
    limits: RwLock<Limits>,
    /// Limits that the settings fix, whatever the server tells.
    fixed: Fixed,
    /// What the server has told of its limits.
    learnt: OnceCell<Limits>,
    /// Whether vectors are asked for as base64: until the server refuses that.
    base64: AtomicBool,
    blot: Blot,
}

#[derive(Default)]
struct Fixed {
    max_inputs: Option<usize>,
    max_input_tokens: Option<usize>,
    max_call_tokens: Option<usize>,
}

impl Fixed {
    /// By settings before the preset filled them.
    fn new(settings: &EmbedderSettings, preset: &EmbedderSettings) -> Self {
        let own = |value: usize, default: usize| (value != 0 && value != default).then_some(value);
        Self {
            max_inputs: own(settings.max_inputs, preset.max_inputs),
            max_input_tokens: own(settings.max_input_tokens, preset.max_input_tokens),
            max_call_tokens: own(settings.max_request_tokens, preset.max_request_tokens),
        }
    }
}

impl RemoteEmbedder {
    /// Checks the settings and prepares the client; calls nobody.
    pub fn new(settings: &EmbedderSettings) -> Result<Self, BuildError> {
        let bare =
            EmbedderSettings { max_inputs: 0, max_input_tokens: 0, max_request_tokens: 0, ..settings.clone() };
        let fixed = Fixed::new(settings, &presets::resolve(&bare)?);
        let settings = &presets::resolve(settings)?;
        let api = presets::of(settings)?.api;
        let endpoint =
            request::endpoint(&settings.base_url, api).map_err(|problem| BuildError::new("base_url", problem))?;
        let limit = |value: usize| if value == 0 { NO_LIMIT } else { value };
        Ok(Self {
            client: client::client(settings, api, &endpoint)?,
            info: request::info_endpoint(&endpoint),
            endpoint,
            dimensions: settings.dimensions,
            tokenizer: Tokenizer::of(&settings.model),
            threshold: configured_threshold(settings).unwrap_or(UNMEASURED_THRESHOLD),
            price: (settings.price_per_million_tokens > 0.0).then_some(settings.price_per_million_tokens),
            timeout: Duration::from_millis(settings.timeout_ms),
            limits: RwLock::new(Limits {
                max_inputs: limit(settings.max_inputs),
                max_input_tokens: limit(settings.max_input_tokens),
                max_call_tokens: limit(settings.max_request_tokens),
                worthwhile_inputs: 1,
            }),
            fixed,
            learnt: OnceCell::new(),
            blot: Blot::new(settings),
            shape: Shape {
                api,
                model: settings.model.clone(),
                dimensions: presets::asks_for_dimensions(settings).then_some(settings.dimensions),
            },
            base64: AtomicBool::new(false),
        }
        .asking_for_base64())
    }

    fn asking_for_base64(self) -> Self {
        self.base64.store(self.shape.knows_base64(), Ordering::Relaxed);
        self
    }

    fn limits_in_force(&self) -> Limits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_limits(&self, limits: Limits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Whether a call planned before the limits were known breaks them.
    fn exceeds_limits(&self, texts: &[String]) -> bool {
        let Limits { max_inputs, max_input_tokens, .. } = self.limits_in_force();
        texts.len() > max_inputs || texts.iter().any(|text| self.tokens(text) > max_input_tokens)
    }

    /// One call; its answer of any status.
    async fn post(&self, texts: &[String], purpose: Purpose, base64: bool) -> Result<Response, EmbedError> {
        let body = self.shape.body(texts, purpose, base64);
        let sent = self.client.post(self.endpoint.clone()).json(&body).send().await;
        sent.map_err(|error| failure::of_transport(error, self.timeout, &self.blot))
    }

    /// A call that succeeded, asked for once more with plain numbers where the server knows no base64.
    async fn call(&self, texts: &[String], purpose: Purpose) -> Result<Response, EmbedError> {
        loop {
            let base64 = self.base64.load(Ordering::Relaxed);
            let mut response = self.post(texts, purpose, base64).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            let mut body = Vec::new();
            // The status alone says what to do, so a body that breaks off is no matter.
            let _ = read(&mut response, MAX_ERROR_BYTES, self.timeout, &self.blot, &mut body).await;
            if !base64 || !failure::blames_encoding(status, &body) {
                return Err(failure::of_status(status, response.headers(), &body, texts.len(), &self.blot));
            }
            self.base64.store(false, Ordering::Relaxed);
        }
    }
}

/// Reads at most `max` bytes into `body`; what was read stays there when the rest fails.
async fn read(
    response: &mut Response,
    max: usize,
    timeout: Duration,
    blot: &Blot,
    body: &mut Vec<u8>,
) -> Result<(), EmbedError> {
    let transport = |error| failure::of_transport(error, timeout, blot);
    while let Some(chunk) = response.chunk().await.map_err(transport)? {
        if body.len() + chunk.len() > max {
            let reason = format!("the provider's answer is longer than the {max} bytes that it can need");
            return Err(EmbedError::Transient(reason));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(())
}

/// A compressed body can be a thousand times as long as it looks, so none is asked for and none is unpacked.
fn uncompressed(headers: &HeaderMap, blot: &Blot) -> Result<(), EmbedError> {
    match headers.get(CONTENT_ENCODING).map(|encoding| encoding.to_str().unwrap_or("unknown")) {
        None | Some("identity" | "") => Ok(()),
        Some(encoding) => {
            let encoding = blot.quote(encoding);
            Err(EmbedError::Transient(format!("the provider's answer is compressed ({encoding}), unasked")))
        }
    }
}

#[async_trait]
impl Embedder for RemoteEmbedder {
    fn model(&self) -> &str {
        &self.shape.model
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn limits(&self) -> Limits {
        self.limits_in_force()
    }

    fn tokens(&self, text: &str) -> usize {
        self.tokenizer.count(text)
    }

    fn default_threshold(&self) -> f32 {
        self.threshold
    }

    fn price(&self) -> Option<f64> {
        self.price
    }

    async fn embed(&self, texts: &[String], purpose: Purpose) -> Result<Answer, EmbedError> {
        if self.shape.api == Api::Tei {
            self.learn().await?;
            if self.exceeds_limits(texts) {
                return Err(EmbedError::Transient("the provider's limits are smaller than the call".into()));
            }
        }
        let mut response = self.call(texts, purpose).await?;
        uncompressed(response.headers(), &self.blot)?;
        let allowance = limits::allowance(response.headers());
        let (count, dimensions) = (texts.len(), self.dimensions);
        let mut body = Vec::new();
        let max = answer::max_bytes(count, dimensions);
        read(&mut response, max, self.timeout, &self.blot, &mut body).await?;
        let content_type = response.headers().get(CONTENT_TYPE).cloned();
        let expected = answer::Expected { inputs: count, dimensions, cohere: self.shape.api == Api::Cohere };
        let blot = self.blot.clone();
        // Megabytes of digits: nothing for the threads that serve requests.
        let checked =
            tokio::task::spawn_blocking(move || answer::check(&body, content_type.as_ref(), expected, &blot)).await;
        let checked =
            checked.map_err(|error| EmbedError::Transient(format!("reading the answer failed: {error}")))?;
        let answer::Checked { embeddings, tokens } = checked?;
        Ok(Answer { vectors: embeddings.into_iter().map(Ok).collect(), tokens, allowance })
    }
}

#[cfg(test)]
mod tests;
