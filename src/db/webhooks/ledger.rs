//! How deliveries go through the broker and come to their end: claimed by a relay, loaded by a worker, written down.
//!
//! A message is a hint, as a task's is. What is `published` and isn't heard of again is published again, in another
//! round, so that of two messages about one delivery the older is known for what it is.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use sea_orm::{FromQueryResult, Value};
use serde_json::json;

use crate::config::secret::Secret;
use crate::db::{Db, DbError, Tx, audit, sql};
use crate::domain::webhook::handover::Handover;
use crate::domain::webhook::{DeliveryState, Event};

/// That nobody has changed the endpoint since the request of `$3` began: what came of that one says nothing of where the
/// next one goes.
const UNCHANGED: &str = "updated_at <= $3";

/// Who is written down for what the service decides by itself.
const SERVICE: &str = "service";

/// What a delivery is again that leaves the broker without an answer.
const WAITING: &str = "CASE WHEN failures > 0 THEN 'retrying' ELSE 'pending' END";

/// A delivery that is to be handed to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    pub handover: Handover,
    /// Failed attempts before this one.
    pub failures: u32,
    /// Somebody waits for it.
    pub urgent: bool,
    /// In whole milliseconds.
    pub at: DateTime<Utc>,
}

/// A delivery as a worker needs it.
#[derive(Clone, Debug)]
pub struct LoadedDelivery {
    pub handover: Handover,
    pub endpoint_id: i64,
    /// The header `webhook-id`.
    pub event_id: String,
    pub event: Event,
    /// What is sent; the same at each attempt.
    pub payload: String,
    /// Failed attempts before this one.
    pub failures: u32,
    pub url: String,
    /// Those that sign at the moment, the newest first.
    pub secrets: Vec<Secret>,
    pub disabled: bool,
}

/// What an attempt led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// To be tried again.
    Retry {
        not_before: DateTime<Utc>,
    },
    GivenUp,
    /// The receiver said that it is gone for good: given up, and the endpoint disabled.
    Gone,
}

/// An attempt and what it led to.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub handover: Handover,
    pub endpoint_id: i64,
    pub event: Event,
    pub verdict: Verdict,
    pub at: DateTime<Utc>,
    pub url: String,
    pub status: Option<u16>,
    pub duration: Duration,
    /// The begin of the answer's body.
    pub response: Option<String>,
    pub error: Option<String>,
    pub worker: Arc<str>,
    /// An endpoint that has failed for so long is disabled.
    pub disable_after: Duration,
}

/// An endpoint with something due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromQueryResult)]
pub struct DueEndpoint {
    pub id: i64,
    /// Its deliveries that are with the broker.
    pub under_way: i64,
}

#[derive(FromQueryResult)]
struct ClaimedRow {
    id: i64,
    round: i64,
    failures: i32,
    not_before: DateTime<Utc>,
}

#[derive(FromQueryResult)]
struct LoadedRow {
    endpoint_id: i64,
    event_id: String,
    event: String,
    occurred_at: DateTime<Utc>,
    data: String,
    failures: i32,
    url: String,
    secret: String,
    previous_secret: Option<String>,
    previous_secret_until: Option<DateTime<Utc>>,
    disabled_at: Option<DateTime<Utc>>,
}

/// The moment of what somebody waits for: before all others.
pub(super) fn urgent() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH
}

/// What is sent for an event.
pub(super) fn payload(event: &str, occurred_at: DateTime<Utc>, data: &str) -> String {
    let data: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
    json!({ "type": event, "timestamp": occurred_at, "data": data }).to_string()
}

impl Db {
    /// The endpoints with something due, and how many deliveries are under way for each.
    pub async fn webhooks_due(&self) -> Result<Vec<DueEndpoint>, DbError> {
        let select = "SELECT e.id, (SELECT count(*) FROM webhook_deliveries p WHERE p.endpoint_id = e.id \
            AND p.state = 'published') AS under_way FROM webhook_endpoints e WHERE e.disabled_at IS NULL AND EXISTS \
            (SELECT 1 FROM webhook_deliveries d WHERE d.endpoint_id = e.id AND d.state IN ('pending', 'retrying') \
            AND d.not_before <= $1) ORDER BY e.id";
        sql::all(self.read(), select, [sql::now().into()]).await
    }

    /// Claims what is due for an endpoint, the longest due first, as far as no more than `at_once` are under way then.
    pub async fn claim_deliveries(&self, endpoint: i64, at_once: usize) -> Result<Vec<Claimed>, DbError> {
        let mut claimed = self.write(move |tx| claim(tx, endpoint, at_once as i64).boxed()).await?;
        // RETURNING has no order.
        claimed.sort_by_key(|claimed| (!claimed.urgent, claimed.handover.delivery_id));
        Ok(claimed)
    }

    /// The broker didn't take these, or a worker leaves them: they wait again.
    pub async fn give_back_deliveries(&self, given_back: Vec<Handover>) -> Result<(), DbError> {
        let update = format!(
            "UPDATE webhook_deliveries SET state = {WAITING}, published_at = NULL \
             WHERE id = $1 AND round = $2 AND state = 'published'"
        );
        for Handover { delivery_id, round } in given_back {
            self.change(update.clone(), [delivery_id.into(), round.into()]).await?;
        }
        Ok(())
    }

    /// Whether anything is with the broker: a cheap look.
    pub async fn published_deliveries(&self) -> Result<u64, DbError> {
        let count = "SELECT count(*) FROM webhook_deliveries WHERE state = 'published'";
        Ok(sql::scalar::<i64>(self.read(), count, []).await?.unwrap_or(0).max(0) as u64)
    }

    /// What was with the broker before this moment waits again: the broker has forgotten it, or its worker has died.
    pub async fn release_deliveries(&self, before: DateTime<Utc>) -> Result<u64, DbError> {
        let lost = "state = 'published' AND published_at < $1";
        let any = format!("SELECT EXISTS (SELECT 1 FROM webhook_deliveries WHERE {lost})");
        if sql::scalar::<bool>(self.read(), &any, [before.into()]).await? != Some(true) {
            return Ok(0);
        }
        let update = format!("UPDATE webhook_deliveries SET state = {WAITING}, published_at = NULL WHERE {lost}");
        self.change(update, [before.into()]).await
    }

    /// What a message is about; `None` when there is nothing to do: it was done, deleted, or published again.
    pub async fn load_delivery(&self, handover: Handover) -> Result<Option<LoadedDelivery>, DbError> {
        let select = "SELECT d.endpoint_id, d.event_id, d.event, d.occurred_at, d.data, d.failures, e.url, e.secret, \
            e.previous_secret, e.previous_secret_until, e.disabled_at FROM webhook_deliveries d \
            JOIN webhook_endpoints e ON e.id = d.endpoint_id \
            WHERE d.id = $1 AND d.round = $2 AND d.state = 'published'";
        let values: [Value; 2] = [handover.delivery_id.into(), handover.round.into()];
        let row: Option<LoadedRow> = sql::one(self.read(), select, values).await?;
        Ok(row.map(|row| row.loaded(handover)))
    }

    /// Writes an attempt down. An answer that comes after the delivery was taken for lost still ends it if it is a good
    /// one. Returns whether the delivery was still waiting for it.
    pub async fn record_delivery(&self, recorded: Recorded) -> Result<bool, DbError> {
        self.write(move |tx| {
            let recorded = recorded.clone();
            async move { record(tx, &recorded).await }.boxed()
        })
        .await
    }
}

impl LoadedRow {
    fn loaded(self, handover: Handover) -> LoadedDelivery {
        let overlaps = self.previous_secret_until.is_some_and(|until| until > Utc::now());
        let previous = self.previous_secret.filter(|_| overlaps);
        LoadedDelivery {
            handover,
            endpoint_id: self.endpoint_id,
            payload: payload(&self.event, self.occurred_at, &self.data),
            event_id: self.event_id,
            event: Event::parse(&self.event).unwrap_or(Event::Test),
            failures: self.failures.max(0) as u32,
            url: self.url,
            secrets: std::iter::once(self.secret).chain(previous).map(Secret::new).collect(),
            disabled: self.disabled_at.is_some(),
        }
    }
}

async fn claim(tx: &Tx<'_>, endpoint: i64, at_once: i64) -> Result<Vec<Claimed>, DbError> {
    if sql::is_postgres(tx.conn()) {
        // One relay at a time, so that they don't exceed the number together.
        let lock = "SELECT id FROM webhook_endpoints WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED";
        if sql::scalar::<i64>(tx.conn(), lock, [endpoint.into()]).await?.is_none() {
            return Ok(Vec::new());
        }
    }
    let count = "SELECT count(*) FROM webhook_deliveries WHERE endpoint_id = $1 AND state = 'published'";
    let under_way = sql::scalar::<i64>(tx.conn(), count, [endpoint.into()]).await?.unwrap_or(0);
    if under_way >= at_once {
        return Ok(Vec::new());
    }
    let update = "UPDATE webhook_deliveries SET state = 'published', round = round + 1, published_at = $2 WHERE id IN \
        (SELECT d.id FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id \
        WHERE d.endpoint_id = $1 AND e.disabled_at IS NULL AND d.state IN ('pending', 'retrying') \
        AND d.not_before <= $2 ORDER BY d.not_before, d.id LIMIT $3) AND state IN ('pending', 'retrying') \
        RETURNING id, round, failures, not_before";
    let at = sql::now();
    let values: [Value; 3] = [endpoint.into(), at.into(), (at_once - under_way).into()];
    let rows: Vec<ClaimedRow> = sql::all(tx.conn(), update, values).await?;
    let claimed = rows.into_iter().map(|row| Claimed {
        handover: Handover { delivery_id: row.id, round: row.round },
        failures: row.failures.max(0) as u32,
        urgent: row.not_before == urgent(),
        at,
    });
    Ok(claimed.collect())
}

async fn record(tx: &Tx<'_>, recorded: &Recorded) -> Result<bool, DbError> {
    let Some(attempt) = conclude(tx, recorded).await? else { return Ok(false) };
    let insert = "INSERT INTO webhook_attempts (delivery_id, attempt, at, url, status, duration_ms, response, error, \
        worker) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let values: [Value; 9] = [
        recorded.handover.delivery_id.into(),
        attempt.into(),
        recorded.at.into(),
        recorded.url.clone().into(),
        recorded.status.map(i32::from).into(),
        i64::try_from(recorded.duration.as_millis()).unwrap_or(i64::MAX).into(),
        recorded.response.clone().into(),
        recorded.error.clone().into(),
        recorded.worker.to_string().into(),
    ];
    sql::execute(tx.conn(), insert, values).await?;
    match recorded.verdict {
        Verdict::Delivered => {
            let well =
                "UPDATE webhook_endpoints SET failing_since = NULL WHERE id = $1 AND failing_since IS NOT NULL";
            sql::execute(tx.conn(), well, [recorded.endpoint_id.into()]).await?;
        }
        Verdict::Gone => {
            disable(tx, recorded, "the receiver answered 410 Gone", None).await?;
        }
        // A test that fails is told to whoever made it, and means nothing to anybody else.
        Verdict::Retry { .. } | Verdict::GivenUp if recorded.event != Event::Test => {
            note_failure(tx, recorded).await?
        }
        Verdict::Retry { .. } | Verdict::GivenUp => {}
    }
    Ok(true)
}

/// The delivery's own state; the number of the attempt, or `None` when it was done before.
async fn conclude(tx: &Tx<'_>, recorded: &Recorded) -> Result<Option<i32>, DbError> {
    let state = match recorded.verdict {
        Verdict::Delivered => DeliveryState::Delivered,
        Verdict::Retry { .. } => DeliveryState::Retrying,
        Verdict::GivenUp | Verdict::Gone => DeliveryState::Failed,
    };
    let waiting = match recorded.verdict {
        Verdict::Delivered => "state IN ('published', 'pending', 'retrying') AND round >= $2",
        _ => "state = 'published' AND round = $2",
    };
    let failed = i32::from(recorded.verdict != Verdict::Delivered);
    let update = format!(
        "UPDATE webhook_deliveries SET state = $3, attempts = attempts + 1, failures = failures + $4, \
         not_before = $5, published_at = NULL, updated_at = $6 WHERE id = $1 AND {waiting} RETURNING attempts"
    );
    let now = sql::now();
    let not_before = match recorded.verdict {
        Verdict::Retry { not_before } => not_before,
        _ => now,
    };
    let values: [Value; 6] = [
        recorded.handover.delivery_id.into(),
        recorded.handover.round.into(),
        state.as_str().into(),
        failed.into(),
        not_before.into(),
        now.into(),
    ];
    sql::scalar(tx.conn(), &update, values).await
}

async fn note_failure(tx: &Tx<'_>, recorded: &Recorded) -> Result<(), DbError> {
    let begin = format!(
        "UPDATE webhook_endpoints SET failing_since = $2 WHERE id = $1 AND failing_since IS NULL AND {UNCHANGED}"
    );
    let now = sql::now();
    let values: [Value; 3] = [recorded.endpoint_id.into(), now.into(), recorded.at.into()];
    sql::execute(tx.conn(), &begin, values).await?;
    let longest = chrono::Duration::from_std(recorded.disable_after).unwrap_or(chrono::Duration::MAX);
    let Some(before) = now.checked_sub_signed(longest) else { return Ok(()) };
    let last = match (&recorded.error, recorded.status) {
        (Some(error), _) => error.clone(),
        (None, Some(status)) => format!("status {status}"),
        (None, None) => "no answer".to_owned(),
    };
    let reason = format!("nothing but failures for {}; the last one: {last}", span(recorded.disable_after));
    disable(tx, recorded, &reason, Some(before)).await
}

/// Disables the endpoint, if it has failed since `failing_before` where that is asked.
async fn disable(
    tx: &Tx<'_>,
    recorded: &Recorded,
    reason: &str,
    failing_before: Option<DateTime<Utc>>,
) -> Result<(), DbError> {
    let condition = if failing_before.is_some() { " AND failing_since <= $5" } else { "" };
    let update = format!(
        "UPDATE webhook_endpoints SET disabled_at = $2, disabled_reason = $4, updated_at = $2 WHERE id = $1 \
         AND disabled_at IS NULL AND {UNCHANGED}{condition}"
    );
    let now = sql::now();
    let mut values: Vec<Value> =
        vec![recorded.endpoint_id.into(), now.into(), recorded.at.into(), reason.to_owned().into()];
    values.extend(failing_before.map(Value::from));
    if sql::execute(tx.conn(), &update, values).await?.rows_affected() > 0 {
        let about = json!({ "webhook": recorded.endpoint_id, "reason": reason }).to_string();
        audit::note(tx, SERVICE, "webhook.disable", &about, 1).await?;
        tracing::warn!(webhook = recorded.endpoint_id, reason, "a webhook is disabled");
    }
    Ok(())
}

/// `5 days`, `90 s`: in the largest unit that leaves no rest.
fn span(duration: Duration) -> String {
    let units = [(86_400_000, "days"), (3_600_000, "hours"), (60_000, "minutes"), (1_000, "s")];
    let ms = duration.as_millis();
    match units.into_iter().find(|(unit, _)| ms >= *unit && ms.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", ms / unit),
        None => format!("{ms} ms"),
    }
}
