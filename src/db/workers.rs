//! What every process tells the others about itself, once a second.

use chrono::{DateTime, Utc};
use sea_orm::{DatabaseConnection, FromQueryResult, Value};

use super::{Db, DbError, connect, sql};
use crate::config::sections::DatabaseSettings;

/// A process that hasn't been heard of for this long is gone.
pub const STALE_SECONDS: i64 = 10;

/// A process as the others know it.
#[derive(Clone, Debug, PartialEq, FromQueryResult)]
pub struct Heartbeat {
    pub id: String,
    pub role: String,
    pub host: String,
    pub pid: i64,
    pub started_at: DateTime<Utc>,
    pub heartbeat_at: DateTime<Utc>,
    /// Deliveries that it works on.
    pub in_flight: i64,
    pub max_concurrent: i64,
    pub batch_size: i64,
    /// Embeddings made and given up since it started.
    pub ready_total: i64,
    pub failed_total: i64,
    /// Over the last ten seconds.
    pub ready_per_second: f64,
    /// Why the broker or the provider can't be used at the moment.
    pub broker_error: Option<String>,
    pub provider_error: Option<String>,
    /// When the newest message that was ever delivered to it entered each lane.
    pub newest_high: Option<DateTime<Utc>>,
    pub newest_normal: Option<DateTime<Utc>>,
    pub newest_low: Option<DateTime<Utc>>,
    /// When the oldest message that it holds entered each lane; none when it holds none of the lane.
    pub oldest_high: Option<DateTime<Utc>>,
    pub oldest_normal: Option<DateTime<Utc>>,
    pub oldest_low: Option<DateTime<Utc>>,
    /// Its circuit breaker: `closed`, `open` or `half-open`; none for a model of its own.
    pub breaker_state: Option<String>,
    pub breaker_reason: Option<String>,
    pub breaker_since: Option<DateTime<Utc>>,
    pub breaker_probe_at: Option<DateTime<Utc>>,
    /// Between which numbers of calls at once it chooses by itself; the same twice when they are fixed.
    pub concurrency_min: Option<i64>,
    pub concurrency_max: Option<i64>,
    /// Why there are as many as there are, and since when.
    pub concurrency_reason: Option<String>,
    pub concurrency_changed_at: Option<DateTime<Utc>>,
    /// `working`, `draining` or `drained`; none for a process that doesn't embed.
    pub state: Option<String>,
    /// Since when it is to take nothing more; written by whoever wants that.
    pub drain_since: Option<DateTime<Utc>>,
}

impl Heartbeat {
    /// By [`crate::domain::priority::Priority::rank`].
    pub fn newest(&self) -> [Option<DateTime<Utc>>; 3] {
        [self.newest_high, self.newest_normal, self.newest_low]
    }

    /// By [`crate::domain::priority::Priority::rank`].
    pub fn oldest(&self) -> [Option<DateTime<Utc>>; 3] {
        [self.oldest_high, self.oldest_normal, self.oldest_low]
    }
}

const COLUMNS: &str = "id, role, host, pid, started_at, heartbeat_at, in_flight, max_concurrent, batch_size, \
    ready_total, failed_total, ready_per_second, broker_error, provider_error, newest_high, \
    newest_normal, newest_low, oldest_high, oldest_normal, oldest_low, breaker_state, breaker_reason, breaker_since, \
    breaker_probe_at, concurrency_min, concurrency_max, concurrency_reason, concurrency_changed_at, state";

impl Db {
    /// Writes this process's heartbeat and forgets processes that died a day ago.
    pub async fn beat(&self, heartbeat: Heartbeat) -> Result<(), DbError> {
        let upsert = format!(
            "INSERT INTO workers ({COLUMNS}) VALUES {} ON CONFLICT (id) DO UPDATE SET \
             heartbeat_at = excluded.heartbeat_at, in_flight = excluded.in_flight, \
             max_concurrent = excluded.max_concurrent, batch_size = excluded.batch_size, \
             ready_total = excluded.ready_total, failed_total = excluded.failed_total, \
             ready_per_second = excluded.ready_per_second, broker_error = excluded.broker_error, \
             provider_error = excluded.provider_error, newest_high = excluded.newest_high, \
             newest_normal = excluded.newest_normal, newest_low = excluded.newest_low, \
             oldest_high = excluded.oldest_high, oldest_normal = excluded.oldest_normal, \
             oldest_low = excluded.oldest_low, breaker_state = excluded.breaker_state, \
             breaker_reason = excluded.breaker_reason, breaker_since = excluded.breaker_since, \
             breaker_probe_at = excluded.breaker_probe_at, concurrency_min = excluded.concurrency_min, \
             concurrency_max = excluded.concurrency_max, concurrency_reason = excluded.concurrency_reason, \
             concurrency_changed_at = excluded.concurrency_changed_at, state = excluded.state",
            sql::tuple(1, 29)
        );
        let day_ago = heartbeat.heartbeat_at - chrono::Duration::days(1);
        self.change(upsert, values(heartbeat)).await?;
        self.change("DELETE FROM workers WHERE heartbeat_at < $1", [day_ago.into()]).await?;
        Ok(())
    }

    /// This process ends in good order.
    pub async fn sign_off(&self, id: String) -> Result<(), DbError> {
        self.change("DELETE FROM workers WHERE id = $1", [id.into()]).await?;
        Ok(())
    }

    /// The processes that were heard of lately.
    pub async fn workers(&self) -> Result<Vec<Heartbeat>, DbError> {
        heard_of(self.read()).await
    }

    /// As [`Db::workers`], for a look from outside at PostgreSQL: it waits for no server and changes no schema.
    pub async fn workers_at(settings: &DatabaseSettings) -> Result<Vec<Heartbeat>, DbError> {
        let conn = connect::reach::glance(settings).await?;
        // Before the first start there are none.
        let there = sql::scalar::<bool>(&conn, "SELECT to_regclass('workers') IS NOT NULL", []).await?;
        let workers = if there == Some(true) { heard_of(&conn).await? } else { Vec::new() };
        conn.close().await?;
        Ok(workers)
    }
}

async fn heard_of(conn: &DatabaseConnection) -> Result<Vec<Heartbeat>, DbError> {
    let select =
        format!("SELECT {COLUMNS}, drain_since FROM workers WHERE heartbeat_at > $1 ORDER BY started_at, id");
    let since = sql::now() - chrono::Duration::seconds(STALE_SECONDS);
    sql::all(conn, &select, [since.into()]).await
}

fn values(beat: Heartbeat) -> [Value; 29] {
    [
        beat.id.into(),
        beat.role.into(),
        beat.host.into(),
        beat.pid.into(),
        beat.started_at.into(),
        beat.heartbeat_at.into(),
        beat.in_flight.into(),
        beat.max_concurrent.into(),
        beat.batch_size.into(),
        beat.ready_total.into(),
        beat.failed_total.into(),
        beat.ready_per_second.into(),
        beat.broker_error.into(),
        beat.provider_error.into(),
        beat.newest_high.into(),
        beat.newest_normal.into(),
        beat.newest_low.into(),
        beat.oldest_high.into(),
        beat.oldest_normal.into(),
        beat.oldest_low.into(),
        beat.breaker_state.into(),
        beat.breaker_reason.into(),
        beat.breaker_since.into(),
        beat.breaker_probe_at.into(),
        beat.concurrency_min.into(),
        beat.concurrency_max.into(),
        beat.concurrency_reason.into(),
        beat.concurrency_changed_at.into(),
        beat.state.into(),
    ]
}
