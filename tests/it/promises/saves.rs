//! A save needs the database alone.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{ask, describe, remote};
use crate::support::app::{TestApp, eventually, user};
use crate::support::broker::{Mood, MoodyBroker};
use crate::support::provider::Behaviour;

/// Far more than a hundred writes take, and far less than one that waits for a provider would.
const BOUND: Duration = Duration::from_secs(20);
/// A provider's time to answer, beyond the bound.
const LONG: u64 = 60_000;

/// Saves, edits and deletes; returns the rows that are left.
async fn write(app: &TestApp) -> Vec<i64> {
    let started = Instant::now();
    let mut ids = Vec::new();
    for n in 0..20 {
        let body = json!({ "user_id": user(1), "description": format!("text {n}") });
        let answer = app.post("/api/recommendations/save", &body).await;
        let data = answer.data(201);
        assert_eq!(data["embedding"]["status"], "pending");
        ids.push(data["recommendation_id"].as_i64().expect("an id"));
    }
    for id in &ids {
        describe(app, *id, "another text").await;
    }
    let gone = ids.split_off(15);
    for id in gone {
        app.delete(&format!("/api/recommendations/{id}"), Some(user(1))).await.data(200);
    }
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    ids
}

async fn assert_waiting(app: &TestApp, ids: &[i64], expected: &[&str]) {
    for id in ids {
        let state = app.embedding(*id).await;
        let status = state["status"].as_str().expect("a status");
        assert!(expected.contains(&status), "{state}");
    }
}

#[tokio::test]
async fn a_save_does_not_wait_for_a_provider_that_never_answers() {
    let (provider, app) = remote(|settings| {
        settings.embedder.timeout_ms = LONG;
        settings.queue.shutdown_grace_ms = 0;
    })
    .await;
    provider.always(Behaviour::Never);
    let ids = write(&app).await;
    assert_waiting(&app, &ids, &["pending", "queued"]).await;
    app.stop().await;
}

#[tokio::test]
async fn a_save_does_not_fail_when_the_provider_is_down() {
    let (provider, app) = remote(|settings| settings.queue.retry_delay_ms = LONG).await;
    drop(provider);
    let ids = write(&app).await;
    assert_waiting(&app, &ids, &["pending", "queued", "retrying"]).await;
    app.stop().await;
}

#[tokio::test]
async fn a_save_does_not_wait_for_a_broker_that_never_answers() {
    let mut broker = None;
    let make = |settings: &_| broker.insert(MoodyBroker::new(settings, Mood::Hanging)).clone();
    let app = TestApp::with_broker(make, |_| {}).await;
    let ids = write(&app).await;
    assert_waiting(&app, &ids, &["pending", "queued"]).await;
    broker.expect("made").become_(Mood::Well);
    for id in ids {
        app.embedding_is(id, "ready").await;
    }
    app.stop().await;
}

#[tokio::test]
async fn a_save_does_not_fail_when_the_broker_is_down_and_the_status_says_so() {
    let mut broker = None;
    let make = |settings: &_| broker.insert(MoodyBroker::new(settings, Mood::Down)).clone();
    let app = TestApp::with_broker(make, |_| {}).await;
    let ids = write(&app).await;
    assert_waiting(&app, &ids, &["pending"]).await;
    let broken = eventually("the status names the broker's trouble", async || {
        let queue = app.queue().await;
        (queue["broker"]["ok"] == false).then_some(queue)
    });
    let queue = broken.await;
    assert_eq!(queue["broker"]["error"], "the broker is not available: it is down");
    assert_eq!((&queue["queueLength"], &queue["processing"]), (&json!(15), &json!(0)));
    broker.expect("made").become_(Mood::Well);
    for id in ids {
        app.embedding_is(id, "ready").await;
    }
    let healed = async || (app.queue().await["broker"]["ok"] == true).then_some(());
    eventually("the status says that the broker is back", healed).await;
    app.stop().await;
}

#[tokio::test]
async fn a_save_is_kept_when_nothing_but_the_database_has_ever_been_there() {
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let mut broker = None;
    let app = TestApp::with_broker(
        |settings| broker.insert(MoodyBroker::new(settings, Mood::Hanging)).clone(),
        |settings| ask(settings, format!("http://{nowhere}/v1")).then(|_| {}),
    )
    .await;
    let id = app.save_text("kept").await;
    let found = app.get(&format!("/api/recommendations/{id}"), None).await;
    assert_eq!(found.data(200)["description"], "kept");
    broker.expect("made").become_(Mood::Down);
    app.stop().await;
}
