//! PostgreSQL comes late, goes away and comes back.

use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mapx_embeddings::config::secret::ServerUrl;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::support::app::{PATIENCE, TestApp, eventually, found_ids, user};
use crate::support::data::TestData;
use crate::support::servers::Servers;

/// Every answer must have come by then.
const BOUND: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_away_costs_503s_and_nothing_else() {
    let servers = Servers::start_postgres().await;
    let url = servers.address("MAPX_TEST_POSTGRES_URL").to_owned();
    let app = TestApp::over(TestData::sqlite(), |s| s.database.url = ServerUrl::new(url), None).await;
    let before = app.save_text("a lighthouse at dusk").await;
    app.embedding_is(before, "ready").await;
    servers.run(&["kill", "postgres"]).await;
    let body = json!({ "user_id": user(1), "description": "lost", "visibility": "public" });
    let started = Instant::now();
    let saves = join_all((0..20).map(|_| app.post("/api/recommendations/save", &body))).await;
    saves.iter().for_each(|answer| assert_eq!(answer.refusal(503), "the service can't answer just now"));
    assert!(started.elapsed() < BOUND, "saves took {:?}", started.elapsed());
    for _ in 0..2 {
        let started = Instant::now();
        let ready = app.get("/health/ready", None).await;
        assert_eq!(ready.status, 503);
        assert_eq!(ready.body["data"]["database"]["ok"], false, "{}", ready.body);
        app.post("/api/recommendations/search", &json!({ "query": "lighthouse" })).await.refusal(503);
        assert!(started.elapsed() < 2 * BOUND, "two requests took {:?}", started.elapsed());
    }
    app.get("/health/live", None).await.data(200);
    servers.run(&["start", "postgres"]).await;
    eventually("it is ready again", async || (app.get("/health/ready", None).await.status == 200).then_some(()))
        .await;
    let after = app.save_text("a lighthouse at dawn").await;
    app.embedding_is(after, "ready").await;
    app.embedding_is(before, "ready").await;
    let mut found = found_ids(&app.search(&json!({ "query": "lighthouse" })).await);
    found.sort_unstable();
    assert_eq!(found, [before, after]);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_waits_for_a_server_that_comes_late() {
    let servers = Servers::start_postgres().await;
    servers.run(&["kill", "postgres"]).await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"))
        .arg("all")
        .env("MAPX__DATABASE__URL", servers.address("MAPX_TEST_POSTGRES_URL"))
        .env("MAPX__SERVER__BIND", "127.0.0.1:0")
        .env("MAPX__LOG__FORMAT", "json")
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let next = async |lines: &mut tokio::io::Lines<_>| -> Value {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("a line in time");
        serde_json::from_str(&line.expect("text").expect("it still runs")).expect("JSON")
    };
    let waiting = next(&mut lines).await;
    assert_eq!(waiting["message"], "waiting for the database", "{waiting}");
    assert!(waiting["error"].as_str().expect("a reason").contains("Connection refused"), "{waiting}");
    // Long enough for several attempts.
    tokio::time::sleep(Duration::from_secs(2)).await;
    servers.run(&["start", "postgres"]).await;
    loop {
        let line = next(&mut lines).await;
        assert_ne!(line["message"], "waiting for the database", "it says so once");
        if line["message"] == "serving" {
            break;
        }
    }
    child.kill().await.expect("killed");
}
