//! A subscription to the embedded broker, and the receipts of what it was handed.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until};

use super::super::{Consumer, Delivery, Receipt, Unavailable};
use super::Shared;
use super::lanes::Queued;
use crate::domain::intake::Intake;

pub(super) struct EmbeddedConsumer {
    subscription: Arc<Subscription>,
    intake: Intake,
}

/// Outlives its consumer for as long as one of its deliveries is held.
struct Subscription {
    broker: Arc<Shared>,
    prefetch: AtomicUsize,
    /// Unacked deliveries; raised by `receive` alone, which has the consumer to itself.
    held: AtomicUsize,
    /// A delivery was acked or came back.
    freed: Notify,
}

impl EmbeddedConsumer {
    pub fn new(broker: Arc<Shared>, prefetch: usize, intake: Intake) -> Self {
        let prefetch = AtomicUsize::new(prefetch.max(1));
        let subscription = Subscription { broker, prefetch, held: AtomicUsize::new(0), freed: Notify::new() };
        Self { subscription: Arc::new(subscription), intake }
    }

    fn deliver(&self, queued: Queued) -> Delivery {
        let (message, lane, returns) = (queued.message.clone(), queued.lane, queued.returns);
        let receipt = Held { subscription: self.subscription.clone(), queued: Some(queued) };
        Delivery::new(message, lane, returns, Box::new(receipt))
    }
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, Unavailable> {
        // While there is work nothing below waits, and a loop of receive and ack would keep its thread
        // from every other consumer.
        consume_budget().await;
        let Subscription { broker, prefetch, held, freed } = &*self.subscription;
        // Nothing is sent ahead here.
        if max == 0 || self.intake.last {
            return Ok(Vec::new());
        }
        loop {
            // Created before the look, so what arrives after the look wakes it.
            let arrived = broker.arrived.notified();
            let room = prefetch.load(Ordering::Acquire).saturating_sub(held.load(Ordering::Acquire));
            if room == 0 {
                freed.notified().await;
                continue;
            }
            let (taken, next_due) = {
                let mut store = broker.store();
                (store.take(room.min(max), self.intake), store.next_due())
            };
            if !taken.is_empty() {
                held.fetch_add(taken.len(), Ordering::AcqRel);
                return Ok(taken.into_iter().map(|queued| self.deliver(queued)).collect());
            }
            tokio::select! {
                () = arrived => {}
                () = until(next_due) => {}
            }
        }
    }

    fn set_prefetch(&mut self, prefetch: usize) {
        self.subscription.prefetch.store(prefetch.max(1), Ordering::Release);
    }

    fn set_intake(&mut self, intake: Intake) {
        self.intake = intake;
    }
}

/// For ever if there is no such instant.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

/// A delivery's receipt; it keeps the message, as the worker may take the delivery's apart.
struct Held {
    subscription: Arc<Subscription>,
    /// None once acked.
    queued: Option<Queued>,
}

impl Receipt for Held {
    fn ack(mut self: Box<Self>) {
        if let Some(queued) = self.queued.take() {
            self.subscription.broker.store().forget(queued.lane, queued.entered);
            self.subscription.free_one();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(queued) = self.queued.take() {
            let broker = &self.subscription.broker;
            broker.store().take_back(queued);
            self.subscription.free_one();
            broker.arrived.notify_waiters();
        }
    }
}

impl Subscription {
    fn free_one(&self) {
        self.held.fetch_sub(1, Ordering::AcqRel);
        // The one waiter there can be; if there is none, the next `receive` looks once more for nothing.
        self.freed.notify_one();
    }
}
