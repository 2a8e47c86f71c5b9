//! The real program, killed while it delivers: what was to be told is told, once more under the same id if need be.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::receiver::{Receiver, Reply};
use super::{READY, WEBHOOKS, at};
use crate::support::app::{eventually, install_cryptography, user};
use crate::support::data::{TestData, full_stack};
use crate::support::process::Process;

/// The program as one process, or as `serve` and `worker` over RabbitMQ and PostgreSQL.
struct Service {
    /// What is killed.
    worker: Process,
    serve: Option<Process>,
    env: Vec<(&'static str, String)>,
    http: reqwest::Client,
    _data: Arc<TestData>,
}

impl Service {
    async fn start() -> Self {
        install_cryptography();
        let data = TestData::new().await;
        let mut env = vec![
            ("MAPX__DATABASE__URL", data.url()),
            ("MAPX__WEBHOOK__ALLOW_PRIVATE", "true".to_owned()),
            ("MAPX__WEBHOOK__RETRY_SCHEDULE_MS", "200, 400, 800, 800, 800, 800".to_owned()),
            ("MAPX__WEBHOOK__TIMEOUT_MS", "20000".to_owned()),
        ];
        let mut serve = None;
        if full_stack() {
            env.push(("MAPX__BROKER__URL", data.vhost_url()));
            serve = Some(Process::start("serve", &env).await);
        }
        let worker = Process::start(Self::killed_role(), &env).await;
        Self { worker, serve, env, http: reqwest::Client::new(), _data: data }
    }

    fn killed_role() -> &'static str {
        if full_stack() { "worker" } else { "all" }
    }

    /// SIGKILL, and another one in its place.
    async fn kill(self) -> Self {
        let Self { worker, serve, env, http, _data } = self;
        worker.kill().await;
        let worker = Process::start(Self::killed_role(), &env).await;
        Self { worker, serve, env, http, _data }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.serve.as_ref().unwrap_or(&self.worker).base())
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.http.post(self.url(path)).json(body).send().await.expect("an answer");
        assert_eq!(answer.status(), 201);
        answer.json::<Value>().await.expect("JSON")["data"].clone()
    }

    async fn register(&self, receiver: &Receiver) -> i64 {
        let body = json!({ "url": receiver.url("/hook"), "events": [READY] });
        self.post(WEBHOOKS, &body).await["id"].as_i64().expect("an id")
    }

    async fn save(&self, description: &str) -> i64 {
        let body = json!({ "user_id": user(1), "description": description });
        self.post("/api/recommendations/save", &body).await["recommendation_id"].as_i64().expect("an id")
    }

    async fn deliveries(&self, id: i64) -> Vec<Value> {
        let path = at(format!("{id}/deliveries?limit=100"));
        let answer = self.http.get(self.url(&path)).send().await.expect("an answer");
        answer.json::<Value>().await.expect("JSON")["data"]["items"].as_array().expect("items").clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_sender_is_killed_is_sent_again_with_the_same_id() {
    let (service, receiver) = (Service::start().await, Receiver::start().await);
    let hook = service.register(&receiver).await;
    receiver.next(Reply::Hold(200));
    service.save("somewhere quiet").await;
    let first = receiver.has(1).await.remove(0);
    let service = service.kill().await;
    let second = receiver.has(2).await.remove(1);
    assert_eq!((second.id(), &second.body), (first.id(), &first.body));
    let delivery = eventually("it is delivered", async || {
        let delivery = service.deliveries(hook).await.remove(0);
        (delivery["state"] == "delivered").then_some(delivery)
    })
    .await;
    assert_eq!((&delivery["event_id"], &delivery["attempts"]), (&json!(first.id()), &json!(1)));
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_to_be_told_is_lost_to_kills() {
    let (mut service, receiver) = (Service::start().await, Receiver::start().await);
    let hook = service.register(&receiver).await;
    let mut saved = HashSet::new();
    for round in 0..4 {
        for n in 0..12 {
            // Some are refused first, so that there are deliveries in every state whenever the kill comes.
            if n % 3 == 0 {
                receiver.next(Reply::Status(503));
            }
            saved.insert(service.save(&format!("place {n} of round {round}")).await);
        }
        receiver.has(saved.len() / 2).await;
        tokio::time::sleep(Duration::from_millis(7 * round)).await;
        service = service.kill().await;
    }
    eventually("all have ended", async || {
        let deliveries = service.deliveries(hook).await;
        let ended = deliveries.iter().filter(|one| one["state"] == "delivered").count();
        (ended == saved.len()).then_some(())
    })
    .await;
    // Each text under one id, however often.
    let mut ids: HashMap<i64, HashSet<String>> = HashMap::new();
    for request in receiver.received() {
        let about = request.json()["data"]["recommendation_id"].as_i64().expect("an id");
        ids.entry(about).or_default().insert(request.id().to_owned());
    }
    assert_eq!(ids.keys().copied().collect::<HashSet<_>>(), saved);
    assert!(ids.values().all(|ids| ids.len() == 1), "{ids:?}");
}
