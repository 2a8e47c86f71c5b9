//! Dead letters that are started afresh.

use chrono::Utc;
use sea_orm::{ConnectionTrait, Statement};
use serde_json::json;

use super::{Broken, dead_lettered, get, import, post, service};
use crate::support::app::{TestApp, eventually, user};
use crate::support::data::full_stack;
use crate::support::provider::Behaviour;

/// Waits until everything is embedded, and returns how many.
async fn all_ready(app: &TestApp, count: u64) {
    eventually(&format!("{count} are embedded"), async || {
        let queue = app.queue().await;
        (queue["embedded"] == count && queue["deadLettered"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_by_their_error_are_ready_and_none_is_left_with_the_broker() {
    let (provider, app, broker) = service(|settings| settings.queue.batch_size = 20).await;
    import(&app, (0..1_000).map(|n| format!("poison number {n}"))).await;
    dead_lettered(&app, 1_000).await;
    broker.dead_is(1_000).await;
    let groups = get(&app, "dead-letters/groups?error=answered%20400").await;
    assert_eq!((&groups["total"], &groups["groups"][0]["count"]), (&json!(1_000), &json!(1_000)), "{groups}");

    let none = post(&app, "dead-letters/replay", json!({ "filter": { "error": "503" } })).await;
    assert_eq!(none["count"], 0);
    provider.behave();
    let done =
        post(&app, "dead-letters/replay", json!({ "filter": { "error": "ANSWERED 400", "lane": "low" } })).await;
    assert_eq!(done["count"], 1_000);
    all_ready(&app, 1_000).await;
    broker.dead_is(0).await;
    let audit = get(&app, "audit?limit=1").await;
    let line = &audit["items"][0];
    assert_eq!(
        (&line["who"], &line["action"], &line["count"]),
        (&json!("anonymous"), &json!("replay"), &json!(1_000))
    );
    assert_eq!(line["filter"], json!({ "error": "ANSWERED 400", "lane": "low" }));
    assert!(line["finished_at"].is_string() && audit["next_cursor"].is_string(), "{audit}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_ids_only_those_are_and_with_all_attempts_before_them() {
    let (provider, app, broker) = service(|settings| settings.queue.max_retries = 1).await;
    provider.when_contains("unlucky", Behaviour::status(500, "down"));
    let (first, second) = (app.save_text("unlucky one").await, app.save_text("poison two").await);
    dead_lettered(&app, 2).await;
    provider.behave();
    provider.next(Behaviour::status(500, "once more"));
    let body = json!({ "ids": [first, 987_654_321], "priority": "high" });
    let request = app.request(reqwest::Method::POST, &super::at("dead-letters/replay")).json(&body);
    let answer = app.send(request.header("x-user-id", user(3).to_string())).await;
    assert_eq!(answer.data(200)["count"], 1);
    app.embedding_is(first, "ready").await;
    app.embedding_is(second, "failed").await;
    broker.dead_is(1).await;
    assert_eq!(get(&app, "audit").await["items"][0]["who"], user(3).to_string());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_dies_again_is_one_dead_letter() {
    let (_provider, app, broker) = service(|settings| settings.queue.reconcile_interval_ms = 300).await;
    let id = app.save_text("poison for ever").await;
    for _ in 0..2 {
        app.embedding_is(id, "failed").await;
        dead_lettered(&app, 1).await;
        assert_eq!(post(&app, "dead-letters/replay", json!({ "filter": {} })).await["count"], 1);
        dead_lettered(&app, 1).await;
    }
    broker.dead_is(1).await;
    let one = get(&app, &format!("dead-letters/{id}")).await;
    assert_eq!(one["history"].as_array().expect("attempts").len(), 1, "{one}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_its_process_left_behind_is_carried_out() {
    let (provider, app, broker) = service(|settings| settings.queue.batch_size = 20).await;
    import(&app, (0..600).map(|n| format!("poison number {n}"))).await;
    dead_lettered(&app, 600).await;
    provider.behave();
    let data = app.data();
    let conn = data.connect().await;
    let insert = "INSERT INTO embedding_audit (at, who, action, filter, count, priority, until) \
                  VALUES ($1, 'of the dead', 'replay', '{}', 0, 2, $1)";
    let insert = Statement::from_sql_and_values(conn.get_database_backend(), insert, [Utc::now().into()]);
    conn.execute_raw(insert).await.expect("written");
    conn.close().await.expect("closes");
    all_ready(&app, 600).await;
    broker.dead_is(0).await;
    let line = get(&app, "audit").await["items"][0].clone();
    assert_eq!((&line["who"], &line["count"]), (&json!("of the dead"), &json!(600)), "{line}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_or_a_deletion_takes_the_brokers_copy_along_and_what_is_no_task_stays() {
    let (_provider, app, broker) = service(|settings| settings.queue.reconcile_interval_ms = 300).await;
    let (edited, deleted) = (app.save_text("poison one").await, app.save_text("poison two").await);
    app.save_text("poison three").await;
    dead_lettered(&app, 3).await;
    broker.dead_is(3).await;
    let foreign = match &broker {
        Broken::Rabbit(raw) => {
            raw.publish("mapx.tasks", "low", b"no task", lapin::BasicProperties::default()).await;
            1
        }
        Broken::Embedded(_) => 0,
    };
    assert_eq!(foreign == 1, full_stack());
    broker.dead_is(3 + foreign).await;
    let path = |id| format!("/api/recommendations/{id}");
    app.put(&path(edited), Some(user(1)), &json!({ "description": "harmless" })).await.data(200);
    app.delete(&path(deleted), Some(user(1))).await.data(200);
    app.embedding_is(edited, "ready").await;
    broker.dead_is(1 + foreign).await;
    post(&app, "dead-letters/discard", json!({ "filter": {} })).await;
    broker.dead_is(foreign).await;
    app.stop().await;
}
