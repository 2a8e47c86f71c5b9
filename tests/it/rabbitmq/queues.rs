//! Queues and exchanges that are deleted under the program's feet, and the order in which lanes are served.

use std::time::{Duration, Instant};

use lapin::options::ExchangeDeleteOptions;
use lapin::types::FieldTable;
use mapx_embeddings::broker::topology::DELIVERY_LIMIT;
use mapx_embeddings::broker::{Broker, Consumer, Delivery, Depths, PublishError};
use mapx_embeddings::domain::priority::Priority;
use tokio::time::timeout;

use super::{broker, publish_one, publish_patiently, raw, to_lane};
use crate::support::app::{PATIENCE, eventually};
use crate::support::rabbit::Vhost;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_queue_takes_is_refused_and_nothing_else() {
    let vhost = Vhost::new().await;
    let (broker, raw) = (broker(&vhost.url()), raw(&vhost).await);
    publish_patiently(broker.as_ref(), to_lane(Priority::High, "first")).await;
    for _ in 0..10 {
        raw.channel
            .queue_unbind("mapx.tasks.low".into(), "mapx.tasks".into(), "low".into(), FieldTable::default())
            .await
            .expect("unbound");
        // Confirms come for several messages at once, and the returns before them.
        let lanes = |n: usize| if n % 7 == 3 { Priority::Low } else { Priority::Normal };
        let answers = broker.publish((0..300).map(|n| to_lane(lanes(n), n)).collect()).await;
        for (n, answer) in answers.iter().enumerate() {
            match (lanes(n), answer) {
                (Priority::Normal, Ok(())) => {}
                (Priority::Low, Err(PublishError::Refused(reason))) => {
                    assert!(reason.contains("NO_ROUTE"), "{reason}")
                }
                other => panic!("{n}: {other:?}"),
            }
        }
        // Declared again, so the next one passes.
        publish_one(broker.as_ref(), to_lane(Priority::Low, "after")).await.expect("bound again");
    }
    let depths = broker.depths().await.expect("available");
    assert_eq!(depths.ready, [1, 10 * (300 - 43), 10]);
    broker.close().await;
}

#[tokio::test]
async fn a_deleted_exchange_is_declared_again() {
    let vhost = Vhost::new().await;
    let (broker, raw) = (broker(&vhost.url()), raw(&vhost).await);
    publish_patiently(broker.as_ref(), to_lane(Priority::High, "first")).await;
    raw.channel.exchange_delete("mapx.tasks".into(), ExchangeDeleteOptions::default()).await.expect("deleted");
    let answers = broker.publish((0..50).map(|n| to_lane(Priority::High, n)).collect()).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(PublishError::Unconfirmed(_)))), "{answers:?}");
    let answers = broker.publish((0..50).map(|n| to_lane(Priority::High, n)).collect()).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    broker.close().await;
}

#[tokio::test]
async fn a_queue_deleted_under_a_consumer_ends_its_subscription_and_is_declared_for_the_next() {
    let vhost = Vhost::new().await;
    let (broker, raw) = (broker(&vhost.url()), raw(&vhost).await);
    publish_patiently(broker.as_ref(), to_lane(Priority::High, "held")).await;
    let mut consumer = broker.consume(10).await.expect("subscribed");
    let held = timeout(PATIENCE, consumer.receive(10)).await.expect("arrives").expect("available");
    raw.delete("mapx.tasks.normal").await;
    let ended = timeout(PATIENCE, consumer.receive(10)).await.expect("it is told");
    let error = ended.err().expect("it has ended").to_string();
    assert!(error.contains("mapx.tasks.normal"), "{error}");
    drop(consumer);

    let mut again = broker.consume(10).await.expect("subscribed");
    publish_patiently(broker.as_ref(), to_lane(Priority::Normal, "new")).await;
    let arrived = timeout(PATIENCE, again.receive(10)).await.expect("arrives").expect("available");
    assert_eq!(arrived[0].message.id, "new");
    // What was held of another lane is acked all the same.
    held.into_iter().chain(arrived).for_each(Delivery::ack);
    eventually("all is acked", async || {
        (broker.depths().await.expect("available") == Depths::default()).then_some(())
    })
    .await;
    drop(again);
    assert_eq!(broker.depths().await.expect("available"), Depths::default());
    broker.close().await;
}

/// Serves one at a time, as slowly as a fast provider, until `enough`; the lanes in their order.
async fn serve(broker: &dyn Broker, enough: impl Fn(&[Priority]) -> bool) -> Vec<Priority> {
    let mut consumer = broker.consume(64).await.expect("subscribed");
    let mut served = Vec::new();
    while !enough(&served) {
        for delivery in timeout(PATIENCE, consumer.receive(8)).await.expect("arrives").expect("available") {
            served.push(delivery.lane);
            delivery.ack();
        }
        tokio::time::sleep(Duration::from_millis(6)).await;
    }
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_high_behind_ten_thousand_lows_starts_within_a_second() {
    let vhost = Vhost::new().await;
    let broker = broker(&vhost.url());
    publish_patiently(broker.as_ref(), to_lane(Priority::Low, "first")).await;
    for batch in 0..20 {
        let lows = (0..500).map(|n| to_lane(Priority::Low, batch * 500 + n));
        assert!(broker.publish(lows.collect()).await.iter().all(Result::is_ok));
    }
    let mut consumer = broker.consume(64).await.expect("subscribed");
    let held = timeout(PATIENCE, consumer.receive(64)).await.expect("arrives").expect("available");
    let published = Instant::now();
    publish_one(broker.as_ref(), to_lane(Priority::High, "urgent")).await.expect("published");
    held.into_iter().for_each(Delivery::ack);
    loop {
        let batch = timeout(PATIENCE, consumer.receive(8)).await.expect("arrives").expect("available");
        let found = batch.iter().any(|delivery| delivery.message.id == "urgent");
        batch.into_iter().for_each(Delivery::ack);
        if found {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(published.elapsed() < Duration::from_secs(1), "started after {:?}", published.elapsed());
    drop(consumer);
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lows_progress_under_constant_highs() {
    let vhost = Vhost::new().await;
    let broker = broker(&vhost.url());
    publish_patiently(broker.as_ref(), to_lane(Priority::Low, "first")).await;
    assert!(broker.publish((0..400).map(|n| to_lane(Priority::Low, n)).collect()).await.iter().all(Result::is_ok));
    let highs = broker.clone();
    let flood = tokio::spawn(async move {
        loop {
            // More than is served: the lane never runs empty.
            let ready = highs.depths().await.expect("available").ready[0];
            if ready < 500 {
                highs.publish((0..250).map(|n| to_lane(Priority::High, n)).collect()).await;
            }
        }
    });
    eventually("highs wait", async || (broker.depths().await.expect("available").ready[0] > 100).then_some(()))
        .await;
    let served = serve(broker.as_ref(), |served| served.len() >= 1200).await;
    flood.abort();
    let _ = flood.await;
    let lows = |served: &[Priority]| served.iter().filter(|lane| **lane == Priority::Low).count();
    // Without normals the shares are eight and one; more lows where the flood doesn't keep up.
    for (n, part) in served.chunks(300).enumerate().skip(1).take(3) {
        assert!((20..=150).contains(&lows(part)), "part {n}: {} lows in {}", lows(part), part.len());
    }
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefetch_that_changes_more_often_than_the_delivery_limit_makes_no_dead_letter() {
    const MESSAGES: usize = 400;
    let vhost = Vhost::new().await;
    let broker = broker(&vhost.url());
    publish_patiently(broker.as_ref(), to_lane(Priority::Normal, 0)).await;
    for answer in broker.publish((1..MESSAGES).map(|n| to_lane(Priority::Normal, n)).collect()).await {
        answer.expect("published");
    }
    let mut consumer = broker.consume(4).await.expect("subscribed");
    let receive = async |consumer: &mut Box<dyn Consumer>| {
        timeout(PATIENCE, consumer.receive(1)).await.expect("arrives").expect("available")
    };
    // Each round takes one more, so that the channels can be changed; the rest is sent ahead and waits.
    let mut taken = Vec::new();
    for round in 0..2 * DELIVERY_LIMIT as usize {
        consumer.set_prefetch(if round % 2 == 0 { 40 } else { 5 });
        let delivery = receive(&mut consumer).await.remove(0);
        taken.push((delivery.message.id.clone(), delivery.returns > 0));
        delivery.ack();
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let depths = broker.depths().await.expect("available");
    // Not the whole queue: there are never more than two sets of channels with something to hand out.
    assert!(depths.unacked[1] <= 100 && depths.dead == 0, "{depths:?}");
    while taken.len() < MESSAGES {
        let delivery = receive(&mut consumer).await.remove(0);
        taken.push((delivery.message.id.clone(), delivery.returns > 0));
        delivery.ack();
    }
    // One that the server sends while it cancels a consumer is lost on its way, and comes again.
    let again = taken.iter().filter(|(_, redelivered)| *redelivered).count();
    println!("{again} came again");
    assert!(again <= MESSAGES / 20, "{again} came again");
    let mut numbers: Vec<usize> = taken.iter().map(|(id, _)| id.parse().expect("a number")).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..MESSAGES), "one is missing, or came twice");
    eventually("all is acked", async || {
        (broker.depths().await.expect("available") == Depths::default()).then_some(())
    })
    .await;
    drop(consumer);
    broker.close().await;
}
