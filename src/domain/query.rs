//! Reads the JSON body of a search.

use serde_json::Value;

use super::fields::{Fields, InvalidField, MAX_SHORT, Read};
use super::recommendation::ContentType;

const MAX_QUERY: usize = 2_000;

/// The problem with `groupIds`.
pub const NO_GROUPS: &str = "can't be used: this database has no table friend_group_members";

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
