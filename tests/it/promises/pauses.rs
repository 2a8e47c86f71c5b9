//! The provider's trouble pauses the lanes and spends no document's attempts.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{assert_stored, called, handed_over, remote};
use crate::support::app::{TestApp, eventually};
use crate::support::provider::Behaviour;

/// A single counted failure would be the end.
fn no_retries(settings: &mut mapx_embeddings::config::Settings) {
    settings.queue.max_retries = 0;
}

async fn all_ready(app: &TestApp, ids: &[i64]) {
    for id in ids {
        let state = app.embedding_is(*id, "ready").await;
        assert_eq!((&state["attempts"], &state["last_error"]), (&json!(0), &Value::Null));
    }
}

#[tokio::test]
async fn a_rate_limit_pauses_everything_and_counts_no_attempt() {
    let (provider, app) = remote(no_retries).await;
    provider.next(Behaviour::rate_limited("2"));
    let mut ids = vec![app.save_text("too fast").await];
    called(&provider, 1).await;
    // The workers are idle, the lane is paused: these must wait too.
    eventually("the limit is known", async || app.embedding(ids[0]).await["last_error"].is_string().then_some(()))
        .await;
    for n in 0..20 {
        ids.push(app.save_text(&format!("later {n}")).await);
    }
    all_ready(&app, &ids).await;
    let calls = provider.calls();
    let pause = calls[1].at - calls[0].at;
    assert!(pause >= Duration::from_secs(2), "the next call came after {pause:?}");
    assert_eq!(app.drained().await["deadLettered"], 0);
    app.stop().await;
}

#[tokio::test]
async fn a_rate_limit_on_a_busy_lane_lets_no_further_call_through() {
    let (provider, app) = remote(|settings| {
        no_retries(settings);
        settings.queue.max_concurrent = 2;
        settings.queue.batch_size = 1;
    })
    .await;
    // Two calls under way, and a backlog that is let in as soon as one of them ends.
    provider.always(Behaviour::Hold);
    let mut ids = vec![app.save_text("one").await, app.save_text("two").await];
    called(&provider, 2).await;
    for n in 0..20 {
        ids.push(app.save_text(&format!("backlog {n}")).await);
    }
    handed_over(&app, 22).await;
    provider.behave();
    let limited = Instant::now();
    provider.release_as(Behaviour::rate_limited("2"));
    all_ready(&app, &ids).await;
    let next = provider.calls()[2].at;
    assert!(next - limited >= Duration::from_secs(2), "the next call came after {:?}", next - limited);
    app.stop().await;
}

#[tokio::test]
async fn what_was_under_way_does_not_reopen_a_closed_lane() {
    let (provider, app) = remote(|settings| {
        no_retries(settings);
        settings.queue.max_concurrent = 2;
        settings.queue.batch_size = 1;
    })
    .await;
    provider.next(Behaviour::Hold);
    let slow = app.save_text("slow").await;
    called(&provider, 1).await;
    provider.next(Behaviour::rate_limited("300"));
    let limited = app.save_text("limited").await;
    eventually("the limit is known", async || app.embedding(limited).await["last_error"].is_string().then_some(()))
        .await;
    provider.release();
    app.embedding_is(slow, "ready").await;
    let waits = app.save_text("waits").await;
    let queue = eventually("the finished call is told", async || {
        let queue = app.queue().await;
        (queue["workers"][0]["readyTotal"] == 1).then_some(queue)
    })
    .await;
    assert_eq!(queue["provider"]["ok"], false, "{queue}");
    assert_eq!(app.embedding(waits).await["attempts"], 0);
    assert_eq!(provider.calls().len(), 2);
    app.stop().await;
}

#[tokio::test]
async fn a_refused_key_dead_letters_nothing_says_why_and_heals_by_itself() {
    let (provider, app) = remote(no_retries).await;
    provider.always(Behaviour::status(401, "this key is not valid"));
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(app.save_text(&format!("text {n}")).await);
    }
    let queue = eventually("the queue says why", async || {
        let queue = app.queue().await;
        (queue["provider"]["ok"] == false).then_some(queue)
    })
    .await;
    assert!(queue["provider"]["error"].as_str().expect("a reason").contains("this key is not valid"), "{queue}");
    let ready = app.get("/health/ready", None).await;
    let provider_part = &ready.data(200)["provider"];
    assert_eq!(provider_part["ok"], false, "{provider_part}");
    assert!(provider_part["error"].as_str().expect("a reason").contains("this key is not valid"));
    // Those behind it are left where they are, and the queue says why nothing moves.
    eventually("the task that met it says why", async || {
        let state = app.embedding(ids[0]).await;
        state["last_error"].as_str().is_some_and(|why| why.contains("this key is not valid")).then_some(())
    })
    .await;
    // Some probes more, so that nothing is given up after the first.
    called(&provider, 4).await;
    let queue = app.queue().await;
    assert_eq!((&queue["deadLettered"], &queue["retrying"]), (&json!(0), &json!(0)));
    provider.behave();
    all_ready(&app, &ids).await;
    assert_stored(&app, ids[0], "text 0").await;
    let healed = async || (app.queue().await["provider"]["ok"] == true).then_some(());
    eventually("the queue says that the provider is back", healed).await;
    app.stop().await;
}
