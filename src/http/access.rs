//! Who may do what: one table of all routes, and the middleware that keeps it.
//!
//! A new route is one more row. A route without one is refused, whoever asks, and a test says so.

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ALLOW, AUTHORIZATION};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::limits::Client;
use super::state::AppState;
use crate::auth::{Authenticator, Caller, Rank};

/// Who may call a route. An operator who is no user, as the bearer of `auth.admin_token` is, is meant by `Operate`,
/// `Watch`, `Read` and `Import`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone, as often as they like: supervisors ask here, without a token.
    Probe,
    /// Anyone.
    Public,
    /// Anyone: a page or what belongs to it, which the API's description leaves out.
    Page,
    /// Who may see the numbers: the bearers of `auth.metrics_token` and of more.
    Metrics,
    /// Whoever has a token, and with `auth.anonymous_read` everybody: each sees what it may see.
    Read,
    /// Whoever has a token.
    SignedIn,
    /// Users who may act.
    Act,
    /// The same; that it is theirs is checked where it is read.
    Own,
    /// Users who may act, for themselves; operators, for the users whom the lines name.
    Import,
    /// Operators and those who may see everything.
    Watch,
    /// Operators.
    Operate,
}

use Access::{Act, Import, Metrics, Operate, Own, Page, Probe, Public, Read, SignedIn, Watch};

/// Every route. `GET` stands for `HEAD` too.
pub const TABLE: &[(Method, &str, Access)] = &[
    (Method::POST, "/api/recommendations/save", Act),
    (Method::POST, "/api/recommendations/import", Import),
    (Method::GET, "/api/recommendations/{id}", Read),
    (Method::PUT, "/api/recommendations/{id}", Own),
    (Method::DELETE, "/api/recommendations/{id}", Own),
    (Method::GET, "/api/recommendations/{id}/embedding", Read),
    (Method::GET, "/api/recommendations/user/{user_id}", Read),
    (Method::GET, "/api/recommendations/place/{place_id}", Read),
    (Method::GET, "/api/recommendations/place/{place_id}/network-rating", Read),
    (Method::GET, "/api/recommendations/place/google/{google_place_id}", Read),
    (Method::GET, "/api/recommendations/places/reviewed", Read),
    (Method::POST, "/api/recommendations/search", Read),
    (Method::PUT, "/api/users/{id}/following/{other}", Own),
    (Method::DELETE, "/api/users/{id}/following/{other}", Own),
    (Method::GET, "/api/recommendations/embedding-queue/status", SignedIn),
    (Method::GET, "/api/recommendations/embedding-queue/events", Watch),
    (Method::GET, "/api/recommendations/embedding-queue/history", Watch),
    (Method::GET, "/api/recommendations/embedding-queue/coverage", Watch),
    (Method::GET, "/api/recommendations/embedding-queue/config", Watch),
    (Method::PUT, "/api/recommendations/embedding-queue/config", Operate),
    (Method::GET, "/api/recommendations/embedding-queue/audit", Watch),
    (Method::GET, "/api/recommendations/embedding-queue/dead-letters", Watch),
    (Method::GET, "/api/recommendations/embedding-queue/dead-letters/groups", Watch),
    (Method::GET, "/api/recommendations/embedding-queue/dead-letters/{recommendation_id}", Watch),
    (Method::POST, "/api/recommendations/embedding-queue/dead-letters/replay", Operate),
    (Method::POST, "/api/recommendations/embedding-queue/dead-letters/discard", Operate),
    (Method::POST, "/api/recommendations/embedding-queue/pause", Operate),
    (Method::POST, "/api/recommendations/embedding-queue/resume", Operate),
    (Method::POST, "/api/recommendations/embedding-queue/workers/{id}/drain", Operate),
    (Method::POST, "/api/recommendations/embedding-queue/workers/{id}/undrain", Operate),
    (Method::GET, "/api/recommendations/regenerate-embeddings", Watch),
    (Method::POST, "/api/recommendations/regenerate-embeddings", Operate),
    (Method::GET, "/api/recommendations/regenerate-embeddings/{job}", Watch),
    (Method::DELETE, "/api/recommendations/regenerate-embeddings/{job}", Operate),
    (Method::POST, "/api/recommendations/regenerate-embeddings/{job}/pause", Operate),
    (Method::POST, "/api/recommendations/regenerate-embeddings/{job}/resume", Operate),
    (Method::POST, "/api/webhooks", Operate),
    (Method::GET, "/api/webhooks", Watch),
    (Method::GET, "/api/webhooks/{id}", Watch),
    (Method::PATCH, "/api/webhooks/{id}", Operate),
    (Method::DELETE, "/api/webhooks/{id}", Operate),
    (Method::POST, "/api/webhooks/{id}/test", Operate),
    (Method::POST, "/api/webhooks/{id}/rotate-secret", Operate),
    (Method::GET, "/api/webhooks/{id}/deliveries", Watch),
    (Method::GET, "/api/webhooks/{id}/deliveries/{delivery}", Watch),
    (Method::POST, "/api/webhooks/{id}/deliveries/{delivery}/redeliver", Operate),
    (Method::GET, "/health/live", Probe),
    (Method::GET, "/health/ready", Probe),
    (Method::GET, "/metrics", Metrics),
    (Method::GET, "/openapi.json", Public),
    (Method::GET, "/docs", Page),
    (Method::GET, "/docs/style.css", Page),
    (Method::GET, "/dashboard", Page),
    (Method::GET, "/dashboard/style.css", Page),
    (Method::GET, "/dashboard/app.js", Page),
    (Method::GET, "/dashboard/api.js", Page),
    (Method::GET, "/dashboard/charts.js", Page),
    (Method::GET, "/dashboard/page.js", Page),
    (Method::GET, "/dashboard/queue.js", Page),
    (Method::GET, "/dashboard/work.js", Page),
];

const NO_TOKEN: &str = "a token is needed: send the header authorization: Bearer TOKEN";

impl Access {
    /// Of a route, by its pattern; `None` for one that isn't in the table.
    pub fn of(method: &Method, path: &str) -> Option<Self> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        TABLE.iter().find(|(of, route, _)| of == method && *route == path).map(|(_, _, access)| *access)
    }

    /// Whether a token makes no difference.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Probe | Self::Public | Self::Page)
    }

    /// Whether `caller` may.
    fn admit(self, caller: Caller, anonymous_read: bool) -> Result<(), ApiError> {
        let allowed = match (caller.rank, self) {
            (Rank::Trusted, _) | (_, Self::Probe | Self::Public | Self::Page) => true,
            (Rank::Anonymous, _) => self == Self::Read && anonymous_read,
            (Rank::Believed, _) => !matches!(self, Self::Operate | Self::Watch | Self::Metrics),
            (Rank::Scraper, _) => self == Self::Metrics,
            (Rank::Member, _) => {
                matches!(self, Self::Read | Self::SignedIn | Self::Act | Self::Own | Self::Import)
            }
            (Rank::Reader, _) => matches!(self, Self::Read | Self::SignedIn | Self::Watch | Self::Metrics),
            (Rank::Admin, Self::Act | Self::Own) => caller.user.is_some(),
            (Rank::Admin, _) => true,
        };
        match (allowed, caller.rank) {
            (true, _) => Ok(()),
            (false, Rank::Anonymous | Rank::Believed) => Err(ApiError::Unauthenticated(NO_TOKEN.to_owned())),
            (false, rank) => Err(ApiError::NotAllowed(self.why(rank))),
        }
    }

    fn why(self, rank: Rank) -> &'static str {
        match (self, rank) {
            (Self::Operate, Rank::Reader) => "this token may see everything and do nothing",
            (Self::Operate, _) => {
                "only whoever operates the service may do that: it needs the admin token or claim"
            }
            (Self::Watch | Self::Metrics, _) => "this token doesn't show how the service is operated",
            (_, Rank::Reader) => "this token may read and not act",
            (_, Rank::Scraper) => "this token is for /metrics alone",
            _ => "only a user may do that, and this token is no user's",
        }
    }
}

/// Lets a request pass to its handler, with its [`Caller`], where the table allows it.
pub async fn guard(State(state): State<AppState>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let Some(path) = path.as_ref().map(MatchedPath::as_str) else {
        state.limits.count(Client::at(&request))?;
        return Ok(next.run(request).await);
    };
    let Some(access) = Access::of(request.method(), path) else {
        state.limits.count(Client::at(&request))?;
        return unlisted(request.method(), path);
    };
    // A token that isn't asked for isn't looked at: who asks whether the service is alive must not need a good one.
    let caller = if access.is_open() { None } else { Some(caller(&state.auth, request.headers()).await) };
    // A wrong token counts for the address it comes from, at /metrics too.
    let proven = caller.as_ref().and_then(|caller| caller.as_ref().ok());
    if access != Access::Probe && (access != Access::Metrics || proven.is_none()) {
        state.limits.count(Client::of(proven, &request))?;
    }
    if let Some(caller) = caller.transpose()? {
        access.admit(caller, state.auth.anonymous_read)?;
        request.extensions_mut().insert(caller);
    }
    state.origins.check(&request)?;
    Ok(next.run(request).await)
}

/// The same for what a process without the API tells.
pub async fn guard_metrics(auth: &Authenticator, headers: &HeaderMap) -> Result<(), ApiError> {
    Access::Metrics.admit(caller(auth, headers).await?, false)
}

async fn caller(auth: &Authenticator, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let sent = headers.get_all(AUTHORIZATION).iter().map(|value| value.to_str().ok());
    Ok(auth.caller(sent).await?)
}

/// A method that a route doesn't have, or a route that nobody has placed in the table.
fn unlisted(method: &Method, path: &str) -> Result<Response, ApiError> {
    let has = |name: &Method| Access::of(name, path).is_some();
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let allowed: Vec<&str> = methods.iter().filter(|name| has(name)).map(Method::as_str).collect();
    if allowed.is_empty() {
        tracing::error!(route = path, "the route is not in the table of who may call it, so nobody may");
        return Err(ApiError::NotAllowed("nobody may do that"));
    }
    let mut response = ApiError::MethodNotAllowed(method.to_string()).into_response();
    if let Ok(allowed) = HeaderValue::from_str(&allowed.join(",")) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(access: Access, rank: Rank, user: Option<u128>) -> bool {
        let caller = Caller { user: user.map(uuid::Uuid::from_u128), rank };
        access.admit(caller, false).is_ok()
    }

    #[test]
    fn a_route_is_listed_once() {
        for (at, (method, path, _)) in TABLE.iter().enumerate() {
            assert!(!TABLE[..at].iter().any(|(m, p, _)| m == method && p == path), "{method} {path}");
        }
    }

    #[test]
    fn a_route_that_is_not_in_the_table_is_refused() {
        let refused = unlisted(&Method::GET, "/forgotten").unwrap_err();
        assert_eq!(refused.into_response().status(), 403);
        assert_eq!(unlisted(&Method::PATCH, "/metrics").unwrap().status(), 405);
        assert_eq!(Access::of(&Method::HEAD, "/metrics"), Some(Metrics));
    }

    #[test]
    fn what_operates_the_service_is_for_operators_alone() {
        for access in [Operate, Watch] {
            for rank in [Rank::Anonymous, Rank::Believed, Rank::Member, Rank::Scraper] {
                assert!(!admitted(access, rank, Some(1)), "{access:?} {rank:?}");
            }
        }
        assert!(!admitted(Operate, Rank::Reader, None) && admitted(Watch, Rank::Reader, None));
        assert!(admitted(Operate, Rank::Admin, None) && !admitted(Act, Rank::Admin, None));
        assert!(admitted(Act, Rank::Admin, Some(1)) && !admitted(Act, Rank::Reader, Some(1)));
    }
}
