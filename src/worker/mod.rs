//! The worker room: takes deliveries from the broker, has them embedded, writes the vectors back.
//!
//! Batching is natural: an idle worker starts at once with what is there; a busy one finds its next batch
//! full. There is no linger to tune: a batch waits for company only while the database is busy with an earlier one.

mod batching;
mod concurrency;
mod courier;
mod gate;
mod outcome;
mod process;
mod rows;
mod steering;
mod tally;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Consumer, InHand, Unavailable};
use crate::busy::Busy;
use crate::config::live::LiveQueue;
use crate::config::sections::QueueSettings;
use crate::db::Db;
use crate::domain::backoff::Backoff;
use crate::domain::intake::Intake;
use crate::embedder::Embedder;
use crate::embedder::guard::Guarded;
use crate::embedder::meter::Meter;

use batching::Batching;
pub use courier::Courier;
use gate::Gate;
use rows::Rows;
pub use steering::ConcurrencyView;
use steering::Steering;
pub use tally::Tally;

/// The longest wait before subscribing again.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// The longest that deliveries are held while no call can be made: RabbitMQ takes the channel from a consumer
/// that keeps one for half an hour.
const LONGEST_HOLD: Duration = Duration::from_secs(20 * 60);

pub struct Worker {
    context: Arc<Context>,
    steering: Arc<Steering>,
    grace: Duration,
    /// Whether something may still come.
    subscribed: AtomicBool,
    courier: Option<Arc<Courier>>,
}

/// The settings that a worker goes by at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Calls at once.
    pub max_concurrent: usize,
    /// Texts in one call, where so many wait.
    pub batch_size: usize,
    /// Deliveries in hand at most.
    pub prefetch: usize,
    pub intake: Intake,
}

impl InForce {
    fn new(queue: &QueueSettings, max_concurrent: usize, worthwhile_inputs: usize, intake: Intake) -> Self {
        let batch_size = queue.batch_size.max(worthwhile_inputs);
        let prefetch = QueueSettings::prefetch(max_concurrent, batch_size);
        Self { max_concurrent, batch_size, prefetch, intake }
    }
}

/// What every batch needs.
struct Context {
    db: Db,
    broker: Arc<dyn Broker>,
    embedder: Arc<dyn Embedder>,
    backoff: Backoff,
    gate: Gate,
    rows: Rows,
    tally: Arc<Tally>,
    meter: Meter,
    /// Batches that are being loaded or written back.
    storing: Busy,
    /// This process, as the others know it.
    process: Arc<str>,
}

impl Worker {
    /// `guard` is the embedder once more, where it is a remote one under control; `meter` counts what its calls
    /// take, and what it needn't be asked for. `process` is the id under which the others know this one.
    pub fn new(
        db: Db,
        broker: Arc<dyn Broker>,
        embedder: Arc<dyn Embedder>,
        guard: Option<Arc<Guarded>>,
        meter: Meter,
        queue: &QueueSettings,
        process: Arc<str>,
    ) -> Self {
        let tally = Arc::new(Tally::default());
        let steering = Arc::new(Steering::new(queue, embedder.limits().worthwhile_inputs, guard.is_some()));
        if let Some(guard) = &guard {
            let steering = steering.clone();
            guard.observe(move |sample| steering.learn(sample));
        }
        let (backoff, gate, rows) = (queue.backoff(), Gate::new(guard), Rows::default());
        let storing = Busy::default();
        let context = Context { db, broker, embedder, backoff, gate, rows, tally, meter, storing, process };
        let grace = Duration::from_millis(queue.shutdown_grace_ms);
        Self { context: Arc::new(context), steering, grace, subscribed: AtomicBool::new(false), courier: None }
    }

    /// With the half that delivers webhooks: what this worker is told to take holds for it, too.
    pub fn with_courier(self, courier: Arc<Courier>) -> Self {
        Self { courier: Some(courier), ..self }
    }

    /// What this worker goes by at the moment.
    pub fn in_force(&self) -> InForce {
        self.steering.in_force()
    }

    /// How many calls at once there are, and why.
    pub fn concurrency(&self) -> ConcurrencyView {
        self.steering.view()
    }

    /// Why the provider can't be used at the moment.
    pub fn trouble(&self) -> Option<String> {
        // Of a provider under control it is known at any moment; of another, until a call goes well.
        let known = self.context.gate.is_guarded() && self.context.gate.closed().is_none();
        self.context.tally.provider_error().filter(|_| !known)
    }

    /// Goes by these values from now on, and by its own where there is none. Calls in flight are finished.
    pub fn follow(&self, live: LiveQueue, intake: Intake) {
        self.steering.follow(live, intake);
        if let Some(courier) = &self.courier {
            courier.follow(intake);
        }
    }

    /// Whether it has been told to take nothing more.
    pub fn is_draining(&self) -> bool {
        self.in_force().intake.last
    }

    /// Whether it holds nothing and nothing can come.
    pub fn is_empty(&self) -> bool {
        let in_hand = self.in_hand().iter().any(|lane| lane.deliveries > 0);
        let couriers = self.courier.as_ref().is_none_or(|courier| courier.is_empty());
        couriers && !self.subscribed.load(Ordering::Acquire) && !in_hand && self.context.tally.in_flight() == 0
    }

    /// What this worker has done so far, for the heartbeat.
    pub fn tally(&self) -> Arc<Tally> {
        self.context.tally.clone()
    }

    /// What this process's calls took since it was last asked.
    pub fn meter(&self) -> &Meter {
        &self.context.meter
    }

    /// What this process holds of each lane, for the heartbeat.
    pub fn in_hand(&self) -> [InHand; 3] {
        self.context.broker.in_hand()
    }

    /// Works until `shutdown`, then finishes what is in flight within the grace time; what isn't done by
    /// then goes back to its lane.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut calls = JoinSet::new();
        let patience =
            || ExponentialBuilder::default().with_max_delay(MAX_BACKOFF).with_jitter().without_max_times();
        let mut delays = patience().build();
        let mut away = false;
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = self.ready_to_subscribe() => {}
                () = shutdown.cancelled() => break,
            }
            let InForce { prefetch, intake, .. } = self.in_force();
            self.subscribed.store(true, Ordering::Release);
            match self.context.broker.consume_from(prefetch, intake).await {
                Ok(mut consumer) => {
                    delays = patience().build();
                    if std::mem::take(&mut away) {
                        tracing::info!("subscribed again");
                    }
                    let ended = self.consume(consumer.as_mut(), &mut calls, &shutdown).await;
                    if let Err(error) = ended {
                        away = true;
                        tracing::warn!(%error, "the subscription ended; subscribing again");
                    }
                }
                // Once, and not where the broker's own room has said it.
                Err(error) if !std::mem::replace(&mut away, true) && self.context.broker.trouble().is_none() => {
                    tracing::warn!(%error, "can't subscribe; trying again");
                }
                Err(error) => tracing::debug!(%error, "can't subscribe"),
            }
            self.subscribed.store(false, Ordering::Release);
            if self.is_draining() {
                // The calls in flight end by themselves; what comes after is another subscription.
                delays = patience().build();
                continue;
            }
            let delay = delays.next().unwrap_or(MAX_BACKOFF);
            let _ = tokio::time::timeout(delay, shutdown.cancelled()).await;
        }
        self.drain(calls).await;
    }

    /// Waits until calls may be made, and something may be taken.
    async fn ready_to_subscribe(&self) {
        let mut changes = self.steering.changes();
        // An error says that the worker is gone.
        let _ = changes.wait_for(|in_force| !in_force.intake.last).await;
        self.context.gate.open().await;
    }

    async fn consume(
        &self,
        consumer: &mut dyn Consumer,
        calls: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> Result<(), Unavailable> {
        let (changes, at_once) = (self.steering.changes(), self.steering.concurrency.clone());
        let mut batching = Batching::new(consumer, changes, at_once, self.context.clone(), shutdown.clone());
        loop {
            batching.obey();
            // What it has taken already, it doesn't keep until then: that goes back to the ledger, and begins anew.
            let waits = !batching.holds_some();
            let open = async {
                if waits {
                    self.context.gate.open().await;
                }
            };
            tokio::select! {
                opened = timeout(LONGEST_HOLD, open) => if opened.is_err() {
                    // What was sent ahead goes back until calls may be made.
                    return Ok(());
                },
                _ = batching.changes.changed() => continue,
                () = shutdown.cancelled() => return Ok(()),
            }
            let Some((batch, turn)) = batching.next().await? else { return Ok(()) };
            if batch.is_empty() {
                continue;
            }
            calls.spawn(process::process(self.context.clone(), batch, turn));
            while let Some(ended) = calls.try_join_next() {
                report(ended);
            }
        }
    }

    async fn drain(&self, mut calls: JoinSet<()>) {
        let finish = async {
            while let Some(ended) = calls.join_next().await {
                report(ended);
            }
        };
        if tokio::time::timeout(self.grace, finish).await.is_err() {
            let left = calls.len();
            // Their deliveries are dropped unacked, which returns them.
            calls.shutdown().await;
            tracing::warn!(calls = left, "calls were not finished within the grace time; their tasks go back");
        }
    }
}

/// A panic in one batch returns its deliveries and harms no other.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a batch panicked; its tasks go back to their lanes");
    }
}
