//! What was given up, and the notices of it.

use super::*;

async fn notices(broker: &Arc<dyn Broker>, prefetch: usize) -> AnyConsumer {
    broker.consume_dead_letters(prefetch).await.expect("subscribed")
}

async fn give_up(broker: &Arc<dyn Broker>, lane: Priority, id: &str) {
    let route = Route::Dead { lane, reason: format!("reason of {id}: “ünïcode”") };
    publish(broker, vec![Outgoing { route, message: Message { attempt: 4, ..message(id) } }]).await;
}

fn told(notices: &[Delivery]) -> Vec<(&str, Priority, &str)> {
    let reason = |n: &Delivery| n.death.as_ref().expect("a death").reason.clone().leak() as &str;
    notices.iter().map(|n| (n.message.id.as_str(), n.lane, reason(n))).collect()
}

pub async fn a_dead_letter_is_told_with_its_reason_and_stays(broker: Arc<dyn Broker>) {
    let before = Utc::now();
    for (lane, id) in Priority::ALL.into_iter().zip(["a", "b", "c"]) {
        give_up(&broker, lane, id).await;
    }
    settles_at(&broker, Depths { dead: 3, ..Depths::default() }).await;

    let mut consumer = notices(&broker, 10).await;
    let all = receive_exactly(&mut consumer, 3).await;
    let expected = [
        ("a", Priority::High, "reason of a: “ünïcode”"),
        ("b", Priority::Normal, "reason of b: “ünïcode”"),
        ("c", Priority::Low, "reason of c: “ünïcode”"),
    ];
    assert_eq!(told(&all).into_iter().collect::<std::collections::BTreeSet<_>>(), expected.into());
    let first = all.iter().find(|n| n.message.id == "a").expect("told");
    assert_eq!((first.message.attempt, first.message.body.as_slice()), (4, b"\"body of a\"".as_slice()));
    let (at, second) = (first.death.as_ref().expect("a death").at, chrono::TimeDelta::seconds(1));
    assert!(at >= before - second && at <= Utc::now() + second, "{at}");

    // Told once; and to be told takes nothing away.
    ack_all(all);
    assert_nothing_arrives(&mut consumer).await;
    settles_at(&broker, Depths { dead: 3, ..Depths::default() }).await;
    assert_nothing_arrives(&mut consume(&broker, 10).await).await;
    assert_eq!(broker.in_hand().map(|lane| lane.deliveries), [0; 3]);
}

pub async fn a_notice_is_told_until_it_is_acked(broker: Arc<dyn Broker>) {
    let mut consumer = notices(&broker, 2).await;
    assert_nothing_arrives(&mut consumer).await;
    let (deliveries, ()) = tokio::join!(receive(&mut consumer, 10), give_up(&broker, Priority::Low, "a"));
    assert!(deliveries[0].returns == 0);
    // More often than a message in a lane may come back.
    drop(deliveries);
    for _ in 0..25 {
        let again = receive(&mut consumer, 1).await;
        assert!(again[0].returns > 0);
        assert_eq!(told(&again), [("a", Priority::Low, "reason of a: “ünïcode”")]);
    }
    // Whoever takes over is told what the other one held.
    let held = receive(&mut consumer, 1).await;
    drop(consumer);
    drop(held);
    let mut other = notices(&broker, 2).await;
    ack_all(receive(&mut other, 1).await);
    assert_nothing_arrives(&mut other).await;
}

pub async fn those_that_are_looked_through_stay_unless_they_are_acked(broker: Arc<dyn Broker>) {
    for id in ["a", "b", "c"] {
        give_up(&broker, Priority::Normal, id).await;
    }
    let mut review = broker.review_dead_letters(10).await.expect("subscribed");
    let all = receive_exactly(&mut review, 3).await;
    assert_eq!(told(&all)[1], ("b", Priority::Normal, "reason of b: “ünïcode”"));
    let (acked, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|letter| letter.message.id == "b");
    ack_all(acked);
    drop(kept);
    drop(review);
    settles_at(&broker, Depths { dead: 2, ..Depths::default() }).await;
    // Whoever is to be told of them is told of all three.
    assert_eq!(receive_exactly(&mut notices(&broker, 10).await, 3).await.len(), 3);
}
