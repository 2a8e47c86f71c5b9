//! Every acknowledged save ends as a vector, whatever ends in between.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{assert_stored, called, one_by_one, plug, remote, remote_over};
use crate::support::app::eventually;
use crate::support::provider::{Behaviour, FakeProvider};
use crate::support::stored;

#[tokio::test]
async fn tasks_in_every_state_are_finished_after_a_restart() {
    let (provider, app) = remote(|settings| {
        one_by_one(settings);
        settings.queue.shutdown_grace_ms = 50;
        settings.queue.retry_delay_ms = 2_000;
        settings.broker.window = 3;
    })
    .await;
    provider.when_contains("fails", Behaviour::status(503, "down"));
    provider.when_contains("stuck", Behaviour::Never);
    provider.when_contains("poison", Behaviour::status(400, "poison"));
    let poison = app.save_text("poison").await;
    app.embedding_is(poison, "failed").await;
    let mut ids = vec![app.save_text("fails at first").await];
    app.embedding_is(ids[0], "retrying").await;
    ids.push(app.save_text("stuck in a call").await);
    eventually("a call hangs", async || (provider.running() == 1).then_some(())).await;
    for n in 0..6 {
        ids.push(app.save_text(&format!("waits {n}")).await);
    }
    eventually("every state is there", async || {
        let mut seen = BTreeMap::<String, usize>::new();
        for id in &ids {
            *seen.entry(app.embedding(*id).await["status"].to_string()).or_default() += 1;
        }
        let expected = [("\"pending\"", 4), ("\"queued\"", 3), ("\"retrying\"", 1)];
        seen.iter().map(|(status, count)| (status.as_str(), *count)).eq(expected).then_some(())
    })
    .await;
    let data = app.data();
    app.stop().await;

    provider.behave();
    let app = remote_over(data, &provider, one_by_one).await;
    for id in ids {
        app.embedding_is(id, "ready").await;
    }
    assert_eq!(app.embedding(poison).await["status"], "failed");
    assert_eq!(stored::tasks(&app.data(), "%").await, 1, "only the poison is left");
    app.stop().await;
}

#[tokio::test]
async fn what_a_relay_claimed_and_never_published_is_taken_over() {
    let (provider, app) = remote(|settings| {
        one_by_one(settings);
        settings.broker.window = 1;
        settings.queue.reconcile_interval_ms = 86_400_000;
    })
    .await;
    plug(&app, &provider).await;
    let lost = app.save_text("its relay has died").await;
    let waiting = app.save_text("waits").await;
    stored::claimed_by_the_dead(&app.data(), lost, Duration::from_secs(3_600)).await;
    provider.release();
    app.embedding_is(waiting, "ready").await;
    app.embedding_is(lost, "ready").await;
    assert_stored(&app, lost, "its relay has died").await;
    app.drained().await;
    app.stop().await;
}

#[tokio::test]
async fn a_restart_forgets_no_attempt() {
    let (provider, app) = remote(|settings| settings.queue.retry_delay_ms = 1_000).await;
    provider.when_contains("fails", Behaviour::status(503, "down"));
    let id = app.save_text("fails").await;
    app.embedding_is(id, "retrying").await;
    let data = app.data();
    app.stop().await;
    // Without those that asked whose failure it was.
    let attempts = || provider.inputs().iter().filter(|text| text.contains("fails")).count() as u64;
    let before = attempts();

    let app = remote_over(data, &provider, |settings| settings.queue.retry_delay_ms = 60_000).await;
    let state = app.embedding(id).await;
    assert_eq!((&state["status"], state["attempts"].as_u64()), (&"retrying".into(), Some(before)));
    eventually("the next attempt is counted on", async || {
        (app.embedding(id).await["attempts"].as_u64() == Some(before + 1)).then_some(())
    })
    .await;
    assert_eq!(attempts(), before + 1);
    app.stop().await;
}

#[tokio::test]
async fn a_shutdown_finishes_what_is_in_flight_and_returns_the_rest() {
    let (provider, app) = remote(one_by_one).await;
    let in_flight = plug(&app, &provider).await;
    let waiting = app.save_text("waits").await;
    app.embedding_is(waiting, "queued").await;
    let data = app.data();
    let stopping = tokio::spawn(app.stop());
    let closed = async || reqwest::get(format!("{}/health/live", provider.base_url())).await.is_ok().then_some(());
    eventually("the provider still answers", closed).await;
    assert!(!stopping.is_finished(), "the shutdown waits for the call");
    provider.release();
    stopping.await.expect("stops");
    let rows = stored::rows(&data).await;
    assert_eq!(rows.iter().find(|row| row.id == in_flight).expect("the row").embedded_version, Some(1));
    assert_eq!(rows.iter().find(|row| row.id == waiting).expect("the row").embedded_version, None);

    let app = remote_over(data, &provider, |_| {}).await;
    app.embedding_is(waiting, "ready").await;
    assert_eq!(provider.calls().len(), 2, "what was finished is not paid again");
    app.stop().await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_beyond_its_grace_and_loses_nothing() {
    let (provider, app) = remote(|settings| settings.queue.shutdown_grace_ms = 100).await;
    provider.always(Behaviour::Never);
    let id = app.save_text("stuck").await;
    called(&provider, 1).await;
    let data = app.data();
    app.stop().await;

    let healthy = FakeProvider::start(super::DIMENSIONS).await;
    let app = remote_over(data, &healthy, |_| {}).await;
    let state = app.embedding_is(id, "ready").await;
    assert_eq!(state["attempts"], 0);
    assert_stored(&app, id, "stuck").await;
    app.stop().await;
}
