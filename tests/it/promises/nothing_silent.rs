//! Every task is at any moment pending, queued, retrying, ready or failed, and the API says which and why.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{assert_stored, called, describe, edit, one_by_one, plug, remote};
use crate::support::app::{TestApp, eventually};
use crate::support::provider::Behaviour;

/// Longer than any test.
const HOUR: u64 = 3_600_000;

fn moment(value: &Value) -> DateTime<Utc> {
    value.as_str().expect("a moment").parse().expect("RFC 3339")
}

/// Waits until these numbers of the queue are as expected.
async fn queue_is(app: &TestApp, expected: Value) -> Value {
    let expected = expected.as_object().expect("fields");
    eventually(&format!("{expected:?}"), async || {
        let queue = app.queue().await;
        expected.iter().all(|(field, value)| queue[field] == *value).then_some(queue)
    })
    .await
}

#[tokio::test]
async fn a_task_is_pending_then_queued_then_ready_and_the_queue_agrees() {
    let (provider, app) = remote(|settings| {
        one_by_one(settings);
        settings.broker.window = 2;
    })
    .await;
    let first = plug(&app, &provider).await;
    let second = app.save_text("second").await;
    let third = app.save_text("third").await;
    assert_eq!(app.embedding_is(first, "queued").await["embedded_version"], Value::Null);
    app.embedding_is(second, "queued").await;
    let waits = app.embedding_is(third, "pending").await;
    assert_eq!((&waits["attempts"], &waits["last_error"]), (&json!(0), &Value::Null));
    let queue = queue_is(&app, json!({ "queueLength": 2, "processing": 1, "isProcessing": true })).await;
    assert_eq!(queue["byPriority"], json!({ "high": 0, "normal": 3, "low": 0 }));
    assert_eq!((&queue["retrying"], &queue["deadLettered"], &queue["embedded"]), (&json!(0), &json!(0), &json!(0)));
    assert!(queue["oldestPendingSeconds"].as_f64().expect("an age") >= 0.0);
    provider.release();
    for id in [first, second, third] {
        let state = app.embedding_is(id, "ready").await;
        assert_eq!((&state["content_version"], &state["embedded_version"]), (&json!(1), &json!(1)));
        assert_eq!((&state["model"], &state["dimensions"]), (&json!("fake-model"), &json!(8)));
        assert_eq!(state["next_attempt_at"], Value::Null);
    }
    let queue = queue_is(&app, json!({ "queueLength": 0, "processing": 0, "isProcessing": false })).await;
    assert_eq!((&queue["embedded"], &queue["oldestPendingSeconds"]), (&json!(3), &Value::Null));
    app.stop().await;
}

#[tokio::test]
async fn a_retrying_task_says_why_and_when_it_is_tried_again() {
    let (provider, app) = remote(|settings| settings.queue.retry_delay_ms = HOUR).await;
    provider.next(Behaviour::status(500, "out of memory"));
    let before = Utc::now();
    let id = app.save_text("fails once").await;
    let state = app.embedding_is(id, "retrying").await;
    assert_eq!(state["attempts"], 1);
    assert_eq!(state["last_error"], "the provider answered 500 Internal Server Error: out of memory");
    let minutes = (moment(&state["next_attempt_at"]) - before).num_minutes();
    assert!((59..=70).contains(&minutes), "{state}");
    queue_is(&app, json!({ "queueLength": 0, "processing": 0, "isProcessing": false, "retrying": 1 })).await;
    app.stop().await;
}

#[tokio::test]
async fn a_retry_in_a_workers_hands_counts_as_processing() {
    let (provider, app) = remote(|_| {}).await;
    provider.next(Behaviour::status(500, "down"));
    // To the probe that asks whose failure it was.
    provider.next(Behaviour::Answer);
    provider.next(Behaviour::Hold);
    let id = app.save_text("fails once").await;
    called(&provider, 3).await;
    queue_is(&app, json!({ "queueLength": 0, "processing": 1, "isProcessing": true, "retrying": 0 })).await;
    let state = app.embedding(id).await;
    assert_eq!((&state["status"], &state["attempts"]), (&json!("queued"), &json!(1)));
    assert!(state["last_error"].is_string(), "{state}");
    provider.release();
    app.embedding_is(id, "ready").await;
    app.stop().await;
}

#[tokio::test]
async fn a_task_that_waits_for_a_rate_limit_says_why_and_until_when() {
    let (provider, app) = remote(|_| {}).await;
    provider.next(Behaviour::rate_limited("300"));
    let before = Utc::now();
    let id = app.save_text("too fast").await;
    let state = eventually("the reason is told", async || {
        let state = app.embedding(id).await;
        state["last_error"].is_string().then_some(state)
    })
    .await;
    assert_eq!((&state["status"], &state["attempts"]), (&json!("pending"), &json!(0)));
    assert!(state["last_error"].as_str().expect("a reason").contains("slow down"), "{state}");
    assert!((moment(&state["next_attempt_at"]) - before).num_seconds() >= 300, "{state}");
    let queue = eventually("the queue says why nothing moves", async || {
        let queue = app.queue().await;
        (queue["provider"]["ok"] == false).then_some(queue)
    })
    .await;
    assert!(queue["provider"]["error"].as_str().expect("a reason").contains("slow down"), "{queue}");
    queue_is(&app, json!({ "queueLength": 1, "processing": 0, "retrying": 0 })).await;
    app.stop().await;
}

#[tokio::test]
async fn a_failed_task_is_counted_and_says_why() {
    let (provider, app) = remote(|settings| settings.queue.max_retries = 1).await;
    provider.when_contains("never works", Behaviour::status(502, "bad gateway"));
    let id = app.save_text("never works").await;
    let state = app.embedding_is(id, "failed").await;
    assert_eq!((&state["attempts"], &state["next_attempt_at"]), (&json!(2), &Value::Null));
    assert!(state["last_error"].as_str().expect("a reason").contains("bad gateway"), "{state}");
    let expected = json!({
        "queueLength": 0, "processing": 0, "isProcessing": false, "retrying": 0, "deadLettered": 1, "embedded": 0,
    });
    queue_is(&app, expected).await;
    let attempts = provider.inputs().into_iter().filter(|text| text.contains("never works"));
    assert_eq!(attempts.count(), 2);
    app.stop().await;
}

#[tokio::test]
async fn an_edit_of_a_failed_one_starts_it_afresh() {
    let (provider, app) = remote(|settings| settings.queue.max_retries = 0).await;
    provider.when_contains("poison", Behaviour::status(400, "no"));
    let id = app.save_text("poison").await;
    app.embedding_is(id, "failed").await;
    describe(&app, id, "harmless").await;
    let state = app.embedding_is(id, "ready").await;
    assert_eq!((&state["attempts"], &state["last_error"]), (&json!(0), &Value::Null));
    assert_eq!(app.drained().await["deadLettered"], 0);
    assert_stored(&app, id, "harmless").await;
    app.stop().await;
}

#[tokio::test]
async fn an_edit_of_a_retrying_one_starts_it_afresh_at_once() {
    let (provider, app) = remote(|settings| settings.queue.retry_delay_ms = HOUR).await;
    provider.next(Behaviour::status(500, "down"));
    let id = app.save_text("first").await;
    app.embedding_is(id, "retrying").await;
    provider.next(Behaviour::Hold);
    describe(&app, id, "second").await;
    // The failed one, the probe after it, and this.
    called(&provider, 3).await;
    let state = app.embedding_is(id, "queued").await;
    assert_eq!((&state["attempts"], &state["last_error"]), (&json!(0), &Value::Null));
    provider.release();
    app.embedding_is(id, "ready").await;
    assert_stored(&app, id, "second").await;
    app.stop().await;
}

#[tokio::test]
async fn an_edit_of_anything_gives_a_failed_one_its_attempts_back() {
    let (provider, app) = remote(|settings| settings.queue.max_retries = 1).await;
    provider.when_contains("unlucky", Behaviour::status(500, "down"));
    let id = app.save_text("unlucky").await;
    app.embedding_is(id, "failed").await;
    // Two attempts, each with a probe.
    assert_eq!(provider.calls().len(), 4);
    provider.behave();
    provider.next(Behaviour::status(500, "down once more"));
    edit(&app, id, json!({ "visibility": "friends" })).await;
    app.embedding_is(id, "ready").await;
    app.stop().await;
}
