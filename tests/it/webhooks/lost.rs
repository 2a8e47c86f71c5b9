//! What the broker has lost, and what has been kept for long enough.

use sea_orm::{ConnectionTrait, Statement};
use serde_json::json;

use super::receiver::{Receiver, Reply};
use super::{at, deliveries, newest_is, register, service};
use crate::support::app::{eventually, install_cryptography};
use crate::support::data::TestData;
use crate::support::process::Process;
use crate::support::rabbit::Raw;

/// Does something to the database that no API does.
async fn does(data: &TestData, statement: &str) {
    let conn = data.connect().await;
    if !data.is_postgres() {
        conn.execute_unprepared("PRAGMA busy_timeout = 20000").await.expect("set");
    }
    conn.execute_unprepared(statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
    conn.close().await.expect("closes");
}

/// Rows of a table, or of those that fulfil a condition.
pub(super) async fn count(data: &TestData, table: &str) -> i64 {
    let conn = data.connect().await;
    let select = Statement::from_string(conn.get_database_backend(), format!("SELECT count(*) FROM {table}"));
    let row = conn.query_one_raw(select).await.expect("the count").expect("a row");
    conn.close().await.expect("closes");
    row.try_get_by_index(0).expect("a number")
}

const LONG_AGO: &str = "'2026-01-01 00:00:00+00:00'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_and_is_not_heard_of_is_handed_over_again() {
    let (_provider, app, receiver) = service(|settings| {
        settings.webhook.retry_schedule_ms = vec![3_600_000];
        settings.webhook.timeout_ms = 100;
        settings.queue.reconcile_interval_ms = 200;
    })
    .await;
    let hook = register(&app, &receiver, json!({})).await;
    receiver.next(Reply::Status(500));
    app.save_text("somewhere quiet").await;
    newest_is(&app, hook.id, "retrying").await;
    // As a relay leaves it that dies between the ledger and the broker.
    let claim = format!(
        "UPDATE webhook_deliveries SET state = 'published', round = round + 1, not_before = {LONG_AGO}, \
         published_at = {LONG_AGO}"
    );
    does(&app.data(), &claim).await;
    assert_eq!(newest_is(&app, hook.id, "delivered").await["attempts"], 2);
    let told = receiver.received();
    assert_eq!((told.len(), told[0].id()), (2, told[1].id()));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_forgotten_after_its_days_and_with_its_endpoint() {
    let (_provider, app, receiver) = service(|settings| {
        settings.webhook.retention_days = 1;
        settings.queue.reconcile_interval_ms = 200;
    })
    .await;
    let hook = register(&app, &receiver, json!({})).await;
    let other = register(&app, &receiver, json!({ "events": ["embedding.failed"] })).await;
    for n in 0..2 {
        app.save_text(&format!("place number {n}")).await;
        receiver.has(n + 1).await;
        newest_is(&app, hook.id, "delivered").await;
    }
    app.post(&at(format!("{}/test", other.id)), &json!({})).await.data(202);
    newest_is(&app, other.id, "delivered").await;
    eventually("both have ended", async || {
        deliveries(&app, hook.id).await.iter().all(|one| one["state"] == "delivered").then_some(())
    })
    .await;
    let oldest = deliveries(&app, hook.id).await.remove(1)["id"].as_i64().expect("an id");
    does(&app.data(), &format!("UPDATE webhook_deliveries SET updated_at = {LONG_AGO} WHERE id = {oldest}")).await;
    eventually("it is forgotten", async || (deliveries(&app, hook.id).await.len() == 1).then_some(())).await;
    app.delete(&at(hook.id), None).await.data(200);
    let data = app.data();
    eventually("so is what a deleted one was told", async || {
        let left = (count(&data, "webhook_deliveries").await, count(&data, "webhook_attempts").await);
        (left == (1, 1)).then_some(())
    })
    .await;
    assert_eq!(deliveries(&app, other.id).await.len(), 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purged_queue_costs_moments_and_a_copy_of_an_older_round_is_known_as_such() {
    install_cryptography();
    let (data, receiver) = (TestData::full().await, Receiver::start().await);
    let env = [
        ("MAPX__DATABASE__URL", data.url()),
        ("MAPX__BROKER__URL", data.vhost_url()),
        ("MAPX__WEBHOOK__ALLOW_PRIVATE", "true".to_owned()),
        ("MAPX__WEBHOOK__TIMEOUT_MS", "500".to_owned()),
        ("MAPX__QUEUE__RECONCILE_INTERVAL_MS", "500".to_owned()),
    ];
    // Nobody works yet.
    let serve = Process::start("serve", &env).await;
    let (http, raw) = (reqwest::Client::new(), Raw::open(&data.vhost_url()).await);
    let post = async |path: String, body: serde_json::Value| {
        let answer = http.post(format!("{}{path}", serve.base())).json(&body).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json::<serde_json::Value>().await.expect("JSON")["data"].clone()
    };
    let id = post("/api/webhooks".into(), json!({ "url": receiver.url("/hook") })).await["id"].clone();
    post(at(format!("{}/test", id)), json!({})).await;
    const URGENT: &str = "mapx.webhooks.tasks.high";
    let waits = async |messages: u32| {
        eventually(&format!("{messages} wait"), async || (raw.ready(URGENT).await == messages).then_some(())).await;
    };
    eventually("its queue is declared", async || raw.is_there(URGENT).await.then_some(())).await;
    waits(1).await;
    raw.purge(URGENT).await;
    waits(1).await;
    // However long it waits its turn, it is not lost: the broker has it.
    does(&data, &format!("UPDATE webhook_deliveries SET published_at = {LONG_AGO}")).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    waits(1).await;
    // Published once more all the same, beside the message that is still there.
    does(&data, "UPDATE webhook_deliveries SET state = 'pending'").await;
    waits(2).await;
    let _worker = Process::start("worker", &env).await;
    receiver.has(1).await;
    waits(0).await;
    // A second request would come as quickly as the first.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(receiver.received().len(), 1);
}
