//! How many requests there are at once, and that nobody waits for another's endpoint.

use serde_json::json;

use super::receiver::{Receiver, Reply};
use super::{READY, at, deliveries, register, service, webhook};
use crate::support::app::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_never_answers_has_four_requests_at_most_and_holds_up_nobody_else() {
    let (_provider, app, slow) = service(|settings| {
        settings.webhook.max_concurrent = 6;
        settings.webhook.timeout_ms = 20_000;
    })
    .await;
    let quick = Receiver::start().await;
    slow.always(Reply::Hold(200));
    let hook = register(&app, &slow, json!({ "events": [READY] })).await;
    register(&app, &quick, json!({ "events": [READY] })).await;
    for n in 0..20 {
        app.save_text(&format!("place number {n}")).await;
    }
    quick.has(20).await;
    slow.has(4).await;
    assert_eq!((slow.received().len(), slow.most_at_once()), (4, 4));
    let states: Vec<_> = deliveries(&app, hook.id).await.iter().map(|one| one["state"].clone()).collect();
    assert_eq!(states.iter().filter(|state| *state == "published").count(), 4);
    assert_eq!(states.iter().filter(|state| *state == "pending").count(), 16);
    slow.release();
    slow.has(20).await;
    assert_eq!(slow.most_at_once(), 4);
    let ids: std::collections::HashSet<_> = slow.received().iter().map(|request| request.id().to_owned()).collect();
    assert_eq!((slow.received().len(), ids.len()), (20, 20));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_worker_sends_nothing_more_until_it_works_again() {
    let (_provider, app, receiver) = service(|settings| settings.webhook.timeout_ms = 20_000).await;
    let hook = register(&app, &receiver, json!({})).await;
    receiver.next(Reply::Hold(200));
    app.post(&at(format!("{}/test", hook.id)), &json!({})).await.data(202);
    receiver.has(1).await;
    let worker = app.queue().await["workers"][0]["id"].as_str().expect("it has told of itself").to_owned();
    let drain = format!("/api/recommendations/embedding-queue/workers/{worker}");
    app.post(&format!("{drain}/drain"), &json!({})).await.data(200);
    let state = async || app.queue().await["workers"][0]["state"].clone();
    eventually("it drains", async || (state().await == "draining").then_some(())).await;
    app.post(&at(format!("{}/test", hook.id)), &json!({})).await.data(202);
    // What it holds is finished first.
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert_eq!((state().await, receiver.received().len()), (json!("draining"), 1));
    receiver.release();
    eventually("it is drained", async || (state().await == "drained").then_some(())).await;
    assert_eq!(receiver.received().len(), 1);
    app.post(&format!("{drain}/undrain"), &json!({})).await.data(200);
    receiver.has(2).await;
    assert_eq!(webhook(&app, hook.id).await["failing_since"], json!(null));
    app.stop().await;
}
