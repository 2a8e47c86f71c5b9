//! The routes, one file an idea.

mod audit;
mod dashboard;
mod dead_letters;
mod dead_orders;
mod docs;
mod events;
mod health;
mod history;
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

use std::sync::Arc;

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::description;
use super::error::ApiError;
use super::state::AppState;
use super::{access, described, layers, limits, origins};
use crate::auth::Authenticator;
use crate::metrics::Metrics;
pub use queue::StatusSource;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "mapx-embeddings",
        description = "Recommendations that are found by meaning. A save answers at once; its embedding follows in \
                       the background. With authentication the acting user is the token's, else the header x-user-id, else \
                       the body's user_id."
    ),
    components(schemas(super::error::ErrorBody, docs::VisibilityFilter, docs::MomentParam)),
    tags(
        (name = "recommendations", description = "Save, read, change, delete, import and list."),
        (name = "search", description = "Find by meaning and by words."),
        (name = "places", description = "Places, and what is said of them."),
        (name = "users", description = "Who follows whom: what is kept for friends is shown to followers."),
        (name = "embeddings", description = "How far the embedding of one recommendation is."),
        (name = "queue", description = "What waits, what runs, and how it is run."),
        (name = "dead letters", description = "What was given up, and why; starting it afresh or letting it be."),
        (name = "regeneration", description = "Embedding many rows again, as a job."),
        (name = "webhooks", description = "Telling other programs what happens."),
        (name = "health", description = "For load balancers, supervisors and Prometheus."),
        (name = "docs", description = "This description.")
    )
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
        .routes(routes!(events::events))
        .routes(routes!(history::history))
        .routes(routes!(history::coverage))
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
    description::complete(described::complete(documented().into_openapi()))
}

/// What a process without the API tells: that it runs, and its metrics.
pub fn metrics_router(metrics: Metrics, auth: Arc<Authenticator>) -> Router {
    let tell = async move |headers: HeaderMap| {
        access::guard_metrics(&auth, &headers).await?;
        Ok::<_, ApiError>(metrics::answer(&metrics).await)
    };
    Router::new()
        .route("/metrics", get(tell))
        .route("/health/live", get(health::live))
        .layer(CatchPanicLayer::custom(layers::panicked))
        .layer(middleware::from_fn(origins::headers))
}

/// All routes with their layers.
pub fn router(state: AppState) -> Router {
    let (router, _) = documented().split_for_parts();
    let router = router
        .merge(dashboard::routes())
        .merge(description::routes())
        .fallback(async |request: Request| ApiError::NoRoute(request.uri().path().to_owned()))
        // The last is the first that a request passes.
        .layer(middleware::from_fn_with_state(state.clone(), access::guard))
        .layer(middleware::from_fn_with_state(state.clone(), layers::time_limit))
        .layer(middleware::from_fn_with_state(state.clone(), limits::turn))
        .layer(CatchPanicLayer::custom(layers::panicked));
    let router = match state.origins.layer() {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router
        .layer(middleware::from_fn(origins::headers))
        .layer(middleware::from_fn_with_state(state.clone(), layers::log))
        .with_state(state)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::access::{Access, TABLE};

    #[test]
    fn the_table_of_who_may_do_what_has_every_route_and_no_other() {
        let document = serde_json::to_value(super::openapi()).unwrap();
        let paths = document["paths"].as_object().unwrap().iter();
        let described: BTreeSet<(String, &str)> = paths
            .flat_map(|(path, item)| {
                item.as_object().unwrap().keys().map(move |m| (m.to_uppercase(), path.as_str()))
            })
            .collect();
        let rows = TABLE.iter().filter(|(_, _, access)| *access != Access::Page);
        let listed: BTreeSet<(String, &str)> = rows.map(|(method, path, _)| (method.to_string(), *path)).collect();
        let differences: Vec<_> = described.symmetric_difference(&listed).collect();
        assert!(differences.is_empty(), "in the table or in the description, and not in both: {differences:?}");
    }
}
