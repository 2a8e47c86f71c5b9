//! Who did what to the queue.

use axum::extract::State;
use axum::response::IntoResponse;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::db::audit::AuditEntry;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::params::{self, QueryParams};
use crate::http::shape::Envelope;
use crate::http::state::AppState;

/// A page, the newest first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "items": [{
        "id": 1, "at": "2026-01-31T12:00:00Z", "who": "cli", "action": "replay", "filter": { "lane": "low" },
        "count": 1000, "finished_at": "2026-01-31T12:00:01Z"
    }],
    "next_cursor": null
}))]
pub struct AuditBody {
    pub items: Vec<AuditEntryBody>,
    /// For the next page; null on the last one.
    pub next_cursor: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditEntryBody {
    pub id: i64,
    pub at: DateTime<Utc>,
    /// The acting user; else, by a token that is no user's, `admin token`, with who the header `x-actor` says it was;
    /// else, without authentication, that header, or `anonymous`. `service` for what it decides by itself.
    pub who: String,
    /// `replay`, `discard`, `pause`, `resume`, `drain`, `undrain` or `configure`; `regenerate`, `regenerate.pause`,
    /// `.resume` or `.cancel`; of a webhook `webhook.create`, `.change`, `.enable`,
    /// `.disable`, `.delete`, `.rotate-secret`, `.test` or `.redeliver`.
    pub action: String,
    /// What it was about.
    #[schema(value_type = Object)]
    pub filter: Value,
    /// How many it has concerned so far.
    pub count: u64,
    /// Null while it is being carried out.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Audit
#[utoipa::path(
    get, path = "/api/recommendations/embedding-queue/audit", tag = "queue",
    params(
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 100, description = "At most so many; 20 when absent"),
        ("cursor" = Option<String>, Query, pattern = "^([0-9]{1,18})?$", description = "next_cursor of the page before"),
    ),
    responses(
        (status = 200, description = "What was done, the newest first", body = Envelope<AuditBody>),
        (status = 400, description = "A parameter is out of its range", body = ErrorBody),
    )
)]
pub async fn audit(State(state): State<AppState>, query: QueryParams) -> Result<impl IntoResponse, ApiError> {
    let limit = query.limit()?;
    let mut entries = state.db.audit(limit + 1, query.cursor()?).await?;
    let next_cursor = params::next_cursor(&mut entries, limit, |entry| entry.id);
    let items = entries.into_iter().map(AuditEntryBody::from).collect();
    Ok(Envelope::new(AuditBody { items, next_cursor }, "Audit"))
}

impl From<AuditEntry> for AuditEntryBody {
    fn from(AuditEntry { id, at, who, action, filter, count, finished_at }: AuditEntry) -> Self {
        let filter = serde_json::from_str(&filter).unwrap_or(Value::Null);
        Self { id, at, who, action, filter, count: count.max(0) as u64, finished_at }
    }
}
