//! The state of the queue.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::health::Part;
use super::intake::PausedBody;
use crate::db::provider::ProviderLimits;
use crate::db::stats::{QueueCounts, Rung};
use crate::db::workers::Heartbeat;
use crate::db::{Db, DbError};
use crate::domain::intake::Pauses;
use crate::domain::priority::Priority;
use crate::domain::usage::Usage;
use crate::http::error::ApiError;
use crate::http::identity::Acting;
use crate::http::shape::Envelope;
use crate::http::state::AppState;
use crate::metrics::Metrics;

/// The queue over all processes. The first three fields are MapX's.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "queueLength": 4210, "processing": 15, "isProcessing": true, "byPriority": { "high": 2, "normal": 23, "low": 4200 },
    "retrying": 3, "retryRungs": [{ "attempts": 1, "tasks": 3, "nextAt": "2026-01-31T12:00:05Z" }], "deadLettered": 2,
    "oldestPendingSeconds": 41.2, "oldestByPriority": { "high": 0.1, "normal": 0.9, "low": 41.2 },
    "throughputPerSecond": 812.4, "etaSeconds": 5.2, "paused": { "high": null, "normal": null, "low": null },
    "workers": [{
        "id": "019ab0c4-1b7e-7000-8000-000000000000", "role": "worker", "host": "worker-1", "pid": 4711,
        "startedAt": "2026-01-31T09:00:00Z", "heartbeatAt": "2026-01-31T11:59:59Z", "inFlight": 15, "maxConcurrent": 3,
        "batchSize": 5, "readyTotal": 98210, "failedTotal": 2, "readyPerSecond": 812.4,
        "concurrency": {
            "current": 3, "min": 1, "max": 32, "reason": "latency allows more", "changedAt": "2026-01-31T11:58:00Z"
        },
        "state": "working", "drainSince": null
    }],
    "broker": { "kind": "rabbitmq", "ok": true, "error": null },
    "provider": {
        "kind": "openai", "ok": true, "error": null,
        "breaker": { "state": "closed", "since": null, "reason": null, "nextProbeAt": null },
        "limits": { "requests": { "limit": 3000.0, "left": 2871.0 }, "tokens": { "limit": null, "left": null } },
        "usage": {
            "today": { "calls": 240, "texts": 1200, "tokens": 52000, "cached": 12, "cost": 0.00104 },
            "total": { "calls": 19642, "texts": 98210, "tokens": 4919000, "cached": 912, "cost": 0.09838 }
        }
    },
    "recommendations": 102440, "embedded": 98210, "model": "text-embedding-3-small"
}))]
pub struct QueueStatusBody {
    /// Tasks that wait: in the ledger or with the broker.
    pub queue_length: u64,
    /// Tasks in a worker's hands.
    pub processing: u64,
    /// Whether either is above zero.
    pub is_processing: bool,
    /// Waiting and in hand, by lane.
    pub by_priority: ByPriority,
    /// Failed before and waiting for the next attempt.
    pub retrying: u64,
    /// The same by how often they have failed.
    pub retry_rungs: Vec<RungBody>,
    pub dead_lettered: u64,
    /// Seconds since the longest waiting task was enqueued.
    pub oldest_pending_seconds: Option<f64>,
    /// The same by lane.
    pub oldest_by_priority: OldestBody,
    /// Embeddings a second over the last ten seconds.
    pub throughput_per_second: f64,
    /// Seconds until the queue is empty at this rate; null when nothing moves.
    pub eta_seconds: Option<f64>,
    /// Lanes that no worker takes from, for the time being.
    pub paused: PausedBody,
    pub workers: Vec<WorkerBody>,
    pub broker: Part,
    pub provider: ProviderBody,
    /// Recommendations in all, and those that can be found by the meaning of their current text.
    pub recommendations: u64,
    pub embedded: u64,
    #[schema(example = "minilm-static-256-i8@7dfaf784")]
    pub model: String,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ByPriority {
    pub high: u64,
    pub normal: u64,
    pub low: u64,
}

/// Seconds; null for a lane in which nothing waits.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct OldestBody {
    pub high: Option<f64>,
    pub normal: Option<f64>,
    pub low: Option<f64>,
}

/// Tasks that wait for the same attempt.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RungBody {
    /// Attempts that failed.
    pub attempts: i32,
    pub tasks: u64,
    /// When the first of them is tried again.
    pub next_at: Option<DateTime<Utc>>,
}

/// The embedding provider. What is known of a remote one alone is absent for the local model.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderBody {
    pub kind: String,
    pub ok: bool,
    /// Why not.
    pub error: Option<String>,
    /// Of the process that is worst off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsBody>,
    /// What calls took, over all processes; up to a second old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageBody>,
    /// Until when the provider asked to wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_until: Option<DateTime<Utc>>,
}

/// What calls to the provider took with this model.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct UsageBody {
    /// Since midnight, UTC.
    pub today: UsedBody,
    pub total: UsedBody,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsedBody {
    /// Those that were answered with vectors.
    pub calls: u64,
    pub texts: u64,
    /// As the provider counts them, or an upper bound where it doesn't say.
    pub tokens: u64,
    /// Texts whose vector was kept, so that nobody was asked.
    pub cached: u64,
    /// US dollars at the price of that time; 0 where none is known.
    pub cost: f64,
}

impl From<Usage> for UsedBody {
    fn from(usage: Usage) -> Self {
        let Usage { calls, texts, tokens, cached, cost } = usage;
        Self { calls, texts, tokens, cached, cost }
    }
}

/// A circuit breaker: while it is open no calls are made, and documents wait without an attempt spent.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakerBody {
    /// `closed`, `open`, or `half-open` while a probe is under way.
    #[schema(example = "closed")]
    pub state: String,
    pub since: Option<DateTime<Utc>>,
    pub reason: Option<String>,
    pub next_probe_at: Option<DateTime<Utc>>,
}

/// The provider's rate limits, as they are configured or as its answers tell them.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LimitsBody {
    pub requests: LimitBody,
    pub tokens: LimitBody,
}

/// In a window; null where it isn't known.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LimitBody {
    pub limit: Option<f64>,
    pub left: Option<f64>,
}

/// How many provider calls a process makes at once.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConcurrencyBody {
    pub current: i64,
    /// Between which numbers it chooses; equal when it is fixed.
    pub min: i64,
    pub max: i64,
    /// Why it was last changed, and when.
    #[schema(example = "latency allows more")]
    pub reason: Option<String>,
    pub changed_at: Option<DateTime<Utc>>,
}

/// A process of the service.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerBody {
    pub id: String,
    pub role: String,
    pub host: String,
    pub pid: i64,
    pub started_at: DateTime<Utc>,
    pub heartbeat_at: DateTime<Utc>,
    pub in_flight: i64,
    pub max_concurrent: i64,
    pub batch_size: i64,
    pub ready_total: i64,
    pub failed_total: i64,
    pub ready_per_second: f64,
    pub concurrency: ConcurrencyBody,
    /// `working`; `draining` while a worker that takes nothing new finishes what it holds, and `drained` once it
    /// can be stopped; null for a process without a worker.
    #[schema(example = "working")]
    pub state: Option<String>,
    /// Since when it is to take nothing new.
    pub drain_since: Option<DateTime<Utc>>,
}

/// Queue status
///
/// With authentication the processes, and what the provider costs, are shown to whoever may see everything.
#[utoipa::path(
    get, path = "/api/recommendations/embedding-queue/status", tag = "queue",
    responses((status = 200, description = "What waits, what runs, what failed", body = Envelope<QueueStatusBody>))
)]
pub async fn status(State(state): State<AppState>, acting: Acting) -> Result<impl IntoResponse, ApiError> {
    let mut body = state.status.look().await?;
    if !acting.watches() {
        body.workers.clear();
        body.provider.usage = None;
    }
    Ok(Envelope::new(body, "Queue status"))
}

/// Where the status is read. Cheap to clone.
#[derive(Clone)]
pub struct StatusSource {
    pub db: Db,
    pub metrics: Metrics,
    /// What the provider and the broker are.
    pub provider: Arc<str>,
    pub broker: Arc<str>,
}

impl StatusSource {
    /// The status of this moment.
    pub async fn look(&self) -> Result<QueueStatusBody, DbError> {
        let provider = async { tokio::join!(self.metrics.limits(), self.metrics.usage()) };
        let (counts, workers, pauses, (limits, usage)) =
            tokio::join!(self.db.counts(), self.db.workers(), self.db.pauses(), provider);
        let counts = counts?;
        let mut body = summary(&counts.queue, workers?, Utc::now());
        body.paused = pauses?.into();
        body.broker.kind = self.broker.to_string();
        body.provider.kind = self.provider.to_string();
        if let Some(limits) = limits? {
            body.provider.waiting_until = limits.waiting_until();
            body.provider.limits = Some(LimitsBody::from(limits));
        }
        body.provider.usage = usage?.map(|used| UsageBody { today: used.today.into(), total: used.total.into() });
        body.recommendations = counts.recommendations;
        body.embedded = counts.recommendations.saturating_sub(counts.unembedded);
        body.model = self.db.model().id.to_string();
        Ok(body)
    }
}

fn summary(counts: &QueueCounts, workers: Vec<Heartbeat>, now: DateTime<Utc>) -> QueueStatusBody {
    let open: u64 = counts.open.iter().sum();
    // Heartbeats are up to a second old: what is in hand can't be more than what is open.
    let in_hand: i64 = workers.iter().map(|w| w.in_flight.max(0)).sum();
    let processing = (in_hand as u64).min(open);
    let age = |at: DateTime<Utc>| (now - at).num_milliseconds().max(0) as f64 / 1e3;
    let rate: f64 = workers.iter().map(|w| w.ready_per_second).sum();
    QueueStatusBody {
        queue_length: open - processing,
        processing,
        is_processing: open > 0,
        by_priority: ByPriority {
            high: counts.open[Priority::High as usize],
            normal: counts.open[Priority::Normal as usize],
            low: counts.open[Priority::Low as usize],
        },
        retrying: counts.retrying,
        retry_rungs: counts.rungs.iter().map(RungBody::from).collect(),
        dead_lettered: counts.dead,
        oldest_pending_seconds: counts.oldest.map(age),
        oldest_by_priority: OldestBody {
            high: counts.oldest_of[Priority::High as usize].map(age),
            normal: counts.oldest_of[Priority::Normal as usize].map(age),
            low: counts.oldest_of[Priority::Low as usize].map(age),
        },
        throughput_per_second: rate,
        eta_seconds: if open == 0 { Some(0.0) } else { (rate > 0.0).then(|| open as f64 / rate) },
        paused: Pauses::default().into(),
        broker: Part::new("", workers.iter().find_map(|w| w.broker_error.clone())),
        provider: ProviderBody::new(&workers),
        workers: workers.into_iter().map(WorkerBody::from).collect(),
        recommendations: 0,
        embedded: 0,
        model: String::new(),
    }
}

impl ProviderBody {
    fn new(workers: &[Heartbeat]) -> Self {
        let Part { kind, ok, error } = Part::new("", workers.iter().find_map(|w| w.provider_error.clone()));
        let rank = |w: &&Heartbeat| match w.breaker_state.as_deref() {
            Some("open") => 2,
            Some("half-open") => 1,
            _ => 0,
        };
        let worst = workers.iter().filter(|w| w.breaker_state.is_some()).max_by_key(rank);
        let breaker = worst.map(|w| BreakerBody {
            state: w.breaker_state.clone().unwrap_or_default(),
            since: w.breaker_since,
            reason: w.breaker_reason.clone(),
            next_probe_at: w.breaker_probe_at,
        });
        Self { kind, ok, error, breaker, limits: None, usage: None, waiting_until: None }
    }
}

impl From<&Rung> for RungBody {
    fn from(rung: &Rung) -> Self {
        Self { attempts: rung.attempts, tasks: rung.tasks, next_at: rung.next }
    }
}

impl From<ProviderLimits> for LimitsBody {
    fn from(limits: ProviderLimits) -> Self {
        let body = |limit: f64, left: f64| match limit > 0.0 {
            // Whole requests and tokens; one that is only partly there isn't there.
            true => LimitBody { limit: Some(limit), left: Some(left.floor()) },
            false => LimitBody { limit: None, left: None },
        };
        Self {
            requests: body(limits.requests_limit, limits.requests_left),
            tokens: body(limits.tokens_limit, limits.tokens_left),
        }
    }
}

impl From<Heartbeat> for WorkerBody {
    fn from(beat: Heartbeat) -> Self {
        Self {
            id: beat.id,
            role: beat.role,
            host: beat.host,
            pid: beat.pid,
            started_at: beat.started_at,
            heartbeat_at: beat.heartbeat_at,
            in_flight: beat.in_flight,
            max_concurrent: beat.max_concurrent,
            batch_size: beat.batch_size,
            ready_total: beat.ready_total,
            failed_total: beat.failed_total,
            ready_per_second: beat.ready_per_second,
            concurrency: ConcurrencyBody {
                current: beat.max_concurrent,
                min: beat.concurrency_min.unwrap_or(beat.max_concurrent),
                max: beat.concurrency_max.unwrap_or(beat.max_concurrent),
                reason: beat.concurrency_reason,
                changed_at: beat.concurrency_changed_at,
            },
            state: beat.state,
            drain_since: beat.drain_since,
        }
    }
}
