//! Regenerations: a job is a row, and whoever feeds it goes by that row alone, so that it survives a restart of
//! everything.
//!
//! Of a job's rows at most a window is in the ledger at once. That window is `regeneration_items`: when a task is
//! gone, what its row looks like tells how it ended, and the item is counted and deleted in one transaction. Workers
//! needn't know of any of this; they only ask, when they load a row, whether it is to be embedded whatever is stored
//! ([`Mark`]).

mod changes;
mod feed;
mod recall;
mod shadow;

use chrono::{DateTime, Utc};
use sea_orm::{FromQueryResult, Value};

pub use changes::{Begun, CaughtUp, Changed};
pub use feed::{Advance, Closed, Met, NewItem, Outcome, Window};

use super::{Db, DbError, sql};
use crate::domain::priority::Priority;
use crate::domain::regeneration::{JobState, Origin, Phase, Scope, Strategy};

/// A job as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Regeneration {
    pub id: i64,
    pub scope: Scope,
    pub priority: Priority,
    pub strategy: Strategy,
    /// Why this one, in a few words.
    pub strategy_reason: String,
    /// What is to be done besides its rows; none in place, and once it has ended. A cancelled one's shadow has yet to go.
    pub phase: Option<Phase>,
    pub origin: Origin,
    /// That of the process that began it.
    pub model: String,
    pub state: JobState,
    /// The last row that was looked at, and the last that was there when it began.
    pub last_id: i64,
    pub end_id: i64,
    /// Whether all rows have been looked at.
    pub walked: bool,
    /// Rows that were found to be in its scope so far.
    pub seen: u64,
    pub total: u64,
    pub done: u64,
    pub failed: u64,
    /// Deleted or edited before their turn.
    pub skipped: u64,
    /// Rows a second, lately.
    pub rate: f64,
    pub holder: Option<String>,
    pub held_until: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    pub updated_at: DateTime<Utc>,
}

/// What a worker is told of a row that a regeneration is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Whether what is stored, or was kept before `since`, doesn't count.
    pub anew: bool,
    /// When the regeneration began.
    pub since: DateTime<Utc>,
    /// The row that had the same text embedded before.
    pub leader: Option<i64>,
}

#[derive(FromQueryResult)]
struct Row {
    id: i64,
    scope: String,
    priority: i16,
    strategy: String,
    strategy_reason: String,
    phase: Option<String>,
    origin: String,
    model: String,
    state: String,
    last_id: i64,
    end_id: i64,
    walked: bool,
    seen: i64,
    total: i64,
    done: i64,
    failed: i64,
    skipped: i64,
    rate: f64,
    holder: Option<String>,
    held_until: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    updated_at: DateTime<Utc>,
}

impl From<Row> for Regeneration {
    fn from(row: Row) -> Self {
        let count = |n: i64| n.max(0) as u64;
        Self {
            id: row.id,
            // Words that a later version wrote: what spends nothing.
            scope: row.scope.parse().unwrap_or(Scope::Missing),
            priority: Priority::from_rank(row.priority),
            strategy: row.strategy.parse().unwrap_or(Strategy::InPlace),
            strategy_reason: row.strategy_reason,
            phase: row.phase.and_then(|phase| phase.parse().ok()),
            origin: row.origin.parse().unwrap_or(Origin::Request),
            model: row.model,
            state: row.state.parse().unwrap_or(JobState::Paused),
            last_id: row.last_id,
            end_id: row.end_id,
            walked: row.walked,
            seen: count(row.seen),
            total: count(row.total),
            done: count(row.done),
            failed: count(row.failed),
            skipped: count(row.skipped),
            rate: row.rate,
            holder: row.holder,
            held_until: row.held_until,
            created_at: row.created_at,
            finished_at: row.finished_at,
            updated_at: row.updated_at,
        }
    }
}

impl Regeneration {
    /// Rows that need no further attention.
    pub fn settled(&self) -> u64 {
        self.done + self.failed + self.skipped
    }

    /// Whether its rows may be fed.
    pub fn is_fed(&self) -> bool {
        self.state == JobState::Running && self.phase.is_none_or(|phase| phase == Phase::Filling)
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, JobState::Running | JobState::Paused)
    }
}

/// Which rows a scope is about, over the row `r` and its task `t`, with the model's id as `$n`. What has a live
/// task is being embedded without a regeneration.
fn condition(scope: Scope, n: usize) -> String {
    let idle = "(t.state IS NULL OR t.state = 'dead')";
    match scope {
        Scope::All => format!("CAST(${n} AS TEXT) IS NOT NULL"),
        Scope::Missing => format!("r.embedded_version IS NULL AND {idle} AND CAST(${n} AS TEXT) IS NOT NULL"),
        Scope::Stale => format!(
            "r.embedded_version IS NOT NULL AND {idle} AND (r.embedded_version <> r.content_version \
             OR r.embedding_model IS DISTINCT FROM ${n})"
        ),
        Scope::Failed => format!(
            "(t.state = 'dead' OR (t.state IS NULL AND r.embedded_version IS DISTINCT FROM r.content_version)) \
             AND CAST(${n} AS TEXT) IS NOT NULL"
        ),
    }
}

/// How many rows there are in a scope, as far as columns tell it, and the last id of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromQueryResult)]
pub struct Extent {
    pub rows: i64,
    pub first_id: i64,
    pub last_id: i64,
}

impl Db {
    pub async fn regeneration(&self, id: i64) -> Result<Option<Regeneration>, DbError> {
        let row: Option<Row> =
            sql::one(self.read(), "SELECT * FROM regenerations WHERE id = $1", [id.into()]).await?;
        Ok(row.map(Regeneration::from))
    }

    /// The open one that follows a change of the model.
    pub async fn model_change(&self) -> Result<Option<Regeneration>, DbError> {
        let select = "SELECT * FROM regenerations WHERE open = 1 AND origin = $1";
        let row: Option<Row> = sql::one(self.read(), select, [Origin::ModelChange.as_str().into()]).await?;
        Ok(row.map(Regeneration::from))
    }

    /// The newest first.
    pub async fn regenerations(&self, limit: u64) -> Result<Vec<Regeneration>, DbError> {
        let select = "SELECT * FROM regenerations ORDER BY id DESC LIMIT $1";
        let rows: Vec<Row> = sql::all(self.read(), select, [Value::from(limit as i64)]).await?;
        Ok(rows.into_iter().map(Regeneration::from).collect())
    }

    pub async fn regeneration_extent(&self, scope: Scope) -> Result<Extent, DbError> {
        let count = format!(
            "SELECT count(*) AS rows, coalesce(CAST(min(r.id) AS BIGINT), 0) AS first_id, \
             coalesce(CAST(max(r.id) AS BIGINT), 0) AS last_id FROM recommendations r \
             LEFT JOIN embedding_tasks t ON t.recommendation_id = r.id AND t.target = 'current' \
             WHERE r.deleted_at IS NULL AND {}",
            condition(scope, 1)
        );
        let none = Extent { rows: 0, first_id: 0, last_id: 0 };
        Ok(sql::one(self.read(), &count, [self.model().id.to_string().into()]).await?.unwrap_or(none))
    }
}
