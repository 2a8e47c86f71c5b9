//! What was done over the last hours, and how far it has come.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::response::IntoResponse;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::db::coverage::Coverage;
use crate::db::history::{KEPT_MINUTES, STEP};
use crate::domain::fields::InvalidField;
use crate::domain::history::{Amounts, Measure};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::params::QueryParams;
use crate::http::shape::Envelope;
use crate::http::state::AppState;

/// Points in an answer at most.
const MOST: u64 = 1_500;

/// What all processes did, by time; it survives restarts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "from": "2026-01-31T11:59:00Z", "to": "2026-01-31T12:00:12Z", "step_seconds": 60,
    "points": [
        {
            "at": "2026-01-31T11:59:00Z", "ready": 1200, "failed": 1, "retried": 3, "latency_p50_ms": 14.2,
            "latency_p95_ms": 210.0, "calls": 240, "texts": 1200, "refused": 0, "call_errors": 3, "call_p50_ms": 98.0,
            "call_p95_ms": 170.0, "tokens": 52000, "cost_usd": 0.00104
        },
        {
            "at": "2026-01-31T12:00:00Z", "ready": 0, "failed": 0, "retried": 0, "latency_p50_ms": null,
            "latency_p95_ms": null, "calls": 0, "texts": 0, "refused": 0, "call_errors": 0, "call_p50_ms": null,
            "call_p95_ms": null, "tokens": 0, "cost_usd": 0.0
        }
    ],
    "total": {
        "at": "2026-01-31T11:59:00Z", "ready": 1200, "failed": 1, "retried": 3, "latency_p50_ms": 14.2,
        "latency_p95_ms": 210.0, "calls": 240, "texts": 1200, "refused": 0, "call_errors": 3, "call_p50_ms": 98.0,
        "call_p95_ms": 170.0, "tokens": 52000, "cost_usd": 0.00104
    }
}))]
pub struct HistoryBody {
    pub from: DateTime<Utc>,
    /// Now: the last point isn't over.
    pub to: DateTime<Utc>,
    pub step_seconds: u64,
    /// One for each step, the oldest first.
    pub points: Vec<HistoryPointBody>,
    /// Over all of them.
    pub total: HistoryPointBody,
}

/// What was done in a step; up to two seconds late. Times are at most a tenth off, and null where there was nothing.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HistoryPointBody {
    /// Its begin.
    pub at: DateTime<Utc>,
    /// Embeddings made.
    pub ready: u64,
    /// Tasks given up.
    pub failed: u64,
    /// Attempts that failed and are made again.
    pub retried: u64,
    /// From the save, edit or replay to the stored vector, without regenerations.
    pub latency_p50_ms: Option<f64>,
    pub latency_p95_ms: Option<f64>,
    /// Calls with documents that the provider answered, and the texts in them.
    pub calls: u64,
    pub texts: u64,
    /// Calls of any kind that the provider refused for its rate limits, and that failed otherwise.
    pub refused: u64,
    pub call_errors: u64,
    /// How long calls with documents took.
    pub call_p50_ms: Option<f64>,
    pub call_p95_ms: Option<f64>,
    /// 0 for the local model, as is the cost.
    pub tokens: u64,
    pub cost_usd: f64,
}

impl HistoryPointBody {
    fn new(at: DateTime<Utc>, amounts: &Amounts) -> Self {
        let count = |measure| amounts.total(measure).max(0.0).round() as u64;
        let ms = |took: Duration| (took.as_secs_f64() * 1e4).round() / 10.0;
        let quantile = |measure, share| amounts.quantile(measure, share).map(ms);
        Self {
            at,
            ready: count(Measure::Ready),
            failed: count(Measure::Failed),
            retried: count(Measure::Retried),
            latency_p50_ms: quantile(Measure::Latency, 0.5),
            latency_p95_ms: quantile(Measure::Latency, 0.95),
            calls: count(Measure::Calls),
            texts: count(Measure::Texts),
            refused: count(Measure::Refused),
            call_errors: count(Measure::CallErrors),
            call_p50_ms: quantile(Measure::CallTook, 0.5),
            call_p95_ms: quantile(Measure::CallTook, 0.95),
            tokens: count(Measure::Tokens),
            cost_usd: amounts.total(Measure::Cost),
        }
    }
}

/// How many recommendations are found by the meaning of their text. Each is in one of the four.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "current": 98210, "stale": 12, "pending": 3, "failed": 2, "total": 98227, "model": "text-embedding-3-small",
    "counted_at": "2026-01-31T12:00:00Z"
}))]
pub struct CoverageBody {
    /// With a vector of its text and of this model.
    pub current: u64,
    /// With a vector of an older text, or of another model.
    pub stale: u64,
    /// Without any, and not given up.
    pub pending: u64,
    /// Given up or discarded.
    pub failed: u64,
    pub total: u64,
    pub model: String,
    pub counted_at: DateTime<Utc>,
}

impl CoverageBody {
    fn new(coverage: Coverage, model: &str) -> Self {
        let Coverage { current, stale, pending, failed, counted_at } = coverage;
        let total = current + stale + pending + failed;
        Self { current, stale, pending, failed, total, model: model.to_owned(), counted_at }
    }
}

/// History
///
/// Kept for a day.
#[utoipa::path(
    get, path = "/api/recommendations/embedding-queue/history", tag = "queue",
    params(
        ("minutes" = Option<u64>, Query, minimum = 1, maximum = 1440, description = "How far back; 60 by default"),
        ("step" = Option<u64>, Query, minimum = 10, maximum = 3600, multiple_of = 10, description = "Seconds of a point, a multiple of 10; 60 by default"),
    ),
    responses(
        (status = 200, description = "What was done in each step", body = Envelope<HistoryBody>),
        (status = 400, description = "A parameter is out of its range", body = ErrorBody),
    )
)]
pub async fn history(State(state): State<AppState>, query: QueryParams) -> Result<impl IntoResponse, ApiError> {
    let minutes = query.number("minutes", 1, KEPT_MINUTES)?.unwrap_or(60);
    let step = query.number("step", STEP.unsigned_abs(), 3_600)?.unwrap_or(60);
    if !step.is_multiple_of(STEP.unsigned_abs()) {
        return Err(InvalidField::new("step", format!("must be a multiple of {STEP}")).into());
    }
    if minutes * 60 / step > MOST {
        let least = (minutes * 60).div_ceil(MOST).next_multiple_of(STEP.unsigned_abs());
        return Err(InvalidField::new("step", format!("must be at least {least} for {minutes} minutes")).into());
    }
    let (now, step) = (Utc::now(), step.cast_signed());
    let last = now.timestamp().div_euclid(step) * step;
    let first = last - ((minutes * 60).cast_signed() / step - 1).max(0) * step;
    let amounts = state.db.history(first, step).await?;
    Ok(Envelope::new(body(now, first, last, step, &amounts), "History"))
}

fn body(now: DateTime<Utc>, first: i64, last: i64, step: i64, amounts: &BTreeMap<i64, Amounts>) -> HistoryBody {
    let moment = |at| DateTime::from_timestamp(at, 0).unwrap_or(now);
    let (mut points, mut total) = (Vec::new(), Amounts::default());
    for at in (first..=last).step_by(step.unsigned_abs() as usize) {
        let of = amounts.get(&at).cloned().unwrap_or_default();
        points.push(HistoryPointBody::new(moment(at), &of));
        total.merge(of);
    }
    let total = HistoryPointBody::new(moment(first), &total);
    HistoryBody { from: moment(first), to: now, step_seconds: step.unsigned_abs(), points, total }
}

/// Coverage
///
/// Of some seconds ago where there are many recommendations.
#[utoipa::path(
    get, path = "/api/recommendations/embedding-queue/coverage", tag = "queue",
    responses((status = 200, description = "How many have the vector of their text", body = Envelope<CoverageBody>))
)]
pub async fn coverage(State(state): State<AppState>) -> Result<impl IntoResponse, ApiError> {
    let coverage = state.db.coverage().await?;
    Ok(Envelope::new(CoverageBody::new(coverage, &state.db.model().id), "Coverage"))
}
