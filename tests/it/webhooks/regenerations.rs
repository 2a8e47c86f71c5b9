//! A regeneration tells its end, and its rows only to whoever asked for them.

use std::collections::HashSet;

use serde_json::json;

use super::receiver::Receiver;
use super::{FINISHED, READY, register, service};
use crate::support::app::{TestApp, eventually, user};

const JOBS: &str = "/api/recommendations/regenerate-embeddings";
const ROWS: usize = 300;

/// So many rows with their vectors.
async fn filled(app: &TestApp) {
    let line =
        |n| json!({ "user_id": user(1), "description": format!("place number {n}"), "visibility": "public" });
    let lines: Vec<String> = (0..ROWS).map(|n| line(n).to_string()).collect();
    let request = app.request(reqwest::Method::POST, "/api/recommendations/import");
    app.send(request.header("content-type", "application/x-ndjson").body(lines.join("\n"))).await.data(200);
    eventually("all are embedded", async || (app.queue().await["embedded"] == ROWS).then_some(())).await;
}

async fn completed(app: &TestApp, job: i64) {
    eventually("it is complete", async || {
        let told = app.get(&format!("{JOBS}/{job}"), None).await.data(200).clone();
        (told["state"] == "completed").then_some(())
    })
    .await;
}

async fn regenerate(app: &TestApp, scope: &str) -> i64 {
    app.post(JOBS, &json!({ "scope": scope })).await.data(202)["job_id"].as_i64().expect("an id")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_tells_its_end_once_and_none_of_its_rows_unless_that_is_asked_for() {
    let (_provider, app, receiver) = service(|settings| settings.queue.batch_size = 32).await;
    filled(&app).await;
    let every_row = Receiver::start().await;
    register(&app, &receiver, json!({})).await;
    register(&app, &every_row, json!({ "include_regenerations": true })).await;
    let job = regenerate(&app, "all").await;
    completed(&app, job).await;
    let finished = receiver.has_of(FINISHED, 1).await.remove(0).json();
    let data = &finished["data"];
    let expected = json!({
        "job_id": job, "status": "completed", "scope": "all", "model": "fake-model", "total": ROWS, "done": ROWS,
        "failed": 0, "skipped": 0, "created_at": data["created_at"], "finished_at": data["finished_at"],
    });
    assert_eq!(data, &expected);
    assert!(data["created_at"].is_string() && data["finished_at"].is_string());
    // Of the rows that are told of, the last ones come after it: it was told in turn, and not held up.
    let rows = every_row.has_of(READY, ROWS).await;
    assert!(rows.iter().all(|row| row.json()["data"]["job_id"] == job));
    let ids: HashSet<i64> =
        rows.iter().filter_map(|row| row.json()["data"]["recommendation_id"].as_i64()).collect();
    assert_eq!((rows.len(), ids.len()), (ROWS, ROWS));
    // What is saved now is nobody's regeneration.
    let id = app.save_text("somewhere quiet").await;
    let own = receiver.has_of(READY, 1).await.remove(0).json();
    assert_eq!((&own["data"]["recommendation_id"], &own["data"]["job_id"]), (&json!(id), &json!(null)));
    every_row.has(ROWS + 2).await;
    assert_eq!((receiver.received().len(), every_row.received().len()), (2, ROWS + 2));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_cancelled_says_so_and_an_edit_meanwhile_is_told_as_ever() {
    let (provider, app, receiver) = service(|settings| settings.queue.batch_size = 32).await;
    filled(&app).await;
    register(&app, &receiver, json!({})).await;
    provider.always(crate::support::provider::Behaviour::Hold);
    let job = regenerate(&app, "all").await;
    crate::promises::called(&provider, 1 + provider.calls().len()).await;
    app.put("/api/recommendations/1", Some(user(1)), &json!({ "description": "edited" })).await.data(200);
    app.delete(&format!("{JOBS}/{job}"), None).await.data(200);
    let finished = receiver.has_of(FINISHED, 1).await.remove(0).json();
    assert_eq!((&finished["data"]["job_id"], &finished["data"]["status"]), (&json!(job), &json!("cancelled")));
    provider.release();
    provider.always(crate::support::provider::Behaviour::Answer);
    // What a worker had in hand when it was cancelled was the regeneration's all the same.
    let told = receiver.has_of(READY, 1).await.remove(0).json();
    assert_eq!((&told["data"]["recommendation_id"], &told["data"]["content_version"]), (&json!(1), &json!(2)));
    app.drained().await;
    assert_eq!(receiver.received().len(), 2);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_that_a_regeneration_meets_is_told_as_any_other() {
    let (provider, app, receiver) = service(|_| {}).await;
    let hook = register(&app, &receiver, json!({})).await;
    provider.always(crate::support::provider::Behaviour::Hold);
    let id = app.save_text("somewhere quiet").await;
    crate::promises::called(&provider, 1).await;
    let job = regenerate(&app, "all").await;
    eventually("it has met the row", async || {
        (super::lost::count(&app.data(), "regeneration_items WHERE fed").await == 1).then_some(())
    })
    .await;
    provider.behave();
    provider.release();
    completed(&app, job).await;
    let own = receiver.has_of(READY, 1).await.remove(0).json();
    assert_eq!((&own["data"]["recommendation_id"], &own["data"]["job_id"]), (&json!(id), &json!(null)));
    assert_eq!(super::deliveries(&app, hook.id).await.len(), 2);
    app.stop().await;
}
