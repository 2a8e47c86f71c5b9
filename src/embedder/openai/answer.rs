//! The provider's 200: checked as a whole before any vector of it is used.

use reqwest::header::HeaderValue;
use serde::Deserialize;

use super::EmbedError;
use super::failure::bounded;
use crate::domain::embedding::{Embedding, InvalidEmbedding};

#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    index: usize,
    /// `null` is how some servers write a number that is not finite.
    embedding: Vec<Option<f32>>,
}

/// What the answer for `inputs` texts may take at most: a number has up to 32 bytes, indented, and room for
/// 3,072 of them lets an answer of the wrong dimension be told from an endless one.
pub fn max_bytes(inputs: usize, dimensions: usize) -> usize {
    64 * 1024 + inputs * dimensions.max(3_072) * 32
}

/// The vectors in the order of the inputs, paired by `index`.
///
/// [`EmbedError::Transient`] for what is no answer to `inputs` texts, [`EmbedError::Misconfigured`] for another
/// number of dimensions, and [`EmbedError::Rejected`] for a vector without a direction: a model makes one of
/// the same text again and again, and splitting the call finds it.
pub fn check(
    body: &[u8],
    content_type: Option<&HeaderValue>,
    inputs: usize,
    dimensions: usize,
) -> Result<Vec<Embedding>, EmbedError> {
    let answer = parse(body, content_type)?;
    if answer.data.len() != inputs {
        let got = answer.data.len();
        return Err(EmbedError::Transient(format!("the provider answered {got} vectors for {inputs} texts")));
    }
    let mut embeddings: Vec<Option<Embedding>> = vec![None; inputs];
    for item in answer.data {
        let index = item.index;
        let slot = embeddings.get_mut(index).ok_or_else(|| {
            EmbedError::Transient(format!("the provider answered for text {index} of {inputs} texts"))
        })?;
        if slot.is_some() {
            return Err(EmbedError::Transient(format!("the provider answered twice for text {index}")));
        }
        *slot = Some(embedding(item, dimensions)?);
    }
    // As many as asked for, all within range and none twice: every slot is filled.
    Ok(embeddings.into_iter().flatten().collect())
}

fn embedding(item: Item, dimensions: usize) -> Result<Embedding, EmbedError> {
    let values = item.embedding.into_iter().map(|number| number.unwrap_or(f32::NAN)).collect();
    Embedding::new(values, dimensions).map_err(|error| match error {
        InvalidEmbedding::Dimensions { got, expected } => EmbedError::Misconfigured(format!(
            "the provider's vectors have {got} dimensions, embedder.dimensions says {expected}"
        )),
        other => EmbedError::Rejected(format!("the provider's vector {other}")),
    })
}

fn parse(body: &[u8], content_type: Option<&HeaderValue>) -> Result<Answer, EmbedError> {
    serde_json::from_slice(body).map_err(|error| {
        // JSON has no such numbers, but Python's encoder writes them.
        let has = |word: &[u8]| body.windows(word.len()).any(|window| window == word);
        if error.is_syntax() && body.trim_ascii_start().starts_with(b"{") && (has(b"NaN") || has(b"Infinity")) {
            return EmbedError::Rejected("the provider's vector holds a number that is not finite".into());
        }
        let kind = content_type.and_then(|kind| kind.to_str().ok()).unwrap_or("of no type");
        let reason = format!("the provider's answer ({kind}) is no list of embeddings: {error}");
        EmbedError::Transient(bounded(&reason))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(data: &str, inputs: usize) -> Result<Vec<Embedding>, EmbedError> {
        check(format!(r#"{{"object": "list", "data": {data}}}"#).as_bytes(), None, inputs, 2)
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
        let transient = |data, inputs| match answered(data, inputs) {
            Err(EmbedError::Transient(reason)) => reason,
            other => panic!("{other:?}"),
        };
        let one = r#"[{"index": 0, "embedding": [1, 0]}]"#;
        assert_eq!(transient(one, 2), "the provider answered 1 vectors for 2 texts");
        let two = r#"[{"index": 0, "embedding": [1, 0]}, {"index": 0, "embedding": [1, 0]}]"#;
        assert_eq!(transient(two, 2), "the provider answered twice for text 0");
        assert_eq!(
            transient(r#"[{"index": 7, "embedding": [1, 0]}]"#, 1),
            "the provider answered for text 7 of 1 texts"
        );
        assert!(transient(r#"[{"embedding": [1, 0]}]"#, 1).contains("missing field `index`"));
        assert!(transient(r#"[{"index": 0, "embedding": "AACAPw=="}]"#, 1).contains("is no list of embeddings"));
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
    fn another_dimension_names_both() {
        let error = answered(r#"[{"index": 0, "embedding": [1, 0, 0]}]"#, 1).unwrap_err();
        let reason = "the provider's vectors have 3 dimensions, embedder.dimensions says 2";
        assert_eq!(error, EmbedError::Misconfigured(reason.into()));
    }

    #[test]
    fn a_page_for_people_is_named_as_such() {
        let html = HeaderValue::from_static("text/html");
        let error = check(b"<html>NaN</html>", Some(&html), 1, 2).unwrap_err();
        assert!(matches!(&error, EmbedError::Transient(why) if why.contains("(text/html)")), "{error:?}");
    }
}
