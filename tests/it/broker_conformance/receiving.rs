//! What a consumer gets, when, and how much of it.

use super::*;

pub async fn a_message_arrives_as_it_was_published(broker: Arc<dyn Broker>) {
    let sent = Message { attempt: 2, body: vec![0, 159, 146, 150], ..message("7:current:v2") };
    publish(&broker, vec![Outgoing { route: Route::Lane(Priority::Low), message: sent.clone() }]).await;
    let deliveries = receive(&mut consume(&broker, 10).await, 10).await;
    assert_eq!(deliveries[0].message, sent);
    assert_eq!(deliveries[0].lane, Priority::Low);
    assert!(deliveries[0].returns == 0);
    ack_all(deliveries);
    settles_at(&broker, Depths::default()).await;
}

pub async fn publishing_answers_every_message(broker: Arc<dyn Broker>) {
    assert!(broker.publish(Vec::new()).await.is_empty());
    let dead =
        Outgoing { route: Route::Dead { lane: Priority::High, reason: "empty".into() }, message: message("dead") };
    let retry = to_rung(Priority::High, Duration::from_millis(400), message("retry"));
    let answers = broker.publish(vec![to_lane(Priority::High, "high"), retry, dead]).await;
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

pub async fn an_empty_broker_keeps_a_consumer_waiting_until_a_publish_wakes_it(broker: Arc<dyn Broker>) {
    let mut consumer = consume(&broker, 10).await;
    assert_nothing_arrives(&mut consumer).await;
    // Polled in this order: it already waits when the message comes.
    let (deliveries, ()) =
        tokio::join!(receive(&mut consumer, 10), publish(&broker, vec![to_lane(Priority::Normal, "a")]));
    assert_eq!(ids(&deliveries), ["a"]);
    ack_all(deliveries);
}

pub async fn a_cancelled_receive_loses_nothing(broker: Arc<dyn Broker>) {
    const COUNT: usize = 200;
    let mut consumer = consume(&broker, COUNT).await;
    let publisher = broker.clone();
    let publishing = tokio::spawn(async move {
        for n in 0..COUNT {
            publish(&publisher, vec![to_lane(Priority::Normal, n)]).await;
            tokio::task::yield_now().await;
        }
    });
    let mut received = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while received.len() < COUNT {
        assert!(Instant::now() < deadline, "only {} of {COUNT} arrived", received.len());
        if let Ok(deliveries) = timeout(Duration::from_micros(300), consumer.receive(3)).await {
            let deliveries = deliveries.expect("available");
            received.extend(ids(&deliveries));
            ack_all(deliveries);
        }
    }
    publishing.await.expect("published");
    assert_eq!(received, (0..COUNT).map(|n| n.to_string()).collect::<Vec<_>>());
}

pub async fn never_more_than_the_prefetch_is_held(broker: Arc<dyn Broker>) {
    let messages = (0..20).map(|n| to_lane(Priority::ALL[n % 3], n)).collect();
    publish(&broker, messages).await;
    let mut consumer = consume(&broker, 5).await;
    let mut held = Vec::new();
    while held.len() < 5 {
        held.extend(receive(&mut consumer, 100).await);
    }
    assert_eq!(held.len(), 5);
    assert_nothing_arrives(&mut consumer).await;

    ack_all(held.drain(..2).collect());
    held.extend(receive_exactly(&mut consumer, 2).await);
    assert_nothing_arrives(&mut consumer).await;

    // A consumer that already waits is woken by the ack, too.
    let ack_one = async { ack_all(held.drain(..1).collect()) };
    let (deliveries, ()) = tokio::join!(receive(&mut consumer, 100), ack_one);
    assert_eq!(deliveries.len(), 1);
}

pub async fn at_most_max_is_taken(broker: Arc<dyn Broker>) {
    publish(&broker, (0..4).map(|n| to_lane(Priority::High, n)).collect()).await;
    let mut consumer = consume(&broker, 10).await;
    let mut received = Vec::new();
    for _ in 0..4 {
        received.extend(receive(&mut consumer, 1).await);
    }
    assert_eq!(ids(&received), ["0", "1", "2", "3"]);
}

pub async fn the_prefetch_changes_without_a_return(broker: Arc<dyn Broker>) {
    publish(&broker, (0..60).map(|n| to_lane(Priority::Normal, n)).collect()).await;
    let mut consumer = consume(&broker, 2).await;
    let mut held = receive_exactly(&mut consumer, 2).await;
    assert_nothing_arrives(&mut consumer).await;

    // Far more than a broker behind a network had sent ahead.
    consumer.set_prefetch(30);
    held.extend(receive_exactly(&mut consumer, 28).await);
    assert_nothing_arrives(&mut consumer).await;

    // What is held beyond the new limit is kept, and nothing comes until enough of it is done.
    consumer.set_prefetch(3);
    assert_nothing_arrives(&mut consumer).await;
    ack_all(held.drain(..27).collect());
    assert_nothing_arrives(&mut consumer).await;
    ack_all(held);
    let mut rest = Vec::new();
    while rest.len() < 30 {
        let deliveries = receive(&mut consumer, 100).await;
        assert!(deliveries.len() <= 3, "{} at once", deliveries.len());
        assert!(deliveries.iter().all(|delivery| delivery.returns == 0));
        rest.extend(ids(&deliveries));
        ack_all(deliveries);
    }
    rest.sort_by_key(|id| id.parse::<usize>().expect("a number"));
    assert_eq!(rest, (30..60).map(|n| n.to_string()).collect::<Vec<_>>());
    settles_at(&broker, Depths::default()).await;
}
