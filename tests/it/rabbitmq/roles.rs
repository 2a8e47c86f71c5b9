//! `serve` and `worker` as processes of their own, over PostgreSQL.

use std::sync::Arc;

use serde_json::{Value, json};

use super::raw;
use crate::support::app::{eventually, install_cryptography, user};
use crate::support::data::{self, TestData};
use crate::support::process::Process;
use crate::support::rabbit::Vhost;

struct Service {
    serve: Process,
    env: Vec<(&'static str, String)>,
    http: reqwest::Client,
    _data: Arc<TestData>,
}

impl Service {
    async fn start(vhost: &Vhost) -> Self {
        install_cryptography();
        let data = TestData::postgres_on(&data::server("MAPX_TEST_POSTGRES_URL")).await;
        let env = vec![
            ("MAPX__DATABASE__URL", data.url()),
            ("MAPX__BROKER__URL", vhost.url()),
            ("MAPX__QUEUE__RECONCILE_INTERVAL_MS", "500".to_owned()),
            // Slow, so that a worker is killed with its hands full.
            ("MAPX__QUEUE__MAX_CONCURRENT", "1".to_owned()),
        ];
        let serve = Process::start("serve", &env).await;
        Self { serve, env, http: reqwest::Client::new(), _data: data }
    }

    async fn worker(&self) -> Process {
        Process::start("worker", &self.env).await
    }

    async fn save(&self, description: &str) {
        let url = format!("{}/api/recommendations/save", self.serve.base());
        let body = json!({ "user_id": user(1), "description": description });
        let answer = self.http.post(url).json(&body).send().await.expect("an answer");
        assert_eq!(answer.status(), 201);
    }

    async fn status(&self) -> Value {
        let url = format!("{}/api/recommendations/embedding-queue/status", self.serve.base());
        let answer = self.http.get(url).send().await.expect("an answer");
        let body: Value = serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
        body["data"].clone()
    }

    async fn embedded(&self, count: u64) {
        eventually(&format!("{count} are embedded"), async || {
            (self.status().await["embedded"] == count).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_apart_share_the_work_and_lose_nothing() {
    let vhost = Vhost::new().await;
    let service = Service::start(&vhost).await;
    let (first, second) = tokio::join!(service.worker(), service.worker());
    for n in 0..200 {
        service.save(&format!("a quiet place number {n}")).await;
    }
    let status = eventually("all are heard of", async || {
        let status = service.status().await;
        (status["workers"].as_array().map(Vec::len) == Some(3)).then_some(status)
    })
    .await;
    let mut known: Vec<(&str, u64)> = Vec::new();
    for process in status["workers"].as_array().expect("processes") {
        known.push((process["role"].as_str().expect("a role"), process["pid"].as_u64().expect("a pid")));
    }
    for (role, process) in [("serve", &service.serve), ("worker", &first), ("worker", &second)] {
        assert!(known.contains(&(role, process.id().into())), "{role} {}: {known:?}", process.id());
    }
    for n in 0..100 {
        service.save(&format!("another place number {n}")).await;
    }
    // Its messages come back when the broker notices.
    first.kill().await;
    service.embedded(300).await;
    second.kill().await;

    // Nobody works, and what waits is purged, but for what the killed one had finished and not acked, should
    // that come back later.
    for n in 0..20 {
        service.save(&format!("a purged place number {n}")).await;
    }
    let raw = raw(&vhost).await;
    eventually("they wait in their lane", async || {
        let ready = raw.ready("mapx.tasks.normal").await;
        (ready >= 20).then_some(())
    })
    .await;
    raw.purge("mapx.tasks.normal").await;
    let _third = service.worker().await;
    service.embedded(320).await;
    let status = service.status().await;
    assert_eq!((&status["deadLettered"], &status["queueLength"]), (&json!(0), &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_tells_its_metrics_where_it_is_asked_to_and_nothing_else() {
    let vhost = Vhost::new().await;
    let mut service = Service::start(&vhost).await;
    // Free a moment ago; the worker says which one it took should another program have been faster.
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    service.env.push(("MAPX__METRICS__BIND", format!("127.0.0.1:{port}")));
    let _worker = service.worker().await;
    for n in 0..3 {
        service.save(&format!("a quiet place number {n}")).await;
    }
    service.embedded(3).await;
    let get = async |path: &str| {
        let answer = service.http.get(format!("http://127.0.0.1:{port}{path}")).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    };
    let (status, metrics) = get("/metrics").await;
    assert_eq!(status, 200, "{metrics}");
    assert!(metrics.lines().any(|line| line == "mapx_lane_tasks{lane=\"normal\"} 0"), "{metrics}");
    assert_eq!(get("/health/live").await.0, 200);
    for path in ["/api/recommendations/embedding-queue/status", "/api/recommendations/1", "/"] {
        assert_eq!(get(path).await.0, 404, "{path}");
    }
}
