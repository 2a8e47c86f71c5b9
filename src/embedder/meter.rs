//! Counts what calls to a provider take. The innermost wrapper: a probe of the guard is a call too.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{Answer, EmbedError, Embedder, Limits, Purpose};
use crate::domain::usage::{Usage, cost};

/// What was used since it was last taken; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Mutex<Usage>>);

impl Meter {
    pub fn add(&self, usage: Usage) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(usage);
    }

    /// What there is, and begins anew.
    pub fn take(&self) -> Usage {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A remote embedder whose calls are counted.
pub struct Metered {
    inner: Arc<dyn Embedder>,
    meter: Meter,
}

impl Metered {
    pub fn new(inner: Arc<dyn Embedder>, meter: Meter) -> Self {
        Self { inner, meter }
    }
}

#[async_trait]
impl Embedder for Metered {
    fn model(&self) -> &str {
        self.inner.model()
    }

    fn dimensions(&self) -> usize {
        self.inner.dimensions()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn tokens(&self, text: &str) -> usize {
        self.inner.tokens(text)
    }

    fn is_paid(&self) -> bool {
        self.inner.is_paid()
    }

    fn price(&self) -> Option<f64> {
        self.inner.price()
    }

    fn default_threshold(&self) -> f32 {
        self.inner.default_threshold()
    }

    async fn embed(&self, texts: &[String], purpose: Purpose) -> Result<Answer, EmbedError> {
        let answer = self.inner.embed(texts, purpose).await?;
        let counted = || texts.iter().map(|text| self.inner.tokens(text) as u64).sum();
        let tokens = answer.tokens.unwrap_or_else(counted);
        let cost = cost(tokens, self.inner.price());
        self.meter.add(Usage { calls: 1, texts: texts.len() as u64, tokens, cached: 0, cost });
        Ok(answer)
    }
}
