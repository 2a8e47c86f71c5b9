//! What becomes of a delivery that isn't taken.

use std::time::Duration;

use serde_json::json;

use super::receiver::Reply;
use super::verifier::verdict;
use super::{READY, at, audit, deliveries, newest_is, patch, register, service, webhook};
use crate::support::app::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_tried_again_with_the_same_id_and_body_after_the_waits_of_the_schedule() {
    let (_provider, app, receiver) = service(|settings| settings.webhook.retry_schedule_ms = vec![300, 600]).await;
    let hook = register(&app, &receiver, json!({ "events": [READY] })).await;
    receiver.next(Reply::Text(503, "not now".into()));
    receiver.next(Reply::Status(404));
    app.save_text("somewhere quiet").await;
    let told = receiver.has(3).await;
    assert!(told.iter().all(|request| request.id() == told[0].id() && request.body == told[0].body));
    for request in &told {
        assert_eq!(verdict(&hook.secret, request).await, "ok");
    }
    let waited = |n: usize| told[n].at.duration_since(told[n - 1].at);
    assert!(waited(1) >= Duration::from_millis(300) && waited(2) >= Duration::from_millis(600), "{told:?}");
    let delivery = newest_is(&app, hook.id, "delivered").await;
    let history: Vec<_> =
        delivery["history"].as_array().unwrap().iter().map(|a| (&a["attempt"], &a["status"])).collect();
    assert_eq!(history, [(&json!(1), &json!(503)), (&json!(2), &json!(404)), (&json!(3), &json!(200))]);
    assert_eq!(delivery["history"][0]["response"], "not now");
    assert_eq!(webhook(&app, hook.id).await["failing_since"], json!(null));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_waits_the_log_says_until_when() {
    let (_provider, app, receiver) = service(|settings| settings.webhook.retry_schedule_ms = vec![3_600_000]).await;
    let hook = register(&app, &receiver, json!({})).await;
    receiver.next(Reply::Status(500));
    app.save_text("somewhere quiet").await;
    let delivery = newest_is(&app, hook.id, "retrying").await;
    let next =
        delivery["next_attempt_at"].as_str().expect("a moment").parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let minutes = (next - chrono::Utc::now()).num_minutes();
    assert!((58..=66).contains(&minutes), "{minutes}");
    assert!(webhook(&app, hook.id).await["failing_since"].is_string());
    // It hasn't ended: nothing to deliver once more.
    let path = at(format!("{}/deliveries/{}/redeliver", hook.id, delivery["id"]));
    assert!(app.post(&path, &json!({})).await.refusal(409).contains("is retrying"));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_last_wait_it_has_failed_until_somebody_delivers_it_once_more() {
    let (_provider, app, receiver) = service(|_| {}).await;
    let hook = register(&app, &receiver, json!({})).await;
    receiver.always(Reply::Status(500));
    app.save_text("somewhere quiet").await;
    let delivery = newest_is(&app, hook.id, "failed").await;
    assert_eq!((&delivery["attempts"], &delivery["next_attempt_at"]), (&json!(3), &json!(null)));
    assert_eq!(receiver.received().len(), 3);
    receiver.always(Reply::Status(204));
    let path = at(format!("{}/deliveries/{}/redeliver", hook.id, delivery["id"]));
    app.post(&path, &json!({})).await.data(202);
    let delivery = newest_is(&app, hook.id, "delivered").await;
    assert_eq!(delivery["attempts"], 4);
    let told = receiver.received();
    assert_eq!((told.len(), told[3].id()), (4, told[0].id()));
    // What was delivered can be delivered once more, too, and has all its retries again.
    receiver.next(Reply::Status(500));
    receiver.next(Reply::Status(500));
    app.post(&path, &json!({})).await.data(202);
    receiver.has(7).await;
    newest_is(&app, hook.id, "delivered").await;
    let actions: Vec<_> = audit(&app).await.iter().map(|line| line["action"].clone()).collect();
    assert_eq!(actions, ["webhook.redeliver", "webhook.redeliver", "webhook.create"]);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_gone_is_disabled_at_once() {
    let (_provider, app, receiver) = service(|_| {}).await;
    let hook = register(&app, &receiver, json!({})).await;
    receiver.next(Reply::Status(410));
    app.save_text("somewhere quiet").await;
    newest_is(&app, hook.id, "failed").await;
    let told = webhook(&app, hook.id).await;
    assert_eq!(
        (&told["enabled"], &told["disabled_reason"]),
        (&json!(false), &json!("the receiver answered 410 Gone"))
    );
    let line = audit(&app).await.remove(0);
    assert_eq!(
        (&line["who"], &line["action"], &line["filter"]["webhook"]),
        (&json!("service"), &json!("webhook.disable"), &json!(hook.id))
    );
    assert!(app.post(&at(format!("{}/test", hook.id)), &json!({})).await.refusal(409).contains("is disabled"));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_old_address_answers_late_says_nothing_of_the_new_one() {
    for (status, state) in [(410, "failed"), (500, "retrying")] {
        let (_provider, app, receiver) =
            service(|settings| settings.webhook.retry_schedule_ms = vec![3_600_000]).await;
        let hook = register(&app, &receiver, json!({})).await;
        receiver.next(Reply::Hold(status));
        app.save_text("somewhere quiet").await;
        receiver.has(1).await;
        patch(&app, hook.id, json!({ "url": receiver.url("/new") })).await;
        receiver.release();
        newest_is(&app, hook.id, state).await;
        let told = webhook(&app, hook.id).await;
        assert_eq!((&told["enabled"], &told["failing_since"]), (&json!(true), &json!(null)), "{told}");
        app.save_text("somewhere else").await;
        assert_eq!(receiver.has(2).await[1].path, "/new");
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_does_nothing_but_fail_is_disabled_in_the_end_and_can_be_enabled_again() {
    let (_provider, app, receiver) = service(|settings| {
        settings.webhook.retry_schedule_ms = vec![100; 40];
        settings.webhook.disable_after_ms = 1_000;
    })
    .await;
    let hook = register(&app, &receiver, json!({})).await;
    receiver.always(Reply::Status(500));
    app.save_text("somewhere quiet").await;
    let told = eventually("it is disabled", async || {
        let told = webhook(&app, hook.id).await;
        (told["enabled"] == false).then_some(told)
    })
    .await;
    assert_eq!(told["disabled_reason"], "nothing but failures for 1 s; the last one: status 500");
    let since =
        |field: &str| told[field].as_str().expect("a moment").parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert!(since("disabled_at") - since("failing_since") >= chrono::Duration::milliseconds(1_000));
    // It is told nothing of what happens now; what it was to be told waits.
    let before = receiver.received().len();
    let id = app.save_text("somewhere loud").await;
    app.embedding_is(id, "ready").await;
    assert_eq!(deliveries(&app, hook.id).await.len(), 1);
    receiver.always(Reply::Status(200));
    let told = patch(&app, hook.id, json!({ "enabled": true })).await;
    assert_eq!(
        (&told["enabled"], &told["disabled_reason"], &told["failing_since"]),
        (&json!(true), &json!(null), &json!(null))
    );
    newest_is(&app, hook.id, "delivered").await;
    assert_eq!(receiver.received().len(), before + 1);
    let actions: Vec<_> = audit(&app).await.iter().map(|line| line["action"].clone()).collect();
    assert_eq!(actions, ["webhook.enable", "webhook.disable", "webhook.create"]);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_success_in_between_begins_the_days_of_failure_anew() {
    let (_provider, app, receiver) = service(|settings| {
        settings.webhook.retry_schedule_ms = vec![300; 10];
        settings.webhook.disable_after_ms = 500;
    })
    .await;
    let hook = register(&app, &receiver, json!({})).await;
    for n in 1..=3 {
        receiver.next(Reply::Status(500));
        app.save_text(&format!("somewhere quiet {n}")).await;
        receiver.has(2 * n).await;
        newest_is(&app, hook.id, "delivered").await;
    }
    assert_eq!(receiver.received().len(), 6);
    assert_eq!(webhook(&app, hook.id).await["enabled"], true);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_answers_late_or_much_or_not_at_all_has_an_entry_that_says_so() {
    let (_provider, app, receiver) = service(|settings| {
        settings.webhook.timeout_ms = 300;
        settings.webhook.retry_schedule_ms = vec![];
    })
    .await;
    let hook = register(&app, &receiver, json!({})).await;
    receiver.next(Reply::Hold(200));
    app.save_text("somewhere slow").await;
    let late = newest_is(&app, hook.id, "failed").await["history"][0].clone();
    assert!(late["status"].is_null() && late["error"].as_str().is_some_and(|e| e.contains("timed out")), "{late}");
    assert!(late["duration_ms"].as_i64().is_some_and(|ms| (290..2_000).contains(&ms)), "{late}");
    receiver.next(Reply::Text(200, "ä".repeat(100_000)));
    app.save_text("somewhere chatty").await;
    let much = newest_is(&app, hook.id, "delivered").await["history"][0].clone();
    assert!(much["response"].as_str().is_some_and(|text| text.len() <= 1_030), "{much}");
    drop(receiver);
    app.save_text("somewhere closed").await;
    eventually("it is in the log", async || (deliveries(&app, hook.id).await.len() == 3).then_some(())).await;
    let none = newest_is(&app, hook.id, "failed").await["history"][0].clone();
    assert!(none["status"].is_null() && none["error"].as_str().is_some_and(|e| e.contains("onnect")), "{none}");
    app.stop().await;
}
