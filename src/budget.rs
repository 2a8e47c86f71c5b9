//! The rate limits of the provider, kept in the database for all processes.

use std::time::Duration;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use crate::config::embedder::EmbedderSettings;
use crate::db::provider::{Cost, Settlement};
use crate::db::{Db, DbError};
use crate::embedder::guard::quota::SharedBudget;
use crate::embedder::{Allowance, Purpose, Quota};

pub struct DatabaseBudget {
    db: Db,
    key: String,
}

impl DatabaseBudget {
    /// Notes the configured limits.
    pub async fn declare(db: Db, settings: &EmbedderSettings) -> Result<Self, DbError> {
        let key = provider_key(settings);
        let limits = (settings.requests_per_minute as f64, settings.tokens_per_minute as f64);
        db.declare_provider(&key, limits.0, limits.1, settings.rate_window_ms as f64).await?;
        Ok(Self { db, key })
    }
}

/// The name under which all processes know a provider's limits: its model and eight digits of its address's hash,
/// as an address may hold what isn't for everybody.
pub fn provider_key(settings: &EmbedderSettings) -> String {
    let hash = Sha256::digest(settings.base_url.trim_end_matches('/').as_bytes());
    let digits: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{}@{digits}", settings.model)
}

#[async_trait]
impl SharedBudget for DatabaseBudget {
    /// Without the database a call is let through: the provider has limits of its own, and a query needn't fail.
    async fn take(&self, tokens: u64, purpose: Purpose) -> Option<Duration> {
        let cost = Cost { tokens: tokens as f64, query: purpose == Purpose::Query };
        match self.db.take_budget(&self.key, cost).await {
            Ok(wait) => wait.map(|ms| Duration::from_secs_f64(ms.ceil() / 1e3)),
            Err(error) => {
                tracing::debug!(%error, "the provider's budget can't be read");
                None
            }
        }
    }

    async fn settle(&self, give_back: i64, allowance: Allowance) {
        let said = |quota: Quota| (quota.limit.map(|n| n as f64), quota.left.map(|n| n as f64));
        let settlement = Settlement {
            give_back: give_back as f64,
            requests: said(allowance.requests),
            tokens: said(allowance.tokens),
        };
        if let Err(error) = self.db.settle_budget(&self.key, settlement).await {
            tracing::debug!(%error, "the provider's budget can't be settled");
        }
    }

    async fn block(&self, after: Duration) {
        if let Err(error) = self.db.block_provider(&self.key, after.as_millis() as f64).await {
            tracing::debug!(%error, "the provider's wait can't be told to the others");
        }
    }
}
