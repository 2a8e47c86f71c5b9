//! Pausing lanes and draining workers. Written to the database, and nowhere else: every process looks there itself.

use axum::extract::State;
use axum::response::IntoResponse;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::config::Role;
use crate::domain::fields::InvalidField;
use crate::domain::intake::{Pause, Pauses};
use crate::domain::priority::Priority;
use crate::http::body::JsonBody;
use crate::http::dead_filter;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::identity::Actor;
use crate::http::params::PathParams;
use crate::http::shape::Envelope;
use crate::http::state::AppState;

/// Characters of a reason.
const MAX_REASON: usize = 500;

/// One lane, or all of them in an empty body.
#[derive(ToSchema)]
#[schema(example = json!({ "lane": "low", "reason": "the provider's bill" }))]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "a schema, never constructed")]
pub struct PauseRequest {
    lane: Option<Priority>,
    /// Told in the status; without NUL.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// One lane, or all of them in an empty body.
#[derive(ToSchema)]
#[schema(example = json!({ "lane": "low" }))]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "a schema, never constructed")]
pub struct ResumeRequest {
    lane: Option<Priority>,
}

/// What is paused after it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({ "paused": {
    "high": null, "normal": null,
    "low": { "since": "2026-01-31T12:00:00Z", "reason": "the provider's bill", "by": "cli" }
} }))]
pub struct PausedResultBody {
    pub paused: PausedBody,
}

/// By lane; null where it is served.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PausedBody {
    pub high: Option<PauseBody>,
    pub normal: Option<PauseBody>,
    pub low: Option<PauseBody>,
}

/// A lane that no worker takes from.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PauseBody {
    pub since: DateTime<Utc>,
    pub reason: Option<String>,
    /// Who paused it.
    #[schema(example = "cli")]
    pub by: String,
}

/// A worker that was told to take nothing more, or everything again.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({ "id": "019ab0c4-1b7e-7000-8000-000000000000", "drain_since": "2026-01-31T12:00:00Z" }))]
pub struct DrainBody {
    pub id: String,
    pub drain_since: Option<DateTime<Utc>>,
}

/// Pause lanes
///
/// Workers stop taking from them within two seconds and finish what they have begun. Saves and searches go on, and
/// tasks wait where they are, across restarts.
#[utoipa::path(
    post, path = "/api/recommendations/embedding-queue/pause", tag = "queue", params(super::docs::Operator), request_body = Option<PauseRequest>,
    responses(
        (status = 200, description = "Paused", body = Envelope<PausedResultBody>),
        (status = 400, description = "A field is unknown or wrong; nothing is changed", body = ErrorBody),
    )
)]
pub async fn pause(
    State(state): State<AppState>,
    Actor(who): Actor,
    JsonBody(json): JsonBody,
) -> Result<impl IntoResponse, ApiError> {
    let fields = dead_filter::object(&json, &["lane", "reason"])?;
    let reason = dead_filter::text(fields, "reason", MAX_REASON)?.map(str::to_owned);
    let since = DateTime::from_timestamp_millis(Utc::now().timestamp_millis()).unwrap_or_default();
    let pause = Pause { since, reason, by: who.clone() };
    let paused = state.db.pause(lanes(&json)?, Some(pause), who).await?;
    Ok(Envelope::new(PausedResultBody { paused: paused.into() }, "Paused"))
}

/// Resume lanes
#[utoipa::path(
    post, path = "/api/recommendations/embedding-queue/resume", tag = "queue", params(super::docs::Operator), request_body = Option<ResumeRequest>,
    responses(
        (status = 200, description = "Served again within two seconds", body = Envelope<PausedResultBody>),
        (status = 400, description = "A field is unknown or wrong; nothing is changed", body = ErrorBody),
    )
)]
pub async fn resume(
    State(state): State<AppState>,
    Actor(who): Actor,
    JsonBody(json): JsonBody,
) -> Result<impl IntoResponse, ApiError> {
    dead_filter::object(&json, &["lane"])?;
    let paused = state.db.pause(lanes(&json)?, None, who).await?;
    Ok(Envelope::new(PausedResultBody { paused: paused.into() }, "Resumed"))
}

fn lanes(json: &Value) -> Result<Vec<Priority>, ApiError> {
    let fields = dead_filter::object(json, &["lane", "reason"])?;
    Ok(dead_filter::lane(fields, "lane")?.map_or(Priority::ALL.to_vec(), |lane| vec![lane]))
}

/// Drain a worker
///
/// It takes nothing new and finishes what it holds; once the status calls it `drained`, it can be stopped and nothing
/// comes back.
#[utoipa::path(
    post, path = "/api/recommendations/embedding-queue/workers/{id}/drain", tag = "queue",
    params(
        ("id" = String, Path, example = "019ab0c4-1b7e-7000-8000-000000000000", description = "A process of the status"),
        super::docs::Operator,
    ),
    responses(
        (status = 200, description = "It drains, from within two seconds on", body = Envelope<DrainBody>),
        (status = 400, description = "It is no worker", body = ErrorBody),
        (status = 404, description = "No such process is running", body = ErrorBody),
    )
)]
pub async fn drain(
    State(state): State<AppState>,
    Actor(who): Actor,
    path: PathParams,
) -> Result<impl IntoResponse, ApiError> {
    set_drain(&state, path.text("id")?, true, who).await
}

/// Let a drained worker work again
#[utoipa::path(
    post, path = "/api/recommendations/embedding-queue/workers/{id}/undrain", tag = "queue",
    params(
        ("id" = String, Path, example = "019ab0c4-1b7e-7000-8000-000000000000", description = "A process of the status"),
        super::docs::Operator,
    ),
    responses(
        (status = 200, description = "It takes tasks again within two seconds", body = Envelope<DrainBody>),
        (status = 400, description = "It is no worker", body = ErrorBody),
        (status = 404, description = "No such process is running", body = ErrorBody),
    )
)]
pub async fn undrain(
    State(state): State<AppState>,
    Actor(who): Actor,
    path: PathParams,
) -> Result<impl IntoResponse, ApiError> {
    set_drain(&state, path.text("id")?, false, who).await
}

async fn set_drain(
    state: &AppState,
    id: &str,
    drain: bool,
    who: String,
) -> Result<impl IntoResponse + use<>, ApiError> {
    let processes = state.db.workers().await?;
    let process = processes.iter().find(|process| process.id == id).ok_or(ApiError::NotFound("worker"))?;
    if process.role == Role::Serve.as_str() {
        return Err(InvalidField::new("id", "is a process that serves the API and has no worker").into());
    }
    let since = state.db.drain(id.to_owned(), drain, who).await?.ok_or(ApiError::NotFound("worker"))?;
    let message = if drain { "Draining" } else { "Working again" };
    Ok(Envelope::new(DrainBody { id: id.to_owned(), drain_since: since }, message))
}

impl From<Pauses> for PausedBody {
    fn from(Pauses([high, normal, low]): Pauses) -> Self {
        let body = |pause: Option<Pause>| pause.map(|Pause { since, reason, by }| PauseBody { since, reason, by });
        Self { high: body(high), normal: body(normal), low: body(low) }
    }
}
