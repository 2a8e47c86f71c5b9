//! Webhooks: the endpoints, the outbox of what they are told, and the log of how that went.

pub(super) mod events;
mod ledger;
mod log;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use sea_orm::{ConnectionTrait, FromQueryResult, Value};
use serde_json::json;

use super::{Db, DbError, Tx, audit, sql};
use crate::config::secret::Secret;
use crate::domain::webhook::request::{Chosen, EndpointChange, NewEndpoint};

pub(super) use events::{Dead, Ready, tell_dead, tell_finished, tell_ready, tell_stored};
pub use ledger::{Claimed, DueEndpoint, LoadedDelivery, Recorded, Verdict};
pub use log::{DeliveryAttempt, DeliveryRow, Redelivered, Tested};
pub use upkeep::WebhookCounts;

/// Endpoints there may be: each event is looked at for each of them.
pub const MAX_ENDPOINTS: i64 = 100;

/// Whoever wants to be told.
#[derive(Clone, Debug, PartialEq, FromQueryResult)]
pub struct Endpoint {
    pub id: i64,
    pub url: String,
    pub description: Option<String>,
    pub on_ready: bool,
    pub on_failed: bool,
    pub on_finished: bool,
    pub include_regenerations: bool,
    /// Until when the secret before the last rotation signs, too.
    pub previous_secret_until: Option<DateTime<Utc>>,
    /// The first failure since the last success.
    pub failing_since: Option<DateTime<Utc>>,
    pub disabled_at: Option<DateTime<Utc>>,
    pub disabled_reason: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl Endpoint {
    pub fn chosen(&self) -> Chosen {
        Chosen { ready: self.on_ready, failed: self.on_failed, finished: self.on_finished }
    }
}

/// All but the secrets.
const COLUMNS: &str = "id, url, description, on_ready, on_failed, on_finished, include_regenerations, \
    previous_secret_until, failing_since, disabled_at, disabled_reason, created_at, updated_at";

/// What became of the wish for an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Created {
    New(Endpoint),
    /// There are [`MAX_ENDPOINTS`].
    TooMany,
}

/// Whether anybody may want to be told. On SQLite this process alone writes, so that it knows, and where nobody does, a
/// write-back isn't a statement longer; on PostgreSQL, where another process may add an endpoint at any moment, the
/// statements themselves look.
#[derive(Clone)]
pub(super) struct Listeners(Arc<AtomicBool>);

impl Listeners {
    pub(super) fn new(there_may_be: bool) -> Self {
        Self(Arc::new(AtomicBool::new(there_may_be)))
    }

    pub(super) async fn look(conn: &impl ConnectionTrait) -> Result<Self, DbError> {
        let any = sql::scalar::<bool>(conn, "SELECT EXISTS (SELECT 1 FROM webhook_endpoints)", []).await?;
        Ok(Self::new(any.unwrap_or(true)))
    }

    pub(super) fn may_be(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Db {
    /// All endpoints, the oldest first.
    pub async fn webhook_endpoints(&self) -> Result<Vec<Endpoint>, DbError> {
        sql::all(self.read(), &format!("SELECT {COLUMNS} FROM webhook_endpoints ORDER BY id"), []).await
    }

    pub async fn webhook_endpoint(&self, id: i64) -> Result<Option<Endpoint>, DbError> {
        let select = format!("SELECT {COLUMNS} FROM webhook_endpoints WHERE id = $1");
        sql::one(self.read(), &select, [id.into()]).await
    }

    /// Whether there is an endpoint that is told anything: a cheap look.
    pub async fn has_webhooks(&self) -> Result<bool, DbError> {
        let any = "SELECT EXISTS (SELECT 1 FROM webhook_endpoints WHERE disabled_at IS NULL)";
        Ok(sql::scalar::<bool>(self.read(), any, []).await? == Some(true))
    }

    pub async fn create_webhook(&self, new: NewEndpoint, secret: Secret, who: String) -> Result<Created, DbError> {
        // Before the commit, so that no event falls between.
        self.listeners.0.store(true, Ordering::Release);
        self.write(move |tx| {
            let (new, secret, who) = (new.clone(), secret.clone(), who.clone());
            async move { create(tx, new, &secret, &who).await }.boxed()
        })
        .await
    }

    /// `None` when there is no such endpoint.
    pub async fn change_webhook(
        &self,
        id: i64,
        change: EndpointChange,
        who: String,
    ) -> Result<Option<Endpoint>, DbError> {
        self.write(move |tx| {
            let (change, who) = (change.clone(), who.clone());
            async move { apply(tx, id, change, &who).await }.boxed()
        })
        .await
    }

    /// Whether there was one. What it was to be told is forgotten in the background.
    pub async fn delete_webhook(&self, id: i64, who: String) -> Result<bool, DbError> {
        self.write(move |tx| {
            let who = who.clone();
            async move {
                let delete = "DELETE FROM webhook_endpoints WHERE id = $1";
                let deleted = sql::execute(tx.conn(), delete, [id.into()]).await?.rows_affected() > 0;
                if deleted {
                    note(tx, &who, "webhook.delete", id).await?;
                }
                Ok(deleted)
            }
            .boxed()
        })
        .await
    }

    /// Gives an endpoint another secret; the one it had goes on to sign beside it for `overlap`. `None` when there is
    /// no such endpoint.
    pub async fn rotate_webhook(
        &self,
        id: i64,
        secret: Secret,
        overlap: Duration,
        who: String,
    ) -> Result<Option<Endpoint>, DbError> {
        self.write(move |tx| {
            let (secret, who) = (secret.clone(), who.clone());
            async move {
                let update = format!(
                    "UPDATE webhook_endpoints SET previous_secret = secret, previous_secret_until = $3, secret = $2, \
                     updated_at = $4 WHERE id = $1 RETURNING {COLUMNS}"
                );
                let now = sql::now();
                let values: [Value; 4] =
                    [id.into(), secret.expose().into(), (now + overlap).into(), now.into()];
                let endpoint: Option<Endpoint> = sql::one(tx.conn(), &update, values).await?;
                if endpoint.is_some() {
                    note(tx, &who, "webhook.rotate-secret", id).await?;
                }
                Ok(endpoint)
            }
            .boxed()
        })
        .await
    }
}

/// A line in the audit. Not with the URL, which may hold a key.
async fn note(tx: &Tx<'_>, who: &str, action: &str, id: i64) -> Result<(), DbError> {
    audit::note(tx, who, action, &json!({ "webhook": id }).to_string(), 1).await
}

async fn create(tx: &Tx<'_>, new: NewEndpoint, secret: &Secret, who: &str) -> Result<Created, DbError> {
    let count = sql::scalar::<i64>(tx.conn(), "SELECT count(*) FROM webhook_endpoints", []).await?;
    if count.unwrap_or(0) >= MAX_ENDPOINTS {
        return Ok(Created::TooMany);
    }
    let insert = format!(
        "INSERT INTO webhook_endpoints (url, description, on_ready, on_failed, on_finished, include_regenerations, \
         secret, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8) RETURNING {COLUMNS}"
    );
    let values: [Value; 8] = [
        new.url.into(),
        new.description.into(),
        new.chosen.ready.into(),
        new.chosen.failed.into(),
        new.chosen.finished.into(),
        new.include_regenerations.into(),
        secret.expose().into(),
        sql::now().into(),
    ];
    let endpoint: Option<Endpoint> = sql::one(tx.conn(), &insert, values).await?;
    let endpoint = endpoint.ok_or_else(|| DbError::Unavailable("the insert answered nothing".into()))?;
    note(tx, who, "webhook.create", endpoint.id).await?;
    Ok(Created::New(endpoint))
}

async fn apply(tx: &Tx<'_>, id: i64, change: EndpointChange, who: &str) -> Result<Option<Endpoint>, DbError> {
    let lock = if sql::is_postgres(tx.conn()) { " FOR UPDATE" } else { "" };
    let select = format!("SELECT {COLUMNS} FROM webhook_endpoints WHERE id = $1{lock}");
    let Some(mut endpoint) = sql::one::<Endpoint>(tx.conn(), &select, [id.into()]).await? else { return Ok(None) };
    let now = sql::now();
    if let Some(url) = change.url {
        // What the old one did says nothing of the new one.
        endpoint.failing_since = endpoint.failing_since.filter(|_| url == endpoint.url);
        endpoint.url = url;
    }
    if let Some(Chosen { ready, failed, finished }) = change.chosen {
        (endpoint.on_ready, endpoint.on_failed, endpoint.on_finished) = (ready, failed, finished);
    }
    endpoint.description = change.description.unwrap_or(endpoint.description);
    endpoint.include_regenerations = change.include_regenerations.unwrap_or(endpoint.include_regenerations);
    match (change.enabled, endpoint.disabled_at) {
        (Some(true), Some(_)) => {
            (endpoint.disabled_at, endpoint.disabled_reason, endpoint.failing_since) = (None, None, None);
        }
        (Some(false), None) => {
            endpoint.disabled_at = Some(now);
            endpoint.disabled_reason = Some(format!("disabled by {who}"));
        }
        _ => {}
    }
    let update = format!(
        "UPDATE webhook_endpoints SET url = $2, description = $3, on_ready = $4, on_failed = $5, on_finished = $6, \
         include_regenerations = $7, failing_since = $8, disabled_at = $9, disabled_reason = $10, updated_at = $11 \
         WHERE id = $1 RETURNING {COLUMNS}"
    );
    let values: [Value; 11] = [
        id.into(),
        endpoint.url.into(),
        endpoint.description.into(),
        endpoint.on_ready.into(),
        endpoint.on_failed.into(),
        endpoint.on_finished.into(),
        endpoint.include_regenerations.into(),
        endpoint.failing_since.into(),
        endpoint.disabled_at.into(),
        endpoint.disabled_reason.into(),
        now.into(),
    ];
    let changed: Option<Endpoint> = sql::one(tx.conn(), &update, values).await?;
    let action = match change.enabled {
        Some(true) => "webhook.enable",
        Some(false) => "webhook.disable",
        None => "webhook.change",
    };
    note(tx, who, action, id).await?;
    Ok(changed)
}
