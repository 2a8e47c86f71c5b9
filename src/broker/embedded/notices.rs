//! A subscription to the dead letters, or to the notices of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::task::coop::consume_budget;

use super::super::{Consumer, Delivery, Receipt, Unavailable};
use super::Shared;
use super::store::{Notice, Shelf};
use crate::domain::intake::Intake;

pub(super) struct NoticeConsumer {
    broker: Arc<Shared>,
    shelf: Shelf,
    prefetch: usize,
    /// Unacked notices, of those that this consumer was told.
    held: Arc<AtomicUsize>,
}

impl NoticeConsumer {
    pub fn new(broker: Arc<Shared>, shelf: Shelf, prefetch: usize) -> Self {
        Self { broker, shelf, prefetch: prefetch.max(1), held: Arc::default() }
    }

    fn deliver(&self, notice: Notice) -> Delivery {
        let Notice { message, lane, death, told_before } = notice.clone();
        let (broker, held) = (self.broker.clone(), self.held.clone());
        let receipt = Held { broker, shelf: self.shelf, held, notice: Some(notice) };
        Delivery::new(message, lane, u32::from(told_before), Box::new(receipt)).with_death(Some(death))
    }
}

#[async_trait]
impl Consumer for NoticeConsumer {
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, Unavailable> {
        consume_budget().await;
        if max == 0 {
            return Ok(Vec::new());
        }
        loop {
            // Before the look, so what arrives after it wakes. All waiters are woken by all that happens here:
            // dead letters are rare.
            let arrived = self.broker.arrived.notified();
            let room = self.prefetch.saturating_sub(self.held.load(Ordering::Acquire));
            let notices = self.broker.store().take_from(self.shelf, room.min(max));
            if !notices.is_empty() {
                self.held.fetch_add(notices.len(), Ordering::AcqRel);
                return Ok(notices.into_iter().map(|notice| self.deliver(notice)).collect());
            }
            arrived.await;
        }
    }

    fn set_prefetch(&mut self, prefetch: usize) {
        self.prefetch = prefetch.max(1);
    }

    /// The lanes have nothing to do with it.
    fn set_intake(&mut self, _: Intake) {}
}

struct Held {
    broker: Arc<Shared>,
    shelf: Shelf,
    held: Arc<AtomicUsize>,
    /// None once acked.
    notice: Option<Notice>,
}

impl Receipt for Held {
    fn ack(mut self: Box<Self>) {
        self.notice = None;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::AcqRel);
        if let Some(notice) = self.notice.take() {
            self.broker.store().take_back_to(self.shelf, notice);
        }
        self.broker.arrived.notify_waiters();
    }
}
