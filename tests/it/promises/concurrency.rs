//! How many calls there are at once, and how many texts each carries.

use std::time::Duration;

use super::{called, composed, handed_over, plug, remote};
use crate::support::app::eventually;
use crate::support::provider::{Behaviour, FakeProvider};

fn sizes(provider: &FakeProvider) -> Vec<usize> {
    provider.calls().iter().map(|call| call.inputs.len()).collect()
}

#[tokio::test]
async fn there_are_never_more_calls_at_once_than_configured() {
    let (provider, app) = remote(|settings| {
        settings.queue.max_concurrent = 3;
        settings.queue.batch_size = 2;
    })
    .await;
    provider.when_contains("unlucky", Behaviour::status(500, "down"));
    provider.always(Behaviour::Hold);
    let mut ids = Vec::new();
    for n in 0..60 {
        ids.push(app.save_text(&format!("text {n}")).await);
        if n % 20 == 0 {
            app.save_text(&format!("unlucky {n}")).await;
        }
    }
    eventually("as many calls as configured", async || (provider.running() == 3).then_some(())).await;
    provider.always(Behaviour::Delay(Duration::from_millis(20)));
    provider.release();
    for id in ids {
        app.embedding_is(id, "ready").await;
    }
    assert_eq!(provider.most_at_once(), 3);
    assert!(sizes(&provider).iter().all(|size| *size <= 2));
    app.drained().await;
    app.stop().await;
}

#[tokio::test]
async fn an_idle_worker_starts_at_once_with_what_is_there() {
    let (provider, app) = remote(|settings| settings.queue.batch_size = 100).await;
    provider.always(Behaviour::Hold);
    app.save_text("first").await;
    called(&provider, 1).await;
    app.save_text("second").await;
    called(&provider, 2).await;
    assert_eq!(provider.inputs(), ["first", "second"].map(composed));
    provider.behave();
    provider.release();
    app.drained().await;
    app.stop().await;
}

#[tokio::test]
async fn a_busy_worker_fills_its_calls() {
    let (provider, app) = remote(|settings| settings.queue.max_concurrent = 1).await;
    plug(&app, &provider).await;
    for n in 0..10 {
        app.save_text(&format!("text {n}")).await;
    }
    handed_over(&app, 11).await;
    provider.always(Behaviour::Hold);
    for calls in 2..=3 {
        provider.release();
        called(&provider, calls).await;
        handed_over(&app, 20 - 5 * calls as i64).await;
    }
    provider.release();
    app.drained().await;
    assert_eq!(sizes(&provider), [1, 5, 5]);
    app.stop().await;
}
