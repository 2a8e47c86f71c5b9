//! The text that is embedded: how it is composed of a recommendation, hashed, and split when it is long.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::recommendation::ContentType;

/// What of a recommendation, its place and its service goes into the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    pub content_type: ContentType,
    pub title: Option<String>,
    pub description: String,
    pub labels: Vec<String>,
    pub rating: Option<i16>,
    pub place_name: Option<String>,
    pub place_address: Option<String>,
    pub service_name: Option<String>,
    pub service_type: Option<String>,
    pub service_business_name: Option<String>,
    pub content_data: Option<Map<String, Value>>,
    pub metadata: Option<Map<String, Value>>,
}

impl Content {
    /// The text as MapX composes it:
    /// `Type: …. Title: …. Description: …. Tags: …. Rating: n/5. Place: …. Address: …. Service: …. By: ….
    /// Details: k: v, …. Metadata: k: v, …`, absent parts left out, keys in alphabetical order, so that
    /// equal content gives an equal text.
    pub fn compose(&self) -> String {
        let service = join(&[&self.service_type, &self.service_name]);
        let parts = [
            ("Type", Some(self.content_type.to_string())),
            ("Title", self.title.clone()),
            ("Description", Some(self.description.clone())),
            ("Tags", (!self.labels.is_empty()).then(|| self.labels.join(", "))),
            ("Rating", self.rating.map(|r| format!("{r}/5"))),
            ("Place", self.place_name.clone()),
            ("Address", self.place_address.clone()),
            ("Service", service),
            ("By", self.service_business_name.clone()),
            ("Details", self.content_data.as_ref().and_then(pairs)),
            ("Metadata", self.metadata.as_ref().and_then(pairs)),
        ];
        let mut text = String::new();
        for (name, value) in parts {
            let Some(value) = value.filter(|v| !v.trim().is_empty()) else { continue };
            if !text.is_empty() {
                text.push_str(". ");
            }
            text.push_str(name);
            text.push_str(": ");
            text.push_str(value.trim().trim_end_matches('.'));
        }
        text
    }
}

fn join(words: &[&Option<String>]) -> Option<String> {
    let present: Vec<&str> = words.iter().filter_map(|w| w.as_deref()).filter(|w| !w.trim().is_empty()).collect();
    (!present.is_empty()).then(|| present.join(", "))
}

/// `k: v, k: v` in alphabetical order of the keys; nulls left out.
fn pairs(map: &Map<String, Value>) -> Option<String> {
    let mut entries: Vec<(&String, &Value)> = map.iter().filter(|(_, v)| !v.is_null()).collect();
    entries.sort_by_key(|(key, _)| *key);
    let text = entries.iter().map(|(k, v)| format!("{k}: {}", plain(v))).collect::<Vec<_>>().join(", ");
    (!text.is_empty()).then_some(text)
}

/// A value in words: strings bare, lists and objects flattened in a stable order.
fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Object(map) => pairs(map).unwrap_or_default(),
        other => other.to_string(),
    }
}

/// The SHA-256 of a composed text in hex: equal hash and model mean that the vector is known already.
pub fn content_hash(text: &str) -> String {
    let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or('0');
    Sha256::digest(text.as_bytes()).iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// A token is seldom longer than this, in bytes: where to begin looking for a part's end, and from where on a text is
/// taken to be too long without being counted.
const LONG_TOKEN: usize = 8;

/// Splits `text` into parts of at most `max_tokens` tokens, at the last sentence end, else white space, else
/// character boundary that fits. Nothing is left out but white space at the cuts.
///
/// `tokens` counts a text's tokens and never says more than it has bytes, as byte-level tokenizers can't; `str::len`
/// is the upper bound.
pub fn split(text: &str, max_tokens: usize, tokens: impl Fn(&str) -> usize) -> Vec<&str> {
    // A character has up to four bytes; a smaller limit could never be met.
    let max_tokens = max_tokens.max(4);
    let fits = |text: &str| {
        text.len() <= max_tokens
            || text.len() <= max_tokens.saturating_mul(LONG_TOKEN) && tokens(text) <= max_tokens
    };
    let mut parts = Vec::new();
    let mut rest = text.trim();
    while !fits(rest) {
        let (part, tail) = rest.split_at(first_part(rest, max_tokens, &tokens));
        parts.push(part.trim_end());
        rest = tail.trim_start();
    }
    if !rest.is_empty() || parts.is_empty() {
        parts.push(rest);
    }
    parts
}

/// The length in bytes of the first part of `text`, which has more than `max_tokens` tokens: never 0.
fn first_part(text: &str, max_tokens: usize, tokens: impl Fn(&str) -> usize) -> usize {
    let mut window = text.len().min(max_tokens.saturating_mul(LONG_TOKEN));
    loop {
        let at = cut(text, window);
        // As many bytes as tokens always fit.
        if window <= max_tokens {
            return at;
        }
        let count = tokens(text[..at].trim_end());
        if count <= max_tokens {
            return at;
        }
        // In proportion, and a little less, so that the next look is likely the last.
        let fewer = (at as f64 * max_tokens as f64 / count as f64 * 0.97) as usize;
        window = fewer.min(window - 1).max(max_tokens);
    }
}

/// Where to cut `text`, which is longer than fits, within its first `max_bytes` bytes: never 0.
fn cut(text: &str, max_bytes: usize) -> usize {
    let window = &text[..text.floor_char_boundary(max_bytes)];
    // A sentence end in the first half would leave too short a part.
    let sentence = window.rfind(". ").map(|at| at + 1).filter(|at| *at > window.len() / 2);
    let space = || window.rfind(char::is_whitespace).filter(|at| *at > 0);
    sentence.or_else(space).unwrap_or(window.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Option<Map<String, Value>> {
        value.as_object().cloned()
    }

    fn content() -> Content {
        Content {
            content_type: ContentType::Place,
            title: Some("Quiet corner".into()),
            description: "Good light, no music.".into(),
            labels: vec!["cafe".into(), "wifi".into()],
            rating: Some(5),
            place_name: Some("Almada".into()),
            place_address: Some("Rua 1, Lisbon".into()),
            service_name: None,
            service_type: None,
            service_business_name: None,
            content_data: object(json!({"price": "3 €", "best": ["mon", "tue"], "none": null})),
            metadata: object(json!({"b": {"y": 2, "x": 1}, "a": true})),
        }
    }

    #[test]
    fn the_text_is_composed_as_mapx_does() {
        assert_eq!(
            content().compose(),
            "Type: place. Title: Quiet corner. Description: Good light, no music. Tags: cafe, wifi. Rating: 5/5. \
             Place: Almada. Address: Rua 1, Lisbon. Details: best: mon tue, price: 3 €. \
             Metadata: a: true, b: x: 1, y: 2"
        );
    }

    #[test]
    fn a_service_names_its_type_and_business() {
        let service = Content {
            content_type: ContentType::Service,
            title: None,
            labels: vec![],
            rating: None,
            place_name: None,
            place_address: None,
            service_name: Some("Ana".into()),
            service_type: Some("plumber".into()),
            service_business_name: Some("Ana & Sons".into()),
            content_data: None,
            metadata: None,
            ..content()
        };
        let text = "Type: service. Description: Good light, no music. Service: plumber, Ana. By: Ana & Sons";
        assert_eq!(service.compose(), text);
    }

    #[test]
    fn equal_content_has_an_equal_hash_whatever_the_order_of_keys() {
        let mut other = content();
        other.metadata = object(json!({"a": true, "b": {"x": 1, "y": 2}}));
        assert_eq!(content_hash(&content().compose()), content_hash(&other.compose()));
        other.rating = Some(4);
        assert_ne!(content_hash(&content().compose()), content_hash(&other.compose()));
        assert_eq!(content_hash("").len(), 64);
    }

    #[test]
    fn short_text_is_one_part() {
        assert_eq!(split(" a b ", 10, str::len), ["a b"]);
        assert_eq!(split("", 10, str::len), [""]);
    }

    #[test]
    fn long_text_is_cut_at_sentences_then_spaces_then_characters() {
        assert_eq!(split("One two three. Four five.", 16, str::len), ["One two three.", "Four five."]);
        assert_eq!(split("alpha beta gamma", 11, str::len), ["alpha beta", "gamma"]);
        assert_eq!(split("ääää", 5, str::len), ["ää", "ää"]);
        assert_eq!(split("abcdefgh", 1, str::len), ["abcd", "efgh"]);
    }

    #[test]
    fn nothing_but_white_space_is_lost() {
        let text = "Lorem ipsum. Dolor sit amet, consectetur 🎻🎻 elit. ".repeat(40);
        let squeeze = |s: &str| s.split_whitespace().collect::<String>();
        for max in [4, 7, 30, 1000] {
            let parts = split(&text, max, str::len);
            assert!(parts.iter().all(|p| p.len() <= max && !p.is_empty()));
            assert_eq!(squeeze(&parts.concat()), squeeze(&text));
        }
    }

    /// A tokenizer that knows words of four letters and single bytes.
    fn fours(text: &str) -> usize {
        text.split_whitespace().map(|word| if word.len() == 4 { 1 } else { word.len() }).sum()
    }

    #[test]
    fn parts_are_as_long_as_their_tokens_allow() {
        let text = "four ".repeat(100);
        let parts = split(&text, 10, fours);
        assert!(parts.iter().all(|part| fours(part) <= 10), "{parts:?}");
        assert!(parts.len() <= 12, "{} parts where 10 do", parts.len());
        assert_eq!(parts.concat().matches("four").count(), 100);
        assert_eq!(split("four four four", 4, fours), ["four four four"], "14 bytes, but 3 tokens");
        // Whatever the tokens are, as many bytes fit.
        let dense = "ab".repeat(60);
        assert!(split(&dense, 10, fours).iter().all(|part| part.len() <= 10));
    }
}
