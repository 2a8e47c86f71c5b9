//! What may work later is tried again, ever later, and not for ever.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{assert_stored, composed, remote};
use crate::support::provider::{Behaviour, FakeProvider};

/// Moments of the calls that carried this text.
fn moments(provider: &FakeProvider, text: &str) -> Vec<Instant> {
    let input = composed(text);
    provider.calls().iter().filter(|call| call.inputs.contains(&input)).map(|call| call.at).collect()
}

#[tokio::test]
async fn each_retry_waits_twice_as_long_as_the_one_before() {
    let (provider, app) = remote(|settings| settings.queue.retry_delay_ms = 100).await;
    // This text alone: were every call to fail, it would be the provider's outage and no attempt.
    provider.when_contains("unlucky", Behaviour::status(503, "down"));
    let id = app.save_text("unlucky").await;
    let state = app.embedding_is(id, "failed").await;
    assert_eq!(state["attempts"], 4);
    let moments = moments(&provider, "unlucky");
    assert_eq!(moments.len(), 4, "one attempt and three retries");
    for (n, pair) in moments.windows(2).enumerate() {
        let delay = pair[1] - pair[0];
        assert!(delay >= Duration::from_millis(100 << n), "retry {} after {delay:?}", n + 1);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_retry_that_works_leaves_no_trace_of_the_failures() {
    let (provider, app) = remote(|_| {}).await;
    for behaviour in [Behaviour::Drop, Behaviour::Truncated, Behaviour::status(500, "down")] {
        provider.next(behaviour);
        // To the probe that asks whose failure it was.
        provider.next(Behaviour::Answer);
    }
    let id = app.save_text("works in the end").await;
    let state = app.embedding_is(id, "ready").await;
    assert_eq!((&state["attempts"], &state["last_error"]), (&0.into(), &Value::Null));
    assert_eq!(moments(&provider, "works in the end").len(), 4);
    assert_stored(&app, id, "works in the end").await;
    assert_eq!(app.drained().await["deadLettered"], 0);
    app.stop().await;
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_a_failed_attempt() {
    let (provider, app) = remote(|settings| settings.embedder.timeout_ms = 200).await;
    provider.next(Behaviour::Never);
    let id = app.save_text("slow").await;
    app.embedding_is(id, "ready").await;
    assert_eq!(moments(&provider, "slow").len(), 2);
    app.stop().await;
}

#[tokio::test]
async fn retries_that_wait_hold_up_nobody() {
    let (provider, app) = remote(|settings| {
        settings.queue.max_concurrent = 1;
        settings.queue.retry_delay_ms = 3_600_000;
    })
    .await;
    provider.when_contains("unlucky", Behaviour::status(500, "down"));
    let mut unlucky = Vec::new();
    // More than a worker may hold at once.
    for n in 0..30 {
        unlucky.push(app.save_text(&format!("unlucky {n}")).await);
    }
    for id in unlucky {
        app.embedding_is(id, "retrying").await;
    }
    let id = app.save_text("fine").await;
    app.embedding_is(id, "ready").await;
    assert_eq!(app.queue().await["retrying"], 30);
    app.stop().await;
}
