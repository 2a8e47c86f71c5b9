//! The fields of a JSON body, each refused by its name.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::embedding::Embedding;
use super::recommendation::{ContentType, PlaceDraft, ServiceDraft};

/// A body that can't be accepted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct InvalidField {
    pub field: String,
    pub problem: String,
}

impl InvalidField {
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

pub(super) type Read<T> = Result<T, InvalidField>;

/// Characters, not bytes: the limit that a person can count.
pub(super) const MAX_SHORT: usize = 1_000;
const MAX_DESCRIPTION: usize = 100_000;
const MAX_LABELS: usize = 100;
const MAX_LIMIT: u64 = 100;
/// Levels of lists and objects in a field. Readers of answers commonly stop at 128 levels, our own envelope
/// included: without a limit, one recommendation would make every list that shows it unreadable.
const MAX_DEPTH: usize = 64;

/// A user's id as it stands in a header, a path or a body.
pub fn user_id(field: &str, text: &str) -> Read<Uuid> {
    Uuid::try_parse(text.trim()).map_err(|_| InvalidField::new(field, "must be a UUID"))
}

/// A whole number. JavaScript has one kind of number: 4.0 is 4.
pub fn whole(value: &Value) -> Option<i64> {
    // Beyond, it isn't one that an i64 can be.
    // A large one may be read as its neighbour, which is no whole number.
    let in_range = |n: &f64| (n - n.round()).abs() <= n.abs() * f64::EPSILON && n.abs() < 9.2e18;
    value.as_i64().or_else(|| value.as_f64().filter(in_range).map(|n| n.round() as i64))
}

/// The fields of a JSON object; `null` counts as absent.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    pub(super) fn new(body: Value) -> Read<Self> {
        match body {
            Value::Object(map) => Ok(Self(map)),
            other => Err(InvalidField::new("body", format!("must be a JSON object, not {}", kind(&other)))),
        }
    }

    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|v| !v.is_null())
    }

    pub(super) fn is_null(&self, field: &str) -> bool {
        self.0.get(field).is_some_and(Value::is_null)
    }

    /// `Some(None)` for a field that is present and null.
    pub(super) fn clearable<T>(
        &self,
        field: &str,
        read: impl Fn(&Self) -> Read<Option<T>>,
    ) -> Read<Option<Option<T>>> {
        let value = read(self)?;
        Ok(if self.is_null(field) { Some(None) } else { value.map(Some) })
    }

    /// A string without NUL and within `max` characters; a blank one counts as absent.
    pub(super) fn text(&self, field: &str, max: usize) -> Read<Option<String>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let text = checked_text(field, value, max)?.trim();
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    /// A string as it is, a blank one too.
    pub(super) fn raw_text(&self, field: &str, max: usize) -> Read<Option<&str>> {
        self.get(field).map(|value| checked_text(field, value, max)).transpose()
    }

    pub(super) fn description(&self) -> Read<Option<String>> {
        let text = self.text("description", MAX_DESCRIPTION)?;
        if text.is_none() && self.get("description").is_some() {
            return Err(InvalidField::new("description", "must not be empty or blank"));
        }
        Ok(text)
    }

    pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&self, field: &str) -> Read<Option<T>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let word = checked_text(field, value, MAX_SHORT)?;
        word.parse().map(Some).map_err(|e: T::Err| InvalidField::new(field, e.to_string()))
    }

    pub(super) fn content_type(&self) -> Read<Option<ContentType>> {
        if let Some("tip" | "contact") = self.get("content_type").and_then(Value::as_str) {
            let problem =
                "\"tip\" and \"contact\" are no longer supported; use \"place\", \"service\" or \"unclear\"";
            return Err(InvalidField::new("content_type", problem));
        }
        self.parsed("content_type")
    }

    pub(super) fn rating(&self) -> Read<Option<i16>> {
        let Some(value) = self.get("rating") else { return Ok(None) };
        match whole(value) {
            Some(stars @ 1..=5) => Ok(Some(stars as i16)),
            _ => Err(InvalidField::new("rating", "must be a whole number from 1 to 5")),
        }
    }

    /// A number from `-limit` to `limit`.
    pub(super) fn within(&self, field: &str, limit: f64) -> Read<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64() {
            Some(n) if n.abs() <= limit => Ok(Some(n)),
            _ => Err(InvalidField::new(field, format!("must be a number from -{limit} to {limit}"))),
        }
    }

    pub(super) fn limit(&self) -> Read<Option<usize>> {
        let Some(value) = self.get("limit") else { return Ok(None) };
        match whole(value).and_then(|n| u64::try_from(n).ok()) {
            Some(n @ 1..=MAX_LIMIT) => Ok(Some(n as usize)),
            _ => Err(InvalidField::new("limit", format!("must be a whole number from 1 to {MAX_LIMIT}"))),
        }
    }

    pub(super) fn object(&self, field: &str) -> Read<Option<Map<String, Value>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let Value::Object(map) = value else {
            return Err(InvalidField::new(field, format!("must be an object, not {}", kind(value))));
        };
        if has_nul(value) {
            return Err(InvalidField::new(field, "must not contain NUL characters"));
        }
        if depth(value) > MAX_DEPTH {
            return Err(InvalidField::new(field, format!("must be at most {MAX_DEPTH} levels deep")));
        }
        Ok(Some(map.clone()))
    }

    pub(super) fn labels(&self) -> Read<Option<Vec<String>>> {
        let Some(value) = self.get("labels") else { return Ok(None) };
        let Value::Array(items) = value else {
            return Err(InvalidField::new("labels", format!("must be a list of strings, not {}", kind(value))));
        };
        if items.len() > MAX_LABELS {
            return Err(InvalidField::new("labels", format!("must be at most {MAX_LABELS}")));
        }
        let labels = items
            .iter()
            .enumerate()
            .map(|(i, item)| Ok(checked_text(&format!("labels[{i}]"), item, MAX_SHORT)?.trim().to_owned()));
        let labels = labels.collect::<Read<Vec<String>>>()?;
        Ok(Some(labels.into_iter().filter(|label| !label.is_empty()).collect()))
    }

    pub(super) fn embedding(&self, dimensions: usize) -> Read<Option<Embedding>> {
        let Some(value) = self.get("embedding") else { return Ok(None) };
        let numbers = value
            .as_array()
            .and_then(|items| items.iter().map(|n| n.as_f64().map(|n| n as f32)).collect::<Option<Vec<f32>>>());
        let numbers = numbers.ok_or_else(|| InvalidField::new("embedding", "must be a list of numbers"))?;
        let embedding = Embedding::new(numbers, dimensions);
        embedding.map(Some).map_err(|e| InvalidField::new("embedding", e.to_string()))
    }

    pub(super) fn place(&self) -> Read<PlaceDraft> {
        Ok(PlaceDraft {
            google_place_id: self.text("google_place_id", MAX_SHORT)?,
            name: self.text("place_name", MAX_SHORT)?,
            address: self.text("place_address", MAX_SHORT)?,
            lat: self.within("place_lat", 90.0)?,
            lng: self.within("place_lng", 180.0)?,
            category: self.text("place_category", MAX_SHORT)?,
            metadata: self.object("place_metadata")?,
        })
    }

    pub(super) fn service(&self) -> Read<ServiceDraft> {
        Ok(ServiceDraft {
            name: self.text("service_name", MAX_SHORT)?,
            service_type: self.text("service_type", MAX_SHORT)?,
            business_name: self.text("service_business_name", MAX_SHORT)?,
            address: self.text("service_address", MAX_SHORT)?,
            metadata: self.object("service_metadata")?,
        })
    }
}

fn checked_text<'v>(field: &str, value: &'v Value, max: usize) -> Read<&'v str> {
    let Value::String(text) = value else {
        return Err(InvalidField::new(field, format!("must be a string, not {}", kind(value))));
    };
    if text.contains('\0') {
        return Err(InvalidField::new(field, "must not contain NUL characters"));
    }
    if text.chars().nth(max).is_some() {
        return Err(InvalidField::new(field, format!("must be at most {max} characters long")));
    }
    Ok(text)
}

/// PostgreSQL's JSONB refuses NUL anywhere, in keys too.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(s) => s.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(map) => map.iter().any(|(k, v)| k.contains('\0') || has_nul(v)),
        _ => false,
    }
}

/// Levels of lists and objects; 0 for a plain value.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
