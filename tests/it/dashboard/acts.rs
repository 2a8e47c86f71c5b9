//! What is done by clicking.

use serde_json::{Value, json};

use super::{DEAD, DESKTOP, dashboard};
use crate::promises::{self, called, one_by_one};
use crate::support::app::{TestApp, eventually};
use crate::support::provider::{Behaviour, FakeProvider};

const QUEUE: &str = "/api/recommendations/embedding-queue";

/// So many dead letters of one error, and one of another.
async fn with_dead(count: usize) -> (FakeProvider, TestApp, Vec<i64>) {
    let (provider, app) = promises::remote(one_by_one).await;
    provider.when_contains("poison", Behaviour::status(400, "too long"));
    provider.when_contains("venom", Behaviour::status(400, "too short"));
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(app.save_text(&format!("poison {n}")).await);
    }
    ids.push(app.save_text("venom").await);
    for id in &ids {
        app.embedding_is(*id, "failed").await;
    }
    (provider, app, ids)
}

async fn audit(app: &TestApp) -> Vec<Value> {
    let audit = app.get(&format!("{QUEUE}/audit"), None).await.data(200).clone();
    audit["items"].as_array().expect("items").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_dead_letters_is_replayed_after_a_question_that_names_the_count() {
    let (provider, app, ids) = with_dead(3).await;
    let browser = dashboard(&app, DESKTOP).await;
    browser.says("#tile-dead", "4").await;
    browser.says(DEAD, "too long").await;
    browser.says(&format!("{DEAD}:first-child .n"), "3").await;
    browser.click(&format!("{DEAD}:first-child .act button")).await;
    browser.says("#confirm-title", "Replay 3 dead letters?").await;
    browser.says("#confirm-text", "too long").await;
    browser.click("#confirm button[value=no]").await;
    browser.until("!document.getElementById('confirm').open").await;
    assert_eq!(audit(&app).await, [] as [Value; 0], "nothing was asked for");
    provider.behave();
    browser.click(&format!("{DEAD}:first-child .act button")).await;
    // The button says so from the first time on; it can be clicked once the question is asked again.
    browser.until("document.getElementById('confirm').open").await;
    browser.says("#confirm-yes", "Replay 3").await;
    browser.click("#confirm-yes").await;
    browser.says("#notice", "Replayed 3 dead letters").await;
    for id in &ids[..3] {
        app.embedding_is(*id, "ready").await;
        browser.says(&format!("#activity [data-id='{id}']"), "ready").await;
    }
    // The other group is left alone.
    browser.says("#tile-dead", "1").await;
    browser.says(DEAD, "too short").await;
    let audit = audit(&app).await;
    let told = |name: &str| audit[0][name].clone();
    assert_eq!((told("action"), told("count"), told("who")), (json!("replay"), json!(3), json!("dashboard")));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_discarded() {
    let (_provider, app, ids) = with_dead(2).await;
    let browser = dashboard(&app, DESKTOP).await;
    browser.says(DEAD, "too long").await;
    browser.click(&format!("{DEAD}:first-child .act button.danger")).await;
    browser.says("#confirm-title", "Discard 2 dead letters?").await;
    browser.click("#confirm-yes").await;
    browser.says("#notice", "Discarded 2 dead letters").await;
    browser.says("#tile-dead", "1").await;
    assert!(app.embedding(ids[0]).await["discarded_at"].is_string());
    browser.says("#coverage .failed b", "3").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_regeneration_is_paused_and_cancelled() {
    let (provider, app) = promises::remote(one_by_one).await;
    for n in 0..5 {
        app.save_text(&format!("text {n}")).await;
    }
    app.drained().await;
    let calls = provider.calls().len();
    provider.always(Behaviour::Hold);
    let begun = app.post("/api/recommendations/regenerate-embeddings", &json!({ "scope": "all" })).await;
    let id = begun.data(202)["job_id"].as_i64().expect("an id");
    let job = async || {
        let path = format!("/api/recommendations/regenerate-embeddings/{id}");
        app.get(&path, None).await.data(200)["state"].clone()
    };
    called(&provider, calls + 1).await;
    let browser = dashboard(&app, DESKTOP).await;
    browser.says("#jobs", "running").await;
    browser.says("#jobs", "of 5 rows").await;
    browser.click("#jobs .act button").await;
    browser.says("#jobs", "paused").await;
    assert_eq!(job().await, "paused");
    browser.click("#jobs .act button.danger").await;
    browser.says("#confirm-title", &format!("Cancel job {id}?")).await;
    browser.says("#confirm-text", "of 5 are left").await;
    browser.click("#confirm-yes").await;
    browser.says("#jobs", "cancelled").await;
    assert_eq!(job().await, "cancelled");
    provider.behave();
    provider.release();
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_drained_and_put_to_work_again() {
    let (_provider, app) = promises::remote(one_by_one).await;
    let browser = dashboard(&app, DESKTOP).await;
    browser.says("#workers", "working").await;
    browser.click("#workers .act button").await;
    browser.says("#workers", "drained").await;
    let id = app.save_text("later").await;
    browser.says("#tile-waiting", "1").await;
    browser.says("#workers .act button", "Let it work").await;
    browser.click("#workers .act button").await;
    browser.says("#workers", "working").await;
    app.embedding_is(id, "ready").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_is_paused_and_resumed() {
    let (_provider, app) = promises::remote(|_| {}).await;
    let browser = dashboard(&app, DESKTOP).await;
    let normal = "#lanes tr:nth-child(2) .act button";
    browser.says(normal, "Pause").await;
    browser.click(normal).await;
    browser.says(normal, "Resume").await;
    browser.says("#lanes tr:nth-child(2)", "by dashboard").await;
    browser.click(normal).await;
    eventually("it is served again", async || app.queue().await["paused"]["normal"].is_null().then_some(())).await;
    browser.says(normal, "Pause").await;
    app.stop().await;
}
