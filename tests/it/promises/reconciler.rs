//! What the broker loses is noticed; what merely waits is left alone.

use std::sync::Arc;
use std::time::Duration;

use mapx_embeddings::config::Settings;
use serde_json::json;

use super::{DIMENSIONS, ask, assert_stored, called, one_by_one, plug};
use crate::support::app::{TestApp, eventually};
use crate::support::broker::{Mood, MoodyBroker};
use crate::support::provider::{Behaviour, FakeProvider};

async fn moody(change: impl FnOnce(&mut Settings)) -> (Arc<MoodyBroker>, FakeProvider, TestApp) {
    let provider = FakeProvider::start(DIMENSIONS).await;
    let url = provider.base_url();
    let mut broker = None;
    let app = TestApp::with_broker(
        |settings| broker.insert(MoodyBroker::new(settings, Mood::Well)).clone(),
        |settings| ask(settings, url).then(change),
    )
    .await;
    (broker.expect("made"), provider, app)
}

#[tokio::test]
async fn a_task_that_the_broker_lost_comes_back() {
    let (broker, _provider, app) = moody(|settings| settings.queue.reconcile_interval_ms = 200).await;
    broker.become_(Mood::Forgetful);
    let lost = app.save_text("lost").await;
    eventually("it is published", async || (!broker.published().is_empty()).then_some(())).await;
    broker.become_(Mood::Well);
    app.embedding_is(lost, "ready").await;
    assert!(broker.published().len() >= 2);
    assert_stored(&app, lost, "lost").await;
    app.stop().await;
}

#[tokio::test]
async fn a_task_that_was_lost_while_others_pass_comes_back_too() {
    let (broker, provider, app) = moody(|settings| settings.queue.reconcile_interval_ms = 200).await;
    broker.become_(Mood::Forgetful);
    let lost = app.save_text("lost").await;
    eventually("it is published", async || (!broker.published().is_empty()).then_some(())).await;
    broker.become_(Mood::Well);
    provider.always(Behaviour::Delay(Duration::from_millis(20)));
    // The lane never runs empty meanwhile.
    eventually("the lost one is ready", async || {
        app.save_text("one of many").await;
        (app.embedding(lost).await["status"] == "ready").then_some(())
    })
    .await;
    app.drained().await;
    app.stop().await;
}

#[tokio::test]
async fn a_lost_retry_comes_back() {
    let (broker, provider, app) = moody(|settings| {
        settings.queue.reconcile_interval_ms = 200;
        settings.queue.retry_delay_ms = 400;
    })
    .await;
    provider.next(Behaviour::Hold);
    let id = app.save_text("fails once").await;
    called(&provider, 1).await;
    broker.become_(Mood::Forgetful);
    provider.release_as(Behaviour::status(500, "down"));
    eventually("the retry is lost", async || (app.embedding(id).await["attempts"] == 1).then_some(())).await;
    eventually("it is missed", async || (broker.published().len() > 1).then_some(())).await;
    broker.become_(Mood::Well);
    app.embedding_is(id, "ready").await;
    app.stop().await;
}

#[tokio::test]
async fn a_backlog_is_not_published_twice() {
    let (broker, provider, app) = moody(|settings| {
        one_by_one(settings);
        settings.queue.reconcile_interval_ms = 100;
    })
    .await;
    plug(&app, &provider).await;
    for n in 0..40 {
        app.save_text(&format!("text {n}")).await;
    }
    eventually("all is with the broker", async || (broker.published().len() == 41).then_some(())).await;
    // Several rounds of the reconciler while nothing moves, and many more while it moves slowly.
    let queue = eventually("the backlog has got old", async || {
        let queue = app.queue().await;
        (queue["oldestPendingSeconds"].as_f64() > Some(0.8)).then_some(queue)
    })
    .await;
    assert_eq!(queue["byPriority"], json!({ "high": 0, "normal": 41, "low": 0 }));
    provider.always(Behaviour::Delay(Duration::from_millis(30)));
    provider.release();
    app.drained().await;
    assert_eq!(broker.published().len(), 41);
    assert_eq!(provider.inputs().len(), 41);
    app.stop().await;
}
