//! Replays and discards of dead letters: orders that are written down first and carried out in small steps, by whoever
//! comes by. No step touches more than some hundred rows, an order of a hundred thousand outlives the request and the
//! process that took it, and what dies again meanwhile isn't part of it.

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use sea_orm::{FromQueryResult, Value};

use super::dead_letters::matching;
use super::{Db, DbError, Tx, attempts, sql, state};
use crate::domain::dead_letter::DeadFilter;
use crate::domain::priority::Priority;

/// Dead letters in one step.
const STEP: usize = 250;
/// In `service_state`: the broker's dead letters are to be compared with the ledger.
const UNSWEPT: &str = "dead_letters.unswept";

/// What becomes of dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadAction {
    /// They are started afresh in this lane.
    Replay(Priority),
    /// They stay without a vector until somebody edits them.
    Discard,
}

impl DeadAction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replay(_) => "replay",
            Self::Discard => "discard",
        }
    }
}

/// How far an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderProgress {
    /// How many it has concerned so far.
    pub count: u64,
    pub finished: bool,
}

#[derive(Clone, FromQueryResult)]
struct OrderRow {
    who: String,
    action: String,
    filter: String,
    count: i64,
    priority: Option<i16>,
    until: DateTime<Utc>,
    reached_at: Option<DateTime<Utc>>,
    reached_id: Option<i64>,
}

#[derive(FromQueryResult)]
struct Reached {
    recommendation_id: i64,
    failed_at: DateTime<Utc>,
}

impl Db {
    /// Writes an order down and returns its id, which is that of its line in the audit.
    pub async fn order(&self, who: &str, action: DeadAction, filter: &DeadFilter) -> Result<i64, DbError> {
        let newest = "SELECT max(updated_at) FROM embedding_tasks WHERE state = 'dead' AND discarded_at IS NULL";
        let newest: Option<Option<DateTime<Utc>>> = sql::scalar(self.read(), newest, []).await?;
        let now = sql::now();
        // What has died by now by the clock of any worker.
        let until = newest.flatten().map_or(now, |newest| newest.max(now));
        let insert = "INSERT INTO embedding_audit (at, who, action, filter, count, priority, until) \
            VALUES ($1, $2, $3, $4, 0, $5, $6) RETURNING id";
        let priority = match action {
            DeadAction::Replay(priority) => Some(priority.rank()),
            DeadAction::Discard => None,
        };
        let filter = serde_json::to_string(filter).unwrap_or_else(|_| "{}".to_owned());
        let values: [Value; 6] =
            [now.into(), who.into(), action.as_str().into(), filter.into(), priority.into(), until.into()];
        #[derive(FromQueryResult)]
        struct Id {
            id: i64,
        }
        let rows: Vec<Id> = self.change_returning(insert, values).await?;
        let id = rows.first().map(|row| row.id);
        id.ok_or_else(|| DbError::Unavailable("the order answered nothing".into()))
    }

    /// The orders that are not carried out yet, the oldest first.
    pub async fn open_orders(&self) -> Result<Vec<i64>, DbError> {
        #[derive(FromQueryResult)]
        struct Id {
            id: i64,
        }
        let select = "SELECT id FROM embedding_audit WHERE finished_at IS NULL ORDER BY id LIMIT 100";
        Ok(sql::all::<Id>(self.read(), select, []).await?.into_iter().map(|row| row.id).collect())
    }

    /// Carries an order on by one step.
    pub async fn carry_on(&self, order: i64) -> Result<OrderProgress, DbError> {
        let step = self.write(move |tx| step(tx, order).boxed()).await?;
        if let Some(progress) = step {
            return Ok(progress);
        }
        // Somebody else has finished it.
        let count = self.audited(order).await?.map_or(0, |entry| entry.count.max(0) as u64);
        Ok(OrderProgress { count, finished: true })
    }

    /// The mark of the last replay or discard since which the broker's dead letters were not swept.
    pub async fn unswept(&self) -> Result<Option<String>, DbError> {
        state::get(self.read(), UNSWEPT).await
    }

    /// They were swept since this mark.
    pub async fn swept(&self, mark: String) -> Result<(), DbError> {
        let delete = "DELETE FROM service_state WHERE key = $1 AND value = $2";
        self.change(delete, [UNSWEPT.into(), mark.into()]).await?;
        Ok(())
    }
}

/// `None` when the order is finished already.
async fn step(tx: &Tx<'_>, order: i64) -> Result<Option<OrderProgress>, DbError> {
    // One at a time carries it on; on SQLite there is one writer anyway.
    let lock = if sql::is_postgres(tx.conn()) { " FOR UPDATE" } else { "" };
    let select = format!(
        "SELECT who, action, filter, count, priority, until, reached_at, reached_id FROM embedding_audit \
         WHERE id = $1 AND finished_at IS NULL{lock}"
    );
    let Some(row) = sql::one::<OrderRow>(tx.conn(), &select, [order.into()]).await? else { return Ok(None) };
    let reached = next(tx, &row).await?;
    let ids: Vec<i64> = reached.iter().map(|letter| letter.recommendation_id).collect();
    let changed = match row.priority {
        Some(rank) if row.action == "replay" => replay(tx, &ids, rank).await?,
        _ => discard(tx, &ids).await?,
    };
    let progress = OrderProgress { count: row.count.max(0) as u64 + changed, finished: reached.len() < STEP };
    let last = reached.last();
    let update = "UPDATE embedding_audit SET count = $2, reached_at = coalesce($3, reached_at), \
        reached_id = coalesce($4, reached_id), finished_at = $5 WHERE id = $1";
    let values: [Value; 5] = [
        order.into(),
        (progress.count as i64).into(),
        last.map(|letter| letter.failed_at).into(),
        last.map(|letter| letter.recommendation_id).into(),
        progress.finished.then(sql::now).into(),
    ];
    sql::execute(tx.conn(), update, values).await?;
    if progress.finished {
        state::put(tx.conn(), UNSWEPT, &order.to_string()).await?;
        tracing::info!(who = row.who, action = row.action, filter = row.filter, count = progress.count, "audit");
    }
    Ok(Some(progress))
}

/// The next dead letters of an order, in the order in which they died.
async fn next(tx: &Tx<'_>, order: &OrderRow) -> Result<Vec<Reached>, DbError> {
    let filter: DeadFilter = serde_json::from_str(&order.filter)
        .map_err(|problem| DbError::Incompatible(format!("an order's filter can't be read: {problem}")))?;
    let (mut condition, mut values) = matching(tx.conn(), &filter);
    values.push(order.until.into());
    condition.push_str(&format!(" AND t.updated_at <= ${}", values.len()));
    if let (Some(at), Some(id)) = (order.reached_at, order.reached_id) {
        let n = values.len();
        condition.push_str(&format!(" AND (t.updated_at, t.recommendation_id) > (${}, ${})", n + 1, n + 2));
        values.extend([Value::from(at), id.into()]);
    }
    let select = format!(
        "SELECT t.recommendation_id, t.updated_at AS failed_at FROM embedding_tasks t WHERE {condition} \
         ORDER BY t.updated_at, t.recommendation_id LIMIT {STEP}"
    );
    sql::all(tx.conn(), &select, values).await
}

/// At the end of the lane, with all attempts before them. The window of the relay and the turns of the lanes keep any
/// number of them from falling upon the provider or from holding up what users wait for.
async fn replay(tx: &Tx<'_>, ids: &[i64], rank: i16) -> Result<u64, DbError> {
    if ids.is_empty() {
        return Ok(0);
    }
    attempts::forget(tx, ids).await?;
    let (among, more) = sql::among(tx.conn(), "recommendation_id", 3, ids);
    let update = format!(
        "UPDATE embedding_tasks SET state = 'pending', priority = $1, attempts = 0, last_error = NULL, \
         error_group = NULL, claim = NULL, published_at = NULL, enqueued_at = $2, not_before = $2, updated_at = $2 \
         WHERE target = 'current' AND state = 'dead' AND discarded_at IS NULL AND {among}"
    );
    let values = [Value::from(rank), sql::now().into()].into_iter().chain(more);
    tx.wake_relay();
    Ok(sql::execute(tx.conn(), &update, values).await?.rows_affected())
}

/// The task stays, so that nothing takes its recommendation for a forgotten one and enqueues it again.
async fn discard(tx: &Tx<'_>, ids: &[i64]) -> Result<u64, DbError> {
    if ids.is_empty() {
        return Ok(0);
    }
    let (among, more) = sql::among(tx.conn(), "recommendation_id", 2, ids);
    let update = format!(
        "UPDATE embedding_tasks SET discarded_at = $1 \
         WHERE target = 'current' AND state = 'dead' AND discarded_at IS NULL AND {among}"
    );
    let values = std::iter::once(Value::from(sql::now())).chain(more);
    Ok(sql::execute(tx.conn(), &update, values).await?.rows_affected())
}
