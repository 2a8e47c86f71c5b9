//! The provider's 200: checked as a whole before any vector of it is used.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::Value;

use super::EmbedError;
use super::blot::Blot;
use crate::domain::embedding::{Embedding, InvalidEmbedding};

/// Vectors of fewer numbers can be whole by chance.
const FEWEST_TELLING: usize = 8;

/// What the answer must be.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub inputs: usize,
    pub dimensions: usize,
    /// Cohere's shape, where the order alone says which text a vector belongs to.
    pub cohere: bool,
}

/// What it was.
#[derive(Debug, PartialEq)]
pub struct Checked {
    /// In the order of the inputs.
    pub embeddings: Vec<Embedding>,
    /// As the provider counts them.
    pub tokens: Option<u64>,
}

#[derive(Deserialize)]
struct OpenAi {
    data: Vec<Item>,
    #[serde(default)]
    usage: Value,
}

#[derive(Deserialize)]
struct Cohere {
    embeddings: Floats,
    #[serde(default)]
    meta: Value,
}

#[derive(Deserialize)]
struct Floats {
    float: Vec<Numbers>,
}

#[derive(Deserialize)]
struct Item {
    index: Option<i64>,
    embedding: Numbers,
}

/// A list of numbers, or the base64 of their bytes, as servers answer with either whatever they were asked for.
enum Numbers {
    /// `null`, which is how some servers write a number that is not finite, is NaN here.
    List(Vec<f32>),
    Base64(String),
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumbersVisitor)
    }
}

struct NumbersVisitor;

impl<'de> Visitor<'de> for NumbersVisitor {
    type Value = Numbers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of numbers or base64")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Numbers, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = list.next_element::<Option<f32>>()? {
            numbers.push(number.unwrap_or(f32::NAN));
        }
        Ok(Numbers::List(numbers))
    }

    fn visit_str<E>(self, text: &str) -> Result<Numbers, E> {
        Ok(Numbers::Base64(text.to_owned()))
    }
}

impl Numbers {
    fn decoded(self) -> Result<Vec<f32>, EmbedError> {
        let text = match self {
            Self::List(numbers) => return Ok(numbers),
            Self::Base64(text) => text,
        };
        let refuse = |problem: &str| EmbedError::Transient(format!("the provider's vector {problem}"));
        let bytes = STANDARD.decode(text).map_err(|_| refuse("is no valid base64"))?;
        let (numbers, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(refuse(&format!("has {} bytes in base64, not four a number", bytes.len())));
        }
        Ok(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }
}

/// What the answer for `inputs` texts may take at most: a number has up to 32 bytes, indented, and room for
/// 3,072 of them lets an answer of the wrong dimension be told from an endless one.
pub fn max_bytes(inputs: usize, dimensions: usize) -> usize {
    64 * 1024 + inputs * dimensions.max(3_072) * 32
}

/// The vectors in the order of the inputs, paired by `index`.
///
/// # Errors
/// [`EmbedError::Transient`] for what is no answer to so many texts, [`EmbedError::Misconfigured`] for another number
/// of dimensions or quantised vectors, and [`EmbedError::Rejected`] for a vector without a direction: a model makes
/// one of the same text again and again, and splitting the call finds it.
pub fn check(
    body: &[u8],
    content_type: Option<&HeaderValue>,
    expected: Expected,
    blot: &Blot,
) -> Result<Checked, EmbedError> {
    if expected.cohere {
        let answer: Cohere = parse(body, content_type, blot)?;
        let tokens = count(&answer.meta["billed_units"]["input_tokens"]);
        let numbers = answer.embeddings.float;
        counted(numbers.len(), expected)?;
        let embeddings = numbers.into_iter().map(|numbers| embedding(numbers, expected.dimensions));
        return Ok(Checked { embeddings: embeddings.collect::<Result<_, _>>()?, tokens });
    }
    let answer: OpenAi = parse(body, content_type, blot)?;
    let tokens = count(&answer.usage["prompt_tokens"]).or_else(|| count(&answer.usage["total_tokens"]));
    Ok(Checked { embeddings: paired(answer.data, expected)?, tokens })
}

/// Some servers write whole numbers with a point.
fn count(tokens: &Value) -> Option<u64> {
    tokens.as_u64().or_else(|| tokens.as_f64().filter(|tokens| *tokens >= 0.0).map(|tokens| tokens as u64))
}

fn counted(got: usize, expected: Expected) -> Result<(), EmbedError> {
    let inputs = expected.inputs;
    match got == inputs {
        true => Ok(()),
        false => Err(EmbedError::Transient(format!("the provider answered {got} vectors for {inputs} texts"))),
    }
}

fn paired(items: Vec<Item>, expected: Expected) -> Result<Vec<Embedding>, EmbedError> {
    let Expected { inputs, dimensions, .. } = expected;
    counted(items.len(), expected)?;
    let mut embeddings: Vec<Option<Embedding>> = vec![None; inputs];
    for (at, item) in items.into_iter().enumerate() {
        let refuse = |problem: String| EmbedError::Transient(format!("the provider answered {problem}"));
        let Some(index) = item.index else {
            return Err(refuse(format!("without saying which text vector {at} is of (it has no index)")));
        };
        let slot = usize::try_from(index).ok().and_then(|index| embeddings.get_mut(index));
        let slot = slot.ok_or_else(|| refuse(format!("for text {index} of {inputs} texts")))?;
        if slot.is_some() {
            return Err(refuse(format!("twice for text {index}")));
        }
        *slot = Some(embedding(item.embedding, dimensions)?);
    }
    // As many as asked for, all within range and none twice: every slot is filled.
    Ok(embeddings.into_iter().flatten().collect())
}

fn embedding(numbers: Numbers, dimensions: usize) -> Result<Embedding, EmbedError> {
    let values = numbers.decoded()?;
    if is_quantised(&values) {
        let reason = "the provider's vectors are whole numbers, quantised to int8 or binary; floats are needed";
        return Err(EmbedError::Misconfigured(reason.into()));
    }
    Embedding::new(values, dimensions).map_err(|error| match error {
        InvalidEmbedding::Dimensions { got, expected } => EmbedError::Misconfigured(format!(
            "the provider's vectors have {got} dimensions, embedder.dimensions says {expected}"
        )),
        other => EmbedError::Rejected(format!("the provider's vector {other}")),
    })
}

/// Whole numbers beyond one: no model makes those, but a gateway set to int8 answers them where floats were asked
/// for. Scaled to length one they would pass for vectors, and mix with better ones in one column. Zeros and ones
/// alone are left to the other checks: 1, 0, 0 is a direction.
fn is_quantised(values: &[f32]) -> bool {
    values.len() >= FEWEST_TELLING
        && values.iter().all(|value| value.is_finite() && value.fract() == 0.0)
        && values.iter().any(|value| value.abs() > 1.0)
}

fn parse<'a, T: Deserialize<'a>>(
    body: &'a [u8],
    content_type: Option<&HeaderValue>,
    blot: &Blot,
) -> Result<T, EmbedError> {
    serde_json::from_slice(body).map_err(|error| {
        // JSON has no such numbers, but Python's encoder writes them.
        let has = |word: &[u8]| body.windows(word.len()).any(|window| window == word);
        if error.is_syntax() && body.trim_ascii_start().starts_with(b"{") && (has(b"NaN") || has(b"Infinity")) {
            return EmbedError::Rejected("the provider's vector holds a number that is not finite".into());
        }
        let kind = content_type.and_then(|kind| kind.to_str().ok()).unwrap_or("of no type");
        let reason = blot.quote(&format!("({kind}) is no list of embeddings: {error}"));
        EmbedError::Transient(format!("the provider's answer {reason}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(data: &str, inputs: usize) -> Result<Vec<Embedding>, EmbedError> {
        let body = format!(r#"{{"object": "list", "data": {data}, "usage": {{"total_tokens": 7.0}}}}"#);
        let expected = Expected { inputs, dimensions: 2, cohere: false };
        let checked = check(body.as_bytes(), None, expected, &Blot::default())?;
        assert_eq!(checked.tokens, Some(7));
        Ok(checked.embeddings)
    }

    fn transient(data: &str, inputs: usize) -> String {
        match answered(data, inputs) {
            Err(EmbedError::Transient(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn vectors_are_paired_by_index() {
        let data = r#"[{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [3, 0]}]"#;
        let embeddings = answered(data, 2).unwrap();
        assert_eq!(embeddings[0].as_slice(), [1.0, 0.0]);
        assert_eq!(embeddings[1].as_slice(), [0.0, 1.0]);
    }

    #[test]
    fn what_is_no_answer_is_refused_whole() {
        let one = r#"[{"index": 0, "embedding": [1, 0]}]"#;
        assert_eq!(transient(one, 2), "the provider answered 1 vectors for 2 texts");
        let two = r#"[{"index": 0, "embedding": [1, 0]}, {"index": 0, "embedding": [1, 0]}]"#;
        assert_eq!(transient(two, 2), "the provider answered twice for text 0");
        for index in ["7", "-1"] {
            let data = format!(r#"[{{"index": {index}, "embedding": [1, 0]}}]"#);
            assert_eq!(transient(&data, 1), format!("the provider answered for text {index} of 1 texts"));
        }
        assert!(transient(r#"[{"embedding": [1, 0]}]"#, 1).ends_with("(it has no index)"));
        assert!(transient(r#"[{"index": 0, "embedding": 7}]"#, 1).contains("is no list of embeddings"));
    }

    #[test]
    fn base64_holds_little_endian_numbers() {
        let base64 = |text: &str| format!(r#"[{{"index": 0, "embedding": "{text}"}}]"#);
        assert_eq!(answered(&base64("AACAPwAAAAA="), 1).unwrap()[0].as_slice(), [1.0, 0.0]);
        assert_eq!(
            transient(&base64("AACAPwA="), 1),
            "the provider's vector has 5 bytes in base64, not four a number"
        );
        assert_eq!(transient(&base64("AACA*wAAAAA="), 1), "the provider's vector is no valid base64");
        assert!(matches!(answered(&base64("AACAPw=="), 1), Err(EmbedError::Misconfigured(_))), "one number of two");
        assert!(matches!(answered(&base64("AADAfwAAAAA="), 1), Err(EmbedError::Rejected(_))), "NaN");
    }

    #[test]
    fn vectors_without_a_direction_are_rejected() {
        for numbers in ["NaN, 0", "-Infinity, 0", "null, 0", "1e39, 0", "0, 0"] {
            let data = format!(r#"[{{"index": 0, "embedding": [{numbers}]}}]"#);
            let error = answered(&data, 1).unwrap_err();
            assert!(matches!(error, EmbedError::Rejected(_)), "{numbers}: {error:?}");
        }
    }

    #[test]
    fn quantised_vectors_are_told_from_whole_ones() {
        assert!(is_quantised(&[12.0, -127.0, 3.0, 0.0, 5.0, 77.0, -4.0, 1.0]));
        assert!(!is_quantised(&[0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]));
        assert!(!is_quantised(&[12.0, -127.5, 3.0, 0.0, 5.0, 77.0, -4.0, 1.0]));
        assert!(!is_quantised(&[3.0, 0.0]));
    }

    #[test]
    fn another_dimension_names_both() {
        let error = answered(r#"[{"index": 0, "embedding": [1, 0, 0]}]"#, 1).unwrap_err();
        let reason = "the provider's vectors have 3 dimensions, embedder.dimensions says 2";
        assert_eq!(error, EmbedError::Misconfigured(reason.into()));
    }

    #[test]
    fn cohere_answers_in_order() {
        let expected = |inputs| Expected { inputs, dimensions: 2, cohere: true };
        let body = br#"{"embeddings": {"float": [[3, 0], [0, 2]]}, "meta": {"billed_units": {"input_tokens": 4}}}"#;
        let checked = check(body, None, expected(2), &Blot::default()).unwrap();
        assert_eq!((checked.embeddings[1].as_slice(), checked.tokens), (&[0.0, 1.0][..], Some(4)));
        let error = check(body, None, expected(3), &Blot::default()).unwrap_err();
        assert_eq!(error.to_string(), "the provider answered 2 vectors for 3 texts");
    }

    #[test]
    fn a_page_for_people_is_named_as_such() {
        let html = HeaderValue::from_static("text/html");
        let expected = Expected { inputs: 1, dimensions: 2, cohere: false };
        let error = check(b"<html>NaN</html>", Some(&html), expected, &Blot::default()).unwrap_err();
        assert!(matches!(&error, EmbedError::Transient(why) if why.contains("(text/html)")), "{error:?}");
    }
}
