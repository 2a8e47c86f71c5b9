//! Search always answers: with what is ready, and by words when the provider is away.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{called, composed, edit, remote};
use crate::support::app::{TestApp, eventually, found_ids, user};
use crate::support::provider::Behaviour;

/// Finds by meaning only what is exactly the same: the fake provider's vectors have no meaning.
fn asked(query: &str) -> Value {
    json!({ "query": query, "threshold": 0.9 })
}

fn in_mode(query: &str, mode: &str) -> Value {
    json!({ "query": query, "threshold": 0.9, "mode": mode })
}

async fn ready(app: &TestApp, text: &str) -> i64 {
    let id = app.save_text(text).await;
    app.embedding_is(id, "ready").await;
    id
}

#[tokio::test]
async fn meaning_and_words_are_fused() {
    let (_provider, app) = remote(|_| {}).await;
    let by_words = ready(&app, "a lantern that glows").await;
    let by_both = ready(&app, "lantern").await;
    ready(&app, "something else").await;
    let answer = app.search(&asked(&composed("lantern"))).await;
    assert_eq!(
        (&answer["search_metadata"]["mode"], &answer["search_metadata"]["degraded"]),
        (&json!("hybrid"), &json!(false))
    );
    assert_eq!(found_ids(&answer).first(), Some(&by_both), "{answer}");
    let semantic = app.search(&in_mode(&composed("lantern"), "semantic")).await;
    assert_eq!(found_ids(&semantic), [by_both]);
    let keyword = app.search(&in_mode("lantern", "keyword")).await;
    let mut found = found_ids(&keyword);
    found.sort_unstable();
    assert_eq!(found, [by_words, by_both]);
    app.stop().await;
}

#[tokio::test]
async fn what_has_no_vector_yet_is_found_by_its_words() {
    let (provider, app) = remote(|_| {}).await;
    provider.when_contains("Description", Behaviour::Hold);
    let id = app.save_text("a lighthouse at dusk").await;
    called(&provider, 1).await;
    let answer = app.search(&asked("lighthouse")).await;
    assert_eq!(found_ids(&answer), [id]);
    let how = &answer["search_metadata"];
    assert_eq!((&how["degraded"], &how["pending_embeddings"]), (&json!(false), &json!(1)));
    provider.release();
    app.embedding_is(id, "ready").await;
    let answer = app.search(&asked("lighthouse")).await;
    assert_eq!(answer["search_metadata"]["pending_embeddings"], 0);
    app.stop().await;
}

/// The answer to a search is that of the words alone, and says why.
fn assert_degraded(answer: &Value, expected: &[i64], reason: &str) {
    let how = &answer["search_metadata"];
    assert_eq!((&how["degraded"], &how["mode"]), (&json!(true), &json!("keyword")), "{how}");
    assert!(how["reason"].as_str().expect("a reason").contains(reason), "{how}");
    assert_eq!(found_ids(answer), expected);
}

#[tokio::test]
async fn a_failing_provider_leaves_the_words() {
    let (provider, app) = remote(|_| {}).await;
    let id = ready(&app, "a lighthouse at dusk").await;
    for (behaviour, reason) in [
        (Behaviour::status(503, "overloaded"), "overloaded"),
        (Behaviour::status(401, "wrong key"), "wrong key"),
        (Behaviour::rate_limited("60"), "slow down"),
        (Behaviour::status(400, "no"), "no"),
        (Behaviour::Drop, "the call to the provider failed"),
        (Behaviour::Html, "provider"),
    ] {
        provider.always(behaviour);
        assert_degraded(&app.search(&asked("lighthouse")).await, &[id], reason);
        assert_degraded(&app.search(&in_mode("lighthouse", "semantic")).await, &[id], reason);
        provider.behave();
        // At once, but for the refused key, with which the next query doesn't ask again: a probe does, soon.
        eventually("the provider is asked again", async || {
            let answer = app.search(&asked(&format!("never asked before: {reason}"))).await;
            (answer["search_metadata"]["degraded"] == false).then_some(())
        })
        .await;
    }
    app.stop().await;
}

#[tokio::test]
async fn a_provider_that_never_answers_is_not_waited_for() {
    let (provider, app) = remote(|settings| settings.search.embed_timeout_ms = 200).await;
    let id = ready(&app, "a lighthouse at dusk").await;
    provider.always(Behaviour::Never);
    let started = Instant::now();
    let answer = app.search(&asked("lighthouse")).await;
    assert_degraded(&answer, &[id], "did not come within 200 ms");
    // The provider's own time limit is a minute.
    assert!(started.elapsed() < Duration::from_secs(20));
    app.stop().await;
}

#[tokio::test]
async fn a_backlog_and_a_closed_lane_do_not_touch_search() {
    let (provider, app) = remote(|settings| settings.queue.max_concurrent = 1).await;
    let id = ready(&app, "a lighthouse at dusk").await;
    provider.next(Behaviour::rate_limited("300"));
    app.save_text("waits for minutes").await;
    called(&provider, 2).await;
    let answer = app.search(&asked("lighthouse")).await;
    assert_eq!((&answer["search_metadata"]["degraded"], found_ids(&answer)), (&json!(false), vec![id]));
    app.stop().await;
}

#[tokio::test]
async fn equal_queries_cost_one_call() {
    let (provider, app) = remote(|_| {}).await;
    ready(&app, "a lighthouse at dusk").await;
    for query in ["old harbour", " old  harbour ", "old harbour"] {
        app.search(&asked(query)).await;
    }
    app.search(&in_mode("old harbour", "semantic")).await;
    app.search(&in_mode("never embedded", "keyword")).await;
    assert_eq!(provider.inputs(), [composed("a lighthouse at dusk"), "old harbour".into()]);
    app.stop().await;
}

/// Who finds it, by meaning and by words.
async fn finders(app: &TestApp, text: &str) -> Vec<(u128, bool, bool)> {
    let mut finders = Vec::new();
    for viewer in 1..=3 {
        let mut found = [false; 2];
        let asks = [in_mode(&composed(text), "semantic"), in_mode(text, "keyword")];
        for (found, mut body) in found.iter_mut().zip(asks) {
            body["user_id"] = json!(user(viewer));
            *found = !found_ids(&app.search(&body).await).is_empty();
        }
        finders.push((viewer, found[0], found[1]));
    }
    finders
}

#[tokio::test]
async fn what_is_for_friends_is_found_by_friends_alone_by_meaning_and_by_words() {
    let (_provider, app) = remote(|_| {}).await;
    let id = app.save(&json!({ "user_id": user(1), "description": "lighthouse", "visibility": "friends" })).await;
    app.embedding_is(id, "ready").await;
    let path = format!("/api/users/{}/following/{}", user(2), user(1));
    app.put(&path, Some(user(2)), &json!({})).await.data(200);
    let friends = [(1, true, true), (2, true, true), (3, false, false)];
    assert_eq!(finders(&app, "lighthouse").await, friends);
    edit(&app, id, json!({ "visibility": "public" })).await;
    assert_eq!(finders(&app, "lighthouse").await, friends.map(|(viewer, ..)| (viewer, true, true)));
    edit(&app, id, json!({ "visibility": "friends" })).await;
    app.delete(&path, Some(user(2))).await.data(200);
    assert_eq!(finders(&app, "lighthouse").await, [(1, true, true), (2, false, false), (3, false, false)]);
    app.delete(&format!("/api/recommendations/{id}"), Some(user(1))).await.data(200);
    assert!(finders(&app, "lighthouse").await.iter().all(|(_, meaning, words)| !meaning && !words));
    app.stop().await;
}

#[tokio::test]
async fn what_others_keep_for_friends_crowds_nobodys_results_out() {
    let (_provider, app) = remote(|_| {}).await;
    // More than a leg looks at, all of them as near and with the same words.
    for _ in 0..60 {
        app.save(&json!({ "user_id": user(1), "description": "lighthouse", "visibility": "friends" })).await;
    }
    let public = ready(&app, "lighthouse").await;
    app.drained().await;
    for mut body in [in_mode(&composed("lighthouse"), "semantic"), in_mode("lighthouse", "keyword")] {
        body["user_id"] = json!(user(3));
        assert_eq!(found_ids(&app.search(&body).await), [public], "{}", body["mode"]);
    }
    app.stop().await;
}

#[tokio::test]
async fn some_of_the_words_are_better_than_nothing() {
    let (_provider, app) = remote(|_| {}).await;
    let id = ready(&app, "a lighthouse at dusk").await;
    assert_eq!(found_ids(&app.search(&asked("lighthouse submarine")).await), [id]);
    app.stop().await;
}
