//! Who is asking. Without authentication it is the header `x-user-id`, else the body's `user_id`; a proxy
//! in front must set the header and strip the client's.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde_json::Value;
use uuid::Uuid;

use super::error::ApiError;
use crate::domain::fields::{InvalidField, user_id};

const HEADER: &str = "x-user-id";

/// The user of the header, if there is one.
pub struct Acting(pub Option<Uuid>);

impl<S: Sync> FromRequestParts<S> for Acting {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(value) = parts.headers.get(HEADER) else { return Ok(Self(None)) };
        let text = value.to_str().map_err(|_| InvalidField::new(HEADER, "must be a UUID"))?;
        Ok(Self(Some(user_id(HEADER, text)?)))
    }
}

/// Who is written down for what is done to the queue: the acting user, else who the header `x-actor` names, else
/// nobody. Like all of it, as true as the proxy in front makes it.
pub struct Actor(pub String);

const ACTOR: &str = "x-actor";
const MAX_ACTOR: usize = 64;

impl<S: Sync> FromRequestParts<S> for Actor {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let user = Acting::from_request_parts(parts, state).await?.0.map(|user| user.to_string());
        // Looked at even where the user wins: what is wrong is told, and not only sometimes.
        let said = said(parts)?;
        Ok(Self(user.or(said).unwrap_or_else(|| "anonymous".to_owned())))
    }
}

fn said(parts: &Parts) -> Result<Option<String>, ApiError> {
    let Some(value) = parts.headers.get(ACTOR) else { return Ok(None) };
    match value.to_str() {
        Ok(name) if (1..=MAX_ACTOR).contains(&name.trim().len()) => Ok(Some(name.trim().to_owned())),
        _ => Err(InvalidField::new(ACTOR, format!("must be 1 to {MAX_ACTOR} characters of ASCII")).into()),
    }
}

impl Acting {
    /// The header's user, else that of the body.
    pub fn or_body(&self, body: &Value) -> Result<Option<Uuid>, ApiError> {
        // The body's is looked at even where the header wins.
        let stated = match body.get("user_id") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(user_id("user_id", text)?),
            Some(_) => return Err(InvalidField::new("user_id", "must be a UUID").into()),
        };
        Ok(self.0.or(stated))
    }

    pub fn required(id: Option<Uuid>) -> Result<Uuid, ApiError> {
        id.ok_or(ApiError::NoIdentity)
    }
}
