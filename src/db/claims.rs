//! How relays take tasks for the broker: each task for one relay, and back if that one dies.
//!
//! A claim makes its tasks `published` at once and notes itself in one row; the confirms of the broker end that row
//! and touch no task. Written per task, as a state between `pending` and `published`, the confirms cost a fifth of
//! what PostgreSQL does for a task in a full queue, and met with workers who were finishing the same rows.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use futures_util::FutureExt;
use sea_orm::{DbErr, FromQueryResult, QueryResult, Value};
use uuid::Uuid;

use super::sql::InOrder;
use super::{Db, DbError, Tx, sql};
use crate::domain::priority::Priority;
use crate::domain::task::{EmbedTask, Target};
use crate::domain::trace::TraceParent;

/// A claim whose relay has died is taken over after this; publishing a batch takes milliseconds.
const CLAIM_EXPIRES: Duration = Duration::from_secs(10);

/// A task that a relay has claimed and is about to publish.
#[derive(Clone, Debug)]
pub struct ClaimedTask {
    pub task: EmbedTask,
    pub priority: Priority,
    pub attempts: u32,
    pub trace: Option<TraceParent>,
}

/// Tasks claimed together.
#[derive(Clone, Debug)]
pub struct Claim {
    token: String,
    /// The tasks' `published_at`, which travels with the messages: in whole milliseconds, as these have no finer
    /// time, so that a message is known again as the one of this claim.
    pub at: DateTime<Utc>,
    pub tasks: Vec<ClaimedTask>,
}

struct ClaimedRow {
    recommendation_id: i64,
    target: String,
    content_version: i64,
    priority: i16,
    attempts: i32,
    not_before: DateTime<Utc>,
    trace: Option<String>,
}

impl FromQueryResult for ClaimedRow {
    /// In the order of what a claim returns.
    fn from_query_result(row: &QueryResult, _prefix: &str) -> Result<Self, DbErr> {
        let mut columns = InOrder::new(row);
        Ok(Self {
            recommendation_id: columns.next()?,
            target: columns.next()?,
            content_version: columns.next()?,
            priority: columns.next()?,
            attempts: columns.next()?,
            not_before: columns.next()?,
            trace: columns.next()?,
        })
    }
}

impl ClaimedRow {
    fn claimed(self) -> ClaimedTask {
        let target = if self.target == Target::Next.as_str() { Target::Next } else { Target::Current };
        ClaimedTask {
            task: EmbedTask {
                recommendation_id: self.recommendation_id,
                content_version: self.content_version,
                target,
            },
            priority: Priority::from_rank(self.priority),
            attempts: self.attempts.max(0) as u32,
            trace: self.trace.as_deref().and_then(TraceParent::parse),
        }
    }
}

impl Db {
    /// Claims up to `limit` due tasks of a lane, the longest waiting first.
    pub async fn claim(&self, lane: Priority, limit: u64) -> Result<Claim, DbError> {
        let (token, now) = (Uuid::now_v7().to_string(), sql::now());
        let at = now.trunc_subsecs(3);
        let values: [Value; 5] =
            [token.clone().into(), now.into(), lane.rank().into(), (limit as i64).into(), at.into()];
        let mut rows: Vec<ClaimedRow> = if self.is_postgres() {
            self.change_returning(CLAIM_SIDE_BY_SIDE, values).await?
        } else {
            self.write(move |tx| claim_in_turn(tx, values.clone()).boxed()).await?
        };
        // RETURNING has no order.
        rows.sort_by_key(|row| (row.not_before, row.recommendation_id));
        Ok(Claim { token, at, tasks: rows.into_iter().map(ClaimedRow::claimed).collect() })
    }

    /// The broker is responsible for what was claimed, but for `refused`, which is pending again.
    ///
    /// A task that was edited, finished or retried meanwhile has lost the claim and is left alone.
    pub async fn confirm(&self, claim: Claim, refused: Vec<EmbedTask>) -> Result<(), DbError> {
        if claim.tasks.is_empty() {
            return Ok(());
        }
        let refused = Arc::new(refused);
        let token = claim.token;
        if !refused.is_empty() {
            let token = token.clone();
            self.write(move |tx| give_back(tx, token.clone(), refused.clone()).boxed()).await?;
        }
        self.change("DELETE FROM claims WHERE token = $1", [token.into()]).await?;
        Ok(())
    }

    /// Gives back what relays claimed and never confirmed, as they died meanwhile. Returns how many.
    pub async fn release_expired_claims(&self) -> Result<u64, DbError> {
        let expired = sql::now() - CLAIM_EXPIRES;
        let any = "SELECT EXISTS (SELECT 1 FROM claims WHERE claimed_at < $1)";
        if sql::scalar::<bool>(self.read(), any, [expired.into()]).await? != Some(true) {
            return Ok(0);
        }
        self.write(move |tx| {
            async move {
                let release = "UPDATE embedding_tasks SET state = 'pending', claim = NULL WHERE state = 'published' \
                    AND claim IN (SELECT token FROM claims WHERE claimed_at < $1)";
                let released = sql::execute(tx.conn(), release, [expired.into()]).await?.rows_affected();
                sql::execute(tx.conn(), "DELETE FROM claims WHERE claimed_at < $1", [expired.into()]).await?;
                tx.wake_relay();
                Ok(released)
            }
            .boxed()
        })
        .await
    }
}

/// On PostgreSQL, relays claim side by side: each passes over what another is just claiming. The rows are picked in a
/// step of its own, as a planner may run a subquery of IN more than once, which would lock more than the limit; and
/// they are reached by where they lie, which holds as long as they are locked (by an array, as a join may be a scan). One that somebody wrote between the
/// statement's begin and its lock lies elsewhere and has its turn in the next claim.
const CLAIM_SIDE_BY_SIDE: &str = "WITH due AS MATERIALIZED (SELECT ctid FROM embedding_tasks \
        WHERE state = 'pending' AND priority = $3 AND not_before <= $2 \
        ORDER BY not_before, recommendation_id LIMIT $4 FOR NO KEY UPDATE SKIP LOCKED), \
    claimed AS (UPDATE embedding_tasks t SET state = 'published', claim = $1, published_at = $5, updated_at = $2 \
        WHERE t.ctid = ANY (ARRAY(SELECT due.ctid FROM due)) \
        RETURNING t.recommendation_id, t.target, t.content_version, t.priority, t.attempts, t.not_before, t.trace), \
    noted AS (INSERT INTO claims (token, claimed_at) SELECT $1, $2 WHERE EXISTS (SELECT 1 FROM claimed)) \
    SELECT * FROM claimed";

/// As [`CLAIM_SIDE_BY_SIDE`], where there is one writer at a time.
async fn claim_in_turn(tx: &Tx<'_>, values: [Value; 5]) -> Result<Vec<ClaimedRow>, DbError> {
    let update = "UPDATE embedding_tasks SET state = 'published', claim = $1, published_at = $5, updated_at = $2 \
        WHERE (recommendation_id, target) IN (SELECT recommendation_id, target FROM embedding_tasks \
        WHERE state = 'pending' AND priority = $3 AND not_before <= $2 \
        ORDER BY not_before, recommendation_id LIMIT $4) \
        RETURNING recommendation_id, target, content_version, priority, attempts, not_before, trace";
    let [token, now, ..] = values.clone();
    let rows: Vec<ClaimedRow> = sql::all(tx.conn(), update, values).await?;
    if !rows.is_empty() {
        sql::execute(tx.conn(), "INSERT INTO claims (token, claimed_at) VALUES ($1, $2)", [token, now]).await?;
    }
    Ok(rows)
}

async fn give_back(tx: &Tx<'_>, token: String, refused: Arc<Vec<EmbedTask>>) -> Result<(), DbError> {
    let release = "UPDATE embedding_tasks SET state = 'pending', claim = NULL \
        WHERE recommendation_id = $1 AND target = $2 AND claim = $3 AND state = 'published'";
    for task in refused.iter() {
        let values = [task.recommendation_id.into(), task.target.as_str().into(), token.clone().into()];
        sql::execute(tx.conn(), release, values).await?;
    }
    Ok(())
}
