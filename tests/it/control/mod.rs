//! Control over the calls to a provider.

mod adaptive;
mod budget;
mod limits;
pub mod metrics;
mod outage;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mapx_embeddings::config::Settings;
use mapx_embeddings::config::embedder::Provider;
use mapx_embeddings::domain::embedding::Embedding;
use mapx_embeddings::embedder::{Answer, EmbedError, Embedder, Limits, Purpose};

use crate::support::app::TestApp;
use crate::support::provider::vector;

const DIMENSIONS: usize = 8;

/// What a provider in the test's own process does with a call.
#[async_trait]
trait Conduct: Send + Sync + 'static {
    async fn call(&self, texts: &[String], purpose: Purpose) -> Result<Option<u64>, EmbedError>;
    /// The upper bound of a text's tokens.
    fn tokens(&self, text: &str) -> usize;
}

struct InProcess<C>(Arc<C>);

#[async_trait]
impl<C: Conduct> Embedder for InProcess<C> {
    fn model(&self) -> &str {
        "in-process"
    }

    fn dimensions(&self) -> usize {
        DIMENSIONS
    }

    fn limits(&self) -> Limits {
        Limits { max_inputs: 2_048, max_input_tokens: 8_000, max_call_tokens: 300_000, worthwhile_inputs: 1 }
    }

    fn tokens(&self, text: &str) -> usize {
        self.0.tokens(text)
    }

    fn default_threshold(&self) -> f32 {
        0.5
    }

    async fn embed(&self, texts: &[String], purpose: Purpose) -> Result<Answer, EmbedError> {
        let tokens = self.0.call(texts, purpose).await?;
        let vectors =
            texts.iter().map(|t| Ok(Embedding::new(vector(t, DIMENSIONS), DIMENSIONS).expect("a direction")));
        Ok(Answer { tokens, ..Answer::of(vectors) })
    }
}

/// A service whose calls to this provider are under control.
async fn controlled<C: Conduct>(provider: Arc<C>, change: impl FnOnce(&mut Settings)) -> TestApp {
    TestApp::with_embedder(Arc::new(InProcess(provider)), |settings| {
        settings.embedder.provider = Provider::Openai;
        settings.embedder.base_url = "http://provider.invalid/v1".into();
        settings.embedder.model = "in-process".into();
        settings.embedder.dimensions = DIMENSIONS;
        change(settings);
    })
    .await
}

/// Calls at once with a provider that takes the best of eight and has queues beyond.
struct EightAtOnce {
    slots: tokio::sync::Semaphore,
    most: AtomicUsize,
    now: AtomicUsize,
}

#[async_trait]
impl Conduct for EightAtOnce {
    async fn call(&self, _: &[String], _: Purpose) -> Result<Option<u64>, EmbedError> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let slot = self.slots.acquire().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(slot);
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(None)
    }

    fn tokens(&self, _: &str) -> usize {
        1
    }
}
