//! What RabbitMQ loses comes back, and what waits there is left alone.

use std::time::Duration;

use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use serde_json::json;

use super::{raw, service, slow_service};
use crate::promises::plug;
use crate::support::app::eventually;
use crate::support::provider::Behaviour;
use crate::support::rabbit::{Raw, Vhost};

/// A queue that gets a copy of every message that is published to a lane.
async fn audit(raw: &Raw) -> &'static str {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    raw.channel.queue_declare("audit".into(), options, FieldTable::default()).await.expect("declared");
    for lane in ["high", "normal", "low"] {
        let bound = raw.channel.queue_bind(
            "audit".into(),
            "mapx.tasks".into(),
            lane.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bound.await.expect("bound");
    }
    "audit"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purged_queue_costs_two_rounds() {
    let vhost = Vhost::new().await;
    let (provider, app) = slow_service(&vhost, 200).await;
    let raw = raw(&vhost).await;
    plug(&app, &provider).await;
    for n in 0..40 {
        app.save_text(&format!("text {n}")).await;
    }
    eventually("they wait in their lane", async || (raw.ready("mapx.tasks.normal").await >= 38).then_some(()))
        .await;
    assert!(raw.purge("mapx.tasks.normal").await >= 38);
    provider.release();
    let queue = app.drained().await;
    assert_eq!((&queue["embedded"], &queue["deadLettered"]), (&json!(41), &json!(0)));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_purged_from_a_lane_that_never_runs_empty_comes_back() {
    let vhost = Vhost::new().await;
    let (provider, app) = slow_service(&vhost, 200).await;
    let raw = raw(&vhost).await;
    plug(&app, &provider).await;
    let mut lost = Vec::new();
    for n in 0..10 {
        lost.push(app.save_text(&format!("lost {n}")).await);
    }
    eventually("they wait in their lane", async || (raw.ready("mapx.tasks.normal").await == 8).then_some(())).await;
    raw.purge("mapx.tasks.normal").await;
    provider.always(Behaviour::Delay(Duration::from_millis(30)));
    provider.release();
    eventually("the lost ones are ready", async || {
        // Two for one that is served, so something always waits.
        app.save_text("one of many").await;
        app.save_text("and another").await;
        for id in &lost {
            if app.embedding(*id).await["status"] != "ready" {
                return None;
            }
        }
        Some(())
    })
    .await;
    assert!(raw.ready("mapx.tasks.normal").await > 0, "the lane ran empty, so this shows nothing");
    provider.always(Behaviour::Answer);
    app.drained().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_is_not_published_twice() {
    let vhost = Vhost::new().await;
    let (provider, app) = service(&vhost, |settings| {
        settings.queue.max_concurrent = 3;
        settings.queue.batch_size = 2;
        settings.queue.reconcile_interval_ms = 100;
    })
    .await;
    let raw = raw(&vhost).await;
    let audit = audit(&raw).await;
    // One call hangs while the others pass: its tasks are in hand, and the lane passes them by.
    provider.next(Behaviour::Hold);
    provider.always(Behaviour::Delay(Duration::from_millis(100)));
    for n in 0..150 {
        app.save_text(&format!("text {n}")).await;
    }
    eventually("all but the call that hangs are done", async || {
        (app.queue().await["embedded"].as_u64() >= Some(148)).then_some(())
    })
    .await;
    // Rounds and rounds of the reconciler, and the lane is empty but for what is in hand.
    tokio::time::sleep(Duration::from_secs(4)).await;
    provider.release();
    app.drained().await;
    assert_eq!(raw.ready(audit).await, 150);
    app.stop().await;
}
