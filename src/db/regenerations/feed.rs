//! What the feeder of a regeneration reads and writes.
//!
//! Reading needs no lock: one process holds the lease, and each write makes sure of it in its own transaction, so
//! that one that was paused for long can't count or feed anything twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use sea_orm::{ConnectionTrait, FromQueryResult, Value};

use super::{Regeneration, Row, condition, shadow};
use crate::db::loaded::{Loaded, LoadedRow, loading};
use crate::db::{Db, DbError, Tx, sql};
use crate::domain::regeneration::{Phase, Scope};
use crate::domain::status::TaskState;

/// Items in one statement: five parameters each.
const ROWS: usize = 500;
/// Items that are settled in one transaction at most.
const SETTLED: i64 = 5_000;

/// How the row of an item ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed,
    /// Deleted, or edited, which gave it a task of its own.
    Skipped,
}

/// An item that needs no further attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Closed {
    pub id: i64,
    pub hash: String,
    pub outcome: Outcome,
}

/// The items of a regeneration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    /// All of them.
    pub items: u64,
    /// Those that may be settled.
    pub closed: Vec<Closed>,
    /// Those that wait to be fed.
    pub waiting: u64,
}

/// A row that is to be embedded, at one version of its text.
#[derive(Clone, Debug, PartialEq)]
pub struct NewItem {
    pub id: i64,
    pub content_version: i64,
    pub hash: String,
}

/// The rows after the last one that was looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Met {
    /// The last one that was looked at when these were read.
    pub from: i64,
    pub to: i64,
    pub items: Vec<NewItem>,
    /// Items that the total didn't count.
    pub unexpected: u64,
    /// Whether there are no more.
    pub last: bool,
}

/// A step of a regeneration.
#[derive(Clone, Debug, Default)]
pub struct Advance {
    pub closed: Vec<Closed>,
    pub met: Option<Met>,
    /// Rows a second, lately.
    pub rate: f64,
}

#[derive(FromQueryResult)]
struct ClosedRow {
    id: i64,
    hash: String,
    outcome: String,
}

#[derive(FromQueryResult)]
struct Counted {
    items: i64,
    waiting: i64,
}

#[derive(FromQueryResult)]
struct Led {
    hash: String,
    recommendation_id: i64,
}

impl Db {
    /// The open regeneration, if this process is, or becomes, the one that feeds it. One that isn't heard of for
    /// `lease` is replaced.
    pub async fn hold_regeneration(&self, holder: &str, lease: Duration) -> Result<Option<Regeneration>, DbError> {
        let row: Option<Row> = sql::one(self.read(), "SELECT * FROM regenerations WHERE open = 1", []).await?;
        let Some(job) = row.map(Regeneration::from) else { return Ok(None) };
        let now = sql::now();
        let mine = job.holder.as_deref() == Some(holder);
        if mine && job.held_until.is_some_and(|until| until > now + lease / 2) {
            return Ok(Some(job));
        }
        if !mine && job.held_until.is_some_and(|until| until > now) {
            return Ok(None);
        }
        let take = "UPDATE regenerations SET holder = $2, held_until = $3 WHERE id = $1 AND open = 1 \
            AND (holder = $2 OR held_until IS NULL OR held_until <= $4) RETURNING *";
        let values: [Value; 4] = [job.id.into(), holder.into(), (now + lease).into(), now.into()];
        let taken: Vec<Row> = self.change_returning(take, values).await?;
        Ok(taken.into_iter().next().map(Regeneration::from))
    }

    /// Lets another process go on at once.
    pub async fn release_regeneration(&self, holder: &str) -> Result<(), DbError> {
        let release = "UPDATE regenerations SET holder = NULL, held_until = NULL WHERE holder = $1 AND open = 1";
        self.change(release, [holder.into()]).await?;
        Ok(())
    }

    /// What has become of the items.
    pub async fn regeneration_window(&self, job: &Regeneration) -> Result<Window, DbError> {
        let count = "SELECT count(*) AS items, coalesce(CAST(sum(CASE WHEN fed THEN 0 ELSE 1 END) AS BIGINT), 0) \
            AS waiting FROM regeneration_items WHERE regeneration_id = $1";
        let counted: Option<Counted> = sql::one(self.read(), count, [job.id.into()]).await?;
        let counted = counted.unwrap_or(Counted { items: 0, waiting: 0 });
        let values: [Value; 3] = [job.id.into(), self.model().id.to_string().into(), SETTLED.into()];
        let rows: Vec<ClosedRow> = sql::all(self.read(), &closed(self.is_postgres()), values).await?;
        Ok(Window {
            items: counted.items.max(0) as u64,
            waiting: counted.waiting.max(0) as u64,
            closed: rows.into_iter().map(Closed::from).collect(),
        })
    }

    /// The next rows of a scope after the id `after` and up to `to`. A text's hash is no column's business: of
    /// `stale` these are all rows with a vector.
    pub async fn regeneration_page(
        &self,
        scope: Scope,
        after: i64,
        to: i64,
        limit: u64,
    ) -> Result<Vec<Loaded>, DbError> {
        let condition = match scope {
            Scope::Stale => "r.embedded_version IS NOT NULL AND (t.state IS NULL OR t.state = 'dead') \
                             AND CAST($4 AS TEXT) IS NOT NULL"
                .to_owned(),
            other => condition(other, 4),
        };
        let select = format!(
            "{} WHERE r.deleted_at IS NULL AND r.id > $1 AND r.id <= $2 AND {condition} ORDER BY r.id LIMIT $3",
            loading(self.read())
        );
        let values: [Value; 4] =
            [after.into(), to.into(), (limit as i64).into(), self.model().id.to_string().into()];
        let rows: Vec<LoadedRow> = sql::all(self.read(), &select, values).await?;
        Ok(rows.into_iter().map(Loaded::from).collect())
    }

    /// Counts what is closed, feeds what may be fed, and ends the job when nothing is left. `None` when it isn't
    /// this process's any more.
    pub async fn advance_regeneration(
        &self,
        id: i64,
        holder: &str,
        step: Advance,
    ) -> Result<Option<Regeneration>, DbError> {
        let (holder, step) = (Arc::<str>::from(holder), Arc::new(step));
        self.write(move |tx| {
            let (holder, step) = (holder.clone(), step.clone());
            async move { advance(tx, id, &holder, &step).await }.boxed()
        })
        .await
    }
}

impl From<ClosedRow> for Closed {
    fn from(row: ClosedRow) -> Self {
        let outcome = match row.outcome.as_str() {
            "done" => Outcome::Done,
            "skipped" => Outcome::Skipped,
            _ => Outcome::Failed,
        };
        Self { id: row.id, hash: row.hash, outcome }
    }
}

/// Items with their outcomes, in one statement and so at one moment. One that was taken back while a worker had it in
/// hand is done if the vector came after all.
///
/// On PostgreSQL each row is looked up by its key, as LIMIT never becomes a join: without statistics, the planner
/// reads the tables from end to end.
fn closed(postgres: bool) -> String {
    let (row, task) = (
        "recommendations r WHERE r.id = i.recommendation_id",
        "embedding_tasks t \
        WHERE t.recommendation_id = i.recommendation_id AND t.target = 'current' AND t.content_version = i.content_version",
    );
    let joins = match postgres {
        true => format!(
            "LEFT JOIN LATERAL (SELECT r.id, r.deleted_at, r.content_version, r.embedded_version, r.embedded_at, \
             r.embedding_model FROM {row} LIMIT 1) r ON true LEFT JOIN LATERAL (SELECT t.state FROM {task} LIMIT 1) t ON true"
        ),
        false => {
            format!("LEFT JOIN {} LEFT JOIN {}", row.replacen("WHERE", "ON", 1), task.replacen("WHERE", "ON", 1))
        }
    };
    format!(
        "SELECT id, hash, outcome FROM (SELECT CAST(i.recommendation_id AS BIGINT) AS id, i.hash, CASE \
           WHEN r.id IS NULL OR r.deleted_at IS NOT NULL OR r.content_version <> i.content_version THEN 'skipped' \
           WHEN NOT i.fed AND (i.fed_at IS NULL OR r.embedded_at IS NULL OR r.embedded_at < i.fed_at) THEN 'open' \
           WHEN t.state = 'dead' THEN 'failed' \
           WHEN t.state IS NOT NULL THEN 'open' \
           WHEN r.embedded_version = r.content_version AND r.embedding_model = $2 THEN 'done' \
           ELSE 'failed' END AS outcome \
         FROM regeneration_items i {joins} WHERE i.regeneration_id = $1) AS o WHERE outcome <> 'open' LIMIT $3"
    )
}

async fn advance(tx: &Tx<'_>, id: i64, holder: &str, step: &Advance) -> Result<Option<Regeneration>, DbError> {
    // Locks the row: a pause or another holder comes before or after this step, not into it.
    let lock = "UPDATE regenerations SET rate = $3, updated_at = $4 WHERE id = $1 AND holder = $2 AND open = 1 \
        RETURNING *";
    let values: [Value; 4] = [id.into(), holder.into(), step.rate.into(), sql::now().into()];
    let row: Option<Row> = sql::one(tx.conn(), lock, values).await?;
    let Some(mut job) = row.map(Regeneration::from) else { return Ok(None) };
    settle(tx, &mut job, &step.closed).await?;
    if job.is_fed() {
        if let Some(met) = step.met.as_ref().filter(|met| met.from == job.last_id) {
            add(tx, &mut job, met).await?;
        }
        feed(tx, &job).await?;
    }
    let left = "SELECT count(*) FROM regeneration_items";
    if job.walked && sql::scalar::<i64>(tx.conn(), left, []).await? == Some(0) {
        match job.phase {
            None => shadow::complete(tx, &mut job).await?,
            // The new vectors are there, and no index over them yet.
            Some(Phase::Filling) => (job.phase, job.rate) = (Some(Phase::Indexing), 0.0),
            Some(_) => {}
        }
    }
    write(tx, &job).await?;
    Ok(Some(job))
}

pub(super) async fn write(tx: &Tx<'_>, job: &Regeneration) -> Result<(), DbError> {
    let update = "UPDATE regenerations SET state = $2, open = $3, last_id = $4, walked = $5, seen = $6, total = $7, \
        done = $8, failed = $9, skipped = $10, rate = $11, finished_at = $12, phase = $13 WHERE id = $1";
    let values: [Value; 13] = [
        job.id.into(),
        job.state.as_str().into(),
        Value::from(job.is_open().then_some(1i16)),
        job.last_id.into(),
        job.walked.into(),
        (job.seen as i64).into(),
        (job.total as i64).into(),
        (job.done as i64).into(),
        (job.failed as i64).into(),
        (job.skipped as i64).into(),
        job.rate.into(),
        Value::from(job.finished_at),
        Value::from(job.phase.map(|phase| phase.as_str().to_owned())),
    ];
    sql::execute(tx.conn(), update, values).await?;
    Ok(())
}

/// What is deleted is what is counted.
async fn settle(tx: &Tx<'_>, job: &mut Regeneration, closed: &[Closed]) -> Result<(), DbError> {
    for outcome in [Outcome::Done, Outcome::Failed, Outcome::Skipped] {
        let items: Vec<&Closed> = closed.iter().filter(|item| item.outcome == outcome).collect();
        for items in items.chunks(ROWS) {
            let ids: Vec<i64> = items.iter().map(|item| item.id).collect();
            let (among, values) = sql::among(tx.conn(), "recommendation_id", 1, &ids);
            let delete = format!("DELETE FROM regeneration_items WHERE {among}");
            let count = sql::execute(tx.conn(), &delete, values).await?.rows_affected();
            match outcome {
                Outcome::Done => job.done += count,
                Outcome::Failed => job.failed += count,
                Outcome::Skipped => job.skipped += count,
            }
            if outcome != Outcome::Done {
                for item in items {
                    pass_on(tx, item).await?;
                }
            }
        }
    }
    Ok(())
}

/// A row that has no vector of its text to give: the next one with that text leads.
async fn pass_on(tx: &Tx<'_>, item: &Closed) -> Result<(), DbError> {
    let next = "SELECT CAST(min(recommendation_id) AS BIGINT) FROM regeneration_items WHERE leader = $1";
    let next: Option<Option<i64>> = sql::scalar(tx.conn(), next, [item.id.into()]).await?;
    let Some(next) = next.flatten() else {
        let forget = "DELETE FROM regeneration_texts WHERE hash = $1 AND recommendation_id = $2";
        sql::execute(tx.conn(), forget, [item.hash.clone().into(), item.id.into()]).await?;
        return Ok(());
    };
    let follow = "UPDATE regeneration_items SET leader = CASE WHEN recommendation_id = $2 THEN NULL ELSE $2 END \
        WHERE leader = $1";
    sql::execute(tx.conn(), follow, [item.id.into(), next.into()]).await?;
    let lead = "UPDATE regeneration_texts SET recommendation_id = $3 WHERE hash = $1 AND recommendation_id = $2";
    sql::execute(tx.conn(), lead, [item.hash.clone().into(), item.id.into(), next.into()]).await?;
    Ok(())
}

/// Takes the rows that were met into the window.
async fn add(tx: &Tx<'_>, job: &mut Regeneration, met: &Met) -> Result<(), DbError> {
    for items in met.items.chunks(ROWS) {
        let leaders = lead(tx, items).await?;
        let insert = format!(
            "INSERT INTO regeneration_items (recommendation_id, regeneration_id, content_version, hash, leader, fed) \
             VALUES {}",
            sql::tuples(items.len(), 6)
        );
        let values = items.iter().flat_map(|item| -> [Value; 6] {
            let leader = leaders.get(&item.hash).copied().filter(|leader| *leader != item.id);
            let (hash, fed) = (item.hash.clone().into(), false.into());
            [item.id.into(), job.id.into(), item.content_version.into(), hash, Value::from(leader), fed]
        });
        tx.conn().execute_raw(sql::bulk(tx.conn(), &insert, values.collect())).await?;
    }
    job.seen += met.items.len() as u64;
    job.total = (job.total + met.unexpected).max(job.seen);
    job.last_id = met.to;
    if met.last {
        job.walked = true;
        // Gone, or come out of the scope, before they were met.
        job.skipped += job.total - job.seen;
    }
    Ok(())
}

/// The leaders of these texts: who had them first.
async fn lead(tx: &Tx<'_>, items: &[NewItem]) -> Result<HashMap<String, i64>, DbError> {
    // Of twins in one page, the first.
    let mut first: HashMap<&str, i64> = HashMap::with_capacity(items.len());
    for item in items {
        first.entry(&item.hash).or_insert(item.id);
    }
    let insert = format!(
        "INSERT INTO regeneration_texts (hash, recommendation_id) VALUES {} ON CONFLICT (hash) DO NOTHING",
        sql::tuples(first.len(), 2)
    );
    let values = first.iter().flat_map(|(hash, id)| -> [Value; 2] { [(*hash).to_owned().into(), (*id).into()] });
    tx.conn().execute_raw(sql::bulk(tx.conn(), &insert, values.collect())).await?;
    let select = format!(
        "SELECT hash, CAST(recommendation_id AS BIGINT) AS recommendation_id FROM regeneration_texts WHERE hash IN {}",
        sql::tuple(1, first.len())
    );
    let hashes = first.keys().map(|hash| Value::from((*hash).to_owned()));
    let led: Vec<Led> = sql::all(tx.conn(), &select, hashes).await?;
    Ok(led.into_iter().map(|led| (led.hash, led.recommendation_id)).collect())
}

/// Gives tasks to the items that wait for nobody. The rows are locked in the order of their ids: one that is being
/// edited has its new version, and then no task is made of the old one, or doesn't have it yet, and then the edit
/// finds the task.
async fn feed(tx: &Tx<'_>, job: &Regeneration) -> Result<(), DbError> {
    let ready = "i.regeneration_id = $1 AND NOT i.fed AND (i.leader IS NULL OR NOT EXISTS \
        (SELECT 1 FROM regeneration_items l WHERE l.recommendation_id = i.leader))";
    let lock = if sql::is_postgres(tx.conn()) { "FOR SHARE OF r" } else { "" };
    let insert = format!(
        "INSERT INTO embedding_tasks (recommendation_id, target, content_version, priority, state, attempts, \
         enqueued_at, not_before, updated_at) \
         SELECT r.id, 'current', r.content_version, $2, $4, 0, $3, $3, $3 FROM regeneration_items i \
         JOIN recommendations r ON r.id = i.recommendation_id AND r.content_version = i.content_version \
         WHERE r.deleted_at IS NULL AND {ready} ORDER BY r.id {lock} \
         ON CONFLICT (recommendation_id, target) DO UPDATE SET priority = excluded.priority, state = 'pending', \
         attempts = 0, last_error = NULL, enqueued_at = excluded.enqueued_at, not_before = excluded.not_before, \
         claim = NULL, published_at = NULL, updated_at = excluded.updated_at \
         WHERE embedding_tasks.state = 'dead' AND embedding_tasks.content_version = excluded.content_version"
    );
    let now: DateTime<Utc> = sql::now();
    let values: [Value; 4] =
        [job.id.into(), job.priority.rank().into(), now.into(), TaskState::Pending.as_str().into()];
    let enqueued = sql::execute(tx.conn(), &insert, values).await?.rows_affected();
    let fed = format!("UPDATE regeneration_items AS i SET fed = $2, fed_at = $3 WHERE {ready}");
    sql::execute(tx.conn(), &fed, [job.id.into(), true.into(), now.into()]).await?;
    if enqueued > 0 {
        tx.wake_relay();
    }
    Ok(())
}
