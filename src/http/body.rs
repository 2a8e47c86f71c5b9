//! Request bodies: read within a size and a time, then parsed as JSON.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_LENGTH;
use futures_util::StreamExt;
use serde_json::Value;

use super::error::ApiError;
use super::state::AppState;

/// A JSON body, not yet looked at. An absent one is `{}`, as the fields say themselves what is missing.
pub struct JsonBody(pub Value);

impl FromRequest<AppState> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let announced = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > state.body_limit) {
            return Err(ApiError::TooLarge(state.body_limit));
        }
        let reading = collect(request.into_body(), state.body_limit);
        let bytes = tokio::time::timeout(state.timeout, reading).await.map_err(|_| ApiError::TooSlow)??;
        parse(&bytes).map(Self)
    }
}

/// One JSON value.
pub fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    if bytes.trim_ascii().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    serde_json::from_slice(bytes).map_err(|e| ApiError::MalformedJson(e.to_string()))
}

async fn collect(body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| ApiError::BrokenBody(e.to_string()))?;
        if bytes.len() + chunk.len() > limit {
            return Err(ApiError::TooLarge(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The next bytes of a streamed body; `None` at its end. `patience` is for each piece, not for the whole.
pub async fn next_chunk(
    stream: &mut (impl futures_util::Stream<Item = Result<Bytes, axum::Error>> + Unpin),
    patience: Duration,
) -> Result<Option<Bytes>, ApiError> {
    let chunk = tokio::time::timeout(patience, stream.next()).await.map_err(|_| ApiError::TooSlow)?;
    chunk.transpose().map_err(|e| ApiError::BrokenBody(e.to_string()))
}
