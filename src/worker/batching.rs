//! How the next batch comes together, and when its call may begin.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::concurrency::{Concurrency, Permit};
use super::{Context, InForce};
use crate::broker::{Consumer, Delivery, Unavailable};
use crate::config::sections::QueueSettings;

/// The longest that a batch which isn't full waits for the database to have done with earlier ones, and how often it
/// looks what has come meanwhile: woken by each delivery, it would spend more on that than it wins.
const TOP_UP: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(2));

/// When a batch may be called for.
pub(super) enum Turn {
    Now(Permit),
    /// After those before it.
    Later(Queued),
}

/// A batch that is prepared while all calls run.
pub(super) struct Queued {
    /// Counts it.
    _queued: Arc<()>,
    calls: Concurrency,
    shutdown: CancellationToken,
}

impl Turn {
    /// The right to a call, once there is one; `None` when none is to begin any more.
    pub async fn come(self) -> Option<Permit> {
        match self {
            Self::Now(permit) => Some(permit),
            Self::Later(Queued { _queued, calls, shutdown }) => tokio::select! {
                biased;
                () = shutdown.cancelled() => None,
                permit = calls.acquire() => Some(permit),
            },
        }
    }
}

/// Takes batches from a subscription.
pub(super) struct Batching<'c> {
    pub consumer: &'c mut dyn Consumer,
    pub changes: watch::Receiver<InForce>,
    in_force: InForce,
    /// What came behind others and is to be worked on alone.
    suspect: Option<Delivery>,
    calls: Concurrency,
    /// As many others know it as batches are queued.
    queued: Arc<()>,
    context: Arc<Context>,
    shutdown: CancellationToken,
}

impl<'c> Batching<'c> {
    pub fn new(
        consumer: &'c mut dyn Consumer,
        changes: watch::Receiver<InForce>,
        calls: Concurrency,
        context: Arc<Context>,
        shutdown: CancellationToken,
    ) -> Self {
        let in_force = *changes.borrow();
        Self { consumer, changes, in_force, suspect: None, calls, queued: Arc::default(), context, shutdown }
    }

    /// Goes by the settings of this moment.
    pub fn obey(&mut self) {
        self.in_force = *self.changes.borrow_and_update();
        self.consumer.set_prefetch(self.in_force.prefetch);
        self.consumer.set_intake(self.in_force.intake);
    }

    /// The next batch: empty when there is reason to look at everything afresh, `None` when there will be no more.
    ///
    /// While all calls run, what comes is gathered for the next one; once that is full it is loaded ahead, or the
    /// provider would wait for the database before each call. Of 100 ms calls by eight that was a fifteenth of the
    /// time.
    ///
    /// What came back again and again may be what ends every worker that takes it, by the memory that it needs or by a
    /// bug. In a batch with others, all would become dead letters for the one: it is a batch of its own.
    pub async fn next(&mut self) -> Result<Option<(Vec<Delivery>, Turn)>, Unavailable> {
        let mut batch = Vec::new();
        let mut last = false;
        let permit = loop {
            let room = self.in_force.batch_size.saturating_sub(batch.len());
            let open = self.context.gate.closed().is_none();
            let ahead = open && QueueSettings::ahead(self.in_force.max_concurrent) > 0 && !last && room > 0;
            let ahead = ahead && self.suspect.is_none();
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Ok(None),
                // The broker can send ahead what the next calls will take, while those that run still do.
                _ = self.changes.changed() => self.obey(),
                // Otherwise before anything is taken: what can't be worked on stays with the broker.
                permit = self.calls.acquire() => break permit,
                more = self.consumer.receive(room), if ahead => {
                    let more = more?;
                    last = more.is_empty();
                    self.gather(&mut batch, more);
                    let full = batch.len() >= self.in_force.batch_size;
                    if full && Arc::strong_count(&self.queued) <= QueueSettings::ahead(self.in_force.max_concurrent) {
                        let (calls, shutdown) = (self.calls.clone(), self.shutdown.clone());
                        let queued = Queued { _queued: self.queued.clone(), calls, shutdown };
                        return Ok(Some((batch, Turn::Later(queued))));
                    }
                }
            }
        };
        if batch.is_empty() && self.suspect.is_none() {
            if self.context.gate.closed().is_some() {
                // By a call that ended meanwhile.
                return Ok(Some((batch, Turn::Now(permit))));
            }
            let received = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Ok(None),
                // The permit may be one too many by now: back with it, before another call starts.
                _ = self.changes.changed() => {
                    self.obey();
                    return Ok(Some((Vec::new(), Turn::Now(permit))));
                }
                received = self.consumer.receive(self.in_force.batch_size) => received?,
            };
            if received.is_empty() {
                return Ok(None);
            }
            self.gather(&mut batch, received);
        }
        if batch.is_empty() {
            return Ok(Some((Vec::from_iter(self.suspect.take()), Turn::Now(permit))));
        }
        if !last {
            self.top_up(&mut batch).await?;
        }
        Ok(Some((batch, Turn::Now(permit))))
    }

    /// Whether it has something in hand that no call waits for yet.
    pub fn holds_some(&self) -> bool {
        self.suspect.is_some()
    }

    /// Into the batch, but for a suspect behind the others.
    fn gather(&mut self, batch: &mut Vec<Delivery>, mut more: Vec<Delivery>) {
        debug_assert!(self.suspect.is_none());
        self.suspect = more.pop_if(|last| last.is_suspect());
        batch.extend(more);
    }

    /// Fills a batch while the database is busy with earlier ones, which it would only slow down. Started at once, in a
    /// full queue and with a model that takes no time, batches of up to 250 were of 17 texts, and what statements
    /// cost whatever they carry was a fifth of all.
    async fn top_up(&mut self, batch: &mut Vec<Delivery>) -> Result<(), Unavailable> {
        let (longest, look) = TOP_UP;
        let until = Instant::now() + longest;
        while self.suspect.is_none() && batch.len() < self.in_force.batch_size && Instant::now() < until {
            let quiet = timeout(look, self.context.storing.quiet()).await.is_ok();
            let room = self.in_force.batch_size - batch.len();
            match self.consumer.receive(room).now_or_never() {
                Some(more) => {
                    let more = more?;
                    if more.is_empty() {
                        break;
                    }
                    self.gather(batch, more);
                }
                None if quiet => break,
                None => {}
            }
            if quiet {
                break;
            }
        }
        Ok(())
    }
}
