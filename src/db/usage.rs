//! What calls to the provider took, by model and day.

use chrono::{DateTime, Utc};
use sea_orm::{FromQueryResult, Value};

use super::{Db, DbError, sql};
use crate::domain::usage::Usage;

#[derive(FromQueryResult)]
struct Row {
    calls: i64,
    texts: i64,
    tokens: i64,
    cached: i64,
    cost: f64,
}

impl From<Row> for Usage {
    fn from(row: Row) -> Self {
        let count = |n: i64| n.max(0) as u64;
        Self {
            calls: count(row.calls),
            texts: count(row.texts),
            tokens: count(row.tokens),
            cached: count(row.cached),
            cost: row.cost,
        }
    }
}

/// Of this model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UsageSoFar {
    /// Since midnight, UTC.
    pub today: Usage,
    /// Since the first call.
    pub total: Usage,
}

fn day(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d").to_string()
}

impl Db {
    /// Adds to what this model took today.
    pub async fn add_usage(&self, usage: Usage) -> Result<(), DbError> {
        let upsert = "INSERT INTO provider_usage (model, day, calls, texts, tokens, cached, cost) \
            VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (model, day) DO UPDATE SET \
            calls = provider_usage.calls + excluded.calls, texts = provider_usage.texts + excluded.texts, \
            tokens = provider_usage.tokens + excluded.tokens, cached = provider_usage.cached + excluded.cached, \
            cost = provider_usage.cost + excluded.cost";
        let count = |n: u64| Value::from(i64::try_from(n).unwrap_or(i64::MAX));
        let values: [Value; 7] = [
            self.model().id.to_string().into(),
            day(Utc::now()).into(),
            count(usage.calls),
            count(usage.texts),
            count(usage.tokens),
            count(usage.cached),
            usage.cost.into(),
        ];
        self.change(upsert, values).await?;
        Ok(())
    }

    /// What this model took, over all processes; up to a second old.
    pub async fn usage(&self) -> Result<UsageSoFar, DbError> {
        let sums = "SELECT CAST(coalesce(sum(calls), 0) AS BIGINT) AS calls, \
            CAST(coalesce(sum(texts), 0) AS BIGINT) AS texts, CAST(coalesce(sum(tokens), 0) AS BIGINT) AS tokens, \
            CAST(coalesce(sum(cached), 0) AS BIGINT) AS cached, coalesce(sum(cost), 0.0) AS cost \
            FROM provider_usage WHERE model = $1 AND day >= $2";
        let since = async |day: String| -> Result<Usage, DbError> {
            let values: [Value; 2] = [self.model().id.to_string().into(), day.into()];
            let row: Option<Row> = sql::one(self.read(), sums, values).await?;
            Ok(row.map(Usage::from).unwrap_or_default())
        };
        Ok(UsageSoFar { today: since(day(Utc::now())).await?, total: since(String::new()).await? })
    }
}
