//! Dead letters that nobody is to do anything about any more.

use serde_json::{Value, json};

use super::{dead_lettered, get, import, post, service};
use crate::promises::remote_over;
use crate::support::app::{TestApp, found_ids, user};
use crate::support::stored;

async fn discarded(app: &TestApp, id: i64) -> Value {
    let state = app.embedding_is(id, "failed").await;
    assert!(state["discarded_at"].is_string(), "{state}");
    assert!(state["last_error"].as_str().expect("a reason").contains("400"), "{state}");
    state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_are_gone_from_the_broker_for_good_and_an_edit_starts_them_afresh() {
    let (provider, app, broker) = service(|_| {}).await;
    import(&app, (0..20).map(|n| format!("poison number {n}"))).await;
    let id = app.save_text("poison with marmalade").await;
    dead_lettered(&app, 21).await;
    broker.dead_is(21).await;
    assert_eq!(post(&app, "dead-letters/discard", json!({ "filter": {} })).await["count"], 21);
    assert_eq!(post(&app, "dead-letters/replay", json!({ "filter": {} })).await["count"], 0);
    broker.dead_is(0).await;
    dead_lettered(&app, 0).await;
    assert_eq!(get(&app, "dead-letters").await["items"], json!([]));
    assert!(get(&app, &format!("dead-letters/{id}")).await["discarded_at"].is_string());
    discarded(&app, id).await;

    let data = app.data();
    app.stop().await;
    let calls = provider.calls().len();
    let app = remote_over(data, &provider, |_| {}).await;
    // It takes something to do, so that what was to be enqueued at the start would have been done before.
    let other = app.save_text("harmless").await;
    app.embedding_is(other, "ready").await;
    assert_eq!(provider.calls().len(), calls + 1);
    assert_eq!(stored::tasks(&app.data(), "dead").await, 21);
    discarded(&app, id).await;
    let found = app.search(&json!({ "query": "marmalade", "mode": "keyword" })).await;
    assert_eq!(found_ids(&found), [id]);

    let edit = json!({ "description": "harmless with marmalade" });
    app.put(&format!("/api/recommendations/{id}"), Some(user(1)), &edit).await.data(200);
    assert_eq!(app.embedding_is(id, "ready").await["discarded_at"], Value::Null);
    app.stop().await;
}

#[tokio::test]
async fn one_that_was_discarded_and_edited_and_dies_again_is_a_dead_letter_again() {
    let (_provider, app, broker) = service(|_| {}).await;
    let id = app.save_text("poison").await;
    dead_lettered(&app, 1).await;
    post(&app, "dead-letters/discard", json!({ "ids": [id] })).await;
    broker.dead_is(0).await;
    let edit = json!({ "description": "still poison" });
    app.put(&format!("/api/recommendations/{id}"), Some(user(1)), &edit).await.data(200);
    dead_lettered(&app, 1).await;
    assert_eq!(app.embedding(id).await["discarded_at"], Value::Null);
    broker.dead_is(1).await;
    app.stop().await;
}
