//! The broker inside the process: no server, and nothing survives the process ([`Durability::Process`]).
//!
//! No task of its own runs: whoever opens the store first moves the retries whose time has come, and a
//! waiting consumer sleeps until the next one is due. Time is tokio's, so a test can pause it.

mod consumer;
mod ladder;
mod lanes;
mod notices;
mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::topology::Topology;
use super::{Broker, Consumer, Depths, Durability, InHand, Outgoing, PublishError, Unavailable};
use crate::domain::intake::Intake;
use consumer::EmbeddedConsumer;
use notices::NoticeConsumer;
use store::{Shelf, Store};

pub struct EmbeddedBroker(Arc<Shared>);

/// What the broker, its consumers and the deliveries they hold have in common.
struct Shared {
    store: Mutex<Store>,
    /// Something can be received, or will be earlier than the waiting consumers know. It wakes them all:
    /// they are few, and a wake-up given to one is lost when that one's `receive` is cancelled.
    arrived: Notify,
}

impl EmbeddedBroker {
    pub fn new(topology: Topology) -> Self {
        Self(Arc::new(Shared { store: Mutex::new(Store::new(topology)), arrived: Notify::new() }))
    }
}

impl Shared {
    /// Opens the store, with every retry whose time has come in its lane. Held for a few moves of plain
    /// data and never across an await; a panic in between leaves at worst a count off by one.
    fn store(&self) -> MutexGuard<'_, Store> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.promote(Instant::now());
        store
    }
}

#[async_trait]
impl Broker for EmbeddedBroker {
    async fn publish(&self, messages: Vec<Outgoing>) -> Vec<Result<(), PublishError>> {
        let accepted = messages.iter().map(|_| Ok(())).collect();
        let mut store = self.0.store();
        let now = Instant::now();
        for outgoing in messages {
            store.accept(outgoing, now);
        }
        drop(store);
        self.0.arrived.notify_waiters();
        accepted
    }

    async fn consume_from(&self, prefetch: usize, intake: Intake) -> Result<Box<dyn Consumer>, Unavailable> {
        Ok(Box::new(EmbeddedConsumer::new(self.0.clone(), prefetch, intake)))
    }

    async fn depths(&self) -> Result<Depths, Unavailable> {
        Ok(self.0.store().depths())
    }

    async fn consume_dead_letters(&self, prefetch: usize) -> Result<Box<dyn Consumer>, Unavailable> {
        Ok(Box::new(NoticeConsumer::new(self.0.clone(), Shelf::Notices, prefetch)))
    }

    async fn review_dead_letters(&self, prefetch: usize) -> Result<Box<dyn Consumer>, Unavailable> {
        Ok(Box::new(NoticeConsumer::new(self.0.clone(), Shelf::DeadLetters, prefetch)))
    }

    fn in_hand(&self) -> [InHand; 3] {
        self.0.store().in_hand()
    }

    /// It can't be away.
    fn trouble(&self) -> Option<String> {
        None
    }

    async fn close(&self) {}

    fn durability(&self) -> Durability {
        Durability::Process
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::DateTime;

    use super::super::{Delivery, Message, Route};
    use super::*;
    use crate::domain::backoff::Backoff;
    use crate::domain::priority::Priority;

    pub(super) fn message(id: &str) -> Message {
        Message { id: id.to_owned(), body: Vec::new(), attempt: 0, published_at: DateTime::UNIX_EPOCH, trace: None }
    }

    pub(super) fn five_ten_fifteen() -> Topology {
        Topology::new("mapx", &Backoff::new(Duration::from_secs(5), Duration::from_secs(15), 3))
    }

    fn outgoing(route: Route) -> Vec<Outgoing> {
        vec![Outgoing { route, message: message("a") }]
    }

    /// How many came within `limit` (of paused time); each is acked.
    async fn receive_within(consumer: &mut Box<dyn Consumer>, limit: Duration) -> usize {
        let received = tokio::time::timeout(limit, consumer.receive(10)).await;
        let deliveries = received.map_or_else(|_| Vec::new(), |taken| taken.expect("always available"));
        deliveries.into_iter().map(Delivery::ack).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_retry_reaches_a_consumer_that_already_waits_for_a_longer_one() {
        let broker = EmbeddedBroker::new(five_ten_fifteen());
        let retry = |secs| Route::Retry { lane: Priority::Low, delay: Duration::from_secs(secs) };
        broker.publish(outgoing(retry(15))).await;
        let mut consumer = broker.consume(10).await.expect("always available");
        let waiting = tokio::spawn(async move { receive_within(&mut consumer, Duration::from_secs(6)).await });
        tokio::task::yield_now().await;
        broker.publish(outgoing(retry(5))).await;
        assert_eq!(waiting.await.expect("no panic"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_reaches_the_others_when_the_first_that_waits_is_cancelled() {
        let broker = EmbeddedBroker::new(five_ten_fifteen());
        let waiter = |secs| {
            let consumer = broker.consume(10);
            async move {
                let mut consumer = consumer.await.expect("always available");
                receive_within(&mut consumer, Duration::from_secs(secs)).await
            }
        };
        let delay = Duration::from_secs(5);
        let publish = broker.publish(outgoing(Route::Retry { lane: Priority::Low, delay }));
        let (cancelled, served, _) = tokio::join!(waiter(1), waiter(6), publish);
        assert_eq!((cancelled, served), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn consumers_on_one_thread_share_the_work() {
        let broker = EmbeddedBroker::new(five_ten_fifteen());
        let lane = Route::Lane(Priority::Normal);
        broker.publish(vec![Outgoing { route: lane, message: message("a") }; 2_000]).await;
        let mut drains = Vec::new();
        for _ in 0..2 {
            let mut consumer = broker.consume(1).await.expect("always available");
            drains.push(tokio::spawn(async move {
                let mut acked = 0;
                while receive_within(&mut consumer, Duration::from_secs(1)).await > 0 {
                    acked += 1;
                }
                acked
            }));
        }
        for drain in drains {
            let acked = drain.await.expect("no panic");
            assert!(acked >= 500, "one of two got {acked} of 2,000");
        }
    }

    #[tokio::test]
    async fn a_panic_elsewhere_does_not_take_the_broker_down() {
        let broker = EmbeddedBroker::new(five_ten_fifteen());
        let shared = broker.0.clone();
        let poisoned = std::thread::spawn(move || {
            let _store = shared.store();
            panic!("while holding the lock");
        });
        assert!(poisoned.join().is_err());
        broker.publish(outgoing(Route::Lane(Priority::High))).await;
        assert_eq!(broker.depths().await.expect("always available").ready, [1, 0, 0]);
    }
}
