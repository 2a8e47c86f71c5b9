//! The dashboard: one page and what belongs to it, built into the binary. It asks nobody but this service, by the routes
//! that are open to everybody else too.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Path, type and content.
const FILES: &[(&str, &str, &str)] = &[
    ("/dashboard", HTML, include_str!("../dashboard/index.html")),
    ("/dashboard/style.css", STYLE, include_str!("../dashboard/style.css")),
    ("/dashboard/app.js", SCRIPT, include_str!("../dashboard/app.js")),
    ("/dashboard/api.js", SCRIPT, include_str!("../dashboard/api.js")),
    ("/dashboard/charts.js", SCRIPT, include_str!("../dashboard/charts.js")),
    ("/dashboard/page.js", SCRIPT, include_str!("../dashboard/page.js")),
    ("/dashboard/queue.js", SCRIPT, include_str!("../dashboard/queue.js")),
    ("/dashboard/work.js", SCRIPT, include_str!("../dashboard/work.js")),
];

/// The page's routes.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, (path, kind, content)| {
        router.route(path, get(move || std::future::ready(file(kind, content))))
    })
}

fn file(kind: &'static str, content: &'static str) -> Response {
    // Another version of the service brings another page. What a page may do, its other headers say.
    let headers = [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")];
    (headers, content).into_response()
}
