//! What every request passes: a time limit, a log line, and containment of panics.

use std::any::Any;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::state::AppState;
use super::traced::{self, Traced};
use crate::measures::RequestKind;
use crate::traces::Kind;

/// Ends a request that takes too long. Import streams for as long as it likes and has limits of its own.
pub async fn time_limit(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if request.uri().path().ends_with("/import") {
        return next.run(request).await;
    }
    // The body has the same time to arrive, so twice.
    let limit = state.timeout * 2;
    let timed = tokio::time::timeout(limit, next.run(request)).await;
    timed.unwrap_or_else(|_| ApiError::Unavailable.into_response())
}

/// One line a request, and one more of its kind for the metrics, with the route and not the path: no text of a user
/// in it.
pub async fn log(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("-", MatchedPath::as_str).to_owned();
    let caller = traced::caller(request.headers());
    let mut span =
        state.metrics.measures().traces.begin(Kind::Server, || format!("{} {route}", known(&method)), caller);
    span.set("http.request.method", || known(&method).to_owned());
    span.set("http.route", || route.clone());
    request.extensions_mut().insert(Traced(span.context()));
    let response = next.run(request).await;
    let took = started.elapsed();
    let (took_ms, status) = (took.as_millis() as u64, response.status().as_u16());
    span.set("http.response.status_code", || i64::from(status));
    if response.status().is_server_error() {
        span.fail("a server error");
    }
    let kind = RequestKind { method: known(&method).to_owned(), route: route.clone(), status };
    state.metrics.measures().request(kind, took);
    if response.status().is_server_error() {
        tracing::error!(%method, route, status, took_ms, "request failed");
    } else {
        tracing::debug!(%method, route, status, took_ms, "request");
    }
    response
}

/// The method's name; one that a client made up counts with all of its like.
fn known(method: &Method) -> &str {
    let known =
        [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];
    if known.contains(method) { method.as_str() } else { "other" }
}

/// The answer to a request whose handler panicked. The panic itself has been printed by its hook.
pub fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    ApiError::Internal.into_response()
}
