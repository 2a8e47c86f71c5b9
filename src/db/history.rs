//! What was done when, over all processes and restarts.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sea_orm::{FromQueryResult, Value};

use super::{Db, DbError, sql};
use crate::domain::history::{Amounts, Measure};

/// Seconds that one row is about.
pub const STEP: i64 = 10;
/// Minutes for which rows are kept.
pub const KEPT_MINUTES: u64 = 24 * 60;

#[derive(FromQueryResult)]
struct Row {
    at: i64,
    measure: String,
    bucket: i16,
    amount: f64,
}

impl Db {
    /// Adds what was noted since the last time to what all processes did in these ten seconds; what can't be written
    /// now is kept for the next.
    pub async fn write_history(&self) -> Result<(), DbError> {
        let amounts = self.chronicle.take_amounts();
        if amounts.is_empty() {
            return Ok(());
        }
        let at = Utc::now().timestamp().div_euclid(STEP) * STEP;
        // In everybody's order: two processes that add to the same rows wait for each other and never in a ring.
        let rows: Vec<[Value; 4]> = amounts
            .iter()
            .map(|(measure, bucket, amount)| [at.into(), measure.as_str().into(), bucket.into(), amount.into()])
            .collect();
        let tuples: Vec<String> = (0..rows.len()).map(|row| sql::tuple(row * 4 + 1, 4)).collect();
        let upsert = format!(
            "INSERT INTO embedding_history (at, measure, bucket, amount) VALUES {} \
             ON CONFLICT (at, measure, bucket) DO UPDATE SET amount = embedding_history.amount + excluded.amount",
            tuples.join(", ")
        );
        if let Err(error) = self.change(upsert, rows.into_iter().flatten()).await {
            self.chronicle.add(amounts);
            return Err(error);
        }
        Ok(())
    }

    /// What was done from this moment on (seconds since 1970), by the begin of each `step` seconds, a multiple of
    /// [`STEP`]. Where nothing was done there is no entry.
    pub async fn history(&self, from: i64, step: i64) -> Result<BTreeMap<i64, Amounts>, DbError> {
        let select = "SELECT at / $2 * $2 AS at, measure, bucket, sum(amount) AS amount FROM embedding_history \
            WHERE at >= $1 GROUP BY 1, 2, 3";
        let rows: Vec<Row> = sql::all(self.read(), select, [from.into(), step.max(STEP).into()]).await?;
        let mut history: BTreeMap<i64, Amounts> = BTreeMap::new();
        for Row { at, measure, bucket, amount } in rows {
            // Of a newer version.
            let Some(measure) = Measure::parse(&measure) else { continue };
            history.entry(at).or_default().add_to(measure, bucket, amount);
        }
        Ok(history)
    }

    pub(super) async fn forget_amounts(&self, now: DateTime<Utc>) -> Result<(), DbError> {
        let before = now.timestamp() - (KEPT_MINUTES * 60).cast_signed();
        self.change("DELETE FROM embedding_history WHERE at < $1", [before.into()]).await?;
        Ok(())
    }
}
