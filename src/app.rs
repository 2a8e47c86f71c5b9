//! The composition root: builds the rooms, connects them, runs them until shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::broker::embedded::EmbeddedBroker;
use crate::broker::rabbitmq::RabbitBroker;
use crate::broker::topology::Topology;
use crate::config::{Role, Settings, SettingsError};
use crate::db::{Db, ModelSpec};
use crate::embedder::{self, Embedder};
use crate::heartbeat::{self, Reporter};
use crate::http::{AppState, Server, router};
use crate::relay::Relay;
use crate::search::Search;
use crate::worker::Worker;

/// Pause before a part that panicked is started again.
const RESTART: Duration = Duration::from_secs(1);

/// A built service: its database is open and its port is bound, and nothing runs yet.
pub struct App {
    db: Db,
    broker: Arc<dyn Broker>,
    relay: Arc<Relay>,
    worker: Arc<Worker>,
    reporter: Arc<Reporter>,
    search: Arc<Search>,
    /// `None` in a worker.
    server: Option<Server>,
    addr: SocketAddr,
    role: Role,
    grace: Duration,
}

impl App {
    /// Builds with the embedder of the settings.
    pub async fn build(settings: Settings, role: Role) -> anyhow::Result<Self> {
        let embedder = embedder::build(&settings.embedder)?;
        Self::build_with(settings, role, embedder).await
    }

    /// Builds with an embedder of the caller's.
    pub async fn build_with(settings: Settings, role: Role, embedder: Arc<dyn Embedder>) -> anyhow::Result<Self> {
        settings.check_role(role)?;
        let broker = broker(&settings, role)?;
        Self::build_on(settings, role, embedder, broker).await
    }

    /// Builds with an embedder and a broker of the caller's.
    pub async fn build_on(
        settings: Settings,
        role: Role,
        embedder: Arc<dyn Embedder>,
        broker: Arc<dyn Broker>,
    ) -> anyhow::Result<Self> {
        settings.check_role(role)?;
        let db = open(&settings, embedder.as_ref()).await?;
        let relay = Relay::new(db.clone(), broker.clone(), &settings);
        let worker = Arc::new(Worker::new(db.clone(), broker.clone(), embedder.clone(), &settings.queue));
        let reporter = Reporter::new(db.clone(), worker.clone(), relay.clone(), role);
        let search = Arc::new(Search::new(db.clone(), embedder, &settings));
        let bind = settings.server.bind;
        let (server, addr) = if role == Role::Worker {
            (None, bind)
        } else {
            let state = AppState::new(db.clone(), search.clone(), &settings);
            let server = Server::bind(&settings.server, router(state)).await;
            let server = server.with_context(|| {
                format!("server.bind: can't listen on {bind}; is another program using it? Set MAPX__SERVER__BIND")
            })?;
            let addr = server.addr()?;
            (Some(server), addr)
        };
        let grace = Duration::from_millis(settings.queue.shutdown_grace_ms);
        Ok(Self { db, broker, relay, worker, reporter: Arc::new(reporter), search, server, addr, role, grace })
    }

    /// Where the API listens; with port 0 the port that was taken.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn db(&self) -> &Db {
        &self.db
    }

    pub fn search(&self) -> Arc<Search> {
        self.search.clone()
    }

    /// Runs until `shutdown`; then no request is taken any more, what is in flight is finished within the
    /// grace time, and the broker and the database are closed last.
    pub async fn run_until(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        if self.role != Role::Worker {
            self.relay.recover().await?;
        }
        let missing = if self.role == Role::Worker { 0 } else { self.db.enqueue_missing().await? };
        let model = self.db.model().id.clone();
        if missing > 0 {
            tracing::info!(tasks = missing, %model, "enqueued recommendations without a vector of this model");
        }
        self.reporter.look().await?;
        match self.role {
            Role::Worker => tracing::info!(%model, "working"),
            Role::All | Role::Serve => tracing::info!(addr = %self.addr, %model, "serving"),
        }
        // The reporter ends last: while the worker drains, what it holds is still told.
        let drained = CancellationToken::new();
        let reporting = {
            let (reporter, drained) = (self.reporter, drained.clone());
            tokio::spawn(async move { reporter.run(drained).await })
        };
        let (relay, worker, counted) = (self.relay, self.worker, self.db.clone());
        tokio::join!(
            serve(self.server, shutdown.clone(), self.grace),
            supervise("relay", self.role != Role::Worker, shutdown.clone(), move |stop| {
                let relay = relay.clone();
                Box::pin(async move { relay.run(stop).await })
            }),
            supervise("count", self.role != Role::Worker, shutdown.clone(), move |stop| {
                let db = counted.clone();
                Box::pin(async move { db.keep_counted(stop).await })
            }),
            supervise("worker", self.role != Role::Serve, shutdown, move |stop| {
                let worker = worker.clone();
                Box::pin(async move { worker.run(stop).await })
            }),
        );
        drained.cancel();
        let _ = reporting.await;
        self.broker.close().await;
        self.db.close().await;
        tracing::info!("stopped");
        Ok(())
    }
}

/// The broker that `broker.url` names.
fn broker(settings: &Settings, role: Role) -> anyhow::Result<Arc<dyn Broker>> {
    let topology = Topology::new(&settings.broker.prefix, &settings.queue.backoff());
    let server = settings.broker.server();
    let server = server.map_err(|problem| SettingsError::Invalid { key: "broker.url", problem })?;
    Ok(match server {
        None => Arc::new(EmbeddedBroker::new(topology)),
        Some(server) => {
            let (ca_file, host) = (&settings.broker.ca_file, heartbeat::host());
            Arc::new(RabbitBroker::new(server, ca_file, topology, role.as_str(), &host)?)
        }
    })
}

async fn serve(server: Option<Server>, shutdown: CancellationToken, grace: Duration) {
    if let Some(server) = server {
        server.run(shutdown, grace).await;
    }
}

/// Opens the database for the vectors of `embedder`.
pub async fn open(settings: &Settings, embedder: &dyn Embedder) -> anyhow::Result<Db> {
    let model = ModelSpec { id: embedder.model().into(), dimensions: embedder.dimensions() };
    Ok(Db::open(&settings.database, model).await?)
}

/// Runs a part in a task of its own, where the role has it, and starts it again when it panics: the others go
/// on meanwhile.
async fn supervise(
    name: &str,
    wanted: bool,
    shutdown: CancellationToken,
    start: impl Fn(CancellationToken) -> BoxFuture<'static, ()>,
) {
    if !wanted {
        return;
    }
    while let Err(error) = tokio::spawn(start(shutdown.clone())).await {
        tracing::error!(part = name, %error, "a part of the service panicked; starting it again");
        if tokio::time::timeout(RESTART, shutdown.cancelled()).await.is_ok() {
            return;
        }
    }
}
