//! Takes deliveries of webhooks from their broker, sends them, and writes down what came of it.
//!
//! Written to the ledger first, then acked: a crash in between means a second request with the same `webhook-id`,
//! never none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use chrono::Utc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::outcome::patiently;
use super::{MAX_BACKOFF, report};
use crate::broker::on_demand::OnDemand;
use crate::broker::{Consumer, Delivery, Unavailable};
use crate::config::Settings;
use crate::db::Db;
use crate::db::webhooks::{LoadedDelivery, Recorded, Verdict};
use crate::domain::backoff::jittered;
use crate::domain::intake::Intake;
use crate::domain::webhook::Schedule;
use crate::domain::webhook::handover::Handover;
use crate::webhook::{Answer, Outgoing, Sender};

/// How often to look whether there is an endpoint at all: without one, there is no subscription.
const LOOK: Duration = Duration::from_secs(1);

/// The half of a worker that delivers webhooks.
pub struct Courier {
    context: Arc<Context>,
    broker: Arc<OnDemand>,
    permits: Arc<Semaphore>,
    /// Deliveries in hand at most.
    max_concurrent: usize,
    /// Whether it has been told to take nothing more.
    draining: watch::Sender<bool>,
    subscribed: AtomicBool,
    grace: Duration,
}

/// What each request needs.
struct Context {
    db: Db,
    sender: Sender,
    schedule: Schedule,
    disable_after: Duration,
    worker: Arc<str>,
    in_flight: AtomicUsize,
}

/// Counts a delivery as in hand for as long as this lives, a panic included.
struct InFlight<'c>(&'c AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Courier {
    /// `worker` is the id under which the others know this process.
    pub fn new(db: Db, broker: Arc<OnDemand>, sender: Sender, settings: &Settings, worker: Arc<str>) -> Self {
        let webhook = &settings.webhook;
        let (schedule, disable_after) = (webhook.schedule(), webhook.disable_after());
        let in_flight = AtomicUsize::new(0);
        Self {
            context: Arc::new(Context { db, sender, schedule, disable_after, worker, in_flight }),
            broker,
            permits: Arc::new(Semaphore::new(webhook.max_concurrent)),
            max_concurrent: webhook.max_concurrent,
            draining: watch::Sender::new(false),
            subscribed: AtomicBool::new(false),
            grace: Duration::from_millis(settings.queue.shutdown_grace_ms),
        }
    }

    /// Pauses of lanes are about embeddings; what a drain says holds here, too.
    pub fn follow(&self, intake: Intake) {
        self.draining.send_if_modified(|draining| std::mem::replace(draining, intake.last) != intake.last);
    }

    /// Whether it holds nothing and nothing can come.
    pub fn is_empty(&self) -> bool {
        !self.subscribed.load(Ordering::Acquire) && self.context.in_flight.load(Ordering::Acquire) == 0
    }

    /// Delivers until `shutdown`, then finishes what is in flight within the grace time; what isn't done by then goes
    /// back to the broker.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut requests = JoinSet::new();
        let patience =
            || ExponentialBuilder::default().with_max_delay(MAX_BACKOFF).with_jitter().without_max_times().build();
        let (mut delays, mut away) = (patience(), false);
        loop {
            tokio::select! {
                () = self.wanted() => {}
                () = shutdown.cancelled() => break,
            }
            self.subscribed.store(true, Ordering::Release);
            let ended = match self.subscribe().await {
                Ok(mut consumer) => {
                    delays = patience();
                    if std::mem::take(&mut away) {
                        tracing::info!("subscribed to webhooks again");
                    }
                    self.consume(consumer.as_mut(), &mut requests, &shutdown).await
                }
                Err(error) => Err(error),
            };
            self.subscribed.store(false, Ordering::Release);
            let Err(error) = ended else { continue };
            if !std::mem::replace(&mut away, true) {
                tracing::warn!(%error, "can't take webhooks from the broker; trying again");
            }
            let _ = tokio::time::timeout(delays.next().unwrap_or(MAX_BACKOFF), shutdown.cancelled()).await;
        }
        self.finish(requests).await;
    }

    async fn subscribe(&self) -> Result<Box<dyn Consumer>, Unavailable> {
        self.broker.get()?.consume(self.max_concurrent).await
    }

    /// Waits until something may be taken and there may be something.
    async fn wanted(&self) {
        let mut draining = self.draining.subscribe();
        // An error says that the courier is gone.
        let _ = draining.wait_for(|draining| !draining).await;
        while !matches!(self.context.db.has_webhooks().await, Ok(true)) {
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn consume(
        &self,
        consumer: &mut dyn Consumer,
        requests: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> Result<(), Unavailable> {
        let mut draining = self.draining.subscribe();
        loop {
            consumer.set_intake(Intake { last: *draining.borrow_and_update(), ..Intake::ALL });
            // Before anything is taken: what can't be sent yet stays where another worker may take it.
            let permit = tokio::select! {
                permit = self.permits.clone().acquire_owned() => permit,
                () = shutdown.cancelled() => return Ok(()),
            };
            // The semaphore is never closed.
            let Ok(permit) = permit else { return Ok(()) };
            let received = tokio::select! {
                received = consumer.receive(1) => received?,
                _ = draining.changed() => continue,
                () = shutdown.cancelled() => return Ok(()),
            };
            let Some(delivery) = received.into_iter().next() else { return Ok(()) };
            self.context.in_flight.fetch_add(1, Ordering::AcqRel);
            requests.spawn(deliver(self.context.clone(), delivery, permit));
            while let Some(ended) = requests.try_join_next() {
                report(ended);
            }
        }
    }

    async fn finish(&self, mut requests: JoinSet<()>) {
        let finish = async {
            while let Some(ended) = requests.join_next().await {
                report(ended);
            }
        };
        if tokio::time::timeout(self.grace, finish).await.is_err() {
            let left = requests.len();
            requests.shutdown().await;
            tracing::warn!(
                requests = left,
                "webhooks were not answered within the grace time; they are sent again"
            );
        }
    }
}

/// One delivery from its message to its ack.
async fn deliver(context: Arc<Context>, delivery: Delivery, _permit: OwnedSemaphorePermit) {
    let _in_flight = InFlight(&context.in_flight);
    let handover = match Handover::decode(&delivery.message.body) {
        Ok(handover) => handover,
        Err(error) => {
            tracing::error!(message_id = delivery.message.id, %error, "dropped: not a delivery of this program");
            return delivery.ack();
        }
    };
    let Some(loaded) = patiently("load a webhook", || context.db.load_delivery(handover)).await else { return };
    let Some(loaded) = loaded else {
        tracing::debug!(delivery = handover.delivery_id, round = handover.round, "dropped as stale");
        return delivery.ack();
    };
    let written = if loaded.disabled {
        patiently("give a webhook back", || context.db.give_back_deliveries(vec![handover])).await
    } else {
        context.send(loaded).await
    };
    if written.is_some() {
        delivery.ack();
    }
}

impl Context {
    /// `None` when what came of it could not be written down.
    async fn send(&self, loaded: LoadedDelivery) -> Option<()> {
        let outgoing = Outgoing {
            url: &loaded.url,
            event_id: &loaded.event_id,
            payload: &loaded.payload,
            secrets: &loaded.secrets,
        };
        let answer = self.sender.send(outgoing).await;
        let verdict = self.verdict(&loaded, &answer);
        log(&loaded, &answer, verdict);
        let recorded = Recorded {
            handover: loaded.handover,
            endpoint_id: loaded.endpoint_id,
            event: loaded.event,
            verdict,
            at: answer.at,
            url: loaded.url,
            status: answer.status,
            duration: answer.duration,
            response: answer.response,
            error: answer.error,
            worker: self.worker.clone(),
            disable_after: self.disable_after,
        };
        patiently("record a webhook", || self.db.record_delivery(recorded.clone())).await.map(drop)
    }

    fn verdict(&self, loaded: &LoadedDelivery, answer: &Answer) -> Verdict {
        if answer.is_delivered() {
            return Verdict::Delivered;
        }
        if answer.is_gone() {
            return Verdict::Gone;
        }
        match self.schedule.after(loaded.event, loaded.failures + 1) {
            None => Verdict::GivenUp,
            Some(wait) => {
                let wait = jittered(wait, rand::random());
                // A schedule's waits are weeks at most.
                Verdict::Retry { not_before: Utc::now() + wait }
            }
        }
    }
}

/// Without the URL, which may hold a key.
fn log(loaded: &LoadedDelivery, answer: &Answer, verdict: Verdict) {
    let (webhook, delivery, event) = (loaded.endpoint_id, loaded.handover.delivery_id, loaded.event.as_str());
    let (ms, attempt) = (answer.duration.as_millis() as u64, loaded.failures + 1);
    let error = answer.error.as_deref().unwrap_or_default();
    match verdict {
        Verdict::Delivered => tracing::info!(webhook, delivery, event, ms, attempt, "webhook delivered"),
        Verdict::Retry { not_before } => {
            tracing::warn!(webhook, delivery, event, ms, attempt, error, %not_before, "webhook failed; it is retried");
        }
        Verdict::GivenUp | Verdict::Gone => {
            tracing::error!(webhook, delivery, event, ms, attempt, error, "webhook given up");
        }
    }
}
