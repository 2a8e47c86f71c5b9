//! What the handlers share.

use std::sync::Arc;
use std::time::Duration;

use super::events::Events;
use super::limits::Limits;
use super::origins::Origins;
use super::routes::StatusSource;
use crate::auth::Authenticator;
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
    pub status: StatusSource,
    pub events: Arc<Events>,
    /// What `/health/ready` and the status say of the embedder.
    pub provider: Arc<str>,
    pub broker: Arc<str>,
    pub database: Arc<str>,
    /// This process's own, which live values may stand in for.
    pub queue: QueueSettings,
    pub auth: Arc<Authenticator>,
    pub limits: Arc<Limits>,
    pub origins: Arc<Origins>,
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
        auth: Arc<Authenticator>,
        settings: &Settings,
    ) -> Self {
        let provider: Arc<str> = settings.embedder.provider_name().into();
        let broker: Arc<str> = if settings.broker.is_embedded() { "embedded".into() } else { "rabbitmq".into() };
        let status = StatusSource {
            db: db.clone(),
            metrics: metrics.clone(),
            provider: provider.clone(),
            broker: broker.clone(),
        };
        Self {
            db,
            search,
            regenerations,
            metrics,
            events: Arc::new(Events::new(status.clone(), settings.server.listeners())),
            status,
            provider,
            broker,
            database: if settings.database.is_postgres() { "postgres".into() } else { "sqlite".into() },
            queue: settings.queue.clone(),
            auth,
            limits: Arc::new(Limits::new(&settings.server)),
            origins: Arc::new(Origins::new(settings.server.cors_origins.clone())),
            webhook: settings.webhook.clone(),
            body_limit: settings.server.body_limit_bytes,
            timeout: Duration::from_millis(settings.server.request_timeout_ms),
        }
    }
}
