//! Counts what calls to a provider take. The innermost wrapper: a probe of the guard is a call too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Answer, EmbedError, Embedder, Limits, Purpose};
use crate::domain::history::{Amounts, Measure};
use crate::domain::usage::{Usage, cost};
use crate::measures::{CallOutcome, Measures};

/// What was used since it was last taken; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    metering: Arc<Mutex<Metering>>,
    measures: Arc<Measures>,
}

#[derive(Debug, Default)]
struct Metering {
    usage: Usage,
    /// What the calls were like, for the history.
    calls: Amounts,
}

impl Meter {
    /// One that measures how long calls take, too.
    pub fn new(measures: Arc<Measures>) -> Self {
        Self { metering: Arc::default(), measures }
    }

    /// Where calls are measured.
    pub fn measures(&self) -> &Measures {
        &self.measures
    }

    pub fn add(&self, usage: Usage) {
        let mut metering = self.lock();
        metering.usage.add(usage);
        metering.calls.add(Measure::Tokens, usage.tokens as f64);
        metering.calls.add(Measure::Cost, usage.cost);
    }

    /// What there is, and begins anew.
    pub fn take(&self) -> Usage {
        std::mem::take(&mut self.lock().usage)
    }

    /// Gives back what was taken.
    pub fn put_back(&self, usage: Usage) {
        self.lock().usage.add(usage);
    }

    /// What the calls were like since this was last taken.
    pub fn take_calls(&self) -> Amounts {
        std::mem::take(&mut self.lock().calls)
    }

    fn note(&self, texts: usize, purpose: Purpose, took: Duration, answer: &Result<Answer, EmbedError>) {
        let outcome = match answer {
            Ok(_) => CallOutcome::Answered,
            Err(EmbedError::Rejected(_)) => CallOutcome::Rejected,
            Err(EmbedError::Wait { .. }) => CallOutcome::Refused,
            Err(EmbedError::Transient(_) | EmbedError::Misconfigured(_)) => CallOutcome::Failed,
        };
        self.measures.provider_call[outcome as usize].took(took);
        if purpose == Purpose::Document {
            self.measures.call_texts.observe(texts as f64);
        }
        let calls = &mut self.lock().calls;
        match answer {
            Ok(_) if purpose == Purpose::Document => {
                calls.add(Measure::Calls, 1.0);
                calls.add(Measure::Texts, texts as f64);
                calls.sample(Measure::CallTook, took);
            }
            // A refused text is an answer.
            Ok(_) | Err(EmbedError::Rejected(_)) => {}
            Err(EmbedError::Wait { .. }) => calls.add(Measure::Refused, 1.0),
            Err(EmbedError::Transient(_) | EmbedError::Misconfigured(_)) => calls.add(Measure::CallErrors, 1.0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Metering> {
        self.metering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An embedder whose calls are counted.
pub struct Metered {
    inner: Arc<dyn Embedder>,
    meter: Meter,
    /// Whether somebody counts what they take, too.
    is_billed: bool,
}

impl Metered {
    /// A remote one.
    pub fn new(inner: Arc<dyn Embedder>, meter: Meter) -> Self {
        Self { inner, meter, is_billed: true }
    }

    /// One whose calls cost nobody anything.
    pub fn free(inner: Arc<dyn Embedder>, meter: Meter) -> Self {
        Self { inner, meter, is_billed: false }
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
        let began = Instant::now();
        let answer = self.inner.embed(texts, purpose).await;
        self.meter.note(texts.len(), purpose, began.elapsed(), &answer);
        let answer = answer?;
        if !self.is_billed {
            return Ok(answer);
        }
        let counted = || texts.iter().map(|text| self.inner.tokens(text) as u64).sum();
        let tokens = answer.tokens.unwrap_or_else(counted);
        let cost = cost(tokens, self.inner.price());
        self.meter.add(Usage { calls: 1, texts: texts.len() as u64, tokens, cached: 0, cost });
        Ok(answer)
    }
}
