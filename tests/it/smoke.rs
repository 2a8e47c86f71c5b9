//! The main job in one breath.

use serde_json::json;

use crate::support::app::{TestApp, found_ids};

#[tokio::test]
async fn what_is_saved_is_found_by_its_meaning() {
    let app = TestApp::start().await;
    let id = app.save_text("A calm reading room with desks and plugs").await;
    app.save_text("Loud techno until sunrise").await;
    app.embedding_is(id, "ready").await;
    app.drained().await;
    let answer = app.search(&json!({ "query": "quiet place to study" })).await;
    assert_eq!(found_ids(&answer).first(), Some(&id), "{answer}");
    app.stop().await;
}
