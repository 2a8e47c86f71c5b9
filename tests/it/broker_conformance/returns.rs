//! What was delivered and not acked.

use mapx_embeddings::broker::topology::{DELIVERY_LIMIT, DELIVERY_LIMIT_REASON, SUSPICIOUS_RETURNS};

use super::*;

const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];

async fn publish_ids(broker: &Arc<dyn Broker>) {
    publish(broker, IDS.iter().map(|id| to_lane(Priority::Normal, id)).collect()).await;
}

fn redelivered(deliveries: &[Delivery]) -> Vec<bool> {
    deliveries.iter().map(|delivery| delivery.returns > 0).collect()
}

pub async fn dropped_deliveries_come_back_in_order(broker: Arc<dyn Broker>) {
    publish_ids(&broker).await;
    let mut consumer = consume(&broker, 3).await;
    let held = receive_exactly(&mut consumer, 3).await;
    assert_eq!(ids(&held), IDS[..3]);
    drop(held);
    let again = receive_exactly(&mut consumer, 3).await;
    assert_eq!(ids(&again), IDS[..3]);
    assert_eq!(redelivered(&again), [true; 3]);
    ack_all(again);
    let rest = receive_exactly(&mut consumer, 2).await;
    assert_eq!(ids(&rest), IDS[3..]);
    assert_eq!(redelivered(&rest), [false; 2]);
}

pub async fn a_return_wakes_another_consumer(broker: Arc<dyn Broker>) {
    publish(&broker, vec![to_lane(Priority::Normal, "a")]).await;
    let mut consumer = consume(&broker, 1).await;
    let held = receive(&mut consumer, 1).await;
    drop(consumer);
    let mut other = consume(&broker, 1).await;
    let (again, ()) = tokio::join!(receive(&mut other, 1), async { drop(held) });
    assert_eq!(ids(&again), ["a"]);
    ack_all(again);
}

pub async fn what_a_dropped_consumer_held_comes_back(broker: Arc<dyn Broker>) {
    publish_ids(&broker).await;
    let mut consumer = consume(&broker, 3).await;
    let held = receive_exactly(&mut consumer, 3).await;
    drop(consumer);
    drop(held);
    // Whoever is faster than the returns gets what stands behind them.
    settles_at(&broker, Depths { ready: [0, 5, 0], ..Depths::default() }).await;
    let again = receive_exactly(&mut consume(&broker, 10).await, 5).await;
    assert_eq!(ids(&again), IDS);
    assert_eq!(redelivered(&again)[..3], [true; 3]);
    ack_all(again);
    settles_at(&broker, Depths::default()).await;
}

pub async fn a_held_delivery_outlives_its_consumer(broker: Arc<dyn Broker>) {
    publish_ids(&broker).await;
    let mut consumer = consume(&broker, 3).await;
    let held = receive_exactly(&mut consumer, 3).await;
    drop(consumer);
    let mut other = consume(&broker, 10).await;
    let rest = receive_exactly(&mut other, 2).await;
    assert_eq!(ids(&rest), IDS[3..]);
    assert_nothing_arrives(&mut other).await;
    ack_all(held);
    ack_all(rest);
    settles_at(&broker, Depths::default()).await;
}

pub async fn nothing_comes_behind_what_came_back_again_and_again(broker: Arc<dyn Broker>) {
    publish_ids(&broker).await;
    let mut consumer = consume(&broker, 3).await;
    for _ in 0..SUSPICIOUS_RETURNS {
        drop(receive_exactly(&mut consumer, 3).await);
    }
    let mut suspects = Vec::new();
    for _ in 0..3 {
        let alone = receive(&mut consumer, 3).await;
        assert!(alone.len() == 1 && alone[0].is_suspect(), "{:?}", ids(&alone));
        suspects.extend(alone);
    }
    let mut which = ids(&suspects);
    which.sort_unstable();
    assert_eq!(which, IDS[..3]);
    ack_all(suspects);
    let rest = receive_exactly(&mut consumer, 2).await;
    assert_eq!(ids(&rest), IDS[3..]);
}

pub async fn a_message_that_always_comes_back_ends_in_the_dead_letters(broker: Arc<dyn Broker>) {
    publish(&broker, vec![to_lane(Priority::High, "killer")]).await;
    let mut consumer = consume(&broker, 1).await;
    for returns in 0..=DELIVERY_LIMIT {
        let held = receive(&mut consumer, 1).await;
        assert_eq!(held[0].returns, returns);
        drop(held);
    }
    settles_at(&broker, Depths { dead: 1, ..Depths::default() }).await;
    assert_nothing_arrives(&mut consumer).await;
    let mut notices = broker.consume_dead_letters(10).await.expect("subscribed");
    let dead = receive(&mut notices, 10).await;
    assert_eq!((dead[0].message.id.as_str(), dead[0].lane), ("killer", Priority::High));
    assert_eq!(dead[0].death.as_ref().map(|death| death.reason.as_str()), Some(DELIVERY_LIMIT_REASON));
    ack_all(dead);
}
