//! Lanes that nobody takes from for a while.

use std::time::Duration;

use serde_json::{Value, json};

use super::{at, get, import, post, service};
use crate::promises::{called, one_by_one, plug, remote_over};
use crate::support::app::{TestApp, eventually, install_cryptography, user};
use crate::support::data::TestData;
use crate::support::process::Process;
use crate::support::provider::{Behaviour, FakeProvider};
use crate::support::rabbit::Vhost;
use crate::support::stored;

/// Within which every process goes by a pause, and something on top for a busy machine.
const IN_FORCE: Duration = Duration::from_millis(3_500);

async fn lane_is(app: &TestApp, lane: &str, tasks: u64) {
    eventually(&format!("{tasks} in {lane}"), async || {
        (app.queue().await["byPriority"][lane] == tasks).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_lane_waits_across_a_restart_while_the_others_are_served() {
    let (provider, app, _broker) = service(|settings| settings.queue.reconcile_interval_ms = 300).await;
    let told = post(&app, "pause", json!({ "lane": "normal", "reason": "a bad provider" })).await;
    assert_eq!(told["paused"]["normal"]["reason"], "a bad provider");
    tokio::time::sleep(IN_FORCE).await;
    for n in 0..30 {
        app.save_text(&format!("waits {n}")).await;
    }
    import(&app, (0..30).map(|n| format!("goes on {n}"))).await;
    lane_is(&app, "low", 0).await;
    lane_is(&app, "normal", 30).await;
    // Several rounds of the reconciler, which finds nothing lost.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(provider.inputs().iter().filter(|text| text.contains("waits")).count(), 0);
    let found = app.search(&json!({ "query": "waits", "mode": "keyword", "limit": 100 })).await;
    assert_eq!(found["total_recommendations"], 30);
    let paused = app.queue().await["paused"].clone();
    assert_eq!((&paused["high"], &paused["low"]), (&Value::Null, &Value::Null));
    assert_eq!(
        (&paused["normal"]["by"], &paused["normal"]["since"]),
        (&json!("anonymous"), &told["paused"]["normal"]["since"])
    );
    let metrics = app.request(reqwest::Method::GET, "/metrics").send().await.expect("metrics").text().await;
    let metrics = metrics.expect("text");
    assert!(metrics.contains("mapx_lane_paused{lane=\"normal\"} 1"), "{metrics}");
    assert!(metrics.contains("mapx_lane_paused{lane=\"high\"} 0"), "{metrics}");

    let data = app.data();
    app.stop().await;
    let app = remote_over(data, &provider, |_| {}).await;
    let high = app.save(&json!({ "user_id": user(1), "description": "in haste", "priority": "high" })).await;
    app.embedding_is(high, "ready").await;
    lane_is(&app, "normal", 30).await;
    post(&app, "resume", json!({})).await;
    assert_eq!(app.drained().await["deadLettered"], 0);
    let mut inputs = provider.inputs();
    let all = inputs.len();
    inputs.sort_unstable();
    inputs.dedup();
    assert_eq!((all, inputs.len()), (61, 61), "each text once");
    let actions = get(&app, "audit").await["items"].clone();
    assert_eq!((&actions[0]["action"], &actions[1]["action"]), (&json!("resume"), &json!("pause")));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_hand_is_finished_and_what_was_sent_ahead_is_held() {
    let (provider, app, _broker) = service(one_by_one).await;
    let first = plug(&app, &provider).await;
    for n in 0..10 {
        app.save_text(&format!("text {n}")).await;
    }
    let data = app.data();
    eventually("all are with the broker", async || (stored::handed_over(&data).await == 11).then_some(())).await;
    post(&app, "pause", json!({})).await;
    tokio::time::sleep(IN_FORCE).await;
    provider.release();
    app.embedding_is(first, "ready").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(provider.calls().len(), 1);
    post(&app, "resume", json!({ "lane": "normal" })).await;
    let queue = app.drained().await;
    assert_eq!((&queue["deadLettered"], &queue["embedded"]), (&json!(0), &json!(11)));
    assert!(queue["paused"]["high"].is_object() && queue["paused"]["normal"].is_null(), "{queue}");
    assert_eq!(provider.calls().len(), 11, "each text once");
    app.stop().await;
}

/// A request to a process.
async fn ask(base: &str, method: reqwest::Method, path: &str, body: Value) -> Value {
    let answer = reqwest::Client::new().request(method, format!("{base}{path}")).json(&body).send().await;
    let body: Value = answer.expect("an answer").json().await.expect("JSON");
    assert_eq!(body["success"], true, "{body}");
    body["data"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_process_leaves_a_paused_lane_alone() {
    install_cryptography();
    let (data, vhost) = (TestData::postgres().await, Vhost::new().await);
    let provider = FakeProvider::start(8).await;
    let env = super::drains::env(&data, &vhost, &provider);
    let api = Process::start("serve", &env).await;
    let (_first, _second) = (Process::start("worker", &env).await, Process::start("worker", &env).await);
    let post = async |path: &str, body: Value| ask(api.base(), reqwest::Method::POST, path, body).await;
    let save = async |text: String, priority: &str| {
        let body = json!({ "user_id": user(1), "description": text, "priority": priority });
        post("/api/recommendations/save", body).await;
    };
    provider.always(Behaviour::Hold);
    for n in 0..60 {
        save(format!("waits {n}"), "normal").await;
    }
    called(&provider, 2).await;
    post(&at("pause"), json!({ "lane": "normal" })).await;
    tokio::time::sleep(IN_FORCE).await;
    provider.behave();
    provider.release();
    for n in 0..20 {
        save(format!("goes on {n}"), "low").await;
    }
    let lanes = async || {
        let status = ask(api.base(), reqwest::Method::GET, &at("status"), json!({})).await;
        (status["byPriority"]["normal"].as_u64(), status["byPriority"]["low"].as_u64())
    };
    eventually("only the paused ones are left", async || {
        let (normal, low) = lanes().await;
        // Each worker had one in hand.
        (normal == Some(58) && low == Some(0)).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(lanes().await, (Some(58), Some(0)));
    post(&at("resume"), json!({})).await;
    eventually("all are done", async || (lanes().await == (Some(0), Some(0))).then_some(())).await;
    let mut inputs = provider.inputs();
    let all = inputs.len();
    inputs.sort_unstable();
    inputs.dedup();
    assert_eq!((all, inputs.len()), (80, 80), "each text once");
}
