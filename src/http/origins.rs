//! What web pages may do, ours and others': CORS, content security policies, and requests from other sites.

use axum::extract::Request;
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, ORIGIN, REFERRER_POLICY,
    RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::error::ApiError;
use crate::config::words::Words;

/// Of our HTML pages: whatever a text in a recommendation or an error says, what they load comes from this service, as files of their own (no inline scripts or styles),
/// nobody frames them, and they send nothing elsewhere.
pub const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Of everything else, which is no page: should a browser be made to show it, it loads and runs nothing.
pub const DATA_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

/// What the API reads of a request.
const HEADERS: [HeaderName; 6] = [
    AUTHORIZATION,
    CONTENT_TYPE,
    HeaderName::from_static("x-user-id"),
    HeaderName::from_static("x-actor"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("traceparent"),
];
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Web pages elsewhere that may call the API.
pub struct Origins(Words);

impl Origins {
    pub fn new(origins: Words) -> Self {
        Self(origins)
    }

    fn any(&self) -> bool {
        self.0.iter().any(|origin| origin == "*")
    }

    /// What answers a browser's question, if there are any.
    pub fn layer(&self) -> Option<CorsLayer> {
        if self.0.is_empty() {
            return None;
        }
        let named = self.0.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
        let origins = if self.any() { AllowOrigin::any() } else { AllowOrigin::list(named) };
        // Without credentials: a page sends its token itself, no browser does it for it.
        let layer = CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            .allow_headers(HEADERS)
            .expose_headers([RETRY_AFTER, WWW_AUTHENTICATE])
            .max_age(std::time::Duration::from_secs(600));
        Some(layer)
    }

    /// Refuses what a page of another site has a browser send without asking first, as any page can with a form:
    /// to a service on the loopback address the browser is as good as its user.
    pub fn check(&self, request: &Request) -> Result<(), ApiError> {
        let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let harmless = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
        if harmless || header(FETCH_SITE) != Some("cross-site") || self.any() {
            return Ok(());
        }
        let named = header(ORIGIN).is_some_and(|origin| self.0.iter().any(|known| known == origin));
        if named { Ok(()) } else { Err(ApiError::CrossSite) }
    }
}

/// Headers that every answer has, unless its handler has chosen them.
pub async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let is_page = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    set(headers, CONTENT_SECURITY_POLICY, if is_page { PAGE_POLICY } else { DATA_POLICY });
    set(headers, X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(headers, REFERRER_POLICY, "no-referrer");
    set(headers, OPENER_POLICY, "same-origin");
    set(headers, RESOURCE_POLICY, "same-origin");
    // What one user may see must not be shown to the next by a cache between.
    set(headers, CACHE_CONTROL, "no-store");
    response
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.entry(name).or_insert(HeaderValue::from_static(value));
}
