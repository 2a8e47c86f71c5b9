//! Any server that speaks OpenAI's `POST /v1/embeddings`.

mod answer;
mod failure;

use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Response, Url, redirect};
use serde::Serialize;

use super::{
    Answer, BuildError, EmbedError, Embedder, Limits, Purpose, UNMEASURED_THRESHOLD, configured_threshold,
};
use crate::config::embedder::EmbedderSettings;
use crate::config::secret::Secret;

/// OpenAI's own: 2,048 inputs a call and 8,192 tokens an input. A token is at least a byte, so a text of
/// 8,000 bytes always fits.
const LIMITS: Limits = Limits { max_inputs: 2_048, max_input_bytes: 8_000, worthwhile_inputs: 1 };

/// Of the body of an error no more than this is read.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// One provider, one model, one pool of connections.
#[derive(Debug)]
pub struct OpenAiEmbedder {
    client: Client,
    endpoint: Url,
    api_key: Secret,
    /// `Bearer …`, marked sensitive; none for a server that wants no key.
    authorization: Option<HeaderValue>,
    model: String,
    dimensions: usize,
    threshold: f32,
    timeout: Duration,
}

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    input: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<usize>,
    encoding_format: &'static str,
}

impl OpenAiEmbedder {
    /// Checks the settings and prepares the client; calls nobody.
    pub fn new(settings: &EmbedderSettings) -> Result<Self, BuildError> {
        if settings.model.is_empty() {
            return Err(BuildError::new("model", "names no model, which provider = \"openai\" needs"));
        }
        if settings.dimensions == 0 {
            return Err(BuildError::new("dimensions", "must say how many dimensions the provider's vectors have"));
        }
        let endpoint = endpoint(&settings.base_url).map_err(|problem| BuildError::new("base_url", problem))?;
        Ok(Self {
            client: client(settings, &endpoint)?,
            endpoint,
            authorization: authorization(&settings.api_key)?,
            api_key: settings.api_key.clone(),
            model: settings.model.clone(),
            dimensions: settings.dimensions,
            threshold: configured_threshold(settings).unwrap_or(UNMEASURED_THRESHOLD),
            timeout: Duration::from_millis(settings.timeout_ms),
        })
    }

    /// Only the third generation takes fewer dimensions than it has; others refuse the parameter.
    fn requested_dimensions(&self) -> Option<usize> {
        let name = self.model.rsplit('/').next().unwrap_or_default();
        name.starts_with("text-embedding-3").then_some(self.dimensions)
    }

    async fn post(&self, texts: &[String]) -> Result<Response, EmbedError> {
        let body = Request {
            model: &self.model,
            input: texts,
            dimensions: self.requested_dimensions(),
            encoding_format: "float",
        };
        let mut request = self.client.post(self.endpoint.clone()).json(&body);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        request.send().await.map_err(|error| failure::of_transport(error, self.timeout))
    }
}

/// `{base_url}/embeddings`, a query string kept.
fn endpoint(base_url: &str) -> Result<Url, String> {
    let mut url = Url::parse(base_url).map_err(|error| format!("is no URL ({error})"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with http:// or https://".into());
    }
    // It would show up in logs and errors.
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a password; embedder.api_key is the place for it".into());
    }
    url.path_segments_mut().expect("http URLs have a path").pop_if_empty().push("embeddings");
    Ok(url)
}

fn client(settings: &EmbedderSettings, endpoint: &Url) -> Result<Client, BuildError> {
    // reqwest brings no cryptography of its own. An error says that the process has a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .timeout(Duration::from_millis(settings.timeout_ms))
        .connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
        // A redirect would carry texts, and perhaps the key, to a host that nobody configured.
        .redirect(redirect::Policy::none());
    if endpoint.scheme() == "http" {
        // A machine without any root certificate can still reach a provider that needs none.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| BuildError::new("base_url", failure::chain(&error)))
}

fn authorization(key: &Secret) -> Result<Option<HeaderValue>, BuildError> {
    if key.is_empty() {
        return Ok(None);
    }
    // The error says nothing of the value, and neither may we.
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
        .map_err(|_| BuildError::new("api_key", "has characters that no HTTP header may hold"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Reads at most `max` bytes into `body`; what was read stays there when the rest fails.
async fn read(
    response: &mut Response,
    max: usize,
    timeout: Duration,
    body: &mut Vec<u8>,
) -> Result<(), EmbedError> {
    while let Some(chunk) = response.chunk().await.map_err(|error| failure::of_transport(error, timeout))? {
        if body.len() + chunk.len() > max {
            let reason = format!("the provider's answer is longer than the {max} bytes that it can need");
            return Err(EmbedError::Transient(reason));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(())
}

#[async_trait]
impl Embedder for OpenAiEmbedder {
    fn model(&self) -> &str {
        &self.model
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    fn default_threshold(&self) -> f32 {
        self.threshold
    }

    async fn embed(&self, texts: &[String], _purpose: Purpose) -> Result<Answer, EmbedError> {
        let mut response = self.post(texts).await?;
        let mut body = Vec::new();
        if !response.status().is_success() {
            // The status alone says what to do, so a body that breaks off is no matter.
            let _ = read(&mut response, MAX_ERROR_BYTES, self.timeout, &mut body).await;
            return Err(failure::of_status(response.status(), response.headers(), &body, &self.api_key));
        }
        let (count, dimensions) = (texts.len(), self.dimensions);
        read(&mut response, answer::max_bytes(count, dimensions), self.timeout, &mut body).await?;
        let content_type = response.headers().get(CONTENT_TYPE).cloned();
        // Megabytes of digits: nothing for the threads that serve requests.
        tokio::task::spawn_blocking(move || answer::check(&body, content_type.as_ref(), count, dimensions))
            .await
            .map_err(|error| EmbedError::Transient(format!("reading the answer failed: {error}")))?
            .map(|embeddings| Answer::of(embeddings.into_iter().map(Ok)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::embedder::Provider;

    fn settings() -> EmbedderSettings {
        EmbedderSettings {
            provider: Provider::Openai,
            model_dir: String::new(),
            base_url: "https://api.example.com/v1".into(),
            model: "text-embedding-3-small".into(),
            dimensions: 512,
            api_key: Secret::new("sk-very-secret"),
            timeout_ms: 1_000,
            connect_timeout_ms: 500,
            threshold: -1.0,
            requests_per_minute: 0,
            tokens_per_minute: 0,
            rate_window_ms: 60_000,
        }
    }

    fn problem(change: impl FnOnce(&mut EmbedderSettings)) -> String {
        let mut settings = settings();
        change(&mut settings);
        OpenAiEmbedder::new(&settings).unwrap_err().to_string()
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_key() {
        assert!(problem(|s| s.base_url.clear()).starts_with("embedder.base_url: is no URL"));
        assert!(problem(|s| s.base_url = "ftp://host/v1".into()).starts_with("embedder.base_url: must begin"));
        assert!(problem(|s| s.base_url = "https://me:pw@host/v1".into()).contains("embedder.base_url: must not"));
        assert!(problem(|s| s.model.clear()).starts_with("embedder.model: "));
        assert!(problem(|s| s.dimensions = 0).starts_with("embedder.dimensions: "));
        let bad_key = problem(|s| s.api_key = Secret::new("sk-very\nsecret"));
        assert!(bad_key.starts_with("embedder.api_key: ") && !bad_key.contains("sk-very"), "{bad_key}");
    }

    #[test]
    fn the_endpoint_lies_below_the_base_url() {
        for (base, expected) in [
            ("http://host/v1", "http://host/v1/embeddings"),
            ("http://host/v1/", "http://host/v1/embeddings"),
            ("http://host", "http://host/embeddings"),
            ("https://host/d?api-version=1", "https://host/d/embeddings?api-version=1"),
        ] {
            assert_eq!(endpoint(base).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn dimensions_are_sent_to_models_that_take_them() {
        for (model, expected) in [
            ("text-embedding-3-small", Some(512)),
            ("openai/text-embedding-3-large", Some(512)),
            ("text-embedding-ada-002", None),
            ("nomic-embed-text", None),
        ] {
            let embedder = OpenAiEmbedder::new(&EmbedderSettings { model: model.into(), ..settings() }).unwrap();
            assert_eq!((embedder.model(), embedder.requested_dimensions()), (model, expected));
        }
    }

    #[test]
    fn the_threshold_is_the_configured_one_or_mapx_s() {
        let threshold = |threshold| {
            OpenAiEmbedder::new(&EmbedderSettings { threshold, ..settings() }).unwrap().default_threshold()
        };
        assert_eq!([threshold(-1.0), threshold(0.0), threshold(0.4)], [0.7, 0.0, 0.4]);
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", OpenAiEmbedder::new(&settings()).unwrap());
        assert!(!shown.contains("sk-very-secret"), "{shown}");
    }
}
