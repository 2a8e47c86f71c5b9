//! What people do to a regeneration: begin, pause, resume, cancel.

use futures_util::FutureExt;
use sea_orm::{ConnectionTrait, Value};

use super::{Regeneration, Row};
use crate::db::webhooks::tell_finished;
use crate::db::{Db, DbError, Tx, audit, sql};
use crate::domain::priority::Priority;
use crate::domain::regeneration::{JobState, Origin, Phase, Scope, Strategy};

/// Who begins what the service begins by itself, in the audit.
const BOOT: &str = "the service";

/// What became of the wish to begin one.
#[derive(Clone, Debug, PartialEq)]
pub enum Begun {
    New(Regeneration),
    /// There is one already: two at once would only halve each other's pace.
    Open(Regeneration),
}

/// What a boot found to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct CaughtUp {
    pub enqueued: u64,
    pub regeneration: Option<Regeneration>,
}

/// What became of the wish to change one.
#[derive(Clone, Debug, PartialEq)]
pub enum Changed {
    /// It is so now, and may have been before.
    Now(Regeneration),
    /// It can't be, from the state in which this one is.
    Refused(Regeneration),
    Unknown,
}

impl Db {
    /// Begins a regeneration of the rows that are there now, as `who` has it; from `shadow_rows` on perhaps with an
    /// index of its own.
    pub async fn begin_regeneration(
        &self,
        scope: Scope,
        priority: Priority,
        shadow_rows: u64,
        who: String,
    ) -> Result<Begun, DbError> {
        self.begin(scope, priority, shadow_rows, (Origin::Request, who)).await
    }

    /// At boot: enqueues, at low priority, the rows that need a vector and have no task, after rows came in by another
    /// way and after a change of the model. Rows with a vector of another model become a regeneration where there are
    /// more than `window`: all at once they would fill the ledger.
    pub async fn catch_up(&self, window: u64, shadow_rows: u64) -> Result<CaughtUp, DbError> {
        let others = "SELECT count(*) FROM (SELECT 1 FROM recommendations r WHERE r.deleted_at IS NULL \
            AND r.embedded_version IS NOT NULL AND r.embedding_model IS DISTINCT FROM $1 LIMIT $2) AS o";
        let values: [Value; 2] = [self.model().id.to_string().into(), Value::from(window as i64 + 1)];
        let others = sql::scalar::<i64>(self.read(), others, values).await?.unwrap_or(0);
        if others as u64 <= window {
            return Ok(CaughtUp { enqueued: self.enqueue_missing(true).await?, regeneration: None });
        }
        let enqueued = self.enqueue_missing(false).await?;
        // Another process that starts at the same time has begun it, or it goes on from the last run.
        let (Begun::New(job) | Begun::Open(job)) =
            self.begin(Scope::Stale, Priority::Low, shadow_rows, (Origin::ModelChange, BOOT.into())).await?;
        Ok(CaughtUp { enqueued, regeneration: Some(job) })
    }

    async fn begin(
        &self,
        scope: Scope,
        priority: Priority,
        shadow_rows: u64,
        (origin, who): (Origin, String),
    ) -> Result<Begun, DbError> {
        // Counted before the transaction: on SQLite it would keep all writers waiting.
        let extent = self.regeneration_extent(scope).await?;
        let end = "SELECT coalesce(CAST(max(id) AS BIGINT), 0) FROM recommendations";
        let end: i64 = sql::scalar(self.read(), end, []).await?.unwrap_or(0);
        let (strategy, reason) = self.regeneration_strategy(scope, extent, shadow_rows).await?;
        let phase = (strategy == Strategy::Shadow).then_some(Phase::Preparing.as_str());
        let model = self.model().id.to_string();
        let values: [Value; 11] = [
            scope.as_str().into(),
            priority.rank().into(),
            strategy.as_str().into(),
            model.clone().into(),
            end.into(),
            false.into(),
            extent.rows.into(),
            sql::now().into(),
            origin.as_str().into(),
            reason.into(),
            Value::from(phase.map(str::to_owned)),
        ];
        self.write(move |tx| {
            let (model, values, who) = (model.clone(), values.clone(), who.clone());
            async move {
                let begun = insert(tx, &model, origin, values).await?;
                if let Begun::New(job) = &begun {
                    note(tx, &who, job).await?;
                }
                Ok(begun)
            }
            .boxed()
        })
        .await
    }

    /// Nothing more is begun, and what no worker has in hand is taken back.
    pub async fn pause_regeneration(&self, id: i64, who: String) -> Result<Changed, DbError> {
        self.change_regeneration(id, JobState::Paused, who).await
    }

    /// A cancelled one, too, while no other has begun since: all that it has done counts.
    pub async fn resume_regeneration(&self, id: i64, who: String) -> Result<Changed, DbError> {
        self.change_regeneration(id, JobState::Running, who).await
    }

    pub async fn cancel_regeneration(&self, id: i64, who: String) -> Result<Changed, DbError> {
        self.change_regeneration(id, JobState::Cancelled, who).await
    }

    async fn change_regeneration(&self, id: i64, wanted: JobState, who: String) -> Result<Changed, DbError> {
        let action = match wanted {
            JobState::Paused => "regenerate.pause",
            JobState::Cancelled => "regenerate.cancel",
            JobState::Running | JobState::Completed => "regenerate.resume",
        };
        self.write(move |tx| {
            let who = who.clone();
            async move {
                let changed = change(tx, id, wanted).await?;
                if let Changed::Now(job) = &changed {
                    let about = serde_json::json!({ "job_id": job.id }).to_string();
                    audit::note(tx, &who, action, &about, job.total).await?;
                }
                Ok(changed)
            }
            .boxed()
        })
        .await
    }
}

async fn insert(tx: &Tx<'_>, model: &str, origin: Origin, values: [Value; 11]) -> Result<Begun, DbError> {
    if let Some(open) = find(tx, "open = $1", 1).await? {
        // What was begun for another model would never end.
        if origin == Origin::Request || open.model == model {
            return Ok(Begun::Open(open));
        }
        change(tx, open.id, JobState::Cancelled).await?;
    }
    clear(tx).await?;
    let insert = "INSERT INTO regenerations (scope, priority, strategy, model, state, open, last_id, end_id, walked, \
        seen, total, done, failed, skipped, rate, created_at, updated_at, origin, strategy_reason, phase) \
        VALUES ($1, $2, $3, $4, 'running', 1, 0, $5, $6, 0, $7, 0, 0, 0, 0.0, $8, $8, $9, $10, $11) RETURNING *";
    let row: Option<Row> = sql::one(tx.conn(), insert, values).await?;
    let job = Regeneration::from(row.ok_or_else(|| DbError::Unavailable("the insert answered nothing".into()))?);
    if job.phase.is_some() {
        // What a cancelled one has yet to take away is this one's now.
        let inherit = "UPDATE regenerations SET phase = NULL WHERE id <> $1 AND phase IS NOT NULL";
        sql::execute(tx.conn(), inherit, [job.id.into()]).await?;
    }
    Ok(Begun::New(job))
}

async fn note(tx: &Tx<'_>, who: &str, job: &Regeneration) -> Result<(), DbError> {
    let about = serde_json::json!({
        "job_id": job.id, "scope": job.scope, "strategy": job.strategy, "strategy_reason": job.strategy_reason
    });
    audit::note(tx, who, "regenerate", &about.to_string(), job.total).await
}

async fn change(tx: &Tx<'_>, id: i64, wanted: JobState) -> Result<Changed, DbError> {
    let Some(job) = find(tx, "id = $1", id).await? else { return Ok(Changed::Unknown) };
    if job.state == wanted {
        return Ok(Changed::Now(job));
    }
    let newest = "SELECT max(id) FROM regenerations";
    let may = match (job.state, wanted) {
        (JobState::Completed, _) | (JobState::Cancelled, JobState::Paused) => false,
        // What it knew of its texts is gone once another has begun.
        (JobState::Cancelled, _) => sql::scalar::<i64>(tx.conn(), newest, []).await? == Some(id),
        _ => true,
    };
    if !may {
        return Ok(Changed::Refused(job));
    }
    let update = "UPDATE regenerations SET state = $2, open = $3, rate = 0.0, finished_at = $4, updated_at = $5, \
        phase = $6 WHERE id = $1 RETURNING *";
    let (now, ends) = (sql::now(), wanted == JobState::Cancelled);
    let phase = job.phase_when(wanted);
    let values: [Value; 6] = [
        id.into(),
        wanted.as_str().into(),
        Value::from((!ends).then_some(1i16)),
        Value::from(ends.then_some(now)),
        now.into(),
        Value::from(phase.map(|phase| phase.as_str().to_owned())),
    ];
    let row: Option<Row> = sql::one(tx.conn(), update, values).await?;
    if wanted != JobState::Running {
        take_back(tx, id).await?;
    }
    let job = row.map(Regeneration::from);
    if let Some(job) = job.as_ref().filter(|_| ends) {
        tell_finished(tx, job).await?;
    }
    Ok(job.map_or(Changed::Unknown, Changed::Now))
}

/// Locked, where the back end has locks of rows.
async fn find(tx: &Tx<'_>, condition: &str, value: i64) -> Result<Option<Regeneration>, DbError> {
    let lock = if sql::is_postgres(tx.conn()) { " FOR UPDATE" } else { "" };
    let select = format!("SELECT * FROM regenerations WHERE {condition}{lock}");
    let row: Option<Row> = sql::one(tx.conn(), &select, [value.into()]).await?;
    Ok(row.map(Regeneration::from))
}

/// Takes back what is in the ledger for it, to be fed again if it goes on: what a worker has in hand is finished,
/// and a message without a task is found to be about a row that has its vector. Rows without one keep their tasks,
/// as nobody else would give them any.
async fn take_back(tx: &Tx<'_>, id: i64) -> Result<(), DbError> {
    let unfeed = "UPDATE regeneration_items SET fed = $2 WHERE regeneration_id = $1 AND fed AND EXISTS \
        (SELECT 1 FROM recommendations r WHERE r.id = regeneration_items.recommendation_id \
        AND r.content_version = regeneration_items.content_version AND r.embedded_version = r.content_version)";
    sql::execute(tx.conn(), unfeed, [id.into(), false.into()]).await?;
    let delete = "DELETE FROM embedding_tasks WHERE target = 'current' AND state <> 'dead' AND EXISTS \
        (SELECT 1 FROM regeneration_items i WHERE i.recommendation_id = embedding_tasks.recommendation_id \
        AND i.content_version = embedding_tasks.content_version AND i.regeneration_id = $1 AND NOT i.fed \
        AND i.fed_at IS NOT NULL)";
    sql::execute(tx.conn(), delete, [id.into()]).await?;
    Ok(())
}

/// Empties the table of the texts, so that a million of them go as quickly as ten. That waits for whoever reads it, and
/// has every later one wait: a dump of the database holds each table to its end. Then they go one by one.
const CLEAR_TEXTS: &str = "DO $$ DECLARE before TEXT := current_setting('lock_timeout'); BEGIN \
    BEGIN PERFORM set_config('lock_timeout', '200ms', true); TRUNCATE regeneration_texts; \
    EXCEPTION WHEN lock_not_available THEN DELETE FROM regeneration_texts; END; \
    PERFORM set_config('lock_timeout', before, true); END $$";

/// Forgets what an earlier one left.
pub(super) async fn clear(tx: &Tx<'_>) -> Result<(), DbError> {
    // A window of them at most. Every worker reads them, and none may wait for a lock of the table.
    tx.conn().execute_unprepared("DELETE FROM regeneration_items").await?;
    let texts = if sql::is_postgres(tx.conn()) { CLEAR_TEXTS } else { "DELETE FROM regeneration_texts" };
    tx.conn().execute_unprepared(texts).await?;
    Ok(())
}
