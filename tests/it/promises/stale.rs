//! The vector of an older text never replaces that of a newer one.

use serde_json::Value;

use super::{assert_stored, called, composed, describe, remote};
use crate::support::app::{eventually, user};
use crate::support::provider::Behaviour;
use crate::support::stored;

#[tokio::test]
async fn a_call_that_an_edit_overtook_changes_nothing() {
    let (provider, app) = remote(|_| {}).await;
    provider.always(Behaviour::Hold);
    let id = app.save_text("old").await;
    called(&provider, 1).await;
    describe(&app, id, "new").await;
    provider.release();
    // The next call is held, so what is stored now can only be of the first.
    eventually("the new text is asked for", async || provider.inputs().contains(&composed("new")).then_some(()))
        .await;
    let queue = eventually("the first call is over", async || {
        let queue = app.queue().await;
        (provider.running() == 1 && queue["processing"] == 1).then_some(queue)
    })
    .await;
    assert_eq!(queue["queueLength"], 0);
    let row = stored::row(&app.data(), id).await.expect("the row");
    assert_eq!((row.content_version, row.embedded_version, row.embedding), (2, None, None));
    assert_eq!(app.embedding(id).await["status"], "queued");
    provider.release();
    app.embedding_is(id, "ready").await;
    assert_stored(&app, id, "new").await;
    app.stop().await;
}

#[tokio::test]
async fn a_refusal_that_an_edit_overtook_fails_nothing() {
    let (provider, app) = remote(|_| {}).await;
    provider.always(Behaviour::Hold);
    let id = app.save_text("refused").await;
    called(&provider, 1).await;
    describe(&app, id, "harmless").await;
    provider.release_as(Behaviour::status(400, "no"));
    // The new text is asked for once the old one is done with, and held.
    called(&provider, 2).await;
    let state = app.embedding(id).await;
    assert_eq!((&state["status"], &state["last_error"]), (&"queued".into(), &Value::Null));
    assert_eq!(app.queue().await["deadLettered"], 0);
    provider.release();
    app.embedding_is(id, "ready").await;
    assert_stored(&app, id, "harmless").await;
    app.stop().await;
}

#[tokio::test]
async fn a_call_that_a_deletion_overtook_brings_nothing_back() {
    let (provider, app) = remote(|_| {}).await;
    provider.next(Behaviour::Hold);
    let id = app.save_text("short lived").await;
    called(&provider, 1).await;
    app.delete(&format!("/api/recommendations/{id}"), Some(user(1))).await.data(200);
    provider.release();
    let next = app.save_text("stays").await;
    app.embedding_is(next, "ready").await;
    app.drained().await;
    assert_ne!(next, id, "an id is never used again");
    assert!(stored::row(&app.data(), id).await.is_none());
    assert_eq!(stored::tasks(&app.data(), "%").await, 0);
    app.get(&format!("/api/recommendations/{id}/embedding"), Some(user(1))).await.refusal(404);
    app.stop().await;
}

#[tokio::test]
async fn an_edit_there_and_back_during_a_call_ends_with_the_last_text() {
    let (provider, app) = remote(|_| {}).await;
    provider.always(Behaviour::Hold);
    let id = app.save_text("there").await;
    called(&provider, 1).await;
    describe(&app, id, "back").await;
    describe(&app, id, "there").await;
    provider.behave();
    provider.release();
    let state = app.embedding_is(id, "ready").await;
    assert_eq!((&state["content_version"], &state["embedded_version"]), (&3.into(), &3.into()));
    assert_stored(&app, id, "there").await;
    app.stop().await;
}

#[tokio::test]
async fn ten_quick_edits_during_a_call_cost_one_more() {
    let (provider, app) = remote(|_| {}).await;
    provider.always(Behaviour::Hold);
    let id = app.save_text("edit 0").await;
    called(&provider, 1).await;
    for n in 1..=10 {
        describe(&app, id, &format!("edit {n}")).await;
        // Each one gets as far as it can before the next: the worst case.
        app.embedding_is(id, "queued").await;
    }
    // Another row passes, so the edits had their turn.
    let other = app.save_text("another row").await;
    eventually("the other row is asked for", async || {
        provider.inputs().contains(&composed("another row")).then_some(())
    })
    .await;
    provider.behave();
    provider.release();
    app.embedding_is(id, "ready").await;
    app.embedding_is(other, "ready").await;
    assert_stored(&app, id, "edit 10").await;
    let mut inputs = provider.inputs();
    inputs.retain(|input| input.contains("edit"));
    assert_eq!(inputs, [composed("edit 0"), composed("edit 10")]);
    app.stop().await;
}
