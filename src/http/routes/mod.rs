//! The routes, one file an idea.

mod audit;
mod dead_letters;
mod dead_orders;
mod docs;
mod health;
mod import;
mod intake;
mod lists;
mod live;
mod metrics;
mod places;
mod queue;
mod recommendations;
mod regenerations;
mod search;
mod users;
mod webhook_log;
mod webhooks;

use axum::extract::Request;
use axum::routing::get;
use axum::{Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::ApiError;
use super::layers;
use super::state::AppState;
use crate::metrics::Metrics;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "mapx-embeddings",
        description = "Recommendations that are found by meaning. A save answers at once; its embedding follows in \
                       the background. The acting user is the header x-user-id, else the body's user_id."
    ),
    components(schemas(super::error::ErrorBody))
)]
struct ApiDoc;

/// Every route with its documentation; a route without one isn't possible.
fn documented() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(ApiDoc::openapi())
        .routes(routes!(recommendations::save))
        .routes(routes!(import::import))
        .routes(routes!(recommendations::get, recommendations::put, recommendations::delete))
        .routes(routes!(recommendations::embedding))
        .routes(routes!(lists::by_user))
        .routes(routes!(lists::by_place))
        .routes(routes!(places::network_rating))
        .routes(routes!(places::by_google_id))
        .routes(routes!(places::reviewed))
        .routes(routes!(search::search))
        .routes(routes!(queue::status))
        .routes(routes!(live::get, live::put))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::groups))
        .routes(routes!(dead_letters::one))
        .routes(routes!(dead_orders::replay))
        .routes(routes!(dead_orders::discard))
        .routes(routes!(intake::pause))
        .routes(routes!(intake::resume))
        .routes(routes!(intake::drain))
        .routes(routes!(intake::undrain))
        .routes(routes!(audit::audit))
        .routes(routes!(regenerations::begin, regenerations::list))
        .routes(routes!(regenerations::get, regenerations::cancel))
        .routes(routes!(regenerations::pause))
        .routes(routes!(regenerations::resume))
        .routes(routes!(users::follow, users::unfollow))
        .routes(routes!(webhooks::create, webhooks::list))
        .routes(routes!(webhooks::get, webhooks::change, webhooks::delete))
        .routes(routes!(webhooks::rotate))
        .routes(routes!(webhook_log::test))
        .routes(routes!(webhook_log::list))
        .routes(routes!(webhook_log::one))
        .routes(routes!(webhook_log::redeliver))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::metrics))
        .routes(routes!(docs::openapi_json))
}

/// The API's description, OpenAPI 3.1.
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented().into_openapi()
}

/// What a process without the API tells: that it runs, and its metrics.
pub fn metrics_router(metrics: Metrics) -> Router {
    Router::new()
        .route("/metrics", get(async move || metrics::answer(&metrics).await))
        .route("/health/live", get(health::live))
        .layer(CatchPanicLayer::custom(layers::panicked))
}

/// All routes with their layers.
pub fn router(state: AppState) -> Router {
    let (router, _) = documented().split_for_parts();
    router
        .fallback(async |request: Request| ApiError::NoRoute(request.uri().path().to_owned()))
        .method_not_allowed_fallback(async |request: Request| {
            ApiError::MethodNotAllowed(request.method().to_string())
        })
        .layer(middleware::from_fn_with_state(state.clone(), layers::time_limit))
        .layer(CatchPanicLayer::custom(layers::panicked))
        .layer(middleware::from_fn(layers::log))
        .with_state(state)
}
