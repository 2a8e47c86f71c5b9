//! One struct a section of `config/default.toml`, which says what each key means.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::live::LiveQueue;
use super::secret::{Secret, ServerUrl};
use super::words::Words;
use crate::domain::backoff::Backoff;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    pub bind: SocketAddr,
    pub body_limit_bytes: usize,
    pub request_timeout_ms: u64,
    pub max_connections: usize,
    pub max_event_listeners: usize,
    pub max_concurrent_requests: usize,
    pub rate_limit_per_second: u32,
    pub rate_limit_burst: u32,
    pub cors_origins: Words,
}

impl ServerSettings {
    /// Listeners at once: never more than leave a quarter of the connections to everybody else.
    pub fn listeners(&self) -> usize {
        self.max_event_listeners.min(self.max_connections - self.max_connections / 4)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    Full,
    Normal,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    pub url: ServerUrl,
    pub password: Secret,
    pub read_connections: u32,
    pub synchronous: Synchronous,
    pub max_connections: u32,
    pub vector_index: VectorIndexKind,
    pub cached_vectors: u64,
}

impl DatabaseSettings {
    pub fn is_postgres(&self) -> bool {
        ["postgres://", "postgresql://"].iter().any(|scheme| self.url.expose().starts_with(scheme))
    }
}

/// How PostgreSQL finds the nearest vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VectorIndexKind {
    Hnsw,
    /// It compares with all of them.
    None,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSettings {
    pub max_concurrent: usize,
    pub min_concurrent: usize,
    pub max_concurrent_limit: usize,
    pub batch_size: usize,
    pub max_retries: u32,
    pub retry_delay_ms: u64,
    pub retry_cap_ms: u64,
    pub poll_interval_ms: u64,
    pub reconcile_interval_ms: u64,
    pub shutdown_grace_ms: u64,
}

impl QueueSettings {
    pub fn backoff(&self) -> Backoff {
        let ms = Duration::from_millis;
        Backoff::new(ms(self.retry_delay_ms), ms(self.retry_cap_ms), self.max_retries)
    }

    /// These settings with the live values in their places.
    pub fn under(&self, live: LiveQueue) -> Self {
        Self {
            max_concurrent: live.max_concurrent.unwrap_or(self.max_concurrent),
            batch_size: live.batch_size.unwrap_or(self.batch_size),
            ..self.clone()
        }
    }

    /// Between which numbers of calls at once to choose; `None` where `max_concurrent` is fixed: by a limit of 0,
    /// or one that leaves no room above it.
    pub fn adapts(&self) -> Option<(usize, usize)> {
        let (start, max) = (self.max_concurrent, self.max_concurrent_limit);
        (max > start).then(|| (self.min_concurrent.min(start), max))
    }

    /// Batches that are loaded from the database while so many calls run, to follow them at once. Calls that end
    /// together need more than one. With one call at a time there is none: what is urgent would wait for two calls.
    pub fn ahead(calls: usize) -> usize {
        calls / 2
    }

    /// Deliveries a worker holds at most when each of so many calls carries `batch` texts: what all calls carry, the
    /// same again for those whose acks are on their way, what is loaded ahead, and one call's worth that is being
    /// gathered. So a call that ends finds its successor's texts at hand, all of them: a broker that writes acks to
    /// its disk sends the next only then.
    pub fn prefetch(calls: usize, batch: usize) -> usize {
        (2 * calls + Self::ahead(calls) + 1) * batch
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegenerationSettings {
    pub window: u64,
    pub shadow_rows: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchSettings {
    pub embed_timeout_ms: u64,
    pub query_cache: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Auto,
    Pretty,
    Json,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsSettings {
    /// Empty for none.
    pub bind: String,
}

impl MetricsSettings {
    /// Where a worker tells its metrics.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn addr(&self) -> Result<Option<SocketAddr>, String> {
        if self.bind.is_empty() {
            return Ok(None);
        }
        self.bind
            .parse()
            .map(Some)
            .map_err(|_| format!("{:?} is no address and port, as 127.0.0.1:9464 is", self.bind))
    }
}
