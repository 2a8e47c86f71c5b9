//! What the handlers share.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Settings;
use crate::config::sections::QueueSettings;
use crate::config::webhook::WebhookSettings;
use crate::db::Db;
use crate::metrics::Metrics;
use crate::regeneration::Regenerations;
use crate::search::Search;

/// Cheap to clone; holds no broker.
#[derive(Clone)]
pub struct AppState {
    pub db: Db,
    pub search: Arc<Search>,
    pub regenerations: Arc<Regenerations>,
    pub metrics: Metrics,
    /// What `/health/ready` and the status say of the embedder.
    pub provider: Arc<str>,
    pub broker: Arc<str>,
    pub database: Arc<str>,
    /// This process's own, which live values may stand in for.
    pub queue: QueueSettings,
    pub webhook: WebhookSettings,
    pub body_limit: usize,
    pub timeout: Duration,
}

impl AppState {
    pub fn new(
        db: Db,
        search: Arc<Search>,
        regenerations: Arc<Regenerations>,
        metrics: Metrics,
        settings: &Settings,
    ) -> Self {
        Self {
            db,
            search,
            regenerations,
            metrics,
            provider: settings.embedder.provider_name().into(),
            broker: if settings.broker.is_embedded() { "embedded".into() } else { "rabbitmq".into() },
            database: if settings.database.is_postgres() { "postgres".into() } else { "sqlite".into() },
            queue: settings.queue.clone(),
            webhook: settings.webhook.clone(),
            body_limit: settings.server.body_limit_bytes,
            timeout: Duration::from_millis(settings.server.request_timeout_ms),
        }
    }
}
