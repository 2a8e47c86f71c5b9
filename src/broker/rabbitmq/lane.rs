//! One queue's channel: passes deliveries on as they come, and tells the server what has been settled.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

#[cfg(test)]
use super::super::Message;
use super::super::Unavailable;
use super::super::in_hand::Hands;
use super::connection::described;
use super::consumer::Inbox;
use super::link::{ANSWER, Live, within};
use super::message::{Received, received};
use super::settled::{Frame, Settled};
use super::splitter::Splitter;
use crate::domain::priority::Priority;

/// Acks that follow within this time go together: a worker acks a batch one by one.
const GATHER: Duration = Duration::from_millis(2);

/// Where so many deliveries have come together, the next are let gather: woken for each of them, this task and the
/// worker behind it would spend more on that than on what they were told.
const FLOOD: usize = 32;
const PAUSE: Duration = Duration::from_millis(1);

/// What a lane and the receipts of its deliveries share. It outlives the subscription for as long as one of
/// them is held.
pub(super) struct Lane {
    /// `None` for the notices of dead letters, which are in no lane.
    priority: Option<Priority>,
    settled: Mutex<Settled>,
    /// Something was settled.
    changed: Notify,
    hands: Arc<Mutex<Hands>>,
    /// Other channels have taken over.
    retired: CancellationToken,
}

/// Why a channel delivers no more.
enum End {
    /// The caller has closed the subscription, or another channel of it has failed.
    Closed,
    /// Other channels have taken over; what came through this one is still handed out.
    Retired,
    /// The channel or its queue is gone.
    Lost(String),
}

/// A delivery on its way to the caller.
pub(super) struct Arrival {
    pub received: Received,
    pub lane: Arc<Lane>,
    pub tag: u64,
    /// How many came in the same message, and at which place in it this one.
    pub parts: usize,
    pub part: usize,
    pub at: Instant,
}

impl Arrival {
    pub fn ack(self) {
        self.lane.ack(self.tag, self.received.entered);
    }

    pub fn give_back(self) {
        self.lane.give_back(self.tag, self.received.entered);
    }

    /// One that has just come, after so many returns.
    #[cfg(test)]
    pub fn mock(lane: &Arc<Lane>, tag: u64, returns: u32) -> Self {
        let (now, priority) = (Utc::now(), lane.priority.unwrap_or(Priority::Normal));
        let message = Message { id: tag.to_string(), body: Vec::new(), attempt: 0, published_at: now, trace: None };
        let received = Received { message, lane: priority, entered: now, returns, death: None };
        Self { received, lane: lane.clone(), tag, parts: 1, part: 0, at: Instant::now() }
    }
}

impl Lane {
    pub fn new(priority: Option<Priority>, hands: Arc<Mutex<Hands>>, retired: CancellationToken) -> Arc<Self> {
        Arc::new(Self { priority, settled: Mutex::default(), changed: Notify::new(), hands, retired })
    }

    /// Whether its messages are worked on, rather than taken notice of.
    pub fn is_worked_on(&self) -> bool {
        self.priority.is_some()
    }

    pub fn is_retired(&self) -> bool {
        self.retired.is_cancelled()
    }

    pub fn ack(&self, tag: u64, entered: DateTime<Utc>) {
        self.settled().ack(tag, Instant::now());
        self.left(entered);
    }

    pub fn give_back(&self, tag: u64, entered: DateTime<Utc>) {
        self.settled().give_back(tag, Instant::now());
        self.left(entered);
    }

    fn left(&self, entered: DateTime<Utc>) {
        if let Some(lane) = self.priority {
            self.hands.lock().unwrap_or_else(PoisonError::into_inner).leave(lane, entered);
        }
        self.changed.notify_one();
    }

    /// What came together, in its order.
    fn arrived(self: &Arc<Self>, deliveries: Vec<Delivery>) -> Vec<Arrival> {
        let (now, at) = (Utc::now(), Instant::now());
        let mut arrivals = Vec::with_capacity(deliveries.len());
        let mut settled = self.settled();
        for delivery in deliveries {
            let tag = delivery.delivery_tag;
            let of_message = received(delivery, self.priority, now).parts();
            let parts = of_message.len();
            settled.deliver(tag, parts);
            let arrival = |(part, received)| Arrival { received, lane: self.clone(), tag, parts, part, at };
            arrivals.extend(of_message.into_iter().enumerate().map(arrival));
        }
        drop(settled);
        if let Some(lane) = self.priority {
            let mut hands = self.hands.lock().unwrap_or_else(PoisonError::into_inner);
            arrivals.iter().for_each(|arrival| hands.take(lane, arrival.received.entered));
        }
        arrivals
    }

    fn settled(&self) -> MutexGuard<'_, Settled> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task behind a lane.
pub(super) struct Pump {
    lane: Arc<Lane>,
    inbox: Arc<Inbox>,
    live: Arc<Live>,
    splitter: Option<Arc<Splitter>>,
    queue: String,
    channel: Channel,
    stream: Consumer,
}

impl Pump {
    /// Subscribes to `queue` on a channel of its own, with at most `prefetch` unsettled messages.
    pub async fn subscribe(
        live: Arc<Live>,
        queue: &str,
        prefetch: usize,
        lane: Arc<Lane>,
        inbox: Arc<Inbox>,
        splitter: Option<Arc<Splitter>>,
    ) -> Result<Self, Unavailable> {
        let channel = live.channel().await?;
        // To RabbitMQ, 0 is unlimited.
        let prefetch = u16::try_from(prefetch.max(1)).unwrap_or(u16::MAX);
        within(channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let stream =
            within(channel.basic_consume(queue.into(), "mapx-embeddings".into(), options, arguments)).await?;
        Ok(Self { lane, inbox, live, splitter, queue: queue.to_owned(), channel, stream })
    }

    /// Runs until no more is to be delivered and all that was is settled, or the channel is lost.
    pub async fn run(mut self) {
        match self.deliver().await {
            End::Retired => {}
            End::Closed => self.inbox.end(None),
            End::Lost(reason) => {
                // Perhaps because its queue was deleted.
                self.live.undeclare();
                // Others go on for what their callers hold; nothing more is delivered to any.
                self.inbox.end(Some(reason));
            }
        }
        let connected = self.channel.status().connected();
        if connected {
            self.cancel().await;
        }
        self.inbox.stopped();
        if connected {
            self.settle_the_rest().await;
        }
        let _ = timeout(ANSWER, self.channel.close(200, "OK".into())).await;
    }

    /// Passes deliveries on until there are to be no more.
    async fn deliver(&mut self) -> End {
        let (mut flush_at, mut next_at): (Option<Instant>, Option<Instant>) = (None, None);
        let (inbox, lane) = (self.inbox.clone(), self.lane.clone());
        loop {
            tokio::select! {
                () = inbox.closed() => return End::Closed,
                () = lane.retired.cancelled() => return End::Retired,
                () = at(next_at) => next_at = None,
                delivery = self.stream.next(), if next_at.is_none() => {
                    let (deliveries, end) = self.burst(delivery);
                    next_at = (deliveries.len() >= FLOOD).then(|| Instant::now() + PAUSE);
                    self.pass_on(deliveries);
                    if let Some(reason) = end {
                        return End::Lost(reason);
                    }
                }
                () = self.lane.changed.notified() => {
                    flush_at.get_or_insert(Instant::now() + GATHER);
                }
                () = at(flush_at) => flush_at = match self.flush().await {
                    Ok(next) => next,
                    Err(reason) => return End::Lost(reason),
                },
            }
        }
    }

    fn pass_on(&self, deliveries: Vec<Delivery>) {
        let mut arrivals = self.lane.arrived(deliveries);
        if let Some(splitter) = &self.splitter {
            let bundles = arrivals.extract_if(.., |arrival| arrival.parts > 1);
            splitter.split(bundles.collect(), &self.inbox);
        }
        self.inbox.put(arrivals);
    }

    /// A delivery and all that have come with it, and why there are no more.
    fn burst(&mut self, first: Option<lapin::Result<Delivery>>) -> (Vec<Delivery>, Option<String>) {
        let mut deliveries = Vec::new();
        let mut next = Some(first);
        let end = loop {
            match next {
                Some(Some(Ok(delivery))) => deliveries.push(delivery),
                Some(Some(Err(error))) => break Some(described(&error)),
                // The queue was deleted, or its node has gone.
                Some(None) => {
                    break Some(format!("the subscription to {} was cancelled by the server", self.queue));
                }
                None => break None,
            }
            next = self.stream.next().now_or_never();
        };
        (deliveries, end)
    }

    /// No more deliveries. What is still on its way goes into the inbox, which returns it at once where the
    /// subscription has ended. What is to be returned follows the cancel without a wait for its answer: before
    /// someone else subscribes, it stands in front.
    async fn cancel(&mut self) {
        let cancel = self.channel.basic_cancel(self.stream.tag(), BasicCancelOptions::default());
        let _ = tokio::join!(timeout(ANSWER, cancel), self.flush());
        while let Ok(Some(Ok(delivery))) = timeout(GATHER, self.stream.next()).await {
            self.pass_on(vec![delivery]);
        }
    }

    async fn settle_the_rest(&mut self) {
        let mut flush_at = Some(Instant::now());
        while !self.lane.settled().is_done() && self.channel.status().connected() {
            tokio::select! {
                () = self.lane.changed.notified() => {
                    flush_at = Some(flush_at.unwrap_or(Instant::now()).min(Instant::now()));
                }
                () = at(flush_at) => match self.flush().await {
                    Ok(next) => flush_at = next,
                    Err(_) => return,
                },
            }
        }
    }

    /// Sends what is settled; returns when there will be more to send.
    async fn flush(&self) -> Result<Option<Instant>, String> {
        let (frames, next) = {
            let mut settled = self.lane.settled();
            (settled.frames(Instant::now()), settled.next_due())
        };
        // Written in this order, and not waited for one by one.
        let sent = join_all(frames.into_iter().map(|frame| self.send(frame)));
        match timeout(ANSWER, sent).await {
            Ok(sent) => sent.into_iter().collect::<Result<(), _>>().map_err(|error| described(&error))?,
            Err(_) => return Err("acks are not taken".to_owned()),
        }
        Ok(next)
    }

    async fn send(&self, frame: Frame) -> lapin::Result<()> {
        match frame {
            Frame::Ack { tag, multiple } => self.channel.basic_ack(tag, BasicAckOptions { multiple }).await,
            Frame::Reject { tag } => self.channel.basic_reject(tag, BasicRejectOptions { requeue: true }).await,
        }
    }
}

/// For ever if there is no such instant.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
