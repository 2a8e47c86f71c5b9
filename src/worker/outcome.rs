//! What becomes of a task after its attempt: written to the ledger first, then told to the broker, then
//! acked. A crash in between means twice, never not at all.

use std::future::Future;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::Context;
use super::process::Job;
use crate::broker::{Delivery, Outgoing, Route};
use crate::db::DbError;
use crate::db::attempts::FailureClass;
use crate::db::embeddings::{Finished, Made};
use crate::db::tasks::{AttemptMade, FailedAttempt};
use crate::domain::status::TaskState;
use crate::embedder::EmbedError;
use crate::traces::{Kind, Span};

/// The longest wait between attempts while the database is away.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A statement that fails in itself is tried this often before its batch goes back to the broker.
const MAX_FAILURES: u32 = 5;
/// An error's text in the ledger, in characters.
const MAX_ERROR: usize = 1_000;
/// After a wait, the gate opens so much later than the tasks are due: they are with the broker by then, and go into
/// full calls. Where requests are scarce, a call with one text would be dear.
const GATHER: Duration = Duration::from_millis(300);

/// Why an attempt failed, by what follows.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// No attempt can succeed: to the dead letters.
    Permanent(String),
    /// Another attempt may succeed.
    Transient(String),
    /// The provider's trouble: no attempt is counted.
    Wait { after: Duration, reason: String },
}

impl Failure {
    /// As what the attempt is remembered; not at all where none is counted.
    fn class(&self) -> Option<FailureClass> {
        match self {
            Self::Permanent(_) => Some(FailureClass::Permanent),
            Self::Transient(_) => Some(FailureClass::Transient),
            Self::Wait { .. } => None,
        }
    }
}

/// What a failed call means for its documents. Closes the gate at once where the provider is to be left alone,
/// so that no further call slips through while this batch is written back.
pub(super) fn failed_call(context: &Context, error: EmbedError) -> Failure {
    let (after, reason) = match error {
        EmbedError::Transient(reason) => return Failure::Transient(reason),
        EmbedError::Rejected(reason) => return Failure::Permanent(reason),
        EmbedError::Wait { after, reason } => {
            // While the breaker is open, its probe says when to go on, and not a time that was guessed.
            if !context.gate.is_refused() {
                context.gate.close_for(after + GATHER);
            }
            (after, reason)
        }
        EmbedError::Misconfigured(reason) => (context.gate.close_to_probe(), reason),
    };
    if context.tally.set_provider_error(Some(reason.clone())).is_none() {
        tracing::warn!(reason, pause_ms = after.as_millis() as u64, "the provider can't be used; its tasks wait");
    }
    Failure::Wait { after, reason }
}

/// A call went well. One that was under way when the gate was closed says nothing of what follows.
pub(super) fn succeeded_call(context: &Context) {
    if context.gate.closed().is_some() {
        return;
    }
    context.gate.succeeded();
    if context.tally.set_provider_error(None).is_some() {
        tracing::info!("the provider can be used again");
    }
}

/// The gate was closed after these documents were taken: they wait with the others.
pub(super) fn held_back(context: &Context) -> Option<Failure> {
    let after = context.gate.closed()?;
    let reason = context.tally.provider_error().unwrap_or_else(|| "the provider can't be used".into());
    Some(Failure::Wait { after, reason })
}

/// What follows a failure.
struct Verdict {
    job: Job,
    record: FailedAttempt,
    /// Where its copy goes; `None` when the ledger keeps it.
    route: Option<Route>,
}

/// A message that is no task: only the dead letters can hold it.
pub(super) async fn refuse(context: &Context, delivery: Delivery, reason: String) {
    tracing::error!(message_id = delivery.message.id, reason, "dead-lettered: not a task of this program");
    let route = Route::Dead { lane: delivery.lane, reason };
    let copy = Outgoing { route, message: delivery.message.clone() };
    if let Some(Ok(())) = context.broker.publish(vec![copy]).await.pop() {
        delivery.ack();
    }
}

/// Deleted or edited since: the newer version has its own task.
pub(super) fn drop_stale(jobs: Vec<Job>) {
    for job in jobs {
        tracing::debug!(id = job.task.recommendation_id, version = job.task.content_version, "dropped as stale");
        job.delivery.ack();
    }
}

/// Writes the vectors back, ends the tasks, acks.
pub(super) async fn finish(context: &Context, finished: Vec<(Job, Made)>) {
    if finished.is_empty() {
        return;
    }
    let write = || context.db.finish(finished.iter().map(Finished::from).collect());
    let began = Instant::now();
    let writes = context.spans("write back", finished.iter().map(|(job, _)| job));
    let Some(current) = context.patiently("write back", write).await else { return };
    drop(writes);
    context.meter.measures().write_back.took(began.elapsed());
    let current = finished.iter().zip(current).filter(|(_, current)| *current);
    let ready: Vec<&Job> = current.map(|((job, _), _)| job).collect();
    let ids: Vec<i64> = ready.iter().map(|job| job.task.recommendation_id).collect();
    context.tally.note_ready(ids.len());
    measure_ready(context, &ready);
    tracing::info!(tasks = ids.len(), ?ids, "ready");
    for (job, _) in finished {
        job.delivery.ack();
    }
}

/// How long it took from the save. What a regeneration asked for nobody waits for.
fn measure_ready(context: &Context, ready: &[&Job]) {
    let now = Utc::now();
    for job in ready.iter().filter(|job| !job.regenerated) {
        if let Some(since) = job.enqueued_at {
            context.meter.measures().save_to_ready.took((now - since).to_std().unwrap_or_default());
        }
    }
}

/// Records failed attempts, sends the copies on, acks.
pub(super) async fn fail(context: &Context, failed: Vec<(Job, Failure)>, began: Instant) {
    if failed.is_empty() {
        return;
    }
    let duration = began.elapsed();
    let made = |failure: &Failure| {
        failure.class().map(|class| AttemptMade { class, worker: context.process.clone(), duration })
    };
    let judged = failed.into_iter().map(|(job, failure)| {
        let made = made(&failure);
        let mut verdict = judge(context, job, failure);
        verdict.record.made = made;
        verdict.job.span.fail(&verdict.record.error);
        verdict
    });
    let verdicts: Vec<Verdict> = judged.collect();
    let record = || context.db.record_failures(verdicts.iter().map(|v| v.record.clone()).collect());
    let Some(current) = context.patiently("record failures", record).await else { return };
    let (still, stale): (Vec<_>, Vec<_>) = verdicts.into_iter().zip(current).partition(|(_, current)| *current);
    drop_stale(stale.into_iter().map(|(verdict, _)| verdict.job).collect());
    send_on(context, still.into_iter().map(|(verdict, _)| verdict).collect()).await;
}

/// Decides what follows and says so in the log.
fn judge(context: &Context, job: Job, failure: Failure) -> Verdict {
    let id = job.task.recommendation_id;
    let attempts = job.attempts + 1;
    match failure {
        Failure::Permanent(reason) => dead(context, job, attempts, reason),
        Failure::Transient(reason) => match context.backoff.after(attempts) {
            None => dead(context, job, attempts, reason),
            Some(delay) => {
                tracing::warn!(id, attempt = attempts, delay_ms = delay.as_millis() as u64, reason, "retried");
                let route = Route::Retry { lane: job.delivery.lane, delay };
                verdict(job, attempts, reason, TaskState::Retrying, delay, Some(route))
            }
        },
        // Back to the ledger: what waits for the provider waits there and not in a worker's hands.
        Failure::Wait { after, reason } => {
            let attempts = job.attempts;
            // All at once, so that they share calls: the gate, and not chance, keeps them from falling upon the provider.
            verdict(job, attempts, reason, TaskState::Pending, after, None)
        }
    }
}

fn dead(context: &Context, job: Job, attempts: u32, reason: String) -> Verdict {
    tracing::error!(id = job.task.recommendation_id, attempts, reason, "dead-lettered");
    context.tally.note_failed(1);
    let route = Route::Dead { lane: job.delivery.lane, reason: reason.clone() };
    verdict(job, attempts, reason, TaskState::Dead, Duration::ZERO, Some(route))
}

fn verdict(
    job: Job,
    attempts: u32,
    reason: String,
    state: TaskState,
    delay: Duration,
    route: Option<Route>,
) -> Verdict {
    let error = reason.chars().take(MAX_ERROR).collect();
    let record = FailedAttempt { task: job.task, attempts, error, state, not_before: later(delay), made: None };
    Verdict { job, record, route }
}

fn later(delay: Duration) -> DateTime<Utc> {
    let delay = chrono::Duration::from_std(delay).unwrap_or(chrono::Duration::days(365));
    Utc::now().checked_add_signed(delay).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// Publishes the copies; what the broker doesn't take stays pending in the ledger.
async fn send_on(context: &Context, verdicts: Vec<Verdict>) {
    let copies = verdicts.iter().filter_map(|verdict| {
        let mut message = verdict.job.delivery.message.clone();
        message.attempt = verdict.record.attempts;
        Some(Outgoing { route: verdict.route.clone()?, message })
    });
    let mut answers = context.broker.publish(copies.collect()).await.into_iter();
    let mut kept = Vec::new();
    for verdict in verdicts.iter().filter(|verdict| verdict.route.is_some()) {
        let taken = matches!(answers.next(), Some(Ok(())));
        // A dead letter that the broker doesn't take is dead in the ledger all the same.
        if !taken && verdict.record.state == TaskState::Retrying {
            kept.push(FailedAttempt { state: TaskState::Pending, ..verdict.record.clone() });
        }
    }
    if !kept.is_empty() {
        tracing::warn!(tasks = kept.len(), "the broker did not take retries; the ledger keeps them");
        let record = || context.db.record_failures(kept.clone());
        if context.patiently("keep retries", record).await.is_none() {
            return;
        }
    }
    for verdict in verdicts {
        verdict.job.delivery.ack();
    }
}

impl Context {
    /// A span for each job that is traced, until they are dropped: what all of them wait for together.
    pub(super) fn spans<'j>(&self, name: &'static str, jobs: impl Iterator<Item = &'j Job>) -> Vec<Span> {
        let traces = &self.meter.measures().traces;
        jobs.filter_map(|job| Some(traces.follow(Kind::Client, name, Some(job.span.context()?)))).collect()
    }

    /// As [`patiently`]; the batch then goes back, and the broker's delivery limit ends it if need be.
    pub(super) async fn patiently<T, F>(&self, what: &str, call: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, DbError>>,
    {
        patiently(what, call).await
    }
}

/// Repeats a call of the database until it answers: while it is away, what is in hand is kept, as
/// giving it back would only bring it again. `None` when the statement itself keeps failing.
pub(super) async fn patiently<T, F>(what: &str, call: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T, DbError>>,
{
    let patience = ExponentialBuilder::default().with_max_delay(MAX_BACKOFF).with_jitter().without_max_times();
    let mut failures = 0;
    for delay in patience.build() {
        match call().await {
            Ok(value) => return Some(value),
            Err(DbError::Unavailable(reason)) => {
                tracing::warn!(what, reason, "the database is away; trying again")
            }
            Err(error) => {
                failures += 1;
                tracing::error!(what, %error, failures, "the database refuses");
                if failures >= MAX_FAILURES {
                    return None;
                }
            }
        }
        tokio::time::sleep(delay).await;
    }
    None
}
