//! Hands tasks from the ledger to the broker, and notices what the broker has lost.
//!
//! Three short steps, none of which holds a lock while the broker is asked: claim a batch, publish it
//! pipelined, end the claim. Publishing twice is harmless; a claim whose process died is taken
//! over. At most a window of messages a lane is with the broker; the rest waits in the ledger, in order.

mod deaths;
mod reconcile;
mod upkeep;
mod webhooks;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Depths, Durability, Message, Outgoing, Route, Unavailable};
use crate::config::Settings;
use crate::config::sections::QueueSettings;
use crate::db::claims::{Claim, ClaimedTask};
use crate::db::{Db, DbError};
use crate::domain::backoff::jittered;
use crate::domain::intake::Pauses;
use crate::domain::priority::Priority;
use crate::measures::Measures;
use crate::traces::Kind;
use reconcile::Look;
pub use webhooks::WebhookRelay;

/// Tasks in one claim: hundreds, as singly confirmed messages are sixty times slower.
const BATCH: u64 = 500;
/// Batches of a lane before the others have their turn, and how many of them are under way at once: a batch
/// waits for the broker's disk most of its time.
const BATCHES: u32 = 6;
const AT_ONCE: usize = 3;
/// While the window is full, how soon to look again whether a worker has made room.
const FULL_POLL: Duration = Duration::from_millis(20);
/// Claims of dead relays are looked for this often.
const CLAIM_CHECK: Duration = Duration::from_secs(5);
/// The longest wait between attempts while the database or the broker is away.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Broker(#[from] Unavailable),
    #[error("a publication ended early: {0}")]
    Ended(JoinError),
    #[error("the broker took none of {0} messages: {1}")]
    Refused(usize, String),
}

/// What a pass found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// Something was published: look again at once.
    Published,
    /// Nothing is due.
    Idle,
    /// Something is due, but its lane's window is full.
    Full,
}

pub struct Relay {
    db: Db,
    broker: Arc<dyn Broker>,
    measures: Arc<Measures>,
    window: u64,
    poll: Duration,
    reconcile_every: Duration,
    /// How much later than others a task may be served without being lost.
    lateness: Duration,
    /// Why tasks can't be handed over, for the heartbeat.
    trouble: Mutex<Option<String>>,
    /// What the reconciler saw last.
    seen: Mutex<Option<Look>>,
    /// The lanes that nobody takes from.
    paused: watch::Sender<Pauses>,
}

impl Relay {
    pub fn new(db: Db, broker: Arc<dyn Broker>, measures: Arc<Measures>, settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            db,
            broker,
            measures,
            window: settings.broker.window,
            poll: Duration::from_millis(settings.queue.poll_interval_ms),
            reconcile_every: Duration::from_millis(settings.queue.reconcile_interval_ms),
            lateness: lateness(&settings.queue),
            trouble: Mutex::default(),
            seen: Mutex::default(),
            paused: watch::Sender::new(Pauses::default()),
        })
    }

    /// Why tasks can't be handed over at the moment; or couldn't be, if there were any.
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        trouble.or_else(|| self.broker.trouble())
    }

    /// At boot, before anything is served: what a broker without a memory held is pending again.
    pub async fn recover(&self) -> Result<(), DbError> {
        if self.broker.durability() == Durability::Process {
            let released = self.db.release_all_published().await?;
            if released > 0 {
                tracing::info!(tasks = released, "took tasks of the last run up again");
            }
        }
        Ok(())
    }

    /// Relays until `shutdown`. Errors are waited out with back-off.
    pub async fn run(self: &Arc<Self>, shutdown: CancellationToken) {
        tokio::join!(self.hand_over(&shutdown), self.record_deaths(&shutdown), self.keep_up(&shutdown));
    }

    async fn hand_over(self: &Arc<Self>, shutdown: &CancellationToken) {
        let mut delays = patience();
        let mut checked = Instant::now();
        let mut reconciled = Instant::now();
        while !shutdown.is_cancelled() {
            // Registered before the look: a commit in between is not missed.
            let enqueued = self.db.enqueued().notified();
            let outcome = self.turn(&mut checked, &mut reconciled).await;
            self.note(outcome.as_ref().err());
            let wait = match outcome {
                Ok(pass) => {
                    delays = patience();
                    match pass {
                        Pass::Published => continue,
                        Pass::Idle => self.poll,
                        Pass::Full => FULL_POLL.min(self.poll),
                    }
                }
                Err(_) => {
                    // Waking up early would only fail early.
                    let delay = delays.next().unwrap_or(MAX_BACKOFF);
                    let _ = tokio::time::timeout(delay, shutdown.cancelled()).await;
                    continue;
                }
            };
            tokio::select! {
                () = enqueued => {}
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// Logs a failure when it begins and when it ends, not at each repetition; nor what the broker's own room
    /// has said.
    fn note(&self, error: Option<&RelayError>) {
        let text = error.map(ToString::to_string);
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*trouble, &text) {
            (None, Some(_)) if self.broker.trouble().is_some() => {}
            (None, Some(error)) => {
                tracing::warn!(%error, "tasks can't be handed to the broker; they wait in the ledger")
            }
            (Some(_), None) => tracing::info!("tasks are handed to the broker again"),
            _ => {}
        }
        *trouble = text;
    }

    async fn turn(self: &Arc<Self>, checked: &mut Instant, reconciled: &mut Instant) -> Result<Pass, RelayError> {
        if checked.elapsed() >= CLAIM_CHECK {
            *checked = Instant::now();
            let released = self.db.release_expired_claims().await?;
            if released > 0 {
                tracing::warn!(tasks = released, "took over the claim of a relay that has died");
            }
        }
        if reconciled.elapsed() >= self.reconcile_every {
            *reconciled = Instant::now();
            self.reconcile().await?;
        }
        self.pass().await
    }

    /// Some batches of each lane, the most urgent first, so that no lane waits for another's backlog.
    async fn pass(self: &Arc<Self>) -> Result<Pass, RelayError> {
        let due = self.db.has_due().await?;
        if !due.contains(&true) {
            return Ok(Pass::Idle);
        }
        let depths = self.broker.depths().await?;
        let mut pass = self.without_room(due);
        for lane in Priority::ALL {
            let room = self.window.saturating_sub(held(&depths, lane));
            if !due[lane as usize] || room == 0 {
                continue;
            }
            if self.publish_lane(lane, room).await? {
                pass = Pass::Published;
            }
        }
        Ok(pass)
    }

    /// What a pass is that finds no room for these: nothing is soon to be made in a lane that is paused.
    fn without_room(&self, due: [bool; 3]) -> Pass {
        let paused = self.paused.borrow();
        let served = Priority::ALL.into_iter().any(|lane| due[lane as usize] && !paused.is_paused(lane));
        if served { Pass::Full } else { Pass::Idle }
    }

    /// Up to [`BATCHES`] batches of a lane, within `room`; while one waits for its confirms, the next ones are
    /// claimed and sent. Returns whether there were any.
    async fn publish_lane(self: &Arc<Self>, lane: Priority, mut room: u64) -> Result<bool, RelayError> {
        let (mut under_way, mut published) = (JoinSet::new(), false);
        let mut claimed = Ok(());
        for _ in 0..BATCHES {
            let limit = BATCH.min(room);
            let claim = match self.db.claim(lane, limit).await {
                Ok(claim) if claim.tasks.is_empty() => break,
                Ok(claim) => claim,
                Err(error) => {
                    claimed = Err(error.into());
                    break;
                }
            };
            let taken = claim.tasks.len() as u64;
            published = true;
            room -= taken;
            let this = self.clone();
            under_way.spawn(async move { this.publish(lane, claim).await });
            if under_way.len() >= AT_ONCE
                && let Some(ended) = under_way.join_next().await
            {
                claimed = settled(ended);
            }
            if taken < limit || room == 0 || claimed.is_err() {
                break;
            }
        }
        // All that is under way ends before an error is told: what is given up half-way would stay claimed until
        // it expires.
        while let Some(ended) = under_way.join_next().await {
            claimed = claimed.and(settled(ended));
        }
        claimed.map(|()| published)
    }

    async fn publish(&self, lane: Priority, claim: Claim) -> Result<(), RelayError> {
        let mut spans = Vec::new();
        let outgoing = claim.tasks.iter().map(|claimed| {
            let mut outgoing = outgoing(lane, claimed, claim.at);
            let mut span = self.measures.traces.follow(Kind::Producer, "publish", claimed.trace);
            span.set("messaging.message.id", || outgoing.message.id.clone());
            span.set("messaging.destination.name", || lane.name());
            outgoing.message.trace = span.context().or(claimed.trace);
            spans.push(span);
            outgoing
        });
        let outgoing = outgoing.collect();
        let began = Instant::now();
        let answers = self.broker.publish(outgoing).await;
        self.measures.publish.took(began.elapsed());
        let mut refused = Vec::new();
        let mut reason = String::new();
        let mut queued = Vec::with_capacity(claim.tasks.len());
        for ((claimed, answer), mut span) in claim.tasks.iter().zip(answers).zip(spans) {
            match answer {
                Ok(()) => queued.push(claimed.task.recommendation_id),
                Err(error) => {
                    reason = error.to_string();
                    span.fail(&reason);
                    refused.push(claimed.task);
                }
            }
        }
        let failed = (queued.is_empty() && !refused.is_empty()).then(|| RelayError::Refused(refused.len(), reason));
        if !queued.is_empty() {
            tracing::info!(%lane, tasks = queued.len(), ids = ?queued, "queued");
        }
        self.db.confirm(claim, refused).await?;
        failed.map_or(Ok(()), Err)
    }
}

/// How a publication ended; one that panicked has confirmed nothing, and its claim expires.
fn settled(ended: Result<Result<(), RelayError>, JoinError>) -> Result<(), RelayError> {
    ended.unwrap_or_else(|end| Err(RelayError::Ended(end)))
}

fn patience() -> ExponentialBackoff {
    ExponentialBuilder::default().with_max_delay(MAX_BACKOFF).with_jitter().without_max_times().build()
}

/// What of a lane the broker holds, as far as this process knows: messages, and tasks that are in its own hands. In a
/// process without a worker those in the others' hands are missing: the window is then too wide by what workers hold,
/// which is little.
fn held(depths: &Depths, lane: Priority) -> u64 {
    depths.ready[lane as usize] + depths.unacked[lane as usize]
}

fn outgoing(lane: Priority, claimed: &ClaimedTask, published_at: DateTime<Utc>) -> Outgoing {
    let message = Message {
        id: claimed.task.to_string(),
        body: claimed.task.encode(),
        attempt: claimed.attempts,
        published_at,
        trace: None,
    };
    Outgoing { route: Route::Lane(lane), message }
}

/// A round of the reconciler, and the jitter by which a broker may keep a retry longer than it was asked to.
fn lateness(queue: &QueueSettings) -> Duration {
    let longest = queue.backoff().rungs().into_iter().max().unwrap_or_default();
    let jitter = jittered(longest, 1.0) - longest;
    Duration::from_millis(queue.reconcile_interval_ms) + jitter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_that_is_late_by_its_jitter_is_not_lost() {
        let mut queue = Settings::load(None, []).expect("the defaults are valid").queue;
        queue.reconcile_interval_ms = 30_000;
        (queue.retry_delay_ms, queue.retry_cap_ms) = (1_000, 600_000);
        let seconds = |max_retries| lateness(&QueueSettings { max_retries, ..queue.clone() }).as_secs();
        // A tenth of the longest delay that a retry can have: none, four seconds, the cap.
        assert_eq!([seconds(0), seconds(3), seconds(20)], [30, 30, 90]);
    }
}
