//! Lanes that are closed for a while, and subscriptions that come to their end.

use mapx_embeddings::domain::intake::Intake;

use super::*;

const NORMAL_CLOSED: Intake = Intake { lanes: [true, false, true], last: false };
const LAST: Intake = Intake { lanes: [true; 3], last: true };

/// More often than a message may be returned: were anything returned, it would end in the dead letters.
pub async fn a_closed_lane_waits_and_nothing_of_it_is_returned(broker: Arc<dyn Broker>) {
    let normal = |n: usize| to_lane(Priority::Normal, format!("n{n}"));
    publish(&broker, (0..20).map(normal).collect()).await;
    let mut consumer = consume(&broker, 5).await;
    let first = receive_exactly(&mut consumer, 1).await;
    for round in 0..25 {
        consumer.set_intake(NORMAL_CLOSED);
        publish(&broker, vec![to_lane(Priority::Low, format!("l{round}"))]).await;
        let low = receive_exactly(&mut consumer, 1).await;
        assert_eq!(low[0].lane, Priority::Low);
        ack_all(low);
        if round == 0 {
            assert_nothing_arrives(&mut consumer).await;
        }
        consumer.set_intake(Intake::ALL);
    }
    ack_all(first);
    let mut rest = Vec::new();
    while rest.len() < 19 {
        let taken = receive(&mut consumer, 5).await;
        assert!(taken.iter().all(|delivery| delivery.returns == 0), "{:?}", ids(&taken));
        rest.extend(ids(&taken));
        ack_all(taken);
    }
    assert_eq!(rest, (1..20).map(|n| format!("n{n}")).collect::<Vec<_>>());
    settles_at(&broker, Depths::default()).await;
}

pub async fn a_lane_that_is_closed_from_the_start_is_not_sent(broker: Arc<dyn Broker>) {
    publish(&broker, vec![to_lane(Priority::Normal, "n"), to_lane(Priority::High, "h")]).await;
    let mut consumer = broker.consume_from(10, NORMAL_CLOSED).await.expect("subscribed");
    let high = receive_exactly(&mut consumer, 1).await;
    assert_eq!(ids(&high), ["h"]);
    ack_all(high);
    assert_nothing_arrives(&mut consumer).await;
    settles(&broker, |depths| depths.ready == [0, 1, 0] && depths.unacked == [0; 3]).await;
    consumer.set_intake(Intake::ALL);
    ack_all(receive_exactly(&mut consumer, 1).await);
}

/// Whatever was sent ahead comes, then nothing, at once; the rest was never sent.
pub async fn the_last_of_a_subscription_is_handed_out_and_then_nothing(broker: Arc<dyn Broker>) {
    publish(&broker, (0..60).map(|n| to_lane(Priority::Normal, n)).collect()).await;
    let mut consumer = consume(&broker, 4).await;
    let first = receive_exactly(&mut consumer, 2).await;
    let mut taken = first.len();
    consumer.set_intake(LAST);
    ack_all(first);
    loop {
        let next = timeout(PATIENCE, consumer.receive(3)).await.expect("an end").expect("available");
        if next.is_empty() {
            break;
        }
        assert!(next.iter().all(|delivery| delivery.lane == Priority::Normal));
        taken += next.len();
        ack_all(next);
    }
    assert!(taken < 60, "{taken}");
    // It begins again when it is not to be the last after all.
    consumer.set_intake(Intake::ALL);
    while taken < 60 {
        let next = receive(&mut consumer, 3).await;
        assert!(next.iter().all(|delivery| delivery.returns == 0), "{:?}", ids(&next));
        taken += next.len();
        ack_all(next);
    }
    settles_at(&broker, Depths::default()).await;
}
