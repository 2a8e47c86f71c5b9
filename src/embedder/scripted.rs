//! A scripted embedder for the unit tests of this room.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use super::{Answer, EmbedError, Embedder, Limits, Purpose, Unembeddable};
use crate::domain::embedding::Embedding;

/// Two-dimensional vectors, different for different texts.
pub fn vector(text: &str) -> Embedding {
    let sum = text.bytes().enumerate().map(|(at, byte)| (at + 1) as f32 * f32::from(byte)).sum::<f32>();
    Embedding::new(vec![sum, 100.0], 2).unwrap()
}

pub struct Scripted {
    pub max_inputs: usize,
    pub max_input_tokens: usize,
    pub max_call_tokens: usize,
    /// Calls with a text that contains it are refused.
    pub poison: &'static str,
    /// Texts that contain it have no vector.
    pub empty: &'static str,
    /// The call (from 0) that fails, and how.
    pub fail: Option<(usize, EmbedError)>,
    pub lose_one: bool,
    /// The call (from 0) that panics.
    pub panics: Option<usize>,
    pub delay: Duration,
    pub sizes: Mutex<Vec<usize>>,
}

impl Default for Scripted {
    fn default() -> Self {
        Self {
            max_inputs: 1_000,
            max_input_tokens: 1_000,
            max_call_tokens: usize::MAX,
            poison: "\0",
            empty: "\0",
            fail: None,
            lose_one: false,
            panics: None,
            delay: Duration::ZERO,
            sizes: Mutex::default(),
        }
    }
}

impl Scripted {
    /// How many texts each call carried.
    pub fn sizes(&self) -> Vec<usize> {
        self.sizes.lock().unwrap().clone()
    }
}

#[async_trait]
impl Embedder for Scripted {
    fn model(&self) -> &str {
        "scripted"
    }

    fn dimensions(&self) -> usize {
        2
    }

    fn limits(&self) -> Limits {
        Limits {
            max_inputs: self.max_inputs,
            max_input_tokens: self.max_input_tokens,
            max_call_tokens: self.max_call_tokens,
            worthwhile_inputs: 1,
        }
    }

    fn default_threshold(&self) -> f32 {
        0.7
    }

    async fn embed(&self, texts: &[String], _purpose: Purpose) -> Result<Answer, EmbedError> {
        let call = {
            let mut sizes = self.sizes.lock().unwrap();
            sizes.push(texts.len());
            sizes.len() - 1
        };
        assert_ne!(self.panics, Some(call), "a bug");
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        if let Some((at, error)) = &self.fail
            && *at == call
        {
            return Err(error.clone());
        }
        if let Some(guilty) = texts.iter().find(|text| text.contains(self.poison)) {
            return Err(EmbedError::Rejected(format!("refused: {guilty}")));
        }
        let empty = || Err(Unembeddable("no word is known".into()));
        let answers = texts.iter().map(|t| if t.contains(self.empty) { empty() } else { Ok(vector(t)) });
        Ok(Answer::of(answers.skip(usize::from(self.lose_one))))
    }
}
