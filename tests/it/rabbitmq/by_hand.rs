//! What a person does in the management UI: publishes anything, moves dead letters back.

use lapin::BasicProperties;
use lapin::options::{BasicAckOptions, BasicRejectOptions};
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use mapx_embeddings::broker::topology::DELIVERY_LIMIT;
use serde_json::json;

use super::{dead_letters_are, raw, service, slow_service};
use crate::promises::{assert_stored, plug};
use crate::support::app::{TestApp, eventually};
use crate::support::provider::Behaviour;
use crate::support::rabbit::{Raw, Vhost};
use crate::support::stored;

/// What a worker that asks one by one holds: the text of its call, and two sent ahead.
const PREFETCH: i64 = 3;

fn headers(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert(key.into(), value);
    }
    table
}

/// Our headers with values of every wrong kind.
fn nonsense() -> Vec<BasicProperties> {
    let kinds = || {
        vec![
            AMQPValue::LongString("many".into()),
            AMQPValue::LongString(vec![0xff, 0xfe].into()),
            AMQPValue::LongLongInt(i64::MIN),
            AMQPValue::LongLongInt(i64::MAX),
            AMQPValue::Boolean(true),
            AMQPValue::Double(1.5),
            AMQPValue::Timestamp(u64::MAX),
            AMQPValue::FieldArray(FieldArray::default()),
            AMQPValue::FieldTable(FieldTable::default()),
            AMQPValue::Void,
        ]
    };
    let ours = ["mapx-attempt", "mapx-published-at", "mapx-due-at", "x-death"];
    let all = ours.into_iter().flat_map(|key| kinds().into_iter().map(move |value| headers([(key, value)])));
    all.map(|headers| BasicProperties::default().with_headers(headers)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_task_ends_in_the_dead_letters_with_its_reason_and_stops_nobody() {
    let vhost = Vhost::new().await;
    let (_provider, app) = service(&vhost, |_| {}).await;
    let raw = raw(&vhost).await;
    let first = app.save_text("before").await;
    app.embedding_is(first, "ready").await;
    let bodies: [&[u8]; 9] = [
        b"",
        b"hello",
        b"\xff\xfe",
        b"{}",
        b"[1, 2]",
        b"[]",
        br#"[["7:current:v1", {"v":1,"type":"embed"}]]"#,
        br#"{"v":2,"type":"embed"}"#,
        br#"{"v":1,"type":"embed","recommendation_id":"seven","content_version":1,"target":"current"}"#,
    ];
    for body in bodies {
        raw.publish("mapx.tasks", "high", body, BasicProperties::default()).await;
    }
    let huge = headers([("anything", AMQPValue::LongString("x".repeat(100_000).into()))]);
    raw.publish("", "mapx.tasks.low", b"huge", BasicProperties::default().with_headers(huge)).await;
    let wrong = nonsense();
    let unreadable = bodies.len() + 1 + wrong.len();
    for properties in wrong {
        raw.publish("mapx.tasks", "normal", b"nonsense", properties).await;
    }
    // A task of a row that never was is nobody's any more.
    let gone = br#"{"v":1,"type":"embed","recommendation_id":987654321,"content_version":1,"target":"current"}"#;
    raw.publish("mapx.tasks", "normal", gone, BasicProperties::default()).await;

    let dead = eventually("all are dead letters", async || {
        let dead = raw.ready("mapx.dead").await as usize;
        (dead >= unreadable).then_some(dead)
    })
    .await;
    assert_eq!(dead, unreadable);
    while let Some(letter) = raw.get("mapx.dead").await {
        let headers = letter.properties.headers().clone().unwrap_or_default();
        let said = |key: &str| match headers.inner().get(key) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            other => panic!("{key}: {other:?}"),
        };
        let (reason, lane) = (said("mapx-reason"), said("mapx-lane"));
        assert!(reason.contains("malformed message") || reason.contains("unknown message version 2"), "{reason}");
        assert!(["high", "normal", "low"].contains(&lane.as_str()), "{lane}");
    }
    let after = app.save_text("after").await;
    app.embedding_is(after, "ready").await;
    eventually("nothing is left", async || {
        let mut left = raw.ready("mapx.dead.unrecorded").await;
        for lane in ["high", "normal", "low"] {
            left += raw.ready(&format!("mapx.tasks.{lane}")).await;
        }
        (left == 0).then_some(())
    })
    .await;
    app.stop().await;
}

/// A row whose message no worker has in hand, as the only one is busy and its prefetch is full.
async fn out_of_reach(app: &TestApp, raw: &Raw) -> i64 {
    for n in 1..PREFETCH {
        app.save_text(&format!("prefetched {n}")).await;
    }
    eventually("the prefetch is full", async || {
        let handed_over = stored::handed_over(&app.data()).await == PREFETCH;
        (handed_over && raw.ready("mapx.tasks.normal").await == 0).then_some(())
    })
    .await;
    let id = app.save_text("crashes its worker").await;
    eventually("it waits in its lane", async || (raw.ready("mapx.tasks.normal").await == 1).then_some(())).await;
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_gives_up_is_recorded_and_may_be_moved_back() {
    let vhost = Vhost::new().await;
    let (provider, app) = slow_service(&vhost, 100).await;
    let raw = raw(&vhost).await;
    plug(&app, &provider).await;
    let id = out_of_reach(&app, &raw).await;
    // As workers would that die of it.
    for _ in 0..=DELIVERY_LIMIT {
        let taken = eventually("it is in its lane", async || raw.get("mapx.tasks.normal").await).await;
        taken.reject(BasicRejectOptions { requeue: true }).await.expect("returned");
    }
    let failed = app.embedding_is(id, "failed").await;
    assert_eq!(failed["last_error"], json!("delivery_limit"));
    dead_letters_are(&raw, 1).await;
    assert_eq!(app.queue().await["deadLettered"], 1);
    // The reconciler leaves it alone while everything else is done.
    provider.release();
    app.drained().await;
    dead_letters_are(&raw, 1).await;

    // "Move messages" takes it with all its properties. Its first attempt fails: it has a fresh start.
    provider.next(Behaviour::status(500, "not yet"));
    let letter = eventually("the dead letter", async || raw.get("mapx.dead").await).await;
    raw.publish("mapx.tasks", "normal", &letter.data, letter.properties.clone()).await;
    letter.ack(BasicAckOptions::default()).await.expect("moved");
    app.embedding_is(id, "ready").await;
    assert_stored(&app, id, "crashes its worker").await;
    assert_eq!(app.queue().await["deadLettered"], 0);
    assert_eq!(raw.ready("mapx.dead").await, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_gave_up_may_be_moved_back_with_a_fresh_start() {
    let vhost = Vhost::new().await;
    let (provider, app) = service(&vhost, |settings| settings.queue.max_retries = 1).await;
    let raw = raw(&vhost).await;
    provider.when_contains("poison", Behaviour::status(500, "down"));
    let id = app.save_text("poison").await;
    let failed = app.embedding_is(id, "failed").await;
    assert_eq!(failed["attempts"], 2);
    eventually("it is a dead letter", async || (raw.ready("mapx.dead").await == 1).then_some(())).await;
    provider.behave();
    provider.next(Behaviour::status(500, "not yet"));
    let letter = raw.get("mapx.dead").await.expect("the dead letter");
    raw.publish("", "mapx.tasks.normal", &letter.data, letter.properties.clone()).await;
    letter.ack(BasicAckOptions::default()).await.expect("moved");
    app.embedding_is(id, "ready").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_somebody_looks_at_during_its_replay_is_removed_all_the_same() {
    let vhost = Vhost::new().await;
    let (provider, app) = service(&vhost, |_| {}).await;
    let raw = raw(&vhost).await;
    provider.when_contains("poison", Behaviour::status(400, r#"{"error": {"message": "not this one"}}"#));
    let id = app.save_text("poison").await;
    app.embedding_is(id, "failed").await;
    let letter = eventually("it is a dead letter", async || raw.get("mapx.dead").await).await;
    provider.behave();
    let replay = "/api/recommendations/embedding-queue/dead-letters/replay";
    app.post(replay, &json!({ "ids": [id] })).await.data(200);
    // Whoever has taken one letter counts as a consumer, too.
    eventually("the letters are looked through", async || (raw.consumers("mapx.dead").await == 2).then_some(()))
        .await;
    letter.reject(BasicRejectOptions { requeue: true }).await.expect("returned");
    app.embedding_is(id, "ready").await;
    eventually("it is removed", async || {
        let looked = raw.consumers("mapx.dead").await == 0;
        (looked && raw.ready("mapx.dead").await == 0).then_some(())
    })
    .await;
    app.stop().await;
}
