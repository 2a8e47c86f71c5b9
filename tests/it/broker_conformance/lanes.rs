//! Which message comes next.

use super::*;

/// Enough that a broker which sends ahead has every lane at hand.
const PREFETCH: usize = 48;

async fn fill(broker: &Arc<dyn Broker>, counts: [usize; 3]) {
    let lanes = Priority::ALL.into_iter().zip(counts);
    let messages = lanes.flat_map(|(lane, count)| (0..count).map(move |n| to_lane(lane, format!("{lane}-{n}"))));
    publish(broker, messages.collect()).await;
}

/// The lanes of the next `turns` deliveries, each acked before the next is asked for. Each takes a moment of
/// work: who asks faster than a network carries is served what has arrived, whatever the weights.
async fn serve(consumer: &mut AnyConsumer, turns: usize) -> Vec<Priority> {
    let mut lanes = Vec::new();
    for _ in 0..turns {
        for delivery in receive(consumer, 1).await {
            lanes.push(delivery.lane);
            delivery.ack();
        }
        sleep(Duration::from_millis(1)).await;
    }
    lanes
}

fn count(lanes: &[Priority], lane: Priority) -> usize {
    lanes.iter().filter(|&&served| served == lane).count()
}

pub async fn a_lane_is_first_in_first_out(broker: Arc<dyn Broker>) {
    let all: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    publish(&broker, all[..30].iter().map(|id| to_lane(Priority::Low, id)).collect()).await;
    publish(&broker, all[30..].iter().map(|id| to_lane(Priority::Low, id)).collect()).await;
    let mut consumer = consume(&broker, 7).await;
    let mut received = Vec::new();
    while received.len() < all.len() {
        let deliveries = receive(&mut consumer, 5).await;
        received.extend(ids(&deliveries));
        ack_all(deliveries);
    }
    assert_eq!(received, all);
}

pub async fn full_lanes_are_served_in_weighted_rounds(broker: Arc<dyn Broker>) {
    fill(&broker, [300, 300, 300]).await;
    let served = serve(&mut consume(&broker, PREFETCH).await, 240).await;
    let counts = Priority::ALL.map(|lane| count(&served, lane));
    let near = |n: usize, ideal: usize| (ideal * 3 / 4..=ideal * 3 / 2).contains(&n);
    assert!(near(counts[0], 160) && near(counts[1], 60) && near(counts[2], 20), "{counts:?}, not 8:3:1");
}

pub async fn low_is_served_in_every_round_of_constant_highs(broker: Arc<dyn Broker>) {
    fill(&broker, [300, 0, 100]).await;
    let served = serve(&mut consume(&broker, PREFETCH).await, 240).await;
    // Two rounds of twelve: a broker that sends ahead may have one lane at hand before the other.
    for rounds in served.chunks(24) {
        assert!(rounds.contains(&Priority::Low), "starved: {rounds:?}");
        assert!(count(rounds, Priority::High) > count(rounds, Priority::Low), "no preference: {rounds:?}");
    }
}

pub async fn an_empty_lane_wastes_no_turn(broker: Arc<dyn Broker>) {
    fill(&broker, [0, 0, 40]).await;
    let mut consumer = consume(&broker, PREFETCH).await;
    ack_all(receive_exactly(&mut consumer, 40).await);
    fill(&broker, [0, 20, 20]).await;
    let rest = receive_exactly(&mut consumer, 40).await;
    let lanes: Vec<_> = rest.iter().map(|delivery| delivery.lane).collect();
    assert_eq!(Priority::ALL.map(|lane| count(&lanes, lane)), [0, 20, 20]);
}

pub async fn a_high_overtakes_a_thousand_lows(broker: Arc<dyn Broker>) {
    const PREFETCH: usize = 10;
    fill(&broker, [0, 0, 1_000]).await;
    let mut consumer = consume(&broker, PREFETCH).await;
    let held = receive_exactly(&mut consumer, PREFETCH).await;
    fill(&broker, [1, 0, 0]).await;
    ack_all(held);
    // What a broker had sent ahead may still come first.
    let served = serve(&mut consumer, 3 * PREFETCH).await;
    assert!(served.contains(&Priority::High), "the high waits behind the lows");
}
