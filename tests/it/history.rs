//! The history and the coverage from outside.

use std::time::Duration;

use serde_json::{Value, json};

use crate::promises;
use crate::support::app::{TestApp, eventually, user};
use crate::support::data::TestData;
use crate::support::provider::{Behaviour, FakeProvider};

const QUEUE: &str = "/api/recommendations/embedding-queue";

async fn history(app: &TestApp, parameters: &str) -> Value {
    app.get(&format!("{QUEUE}/history{parameters}"), None).await.data(200).clone()
}

/// Waits until the total has these values.
async fn totals(app: &TestApp, expected: &[(&str, u64)]) -> Value {
    eventually(&format!("{expected:?} in the history"), async || {
        let total = history(app, "").await["total"].clone();
        expected.iter().all(|(name, value)| total[*name] == *value).then_some(total)
    })
    .await
}

#[tokio::test]
async fn what_was_done_is_there_after_a_restart_and_more_is_added() {
    let data = TestData::new().await;
    let provider = FakeProvider::start(promises::DIMENSIONS).await;
    provider.when_contains("poison", Behaviour::status(400, "no"));
    let run = async |texts: &[&str]| {
        let app = promises::remote_over(data.clone(), &provider, |settings| settings.queue.batch_size = 1).await;
        for text in texts {
            app.save_text(text).await;
        }
        app.drained().await;
        app
    };
    let app = run(&["one", "two", "poison"]).await;
    app.stop().await;
    let app = run(&["three"]).await;
    let total = totals(&app, &[("ready", 3), ("failed", 1), ("calls", 3), ("texts", 3)]).await;
    assert!(total["latency_p50_ms"].as_f64().is_some_and(|ms| ms > 0.0 && ms < 30_000.0), "{total}");
    assert!(total["call_p95_ms"].as_f64().is_some_and(|ms| ms > 0.0 && ms < 30_000.0), "{total}");
    assert!(total["tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{total}");
    let points = history(&app, "?minutes=5&step=10").await["points"].clone();
    let points = points.as_array().expect("points");
    assert_eq!(points.len(), 30);
    assert_eq!(points.iter().filter_map(|point| point["ready"].as_u64()).sum::<u64>(), 3);
    app.stop().await;
}

#[tokio::test]
async fn refusals_failures_and_retries_are_told_apart() {
    let (provider, app) = promises::remote(|_| {}).await;
    provider.next(Behaviour::status(500, "oops"));
    provider.next(Behaviour::Answer);
    let id = app.save_text("once more").await;
    app.embedding_is(id, "ready").await;
    provider.next(Behaviour::rate_limited("0.05"));
    let id = app.save_text("slowly").await;
    app.embedding_is(id, "ready").await;
    totals(&app, &[("ready", 2), ("retried", 1), ("call_errors", 1), ("refused", 1), ("failed", 0)]).await;
    app.stop().await;
}

#[tokio::test]
async fn a_parameter_out_of_its_range_is_refused_by_name() {
    let app = TestApp::start().await;
    for (parameters, name) in [
        ("?minutes=0", "minutes"),
        ("?minutes=1441", "minutes"),
        ("?minutes=x", "minutes"),
        ("?step=15", "step"),
        ("?step=0", "step"),
        ("?step=3610", "step"),
        ("?minutes=1440&step=10", "step must be at least 60"),
    ] {
        let answer = app.get(&format!("{QUEUE}/history{parameters}"), None).await;
        assert!(answer.refusal(400).starts_with(name), "{parameters}: {}", answer.body);
    }
    let day = history(&app, "?minutes=1440&step=60").await;
    assert_eq!(day["points"].as_array().map(Vec::len), Some(1_440));
    app.stop().await;
}

#[tokio::test]
async fn each_recommendation_is_covered_in_one_way() {
    let (provider, app) = promises::remote(|settings| settings.queue.max_retries = 0).await;
    provider.when_contains("poison", Behaviour::status(400, "no"));
    let ready = app.save_text("ready").await;
    let stale = app.save_text("stale").await;
    let failed = app.save_text("poison").await;
    for (id, status) in [(ready, "ready"), (stale, "ready"), (failed, "failed")] {
        app.embedding_is(id, status).await;
    }
    provider.always(Behaviour::Hold);
    app.save_text("pending").await;
    let change = json!({ "description": "another text" });
    app.put(&format!("/api/recommendations/{stale}"), Some(user(1)), &change).await.data(200);
    let coverage = eventually("it is counted anew", async || {
        let coverage = app.get(&format!("{QUEUE}/coverage"), None).await.data(200).clone();
        (coverage["total"] == 4 && coverage["stale"] == 1).then_some(coverage)
    })
    .await;
    let of = |name: &str| coverage[name].as_u64().expect("a number");
    assert_eq!((of("current"), of("stale"), of("pending"), of("failed")), (1, 1, 1, 1), "{coverage}");
    provider.behave();
    provider.release();
    app.stop().await;
}

#[tokio::test]
async fn the_status_tells_the_rungs_and_the_age_of_each_lane() {
    let (provider, app) = promises::remote(|settings| {
        settings.queue.retry_delay_ms = 60_000;
        settings.queue.max_concurrent = 1;
        settings.queue.batch_size = 1;
    })
    .await;
    provider.when_contains("flaky", Behaviour::status(500, "oops"));
    app.save_text("flaky").await;
    let rungs = eventually("it waits for the next attempt", async || {
        let rungs = app.queue().await["retryRungs"].clone();
        (rungs != json!([])).then_some(rungs)
    })
    .await;
    assert_eq!(
        (rungs.as_array().map(Vec::len), &rungs[0]["attempts"], &rungs[0]["tasks"]),
        (Some(1), &json!(1), &json!(1))
    );
    assert!(rungs[0]["nextAt"].is_string());
    provider.always(Behaviour::Hold);
    app.save_text("held").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let oldest = app.queue().await["oldestByPriority"].clone();
    assert!(oldest["normal"].as_f64().is_some_and(|age| age > 0.0), "{oldest}");
    assert_eq!((&oldest["high"], &oldest["low"]), (&Value::Null, &Value::Null));
    provider.behave();
    provider.release();
    app.stop().await;
}
