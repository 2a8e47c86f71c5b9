//! Replay and discard of dead letters.

use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::db::dead_orders::DeadAction;
use crate::domain::dead_letter::DeadFilter;
use crate::domain::priority::Priority;
use crate::http::body::JsonBody;
use crate::http::dead_filter;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::identity::Actor;
use crate::http::shape::Envelope;
use crate::http::state::AppState;

/// For how long a request carries its order out itself; the rest follows in the background.
const BUDGET: Duration = Duration::from_secs(5);

/// Which dead letters: `ids` or `filter`, and not both.
#[derive(ToSchema)]
#[schema(example = json!({ "filter": { "error": "400 Bad Request", "newer_than": "2h" }, "priority": "low" }))]
#[allow(dead_code, reason = "a schema, never constructed")]
#[serde(untagged)]
pub enum ReplayRequest {
    #[serde(deny_unknown_fields)]
    These {
        /// Recommendations.
        #[schema(value_type = Vec<super::docs::RecommendationId>, min_items = 1, max_items = 1_000)]
        ids: Vec<i64>,
        /// The lane that they go to, whatever lane they came from; `low` by default, as nobody waits for them now.
        priority: Option<Priority>,
    },
    #[serde(deny_unknown_fields)]
    Matching {
        filter: DeadFilterRequest,
        /// The same.
        priority: Option<Priority>,
    },
}

/// Which dead letters: `ids` or `filter`, and not both.
#[derive(ToSchema)]
#[schema(example = json!({ "ids": [7, 12] }))]
#[allow(dead_code, reason = "a schema, never constructed")]
#[serde(untagged)]
pub enum DiscardRequest {
    #[serde(deny_unknown_fields)]
    These {
        /// Recommendations.
        #[schema(value_type = Vec<super::docs::RecommendationId>, min_items = 1, max_items = 1_000)]
        ids: Vec<i64>,
    },
    #[serde(deny_unknown_fields)]
    Matching { filter: DeadFilterRequest },
}

/// All that meet every condition; an empty filter means all there are.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a schema, never constructed")]
#[serde(deny_unknown_fields)]
pub struct DeadFilterRequest {
    /// Part of the error or of its group's name; without NUL.
    #[schema(min_length = 1, max_length = 1_000)]
    error: Option<String>,
    lane: Option<Priority>,
    /// Died before.
    #[schema(value_type = Option<super::docs::Moment>)]
    older_than: Option<String>,
    /// Died then or later.
    #[schema(value_type = Option<super::docs::Moment>)]
    newer_than: Option<String>,
}

/// How many there are.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({ "count": 2, "audit_id": 1 }))]
pub struct OrderBody {
    /// With 202, those that are still to follow included.
    pub count: u64,
    /// The line in the audit, which says how far it is.
    pub audit_id: i64,
}

/// Replay dead letters
///
/// They start afresh with all their attempts, at the end of the low lane unless another one is named: any number of
/// them is handed over in the relay's window and served in turn with the other lanes, so that no save waits for them
/// and no provider gets more calls at once than before.
#[utoipa::path(
    post, path = "/api/recommendations/embedding-queue/dead-letters/replay", tag = "dead letters",
    params(super::docs::Operator), request_body = ReplayRequest,
    responses(
        (status = 200, description = "Replayed", body = Envelope<OrderBody>),
        (status = 202, description = "Many: the rest follows in the background, across restarts", body = Envelope<OrderBody>),
        (status = 400, description = "A field is missing, unknown or wrong; nothing is done", body = ErrorBody),
    )
)]
pub async fn replay(
    State(state): State<AppState>,
    Actor(who): Actor,
    JsonBody(json): JsonBody,
) -> Result<impl IntoResponse, ApiError> {
    let fields = dead_filter::object(&json, &["ids", "filter", "priority"])?;
    let priority = dead_filter::lane(fields, "priority")?.unwrap_or(Priority::Low);
    carry_out(&state, &who, DeadAction::Replay(priority), &json).await
}

/// Discard dead letters
///
/// Their recommendations stay and are found by words alone, until somebody edits or regenerates them.
#[utoipa::path(
    post, path = "/api/recommendations/embedding-queue/dead-letters/discard", tag = "dead letters",
    params(super::docs::Operator), request_body = DiscardRequest,
    responses(
        (status = 200, description = "Discarded", body = Envelope<OrderBody>),
        (status = 202, description = "Many: the rest follows in the background, across restarts", body = Envelope<OrderBody>),
        (status = 400, description = "A field is missing, unknown or wrong; nothing is done", body = ErrorBody),
    )
)]
pub async fn discard(
    State(state): State<AppState>,
    Actor(who): Actor,
    JsonBody(json): JsonBody,
) -> Result<impl IntoResponse, ApiError> {
    dead_filter::object(&json, &["ids", "filter"])?;
    carry_out(&state, &who, DeadAction::Discard, &json).await
}

async fn carry_out(
    state: &AppState,
    who: &str,
    action: DeadAction,
    json: &Value,
) -> Result<impl IntoResponse + use<>, ApiError> {
    let fields = dead_filter::object(json, &["ids", "filter", "priority"])?;
    let filter: DeadFilter = dead_filter::of_body(fields)?;
    let order = state.db.order(who, action, &filter).await?;
    let (began, budget) = (Instant::now(), BUDGET.min(state.timeout / 2));
    let mut progress = state.db.carry_on(order).await?;
    while !progress.finished && began.elapsed() < budget {
        progress = state.db.carry_on(order).await?;
    }
    let (status, left, message) = match (progress.finished, action) {
        (true, DeadAction::Replay(_)) => (StatusCode::OK, 0, "Replayed"),
        (true, DeadAction::Discard) => (StatusCode::OK, 0, "Discarded"),
        (false, _) => (
            StatusCode::ACCEPTED,
            state.db.count_dead_letters(&filter).await?,
            "The rest follows in the background",
        ),
    };
    let body = OrderBody { count: progress.count + left, audit_id: order };
    Ok((status, Envelope::new(body, message)))
}
