//! The dead letters as a person looks at them: those that the ledger calls dead and nobody has discarded.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, FromQueryResult, Value};

use super::attempts::Attempt;
use super::{Db, DbError, sql};
use crate::domain::dead_letter::DeadFilter;
use crate::domain::priority::Priority;
use crate::domain::status::TaskState;
use crate::domain::task::EmbedTask;

/// Groups that are told at most, the largest.
const GROUPS: i64 = 200;

/// Characters of a description that are shown.
const EXCERPT: i32 = 200;

const DEAD: &str = "t.state = 'dead' AND t.discarded_at IS NULL AND t.target = 'current'";

/// A task that was given up.
#[derive(Clone, Debug, PartialEq, FromQueryResult)]
pub struct DeadLetter {
    pub recommendation_id: i64,
    /// Rank of its lane.
    pub priority: i16,
    pub attempts: i32,
    pub error: Option<String>,
    pub failed_at: DateTime<Utc>,
    pub enqueued_at: DateTime<Utc>,
    pub content_version: i64,
    pub discarded_at: Option<DateTime<Utc>>,
    pub title: Option<String>,
    /// The begin of its description.
    pub excerpt: String,
}

/// Dead letters with the same error, but for ids and numbers in it.
#[derive(Clone, Debug, PartialEq, FromQueryResult)]
pub struct DeadGroup {
    pub error: String,
    pub count: i64,
    pub first_seen: DateTime<Utc>,
    pub last_seen: DateTime<Utc>,
    /// The id of one of them.
    pub example: i64,
}

/// Where a page ends, and the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadCursor {
    pub failed_at: DateTime<Utc>,
    pub recommendation_id: i64,
}

/// A condition on `embedding_tasks t` and its parameters, from `$1` on.
pub(super) fn matching(conn: &impl ConnectionTrait, filter: &DeadFilter) -> (String, Vec<Value>) {
    let (mut condition, mut values) = (DEAD.to_owned(), Vec::<Value>::new());
    let mut and = |part: &dyn Fn(usize) -> String, value: Value| {
        values.push(value);
        condition.push_str(" AND ");
        condition.push_str(&part(values.len()));
    };
    if let Some(error) = &filter.error {
        let within = if sql::is_postgres(conn) { "strpos" } else { "instr" };
        let part = |n| {
            format!(
                "({within}(lower(coalesce(t.last_error, '')), lower(${n})) > 0 \
                 OR {within}(lower(coalesce(t.error_group, '')), lower(${n})) > 0)"
            )
        };
        and(&part, error.clone().into());
    }
    if let Some(lane) = filter.lane {
        and(&|n| format!("t.priority = ${n}"), lane.rank().into());
    }
    if let Some(moment) = filter.older_than {
        and(&|n| format!("t.updated_at < ${n}"), moment.into());
    }
    if let Some(moment) = filter.newer_than {
        and(&|n| format!("t.updated_at >= ${n}"), moment.into());
    }
    if let Some(ids) = &filter.ids {
        let (among, more) = sql::among(conn, "t.recommendation_id", values.len() + 1, ids);
        condition.push_str(" AND ");
        condition.push_str(&among);
        values.extend(more);
    }
    (condition, values)
}

fn columns() -> String {
    format!(
        "SELECT t.recommendation_id, t.priority, t.attempts, t.last_error AS error, t.updated_at AS failed_at, \
         t.enqueued_at, t.content_version, t.discarded_at, r.title, substr(r.description, 1, {EXCERPT}) AS excerpt \
         FROM embedding_tasks t JOIN recommendations r ON r.id = t.recommendation_id"
    )
}

impl Db {
    /// Up to `limit` of them, the last one to die first, from after the end of a page before.
    pub async fn dead_letters(
        &self,
        filter: &DeadFilter,
        limit: u64,
        after: Option<DeadCursor>,
    ) -> Result<Vec<DeadLetter>, DbError> {
        let (mut condition, mut values) = matching(self.read(), filter);
        if let Some(DeadCursor { failed_at, recommendation_id }) = after {
            let n = values.len();
            condition.push_str(&format!(" AND (t.updated_at, t.recommendation_id) < (${}, ${})", n + 1, n + 2));
            values.extend([Value::from(failed_at), recommendation_id.into()]);
        }
        values.push((limit as i64).into());
        let select = format!(
            "{} WHERE {condition} ORDER BY t.updated_at DESC, t.recommendation_id DESC LIMIT ${}",
            columns(),
            values.len()
        );
        sql::all(self.read(), &select, values).await
    }

    /// One of them with its attempts, or one that was discarded; `None` when it is neither.
    pub async fn dead_letter(&self, id: i64) -> Result<Option<(DeadLetter, Vec<Attempt>)>, DbError> {
        let select =
            format!("{} WHERE t.recommendation_id = $1 AND t.target = 'current' AND t.state = 'dead'", columns());
        let Some(letter) = sql::one::<DeadLetter>(self.read(), &select, [id.into()]).await? else {
            return Ok(None);
        };
        let attempts = self.attempts(id, letter.content_version).await?;
        Ok(Some((letter, attempts)))
    }

    /// The largest groups, and how many dead letters there are in all groups together.
    pub async fn dead_groups(&self, filter: &DeadFilter) -> Result<(Vec<DeadGroup>, u64), DbError> {
        let (condition, mut values) = matching(self.read(), filter);
        let total = self.count_dead_letters(filter).await?;
        values.push(GROUPS.into());
        // Those from before there were groups stand for themselves.
        let select = format!(
            "SELECT coalesce(t.error_group, t.last_error, '') AS error, count(*) AS count, \
             min(t.updated_at) AS first_seen, max(t.updated_at) AS last_seen, max(t.recommendation_id) AS example \
             FROM embedding_tasks t WHERE {condition} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ${}",
            values.len()
        );
        Ok((sql::all(self.read(), &select, values).await?, total))
    }

    pub async fn count_dead_letters(&self, filter: &DeadFilter) -> Result<u64, DbError> {
        let (condition, values) = matching(self.read(), filter);
        let count = format!("SELECT count(*) FROM embedding_tasks t WHERE {condition}");
        Ok(sql::scalar::<i64>(self.read(), &count, values).await?.unwrap_or(0).max(0) as u64)
    }

    /// Of messages among a broker's dead letters, with the moment at which each was handed over: which ones the
    /// ledger knows of no more, as their tasks were replayed, discarded, edited or finished since.
    pub async fn outdated(&self, messages: &[(EmbedTask, DateTime<Utc>)]) -> Result<Vec<bool>, DbError> {
        let mut ids: Vec<i64> = messages.iter().map(|(task, _)| task.recommendation_id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (among, values) = sql::among(self.read(), "recommendation_id", 1, &ids);
        let select = format!(
            "SELECT recommendation_id, target, content_version, state, discarded_at, published_at \
             FROM embedding_tasks WHERE {among}"
        );
        let rows: Vec<LedgerRow> = sql::all(self.read(), &select, values).await?;
        let rows: HashMap<(i64, String), LedgerRow> =
            rows.into_iter().map(|row| ((row.recommendation_id, row.target.clone()), row)).collect();
        let outdated = |(task, published_at): &(EmbedTask, DateTime<Utc>)| {
            let key = (task.recommendation_id, task.target.as_str().to_owned());
            rows.get(&key).is_none_or(|row| row.has_gone_on(task, *published_at))
        };
        Ok(messages.iter().map(outdated).collect())
    }
}

#[derive(FromQueryResult)]
struct LedgerRow {
    recommendation_id: i64,
    target: String,
    content_version: i64,
    state: String,
    discarded_at: Option<DateTime<Utc>>,
    published_at: Option<DateTime<Utc>>,
}

impl LedgerRow {
    /// A message that the broker itself has given up a moment ago is still published here: it isn't outdated before
    /// the task is handed over again, or was started afresh and waits for that.
    fn has_gone_on(&self, task: &EmbedTask, handed_over: DateTime<Utc>) -> bool {
        let dead = TaskState::parse(&self.state) == Some(TaskState::Dead);
        let since = self.published_at.map_or(!dead, |at| at > handed_over);
        self.content_version > task.content_version || (dead && self.discarded_at.is_some()) || since
    }
}

impl DeadLetter {
    pub fn lane(&self) -> Priority {
        Priority::from_rank(self.priority)
    }

    pub fn cursor(&self) -> DeadCursor {
        DeadCursor { failed_at: self.failed_at, recommendation_id: self.recommendation_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::task::Target;

    #[test]
    fn a_message_is_outdated_once_its_task_has_gone_on_and_not_before() {
        let at = |s| DateTime::from_timestamp(s, 0).expect("a moment");
        let task = EmbedTask { recommendation_id: 7, content_version: 2, target: Target::Current };
        let row = |state: &str, version, published: Option<i64>, discarded: bool| LedgerRow {
            recommendation_id: 7,
            target: "current".into(),
            content_version: version,
            state: state.into(),
            discarded_at: discarded.then(|| at(90)),
            published_at: published.map(at),
        };
        for (state, version, published, discarded, expected) in [
            ("dead", 2, Some(50), false, false),
            ("dead", 2, Some(50), true, true),
            ("dead", 3, Some(50), false, true),
            // Replayed, and dead again of a later message.
            ("dead", 2, Some(60), false, true),
            ("dead", 2, None, false, false),
            // The broker's own verdict, which the ledger doesn't know yet.
            ("published", 2, Some(50), false, false),
            ("retrying", 2, Some(50), false, false),
            ("pending", 2, Some(50), false, false),
            ("pending", 2, None, false, true),
            ("published", 2, Some(60), false, true),
            ("pending", 3, None, false, true),
        ] {
            let row = row(state, version, published, discarded);
            assert_eq!(row.has_gone_on(&task, at(50)), expected, "{state} {version} {published:?} {discarded}");
        }
    }
}
