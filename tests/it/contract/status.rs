//! `GET /api/recommendations/embedding-queue/status` and the health checks.

use serde_json::{Value, json};

use super::{body, list, names, words};
use crate::support::app::{TestApp, eventually};
use crate::support::data::full_stack;

#[tokio::test]
async fn the_queue_status_has_mapxs_names_and_ours_in_camel_case() {
    let app = TestApp::start().await;
    let status = eventually("the process has told of itself", async || {
        let status = app.queue().await;
        (status["workers"] != json!([])).then_some(status)
    })
    .await;
    assert_eq!(
        names(&status),
        [
            "broker",
            "byPriority",
            "deadLettered",
            "embedded",
            "etaSeconds",
            "isProcessing",
            "model",
            "oldestByPriority",
            "oldestPendingSeconds",
            "paused",
            "processing",
            "provider",
            "queueLength",
            "recommendations",
            "retryRungs",
            "retrying",
            "throughputPerSecond",
            "workers"
        ]
    );
    assert_eq!(status["byPriority"], json!({ "high": 0, "normal": 0, "low": 0 }));
    assert_eq!((&status["queueLength"], &status["processing"]), (&json!(0), &json!(0)));
    assert_eq!((&status["isProcessing"], &status["oldestPendingSeconds"]), (&json!(false), &Value::Null));
    assert_eq!(status["broker"], json!({ "kind": kinds().1, "ok": true, "error": null }));
    assert_eq!(status["provider"], json!({ "kind": "local", "ok": true, "error": null }));
    assert_eq!(
        names(&status["workers"][0]),
        [
            "batchSize",
            "concurrency",
            "drainSince",
            "failedTotal",
            "heartbeatAt",
            "host",
            "id",
            "inFlight",
            "maxConcurrent",
            "pid",
            "readyPerSecond",
            "readyTotal",
            "role",
            "startedAt",
            "state"
        ]
    );
    app.stop().await;
}

#[tokio::test]
async fn the_queue_status_counts_what_waits_what_failed_and_what_is_done() {
    let app = words::app().await;
    let failed = app.save(&body(json!({ "description": "poison" }))).await;
    let ready = app.save(&body(json!({}))).await;
    app.embedding_is(failed, "failed").await;
    app.embedding_is(ready, "ready").await;
    for priority in ["high", "normal", "low", "low"] {
        app.save(&body(json!({ "description": "stuck", "priority": priority }))).await;
    }
    let status = app.queue().await;
    assert_eq!(status["byPriority"], json!({ "high": 1, "normal": 1, "low": 2 }));
    let [waiting, in_hand] = ["queueLength", "processing"].map(|field| status[field].as_u64().unwrap());
    assert_eq!(waiting + in_hand, 4);
    assert_eq!(status["isProcessing"], true);
    assert!(status["oldestPendingSeconds"].as_f64().is_some_and(|s| s >= 0.0));
    assert_eq!((&status["deadLettered"], &status["retrying"]), (&json!(1), &json!(0)));
    assert_eq!((&status["recommendations"], &status["embedded"]), (&json!(6), &json!(1)));
    eventually("a worker tells what it holds", async || {
        (app.queue().await["processing"].as_u64() > Some(0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_health_checks_say_what_is_there() {
    let app = TestApp::start().await;
    let live = list(&app, "/health/live", None).await;
    assert_eq!(live, json!({ "status": "live", "version": env!("CARGO_PKG_VERSION") }));
    let part = |kind| json!({ "kind": kind, "ok": true, "error": null });
    let expected = json!({
        "status": "ready", "database": part(kinds().0), "broker": part(kinds().1), "provider": part("local"),
    });
    assert_eq!(list(&app, "/health/ready", None).await, expected);
    app.stop().await;
}

/// Of the database and the broker.
fn kinds() -> (&'static str, &'static str) {
    if full_stack() { ("postgres", "rabbitmq") } else { ("sqlite", "embedded") }
}
