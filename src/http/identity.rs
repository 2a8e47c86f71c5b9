//! Who is acting. With authentication it is whom the token names, and a header or body that names another is refused;
//! without, it is the header `x-user-id`, else the body's `user_id`, and a proxy in front must set the header and
//! strip the client's.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use serde_json::Value;
use uuid::Uuid;

use super::error::ApiError;
use crate::auth::{Caller, Rank};
use crate::domain::fields::{InvalidField, user_id};
use crate::domain::webhook::address::origin;

const HEADER: &str = "x-user-id";
const FIELD: &str = "user_id";

/// The user who is acting, as far as it is known before the body is read.
#[derive(Clone, Copy)]
pub struct Acting(pub Option<Uuid>, Rank);

impl<S: Sync> FromRequestParts<S> for Acting {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Caller { user, rank } = caller(parts)?;
        let stated = stated(&parts.headers)?;
        if rank.believes() {
            return Ok(Self(stated, rank));
        }
        let acting = Self(user, rank);
        acting.is_not_another(HEADER, stated)?;
        Ok(acting)
    }
}

/// The guard of the routes has put it there.
fn caller(parts: &Parts) -> Result<Caller, ApiError> {
    parts.extensions.get::<Caller>().copied().ok_or(ApiError::Internal)
}

/// The user of the header `x-user-id`, true or not.
pub fn stated(headers: &HeaderMap) -> Result<Option<Uuid>, ApiError> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let text = value.to_str().map_err(|_| InvalidField::new(HEADER, "must be a UUID"))?;
    Ok(Some(user_id(HEADER, text)?))
}

fn stated_in(body: &Value) -> Result<Option<Uuid>, ApiError> {
    match body.get(FIELD) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(user_id(FIELD, text)?)),
        Some(_) => Err(InvalidField::new(FIELD, "must be a UUID").into()),
    }
}

/// Whether whoever asks may see a webhook's whole URL: it may be the key to what it leads to, and a reader does nothing.
#[derive(Clone, Copy)]
pub struct Discretion(bool);

impl<S: Sync> FromRequestParts<S> for Discretion {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self(caller(parts)?.rank == Rank::Reader))
    }
}

impl Discretion {
    /// The URL, or what of it is no secret.
    pub fn url(self, url: String) -> String {
        if self.0 { origin(&url) } else { url }
    }
}

/// Who is written down for what is done to the queue: the acting user; else which token was used, and in brackets who
/// the header `x-actor` says it was; without authentication who that header says, else nobody.
pub struct Actor(pub String);

const ACTOR: &str = "x-actor";
const MAX_ACTOR: usize = 64;

impl<S: Sync> FromRequestParts<S> for Actor {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let user = Acting::from_request_parts(parts, state).await?.0;
        // Looked at even where the user wins: what is wrong is told, and not only sometimes.
        let said = said(&parts.headers)?;
        if let Some(user) = user {
            return Ok(Self(user.to_string()));
        }
        Ok(Self(match (caller(parts)?.rank, said) {
            (rank, said) if rank.believes() => said.unwrap_or("anonymous").to_owned(),
            (_, Some(said)) => format!("admin token ({said})"),
            (_, None) => "admin token".to_owned(),
        }))
    }
}

fn said(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get(ACTOR) else { return Ok(None) };
    match value.to_str() {
        Ok(name) if (1..=MAX_ACTOR).contains(&name.trim().len()) => Ok(Some(name.trim())),
        _ => Err(InvalidField::new(ACTOR, format!("must be 1 to {MAX_ACTOR} characters of ASCII")).into()),
    }
}

impl Acting {
    /// The acting user, of whom the body may be the only one to tell.
    pub fn or_body(&self, body: &Value) -> Result<Option<Uuid>, ApiError> {
        // The body's is looked at even where the header wins.
        let stated = stated_in(body)?;
        if !self.1.believes() {
            self.is_not_another(FIELD, stated)?;
        }
        Ok(self.0.or(stated.filter(|_| self.1.believes())))
    }

    /// Whose a new recommendation is, where something else than its body says it.
    ///
    /// # Errors
    /// A body that names another user than the token.
    pub fn author(&self, body: &Value) -> Result<Option<Uuid>, ApiError> {
        if !self.1.believes() {
            self.is_not_another(FIELD, stated_in(body)?)?;
        }
        Ok(self.0)
    }

    /// The same for a line of an import, in which an operator names the authors.
    pub fn author_of_line(&self, line: &Value) -> Result<Option<Uuid>, ApiError> {
        if self.1 == Rank::Admin {
            let stated = stated_in(line)?;
            return Ok(if stated.is_some() { None } else { self.0 });
        }
        self.author(line)
    }

    pub fn required(id: Option<Uuid>) -> Result<Uuid, ApiError> {
        id.ok_or(ApiError::NoIdentity)
    }

    /// Whether it may see how the service is operated.
    pub fn watches(&self) -> bool {
        !matches!(self.1, Rank::Member | Rank::Anonymous | Rank::Believed)
    }

    /// Never silently somebody else than was meant.
    fn is_not_another(&self, field: &'static str, stated: Option<Uuid>) -> Result<(), ApiError> {
        match (stated, self.0) {
            (Some(stated), user) if user != Some(stated) => Err(match self.1 {
                Rank::Anonymous => {
                    ApiError::Unauthenticated(format!("{field} is believed from a token only, and there is none"))
                }
                _ => ApiError::NotTheTokens(field),
            }),
            _ => Ok(()),
        }
    }
}
