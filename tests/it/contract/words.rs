//! An embedder whose cosines a test chooses, and whose failures too.

use std::sync::Arc;

use async_trait::async_trait;
use mapx_embeddings::domain::embedding::Embedding;
use mapx_embeddings::embedder::{Answer, EmbedError, Embedder, Limits, Purpose};
use serde_json::{Value, json};

use crate::support::app::TestApp;

/// Every query points to the first of two directions, so that a document saved with [`at`] has the cosine it
/// asks for. A text with `away` finds the provider away, one with `stuck` never comes back, one with `poison`
/// is refused.
pub struct Words;

/// An app with [`Words`].
pub async fn app() -> TestApp {
    TestApp::with_embedder(Arc::new(Words), |_| {}).await
}

/// The vector whose cosine to every query is this.
pub fn at(cosine: f64) -> Value {
    json!([cosine, (1.0 - cosine * cosine).sqrt()])
}

#[async_trait]
impl Embedder for Words {
    fn model(&self) -> &str {
        "words@1"
    }

    fn dimensions(&self) -> usize {
        2
    }

    fn limits(&self) -> Limits {
        Limits { max_inputs: 1, max_input_tokens: 10_000, max_call_tokens: usize::MAX, worthwhile_inputs: 1 }
    }

    fn default_threshold(&self) -> f32 {
        0.7
    }

    async fn embed(&self, texts: &[String], _purpose: Purpose) -> Result<Answer, EmbedError> {
        let any = |word| texts.iter().any(|text| text.contains(word));
        if any("stuck") {
            std::future::pending::<()>().await;
        }
        if any("away") {
            return Err(EmbedError::Transient("the provider is away".into()));
        }
        if any("poison") {
            return Err(EmbedError::Rejected("the provider refuses this".into()));
        }
        let vector = || Embedding::new(vec![1.0, 0.0], 2).expect("a direction");
        Ok(Answer::of(texts.iter().map(|_| Ok(vector()))))
    }
}
