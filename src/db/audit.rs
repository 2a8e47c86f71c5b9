//! What was done by whom to the queue.

use chrono::{DateTime, Utc};
use sea_orm::{FromQueryResult, Value};

use super::{Db, DbError, Tx, sql};

/// A line of the audit.
#[derive(Clone, Debug, PartialEq, FromQueryResult)]
pub struct AuditEntry {
    pub id: i64,
    pub at: DateTime<Utc>,
    pub who: String,
    pub action: String,
    /// What it was about, as JSON.
    pub filter: String,
    /// How many it has concerned so far.
    pub count: i64,
    /// `None` while it is still being carried out.
    pub finished_at: Option<DateTime<Utc>>,
}

impl Db {
    /// Up to `limit` lines, the newest first, from before the one with this id.
    pub async fn audit(&self, limit: u64, before: Option<i64>) -> Result<Vec<AuditEntry>, DbError> {
        let select = "SELECT id, at, who, action, filter, count, finished_at FROM embedding_audit \
            WHERE id < $1 ORDER BY id DESC LIMIT $2";
        let values: [Value; 2] = [before.unwrap_or(i64::MAX).into(), (limit as i64).into()];
        sql::all(self.read(), select, values).await
    }

    pub(super) async fn audited(&self, id: i64) -> Result<Option<AuditEntry>, DbError> {
        let select = "SELECT id, at, who, action, filter, count, finished_at FROM embedding_audit WHERE id = $1";
        sql::one(self.read(), select, [id.into()]).await
    }
}

/// Writes a line about what this transaction does.
pub(super) async fn note(tx: &Tx<'_>, who: &str, action: &str, about: &str, count: u64) -> Result<(), DbError> {
    let insert = "INSERT INTO embedding_audit (at, who, action, filter, count, until, finished_at) \
        VALUES ($1, $2, $3, $4, $5, $1, $1)";
    let values: [Value; 5] = [
        sql::now().into(),
        who.into(),
        action.into(),
        about.into(),
        i64::try_from(count).unwrap_or(i64::MAX).into(),
    ];
    sql::execute(tx.conn(), insert, values).await?;
    Ok(())
}
