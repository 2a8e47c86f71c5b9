//! What no type can express: ranges, and keys that contradict each other.

use super::broker::MAX_BUNDLE;
use super::embedder::EmbedderSettings;
use super::live::LiveKey;
use super::presets::Preset;
use super::webhook::WebhookSettings;
use super::{Role, Settings, SettingsError, auth};

pub(super) fn refuse(key: &'static str, problem: impl Into<String>) -> Result<(), SettingsError> {
    Err(SettingsError::Invalid { key, problem: problem.into() })
}

pub(super) fn within(key: &'static str, value: u64, min: u64, max: u64) -> Result<(), SettingsError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    refuse(key, format!("{value} is not from {min} to {max}"))
}

const HOUR_MS: u64 = 3_600_000;

/// Each value by itself, and those that depend on another.
pub(super) fn ranges(settings: &Settings) -> Result<(), SettingsError> {
    let Settings { server, database, broker, queue, .. } = settings;
    within("server.body_limit_bytes", server.body_limit_bytes as u64, 1024, 1 << 30)?;
    within("server.request_timeout_ms", server.request_timeout_ms, 100, HOUR_MS)?;
    within("server.max_connections", server.max_connections as u64, 1, 1_000_000)?;
    within("server.max_event_listeners", server.max_event_listeners as u64, 0, 1_000_000)?;
    within("server.max_concurrent_requests", server.max_concurrent_requests as u64, 1, 1_000_000)?;
    within("server.rate_limit_per_second", server.rate_limit_per_second.into(), 0, 1_000_000)?;
    within("server.rate_limit_burst", server.rate_limit_burst.into(), 0, 10_000_000)?;
    within("database.read_connections", database.read_connections.into(), 1, 256)?;
    within("broker.window", broker.window, 1, 10_000_000)?;
    within("broker.bundle", broker.bundle as u64, 1, MAX_BUNDLE)?;
    for key in LiveKey::ALL {
        within(key.stored_as(), key.of(queue) as u64, 1, key.max())?;
    }
    within("queue.min_concurrent", queue.min_concurrent as u64, 1, LiveKey::MaxConcurrent.max())?;
    within("queue.max_concurrent_limit", queue.max_concurrent_limit as u64, 0, LiveKey::MaxConcurrent.max())?;
    within("queue.max_retries", queue.max_retries.into(), 0, 100)?;
    within("queue.retry_delay_ms", queue.retry_delay_ms, 1, 24 * HOUR_MS)?;
    within("queue.retry_cap_ms", queue.retry_cap_ms, queue.retry_delay_ms, 7 * 24 * HOUR_MS)?;
    within("queue.poll_interval_ms", queue.poll_interval_ms, 10, HOUR_MS)?;
    within("queue.reconcile_interval_ms", queue.reconcile_interval_ms, 100, 24 * HOUR_MS)?;
    within("queue.shutdown_grace_ms", queue.shutdown_grace_ms, 0, HOUR_MS)?;
    within("regeneration.window", settings.regeneration.window, 1, 1_000_000)?;
    within("regeneration.shadow_rows", settings.regeneration.shadow_rows, 0, 1_000_000_000)?;
    within("search.embed_timeout_ms", settings.search.embed_timeout_ms, 10, HOUR_MS)?;
    within("search.query_cache", settings.search.query_cache as u64, 1, 10_000_000)?;
    within("database.max_connections", database.max_connections.into(), 2, 1_000)?;
    if !database.is_postgres() && !database.url.expose().starts_with("sqlite:") {
        refuse("database.url", "must be sqlite://PATH or postgres://USER@HOST/DATABASE")?;
    }
    if let Err(problem) = broker.server() {
        refuse("broker.url", problem)?;
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if broker.prefix.is_empty() || broker.prefix.len() > 64 || !broker.prefix.chars().all(legal) {
        refuse("broker.prefix", "must be 1 to 64 letters, digits, dots, dashes or underscores")?;
    }
    if settings.log.level.parse::<tracing_subscriber::filter::EnvFilter>().is_err() {
        refuse("log.level", format!("{:?} is no level and no list of directives", settings.log.level))?;
    }
    if let Some((key, problem)) = settings.traces.problem() {
        refuse(key, problem)?;
    }
    embedder(settings)?;
    webhook(&settings.webhook)?;
    auth::check(settings)
}

fn webhook(webhook: &WebhookSettings) -> Result<(), SettingsError> {
    within("webhook.timeout_ms", webhook.timeout_ms, 10, 5 * 60_000)?;
    within("webhook.max_concurrent", webhook.max_concurrent as u64, 1, 1_000)?;
    let each = webhook.max_concurrent_per_endpoint as u64;
    within("webhook.max_concurrent_per_endpoint", each, 1, webhook.max_concurrent as u64)?;
    within("webhook.disable_after_ms", webhook.disable_after_ms, 1, 365 * 24 * HOUR_MS)?;
    within("webhook.secret_overlap_ms", webhook.secret_overlap_ms, 0, 365 * 24 * HOUR_MS)?;
    within("webhook.retention_days", webhook.retention_days, 1, 3_650)?;
    let schedule = &webhook.retry_schedule_ms;
    if schedule.len() > 50 {
        refuse("webhook.retry_schedule_ms", format!("has {} waits; 50 are the most", schedule.len()))?;
    }
    for wait in schedule {
        within("webhook.retry_schedule_ms", *wait, 1, 30 * 24 * HOUR_MS)?;
    }
    let (days, longest) = (webhook.retention_days, schedule.iter().sum::<u64>());
    if days * 24 * HOUR_MS <= longest {
        refuse(
            "webhook.retention_days",
            format!("{days} is less than the waits of webhook.retry_schedule_ms take"),
        )?;
    }
    Ok(())
}

fn embedder(settings: &Settings) -> Result<(), SettingsError> {
    let embedder = &settings.embedder;
    within("embedder.timeout_ms", embedder.timeout_ms, 10, HOUR_MS)?;
    within("embedder.connect_timeout_ms", embedder.connect_timeout_ms, 10, HOUR_MS)?;
    within("embedder.requests_per_minute", embedder.requests_per_minute, 0, 1_000_000_000)?;
    within("embedder.tokens_per_minute", embedder.tokens_per_minute, 0, 1_000_000_000_000)?;
    within("embedder.rate_window_ms", embedder.rate_window_ms, 1, 24 * HOUR_MS)?;
    within("embedder.dimensions", embedder.dimensions as u64, 0, 16_000)?;
    if embedder.threshold.is_nan() || embedder.threshold > 1.0 {
        refuse("embedder.threshold", "must be at most 1; negative takes the model's default")?;
    }
    let price = embedder.price_per_million_tokens;
    if !(0.0..=1_000_000.0).contains(&price) {
        refuse("embedder.price_per_million_tokens", format!("{price} is no price in USD; 0 is for unknown"))?;
    }
    within("embedder.max_inputs", embedder.max_inputs as u64, 0, 100_000)?;
    within("embedder.max_input_tokens", embedder.max_input_tokens as u64, 0, 10_000_000)?;
    within("embedder.max_request_tokens", embedder.max_request_tokens as u64, 0, 1_000_000_000)?;
    Ok(())
}

/// A provider that wants a key must have one.
pub(super) fn key(embedder: &EmbedderSettings, preset: &Preset) -> Result<(), SettingsError> {
    if !preset.needs_key || !embedder.api_key.is_empty() {
        return Ok(());
    }
    let (name, variables) = (preset.name, preset.key_variables.join(" or "));
    refuse("embedder.api_key", format!("is empty and {variables} isn't set; {name} answers nobody without a key"))
}

/// What `role` needs.
pub(super) fn role(settings: &Settings, role: Role) -> Result<(), SettingsError> {
    if role == Role::All {
        return Ok(());
    }
    if settings.broker.is_embedded() {
        let problem =
            format!("the embedded broker lives in one process, so the role must be all, not {}", role.as_str());
        refuse("broker.url", problem)?;
    }
    if !settings.database.is_postgres() {
        let problem = format!(
            "a SQLite file belongs to one process, so the role must be all, not {}; several need postgres://",
            role.as_str()
        );
        refuse("database.url", problem)?;
    }
    Ok(())
}
