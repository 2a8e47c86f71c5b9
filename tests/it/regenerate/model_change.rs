//! A change of the model: a regeneration that the service begins itself, and that searches tell of.

use std::sync::Arc;

use mapx_embeddings::config::Settings;
use serde_json::{Value, json};

use super::{JOBS, begin, completed, fill, in_bulk, job, remote};
use crate::promises::remote_over;
use crate::support::app::{TestApp, eventually, found_ids};
use crate::support::data::TestData;
use crate::support::provider::{Behaviour, FakeProvider};
use crate::support::stored;

const ROWS: u64 = 40;

fn small(settings: &mut Settings) {
    in_bulk(settings);
    settings.regeneration.window = 8;
    settings.queue.batch_size = 4;
    settings.queue.max_concurrent = 1;
}

async fn with_model(data: Arc<TestData>, provider: &FakeProvider, model: &'static str) -> TestApp {
    remote_over(data, provider, |settings| {
        small(settings);
        settings.embedder.model = model.into();
    })
    .await
}

async fn only_job(app: &TestApp) -> Value {
    let jobs = app.get(JOBS, None).await.data(200).clone();
    jobs.as_array().expect("jobs").iter().find(|job| job["origin"] == "model-change").expect("one").clone()
}

async fn search(app: &TestApp, mode: &str) -> Value {
    app.search(&json!({ "query": "number 7", "mode": mode, "threshold": -1 })).await
}

#[tokio::test]
async fn a_change_of_the_model_is_a_regeneration_and_searches_tell_how_far_it_is() {
    let (provider, app) = remote(small).await;
    fill(&app.data(), ROWS, ROWS).await;
    completed(&app, begin(&app, &json!({})).await).await;
    assert_eq!(search(&app, "hybrid").await["search_metadata"]["degraded"], false);
    let data = app.data();
    app.stop().await;

    provider.always(Behaviour::Hold);
    let app = with_model(data.clone(), &provider, "other-model").await;
    let begun = eventually("the window is full", async || {
        assert!(stored::tasks(&data, "%").await <= 8, "more than the window");
        (stored::tasks(&data, "%").await == 8).then_some(only_job(&app).await)
    })
    .await;
    assert_eq!(
        (&begun["scope"], &begun["total"], &begun["state"]),
        (&json!("stale"), &json!(ROWS), &json!("running"))
    );
    // The held provider gives the query no vector either; by words everything is found.
    assert!(!found_ids(&search(&app, "hybrid").await).is_empty());
    assert_eq!(search(&app, "keyword").await["search_metadata"]["degraded"], false);
    // A restart goes on with the same one.
    provider.behave();
    provider.always(Behaviour::Delay(std::time::Duration::from_millis(50)));
    provider.release();
    let id = begun["job_id"].as_i64().expect("an id");
    let told = search(&app, "hybrid").await["search_metadata"].clone();
    assert_eq!((&told["degraded"], &told["mode"]), (&json!(true), &json!("hybrid")), "{told}");
    let reason = told["reason"].as_str().expect("a reason");
    assert!(reason.contains("model was changed") && reason.contains(&format!("of {ROWS}")), "{reason}");
    app.stop().await;
    let app = with_model(data.clone(), &provider, "other-model").await;
    let done = completed(&app, id).await;
    assert_eq!((&done["done"], &done["total"]), (&json!(ROWS), &json!(ROWS)));
    assert_eq!(app.get(JOBS, None).await.data(200).as_array().expect("jobs").len(), 2);
    assert_eq!(search(&app, "hybrid").await["search_metadata"]["degraded"], false);
    app.stop().await;
}

#[tokio::test]
async fn one_that_was_begun_for_the_old_model_gives_way() {
    let (provider, app) = remote(small).await;
    fill(&app.data(), ROWS, ROWS).await;
    completed(&app, begin(&app, &json!({})).await).await;
    provider.always(Behaviour::Hold);
    let old = begin(&app, &json!({ "scope": "all" })).await;
    let data = app.data();
    provider.behave();
    app.stop().await;
    let app = with_model(data, &provider, "other-model").await;
    let new = eventually("the change is begun", async || {
        let jobs = app.get(JOBS, None).await.data(200).clone();
        jobs.as_array()?.iter().find(|job| job["origin"] == "model-change")?["job_id"].as_i64()
    })
    .await;
    assert_eq!(job(&app, old).await["state"], "cancelled");
    completed(&app, new).await;
    app.stop().await;
}
