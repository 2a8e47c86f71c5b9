//! The counts that the status page and the metrics show.

use super::*;

fn depths(ready: [u64; 3], unacked: [u64; 3], retrying: u64, dead: u64) -> Depths {
    Depths { ready, unacked, retrying, dead }
}

pub async fn depths_are_true_at_every_step(broker: Arc<dyn Broker>) {
    settles_at(&broker, Depths::default()).await;
    let counts = Priority::ALL.into_iter().zip([3, 2, 1]);
    publish(&broker, counts.flat_map(|(lane, n)| (0..n).map(move |i| to_lane(lane, i))).collect()).await;
    settles_at(&broker, depths([3, 2, 1], [0; 3], 0, 0)).await;

    let mut consumer = consume(&broker, 6).await;
    let mut held = receive_exactly(&mut consumer, 6).await;
    settles_at(&broker, depths([0; 3], [3, 2, 1], 0, 0)).await;

    // Without a consumer, what comes back is nobody's until the next one.
    drop(consumer);
    let low = held.iter().position(|delivery| delivery.lane == Priority::Low).expect("one low");
    drop(held.remove(low));
    settles_at(&broker, depths([0, 0, 1], [3, 2, 0], 0, 0)).await;

    let retry = to_rung(Priority::High, Duration::from_millis(400), message("retried"));
    publish(&broker, vec![retry]).await;
    // In its rung or, on a slow machine, already in its lane.
    settles(&broker, |seen| (seen.retrying, seen.ready) == (1, [0, 0, 1]) || seen.ready == [1, 0, 1]).await;

    let route = Route::Dead { lane: Priority::High, reason: "given up".into() };
    publish(&broker, vec![Outgoing { route, message: message("dead") }]).await;
    ack_all(held);
    settles_at(&broker, depths([1, 0, 1], [0; 3], 0, 1)).await;
}
