//! The ledger: which embeddings are to be made, and how far each one is.
//!
//! A task's states: `pending` → `published` (to be found in `claims` while a relay still asks the broker) → gone, or
//! `retrying`, or `dead`. Every change names the version it is about, so that what is late changes nothing.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use sea_orm::{ConnectionTrait, FromQueryResult, Value};

use super::attempts::{self, FailureClass, NewAttempt};
use super::webhooks::{Dead, tell_dead};
use super::{Db, DbError, Tx, sql};
use crate::domain::dead_letter::error_group;
use crate::domain::priority::Priority;
use crate::domain::status::TaskState;
use crate::domain::task::{EmbedTask, Target};
use crate::domain::trace::TraceParent;

/// Tasks in one statement: ten parameters each.
const BATCH: usize = 1000;

/// A new task, or a newer version of one that is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewTask {
    pub recommendation_id: i64,
    pub content_version: i64,
    pub priority: Priority,
    pub trace: Option<TraceParent>,
}

/// What an enqueue does to a task that is there: it starts afresh with the newer version, at the more
/// urgent lane of the two, and keeps its place in the line unless it had been given up.
const COALESCE: &str = "ON CONFLICT (recommendation_id, target) DO UPDATE SET \
    content_version = excluded.content_version, \
    priority = CASE WHEN excluded.priority < embedding_tasks.priority THEN excluded.priority \
                    ELSE embedding_tasks.priority END, \
    enqueued_at = CASE WHEN embedding_tasks.state = 'dead' THEN excluded.enqueued_at \
                       ELSE embedding_tasks.enqueued_at END, \
    not_before = CASE WHEN embedding_tasks.state <> 'dead' AND embedding_tasks.not_before < excluded.not_before \
                      THEN embedding_tasks.not_before ELSE excluded.not_before END, \
    state = 'pending', attempts = 0, last_error = NULL, published_at = NULL, \
    updated_at = excluded.updated_at, trace = excluded.trace";

/// Enqueues in the caller's transaction: a row and its task are committed together or not at all.
pub(super) async fn enqueue(tx: &Tx<'_>, tasks: &[NewTask]) -> Result<(), DbError> {
    for tasks in tasks.chunks(BATCH) {
        let insert = format!(
            "INSERT INTO embedding_tasks (recommendation_id, target, content_version, priority, state, attempts, \
             enqueued_at, not_before, updated_at, trace) VALUES {} {COALESCE}",
            sql::tuples(tasks.len(), 10)
        );
        let now = sql::now();
        let values = tasks.iter().flat_map(|task| -> [Value; 10] {
            [
                task.recommendation_id.into(),
                Target::Current.as_str().into(),
                task.content_version.into(),
                task.priority.rank().into(),
                TaskState::Pending.as_str().into(),
                0i32.into(),
                now.into(),
                now.into(),
                now.into(),
                task.trace.map(|trace| trace.as_str().to_owned()).into(),
            ]
        });
        tx.conn().execute_raw(sql::bulk(tx.conn(), &insert, values.collect())).await?;
        tx.wake_relay();
    }
    Ok(())
}

/// A place or a service was renamed: everything that shows it has a new text. At low priority, as nobody
/// waits for it.
pub(super) async fn enqueue_shown(tx: &Tx<'_>, column: &'static str, id: i64) -> Result<(), DbError> {
    let bump = format!("UPDATE recommendations SET content_version = content_version + 1 WHERE {column} = $1");
    sql::execute(tx.conn(), &bump, [id.into()]).await?;
    let insert = format!(
        "INSERT INTO embedding_tasks (recommendation_id, target, content_version, priority, state, attempts, \
         enqueued_at, not_before, updated_at) \
         SELECT id, 'current', content_version, $2, 'pending', 0, $3, $3, $3 FROM recommendations \
         WHERE {column} = $1 {COALESCE}"
    );
    sql::execute(tx.conn(), &insert, [id.into(), Priority::Low.rank().into(), sql::now().into()]).await?;
    tx.wake_relay();
    Ok(())
}

/// No task is needed any more: the row has the vector of its text.
pub(super) async fn forget(tx: &Tx<'_>, recommendation_id: i64) -> Result<(), DbError> {
    let delete = "DELETE FROM embedding_tasks WHERE recommendation_id = $1 AND target = 'current'";
    sql::execute(tx.conn(), delete, [recommendation_id.into()]).await?;
    Ok(())
}

/// How an attempt that did not succeed is written down.
#[derive(Clone, Debug)]
pub struct FailedAttempt {
    pub task: EmbedTask,
    /// Failed attempts so far, this one included where it counts.
    pub attempts: u32,
    pub error: String,
    pub state: TaskState,
    pub not_before: DateTime<Utc>,
    /// Where an attempt was made and counted, what is remembered of it.
    pub made: Option<AttemptMade>,
}

/// What a failed attempt's own row tells beyond the task's.
#[derive(Clone, Debug)]
pub struct AttemptMade {
    pub class: FailureClass,
    /// The process that made it.
    pub worker: Arc<str>,
    pub duration: Duration,
}

/// A task that the broker gave up: nobody acked it, again and again.
#[derive(Clone, Debug)]
pub struct BrokerDeath {
    pub task: EmbedTask,
    pub reason: String,
    /// The message's own, and how many attempts had failed before it.
    pub published_at: DateTime<Utc>,
    pub attempt: u32,
}

impl FailedAttempt {
    fn row(&self, now: DateTime<Utc>) -> Option<NewAttempt> {
        let made = self.made.as_ref()?;
        Some(NewAttempt {
            task: self.task,
            attempt: i32::try_from(self.attempts).unwrap_or(i32::MAX),
            at: now,
            error: self.error.clone(),
            class: made.class,
            worker: Some(made.worker.to_string()),
            duration_ms: i64::try_from(made.duration.as_millis()).ok(),
        })
    }
}

/// Whether it was given up before; locked, where the back end has locks of rows.
async fn is_dead(tx: &Tx<'_>, task: &EmbedTask) -> Result<bool, DbError> {
    let lock = if sql::is_postgres(tx.conn()) { " FOR UPDATE" } else { "" };
    let select = format!(
        "SELECT state FROM embedding_tasks WHERE recommendation_id = $1 AND target = $2 AND content_version = $3{lock}"
    );
    let values = [task.recommendation_id.into(), task.target.as_str().into(), task.content_version.into()];
    let state: Option<String> = sql::scalar(tx.conn(), &select, values).await?;
    Ok(state.as_deref() == Some(TaskState::Dead.as_str()))
}

impl FailedAttempt {
    /// What those are told who want to know of it.
    fn dead(&self) -> Option<Dead> {
        let class = self.made.as_ref().map_or(FailureClass::Permanent, |made| made.class);
        let attempts = self.attempts.into();
        (self.state == TaskState::Dead).then_some(Dead { task: self.task, attempts, class })
    }
}

impl BrokerDeath {
    fn row(&self, attempt: i32, now: DateTime<Utc>) -> NewAttempt {
        let (task, error, class) = (self.task, self.reason.clone(), FailureClass::Broker);
        NewAttempt { task, attempt, at: now, error, class, worker: None, duration_ms: None }
    }
}

impl Db {
    /// Whether any task is due: a cheap look before [`Db::claim`] takes the write lock.
    pub async fn has_due(&self) -> Result<[bool; 3], DbError> {
        #[derive(FromQueryResult)]
        struct Due {
            high: bool,
            normal: bool,
            low: bool,
        }
        let one = |lane: i16| {
            format!(
                "EXISTS (SELECT 1 FROM embedding_tasks WHERE state = 'pending' AND priority = {lane} \
                 AND not_before <= $1)"
            )
        };
        let [high, normal, low] = Priority::ALL.map(|lane| one(lane.rank()));
        let select = format!("SELECT {high} AS high, {normal} AS normal, {low} AS low");
        let due: Option<Due> = sql::one(self.read(), &select, [sql::now().into()]).await?;
        Ok(due.map_or([false; 3], |due| [due.high, due.normal, due.low]))
    }

    /// Everything that was with the broker is pending again, in its order: the broker has forgotten it.
    pub async fn release_all_published(&self) -> Result<u64, DbError> {
        self.reset("state IN ('published', 'retrying')", vec![]).await
    }

    /// The tasks of a lane that were handed over, and due, before `moment` are pending again: the broker
    /// has lost them. Returns how many.
    pub async fn release_lost(&self, lane: Priority, moment: DateTime<Utc>) -> Result<u64, DbError> {
        let lost = "state IN ('published', 'retrying') AND priority = $1 AND published_at < $2 AND not_before < $2";
        let values = || vec![lane.rank().into(), moment.into()];
        let count = format!("SELECT count(*) FROM embedding_tasks WHERE {lost}");
        if sql::scalar::<i64>(self.read(), &count, values()).await? == Some(0) {
            return Ok(0);
        }
        self.reset(lost, values()).await
    }

    async fn reset(&self, condition: &'static str, values: Vec<Value>) -> Result<u64, DbError> {
        let update = format!("UPDATE embedding_tasks SET state = 'pending' WHERE {condition}");
        self.change(update, values).await
    }

    /// Writes failed attempts down; returns, in order, whether each one still was about the current version.
    pub async fn record_failures(&self, failures: Vec<FailedAttempt>) -> Result<Vec<bool>, DbError> {
        let failures = Arc::new(failures);
        let noted = failures.clone();
        let current = self.write(move |tx| {
            let failures = failures.clone();
            async move {
                let update = "UPDATE embedding_tasks SET state = $4, attempts = $5, last_error = $6, \
                    not_before = $7, updated_at = $8, error_group = $9, discarded_at = NULL, \
                    published_at = coalesce(published_at, $8) \
                    WHERE recommendation_id = $1 AND target = $2 AND content_version = $3";
                let (mut current, mut made, mut dead) =
                    (Vec::with_capacity(failures.len()), Vec::new(), Vec::new());
                for failure in failures.iter() {
                    let now = sql::now();
                    // Of a message that comes twice, nobody is told twice.
                    let news = failure.state == TaskState::Dead && !is_dead(tx, &failure.task).await?;
                    let values: [Value; 9] = [
                        failure.task.recommendation_id.into(),
                        failure.task.target.as_str().into(),
                        failure.task.content_version.into(),
                        failure.state.as_str().into(),
                        i32::try_from(failure.attempts).unwrap_or(i32::MAX).into(),
                        failure.error.clone().into(),
                        failure.not_before.into(),
                        now.into(),
                        error_group(&failure.error).into(),
                    ];
                    let is_current = sql::execute(tx.conn(), update, values).await?.rows_affected() > 0;
                    made.extend(failure.row(now).filter(|_| is_current));
                    dead.extend(failure.dead().filter(|_| is_current && news));
                    current.push(is_current);
                }
                attempts::note(tx, made).await?;
                tell_dead(tx, &dead).await?;
                Ok(current)
            }
            .boxed()
        });
        let current: Vec<bool> = current.await?;
        self.chronicle().note_failures(&noted, &current);
        Ok(current)
    }
}

impl Db {
    /// What the broker gave up by itself becomes dead, where the ledger still believes that very message with
    /// the broker; a task that was published again since then is left alone, and so is one that failed before its
    /// bundle died and waits for its retry. Says of each, in order, whether it was so.
    pub async fn record_broker_dead(&self, dead: Vec<BrokerDeath>) -> Result<Vec<bool>, DbError> {
        let dead = Arc::new(dead);
        let noted = dead.clone();
        let recorded = self.write(move |tx| {
            let dead = dead.clone();
            async move {
                let update = "UPDATE embedding_tasks SET state = 'dead', last_error = $4, updated_at = $5, \
                    error_group = $7, discarded_at = NULL, attempts = attempts + 1 \
                    WHERE recommendation_id = $1 AND target = $2 AND content_version = $3 \
                    AND (state = 'published' OR state = 'retrying' AND attempts <= $8) \
                    AND coalesce(published_at, $6) <= $6 RETURNING attempts";
                let (mut recorded, mut made, mut told) = (Vec::with_capacity(dead.len()), Vec::new(), Vec::new());
                for letter in dead.iter() {
                    let now = sql::now();
                    let values: [Value; 8] = [
                        letter.task.recommendation_id.into(),
                        letter.task.target.as_str().into(),
                        letter.task.content_version.into(),
                        letter.reason.clone().into(),
                        now.into(),
                        letter.published_at.into(),
                        error_group(&letter.reason).into(),
                        i32::try_from(letter.attempt).unwrap_or(i32::MAX).into(),
                    ];
                    let attempt = sql::scalar::<i32>(tx.conn(), update, values).await?;
                    made.extend(attempt.map(|attempt| letter.row(attempt, now)));
                    told.extend(attempt.map(|attempt| Dead {
                        task: letter.task,
                        attempts: attempt.into(),
                        class: FailureClass::Broker,
                    }));
                    recorded.push(attempt.is_some());
                }
                attempts::note(tx, made).await?;
                tell_dead(tx, &told).await?;
                Ok(recorded)
            }
            .boxed()
        });
        let recorded: Vec<bool> = recorded.await?;
        self.chronicle().note_broker_dead(&noted, &recorded);
        Ok(recorded)
    }
}
