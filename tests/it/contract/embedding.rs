//! `GET /api/recommendations/{id}/embedding`.

use serde_json::{Value, json};

use super::{body, names, words};
use crate::support::app::{TestApp, eventually};

#[tokio::test]
async fn a_ready_embedding_tells_its_model_and_versions() {
    let app = TestApp::start().await;
    let id = app.save_text("A calm reading room").await;
    let mut ready = app.embedding_is(id, "ready").await;
    assert!(ready["updated_at"].is_string());
    ready["updated_at"] = Value::Null;
    let model = app.queue().await["model"].clone();
    let expected = json!({
        "status": "ready", "attempts": 0, "last_error": null, "model": model, "dimensions": 256, "parts": 1,
        "content_version": 1, "embedded_version": 1, "next_attempt_at": null, "discarded_at": null,
        "updated_at": null,
    });
    assert_eq!(ready, expected);
    app.stop().await;
}

#[tokio::test]
async fn an_embedding_that_is_awaited_has_no_model_yet() {
    let app = words::app().await;
    let id = app.save(&body(json!({ "description": "stuck" }))).await;
    let queued = app.embedding_is(id, "queued").await;
    for field in ["model", "dimensions", "parts", "embedded_version", "last_error", "next_attempt_at"] {
        assert_eq!(queued[field], Value::Null, "{field}");
    }
    assert_eq!((&queued["attempts"], &queued["content_version"]), (&json!(0), &json!(1)));
}

#[tokio::test]
async fn a_refused_text_fails_with_its_reason() {
    let app = words::app().await;
    let id = app.save(&body(json!({ "description": "poison" }))).await;
    let failed = app.embedding_is(id, "failed").await;
    assert_eq!((&failed["attempts"], &failed["last_error"]), (&json!(1), &json!("the provider refuses this")));
    app.stop().await;
}

#[tokio::test]
async fn an_attempt_that_failed_tells_when_the_next_one_is() {
    let app = TestApp::with_embedder(std::sync::Arc::new(words::Words), |settings| {
        settings.queue.retry_delay_ms = 600_000;
    })
    .await;
    let id = app.save(&body(json!({ "description": "away" }))).await;
    let retrying = app.embedding_is(id, "retrying").await;
    assert_eq!((&retrying["attempts"], &retrying["last_error"]), (&json!(1), &json!("the provider is away")));
    assert!(retrying["next_attempt_at"].is_string());
    assert_eq!(names(&retrying).len(), 11);
    let queue = eventually("it is counted", async || {
        let queue = app.queue().await;
        (queue["retrying"] == 1).then_some(queue)
    })
    .await;
    assert_eq!(queue["queueLength"], 0);
    app.stop().await;
}
