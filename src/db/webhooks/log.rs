//! The log of deliveries, and what people do with it.

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use sea_orm::{FromQueryResult, Value};
use serde_json::json;

use super::events::new_event_id;
use super::ledger::{payload, urgent};
use crate::db::{Db, DbError, Tx, audit, sql};
use crate::domain::webhook::{DeliveryState, Event};

/// A delivery with its last attempt.
#[derive(Clone, Debug, PartialEq, FromQueryResult)]
pub struct DeliveryRow {
    pub id: i64,
    pub endpoint_id: i64,
    pub event_id: String,
    pub event: String,
    pub occurred_at: DateTime<Utc>,
    pub data: String,
    pub state: String,
    pub attempts: i32,
    pub not_before: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub last_at: Option<DateTime<Utc>>,
    pub last_status: Option<i32>,
    pub last_duration_ms: Option<i64>,
    pub last_error: Option<String>,
}

impl DeliveryRow {
    /// The body of the request.
    pub fn payload(&self) -> String {
        payload(&self.event, self.occurred_at, &self.data)
    }

    pub fn state(&self) -> DeliveryState {
        DeliveryState::parse(&self.state).unwrap_or(DeliveryState::Pending)
    }

    /// When it is tried again, where it waits for that.
    pub fn next_attempt_at(&self) -> Option<DateTime<Utc>> {
        let waits = self.state() == DeliveryState::Retrying && self.not_before > Utc::now();
        Some(self.not_before).filter(|_| waits)
    }
}

/// One request and its answer.
#[derive(Clone, Debug, PartialEq, FromQueryResult)]
pub struct DeliveryAttempt {
    pub attempt: i32,
    pub at: DateTime<Utc>,
    pub url: String,
    pub status: Option<i32>,
    pub duration_ms: i64,
    pub response: Option<String>,
    pub error: Option<String>,
    pub worker: String,
}

/// What became of the wish to deliver something once more.
#[derive(Clone, Debug, PartialEq)]
pub enum Redelivered {
    Again(Box<DeliveryRow>),
    /// It hasn't ended yet.
    Open(DeliveryState),
    /// Its endpoint is disabled.
    Disabled,
    Unknown,
}

/// What became of the wish to try an endpoint out.
#[derive(Clone, Debug, PartialEq)]
pub enum Tested {
    Sent(Box<DeliveryRow>),
    Disabled,
    Unknown,
}

const SELECT: &str = "SELECT d.id, d.endpoint_id, d.event_id, d.event, d.occurred_at, d.data, d.state, d.attempts, \
    d.not_before, d.updated_at, a.at AS last_at, a.status AS last_status, a.duration_ms AS last_duration_ms, \
    a.error AS last_error FROM webhook_deliveries d LEFT JOIN webhook_attempts a ON a.id = \
    (SELECT max(l.id) FROM webhook_attempts l WHERE l.delivery_id = d.id)";

#[derive(FromQueryResult)]
struct Target {
    disabled_at: Option<DateTime<Utc>>,
}

impl Db {
    /// Up to `limit` deliveries of an endpoint, the newest first, from before the one with this id.
    pub async fn webhook_deliveries(
        &self,
        endpoint: i64,
        state: Option<DeliveryState>,
        limit: u64,
        before: Option<i64>,
    ) -> Result<Vec<DeliveryRow>, DbError> {
        // A fixed word in the statement itself: a planner doesn't use an index of the failed ones for a parameter.
        let state = state.map_or(String::new(), |state| format!("AND d.state = '{}'", state.as_str()));
        let select = format!("{SELECT} WHERE d.endpoint_id = $1 AND d.id < $2 {state} ORDER BY d.id DESC LIMIT $3");
        let values: [Value; 3] = [endpoint.into(), before.unwrap_or(i64::MAX).into(), (limit as i64).into()];
        sql::all(self.read(), &select, values).await
    }

    /// One delivery of an endpoint with its attempts, the first one first.
    pub async fn webhook_delivery(
        &self,
        endpoint: i64,
        id: i64,
    ) -> Result<Option<(DeliveryRow, Vec<DeliveryAttempt>)>, DbError> {
        let select = format!("{SELECT} WHERE d.endpoint_id = $1 AND d.id = $2");
        let row: Option<DeliveryRow> = sql::one(self.read(), &select, [endpoint.into(), id.into()]).await?;
        let Some(row) = row else { return Ok(None) };
        let select = "SELECT attempt, at, url, status, duration_ms, response, error, worker FROM webhook_attempts \
            WHERE delivery_id = $1 ORDER BY id";
        Ok(Some((row, sql::all(self.read(), select, [id.into()]).await?)))
    }

    /// Sends what has ended once more, under the same event id, and with all retries before it.
    pub async fn redeliver_webhook(&self, endpoint: i64, id: i64, who: String) -> Result<Redelivered, DbError> {
        self.write(move |tx| {
            let who = who.clone();
            async move { redeliver(tx, endpoint, id, &who).await }.boxed()
        })
        .await
    }

    /// Sends an event that says nothing, whatever the endpoint's filters are.
    pub async fn test_webhook(&self, endpoint: i64, who: String) -> Result<Tested, DbError> {
        self.write(move |tx| {
            let who = who.clone();
            async move { test(tx, endpoint, &who).await }.boxed()
        })
        .await
    }
}

/// `None` when there is no such endpoint; locked, so that it isn't deleted meanwhile.
async fn target(tx: &Tx<'_>, endpoint: i64) -> Result<Option<Target>, DbError> {
    let lock = if sql::is_postgres(tx.conn()) { " FOR SHARE" } else { "" };
    let select = format!("SELECT disabled_at FROM webhook_endpoints WHERE id = $1{lock}");
    sql::one(tx.conn(), &select, [endpoint.into()]).await
}

async fn find(tx: &Tx<'_>, id: i64) -> Result<DeliveryRow, DbError> {
    let row = sql::one(tx.conn(), &format!("{SELECT} WHERE d.id = $1"), [id.into()]).await?;
    row.ok_or_else(|| DbError::Unavailable("the delivery is gone".into()))
}

async fn redeliver(tx: &Tx<'_>, endpoint: i64, id: i64, who: &str) -> Result<Redelivered, DbError> {
    let Some(target) = target(tx, endpoint).await? else { return Ok(Redelivered::Unknown) };
    let lock = if sql::is_postgres(tx.conn()) { " FOR UPDATE" } else { "" };
    let select = format!("SELECT state FROM webhook_deliveries WHERE endpoint_id = $1 AND id = $2{lock}");
    let state: Option<String> = sql::scalar(tx.conn(), &select, [endpoint.into(), id.into()]).await?;
    let Some(state) = state else { return Ok(Redelivered::Unknown) };
    let state = DeliveryState::parse(&state).unwrap_or(DeliveryState::Pending);
    if !matches!(state, DeliveryState::Delivered | DeliveryState::Failed) {
        return Ok(Redelivered::Open(state));
    }
    if target.disabled_at.is_some() {
        return Ok(Redelivered::Disabled);
    }
    let update = "UPDATE webhook_deliveries SET state = 'pending', failures = 0, not_before = $2, updated_at = $3 \
        WHERE id = $1";
    sql::execute(tx.conn(), update, [id.into(), urgent().into(), sql::now().into()]).await?;
    let about = json!({ "webhook": endpoint, "delivery": id }).to_string();
    audit::note(tx, who, "webhook.redeliver", &about, 1).await?;
    Ok(Redelivered::Again(Box::new(find(tx, id).await?)))
}

async fn test(tx: &Tx<'_>, endpoint: i64, who: &str) -> Result<Tested, DbError> {
    match target(tx, endpoint).await? {
        None => return Ok(Tested::Unknown),
        Some(target) if target.disabled_at.is_some() => return Ok(Tested::Disabled),
        Some(_) => {}
    }
    let insert = "INSERT INTO webhook_deliveries (endpoint_id, event_id, event, occurred_at, data, state, attempts, \
        failures, round, not_before, updated_at) VALUES ($1, $2, $3, $4, $5, 'pending', 0, 0, 0, $6, $4) RETURNING id";
    let values: [Value; 6] = [
        endpoint.into(),
        new_event_id().into(),
        Event::Test.as_str().into(),
        sql::now().into(),
        json!({ "webhook_id": endpoint }).to_string().into(),
        urgent().into(),
    ];
    let id: Option<i64> = sql::scalar(tx.conn(), insert, values).await?;
    let id = id.ok_or_else(|| DbError::Unavailable("the insert answered nothing".into()))?;
    audit::note(tx, who, "webhook.test", &json!({ "webhook": endpoint, "delivery": id }).to_string(), 1).await?;
    Ok(Tested::Sent(Box::new(find(tx, id).await?)))
}
