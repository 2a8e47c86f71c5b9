//! What calls to the provider took, by model and day.

use chrono::{DateTime, Utc};
use sea_orm::{FromQueryResult, Value};

use super::{Db, DbError, sql};
use crate::domain::usage::Usage;

#[derive(FromQueryResult)]
struct Row {
    today: bool,
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
        let select = "SELECT day >= $2 AS today, CAST(sum(calls) AS BIGINT) AS calls, \
            CAST(sum(texts) AS BIGINT) AS texts, CAST(sum(tokens) AS BIGINT) AS tokens, \
            CAST(sum(cached) AS BIGINT) AS cached, sum(cost) AS cost \
            FROM provider_usage WHERE model = $1 GROUP BY 1";
        let values: [Value; 2] = [self.model().id.to_string().into(), day(Utc::now()).into()];
        let mut so_far = UsageSoFar::default();
        for row in sql::all::<Row>(self.read(), select, values).await? {
            let today = row.today;
            let usage = Usage::from(row);
            so_far.total.add(usage);
            if today {
                so_far.today = usage;
            }
        }
        Ok(so_far)
    }
}
