//! Path and query parameters, refused by name.

use std::collections::HashMap;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use uuid::Uuid;

use super::error::ApiError;
use crate::db::lists::Page;
use crate::domain::fields::{InvalidField, user_id};
use crate::domain::query::NO_GROUPS;
use crate::domain::recommendation::Visibility;

/// The parameters of the path, still text.
pub struct PathParams(HashMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for PathParams {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path: Result<Path<HashMap<String, String>>, PathRejection> =
            Path::from_request_parts(parts, state).await;
        let Path(params) =
            path.map_err(|e| InvalidField::new("path", format!("can't be read: {}", e.body_text())))?;
        Ok(Self(params))
    }
}

impl PathParams {
    pub fn text(&self, name: &'static str) -> Result<&str, ApiError> {
        let value = self.0.get(name).map_or("", String::as_str);
        if value.contains('\0') {
            return Err(InvalidField::new(name, "must not contain NUL characters").into());
        }
        Ok(value)
    }

    /// A row's id.
    pub fn id(&self, name: &'static str) -> Result<i64, ApiError> {
        match self.text(name)?.parse::<i64>() {
            Ok(id) if id > 0 => Ok(id),
            _ => Err(InvalidField::new(name, format!("must be a whole number from 1 to {}", i64::MAX)).into()),
        }
    }

    pub fn user(&self, name: &'static str) -> Result<Uuid, ApiError> {
        Ok(user_id(name, self.text(name)?)?)
    }
}

/// The parameters of the query string, still text.
pub struct QueryParams(HashMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for QueryParams {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query: Result<Query<HashMap<String, String>>, QueryRejection> =
            Query::from_request_parts(parts, state).await;
        let Query(params) =
            query.map_err(|e| InvalidField::new("query", format!("can't be read: {}", e.body_text())))?;
        Ok(Self(params))
    }
}

/// Makes a page of the rows, of which one more than `limit` was asked for, and says how to ask for the next one.
pub fn next_cursor<T>(rows: &mut Vec<T>, limit: u64, id: impl Fn(&T) -> i64) -> Option<String> {
    let more = rows.len() as u64 > limit;
    rows.truncate(limit as usize);
    rows.last().filter(|_| more).map(|row| id(row).to_string())
}

/// Pages of 1 to 100, as MapX's clients ask for them.
pub const DEFAULT_LIMIT: u64 = 20;
pub const MAX_LIMIT: u64 = 100;

impl QueryParams {
    /// `limit`, 1 to 100.
    pub fn limit(&self) -> Result<u64, ApiError> {
        Ok(self.number("limit", 1, MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT))
    }

    /// `cursor`, where it is an id: that of the last row of the page before.
    pub fn cursor(&self) -> Result<Option<i64>, ApiError> {
        let wrong = |_| InvalidField::new("cursor", "must be the next_cursor of a page before");
        Ok(self.given("cursor").map(str::parse).transpose().map_err(wrong)?)
    }

    /// `limit` (1 to 100) and `offset` (from 0).
    pub fn page(&self) -> Result<Page, ApiError> {
        let limit = self.number("limit", 1, MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
        let offset = self.number("offset", 0, i64::MAX as u64)?.unwrap_or(0);
        Ok(Page { limit, offset })
    }

    /// The one visibility that is asked for; `all`, as MapX's clients say it, is as good as none.
    pub fn visibility(&self) -> Result<Option<Visibility>, ApiError> {
        match self.given("visibility") {
            None | Some("all") => Ok(None),
            Some(word) => word
                .parse()
                .map(Some)
                .map_err(|_| InvalidField::new("visibility", "must be \"friends\", \"public\" or \"all\"").into()),
        }
    }

    /// Refuses to narrow to groups, as a search does: ignoring it would show too much.
    pub fn no_groups(&self) -> Result<(), ApiError> {
        match self.given("groupIds") {
            None => Ok(()),
            Some(_) => Err(InvalidField::new("groupIds", NO_GROUPS).into()),
        }
    }

    /// An empty parameter counts as absent.
    pub(super) fn given(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    pub(super) fn number(&self, name: &'static str, min: u64, max: u64) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.given(name) else { return Ok(None) };
        match text.parse::<u64>() {
            Ok(n) if (min..=max).contains(&n) => Ok(Some(n)),
            _ => Err(InvalidField::new(name, format!("must be a whole number from {min} to {max}")).into()),
        }
    }
}
