//! The events of all processes, in the order in which they were committed.

use sea_orm::{FromQueryResult, Value};

use super::{Db, DbError, sql};
use crate::domain::event::Event;

/// Events are kept for so long.
const KEPT: chrono::Duration = chrono::Duration::minutes(10);

/// What one process wrote down at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Later ones are greater.
    pub id: i64,
    /// Events beside these that were only counted.
    pub skipped: u64,
    pub events: Vec<Event>,
}

#[derive(FromQueryResult)]
struct Row {
    id: i64,
    skipped: i64,
    events: String,
}

/// On PostgreSQL one at a time, or an id could become visible after a greater one, and whoever reads on from the
/// greatest would never see it. The lock's number means nothing else.
const IN_TURN: &str = "WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock(5167923041)) \
    INSERT INTO embedding_journal (at, skipped, events) SELECT $1, $2, $3 FROM turn";
const ALONE: &str = "INSERT INTO embedding_journal (at, skipped, events) VALUES ($1, $2, $3)";

impl Db {
    /// Writes down the events since the last time; what can't be written now is kept for the next.
    pub async fn write_journal(&self) -> Result<(), DbError> {
        let page = self.chronicle.take_page();
        if page.is_empty() {
            return Ok(());
        }
        let insert = if self.is_postgres() { IN_TURN } else { ALONE };
        let events = serde_json::to_string(&page.events).unwrap_or_else(|_| "[]".to_owned());
        let skipped = i64::try_from(page.skipped).unwrap_or(i64::MAX);
        let written = self.change(insert, [sql::now().into(), skipped.into(), events.into()]).await;
        if let Err(error) = written {
            self.chronicle.put_back(page);
            return Err(error);
        }
        Ok(())
    }

    /// The id of the last entry; 0 where there is none.
    pub async fn journal_end(&self) -> Result<i64, DbError> {
        let last = sql::scalar::<Option<i64>>(self.read(), "SELECT max(id) FROM embedding_journal", []).await?;
        Ok(last.flatten().unwrap_or(0))
    }

    /// Up to `limit` entries after this id, the first one first.
    pub async fn journal_after(&self, id: i64, limit: u64) -> Result<Vec<Entry>, DbError> {
        let select = "SELECT id, skipped, events FROM embedding_journal WHERE id > $1 ORDER BY id LIMIT $2";
        let values: [Value; 2] = [id.into(), i64::try_from(limit).unwrap_or(i64::MAX).into()];
        let rows: Vec<Row> = sql::all(self.read(), select, values).await?;
        Ok(rows.into_iter().map(Entry::from).collect())
    }

    /// Forgets the events and the amounts that nobody asks for any more.
    pub async fn forget_history(&self) -> Result<(), DbError> {
        let now = sql::now();
        self.change("DELETE FROM embedding_journal WHERE at < $1", [(now - KEPT).into()]).await?;
        self.forget_amounts(now).await
    }
}

impl From<Row> for Entry {
    /// Events that this version can't read are those of a newer one: counted, as they were.
    fn from(row: Row) -> Self {
        let skipped = row.skipped.max(0).unsigned_abs();
        match serde_json::from_str(&row.events) {
            Ok(events) => Self { id: row.id, skipped, events },
            Err(_) => Self { id: row.id, skipped: skipped + 1, events: Vec::new() },
        }
    }
}
