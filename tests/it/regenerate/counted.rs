//! Progress ends at exactly 100 %, whatever becomes of the rows meanwhile.

use serde_json::json;

use super::{begin, completed, fill, job, remote};
use crate::promises::{assert_stored, called, one_by_one};
use crate::support::app::{eventually, user};
use crate::support::provider::Behaviour;

#[tokio::test]
async fn what_is_edited_or_deleted_meanwhile_is_skipped() {
    let (provider, app) = remote(|settings| {
        one_by_one(settings);
        settings.regeneration.window = 4;
    })
    .await;
    let mut ids = Vec::new();
    for n in 0..12 {
        ids.push(app.save_text(&format!("text {n}")).await);
        app.embedding_is(ids[n], "ready").await;
    }
    provider.always(Behaviour::Hold);
    let calls = provider.calls().len();
    let id = begin(&app, &json!({ "scope": "all" })).await;
    called(&provider, calls + 1).await;
    // One in the window and one that the job hasn't come to; one of each deleted, too.
    for (n, text) in [(2, "edited in the window"), (10, "edited before its turn")] {
        let change = json!({ "description": text });
        app.put(&format!("/api/recommendations/{}", ids[n]), Some(user(1)), &change).await.data(200);
    }
    for n in [3, 11] {
        app.delete(&format!("/api/recommendations/{}", ids[n]), Some(user(1))).await.data(200);
    }
    provider.behave();
    provider.release();
    let job = completed(&app, id).await;
    assert_eq!(job["total"], 12);
    assert_eq!(job["failed"], 0);
    // The one that was edited before its turn is either on its way by itself, or had its turn with its new text.
    let skipped = job["skipped"].as_u64().expect("a number");
    assert!((3..=4).contains(&skipped), "{job}");
    app.drained().await;
    assert_stored(&app, ids[2], "edited in the window").await;
    assert_stored(&app, ids[10], "edited before its turn").await;
    app.stop().await;
}

#[tokio::test]
async fn what_comes_after_it_began_is_none_of_its_rows() {
    let (provider, app) = remote(|settings| settings.queue.max_concurrent = 1).await;
    fill(&app.data(), 3, 3).await;
    provider.always(Behaviour::Hold);
    let id = begin(&app, &json!({ "scope": "all" })).await;
    called(&provider, 1).await;
    let later = app.save_text("later").await;
    provider.behave();
    provider.release();
    assert_eq!(completed(&app, id).await["total"], 3);
    app.embedding_is(later, "ready").await;
    app.stop().await;
}

#[tokio::test]
async fn the_rate_and_the_time_left_are_told_while_it_runs() {
    let (provider, app) = remote(|settings| settings.queue.max_concurrent = 1).await;
    provider.always(Behaviour::Delay(std::time::Duration::from_millis(30)));
    fill(&app.data(), 300, 300).await;
    let id = begin(&app, &json!({ "scope": "all" })).await;
    let running = eventually("there is a rate", async || {
        let job = job(&app, id).await;
        assert!(job["state"] == "running", "too quick to be seen: {job}");
        (job["rate"].as_f64() > Some(0.0) && job["eta_seconds"].as_f64() > Some(0.0)).then_some(job)
    })
    .await;
    assert!(running["percent"].as_f64() < Some(100.0), "{running}");
    let done = completed(&app, id).await;
    assert_eq!((&done["rate"], &done["eta_seconds"]), (&json!(0.0), &json!(null)));
    app.stop().await;
}
