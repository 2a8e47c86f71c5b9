//! Which rows a scope is about, and what each of them costs.

use serde_json::json;

use super::{begin, completed, does, fill, in_bulk, remote, times};
use crate::promises::{assert_stored, one_by_one};
use crate::support::app::TestApp;
use crate::support::provider::Behaviour;
use crate::support::stored;

#[tokio::test]
async fn all_asks_once_for_each_distinct_text_although_nothing_changed() {
    let (provider, app) = remote(in_bulk).await;
    let ids = [app.save_text("one").await, app.save_text("two").await, app.save_text("one").await];
    for id in ids {
        app.embedding_is(id, "ready").await;
    }
    let before = provider.inputs().len();
    let job = completed(&app, begin(&app, &json!({ "scope": "all" })).await).await;
    assert_eq!((&job["total"], &job["done"], &job["skipped"]), (&json!(3), &json!(3), &json!(0)));
    let times = times(&provider, before);
    assert_eq!(times.len(), 2, "{times:?}");
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    for (id, text) in ids.into_iter().zip(["one", "two", "one"]) {
        assert_stored(&app, id, text).await;
    }
    // And again: it is paid for each time somebody asks for it.
    completed(&app, begin(&app, &json!({ "scope": "all" })).await).await;
    assert_eq!(provider.inputs().len(), before + 4);
    app.stop().await;
}

#[tokio::test]
async fn twins_are_asked_for_once_where_no_vector_is_kept_either() {
    let (provider, app) = remote(|settings| {
        in_bulk(settings);
        settings.database.cached_vectors = 0;
        settings.regeneration.window = 7;
    })
    .await;
    fill(&app.data(), 60, 10).await;
    let job = completed(&app, begin(&app, &json!({ "scope": "all" })).await).await;
    assert_eq!((&job["total"], &job["done"]), (&json!(60), &json!(60)));
    let times = times(&provider, 0);
    assert_eq!((times.len(), times.values().sum::<usize>()), (10, 10), "{times:?}");
    for row in stored::rows(&app.data()).await {
        assert_stored(&app, row.id, &row.description).await;
    }
    app.stop().await;
}

#[tokio::test]
async fn an_empty_body_means_what_has_no_vector_as_for_mapx() {
    let (provider, app) = remote(in_bulk).await;
    let there = app.save_text("there").await;
    app.embedding_is(there, "ready").await;
    fill(&app.data(), 5, 5).await;
    let answer = app.send(app.request(reqwest::Method::POST, super::JOBS)).await;
    assert_eq!(answer.data(202)["total"], 5);
    let job = completed(&app, answer.data(202)["job_id"].as_i64().expect("an id")).await;
    assert_eq!((&job["scope"], &job["done"]), (&json!("missing"), &json!(5)));
    assert_eq!(provider.inputs().len(), 6);
    app.stop().await;
}

#[tokio::test]
async fn stale_is_what_is_of_another_model_or_of_another_text() {
    let (provider, app) = remote(in_bulk).await;
    let mut ids = Vec::new();
    for text in ["fresh", "other model", "other hash"] {
        ids.push(app.save_text(text).await);
        app.embedding_is(ids[ids.len() - 1], "ready").await;
    }
    let data = app.data();
    does(&data, &format!("UPDATE recommendations SET embedding_model = 'older' WHERE id = {}", ids[1])).await;
    does(&data, &format!("UPDATE recommendations SET embedded_hash = 'of a text' WHERE id = {}", ids[2])).await;
    // As for another hash the columns say nothing, the total knows of the other model alone at first.
    let job = completed(&app, begin(&app, &json!({ "scope": "stale" })).await).await;
    assert_eq!((&job["total"], &job["done"]), (&json!(2), &json!(2)));
    // Their vectors were kept: nothing was paid for twice.
    assert_eq!(provider.inputs().len(), 3);
    app.stop().await;
}

/// Two that failed: one is given up with its reason, of one another has thrown the task away.
async fn failed(app: &TestApp, provider: &crate::support::provider::FakeProvider) -> [i64; 2] {
    provider.when_contains("poison", Behaviour::status(400, "no"));
    let ids = [app.save_text("poison one").await, app.save_text("poison two").await];
    for id in ids {
        app.embedding_is(id, "failed").await;
    }
    does(&app.data(), &format!("DELETE FROM embedding_tasks WHERE recommendation_id = {}", ids[1])).await;
    ids
}

#[tokio::test]
async fn failed_is_what_was_given_up_or_discarded() {
    let (provider, app) = remote(|_| {}).await;
    let good = app.save_text("good").await;
    app.embedding_is(good, "ready").await;
    let ids = failed(&app, &provider).await;
    // Still poison: it fails again and is counted as that.
    let job = completed(&app, begin(&app, &json!({ "scope": "failed" })).await).await;
    assert_eq!((&job["total"], &job["failed"], &job["done"]), (&json!(2), &json!(2), &json!(0)));
    provider.behave();
    let job = completed(&app, begin(&app, &json!({ "scope": "failed", "priority": "high" })).await).await;
    assert_eq!((&job["total"], &job["failed"], &job["done"]), (&json!(2), &json!(0), &json!(2)));
    for (id, text) in ids.into_iter().zip(["poison one", "poison two"]) {
        app.embedding_is(id, "ready").await;
        assert_stored(&app, id, text).await;
    }
    app.stop().await;
}

#[tokio::test]
async fn a_row_that_fails_gives_its_twins_a_turn() {
    let (provider, app) = remote(|settings| {
        one_by_one(settings);
        settings.queue.max_retries = 0;
        settings.database.cached_vectors = 0;
    })
    .await;
    fill(&app.data(), 3, 1).await;
    // Of three rows with one text, the first one's call fails.
    provider.next(Behaviour::status(400, "not today"));
    let job = completed(&app, begin(&app, &json!({})).await).await;
    assert_eq!((&job["failed"], &job["done"]), (&json!(1), &json!(2)));
    // Once in vain, and once for the two that are left.
    assert_eq!(times(&provider, 0).get("Type: unclear. Description: A place, number 0"), Some(&2));
    app.stop().await;
}
