//! Which dead letters a request means, from its query or its body; each problem is told by the name of its field.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::error::ApiError;
use super::params::QueryParams;
use crate::db::dead_letters::DeadCursor;
use crate::domain::dead_letter::{DeadFilter, moment};
use crate::domain::fields::{InvalidField, whole};
use crate::domain::priority::Priority;

/// Ids in one request.
const MAX_IDS: usize = 1_000;
/// Characters of an error that is looked for.
const MAX_ERROR: usize = 1_000;

/// The filter of a query string: `error`, `lane`, `older_than`, `newer_than`.
pub fn of_query(query: &QueryParams) -> Result<DeadFilter, ApiError> {
    let mut filter = DeadFilter::default();
    for field in FIELDS {
        if let Some(text) = query.given(field) {
            set(&mut filter, field, field, text)?;
        }
    }
    Ok(filter)
}

const FIELDS: [&str; 4] = ["error", "lane", "older_than", "newer_than"];

/// The filter of a body: `{"ids": […]}` or `{"filter": {…}}`, where an empty one means all.
pub fn of_body(body: &Map<String, Value>) -> Result<DeadFilter, ApiError> {
    match (body.get("ids"), body.get("filter")) {
        (Some(ids), None) => Ok(DeadFilter { ids: Some(read_ids(ids)?), ..DeadFilter::default() }),
        (None, Some(filter)) => read_filter(filter),
        (Some(_), Some(_)) => {
            Err(InvalidField::new("filter", "must not come with ids: name the one or the other").into())
        }
        (None, None) => Err(InvalidField::new("ids", "or filter is required; an empty filter means all").into()),
    }
}

/// The object that a body must be, with no other fields than these.
pub fn object<'b>(body: &'b Value, fields: &[&str]) -> Result<&'b Map<String, Value>, ApiError> {
    let object = body.as_object().ok_or_else(|| InvalidField::new("body", "must be a JSON object"))?;
    no_others(object, "", fields)?;
    Ok(object)
}

fn no_others(object: &Map<String, Value>, prefix: &str, fields: &[&str]) -> Result<(), ApiError> {
    match object.keys().find(|key| !fields.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let key: String = key.chars().take(64).collect();
            let problem = format!("is unknown; there are {}", fields.join(", "));
            Err(InvalidField::new(format!("{prefix}{key}"), problem).into())
        }
    }
}

/// A field that may be absent or null.
pub fn text<'b>(
    body: &'b Map<String, Value>,
    field: &'static str,
    max: usize,
) -> Result<Option<&'b str>, ApiError> {
    match body.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.chars().count() <= max && !text.contains('\0') => Ok(Some(text)),
        Some(_) => {
            Err(InvalidField::new(field, format!("must be text of at most {max} characters, without NUL")).into())
        }
    }
}

/// A lane, where one is named.
pub fn lane(body: &Map<String, Value>, field: &'static str) -> Result<Option<Priority>, ApiError> {
    text(body, field, 16)?.map(|name| parse_lane(field, name)).transpose()
}

fn parse_lane(field: &str, name: &str) -> Result<Priority, ApiError> {
    name.parse().map_err(|unknown| InvalidField::new(field, format!("{unknown}")).into())
}

fn read_ids(ids: &Value) -> Result<Vec<i64>, ApiError> {
    let wrong = || InvalidField::new("ids", format!("must be 1 to {MAX_IDS} ids of recommendations"));
    let list = ids.as_array().filter(|list| (1..=MAX_IDS).contains(&list.len())).ok_or_else(wrong)?;
    let ids: Option<Vec<i64>> = list.iter().map(|id| whole(id).filter(|id| *id > 0)).collect();
    Ok(ids.ok_or_else(wrong)?)
}

fn read_filter(filter: &Value) -> Result<DeadFilter, ApiError> {
    let fields = filter.as_object().ok_or_else(|| InvalidField::new("filter", "must be an object"))?;
    no_others(fields, "filter.", &FIELDS)?;
    let mut read = DeadFilter::default();
    let named = ["filter.error", "filter.lane", "filter.older_than", "filter.newer_than"];
    for (field, name) in FIELDS.into_iter().zip(named) {
        match fields.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => set(&mut read, field, name, text)?,
            Some(_) => return Err(InvalidField::new(name, "must be text").into()),
        }
    }
    Ok(read)
}

fn set(filter: &mut DeadFilter, field: &str, name: &'static str, text: &str) -> Result<(), ApiError> {
    match field {
        "error" => {
            if text.is_empty() || text.contains('\0') || text.chars().count() > MAX_ERROR {
                let problem = format!("must be 1 to {MAX_ERROR} characters, without NUL");
                return Err(InvalidField::new(name, problem).into());
            }
            filter.error = Some(text.to_owned());
        }
        "lane" => filter.lane = Some(parse_lane(name, text)?),
        "older_than" => filter.older_than = Some(moment(name, text, Utc::now())?),
        _ => filter.newer_than = Some(moment(name, text, Utc::now())?),
    }
    Ok(())
}

/// `cursor`, as [`write_cursor`] has it.
pub fn cursor(query: &QueryParams) -> Result<Option<DeadCursor>, ApiError> {
    let Some(text) = query.given("cursor") else { return Ok(None) };
    let read = || {
        let (at, id) = text.split_once('-')?;
        let failed_at = DateTime::from_timestamp_micros(at.parse().ok()?)?;
        Some(DeadCursor { failed_at, recommendation_id: id.parse().ok()? })
    };
    let wrong = || InvalidField::new("cursor", "must be the next_cursor of a page before");
    Ok(Some(read().ok_or_else(wrong)?))
}

pub fn write_cursor(cursor: DeadCursor) -> String {
    format!("{}-{}", cursor.failed_at.timestamp_micros(), cursor.recommendation_id)
}
