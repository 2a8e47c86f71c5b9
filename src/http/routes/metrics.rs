//! Metrics for Prometheus.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use crate::http::state::AppState;
use crate::metrics::Metrics;

/// Of the text format that Prometheus has read from its beginning.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics
///
/// In Prometheus' text format, over all processes, as the database has them at the moment.
#[utoipa::path(
    get, path = "/metrics", tag = "health",
    responses(
        (status = 200, description = "They are", body = String, content_type = "text/plain",
            example = "# TYPE mapx_tasks_retrying gauge\nmapx_tasks_retrying 2\n"),
        (status = 503, description = "The database does not answer", body = String, content_type = "text/plain",
            example = "the database does not answer\n"),
    )
)]
pub async fn metrics(State(state): State<AppState>) -> Response {
    answer(&state.metrics).await
}

pub async fn answer(metrics: &Metrics) -> Response {
    match metrics.text().await {
        Ok(text) => ([(CONTENT_TYPE, TEXT)], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, "metrics can't be read");
            // A scrape that failed, rather than one without the numbers: an autoscaler must not take it for an
            // empty queue.
            (StatusCode::SERVICE_UNAVAILABLE, [(CONTENT_TYPE, TEXT)], "the database does not answer\n")
                .into_response()
        }
    }
}
