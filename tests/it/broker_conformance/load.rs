//! Several publishers and consumers at once.

use std::collections::HashSet;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::*;

pub async fn two_consumers_get_disjoint_deliveries(broker: Arc<dyn Broker>) {
    publish(&broker, (0..240).map(|n| to_lane(Priority::ALL[n / 80], n)).collect()).await;
    let (mut one, mut other) = (consume(&broker, 10).await, consume(&broker, 10).await);
    let (first, second) = tokio::join!(receive_exactly(&mut one, 10), receive_exactly(&mut other, 10));
    let seen: HashSet<_> = ids(&first).into_iter().chain(ids(&second)).collect();
    assert_eq!(seen.len(), 20);
}

pub async fn nothing_is_lost_or_doubled_under_load(broker: Arc<dyn Broker>) {
    const PUBLISHERS: usize = 4;
    const EACH: usize = 2_500;
    let mut tasks = JoinSet::new();
    let (seen, mut arrivals) = mpsc::unbounded_channel();
    for _ in 0..4 {
        let mut consumer = consume(&broker, 64).await;
        let seen = seen.clone();
        tasks.spawn(async move {
            while let Ok(deliveries) = consumer.receive(16).await {
                ids(&deliveries).into_iter().for_each(|id| seen.send(id).expect("the case listens"));
                ack_all(deliveries);
            }
        });
    }
    for publisher in 0..PUBLISHERS {
        let broker = broker.clone();
        tasks.spawn(async move {
            let numbers: Vec<_> = (publisher * EACH..(publisher + 1) * EACH).collect();
            for batch in numbers.chunks(50) {
                // A relay hands over one lane at a time.
                let lane = Priority::ALL[batch[0] / 50 % 3];
                publish(&broker, batch.iter().map(|&n| to_lane(lane, n)).collect()).await;
            }
        });
    }
    let mut all = HashSet::new();
    while all.len() < PUBLISHERS * EACH {
        let id = timeout(PATIENCE, arrivals.recv()).await.expect("something was lost").expect("consumers run");
        assert!(all.insert(id.clone()), "{id} arrived twice");
    }
    settles_at(&broker, Depths::default()).await;
    assert!(arrivals.try_recv().is_err(), "more arrived than was published");
}
