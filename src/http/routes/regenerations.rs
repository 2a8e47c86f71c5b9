//! Regenerations: begin, look, pause, resume, cancel.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::db::regenerations::{Begun, Changed, Regeneration};
use crate::domain::priority::Priority;
use crate::domain::regeneration::{JobState, Origin, Phase, RegenerationRequest, Scope, Strategy};
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::identity::Actor;
use crate::http::params::{MAX_LIMIT, PathParams};
use crate::http::shape::Envelope;
use crate::http::state::AppState;
use crate::regeneration::{Estimate, TimeBasis};

/// What to embed again.
#[derive(ToSchema)]
#[schema(example = json!({ "scope": "stale", "dry_run": false, "priority": "low" }))]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "a schema, never constructed")]
pub struct RegenerateRequest {
    /// `missing` when absent, as MapX's own client means it: the rows without a vector. `all` asks the provider for
    /// every distinct text once, though nothing has changed; the others ask for what is needed only.
    scope: Option<Scope>,
    /// Only tells what it would take.
    dry_run: Option<bool>,
    /// The lane; `low` when absent, so that saves and edits pass it.
    priority: Option<Priority>,
}

/// A regeneration that has begun. `success` and `failed` are MapX's: what is done so far.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({ "success": 0, "failed": 0, "job_id": 7, "total": 100000, "strategy": "shadow",
    "strategy_reason": "100000 rows for 100000 vectors: a new index is quicker" }))]
pub struct BegunBody {
    pub success: u64,
    pub failed: u64,
    pub job_id: i64,
    /// Rows in its scope.
    pub total: u64,
    pub strategy: Strategy,
    /// Why this one, for people.
    pub strategy_reason: String,
}

/// What a regeneration would take.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "dry_run": true, "scope": "all", "rows": 100000, "distinct_texts": 98210, "cached_texts": 0,
    "tokens": 4919000, "estimated_cost_usd": 0.09838, "estimated_seconds": 120.5, "time_basis": "last_regeneration",
    "exact": false, "sampled_rows": 20000, "strategy": "shadow",
    "strategy_reason": "100000 rows for 100000 vectors: a new index is quicker"
}))]
pub struct EstimateBody {
    /// Always true: nothing has begun.
    pub dry_run: bool,
    pub scope: Scope,
    pub rows: u64,
    /// Texts that the provider would be asked for, each once.
    pub distinct_texts: u64,
    /// Texts whose vector is kept from an earlier call.
    pub cached_texts: u64,
    /// Exact for OpenAI's models and the built-in one, for others an upper bound.
    pub tokens: u64,
    /// US dollars; null where no price is known.
    pub estimated_cost_usd: Option<f64>,
    /// Null where nothing is known to go by.
    pub estimated_seconds: Option<f64>,
    pub time_basis: TimeBasis,
    /// Whether every row was looked at; else the rest is extrapolated from `sampled_rows`, and of texts that occur
    /// more than once too many are counted.
    pub exact: bool,
    pub sampled_rows: u64,
    /// How the new vectors would come into the index.
    pub strategy: Strategy,
    pub strategy_reason: String,
}

/// How far a regeneration is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "job_id": 7, "scope": "all", "strategy": "shadow",
    "strategy_reason": "100000 rows for 100000 vectors: a new index is quicker", "phase": "filling", "origin": "request", "priority": "low", "model": "text-embedding-3-small",
    "state": "running", "total": 100000, "done": 41250, "failed": 2, "skipped": 17, "percent": 41.269,
    "rate": 812.4, "eta_seconds": 72.3, "created_at": "2026-01-05T09:00:00Z", "updated_at": "2026-01-05T09:00:51Z",
    "finished_at": null
}))]
pub struct RegenerationBody {
    pub job_id: i64,
    pub scope: Scope,
    /// `in-place`: each vector goes into the index as it comes. `shadow`: the index is taken away, while a copy of the
    /// old vectors serves the searches, and built anew; only on PostgreSQL.
    pub strategy: Strategy,
    /// Why this one, for people.
    pub strategy_reason: String,
    /// What a `shadow` is at besides its rows; null in place, and once nothing is left to do. That of a cancelled one
    /// has yet to give the index back.
    pub phase: Option<Phase>,
    /// `model-change`: begun by the service when it was started with another model.
    pub origin: Origin,
    pub priority: Priority,
    pub model: String,
    pub state: JobState,
    /// Rows in its scope; of `stale` it may grow while texts are compared.
    pub total: u64,
    pub done: u64,
    /// Given up; they are among the dead letters.
    pub failed: u64,
    /// Deleted, or edited and so embedded anyway.
    pub skipped: u64,
    /// Of the total; exactly 100 in the end.
    pub percent: f64,
    /// Rows a second over the last ten seconds.
    pub rate: f64,
    /// Null while nothing moves.
    pub eta_seconds: Option<f64>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

impl From<Regeneration> for RegenerationBody {
    fn from(job: Regeneration) -> Self {
        let left = job.total.saturating_sub(job.settled());
        let eta = match (job.is_open(), left) {
            (false, _) => None,
            // How long an index takes isn't known.
            (true, 0) if job.phase.is_some() => None,
            (true, 0) => Some(0.0),
            _ => (job.rate > 0.0).then(|| left as f64 / job.rate),
        };
        let percent = match job.total {
            _ if job.state == JobState::Completed => 100.0,
            0 => 0.0,
            total => job.settled() as f64 * 100.0 / total as f64,
        };
        Self {
            job_id: job.id,
            scope: job.scope,
            strategy: job.strategy,
            strategy_reason: job.strategy_reason,
            phase: job.phase,
            origin: job.origin,
            priority: job.priority,
            model: job.model,
            state: job.state,
            total: job.total,
            done: job.done,
            failed: job.failed,
            skipped: job.skipped,
            percent,
            rate: job.rate,
            eta_seconds: eta,
            created_at: job.created_at,
            updated_at: job.updated_at,
            finished_at: job.finished_at,
        }
    }
}

impl EstimateBody {
    fn new(scope: Scope, estimate: Estimate) -> Self {
        Self {
            dry_run: true,
            scope,
            rows: estimate.rows,
            distinct_texts: estimate.texts,
            cached_texts: estimate.cached,
            tokens: estimate.tokens,
            estimated_cost_usd: estimate.cost,
            estimated_seconds: estimate.time.map(|time| time.as_secs_f64()),
            time_basis: estimate.basis,
            exact: estimate.exact,
            sampled_rows: estimate.sampled,
            strategy: estimate.strategy,
            strategy_reason: estimate.strategy_reason,
        }
    }
}

/// Embed again
///
/// Begins a job and answers at once; with `dry_run` it only tells what the job would take. One job at a time.
#[utoipa::path(
    post, path = "/api/recommendations/regenerate-embeddings", tag = "regeneration",
    request_body = Option<RegenerateRequest>,
    responses(
        (status = 202, description = "The job has begun", body = Envelope<BegunBody>),
        (status = 200, description = "What it would take (dry_run)", body = Envelope<EstimateBody>),
        (status = 400, description = "A field is unknown or wrong; nothing has begun", body = ErrorBody),
        (status = 409, description = "Another job is open; the message names it", body = ErrorBody),
    )
)]
pub async fn begin(
    State(state): State<AppState>,
    Actor(who): Actor,
    JsonBody(json): JsonBody,
) -> Result<Response, ApiError> {
    let request = RegenerationRequest::read(json)?;
    if request.dry_run {
        let limits = state.metrics.limits().await?;
        let estimate = state.regenerations.estimate(request.scope, limits.as_ref()).await?;
        let body = EstimateBody::new(request.scope, estimate);
        return Ok(Envelope::new(body, "Nothing has begun").into_response());
    }
    match state.regenerations.begin(request, who).await? {
        Begun::New(job) => {
            let Regeneration { id, total, strategy, strategy_reason, .. } = job;
            let body = BegunBody { success: 0, failed: 0, job_id: id, total, strategy, strategy_reason };
            Ok((StatusCode::ACCEPTED, Envelope::new(body, "Regeneration started")).into_response())
        }
        Begun::Open(job) => Err(ApiError::Conflict(format!(
            "regeneration {} is {}; wait for it, or cancel it",
            job.id,
            job.state.as_str()
        ))),
    }
}

/// All regenerations
///
/// The newest first, a hundred at most.
#[utoipa::path(
    get, path = "/api/recommendations/regenerate-embeddings", tag = "regeneration",
    responses((status = 200, description = "The jobs", body = Envelope<Vec<RegenerationBody>>))
)]
pub async fn list(State(state): State<AppState>) -> Result<impl IntoResponse, ApiError> {
    let jobs = state.db.regenerations(MAX_LIMIT).await?;
    Ok(Envelope::new(jobs.into_iter().map(RegenerationBody::from).collect::<Vec<_>>(), "Regenerations"))
}

/// How far a regeneration is
#[utoipa::path(
    get, path = "/api/recommendations/regenerate-embeddings/{job}", tag = "regeneration",
    params(("job" = i64, Path, minimum = 1, description = "The job's id")),
    responses(
        (status = 200, description = "Its progress", body = Envelope<RegenerationBody>),
        (status = 400, description = "The id is no number", body = ErrorBody),
        (status = 404, description = "No such job", body = ErrorBody),
    )
)]
pub async fn get(State(state): State<AppState>, path: PathParams) -> Result<impl IntoResponse, ApiError> {
    let job = state.db.regeneration(path.id("job")?).await?.ok_or(ApiError::NotFound("regeneration"))?;
    Ok(Envelope::new(RegenerationBody::from(job), "Regeneration"))
}

/// Cancel a regeneration
///
/// What no worker has in hand is taken back; the vectors that are there stay. It may be resumed until another begins.
#[utoipa::path(
    delete, path = "/api/recommendations/regenerate-embeddings/{job}", tag = "regeneration",
    params(("job" = i64, Path, minimum = 1, description = "The job's id")),
    responses(
        (status = 200, description = "Cancelled, or it was before", body = Envelope<RegenerationBody>),
        (status = 400, description = "The id is no number", body = ErrorBody),
        (status = 404, description = "No such job", body = ErrorBody),
        (status = 409, description = "It is completed", body = ErrorBody),
    )
)]
pub async fn cancel(
    State(state): State<AppState>,
    Actor(who): Actor,
    path: PathParams,
) -> Result<impl IntoResponse, ApiError> {
    changed(state.db.cancel_regeneration(path.id("job")?, who).await?, "Regeneration cancelled")
}

/// Pause a regeneration
///
/// What no worker has in hand is taken back until it is resumed.
#[utoipa::path(
    post, path = "/api/recommendations/regenerate-embeddings/{job}/pause", tag = "regeneration",
    params(("job" = i64, Path, minimum = 1, description = "The job's id")),
    responses(
        (status = 200, description = "Paused, or it was before", body = Envelope<RegenerationBody>),
        (status = 400, description = "The id is no number", body = ErrorBody),
        (status = 404, description = "No such job", body = ErrorBody),
        (status = 409, description = "It has ended", body = ErrorBody),
    )
)]
pub async fn pause(
    State(state): State<AppState>,
    Actor(who): Actor,
    path: PathParams,
) -> Result<impl IntoResponse, ApiError> {
    changed(state.db.pause_regeneration(path.id("job")?, who).await?, "Regeneration paused")
}

/// Resume a regeneration
///
/// A cancelled one, too, while no other has begun since. What it has done is not done again.
#[utoipa::path(
    post, path = "/api/recommendations/regenerate-embeddings/{job}/resume", tag = "regeneration",
    params(("job" = i64, Path, minimum = 1, description = "The job's id")),
    responses(
        (status = 200, description = "It runs, or ran before", body = Envelope<RegenerationBody>),
        (status = 400, description = "The id is no number", body = ErrorBody),
        (status = 404, description = "No such job", body = ErrorBody),
        (status = 409, description = "It is completed, or another has begun since it was cancelled", body = ErrorBody),
    )
)]
pub async fn resume(
    State(state): State<AppState>,
    Actor(who): Actor,
    path: PathParams,
) -> Result<impl IntoResponse, ApiError> {
    changed(state.db.resume_regeneration(path.id("job")?, who).await?, "Regeneration resumed")
}

fn changed(change: Changed, message: &str) -> Result<axum::Json<Envelope<RegenerationBody>>, ApiError> {
    match change {
        Changed::Now(job) => Ok(Envelope::new(RegenerationBody::from(job), message)),
        Changed::Refused(job) => {
            Err(ApiError::Conflict(format!("regeneration {} is {}; begin another", job.id, job.state.as_str())))
        }
        Changed::Unknown => Err(ApiError::NotFound("regeneration")),
    }
}
