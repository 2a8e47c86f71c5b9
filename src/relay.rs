//! Hands tasks from the ledger to the broker, and notices what the broker has lost.
//!
//! Three short steps, none of which holds a lock while the broker is asked: claim a batch, publish it
//! pipelined, mark what was confirmed. Publishing twice is harmless; a claim whose process died is taken
//! over. At most a window of tasks a lane is with the broker; the rest waits in the ledger, in order.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use chrono::Utc;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Depths, Durability, Message, Outgoing, Route, Unavailable};
use crate::config::Settings;
use crate::config::sections::QueueSettings;
use crate::db::tasks::{Claim, ClaimedTask, FailedAttempt};
use crate::db::{Db, DbError};
use crate::domain::backoff::jittered;
use crate::domain::priority::Priority;
use crate::domain::status::TaskState;
use crate::domain::task::EmbedTask;

/// Tasks in one claim: hundreds, as singly confirmed messages are sixty times slower.
const BATCH: u64 = 500;
/// While the window is full, how soon to look again whether a worker has made room.
const FULL_POLL: Duration = Duration::from_millis(20);
/// Claims of dead relays are looked for this often.
const CLAIM_CHECK: Duration = Duration::from_secs(5);
/// The longest wait between attempts while the database or the broker is away.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Dead letters looked at in one pass.
const DEAD_LETTERS: usize = 1000;

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Broker(#[from] Unavailable),
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
    window: u64,
    poll: Duration,
    reconcile_every: Duration,
    /// How much later than others a task may be served without being lost.
    lateness: Duration,
    /// Why the broker can't be used, for the heartbeat.
    trouble: Mutex<Option<String>>,
}

impl Relay {
    pub fn new(db: Db, broker: Arc<dyn Broker>, settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            db,
            broker,
            window: settings.broker.window,
            poll: Duration::from_millis(settings.queue.poll_interval_ms),
            reconcile_every: Duration::from_millis(settings.queue.reconcile_interval_ms),
            lateness: lateness(&settings.queue),
            trouble: Mutex::default(),
        })
    }

    /// Why tasks can't be handed over at the moment.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
    pub async fn run(&self, shutdown: CancellationToken) {
        let patience =
            || ExponentialBuilder::default().with_max_delay(MAX_BACKOFF).with_jitter().without_max_times();
        let mut delays = patience().build();
        let mut checked = Instant::now();
        let mut reconciled = Instant::now();
        while !shutdown.is_cancelled() {
            // Registered before the look: a commit in between is not missed.
            let enqueued = self.db.enqueued().notified();
            let outcome = self.turn(&mut checked, &mut reconciled).await;
            self.note(outcome.as_ref().err());
            let wait = match outcome {
                Ok(pass) => {
                    delays = patience().build();
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

    /// Logs a failure when it begins and when it ends, not at each repetition.
    fn note(&self, error: Option<&RelayError>) {
        let text = error.map(ToString::to_string);
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*trouble, &text) {
            (None, Some(error)) => {
                tracing::warn!(%error, "tasks can't be handed to the broker; they wait in the ledger")
            }
            (Some(_), None) => tracing::info!("tasks are handed to the broker again"),
            _ => {}
        }
        *trouble = text;
    }

    async fn turn(&self, checked: &mut Instant, reconciled: &mut Instant) -> Result<Pass, RelayError> {
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

    /// One batch of each lane, the most urgent first, so that no lane waits for another's backlog.
    async fn pass(&self) -> Result<Pass, RelayError> {
        let due = self.db.has_due().await?;
        if !due.contains(&true) {
            return Ok(Pass::Idle);
        }
        let depths = self.broker.depths().await?;
        let mut pass = Pass::Full;
        for lane in Priority::ALL {
            let room = self.window.saturating_sub(held(&depths, lane));
            if !due[lane as usize] || room == 0 {
                continue;
            }
            let claim = self.db.claim(lane, BATCH.min(room)).await?;
            if !claim.tasks.is_empty() {
                self.publish(lane, claim).await?;
                pass = Pass::Published;
            }
        }
        Ok(pass)
    }

    async fn publish(&self, lane: Priority, claim: Claim) -> Result<(), RelayError> {
        let outgoing = claim.tasks.iter().map(|claimed| outgoing(lane, claimed)).collect();
        let answers = self.broker.publish(outgoing).await;
        let mut refused = Vec::new();
        let mut reason = String::new();
        let mut queued = Vec::with_capacity(claim.tasks.len());
        for (claimed, answer) in claim.tasks.iter().zip(answers) {
            match answer {
                Ok(()) => queued.push(claimed.task.recommendation_id),
                Err(error) => {
                    reason = error.to_string();
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

    /// Looks for tasks that the ledger believes with the broker and the broker no longer has.
    ///
    /// A backlog is no loss: the lanes are first in, first out, so a task is lost when its lane is empty
    /// or has long since served later ones, never for its age alone.
    pub async fn reconcile(&self) -> Result<(), DbError> {
        // Before the broker is asked: a task that was due by then and isn't counted is lost.
        let asked = Utc::now();
        let Ok(depths) = self.broker.depths().await else { return Ok(()) };
        self.record_dead_letters().await?;
        let grace = chrono::Duration::from_std(self.lateness).unwrap_or(chrono::Duration::MAX);
        let workers = self.db.workers().await?;
        for lane in Priority::ALL {
            let served =
                workers.iter().filter_map(|w| [w.served_high, w.served_normal, w.served_low][lane as usize]);
            let empty = held(&depths, lane) == 0 && workers.iter().all(|w| w.in_flight == 0);
            let progress = if empty { Some(asked) } else { served.max() };
            let Some(before) = progress.and_then(|moment| moment.checked_sub_signed(grace)) else { continue };
            let lost = self.db.release_lost(lane, before).await?;
            if lost > 0 {
                tracing::warn!(%lane, tasks = lost, "the broker has lost tasks; they are pending again");
            }
        }
        Ok(())
    }

    /// What the broker itself gave up (a delivery limit) is written into the ledger with its reason.
    async fn record_dead_letters(&self) -> Result<(), DbError> {
        let Ok(letters) = self.broker.dead_letters(DEAD_LETTERS).await else { return Ok(()) };
        let dead = letters.into_iter().filter_map(|letter| {
            let task = EmbedTask::decode(&letter.message.body).ok()?;
            let attempts = letter.message.attempt;
            Some(FailedAttempt {
                task,
                attempts,
                error: letter.reason,
                state: TaskState::Dead,
                not_before: letter.at,
            })
        });
        let dead: Vec<FailedAttempt> = dead.collect();
        if dead.is_empty() { Ok(()) } else { self.db.record_broker_dead(dead).await }
    }
}

/// Messages of a lane that the broker holds.
fn held(depths: &Depths, lane: Priority) -> u64 {
    depths.ready[lane as usize] + depths.unacked[lane as usize]
}

fn outgoing(lane: Priority, claimed: &ClaimedTask) -> Outgoing {
    let message = Message {
        id: claimed.task.to_string(),
        body: claimed.task.encode(),
        attempt: claimed.attempts,
        published_at: Utc::now(),
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
