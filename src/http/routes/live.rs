//! The settings that can be changed while the service runs.
//!
//! Written to the database, and nowhere else: every process that embeds looks there for itself.

use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::Role;
use crate::config::live::{LiveChange, LiveKey, LiveQueue};
use crate::config::sections::QueueSettings;
use crate::db::workers::Heartbeat;
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::identity::Actor;
use crate::http::shape::Envelope;
use crate::http::state::AppState;

/// What is to change: at least one field; MapX's `maxConcurrent` and `batchSize` name the same ones. `null` gives
/// a value back to each process's own configuration.
#[derive(ToSchema)]
#[schema(example = json!({ "max_concurrent": 4, "batch_size": 20 }))]
#[schema(min_properties = 1)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "a schema, never constructed")]
pub struct QueueConfigRequest {
    /// Provider calls at once, in each process.
    #[schema(minimum = 1, maximum = 1_000)]
    max_concurrent: Option<u64>,
    /// Texts in one provider call.
    #[schema(minimum = 1, maximum = 2_048)]
    batch_size: Option<u64>,
}

/// The settings in force.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "max_concurrent": { "value": 4, "source": "live" }, "batch_size": { "value": 5, "source": "configuration" },
    "workers": [{
        "id": "019ab0c4-1b7e-7000-8000-000000000000", "role": "worker", "host": "worker-1", "pid": 4711,
        "max_concurrent": 4, "batch_size": 5
    }]
}))]
pub struct QueueConfigBody {
    pub max_concurrent: ConfigValue,
    pub batch_size: ConfigValue,
    /// The processes that embed, with what each goes by at the moment: a change reaches them within two seconds.
    pub workers: Vec<ConfigWorker>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ConfigValue {
    /// Of all processes when it is live, else of the configuration of the process that answers.
    pub value: u64,
    pub source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Set through this API, for all processes.
    Live,
    /// Each process's own.
    Configuration,
}

/// A process that embeds.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ConfigWorker {
    pub id: String,
    pub role: String,
    pub host: String,
    pub pid: i64,
    pub max_concurrent: i64,
    /// With the built-in model at least 64.
    pub batch_size: i64,
}

/// Live settings
#[utoipa::path(
    get, path = "/api/recommendations/embedding-queue/config", tag = "queue",
    responses((status = 200, description = "The values in force and where each comes from", body = Envelope<QueueConfigBody>))
)]
pub async fn get(State(state): State<AppState>) -> Result<impl IntoResponse, ApiError> {
    let live = state.db.live_queue().await?;
    Ok(Envelope::new(body(&state, live).await?, "Live settings"))
}

/// Change live settings
///
/// In every process, without a restart and across restarts. Calls in flight are finished.
#[utoipa::path(
    put, path = "/api/recommendations/embedding-queue/config", tag = "queue",
    request_body = QueueConfigRequest,
    responses(
        (status = 200, description = "Changed, in every process within two seconds", body = Envelope<QueueConfigBody>),
        (status = 400, description = "A field is unknown or out of its range; nothing is changed", body = ErrorBody),
    )
)]
pub async fn put(
    State(state): State<AppState>,
    Actor(who): Actor,
    JsonBody(json): JsonBody,
) -> Result<impl IntoResponse, ApiError> {
    let live = state.db.change_live_queue(LiveChange::read(&json)?, who).await?;
    Ok(Envelope::new(body(&state, live).await?, "Live settings changed"))
}

async fn body(state: &AppState, live: LiveQueue) -> Result<QueueConfigBody, ApiError> {
    let own = &state.queue;
    let workers = state.db.workers().await?.into_iter().filter(|beat| beat.role != Role::Serve.as_str());
    Ok(QueueConfigBody {
        max_concurrent: ConfigValue::new(LiveKey::MaxConcurrent, live, own),
        batch_size: ConfigValue::new(LiveKey::BatchSize, live, own),
        workers: workers.map(ConfigWorker::from).collect(),
    })
}

impl ConfigValue {
    fn new(key: LiveKey, live: LiveQueue, own: &QueueSettings) -> Self {
        let source = if live.get(key).is_some() { Source::Live } else { Source::Configuration };
        Self { value: key.of(&own.under(live)) as u64, source }
    }
}

impl From<Heartbeat> for ConfigWorker {
    fn from(beat: Heartbeat) -> Self {
        let Heartbeat { id, role, host, pid, max_concurrent, batch_size, .. } = beat;
        Self { id, role, host, pid, max_concurrent, batch_size }
    }
}
