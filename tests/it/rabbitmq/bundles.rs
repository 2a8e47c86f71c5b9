//! Several tasks in one message: seen from the server, and by workers that die of one of them.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::options::BasicRejectOptions;
use lapin::types::AMQPValue;
use mapx_embeddings::broker::rabbitmq::RabbitBroker;
use mapx_embeddings::broker::topology::{DELIVERY_LIMIT, DELIVERY_LIMIT_REASON, Topology};
use mapx_embeddings::broker::{Broker, Consumer, Delivery, Depths};
use mapx_embeddings::domain::priority::Priority;
use mapx_embeddings::domain::task::{EmbedTask, Target};
use reqwest::Method;
use serde_json::json;
use tokio::time::timeout;

use super::connections::close_all;
use super::{dead_letters_are, ladder, rabbit, raw, service, to_lane};
use crate::promises;
use crate::support::app::{PATIENCE, TestApp, eventually};
use crate::support::provider::{Behaviour, FakeProvider};
use crate::support::rabbit::{Raw, Vhost};

const BUNDLE: usize = 8;
/// How long nothing more must come.
const QUIET: Duration = Duration::from_millis(300);

/// A process's broker, once the server can be asked.
async fn broker(vhost: &Vhost) -> Arc<RabbitBroker> {
    let topology = Topology::new("mapx", &ladder());
    let broker = RabbitBroker::new(rabbit::server(&vhost.url()), "", topology, "test", "localhost");
    let broker = Arc::new(broker.expect("no certificates are needed").bundling(BUNDLE));
    eventually("the server can be asked", async || broker.depths().await.ok()).await;
    broker
}

/// Hands so many over at once, as a relay does.
async fn publish(broker: &RabbitBroker, numbers: Range<usize>) {
    let mut outgoing: Vec<_> = numbers.map(|n| to_lane(Priority::Normal, n)).collect();
    let at = outgoing[0].message.published_at;
    outgoing.iter_mut().for_each(|one| one.message.published_at = at);
    let answers = broker.publish(outgoing).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

async fn receive(consumer: &mut Box<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        let more = timeout(PATIENCE, consumer.receive(count - deliveries.len())).await;
        deliveries.extend(more.unwrap_or_else(|_| panic!("only {}", deliveries.len())).expect("available"));
    }
    deliveries
}

/// Takes and acks so many, a few at a time.
async fn take(consumer: &mut Box<dyn Consumer>, count: usize) {
    for taken in (0..count).step_by(BUNDLE) {
        receive(consumer, BUNDLE.min(count - taken)).await.into_iter().for_each(Delivery::ack);
    }
}

/// Takes and acks until others hold the rest of so many.
async fn drain_all_but(held: impl Fn() -> usize, consumer: &mut Box<dyn Consumer>, tasks: usize) -> usize {
    let (started, mut count) = (Instant::now(), 0);
    while count + held() < tasks {
        assert!(started.elapsed() < PATIENCE, "{count} and {} of {tasks}", held());
        count += drain(consumer).await;
    }
    count
}

/// All that comes until there is nothing for a while, acked.
async fn drain(consumer: &mut Box<dyn Consumer>) -> usize {
    let mut count = 0;
    while let Ok(more) = timeout(QUIET, consumer.receive(1_000)).await {
        let more = more.expect("available");
        count += more.len();
        more.into_iter().for_each(Delivery::ack);
    }
    count
}

fn ids(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|delivery| delivery.message.id.as_str()).collect()
}

fn numbers(range: Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

async fn depths_are(broker: &RabbitBroker, expected: Depths) {
    eventually("the depths are as told", async || (broker.depths().await.ok()? == expected).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_travel_together_and_few_alone() {
    let vhost = Vhost::new().await;
    let (broker, raw) = (broker(&vhost).await, raw(&vhost).await);
    publish(&broker, 0..67).await;
    assert_eq!(broker.depths().await.expect("available").ready, [0, 9, 0]);
    let first = raw.get("mapx.tasks.normal").await.expect("a message");
    let said = String::from_utf8_lossy(&first.data).into_owned();
    assert!(said.starts_with(r#"[["0",{}],["1",{}],"#) && said.ends_with(r#",["7",{}]]"#), "{said}");
    assert_eq!(first.properties.message_id().as_ref().map(|id| id.as_str()), Some("0 +7"));
    let headers = first.properties.headers().clone().expect("headers");
    assert_eq!(headers.inner().get("mapx-tasks"), Some(&AMQPValue::LongLongInt(8)));
    first.reject(BasicRejectOptions { requeue: true }).await.expect("returned");
    publish(&broker, 67..70).await;
    depths_are(&broker, Depths { ready: [0, 12, 0], ..Depths::default() }).await;

    let mut consumer = broker.consume(100).await.expect("subscribed");
    let all = receive(&mut consumer, 70).await;
    assert_eq!(ids(&all), numbers(0..70));
    assert!(all.iter().all(|delivery| delivery.message.body == b"{}"));
    assert_eq!(broker.in_hand()[1].deliveries, 70);
    all.into_iter().for_each(Delivery::ack);
    depths_are(&broker, Depths::default()).await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_stays_until_its_last_task_is_done_and_comes_back_whole() {
    let vhost = Vhost::new().await;
    let broker = broker(&vhost).await;
    publish(&broker, 0..64).await;
    let mut consumer = broker.consume(100).await.expect("subscribed");
    let mut all = receive(&mut consumer, 64).await;
    let kept = all.remove(3);
    all.into_iter().for_each(Delivery::ack);
    // Nothing comes while one of them is in hand.
    assert_eq!(drain(&mut consumer).await, 0);
    drop(kept);
    let again = receive(&mut consumer, 8).await;
    assert_eq!(ids(&again), numbers(0..8));
    assert!(again.iter().all(|delivery| delivery.returns > 0));
    again.into_iter().for_each(Delivery::ack);
    assert_eq!(drain(&mut consumer).await, 0);
    depths_are(&broker, Depths::default()).await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_has_seen_a_bundle_is_sent_no_more_than_it_may_hold_tasks() {
    const PREFETCH: usize = 80;
    const TASKS: usize = 3_200;
    let vhost = Vhost::new().await;
    let (idle, busy) = (broker(&vhost).await, broker(&vhost).await);
    let mut slow = idle.consume(PREFETCH).await.expect("subscribed");
    let mut quick = busy.consume(PREFETCH).await.expect("subscribed");
    let sent_ahead = || idle.in_hand()[1].deliveries as usize;
    // The second time, it has seen so many that come alone that it is sent as many as it may hold tasks.
    for _ in 0..2 {
        publish(&busy, 0..TASKS).await;
        let others = drain_all_but(sent_ahead, &mut quick, TASKS).await;
        assert!(sent_ahead() > PREFETCH, "{}: it has never seen anything else", sent_ahead());
        take(&mut slow, TASKS - others).await;

        // Once it knows them, what it holds is near to what it may.
        for known in [false, true] {
            publish(&busy, 0..TASKS).await;
            let others = drain_all_but(sent_ahead, &mut quick, TASKS).await;
            assert!(!known || (1..=2 * PREFETCH).contains(&sent_ahead()), "{}", sent_ahead());
            take(&mut slow, TASKS - others).await;
        }

        drop(quick);
        for n in (0..400).step_by(40) {
            publish(&busy, n..n + 40).await;
            take(&mut slow, 40).await;
        }
        quick = busy.consume(PREFETCH).await.expect("subscribed");
    }
    drop((slow, quick));
    busy.close().await;
    idle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_that_always_comes_back_is_told_task_by_task() {
    let vhost = Vhost::new().await;
    let broker = broker(&vhost).await;
    publish(&broker, 0..64).await;
    let mut consumer = broker.consume(64).await.expect("subscribed");
    let (started, at_the_end) = (Instant::now(), Depths { dead: 1, ..Depths::default() });
    while broker.depths().await.expect("available") != at_the_end {
        assert!(started.elapsed() < PATIENCE, "{:?}", broker.depths().await);
        let Ok(batch) = timeout(QUIET, consumer.receive(64)).await else { continue };
        for delivery in batch.expect("available") {
            if delivery.message.id != "3" {
                delivery.ack();
            }
        }
    }
    let mut notices = broker.consume_dead_letters(10).await.expect("subscribed");
    let told = receive(&mut notices, 8).await;
    assert_eq!(ids(&told), numbers(0..8));
    let reasons = told.iter().map(|notice| notice.death.as_ref().map(|death| death.reason.as_str()));
    assert!(reasons.into_iter().all(|reason| reason == Some(DELIVERY_LIMIT_REASON)));
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_bundle_is_told_and_removed_task_by_task() {
    let vhost = Vhost::new().await;
    let (broker, raw) = (broker(&vhost).await, raw(&vhost).await);
    let body = br#"[["a",{}],["b",{}],["c",{}]]"#;
    raw.publish("mapx.dead", "low", body, BasicProperties::default()).await;
    let mut notices = broker.consume_dead_letters(10).await.expect("subscribed");
    let told = receive(&mut notices, 3).await;
    assert_eq!(ids(&told), ["a", "b", "c"]);
    told.into_iter().for_each(Delivery::ack);

    let mut review = broker.review_dead_letters(10).await.expect("subscribed");
    let letters = receive(&mut review, 3).await;
    assert_eq!(ids(&letters), ["a", "b", "c"]);
    assert!(letters.iter().all(|letter| letter.lane == Priority::Low));
    for letter in letters {
        if letter.message.id == "b" {
            letter.ack();
        }
    }
    drop(review);
    eventually("two are left", async || (broker.depths().await.ok()?.dead == 2).then_some(())).await;
    let mut review = broker.review_dead_letters(10).await.expect("subscribed");
    assert_eq!(ids(&receive(&mut review, 2).await), ["a", "c"]);
    broker.close().await;
}

const PATH: &str = "/api/recommendations/embedding-queue";
const LANE: &str = "mapx.tasks.normal";

async fn status_of(app: &TestApp, id: i64) -> String {
    app.embedding(id).await["status"].as_str().unwrap_or_default().to_owned()
}

/// One call at a time with one text, and an hour before a retry.
async fn patient_service(vhost: &Vhost) -> (FakeProvider, TestApp) {
    service(vhost, |settings| {
        promises::one_by_one(settings);
        settings.queue.retry_delay_ms = 3_600_000;
    })
    .await
}

/// Has the normal lane left alone by the worker, which has begun to take from it.
async fn pause(app: &TestApp, raw: &Raw) {
    eventually("it is taken from", async || (raw.consumers(LANE).await == 1).then_some(())).await;
    app.post(&format!("{PATH}/pause"), &json!({ "lane": "normal" })).await.data(200);
    eventually("nobody takes from it", async || (raw.consumers(LANE).await == 0).then_some(())).await;
}

/// Puts the tasks of these rows into the lane as one message, in the place of those that are there.
async fn bundle(raw: &Raw, there: u32, rows: &[i64]) {
    eventually("they wait", async || (raw.ready(LANE).await == there).then_some(())).await;
    raw.purge(LANE).await;
    let part = |id: &i64| {
        let task = EmbedTask { recommendation_id: *id, content_version: 1, target: Target::Current };
        format!("[\"{task}\",{}]", String::from_utf8_lossy(&task.encode()))
    };
    let body = format!("[{}]", rows.iter().map(part).collect::<Vec<_>>().join(","));
    raw.publish("mapx.tasks", "normal", body.as_bytes(), BasicProperties::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_is_not_tried_again_as_its_bundle_comes_back() {
    let vhost = Vhost::new().await;
    let (provider, app) = patient_service(&vhost).await;
    let raw = raw(&vhost).await;
    provider.when_contains("flaky", Behaviour::status(500, "not now"));
    provider.when_contains("poison", Behaviour::status(400, r#"{"error": {"message": "not this one"}}"#));
    provider.when_contains("slow", Behaviour::Hold);
    pause(&app, &raw).await;
    let mut rows = Vec::new();
    for text in ["flaky", "poison", "slow"] {
        rows.push(app.save_text(text).await);
    }
    bundle(&raw, 3, &rows).await;
    app.post(&format!("{PATH}/resume"), &json!({ "lane": "normal" })).await.data(200);
    let [flaky, poison, slow] = rows[..] else { panic!("three") };
    eventually("the third is under way", async || {
        let others = (status_of(&app, flaky).await, status_of(&app, poison).await);
        (others == ("retrying".into(), "failed".into()) && provider.running() == 1).then_some(())
    })
    .await;

    // The bundle comes again, with what has failed.
    drop(raw);
    eventually("its connection is closed", async || (close_all(&vhost).await >= 2).then_some(())).await;
    provider.release();
    app.embedding_is(slow, "ready").await;
    eventually("the bundle has come again and is done with", async || {
        let (_, queue) = rabbit::api(Method::GET, &format!("/queues/{}/{LANE}", vhost.name), None).await;
        let again = queue["message_stats"]["redeliver"].as_u64() >= Some(1);
        (again && queue["consumers"] == 1 && queue["messages"] == 0).then_some(())
    })
    .await;
    for (id, word, status) in [(flaky, "flaky", "retrying"), (poison, "poison", "failed")] {
        let asked = provider.inputs().iter().filter(|input| input.contains(word)).count();
        let state = app.embedding(id).await;
        assert_eq!((asked, &state["attempts"], &state["status"]), (1, &json!(1), &json!(status)), "{word}");
    }
    assert_eq!(super::raw(&vhost).await.ready("mapx.dead").await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_that_dies_takes_nobody_along_who_waits_for_a_retry() {
    let vhost = Vhost::new().await;
    let (provider, app) = patient_service(&vhost).await;
    let raw = raw(&vhost).await;
    provider.when_contains("flaky", Behaviour::status(500, "not now"));
    let flaky = app.save_text("flaky").await;
    app.embedding_is(flaky, "retrying").await;
    pause(&app, &raw).await;
    let others = [app.save_text("second").await, app.save_text("third").await];
    bundle(&raw, 2, &[flaky, others[0], others[1]]).await;
    // As workers would that die of it.
    for _ in 0..=DELIVERY_LIMIT {
        let taken = eventually("it is in its lane", async || raw.get(LANE).await).await;
        taken.reject(BasicRejectOptions { requeue: true }).await.expect("returned");
    }
    for id in others {
        let failed = app.embedding_is(id, "failed").await;
        assert_eq!(failed["last_error"], json!(DELIVERY_LIMIT_REASON));
    }
    let state = app.embedding(flaky).await;
    assert_eq!((&state["status"], &state["attempts"]), (&json!("retrying"), &json!(1)), "{state}");
    dead_letters_are(&raw, 1).await;

    // One of its letters goes, the other stays, and that of the third was never one.
    app.post(&format!("{PATH}/resume"), &json!({ "lane": "normal" })).await.data(200);
    let replay = json!({ "ids": [others[0]] });
    assert_eq!(app.post(&format!("{PATH}/dead-letters/replay"), &replay).await.data(200)["count"], 1);
    app.embedding_is(others[0], "ready").await;
    eventually("the letters follow", async || {
        let letter = raw.get("mapx.dead").await?;
        let alone = String::from_utf8_lossy(&letter.data).contains(&format!("\"recommendation_id\":{}", others[1]));
        let alone = alone && letter.data.first() == Some(&b'{');
        letter.reject(BasicRejectOptions { requeue: true }).await.expect("returned");
        (alone && raw.ready("mapx.dead").await == 1).then_some(())
    })
    .await;
    assert_eq!(status_of(&app, flaky).await, "retrying");
    app.stop().await;
}
