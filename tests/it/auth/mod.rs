//! Authentication and authorisation, from outside.

mod acting;
mod cli;
mod cors;
mod jwks;
mod jwt;
mod limits;
mod matrix;
mod secrets;
mod signing;
mod tokens;

use mapx_embeddings::config::Settings;
use mapx_embeddings::config::secret::Secret;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::app::{TestApp, user};
use signing::hs256;

const API: &str = "/api/recommendations";
const SAVE: &str = "/api/recommendations/save";
const SEARCH: &str = "/api/recommendations/search";
const QUEUE: &str = "/api/recommendations/embedding-queue";

const SECRET: &str = "a secret of these tests, and of nothing else";
const ADMIN: &str = "admin-token-of-the-tests";
const READER: &str = "read-token-of-the-tests";
const SCRAPER: &str = "metrics-token-of-the-tests";

/// With HS256 tokens and all three that are no user's.
fn guarded(settings: &mut Settings) {
    let auth = &mut settings.auth;
    auth.jwt_secret = Secret::new(SECRET);
    auth.admin_token = Secret::new(ADMIN);
    auth.read_token = Secret::new(READER);
    auth.metrics_token = Secret::new(SCRAPER);
    auth.admin_claim = "role=admin".into();
    auth.read_claim = "role=reader".into();
}

async fn app() -> TestApp {
    TestApp::with(guarded).await
}

/// Seconds since 1970, so many from now.
fn in_seconds(from_now: i64) -> i64 {
    chrono::Utc::now().timestamp() + from_now
}

/// Claims of a user for an hour.
fn claims(id: Uuid) -> Value {
    json!({ "id": id, "exp": in_seconds(3600) })
}

/// A user's token.
fn token_of(n: u128) -> String {
    hs256(SECRET, &claims(user(n)))
}

/// A user's token with a role.
fn token_with_role(n: u128, role: &str) -> String {
    let mut claims = claims(user(n));
    claims["role"] = json!(role);
    hs256(SECRET, &claims)
}

/// An answer, whatever it is.
struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Seen {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{}: no JSON ({e}): {}", self.status, self.text))
    }

    /// A refusal in the envelope, by its code.
    #[track_caller]
    fn refused(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        let body = self.json();
        assert_eq!((&body["success"], &body["error"]), (&json!(false), &json!(code)), "{body}");
        assert_eq!(self.headers.contains_key("www-authenticate"), status == 401, "{:?}", self.headers);
        body["message"].as_str().expect("a message").to_owned()
    }

    /// Of an answer that has no body.
    #[track_caller]
    fn status_is(&self, status: u16) {
        assert_eq!((self.status.as_u16(), self.text.as_str()), (status, ""));
    }

    #[track_caller]
    fn data(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self.json()["data"].clone()
    }
}

/// Calls with these headers.
async fn call(app: &TestApp, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Seen {
    let mut request = app.request(Method::from_bytes(method.as_bytes()).expect("a method"), path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.body(body.to_string());
    }
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    Seen { status, headers, text: response.text().await.expect("a body") }
}

async fn get(app: &TestApp, path: &str, token: &str) -> Seen {
    call(app, "GET", path, &[("authorization", &format!("Bearer {token}"))], None).await
}

async fn send(app: &TestApp, method: &str, path: &str, token: &str, body: &Value) -> Seen {
    call(app, method, path, &[("authorization", &format!("Bearer {token}"))], Some(body)).await
}

/// Saves a public recommendation with a user's token.
async fn saved(app: &TestApp, token: &str) -> i64 {
    let body = json!({ "description": "Good coffee", "visibility": "public" });
    let data = send(app, "POST", SAVE, token, &body).await.data(201);
    data["recommendation_id"].as_i64().expect("an id")
}
