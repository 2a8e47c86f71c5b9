//! What happens to a whole node: a memory alarm, a crash. On a node of the test's own, as others would suffer.

use std::time::{Duration, Instant};

use mapx_embeddings::broker::{Broker, Delivery, Depths, PublishError};
use mapx_embeddings::domain::priority::Priority;
use tokio::time::timeout;

use super::{broker, publish_one, publish_patiently, to_lane, trouble_is};
use crate::support::app::PATIENCE;
use crate::support::servers::Servers;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_alarms_or_crashes_hangs_nobody_and_loses_nothing() {
    let node = Servers::start_rabbitmq().await;
    let broker = broker(node.address("MAPX_TEST_AMQP_URL"));
    publish_patiently(broker.as_ref(), to_lane(Priority::High, "first")).await;
    an_alarm_is_told_and_hangs_nobody(&node, broker.as_ref()).await;
    a_crash_keeps_what_was_confirmed(&node, broker.as_ref()).await;
    broker.close().await;
}

async fn an_alarm_is_told_and_hangs_nobody(node: &Servers, broker: &dyn Broker) {
    let mut consumer = broker.consume(10).await.expect("subscribed");
    node.run(&["ctl", "set_vm_memory_high_watermark", "0"]).await;
    // The server says so at the first publish; that one's fate is unknown, and it is not waited for.
    let started = Instant::now();
    let batch = broker.publish((0..200).map(|n| to_lane(Priority::High, n)).collect()).await;
    assert!(started.elapsed() < Duration::from_secs(9), "hung for {:?}", started.elapsed());
    let told = "the broker blocks publishers (memory or disk alarm)";
    let unconfirmed = |answer: &Result<(), PublishError>| matches!(answer, Err(PublishError::Unconfirmed(reason)) if reason.contains(told));
    assert!(batch.iter().any(unconfirmed), "{:?}", batch.last());
    let trouble = trouble_is(broker, "blocked", |trouble| trouble.is_some()).await;
    assert!(trouble.is_some_and(|trouble| trouble.contains(told)));
    for _ in 0..20 {
        let started = Instant::now();
        assert!(unconfirmed(&publish_one(broker, to_lane(Priority::High, "more")).await));
        assert!(started.elapsed() < Duration::from_millis(100), "hung for {:?}", started.elapsed());
    }
    // Consuming goes on, and so do acks and the depths.
    let first = timeout(PATIENCE, consumer.receive(1)).await.expect("arrives").expect("available");
    first.into_iter().for_each(Delivery::ack);
    broker.depths().await.expect("available");

    node.run(&["ctl", "set_vm_memory_high_watermark", "0.4"]).await;
    publish_patiently(broker, to_lane(Priority::High, "after")).await;
    trouble_is(broker, "well", |trouble| trouble.is_none()).await;
    // What the server had been sent may come now, once.
    drain(broker, &mut consumer, "after").await;
}

/// Acks everything until `last` has come and nothing is left.
async fn drain(broker: &dyn Broker, consumer: &mut Box<dyn mapx_embeddings::broker::Consumer>, last: &str) {
    let (mut found, started) = (false, Instant::now());
    while !found || broker.depths().await.expect("available") != Depths::default() {
        assert!(started.elapsed() < PATIENCE, "{last} doesn't come");
        let arrived = timeout(Duration::from_millis(200), consumer.receive(10)).await;
        for delivery in arrived.ok().into_iter().flat_map(|arrived| arrived.expect("available")) {
            found |= delivery.message.id == last;
            delivery.ack();
        }
    }
}

async fn a_crash_keeps_what_was_confirmed(node: &Servers, broker: &dyn Broker) {
    let mut confirmed = 0u64;
    for batch in 0..4 {
        let answers = broker.publish((0..500).map(|n| to_lane(Priority::Low, batch * 500 + n)).collect()).await;
        confirmed += answers.iter().filter(|answer| answer.is_ok()).count() as u64;
    }
    assert_eq!(confirmed, 2_000);
    node.run(&["kill", "rabbitmq"]).await;
    let trouble = trouble_is(broker, "lost", |trouble| trouble.is_some()).await;
    assert!(trouble.is_some(), "{trouble:?}");
    let started = Instant::now();
    assert!(publish_one(broker, to_lane(Priority::Low, "in vain")).await.is_err());
    assert!(started.elapsed() < Duration::from_secs(1), "hung for {:?}", started.elapsed());
    node.run(&["start", "rabbitmq"]).await;
    trouble_is(broker, "well", |trouble| trouble.is_none()).await;
    let started = Instant::now();
    let depths = loop {
        // A queue of a node that has just started may not have a leader yet.
        match broker.depths().await {
            Ok(depths) if depths.ready[2] > 0 => break depths,
            other => assert!(started.elapsed() < PATIENCE, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(depths.ready, [0, 0, confirmed]);
}
