//! What happens, as it happens.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use crate::domain::fields::InvalidField;
use crate::http::ApiError;
use crate::http::error::ErrorBody;
use crate::http::events::Position;
use crate::http::params::QueryParams;
use crate::http::state::AppState;

/// Live events
///
/// Server-sent events: `status` (the queue's status, at most twice a second and only when it has changed), `ready` and
/// `failed` for each embedding that is made or given up, by any process; with `queued=true` also `queued` for a save or an
/// edit that asks for one. Beyond some hundred in half a second they are only counted: `skipped`, with a `count` that is null where nobody knows. A comment each fifteen seconds
/// says that the connection lives. Whoever reads more slowly than things happen is disconnected; with the header
/// `last-event-id` the events since then are told first, up to ten minutes of them. After such a gap one that was told
/// before may come again.
#[utoipa::path(
    get, path = "/api/recommendations/embedding-queue/events", tag = "queue",
    params(
        ("queued" = Option<bool>, Query, description = "Whether to tell of what is queued, too"),
        ("last-event-id" = Option<String>, Header, description = "The `id` of the last event that was received"),
    ),
    responses(
        (status = 200, description = "They follow until one side hangs up", body = String, content_type = "text/event-stream",
            example = "id: 12.0\nevent: ready\ndata: {\"recommendation_id\":7,\"at\":\"2026-01-31T12:00:00.120Z\",\"content_version\":1,\"took_ms\":14}\n\n"),
        (status = 400, description = "last-event-id is none of this stream, or queued is no truth value", body = ErrorBody),
        (status = 429, description = "There are server.max_event_listeners already", body = ErrorBody),
        (status = 503, description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn events(
    State(state): State<AppState>,
    query: QueryParams,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let queued = match query.given("queued") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(InvalidField::new("queued", "must be true or false").into()),
    };
    let last = match headers.get("last-event-id") {
        None => None,
        Some(value) => {
            let unreadable = |_| InvalidField::new("last-event-id", "is no text");
            Some(Position::parse(value.to_str().map_err(unreadable)?)?)
        }
    };
    let stream = state.events.listen(last, queued).await?;
    // nginx would hold back what it gets otherwise.
    let headers = [
        (CONTENT_TYPE.as_str(), "text/event-stream"),
        (CACHE_CONTROL.as_str(), "no-store"),
        ("x-accel-buffering", "no"),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}
