//! The dead letters: what was given up, why, and after which attempts.

use axum::extract::State;
use axum::response::IntoResponse;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::db::attempts::Attempt;
use crate::db::dead_letters::{DeadGroup, DeadLetter};
use crate::domain::priority::Priority;
use crate::http::dead_filter;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::params::{PathParams, QueryParams};
use crate::http::shape::Envelope;
use crate::http::state::AppState;

/// A page of dead letters, the last one to die first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "items": [{
        "recommendation_id": 7, "lane": "normal", "attempts": 4,
        "error": "the provider answered 400 Bad Request: input 3 is too long", "failed_at": "2026-01-31T12:00:00Z",
        "enqueued_at": "2026-01-31T11:58:00Z", "content_version": 1, "title": "Hush on the fourth floor",
        "excerpt": "Desk by the hour", "discarded_at": null
    }],
    "next_cursor": "1769860800000000-7"
}))]
pub struct DeadLettersBody {
    pub items: Vec<DeadLetterBody>,
    /// For the next page; null on the last one.
    pub next_cursor: Option<String>,
}

/// A task that was given up.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterBody {
    pub recommendation_id: i64,
    pub lane: Priority,
    /// Failed attempts.
    pub attempts: i32,
    pub error: Option<String>,
    pub failed_at: DateTime<Utc>,
    pub enqueued_at: DateTime<Utc>,
    pub content_version: i64,
    pub title: Option<String>,
    /// The begin of its description.
    pub excerpt: String,
    /// When it was discarded; such a one is no longer in the list.
    pub discarded_at: Option<DateTime<Utc>>,
}

/// A dead letter with all its attempts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "recommendation_id": 7, "lane": "normal", "attempts": 1, "error": "delivery_limit",
    "failed_at": "2026-01-31T12:00:00Z", "enqueued_at": "2026-01-31T11:58:00Z", "content_version": 1, "title": null,
    "excerpt": "Desk by the hour", "discarded_at": null,
    "history": [{
        "attempt": 1, "at": "2026-01-31T12:00:00Z", "error": "delivery_limit", "class": "broker", "worker": null,
        "duration_ms": null
    }]
}))]
pub struct DeadLetterDetailBody {
    #[serde(flatten)]
    pub letter: DeadLetterBody,
    /// The first attempt first.
    pub history: Vec<AttemptBody>,
}

/// An attempt that failed.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AttemptBody {
    pub attempt: i32,
    pub at: DateTime<Utc>,
    pub error: String,
    /// `transient`, `permanent`, or `broker` when no worker could finish it.
    pub class: String,
    /// The process that made it, as the status has it.
    pub worker: Option<String>,
    /// From the moment its batch was taken.
    pub duration_ms: Option<i64>,
}

/// Dead letters by what they died of.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "groups": [{
        "error": "the provider answered 400 Bad Request: input # is too long", "count": 2,
        "first_seen": "2026-01-31T12:00:00Z", "last_seen": "2026-01-31T12:05:00Z", "example_id": 7
    }],
    "total": 2
}))]
pub struct DeadGroupsBody {
    /// The largest first, 200 at most.
    pub groups: Vec<DeadGroupBody>,
    /// Dead letters in all.
    pub total: u64,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadGroupBody {
    /// The error with a `#` in place of each id and number; as a filter's `error` it means these again.
    pub error: String,
    pub count: u64,
    pub first_seen: DateTime<Utc>,
    pub last_seen: DateTime<Utc>,
    pub example_id: i64,
}

/// Dead letters
#[utoipa::path(
    get, path = "/api/recommendations/embedding-queue/dead-letters", tag = "dead letters",
    params(
        ("error" = Option<String>, Query, max_length = 1_000, description = "Part of the error or of its group's name"),
        ("lane" = Option<Priority>, Query, description = "Only those of this lane"),
        ("older_than" = Option<super::docs::MomentParam>, Query, description = "Died before: a duration such as 2h, or a moment (RFC 3339)"),
        ("newer_than" = Option<super::docs::MomentParam>, Query, description = "Died then or later: the same"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 100, description = "At most so many; 20 when absent"),
        ("cursor" = Option<String>, Query, pattern = "^([0-9]{1,16}-[0-9]{1,18})?$", description = "next_cursor of the page before"),
    ),
    responses(
        (status = 200, description = "A page, the last one to die first", body = Envelope<DeadLettersBody>),
        (status = 400, description = "A parameter is out of its range", body = ErrorBody),
    )
)]
pub async fn list(State(state): State<AppState>, query: QueryParams) -> Result<impl IntoResponse, ApiError> {
    let (filter, limit) = (dead_filter::of_query(&query)?, query.limit()?);
    let mut letters = state.db.dead_letters(&filter, limit + 1, dead_filter::cursor(&query)?).await?;
    let more = letters.len() as u64 > limit;
    letters.truncate(limit as usize);
    let last = letters.last().filter(|_| more).map(DeadLetter::cursor);
    let items = letters.into_iter().map(DeadLetterBody::from).collect();
    let body = DeadLettersBody { items, next_cursor: last.map(dead_filter::write_cursor) };
    Ok(Envelope::new(body, "Dead letters"))
}

/// Dead letters by error
#[utoipa::path(
    get, path = "/api/recommendations/embedding-queue/dead-letters/groups", tag = "dead letters",
    params(
        ("error" = Option<String>, Query, max_length = 1_000, description = "Part of the error or of its group's name"),
        ("lane" = Option<Priority>, Query, description = "Only those of this lane"),
        ("older_than" = Option<super::docs::MomentParam>, Query, description = "Died before: a duration such as 2h, or a moment (RFC 3339)"),
        ("newer_than" = Option<super::docs::MomentParam>, Query, description = "Died then or later: the same"),
    ),
    responses(
        (status = 200, description = "How many died of what, and when", body = Envelope<DeadGroupsBody>),
        (status = 400, description = "A parameter is out of its range", body = ErrorBody),
    )
)]
pub async fn groups(State(state): State<AppState>, query: QueryParams) -> Result<impl IntoResponse, ApiError> {
    let (groups, total) = state.db.dead_groups(&dead_filter::of_query(&query)?).await?;
    let body = DeadGroupsBody { groups: groups.into_iter().map(DeadGroupBody::from).collect(), total };
    Ok(Envelope::new(body, "Dead letters by error"))
}

/// One dead letter
#[utoipa::path(
    get, path = "/api/recommendations/embedding-queue/dead-letters/{recommendation_id}", tag = "dead letters",
    params(("recommendation_id" = i64, Path, minimum = 1, description = "The recommendation's id")),
    responses(
        (status = 200, description = "It and every attempt", body = Envelope<DeadLetterDetailBody>),
        (status = 400, description = "No id", body = ErrorBody),
        (status = 404, description = "It is no dead letter", body = ErrorBody),
    )
)]
pub async fn one(State(state): State<AppState>, path: PathParams) -> Result<impl IntoResponse, ApiError> {
    let found = state.db.dead_letter(path.id("recommendation_id")?).await?;
    let (letter, attempts) = found.ok_or(ApiError::NotFound("dead letter"))?;
    let history = attempts.into_iter().map(AttemptBody::from).collect();
    Ok(Envelope::new(DeadLetterDetailBody { letter: letter.into(), history }, "Dead letter"))
}

impl From<DeadLetter> for DeadLetterBody {
    fn from(letter: DeadLetter) -> Self {
        Self {
            lane: letter.lane(),
            recommendation_id: letter.recommendation_id,
            attempts: letter.attempts,
            error: letter.error,
            failed_at: letter.failed_at,
            enqueued_at: letter.enqueued_at,
            content_version: letter.content_version,
            title: letter.title,
            excerpt: letter.excerpt,
            discarded_at: letter.discarded_at,
        }
    }
}

impl From<Attempt> for AttemptBody {
    fn from(Attempt { attempt, at, error, class, worker, duration_ms }: Attempt) -> Self {
        Self { attempt, at, error, class, worker, duration_ms }
    }
}

impl From<DeadGroup> for DeadGroupBody {
    fn from(DeadGroup { error, count, first_seen, last_seen, example }: DeadGroup) -> Self {
        Self { error, count: count.max(0) as u64, first_seen, last_seen, example_id: example }
    }
}
