//! Retries come back on time.

use std::time::{Duration, Instant};

use mapx_embeddings::broker::rabbitmq::RabbitBroker;
use mapx_embeddings::broker::topology::Topology;
use mapx_embeddings::broker::{Broker, Delivery, Outgoing, Route};
use mapx_embeddings::domain::backoff::Backoff;
use mapx_embeddings::domain::priority::Priority;
use tokio::time::timeout;

use super::{message, publish_patiently, service, to_lane};
use crate::support::app::PATIENCE;
use crate::support::provider::{Behaviour, Call};
use crate::support::rabbit::{self, Vhost};

/// Leaves a busy machine four tenths of a second of its tenth: half of that was once too little beside a release
/// build and two thousand listeners.
const BASE: Duration = Duration::from_secs(4);

/// From call to call: what the worker, the ledger and the broker take besides is within the tenth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_arrive_within_a_tenth_of_their_delays() {
    let vhost = Vhost::new().await;
    let (provider, app) = service(&vhost, |settings| {
        settings.queue.max_retries = 2;
        settings.queue.retry_delay_ms = BASE.as_millis() as u64;
    })
    .await;
    // Of this text alone: were it all, it would be an outage, which spends no attempt.
    provider.when_contains("never embedded", Behaviour::status(500, "out of order"));
    let id = app.save_text("never embedded").await;
    assert_eq!(app.embedding_is(id, "failed").await["attempts"], 3);
    let its = |call: &&Call| call.inputs.iter().any(|input| input.contains("never embedded"));
    let calls: Vec<Instant> = provider.calls().iter().filter(its).map(|call| call.at).collect();
    assert_eq!(calls.len(), 3);
    for (pair, delay) in calls.windows(2).zip([BASE, 2 * BASE]) {
        let waited = pair[1] - pair[0];
        println!("{waited:?} for {delay:?}");
        assert!(waited >= delay && waited <= delay.mul_f64(1.1), "{waited:?} for {delay:?}");
    }
    app.stop().await;
}

/// Within a tenth of `base × 2ⁿ`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rung_is_kept_within_a_tenth() {
    let vhost = Vhost::new().await;
    let backoff = Backoff::new(BASE, 4 * BASE, 3);
    let server = rabbit::server(&vhost.url());
    let broker = RabbitBroker::new(server, "", Topology::new("mapx", &backoff), "test", "localhost");
    let broker = broker.expect("no certificates are needed");
    publish_patiently(&broker, to_lane(Priority::High, "first")).await;
    let mut consumer = broker.consume(10).await.expect("subscribed");
    let first = timeout(PATIENCE, consumer.receive(1)).await.expect("arrives").expect("available");
    first.into_iter().for_each(Delivery::ack);
    let delays = [1, 2, 3].map(|failed| backoff.after(failed).expect("a retry"));
    let retry = |delay: Duration| {
        let route = Route::Retry { lane: Priority::Low, delay };
        Outgoing { route, message: message(delay.as_millis()) }
    };
    let before = Instant::now();
    // The longest first: it must not hold up the others.
    let answers = broker.publish(delays.into_iter().rev().map(retry).collect()).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let after = Instant::now();
    for delay in delays {
        let mut arrived = timeout(PATIENCE, consumer.receive(1)).await.expect("arrives").expect("available");
        let delivery = arrived.pop().expect("one");
        assert_eq!(delivery.message.id, delay.as_millis().to_string());
        assert!(before.elapsed() >= delay, "{delay:?} early: {:?}", before.elapsed());
        assert!(after.elapsed() <= delay.mul_f64(1.1), "{delay:?} late: {:?}", after.elapsed());
        delivery.ack();
    }
    drop(consumer);
    broker.close().await;
}
