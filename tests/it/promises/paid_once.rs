//! An unchanged text is never paid for twice.

use mapx_embeddings::config::Settings;
use serde_json::{Value, json};

use super::{DIMENSIONS, assert_stored, called, composed, describe, edit, handed_over, plug, remote, remote_over};
use crate::support::app::{TestApp, eventually, user};
use crate::support::provider::Behaviour;
use crate::support::stored;

async fn ready(app: &TestApp, text: &str) -> i64 {
    let id = app.save_text(text).await;
    app.embedding_is(id, "ready").await;
    id
}

#[tokio::test]
async fn an_edit_that_leaves_the_text_as_it_is_costs_no_call() {
    let (provider, app) = remote(|_| {}).await;
    let id = ready(&app, "same").await;
    let unchanged: [Value; 5] = [
        json!({ "description": "same" }),
        json!({}),
        json!({ "visibility": "friends" }),
        json!({ "priority": "high" }),
        json!({ "title": null, "labels": [] }),
    ];
    for change in unchanged {
        let answer = edit(&app, id, change).await;
        assert_eq!(answer.data(200)["embedding"]["status"], "ready");
    }
    app.drained().await;
    assert_eq!(provider.inputs(), [composed("same")]);
    assert_eq!(app.embedding(id).await["content_version"], 1);
    app.stop().await;
}

#[tokio::test]
async fn a_change_of_visibility_during_the_call_costs_no_second_one() {
    let (provider, app) = remote(|_| {}).await;
    provider.always(Behaviour::Hold);
    let id = app.save_text("in flight").await;
    called(&provider, 1).await;
    edit(&app, id, json!({ "visibility": "friends" })).await;
    // Another row passes, so the edit's own task had its turn.
    let other = app.save_text("another row").await;
    called(&provider, 2).await;
    provider.behave();
    provider.release();
    app.embedding_is(id, "ready").await;
    app.embedding_is(other, "ready").await;
    app.drained().await;
    assert_eq!(provider.inputs().iter().filter(|input| **input == composed("in flight")).count(), 1);
    app.stop().await;
}

#[tokio::test]
async fn a_text_whose_vector_is_still_stored_costs_no_call() {
    let (provider, app) = remote(|settings| settings.queue.max_concurrent = 1).await;
    let id = ready(&app, "there").await;
    plug(&app, &provider).await;
    describe(&app, id, "and").await;
    describe(&app, id, "there").await;
    handed_over(&app, 2).await;
    provider.release();
    let state = app.embedding_is(id, "ready").await;
    assert_eq!(state["embedded_version"], 3);
    app.drained().await;
    assert_stored(&app, id, "there").await;
    assert_eq!(provider.inputs(), [composed("there"), composed("plug")]);
    app.stop().await;
}

#[tokio::test]
async fn two_rows_with_one_text_in_a_batch_are_one_input() {
    let (provider, app) = remote(|settings| settings.queue.max_concurrent = 1).await;
    plug(&app, &provider).await;
    let twins = [app.save_text("twin").await, app.save_text("twin").await];
    handed_over(&app, 3).await;
    provider.release();
    for id in twins {
        app.embedding_is(id, "ready").await;
        assert_stored(&app, id, "twin").await;
    }
    assert_eq!(provider.inputs(), [composed("plug"), composed("twin")]);
    app.stop().await;
}

#[tokio::test]
async fn a_restart_costs_no_call() {
    let (provider, app) = remote(|_| {}).await;
    let ids = [ready(&app, "one").await, ready(&app, "two").await];
    let data = app.data();
    app.stop().await;
    let app = remote_over(data, &provider, |_| {}).await;
    let queue = app.queue().await;
    assert_eq!((&queue["queueLength"], &queue["embedded"]), (&json!(0), &json!(2)));
    let later = ready(&app, "three").await;
    for id in ids.into_iter().chain([later]) {
        assert_eq!(app.embedding(id).await["status"], "ready");
    }
    assert_eq!(provider.inputs(), ["one", "two", "three"].map(composed));
    app.stop().await;
}

#[tokio::test]
async fn a_vector_that_comes_with_the_save_costs_no_call() {
    let (provider, app) = remote(|_| {}).await;
    let mut own = vec![0.0; DIMENSIONS];
    own[0] = 1.0;
    let id = app.save(&json!({ "user_id": user(1), "description": "own", "embedding": own })).await;
    assert_eq!(app.embedding(id).await["status"], "ready");
    assert_eq!(stored::tasks(&app.data(), "%").await, 0);
    assert!(provider.calls().is_empty());
    app.stop().await;
}

fn at_place(name: &str, description: &str) -> Value {
    json!({ "user_id": user(1), "description": description, "google_place_id": "g1", "place_name": name })
}

#[tokio::test]
async fn a_renamed_place_has_what_shows_it_embedded_again_at_low_priority() {
    let (provider, app) = remote(|_| {}).await;
    let ids = [app.save(&at_place("Old", "one")).await, app.save(&at_place("Old", "two")).await];
    let elsewhere = ready(&app, "elsewhere").await;
    for id in ids {
        app.embedding_is(id, "ready").await;
    }
    let before = provider.inputs().len();
    provider.always(Behaviour::Hold);
    let third = app.save(&at_place("New", "three")).await;
    eventually("all three wait in their lanes", async || {
        let lanes = &app.queue().await["byPriority"];
        (*lanes == json!({ "high": 0, "normal": 1, "low": 2 })).then_some(())
    })
    .await;
    provider.behave();
    provider.release();
    for id in ids.into_iter().chain([third]) {
        app.embedding_is(id, "ready").await;
    }
    app.drained().await;
    let mut inputs = provider.inputs().split_off(before);
    inputs.sort();
    let shown = |text: &str| format!("Type: place. Description: {text}. Place: New");
    assert_eq!(inputs, ["one", "three", "two"].map(shown));
    assert_eq!(app.embedding(elsewhere).await["content_version"], 1);
    app.stop().await;
}

#[tokio::test]
async fn a_place_that_is_named_as_before_costs_no_call() {
    let (provider, app) = remote(|_| {}).await;
    let id = app.save(&at_place("Same", "one")).await;
    app.embedding_is(id, "ready").await;
    let second = app.save(&at_place("Same", "two")).await;
    app.embedding_is(second, "ready").await;
    assert_eq!(provider.inputs().len(), 2);
    app.stop().await;
}

#[tokio::test]
async fn a_text_that_comes_again_after_its_row_was_deleted_costs_no_call() {
    let (provider, app) = remote(|_| {}).await;
    let id = ready(&app, "comes again").await;
    let vector = stored::row(&app.data(), id).await.expect("the row").embedding;
    app.delete(&format!("/api/recommendations/{id}"), Some(user(1))).await.data(200);
    let again = ready(&app, "comes again").await;
    assert_eq!(stored::row(&app.data(), again).await.expect("the row").embedding, vector);
    // Edited away and back, and in another process.
    describe(&app, again, "something else").await;
    app.embedding_is(again, "ready").await;
    let data = app.data();
    app.stop().await;
    let app = remote_over(data, &provider, |_| {}).await;
    describe(&app, again, "comes again").await;
    app.embedding_is(again, "ready").await;
    assert_stored(&app, again, "comes again").await;
    assert_eq!(provider.inputs(), [composed("comes again"), composed("something else")]);
    app.stop().await;
}

#[tokio::test]
async fn what_calls_took_is_told_and_outlives_the_process() {
    let priced = |settings: &mut Settings| settings.embedder.price_per_million_tokens = 2.0;
    let (provider, app) = remote(priced).await;
    let id = ready(&app, "one of two").await;
    ready(&app, "two of two").await;
    app.delete(&format!("/api/recommendations/{id}"), Some(user(1))).await.data(200);
    ready(&app, "one of two").await;
    let data = app.data();
    app.stop().await;
    let app = remote_over(data, &provider, priced).await;
    let usage = app.queue().await["provider"]["usage"].clone();
    assert_eq!(usage["today"], usage["total"]);
    let tokens = usage["total"]["tokens"].as_u64().expect("a number");
    assert!(tokens > 0);
    let cost = tokens as f64 * 2.0 / 1e6;
    let expected = json!({ "calls": 2, "texts": 2, "tokens": tokens, "cached": 1, "cost": cost });
    assert_eq!(usage["total"], expected);
    let metrics = crate::control::metrics::text(&app).await;
    assert!(metrics.contains(&format!("\nmapx_provider_tokens_total {tokens}\n")), "{metrics}");
    app.stop().await;
}

#[tokio::test]
async fn no_more_vectors_are_kept_than_configured() {
    let (provider, app) = remote(|settings| settings.database.cached_vectors = 3).await;
    for n in 0..6 {
        ready(&app, &format!("text {n}")).await;
    }
    assert!(stored::kept_vectors(&app.data()).await <= 4);
    let calls = provider.calls().len();
    ready(&app, "text 5").await;
    assert_eq!(provider.calls().len(), calls, "the newest is kept");
    ready(&app, "text 0").await;
    assert_eq!(provider.calls().len(), calls + 1, "the oldest is not");
    app.stop().await;
}

#[tokio::test]
async fn nothing_is_kept_where_nothing_is_to_be() {
    let (provider, app) = remote(|settings| settings.database.cached_vectors = 0).await;
    ready(&app, "paid twice").await;
    ready(&app, "paid twice").await;
    assert_eq!((provider.calls().len(), stored::kept_vectors(&app.data()).await), (2, 0));
    app.stop().await;
}
