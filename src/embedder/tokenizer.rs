//! Tokens of a text.

use std::sync::LazyLock;

use tiktoken_rs::{CoreBPE, cl100k_base};

/// The tokenizer of OpenAI's embedding models. It takes 140 ms and 26 MiB, so only who asks one of them loads it.
static CL100K: LazyLock<Option<CoreBPE>> = LazyLock::new(|| cl100k_base().ok());

/// Bytes that are encoded at once: one long word takes more than linear time.
const STRETCH: usize = 2_000;

/// How a model's tokens are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tokenizer {
    Cl100k,
    /// A token stands for at least a byte, so there are never more tokens than bytes.
    Bytes,
}

impl Tokenizer {
    /// For a provider's model name, which may have its vendor in front.
    pub fn of(model: &str) -> Self {
        let name = model.rsplit('/').next().unwrap_or_default();
        match name.starts_with("text-embedding-3-") || name == "text-embedding-ada-002" {
            true => Self::Cl100k,
            false => Self::Bytes,
        }
    }

    pub fn count(self, text: &str) -> usize {
        match self {
            Self::Cl100k => CL100K.as_ref().map_or(text.len(), |bpe| stretches(text, bpe)),
            Self::Bytes => text.len(),
        }
    }
}

/// The tokens of `text`, counted in stretches that end before a space, where the tokenizer begins a word anyway.
/// A word without an end is cut, and its tokens counted with one more.
fn stretches(mut text: &str, bpe: &CoreBPE) -> usize {
    let mut count = 0;
    while text.len() > STRETCH {
        let window = &text[..text.floor_char_boundary(STRETCH)];
        let space = window.rfind(' ').filter(|at| *at > 0);
        let (part, rest) = text.split_at(space.unwrap_or(window.len()));
        count += bpe.encode_ordinary(part).len() + usize::from(space.is_none());
        text = rest;
    }
    count + bpe.encode_ordinary(text).len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn openai_s_models_are_counted_exactly_and_others_never_too_low() {
        // The example of OpenAI's own guide to counting.
        assert_eq!(Tokenizer::of("text-embedding-3-small").count("tiktoken is great!"), 6);
        assert_eq!(Tokenizer::of("openai/text-embedding-ada-002"), Tokenizer::Cl100k);
        assert_eq!(Tokenizer::of("nomic-embed-text").count("tiktoken is great!"), 18);
    }

    #[test]
    fn stretches_change_no_count() {
        let bpe = CL100K.as_ref().unwrap();
        let text = "Good light, no music;  every table has a plug.\n Naïve 🎻 don't. ".repeat(200);
        assert_eq!(stretches(&text, bpe), bpe.encode_ordinary(&text).len());
    }

    #[test]
    fn a_word_without_an_end_is_counted_in_time() {
        let begin = Instant::now();
        let count = Tokenizer::Cl100k.count(&"x".repeat(1_000_000));
        assert!((100_000..=1_000_000).contains(&count), "{count}");
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    }
}
