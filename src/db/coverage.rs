//! How many recommendations have the vector of their text. Counting them looks at every row, so that one count is
//! shared for a while.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sea_orm::FromQueryResult;

use super::{Db, DbError, sql};

/// How long a count is good, at least; one that takes long is good for fifty times as long.
const LIFETIME: Duration = Duration::from_secs(3);
const SHARE: u32 = 50;

/// Each recommendation is in one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// With a vector of its text and of this model.
    pub current: u64,
    /// Found by a vector of an older text, or with one of another model.
    pub stale: u64,
    /// Without a vector; its task waits or runs.
    pub pending: u64,
    /// Given up or discarded, whether or not there is an older vector.
    pub failed: u64,
    /// When this was counted.
    pub counted_at: DateTime<Utc>,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    coverage: Coverage,
    at: Instant,
    cost: Duration,
}

/// The last count; held while one is made.
#[derive(Debug, Default)]
pub(super) struct CoverageCount(tokio::sync::Mutex<Option<Counted>>);

#[derive(FromQueryResult)]
struct Row {
    state: String,
    recommendations: i64,
}

const SELECT: &str = "SELECT CASE \
        WHEN t.state = 'dead' THEN 'failed' \
        WHEN r.embedded_version = r.content_version AND r.embedding_model = $1 THEN 'current' \
        WHEN r.embedded_version IS NOT NULL THEN 'stale' ELSE 'pending' END AS state, \
    count(*) AS recommendations FROM recommendations r \
    LEFT JOIN embedding_tasks t ON t.recommendation_id = r.id AND t.target = 'current' \
    WHERE r.deleted_at IS NULL GROUP BY 1";

impl Db {
    /// Of some seconds ago where there are many rows.
    pub async fn coverage(&self) -> Result<Coverage, DbError> {
        let mut last = self.coverage.0.lock().await;
        if let Some(known) = last.filter(|known| known.at.elapsed() < LIFETIME.max(known.cost * SHARE)) {
            return Ok(known.coverage);
        }
        let at = Instant::now();
        let rows: Vec<Row> = sql::all(self.read(), SELECT, [self.model().id.to_string().into()]).await?;
        let of = |state: &str| {
            rows.iter().filter(|row| row.state == state).map(|row| row.recommendations.max(0).unsigned_abs()).sum()
        };
        let coverage = Coverage {
            current: of("current"),
            stale: of("stale"),
            pending: of("pending"),
            failed: of("failed"),
            counted_at: sql::now(),
        };
        *last = Some(Counted { coverage, at, cost: at.elapsed() });
        Ok(coverage)
    }
}
