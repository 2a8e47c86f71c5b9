//! What webhooks were told, and how they answered.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::db::webhooks::{DeliveryAttempt, DeliveryRow, Redelivered, Tested};
use crate::domain::fields::InvalidField;
use crate::domain::webhook::{DeliveryState, Event};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::identity::{Actor, Discretion};
use crate::http::params::{self, PathParams, QueryParams};
use crate::http::shape::Envelope;
use crate::http::state::AppState;

/// A page of deliveries, the newest first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "items": [{
        "id": 12, "webhook": 1, "event_id": "msg_0f3c9d6e2b5a4c1d8e7f60718293a4b5", "event": "embedding.failed",
        "state": "retrying", "attempts": 1, "next_attempt_at": "2026-01-31T12:00:05Z",
        "created_at": "2026-01-31T12:00:00Z", "updated_at": "2026-01-31T12:00:00Z",
        "payload": {
            "type": "embedding.failed", "timestamp": "2026-01-31T12:00:00Z",
            "data": {
                "recommendation_id": 7, "content_version": 1, "status": "failed", "attempts": 4, "class": "transient",
                "job_id": null
            }
        },
        "last_attempt": { "at": "2026-01-31T12:00:00Z", "status": 503, "duration_ms": 12, "error": "status 503" }
    }],
    "next_cursor": "12"
}))]
pub struct DeliveriesBody {
    pub items: Vec<DeliveryBody>,
    /// For the next page; null on the last one.
    pub next_cursor: Option<String>,
}

/// An event for an endpoint.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": 12, "webhook": 1, "event_id": "msg_0f3c9d6e2b5a4c1d8e7f60718293a4b5", "event": "webhook.test",
    "state": "pending", "attempts": 0, "next_attempt_at": null, "created_at": "2026-01-31T12:00:00Z",
    "updated_at": "2026-01-31T12:00:00Z", "last_attempt": null,
    "payload": { "type": "webhook.test", "timestamp": "2026-01-31T12:00:00Z", "data": { "webhook_id": 1 } }
}))]
pub struct DeliveryBody {
    pub id: i64,
    pub webhook: i64,
    /// The header `webhook-id`: the same at each attempt.
    pub event_id: String,
    pub event: Event,
    pub state: DeliveryState,
    /// Requests so far.
    pub attempts: i32,
    /// Where it waits for its next attempt.
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// The body of the request: the event's `type`, its `timestamp` and its `data`.
    #[schema(value_type = Object)]
    pub payload: Value,
    pub last_attempt: Option<LastAttemptBody>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LastAttemptBody {
    pub at: DateTime<Utc>,
    /// Null without an answer.
    pub status: Option<i32>,
    pub duration_ms: i64,
    /// Null for a success.
    pub error: Option<String>,
}

/// A delivery with all its requests and their answers.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": 12, "webhook": 1, "event_id": "msg_0f3c9d6e2b5a4c1d8e7f60718293a4b5", "event": "webhook.test",
    "state": "failed", "attempts": 1, "next_attempt_at": null, "created_at": "2026-01-31T12:00:00Z",
    "updated_at": "2026-01-31T12:00:01Z",
    "payload": { "type": "webhook.test", "timestamp": "2026-01-31T12:00:00Z", "data": { "webhook_id": 1 } },
    "last_attempt": { "at": "2026-01-31T12:00:00Z", "status": 500, "duration_ms": 12, "error": "status 500" },
    "history": [{
        "attempt": 1, "at": "2026-01-31T12:00:00Z", "url": "https://example.com/hooks/mapx",
        "webhook_timestamp": 1769860800, "status": 500, "duration_ms": 12, "response": "out of order",
        "error": "status 500", "worker": "0198c9d6-2b5a-7c1d-8e7f-60718293a4b5"
    }]
}))]
pub struct DeliveryDetailBody {
    #[serde(flatten)]
    pub delivery: DeliveryBody,
    /// The first attempt first.
    pub history: Vec<DeliveryAttemptBody>,
}

/// One request and its answer.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeliveryAttemptBody {
    pub attempt: i32,
    pub at: DateTime<Utc>,
    /// Where the endpoint was then; its origin, to a caller who may only see.
    pub url: String,
    /// The header `webhook-timestamp`: seconds since 1970.
    pub webhook_timestamp: i64,
    /// Null without an answer.
    pub status: Option<i32>,
    pub duration_ms: i64,
    /// The first 1,024 bytes of the answer.
    pub response: Option<String>,
    /// Null for a success.
    pub error: Option<String>,
    /// The process that sent it, as the queue's status has it.
    pub worker: String,
}

impl From<DeliveryRow> for DeliveryBody {
    fn from(row: DeliveryRow) -> Self {
        let last_attempt = row.last_at.map(|at| LastAttemptBody {
            at,
            status: row.last_status,
            duration_ms: row.last_duration_ms.unwrap_or(0),
            error: row.last_error.clone(),
        });
        Self {
            payload: serde_json::from_str(&row.payload()).unwrap_or(Value::Null),
            state: row.state(),
            next_attempt_at: row.next_attempt_at(),
            event: Event::parse(&row.event).unwrap_or(Event::Test),
            id: row.id,
            webhook: row.endpoint_id,
            event_id: row.event_id,
            attempts: row.attempts,
            created_at: row.occurred_at,
            updated_at: row.updated_at,
            last_attempt,
        }
    }
}

impl From<DeliveryAttempt> for DeliveryAttemptBody {
    fn from(made: DeliveryAttempt) -> Self {
        let DeliveryAttempt { attempt, at, url, status, duration_ms, response, error, worker } = made;
        let webhook_timestamp = at.timestamp();
        Self { attempt, at, url, webhook_timestamp, status, duration_ms, response, error, worker }
    }
}

/// Deliveries of a webhook
///
/// Those that have ended are kept for `webhook.retention_days`.
#[utoipa::path(
    get, path = "/api/webhooks/{id}/deliveries", tag = "webhooks", operation_id = "deliveries",
    params(
        ("id" = i64, Path, minimum = 1, description = "The webhook's id"),
        ("state" = Option<DeliveryState>, Query, description = "Only those in this state"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 100, description = "At most so many; 20 when absent"),
        ("cursor" = Option<String>, Query, pattern = "^([0-9]{1,18})?$", description = "next_cursor of the page before"),
    ),
    responses(
        (status = 200, description = "A page, the newest first", body = Envelope<DeliveriesBody>),
        (status = 400, description = "A parameter is out of its range", body = ErrorBody),
        (status = 404, description = "No such webhook", body = ErrorBody),
    )
)]
pub async fn list(
    State(state): State<AppState>,
    path: PathParams,
    query: QueryParams,
) -> Result<impl IntoResponse, ApiError> {
    let (id, limit, of_state) = (path.id("id")?, query.limit()?, delivery_state(&query)?);
    let before = query.cursor()?;
    state.db.webhook_endpoint(id).await?.ok_or(ApiError::NotFound("webhook"))?;
    let mut rows = state.db.webhook_deliveries(id, of_state, limit + 1, before).await?;
    let next_cursor = params::next_cursor(&mut rows, limit, |row| row.id);
    let items = rows.into_iter().map(DeliveryBody::from).collect();
    Ok(Envelope::new(DeliveriesBody { items, next_cursor }, "Deliveries"))
}

fn delivery_state(query: &QueryParams) -> Result<Option<DeliveryState>, ApiError> {
    let Some(word) = query.given("state") else { return Ok(None) };
    let state = DeliveryState::parse(word).ok_or_else(|| {
        let known = DeliveryState::ALL.map(DeliveryState::as_str).join(", ");
        InvalidField::new("state", format!("must be one of {known}"))
    });
    Ok(Some(state?))
}

/// One delivery
#[utoipa::path(
    get, path = "/api/webhooks/{id}/deliveries/{delivery}", tag = "webhooks", operation_id = "delivery",
    params(("id" = i64, Path, minimum = 1, description = "The webhook's id"), ("delivery" = i64, Path, minimum = 1, description = "The delivery's id")),
    responses(
        (status = 200, description = "It with every request and answer", body = Envelope<DeliveryDetailBody>),
        (status = 400, description = "An id is no number", body = ErrorBody),
        (status = 404, description = "No such webhook, or no such delivery of it", body = ErrorBody),
    )
)]
pub async fn one(
    State(state): State<AppState>,
    discretion: Discretion,
    path: PathParams,
) -> Result<impl IntoResponse, ApiError> {
    let (id, delivery) = (path.id("id")?, path.id("delivery")?);
    state.db.webhook_endpoint(id).await?.ok_or(ApiError::NotFound("webhook"))?;
    let (row, attempts) = state.db.webhook_delivery(id, delivery).await?.ok_or(ApiError::NotFound("delivery"))?;
    let history = attempts.into_iter().map(|attempt| {
        let attempt = DeliveryAttemptBody::from(attempt);
        DeliveryAttemptBody { url: discretion.url(attempt.url), ..attempt }
    });
    let history = history.collect();
    Ok(Envelope::new(DeliveryDetailBody { delivery: row.into(), history }, "Delivery"))
}

/// Deliver once more
///
/// Under the same `webhook-id`, before what waits, with all retries before it.
#[utoipa::path(
    post, path = "/api/webhooks/{id}/deliveries/{delivery}/redeliver", tag = "webhooks",
    params(("id" = i64, Path, minimum = 1, description = "The webhook's id"), ("delivery" = i64, Path, minimum = 1, description = "The delivery's id")),
    responses(
        (status = 202, description = "It is sent within moments; its log tells how that went", body = Envelope<DeliveryBody>),
        (status = 400, description = "An id is no number", body = ErrorBody),
        (status = 404, description = "No such webhook, or no such delivery of it", body = ErrorBody),
        (status = 409, description = "It has not ended yet, or the webhook is disabled", body = ErrorBody),
    )
)]
pub async fn redeliver(
    State(state): State<AppState>,
    Actor(who): Actor,
    path: PathParams,
) -> Result<impl IntoResponse, ApiError> {
    let (id, delivery) = (path.id("id")?, path.id("delivery")?);
    match state.db.redeliver_webhook(id, delivery, who).await? {
        Redelivered::Again(row) => {
            Ok((StatusCode::ACCEPTED, Envelope::new(DeliveryBody::from(*row), "Delivered once more")))
        }
        Redelivered::Open(state) => {
            Err(ApiError::Conflict(format!("delivery {delivery} is {}: it has not ended yet", state.as_str())))
        }
        Redelivered::Disabled => Err(disabled(id)),
        Redelivered::Unknown => Err(ApiError::NotFound("delivery")),
    }
}

/// Try a webhook out
///
/// Sends it a `webhook.test`, whatever its filters are; once, without retries.
#[utoipa::path(
    post, path = "/api/webhooks/{id}/test", tag = "webhooks",
    params(("id" = i64, Path, minimum = 1, description = "The webhook's id")),
    responses(
        (status = 202, description = "It is sent within moments; its log tells how that went", body = Envelope<DeliveryBody>),
        (status = 400, description = "The id is no number", body = ErrorBody),
        (status = 404, description = "No such webhook", body = ErrorBody),
        (status = 409, description = "It is disabled", body = ErrorBody),
    )
)]
pub async fn test(
    State(state): State<AppState>,
    Actor(who): Actor,
    path: PathParams,
) -> Result<impl IntoResponse, ApiError> {
    let id = path.id("id")?;
    match state.db.test_webhook(id, who).await? {
        Tested::Sent(row) => Ok((StatusCode::ACCEPTED, Envelope::new(DeliveryBody::from(*row), "Test sent"))),
        Tested::Disabled => Err(disabled(id)),
        Tested::Unknown => Err(ApiError::NotFound("webhook")),
    }
}

fn disabled(id: i64) -> ApiError {
    ApiError::Conflict(format!("webhook {id} is disabled; enable it first"))
}
