//! Errors as the API answers them. A status is chosen here and nowhere else.

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::auth::TokenError;
use crate::config::SettingsError;
use crate::db::DbError;
use crate::domain::fields::InvalidField;

/// The body of every answer that isn't a success.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// Always false.
    pub success: bool,
    /// For a person; names the field where there is one.
    pub message: String,
    /// For a program.
    #[schema(example = "INVALID_FIELD")]
    pub error: String,
}

const CHALLENGE: &str = "Bearer realm=\"mapx-embeddings\"";

/// Why a request isn't served, named by what the client does next.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Mend the field and send it again.
    #[error(transparent)]
    InvalidField(#[from] InvalidField),
    /// The same, in the words in which a boot refuses the setting.
    #[error(transparent)]
    InvalidSetting(#[from] SettingsError),
    /// The tables' own rules don't allow it.
    #[error("{0}")]
    Refused(String),
    #[error("the body is not valid JSON: {0}")]
    MalformedJson(String),
    #[error("user_id is required: send the header x-user-id")]
    NoIdentity,
    #[error("only its author may do that")]
    Forbidden,
    /// Send a token, or another one.
    #[error("{0}")]
    Unauthenticated(String),
    /// Nothing helps: the caller isn't one who may.
    #[error("{0}")]
    NotAllowed(&'static str),
    /// The field names somebody else than the token does.
    #[error("{0} is not the user of the token")]
    NotTheTokens(&'static str),
    #[error("a web page of another site must not do that; server.cors_origins names those that may")]
    CrossSite,
    /// Slow down; the seconds after which it will be served again.
    #[error("too many requests from this client; try again in {0} s")]
    RateLimited(u64),
    #[error("{0} not found")]
    NotFound(&'static str),
    /// Something that is there forbids it; the message names it.
    #[error("{0}")]
    Conflict(String),
    #[error("no such route: {0}")]
    NoRoute(String),
    #[error("{0} is not allowed here")]
    MethodNotAllowed(String),
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body did not arrive in time")]
    TooSlow,
    #[error("the body could not be read: {0}")]
    BrokenBody(String),
    /// Try again when another one has gone.
    #[error("there are {0} listeners already (server.max_event_listeners)")]
    TooManyListeners(usize),
    /// Try again later.
    #[error("the service can't answer just now")]
    Unavailable,
    /// Try again later: nobody can be asked whether the token is good.
    #[error("{0}")]
    KeysAway(String),
    #[error("the service is busy with as many requests as it takes at once")]
    Overloaded,
    #[error("internal error")]
    Internal,
}

impl ApiError {
    fn parts(&self) -> (StatusCode, &'static str) {
        match self {
            Self::InvalidField(_) | Self::InvalidSetting(_) => (StatusCode::BAD_REQUEST, "INVALID_FIELD"),
            Self::Refused(_) => (StatusCode::BAD_REQUEST, "REFUSED"),
            Self::MalformedJson(_) => (StatusCode::BAD_REQUEST, "MALFORMED_JSON"),
            Self::BrokenBody(_) => (StatusCode::BAD_REQUEST, "BROKEN_BODY"),
            Self::NoIdentity => (StatusCode::UNAUTHORIZED, "NO_IDENTITY"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "FORBIDDEN"),
            Self::Unauthenticated(_) => (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"),
            Self::NotAllowed(_) => (StatusCode::FORBIDDEN, "NOT_ALLOWED"),
            Self::NotTheTokens(_) => (StatusCode::FORBIDDEN, "NOT_THE_TOKENS_USER"),
            Self::CrossSite => (StatusCode::FORBIDDEN, "CROSS_SITE"),
            Self::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "CONFLICT"),
            Self::NoRoute(_) => (StatusCode::NOT_FOUND, "NO_SUCH_ROUTE"),
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED"),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "BODY_TIMEOUT"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE"),
            Self::TooManyListeners(_) => (StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_LISTENERS"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
            Self::KeysAway(_) => (StatusCode::SERVICE_UNAVAILABLE, "KEYS_AWAY"),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL"),
        }
    }

    /// The header that goes with the status.
    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            // RFC 6750, section 3: what to send.
            Self::Unauthenticated(_) => Some((WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE))),
            Self::RateLimited(seconds) => Some((RETRY_AFTER, (*seconds).into())),
            Self::Overloaded | Self::KeysAway(_) => Some((RETRY_AFTER, 1.into())),
            _ => None,
        }
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Refused(_) => Self::Unauthenticated(error.to_string()),
            TokenError::KeysAway => Self::KeysAway(error.to_string()),
        }
    }
}

impl From<DbError> for ApiError {
    /// The details are for the log: they may name a path or a statement.
    fn from(error: DbError) -> Self {
        match error {
            DbError::Unavailable(reason) | DbError::Conflict(reason) => {
                tracing::warn!(reason, "the database is away");
                Self::Unavailable
            }
            DbError::Refused(problem) => Self::Refused(problem),
            DbError::Clash(_) => Self::Refused(error.to_string()),
            DbError::Failed(_) | DbError::Incompatible(_) => {
                tracing::error!(%error, "the database failed");
                Self::Internal
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body())).into_response();
        response.headers_mut().extend(self.header());
        response
    }
}

impl ApiError {
    /// As the description shows it.
    pub fn status(&self) -> StatusCode {
        self.parts().0
    }

    /// The body that it is answered with.
    pub fn body(&self) -> ErrorBody {
        ErrorBody { success: false, message: self.to_string(), error: self.parts().1.to_owned() }
    }
}
