//! The retry ladder.

use super::*;

/// What a loaded machine or a network may add. The paused clock of the property test is exact instead.
const SLACK: Duration = Duration::from_secs(3);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Publishes to the rung for `delay` and checks the arrival: from `rung` to a tenth more.
async fn assert_arrives(broker: &Arc<dyn Broker>, delay: Duration, rung: Duration) -> Delivery {
    let mut consumer = consume(broker, 10).await;
    let before = Instant::now();
    let retried = Message { attempt: 2, ..message("a") };
    publish(broker, vec![to_rung(Priority::Low, delay, retried.clone())]).await;
    let after = Instant::now();
    let mut deliveries = receive(&mut consumer, 10).await;
    assert!(before.elapsed() >= rung, "after {:?}, before its {rung:?}", before.elapsed());
    assert!(after.elapsed() <= rung.mul_f64(1.1) + SLACK, "{:?} is late for {rung:?}", after.elapsed());
    let delivery = deliveries.pop().expect("one");
    assert_eq!(delivery.message, retried);
    delivery
}

pub async fn a_retry_arrives_after_its_delay_in_its_lane(broker: Arc<dyn Broker>) {
    publish(&broker, vec![to_lane(Priority::Low, "a")]).await;
    let mut consumer = consume(&broker, 10).await;
    let failed = receive(&mut consumer, 1).await.remove(0);
    drop(consumer);
    let retried = Outgoing {
        route: Route::Retry { lane: failed.lane, delay: ms(200) },
        message: Message { attempt: 1, ..failed.message.clone() },
    };
    let before = Instant::now();
    publish(&broker, vec![retried]).await;
    let published_at = failed.message.published_at;
    failed.ack();

    let again = receive(&mut consume(&broker, 10).await, 10).await.remove(0);
    assert!(before.elapsed() >= ms(200), "early: {:?}", before.elapsed());
    assert_eq!((again.message.id.as_str(), again.message.attempt, again.lane), ("a", 1, Priority::Low));
    assert_eq!(again.message.published_at, published_at);
    assert!(again.returns == 0);
    again.ack();
    settles_at(&broker, Depths::default()).await;
}

pub async fn a_delay_is_rounded_up_to_a_rung(broker: Arc<dyn Broker>) {
    for (delay, rung) in [(1, 100), (100, 100), (101, 200), (60_000, 400)] {
        let delivery = assert_arrives(&broker, ms(delay), ms(rung)).await;
        assert_eq!(delivery.lane, Priority::Low);
        delivery.ack();
    }
}

pub async fn a_long_delay_does_not_block_a_short_one(broker: Arc<dyn Broker>) {
    let mut consumer = consume(&broker, 10).await;
    let retries = [400, 200, 100].map(|n| to_rung(Priority::Normal, ms(n), message(n)));
    publish(&broker, retries.into()).await;
    let arrived = receive_exactly(&mut consumer, 3).await;
    assert_eq!(ids(&arrived), ["100", "200", "400"]);
}
