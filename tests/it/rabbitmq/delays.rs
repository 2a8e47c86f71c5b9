//! Retries come back on time.

use std::time::{Duration, Instant};

use mapx_embeddings::broker::rabbitmq::RabbitBroker;
use mapx_embeddings::broker::topology::Topology;
use mapx_embeddings::broker::{Broker, Delivery, Outgoing, Route};
use mapx_embeddings::domain::backoff::Backoff;
use mapx_embeddings::domain::priority::Priority;
use tokio::time::timeout;

use super::{message, publish_patiently, to_lane};
use crate::support::app::PATIENCE;
use crate::support::rabbit::{self, Vhost};

/// Within a tenth of `base × 2ⁿ`; the base leaves a busy machine a fifth of a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rung_is_kept_within_a_tenth() {
    const BASE: Duration = Duration::from_secs(2);
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
