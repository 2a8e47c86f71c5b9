//! Begin, pause, resume, cancel; and what can't be.

use std::time::Duration;

use serde_json::json;

use super::{JOBS, begin, completed, fill, in_bulk, job, path_of, remote, tell, times};
use crate::promises::called;
use crate::support::app::eventually;
use crate::support::provider::Behaviour;
use crate::support::stored;

#[tokio::test]
async fn a_second_one_is_refused_by_the_name_of_the_first() {
    let (provider, app) = remote(in_bulk).await;
    provider.always(Behaviour::Hold);
    fill(&app.data(), 3, 3).await;
    let first = begin(&app, &json!({ "scope": "all" })).await;
    for body in [json!({ "scope": "all" }), json!({})] {
        let answer = app.post(JOBS, &body).await;
        assert!(answer.refusal(409).contains(&format!("regeneration {first} is running")), "{}", answer.body);
    }
    provider.behave();
    provider.release();
    completed(&app, first).await;
    let second = begin(&app, &json!({})).await;
    completed(&app, second).await;
    let jobs = app.get(JOBS, None).await.data(200).clone();
    let ids: Vec<_> = jobs.as_array().expect("jobs").iter().map(|job| job["job_id"].as_i64()).collect();
    assert_eq!(ids, [Some(second), Some(first)]);
    app.stop().await;
}

#[tokio::test]
async fn what_is_unknown_is_404_and_what_has_ended_is_409() {
    let (_provider, app) = remote(in_bulk).await;
    for what in ["cancel", "pause", "resume"] {
        tell(&app, 99, what).await.refusal(404);
    }
    app.get(&path_of(99), None).await.refusal(404);
    app.get(&format!("{JOBS}/x"), None).await.refusal(400);
    let id = begin(&app, &json!({})).await;
    // Nothing to do is done at once.
    assert_eq!(completed(&app, id).await["total"], 0);
    for what in ["cancel", "pause", "resume"] {
        assert!(tell(&app, id, what).await.refusal(409).contains("completed"));
    }
    app.stop().await;
}

#[tokio::test]
async fn a_paused_one_asks_for_nothing_and_goes_on_where_it_was() {
    let (provider, app) = remote(|settings| {
        settings.queue.max_concurrent = 1;
        settings.queue.batch_size = 2;
    })
    .await;
    fill(&app.data(), 40, 40).await;
    completed(&app, begin(&app, &json!({})).await).await;
    let before = provider.inputs().len();
    for (stop, state) in [("pause", "paused"), ("cancel", "cancelled")] {
        let calls = provider.calls().len();
        let inputs = provider.inputs().len();
        provider.always(Behaviour::Hold);
        let id = begin(&app, &json!({ "scope": "all" })).await;
        called(&provider, calls + 1).await;
        assert_eq!(tell(&app, id, stop).await.data(200)["state"], state);
        // Said twice it is still so.
        tell(&app, id, stop).await.data(200);
        provider.behave();
        provider.release();
        app.drained().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(provider.calls().len() <= calls + 1, "it asks on");
        assert_eq!(stored::tasks(&app.data(), "%").await, 0);
        assert_eq!(tell(&app, id, "resume").await.data(200)["state"], "running");
        let job = completed(&app, id).await;
        assert_eq!((&job["done"], &job["total"]), (&json!(40), &json!(40)));
        let times = times(&provider, inputs);
        assert_eq!((times.len(), times.values().sum::<usize>()), (40, 40), "{times:?}");
    }
    assert_eq!(provider.inputs().len(), before + 80);
    app.stop().await;
}

#[tokio::test]
async fn what_was_cancelled_is_not_resumed_once_another_has_begun() {
    let (provider, app) = remote(in_bulk).await;
    provider.always(Behaviour::Hold);
    fill(&app.data(), 3, 3).await;
    let first = begin(&app, &json!({ "scope": "all" })).await;
    tell(&app, first, "cancel").await.data(200);
    let second = begin(&app, &json!({ "scope": "all" })).await;
    tell(&app, first, "resume").await.refusal(409);
    tell(&app, first, "pause").await.refusal(409);
    provider.behave();
    provider.release();
    completed(&app, second).await;
    assert_eq!(job(&app, first).await["state"], "cancelled");
    app.stop().await;
}

#[tokio::test]
async fn rows_without_a_vector_keep_their_tasks_when_it_is_cancelled() {
    let (provider, app) = remote(in_bulk).await;
    provider.always(Behaviour::Hold);
    fill(&app.data(), 20, 20).await;
    let id = begin(&app, &json!({})).await;
    called(&provider, 1).await;
    tell(&app, id, "cancel").await.data(200);
    provider.behave();
    provider.release();
    eventually("all have their vectors", async || {
        stored::rows(&app.data()).await.iter().all(|row| row.embedded_version == Some(1)).then_some(())
    })
    .await;
    app.stop().await;
}
