//! For load balancers and supervisors.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::shape::Envelope;
use crate::http::state::AppState;

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({ "status": "live", "version": "0.1.0" }))]
pub struct LiveBody {
    #[schema(example = "live")]
    pub status: String,
    pub version: String,
}

/// What is needed and whether it is there. Saving needs the database alone.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "status": "ready", "database": { "kind": "sqlite", "ok": true, "error": null },
    "broker": { "kind": "embedded", "ok": true, "error": null },
    "provider": { "kind": "local", "ok": true, "error": null }
}))]
pub struct ReadyBody {
    #[schema(example = "ready")]
    pub status: String,
    pub database: Part,
    pub broker: Part,
    pub provider: Part,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Part {
    pub kind: String,
    pub ok: bool,
    /// Why not.
    pub error: Option<String>,
}

impl Part {
    pub fn new(kind: &str, error: Option<String>) -> Self {
        Self { kind: kind.to_owned(), ok: error.is_none(), error }
    }
}

/// The process runs
#[utoipa::path(
    get, path = "/health/live", tag = "health",
    responses((status = 200, description = "It does", body = Envelope<LiveBody>))
)]
pub async fn live() -> impl IntoResponse {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Envelope::new(LiveBody { status: "live".into(), version }, "The process runs")
}

/// The service can serve
///
/// Ready when the database answers. A broker or a provider that is away is named and doesn't make the
/// service unready: saves wait in the ledger and search answers by keywords.
#[utoipa::path(
    get, path = "/health/ready", tag = "health",
    responses(
        (status = 200, description = "It can", body = Envelope<ReadyBody>),
        (status = 503, description = "The database does not answer", body = Envelope<ReadyBody>),
    )
)]
pub async fn ready(State(state): State<AppState>) -> impl IntoResponse {
    // Both at once: each may wait for a connection as long as it can.
    let (database, workers) = tokio::join!(state.db.ping(), state.db.workers());
    let database = database.err().map(|error| {
        tracing::warn!(%error, "the database does not answer");
        "does not answer".to_owned()
    });
    let workers = workers.unwrap_or_default();
    let (status, code) =
        if database.is_none() { ("ready", StatusCode::OK) } else { ("unready", StatusCode::SERVICE_UNAVAILABLE) };
    let body = ReadyBody {
        status: status.into(),
        database: Part::new(&state.database, database),
        broker: Part::new(&state.broker, workers.iter().find_map(|w| w.broker_error.clone())),
        provider: Part::new(&state.provider, workers.iter().find_map(|w| w.provider_error.clone())),
    };
    (code, Envelope::new(body, format!("The service is {status}")))
}
