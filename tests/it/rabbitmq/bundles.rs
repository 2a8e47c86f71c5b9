//! Several tasks in one message: seen from the server, and by workers that die of one of them.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::options::BasicRejectOptions;
use lapin::types::AMQPValue;
use mapx_embeddings::broker::rabbitmq::RabbitBroker;
use mapx_embeddings::broker::topology::Topology;
use mapx_embeddings::broker::{Broker, Consumer, Delivery, Depths};
use mapx_embeddings::domain::priority::Priority;
use tokio::time::timeout;

use super::{ladder, rabbit, raw, to_lane};
use crate::support::app::{PATIENCE, eventually};
use crate::support::rabbit::Vhost;

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
    assert_eq!(broker.depths().await.expect("available").ready, [0, 12, 0]);

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
    assert!(again.iter().all(|delivery| delivery.redelivered));
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
        let others = drain(&mut quick).await;
        assert!(sent_ahead() > PREFETCH, "{}: it has never seen anything else", sent_ahead());
        assert_eq!(drain(&mut slow).await + others, TASKS);

        publish(&busy, 0..TASKS).await;
        let others = drain(&mut quick).await;
        assert!((1..PREFETCH + BUNDLE).contains(&sent_ahead()), "{}", sent_ahead());
        assert_eq!(drain(&mut slow).await + others, TASKS);

        drop(quick);
        for n in (0..400).step_by(40) {
            publish(&busy, n..n + 40).await;
            assert_eq!(drain(&mut slow).await, 40);
        }
        quick = busy.consume(PREFETCH).await.expect("subscribed");
    }
    drop((slow, quick));
    busy.close().await;
    idle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_bundle_that_ends_its_workers_only_the_poison_dies() {
    let vhost = Vhost::new().await;
    let broker = broker(&vhost).await;
    publish(&broker, 0..64).await;
    let mut done = HashSet::new();
    let mut consumer = broker.consume(BUNDLE).await.expect("subscribed");
    let (started, at_the_end) = (Instant::now(), Depths { dead: 1, ..Depths::default() });
    while broker.depths().await.expect("available") != at_the_end {
        assert!(started.elapsed() < PATIENCE, "{:?}", broker.depths().await);
        let Ok(batch) = timeout(QUIET, consumer.receive(BUNDLE)).await else { continue };
        let batch = batch.expect("available");
        // What ends a worker takes along all that is in its hands.
        if !ids(&batch).contains(&"3") {
            done.extend(ids(&batch).into_iter().map(str::to_owned));
            batch.into_iter().for_each(Delivery::ack);
        }
    }
    let mut notices = broker.consume_dead_letters(10).await.expect("subscribed");
    assert_eq!(ids(&receive(&mut notices, 1).await), ["3"]);
    assert_eq!(done, numbers(0..64).into_iter().filter(|id| id != "3").collect());
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
