//! A provider's outage spends no document's attempts, keeps nobody waiting, and ends with what waits at full speed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::promises::{called, remote};
use crate::support::app::{TestApp, eventually};
use crate::support::provider::{Behaviour, FakeProvider};

/// Ten minutes, scaled.
const OUTAGE: Duration = Duration::from_secs(4);
/// What a machine with much else to do may need on top of what is promised.
const MARGIN: Duration = Duration::from_millis(1_500);

async fn breaker(app: &TestApp) -> Value {
    app.queue().await["provider"]["breaker"].clone()
}

async fn breaker_is(app: &TestApp, state: &str) -> Value {
    eventually(&format!("the breaker is {state}"), async || {
        let breaker = breaker(app).await;
        (breaker["state"] == state).then_some(breaker)
    })
    .await
}

async fn an_outage(behaviour: Behaviour) {
    let (provider, app) = remote(|settings| {
        // A single counted failure would be the end.
        settings.queue.max_retries = 0;
        settings.embedder.timeout_ms = 500;
    })
    .await;
    let first = app.save_text("before").await;
    app.embedding_is(first, "ready").await;
    provider.always(behaviour);
    let mut ids = Vec::new();
    for n in 0..200 {
        ids.push(app.save_text(&format!("text {n}")).await);
    }
    let began = Instant::now();
    let told = breaker_is(&app, "open").await;
    assert!(told["reason"].is_string() && told["since"].is_string(), "{told}");
    let asked = Instant::now();
    let answer = app.search(&json!({ "query": "before" })).await;
    assert_eq!(answer["search_metadata"]["degraded"], true, "{answer}");
    assert!(asked.elapsed() < Duration::from_millis(500), "a search waited {:?}", asked.elapsed());
    let before = provider.calls().len();
    tokio::time::sleep(OUTAGE.saturating_sub(began.elapsed())).await;
    let probes = provider.calls()[before..].to_vec();
    assert!(probes.iter().all(|call| call.inputs == ["ping"]), "only probes: {probes:?}");
    assert!(probes.len() <= 10, "{} probes", probes.len());
    let queue = app.queue().await;
    assert_eq!((&queue["deadLettered"], &queue["retrying"]), (&json!(0), &json!(0)), "{queue}");
    for id in &ids {
        assert_eq!(app.embedding(*id).await["attempts"], 0);
    }
    provider.behave();
    let back = Instant::now();
    let queue = app.drained().await;
    let took = back.elapsed();
    assert_eq!(queue["deadLettered"], 0, "{queue}");
    // The status counts rows and tasks one after the other.
    eventually("all are counted", async || (app.queue().await["embedded"] == 201).then_some(())).await;
    assert!(took <= Duration::from_secs(2) + MARGIN, "drained {took:?} after the outage");
    breaker_is(&app, "closed").await;
    app.stop().await;
}

#[tokio::test]
async fn errors_of_the_provider_spend_nothing() {
    an_outage(Behaviour::status(503, "down")).await;
}

#[tokio::test]
async fn broken_connections_spend_nothing() {
    an_outage(Behaviour::Drop).await;
}

#[tokio::test]
async fn calls_without_an_answer_spend_nothing() {
    an_outage(Behaviour::Never).await;
}

#[tokio::test]
async fn a_failure_of_one_document_stops_nobody() {
    let (provider, app) = remote(|settings| settings.queue.max_retries = 0).await;
    provider.when_contains("poison", Behaviour::status(500, "down"));
    let poison = app.save_text("poison").await;
    let state = app.embedding_is(poison, "failed").await;
    assert_eq!(state["attempts"], 1);
    assert_eq!(breaker(&app).await["state"], "closed");
    app.stop().await;
}

/// Queries alone, as in a process without a worker.
async fn search_many(app: &TestApp, provider: &FakeProvider, queries: usize) -> usize {
    let before = provider.calls().len();
    for n in 0..queries {
        let answer = app.search(&json!({ "query": format!("query {n}") })).await;
        assert_eq!(answer["search_metadata"]["degraded"], true, "{answer}");
    }
    provider.calls()[before..].iter().filter(|call| call.inputs != ["ping"]).count()
}

#[tokio::test]
async fn a_refused_key_is_not_asked_with_by_every_query() {
    let (provider, app) = remote(|_| {}).await;
    provider.always(Behaviour::status(401, "wrong key"));
    assert_eq!(search_many(&app, &provider, 20).await, 1);
    let told = breaker_is(&app, "open").await;
    assert!(told["reason"].as_str().unwrap().contains("wrong key") && told["nextProbeAt"].is_string(), "{told}");
    let error = app.queue().await["provider"]["error"].clone();
    assert!(error.as_str().unwrap().contains("wrong key"), "{error}");
    provider.behave();
    breaker_is(&app, "closed").await;
    let answer = app.search(&json!({ "query": "again" })).await;
    assert_eq!(answer["search_metadata"]["degraded"], false, "{answer}");
    app.stop().await;
}

#[tokio::test]
async fn queries_that_get_no_answer_soon_stop_waiting_for_one() {
    let (provider, app) = remote(|settings| settings.search.embed_timeout_ms = 100).await;
    provider.always(Behaviour::Never);
    assert_eq!(search_many(&app, &provider, 12).await, 5);
    app.stop().await;
}

#[tokio::test]
async fn there_is_one_probe_at_a_time() {
    let (provider, app) = remote(|settings| settings.queue.max_concurrent = 8).await;
    provider.always(Behaviour::status(503, "down"));
    for n in 0..40 {
        app.save_text(&format!("text {n}")).await;
    }
    breaker_is(&app, "open").await;
    provider.always(Behaviour::Hold);
    let probed = provider.calls().len() + 1;
    called(&provider, probed).await;
    provider.count_afresh();
    breaker_is(&app, "half-open").await;
    assert_eq!((provider.running(), provider.most_at_once()), (1, 1));
    provider.behave();
    provider.release();
    assert_eq!(app.drained().await["deadLettered"], 0);
    app.stop().await;
}
