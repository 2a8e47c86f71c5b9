//! The whole service in a test: a real listener, a database of its own, shut down at the end.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mapx_embeddings::app::App;
use mapx_embeddings::broker::Broker;
use mapx_embeddings::config::{Role, Settings};
use mapx_embeddings::embedder::{self, Embedder};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::data::TestData;

/// How long anything that must happen may take, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A user of the tests.
pub fn user(n: u128) -> Uuid {
    Uuid::from_u128(0x4000_8000_0000_0000_0000 + n)
}

/// A running service.
pub struct TestApp {
    pub base: String,
    pub http: reqwest::Client,
    data: Arc<TestData>,
    shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

/// An answer with its body read.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Answer {
    /// `data` of a success of this status; anything else fails the test.
    #[track_caller]
    pub fn data(&self, status: u16) -> &Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        assert_eq!(self.body["success"], true, "{}", self.body);
        &self.body["data"]
    }

    /// The message of a refusal of this status in the envelope; anything else fails the test.
    #[track_caller]
    pub fn refusal(&self, status: u16) -> &str {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        assert_eq!(self.body["success"], false, "{}", self.body);
        assert!(self.body["error"].is_string(), "{}", self.body);
        self.body["message"].as_str().expect("a refusal has a message")
    }
}

impl TestApp {
    /// With the built-in model.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// With changed settings; the embedder is built from them.
    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let data = TestData::new().await;
        Self::over(data, change, None).await
    }

    /// With an embedder of the test's.
    pub async fn with_embedder(embedder: Arc<dyn Embedder>, change: impl FnOnce(&mut Settings)) -> Self {
        let data = TestData::new().await;
        Self::over(data, change, Some(embedder)).await
    }

    /// With a broker of the test's, made for the settings.
    pub async fn with_broker<B: Broker>(
        broker: impl FnOnce(&Settings) -> Arc<B>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let data = TestData::new().await;
        let settings = prepared(&data, change);
        let embedder = embedder::build(&settings.embedder).expect("an embedder");
        let broker = broker(&settings);
        Self::run(data, App::build_on(settings, Role::All, embedder, broker).await)
    }

    /// Over the database in a folder, which may be that of an app before.
    pub async fn over(
        data: Arc<TestData>,
        change: impl FnOnce(&mut Settings),
        embedder: Option<Arc<dyn Embedder>>,
    ) -> Self {
        let settings = prepared(&data, change);
        let embedder = embedder.unwrap_or_else(|| embedder::build(&settings.embedder).expect("an embedder"));
        Self::run(data, App::build_with(settings, Role::All, embedder).await)
    }

    fn run(data: Arc<TestData>, app: anyhow::Result<App>) -> Self {
        let app = app.expect("the app builds");
        let base = format!("http://{}", app.addr());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(app.run_until(shutdown.clone()));
        Self { base, http: reqwest::Client::new(), data, shutdown, running }
    }

    /// The database, to start another app over it.
    pub fn data(&self) -> Arc<TestData> {
        self.data.clone()
    }

    /// Ends the service in good order.
    pub async fn stop(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.running).await.expect("the app stops");
        ended.expect("no panic").expect("no error");
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("an answer");
        let status = response.status();
        let text = response.text().await.expect("a body");
        let body = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{status}: no JSON ({e}): {text:?}"));
        Answer { status, body }
    }

    pub async fn get(&self, path: &str, viewer: Option<Uuid>) -> Answer {
        self.send(acting(self.request(Method::GET, path), viewer)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub async fn put(&self, path: &str, user: Option<Uuid>, body: &Value) -> Answer {
        self.send(acting(self.request(Method::PUT, path).json(body), user)).await
    }

    pub async fn delete(&self, path: &str, user: Option<Uuid>) -> Answer {
        self.send(acting(self.request(Method::DELETE, path), user)).await
    }

    /// Saves a body with its `user_id` and returns the new id.
    pub async fn save(&self, body: &Value) -> i64 {
        let answer = self.post("/api/recommendations/save", body).await;
        answer.data(201)["recommendation_id"].as_i64().expect("an id")
    }

    /// Saves a public description of the first user.
    pub async fn save_text(&self, description: &str) -> i64 {
        self.save(&json!({ "user_id": user(1), "description": description, "visibility": "public" })).await
    }

    /// The embedding status of a recommendation of the first user.
    pub async fn embedding(&self, id: i64) -> Value {
        let path = format!("/api/recommendations/{id}/embedding");
        self.get(&path, Some(user(1))).await.data(200).clone()
    }

    /// Waits until the embedding has this status, and returns it.
    pub async fn embedding_is(&self, id: i64, status: &str) -> Value {
        eventually(&format!("{id} is {status}"), async || {
            let state = self.embedding(id).await;
            (state["status"] == status).then_some(state)
        })
        .await
    }

    pub async fn search(&self, body: &Value) -> Value {
        self.post("/api/recommendations/search", body).await.data(200).clone()
    }

    pub async fn queue(&self) -> Value {
        self.get("/api/recommendations/embedding-queue/status", None).await.data(200).clone()
    }

    /// Waits until nothing is open in the queue.
    pub async fn drained(&self) -> Value {
        eventually("the queue is empty", async || {
            let queue = self.queue().await;
            let open =
                ["queueLength", "processing", "retrying"].iter().filter_map(|f| queue[*f].as_u64()).sum::<u64>();
            (open == 0).then_some(queue)
        })
        .await
    }
}

fn prepared(data: &TestData, change: impl FnOnce(&mut Settings)) -> Settings {
    install_cryptography();
    let mut settings = data.settings();
    change(&mut settings);
    settings
}

/// As `main` does it, before the first HTTP client.
pub fn install_cryptography() {
    // An error says that another test of this process was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn acting(request: RequestBuilder, user: Option<Uuid>) -> RequestBuilder {
    match user {
        Some(user) => request.header("x-user-id", user.to_string()),
        None => request,
    }
}

/// Ids of the recommendations in a search's answer, in its order.
pub fn found_ids(answer: &Value) -> Vec<i64> {
    let groups = answer["results"].as_array().expect("results");
    let items = groups.iter().flat_map(|group| group["recommendations"].as_array().expect("recommendations"));
    items.map(|item| item["recommendation_id"].as_i64().expect("an id")).collect()
}

/// Asks until there is an answer; a bounded wait instead of a sleep.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = ask().await {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
