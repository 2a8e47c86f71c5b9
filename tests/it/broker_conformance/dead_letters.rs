//! What was given up.

use super::*;

pub async fn a_dead_letter_carries_its_reason_newest_first(broker: Arc<dyn Broker>) {
    let before = Utc::now();
    for (lane, id) in Priority::ALL.into_iter().zip(["a", "b", "c"]) {
        let route = Route::Dead { lane, reason: format!("reason of {id}: “ünïcode”") };
        publish(&broker, vec![Outgoing { route, message: Message { attempt: 4, ..message(id) } }]).await;
    }
    settles_at(&broker, Depths { dead: 3, ..Depths::default() }).await;

    let newest = broker.dead_letters(2).await.expect("available");
    let told: Vec<_> = newest.iter().map(|l| (l.message.id.as_str(), l.lane, l.reason.as_str())).collect();
    let expected =
        [("c", Priority::Low, "reason of c: “ünïcode”"), ("b", Priority::Normal, "reason of b: “ünïcode”")];
    assert_eq!(told, expected);
    assert_eq!(newest[0].message.attempt, 4);
    assert_eq!(newest[0].message.body, b"body of c");
    let second = chrono::TimeDelta::seconds(1);
    assert!(newest[0].at >= before - second && newest[0].at <= Utc::now() + second, "{}", newest[0].at);

    // To look takes nothing away, however often.
    for _ in 0..25 {
        assert_eq!(broker.dead_letters(10).await.expect("available").len(), 3);
    }
    assert_nothing_arrives(&mut consume(&broker, 10).await).await;
}
