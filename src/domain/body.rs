//! Reads the JSON bodies of recommendations into [`Draft`] and [`Patch`]. Every refusal names the field.
//!
//! Bodies are read by hand rather than by derive: serde names a line and a column, a person wants the field.
//! Fields that this program doesn't know are left alone, as MapX's clients send more than we need.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::embedding::Embedding;
use super::priority::Priority;
use super::recommendation::{ContentType, Draft, Patch, PlaceDraft, ServiceDraft, Visibility};

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

type Read<T> = Result<T, InvalidField>;

/// Characters, not bytes: the limit that a person can count.
const MAX_SHORT: usize = 1_000;
const MAX_DESCRIPTION: usize = 100_000;
const MAX_LABELS: usize = 100;
const MAX_QUERY: usize = 2_000;
const MAX_LIMIT: u64 = 100;
/// Levels of lists and objects in a field. Readers of answers commonly stop at 128 levels, our own envelope
/// included: without a limit, one recommendation would make every list that shows it unreadable.
const MAX_DEPTH: usize = 64;

/// The problem with `groupIds`.
pub const NO_GROUPS: &str = "can't be used: this database has no table friend_group_members";

/// Reads a body of `save` or a line of `import`. `acting` is the authenticated user, who wins over the
/// body's `user_id`; `dimensions` is the length of a ready `embedding`.
pub fn draft(body: Value, acting: Option<Uuid>, dimensions: usize) -> Read<Draft> {
    let fields = Fields::new(body)?;
    let stated = fields.text("user_id", MAX_SHORT)?.map(|id| user_id("user_id", &id)).transpose()?;
    let user_id = acting.or(stated).ok_or_else(|| InvalidField::new("user_id", "is required"))?;
    // Coordinates or a category alone name no place that could be found again.
    let place = Some(fields.place()?).filter(PlaceDraft::is_named);
    let service = Some(fields.service()?).filter(ServiceDraft::is_named);
    let inferred = match (&place, &service) {
        (Some(_), _) => ContentType::Place,
        (None, Some(_)) => ContentType::Service,
        (None, None) => ContentType::Unclear,
    };
    Ok(Draft {
        user_id,
        content_type: fields.content_type()?.unwrap_or(inferred),
        title: fields.text("title", MAX_SHORT)?,
        description: fields.description()?.ok_or_else(|| InvalidField::new("description", "is required"))?,
        content_data: fields.object("content_data")?,
        labels: fields.labels()?.unwrap_or_default(),
        metadata: fields.object("metadata")?,
        rating: fields.rating()?,
        visibility: fields.parsed::<Visibility>("visibility")?.unwrap_or(Visibility::Friends),
        place,
        service,
        embedding: fields.embedding(dimensions)?,
        priority: fields.parsed::<Priority>("priority")?,
    })
}

/// Reads a body of `PUT`: an absent field stays as it is, `null` clears what can be cleared.
pub fn patch(body: Value, dimensions: usize) -> Read<Patch> {
    let fields = Fields::new(body)?;
    let patch = Patch {
        content_type: fields.content_type()?,
        title: fields.clearable("title", |f| f.text("title", MAX_SHORT))?,
        description: fields.description()?,
        content_data: fields.clearable("content_data", |f| f.object("content_data"))?,
        labels: fields.clearable("labels", |f| f.labels())?.map(Option::unwrap_or_default),
        metadata: fields.clearable("metadata", |f| f.object("metadata"))?,
        rating: fields.clearable("rating", |f| f.rating())?,
        visibility: fields.parsed::<Visibility>("visibility")?,
        place: Some(fields.place()?).filter(|place| *place != PlaceDraft::default()),
        service: Some(fields.service()?).filter(|service| *service != ServiceDraft::default()),
        embedding: fields.embedding(dimensions)?,
        priority: fields.parsed::<Priority>("priority")?,
    };
    if fields.is_null("description") {
        return Err(InvalidField::new("description", "can't be cleared"));
    }
    Ok(patch)
}

/// The fields of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchFields {
    pub query: String,
    /// 1 to 100.
    pub limit: usize,
    /// −1 to 1.
    pub threshold: Option<f32>,
    pub content_type: Option<ContentType>,
    /// One of `hybrid`, `semantic` and `keyword`.
    pub mode: Option<String>,
}

/// Reads a body of `search`. `noSummary` and `summaryMode` are MapX's own and ignored.
pub fn search(body: Value) -> Read<SearchFields> {
    let fields = Fields::new(body)?;
    let query = fields.text("query", MAX_QUERY)?;
    let mode = fields.text("mode", MAX_SHORT)?;
    if mode.as_deref().is_some_and(|mode| !["hybrid", "semantic", "keyword"].contains(&mode)) {
        return Err(InvalidField::new("mode", "must be \"hybrid\", \"semantic\" or \"keyword\""));
    }
    // Narrowing to groups needs MapX's own table of their members; ignoring it would show too much.
    if fields.get("groupIds").is_some_and(|ids| ids.as_array().is_none_or(|ids| !ids.is_empty())) {
        return Err(InvalidField::new("groupIds", NO_GROUPS));
    }
    Ok(SearchFields {
        query: query.ok_or_else(|| InvalidField::new("query", "is required and must not be blank"))?,
        limit: fields.limit()?.unwrap_or(10),
        threshold: fields.within("threshold", 1.0)?.map(|t| t as f32),
        content_type: fields.content_type()?,
        mode,
    })
}

/// A user's id as it stands in a header, a path or a body.
pub fn user_id(field: &str, text: &str) -> Read<Uuid> {
    Uuid::try_parse(text.trim()).map_err(|_| InvalidField::new(field, "must be a UUID"))
}

/// The fields of a JSON object; `null` counts as absent.
struct Fields(Map<String, Value>);

impl Fields {
    fn new(body: Value) -> Read<Self> {
        match body {
            Value::Object(map) => Ok(Self(map)),
            other => Err(InvalidField::new("body", format!("must be a JSON object, not {}", kind(&other)))),
        }
    }

    fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|v| !v.is_null())
    }

    fn is_null(&self, field: &str) -> bool {
        self.0.get(field).is_some_and(Value::is_null)
    }

    /// `Some(None)` for a field that is present and null.
    fn clearable<T>(&self, field: &str, read: impl Fn(&Self) -> Read<Option<T>>) -> Read<Option<Option<T>>> {
        let value = read(self)?;
        Ok(if self.is_null(field) { Some(None) } else { value.map(Some) })
    }

    /// A string without NUL and within `max` characters; a blank one counts as absent.
    fn text(&self, field: &str, max: usize) -> Read<Option<String>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let text = checked_text(field, value, max)?.trim();
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    fn description(&self) -> Read<Option<String>> {
        let text = self.text("description", MAX_DESCRIPTION)?;
        if text.is_none() && self.get("description").is_some() {
            return Err(InvalidField::new("description", "must not be empty or blank"));
        }
        Ok(text)
    }

    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&self, field: &str) -> Read<Option<T>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let word = checked_text(field, value, MAX_SHORT)?;
        word.parse().map(Some).map_err(|e: T::Err| InvalidField::new(field, e.to_string()))
    }

    fn content_type(&self) -> Read<Option<ContentType>> {
        if let Some("tip" | "contact") = self.get("content_type").and_then(Value::as_str) {
            let problem =
                "\"tip\" and \"contact\" are no longer supported; use \"place\", \"service\" or \"unclear\"";
            return Err(InvalidField::new("content_type", problem));
        }
        self.parsed("content_type")
    }

    fn rating(&self) -> Read<Option<i16>> {
        let Some(value) = self.get("rating") else { return Ok(None) };
        let whole = value.as_i64().or_else(|| value.as_f64().filter(|n| n.fract() == 0.0).map(|n| n as i64));
        match whole {
            Some(stars @ 1..=5) => Ok(Some(stars as i16)),
            _ => Err(InvalidField::new("rating", "must be a whole number from 1 to 5")),
        }
    }

    /// A number from `-limit` to `limit`.
    fn within(&self, field: &str, limit: f64) -> Read<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64() {
            Some(n) if n.abs() <= limit => Ok(Some(n)),
            _ => Err(InvalidField::new(field, format!("must be a number from -{limit} to {limit}"))),
        }
    }

    fn limit(&self) -> Read<Option<usize>> {
        let Some(value) = self.get("limit") else { return Ok(None) };
        match value.as_u64() {
            Some(n @ 1..=MAX_LIMIT) => Ok(Some(n as usize)),
            _ => Err(InvalidField::new("limit", format!("must be a whole number from 1 to {MAX_LIMIT}"))),
        }
    }

    fn object(&self, field: &str) -> Read<Option<Map<String, Value>>> {
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

    fn labels(&self) -> Read<Option<Vec<String>>> {
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

    fn embedding(&self, dimensions: usize) -> Read<Option<Embedding>> {
        let Some(value) = self.get("embedding") else { return Ok(None) };
        let numbers = value
            .as_array()
            .and_then(|items| items.iter().map(|n| n.as_f64().map(|n| n as f32)).collect::<Option<Vec<f32>>>());
        let numbers = numbers.ok_or_else(|| InvalidField::new("embedding", "must be a list of numbers"))?;
        let embedding = Embedding::new(numbers, dimensions);
        embedding.map(Some).map_err(|e| InvalidField::new("embedding", e.to_string()))
    }

    fn place(&self) -> Read<PlaceDraft> {
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

    fn service(&self) -> Read<ServiceDraft> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const USER: &str = "3f0c1a52-7c1e-4b0a-9b57-0a6f1d2e4c01";

    fn with(field: &str, value: Value) -> Result<Draft, String> {
        let mut body = json!({"user_id": USER, "description": "Good"});
        body[field] = value;
        draft(body, None, 2).map_err(|e| e.to_string())
    }

    #[test]
    fn the_smallest_body_is_enough() {
        let draft = with("title", Value::Null).unwrap();
        assert_eq!(draft.content_type, ContentType::Unclear);
        assert_eq!(draft.visibility, Visibility::Friends);
        assert_eq!(draft.user_id.to_string(), USER);
    }

    #[test]
    fn the_type_is_inferred_from_what_is_named() {
        assert_eq!(with("place_name", json!("Almada")).unwrap().content_type, ContentType::Place);
        assert_eq!(with("service_name", json!("Ana")).unwrap().content_type, ContentType::Service);
        assert!(with("place_lat", json!(1.5)).unwrap().place.is_none());
    }

    #[test]
    fn every_refusal_names_its_field() {
        let bad = [
            ("description", json!("   "), "description must not be empty or blank"),
            ("description", json!(7), "description must be a string, not a number"),
            ("description", json!("a\0b"), "description must not contain NUL"),
            ("user_id", json!("me"), "user_id must be a UUID"),
            ("rating", json!(0), "rating must be a whole number from 1 to 5"),
            ("rating", json!(6), "rating must be"),
            ("rating", json!(2.5), "rating must be"),
            ("rating", json!("5"), "rating must be"),
            ("visibility", json!("secret"), "visibility must be \"friends\" or \"public\""),
            ("content_type", json!("tip"), "content_type \"tip\" and \"contact\" are no longer"),
            ("content_type", json!("song"), "content_type must be"),
            ("labels", json!("a"), "labels must be a list of strings"),
            ("labels", json!(["a", 1]), "labels[1] must be a string"),
            ("metadata", json!([1]), "metadata must be an object, not a list"),
            ("metadata", json!({"a": [{"b\0": 1}]}), "metadata must not contain NUL"),
            ("place_lat", json!(91), "place_lat must be a number from -90 to 90"),
            ("place_lng", json!("x"), "place_lng must be a number"),
            ("embedding", json!([1.0]), "embedding has 1 numbers, must have 2"),
            ("embedding", json!([1e300, 0.0]), "embedding number 0 is not finite"),
            ("embedding", json!([0, 0]), "embedding is all zeros"),
            ("embedding", json!("no"), "embedding must be a list of numbers"),
            ("priority", json!("urgent"), "priority must be"),
            ("title", json!("x".repeat(1_001)), "title must be at most 1000 characters"),
        ];
        for (field, value, expected) in bad {
            let message = with(field, value).unwrap_err();
            assert!(message.starts_with(expected), "{message:?} should start with {expected:?}");
        }
        assert_eq!(draft(json!([]), None, 2).unwrap_err().field, "body");
        assert_eq!(draft(json!({"user_id": USER}), None, 2).unwrap_err().to_string(), "description is required");
        assert_eq!(draft(json!({"description": "x"}), None, 2).unwrap_err().to_string(), "user_id is required");
    }

    #[test]
    fn the_acting_user_wins_over_the_body() {
        let other = Uuid::from_u128(9);
        assert_eq!(draft(json!({"user_id": USER, "description": "x"}), Some(other), 2).unwrap().user_id, other);
    }

    #[test]
    fn a_patch_tells_absent_from_null() {
        let change = patch(json!({"title": null, "rating": 4, "labels": null}), 2).unwrap();
        assert_eq!(change.title, Some(None));
        assert_eq!(change.rating, Some(Some(4)));
        assert_eq!(change.labels, Some(vec![]));
        assert_eq!(change.metadata, None);
        assert!(patch(json!({"description": null}), 2).unwrap_err().to_string().contains("cleared"));
        assert!(patch(json!({"description": ""}), 2).unwrap_err().to_string().contains("blank"));
    }
}
