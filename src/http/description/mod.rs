//! The API's description: completed, as JSON, and as a page to read without anything from elsewhere.

mod complete;
mod example;
mod fields;
mod markup;
mod page;

use std::sync::LazyLock;

use axum::Router;
use axum::body::Bytes;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

pub use complete::complete;

/// Whatever a text says, nothing runs and nothing is fetched but the style.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";
const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Made once: the description is the same for every process of a version.
static DOCUMENT: LazyLock<Document> = LazyLock::new(Document::new);

struct Document {
    json: Bytes,
    page: Bytes,
}

impl Document {
    fn new() -> Self {
        let api = super::openapi();
        let page = page::render(&serde_json::to_value(&api).unwrap_or_default());
        Self { json: api.to_pretty_json().unwrap_or_default().into(), page: page.into() }
    }
}

/// The description as it is kept in `docs/openapi.json`.
pub fn json() -> Bytes {
    DOCUMENT.json.clone()
}

/// The page and its style. Renders it now, rather than for the first who asks.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let page = DOCUMENT.page.clone();
    let style = Bytes::from_static(include_bytes!("style.css"));
    let file = |kind: &'static str, content: Bytes| get(move || std::future::ready(file(kind, content.clone())));
    Router::new().route("/docs", file(HTML, page)).route("/docs/style.css", file(STYLE, style))
}

fn file(kind: &'static str, content: Bytes) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        // Another version of the service brings another page.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}
