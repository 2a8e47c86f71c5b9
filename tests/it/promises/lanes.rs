//! What someone waits for comes first, and nothing waits for ever.

use std::time::Duration;

use serde_json::json;

use super::{composed, describe, handed_over, one_by_one, plug, remote};
use crate::support::app::{TestApp, user};
use crate::support::provider::Behaviour;

async fn save_at(app: &TestApp, priority: &str, text: &str) -> i64 {
    app.save(&json!({ "user_id": user(1), "description": text, "priority": priority })).await
}

#[tokio::test]
async fn an_edit_overtakes_a_backlog_of_low_priority() {
    let (provider, app) = remote(one_by_one).await;
    let id = plug(&app, &provider).await;
    for n in 0..30 {
        save_at(&app, "low", &format!("backlog {n}")).await;
    }
    handed_over(&app, 31).await;
    describe(&app, id, "edited").await;
    handed_over(&app, 31).await;
    // Calls that take longer than a message does from the broker to the worker.
    provider.always(Behaviour::Delay(Duration::from_millis(30)));
    provider.release();
    app.drained().await;
    let inputs = provider.inputs();
    let place = inputs.iter().position(|input| *input == composed("edited")).expect("embedded");
    assert!(place <= 3, "it came as number {place} of {inputs:?}");
    app.stop().await;
}

#[tokio::test]
async fn a_low_priority_is_served_while_higher_ones_wait() {
    let (provider, app) = remote(one_by_one).await;
    plug(&app, &provider).await;
    save_at(&app, "low", "low").await;
    for n in 0..30 {
        save_at(&app, "high", &format!("high {n}")).await;
    }
    handed_over(&app, 32).await;
    provider.release();
    app.drained().await;
    let place = provider.inputs().iter().position(|input| *input == composed("low")).expect("embedded");
    assert!(place < 20, "it came as number {place}");
    app.stop().await;
}

#[tokio::test]
async fn a_lane_is_first_in_first_out() {
    let (provider, app) = remote(one_by_one).await;
    plug(&app, &provider).await;
    let texts: Vec<String> = (0..20).map(|n| format!("text {n}")).collect();
    for text in &texts {
        app.save_text(text).await;
    }
    provider.release();
    app.drained().await;
    let expected: Vec<String> =
        ["plug"].into_iter().chain(texts.iter().map(String::as_str)).map(composed).collect();
    assert_eq!(provider.inputs(), expected);
    app.stop().await;
}
