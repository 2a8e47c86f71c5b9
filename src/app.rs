//! The composition root: builds the rooms, connects them, runs them until shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::auth::Authenticator;
use crate::broker::embedded::EmbeddedBroker;
use crate::broker::on_demand::OnDemand;
use crate::broker::rabbitmq::RabbitBroker;
use crate::broker::topology::Topology;
use crate::broker::{Broker, Unavailable};
use crate::budget::{self, DatabaseBudget};
use crate::config::embedder::Provider;
use crate::config::sections::ServerSettings;
use crate::config::{Role, Settings, SettingsError, presets};
use crate::db::regenerations::CaughtUp;
use crate::db::{Db, ModelSpec};
use crate::domain::backoff::Backoff;
use crate::embedder::guard::Guarded;
use crate::embedder::meter::{Meter, Metered};
use crate::embedder::{self, Embedder};
use crate::heartbeat::{self, Reporter};
use crate::http::{AppState, Events, Server, metrics_router, router};
use crate::measures::Measures;
use crate::metrics::Metrics;
use crate::regeneration::Regenerations;
use crate::relay::{Relay, WebhookRelay};
use crate::search::Search;
use crate::traces::Traces;
use crate::webhook::Sender;
use crate::worker::{Courier, Worker};

/// Pause before a part that panicked is started again.
const RESTART: Duration = Duration::from_secs(1);

/// A built service: its database is open and its port is bound, and nothing runs yet.
pub struct App {
    db: Db,
    broker: Arc<dyn Broker>,
    relay: Arc<Relay>,
    worker: Arc<Worker>,
    reporter: Arc<Reporter>,
    measures: Arc<Measures>,
    search: Arc<Search>,
    regenerations: Arc<Regenerations>,
    webhooks: Webhooks,
    /// The API; in a worker what tells its metrics, if that is wanted.
    server: Option<Server>,
    /// Those of the API.
    events: Option<Arc<Events>>,
    addr: SocketAddr,
    role: Role,
    /// Rows of a regeneration that are in the ledger at once.
    window: u64,
    shadow_rows: u64,
    grace: Duration,
}

impl App {
    /// Builds with the embedder of the settings.
    pub async fn build(mut settings: Settings, role: Role) -> anyhow::Result<Self> {
        settings.embedder = presets::resolve(&settings.embedder)?;
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
        let id = heartbeat::new_id();
        let measures = Arc::new(Measures::new(Traces::start(&settings.traces, &id)?));
        let relay = Relay::new(db.clone(), broker.clone(), measures.clone(), &settings);
        let meter = Meter::new(measures.clone());
        let guard = guarded(&settings, &db, embedder.clone(), meter.clone()).await?;
        let embedder: Arc<dyn Embedder> = match &guard {
            Some(guard) => guard.clone(),
            None => Arc::new(Metered::free(embedder, meter.clone())),
        };
        let worker = Worker::new(
            db.clone(),
            broker.clone(),
            embedder.clone(),
            guard.clone(),
            meter,
            &settings.queue,
            id.clone(),
        );
        let webhooks = Webhooks::new(&settings, role, &db, id.clone());
        let worker = Arc::new(worker.with_courier(webhooks.courier.clone()));
        let reporter = Reporter::new(id, db.clone(), worker.clone(), relay.clone(), guard, role);
        let search = Arc::new(Search::new(db.clone(), embedder.clone(), &settings));
        let regenerations = Arc::new(Regenerations::new(db.clone(), embedder, &settings));
        let metrics = Metrics::new(db.clone(), provider_key(&settings), measures.clone());
        let parts = (search.clone(), regenerations.clone());
        let (server, events) = listen(&settings, role, &db, parts, metrics).await?;
        let addr = server.as_ref().map_or(Ok(settings.server.bind), Server::addr)?;
        let grace = Duration::from_millis(settings.queue.shutdown_grace_ms);
        let (reporter, window) = (Arc::new(reporter), settings.regeneration.window);
        let shadow_rows = settings.regeneration.shadow_rows;
        Ok(Self {
            db,
            broker,
            relay,
            worker,
            reporter,
            measures,
            search,
            regenerations,
            webhooks,
            server,
            events,
            addr,
            role,
            window,
            shadow_rows,
            grace,
        })
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

    /// Sees to the rows that have no vector of this model.
    async fn catch_up(&self, model: &str) -> anyhow::Result<()> {
        let CaughtUp { enqueued, regeneration } = self.db.catch_up(self.window, self.shadow_rows).await?;
        if enqueued > 0 {
            tracing::info!(tasks = enqueued, %model, "enqueued recommendations without a vector of this model");
        }
        if let Some(job) = regeneration {
            let (strategy, reason) = (job.strategy.as_str(), &job.strategy_reason);
            tracing::info!(regeneration = job.id, rows = job.total, %model, strategy, reason, "the vectors are of another model: regenerating");
        }
        Ok(())
    }

    /// Runs until `shutdown`; then no request is taken any more, what is in flight is finished within the
    /// grace time, and the broker and the database are closed last.
    pub async fn run_until(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        if self.role != Role::Worker {
            self.relay.recover().await?;
            self.webhooks.relay.recover().await?;
        }
        let model = self.db.model().id.clone();
        if self.role != Role::Worker {
            self.catch_up(&model).await?;
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
        let (regenerations, events) = (self.regenerations, self.events);
        let (webhook_relay, courier) = (self.webhooks.relay, self.webhooks.courier);
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
            supervise("events", events.is_some(), shutdown.clone(), move |stop| {
                let events = events.clone();
                Box::pin(async move {
                    if let Some(events) = events {
                        events.run(stop).await;
                    }
                })
            }),
            supervise("regeneration", self.role != Role::Worker, shutdown.clone(), move |stop| {
                let regenerations = regenerations.clone();
                Box::pin(async move { regenerations.run(stop).await })
            }),
            supervise("webhook relay", self.role != Role::Worker, shutdown.clone(), move |stop| {
                let relay = webhook_relay.clone();
                Box::pin(async move { relay.run(stop).await })
            }),
            supervise("courier", self.role != Role::Serve, shutdown.clone(), move |stop| {
                let courier = courier.clone();
                Box::pin(async move { courier.run(stop).await })
            }),
            supervise("worker", self.role != Role::Serve, shutdown, move |stop| {
                let worker = worker.clone();
                Box::pin(async move { worker.run(stop).await })
            }),
        );
        drained.cancel();
        let _ = reporting.await;
        self.webhooks.broker.close().await;
        self.broker.close().await;
        self.db.close().await;
        self.measures.traces.stop().await;
        tracing::info!("stopped");
        Ok(())
    }
}

/// The name of the provider whose limits are kept; none for the local model.
fn provider_key(settings: &Settings) -> Option<String> {
    let remote = settings.embedder.provider != Provider::Local;
    remote.then(|| budget::provider_key(&settings.embedder))
}

/// A remote embedder under control; one in this process needs none.
async fn guarded(
    settings: &Settings,
    db: &Db,
    embedder: Arc<dyn Embedder>,
    meter: Meter,
) -> anyhow::Result<Option<Arc<Guarded>>> {
    if settings.embedder.provider == Provider::Local {
        return Ok(None);
    }
    let budget = DatabaseBudget::declare(db.clone(), &settings.embedder).await?;
    let metered = Arc::new(Metered::new(embedder, meter));
    Ok(Some(Arc::new(Guarded::new(metered, Arc::new(budget), settings))))
}

/// The listener of the role, if it has one.
async fn listen(
    settings: &Settings,
    role: Role,
    db: &Db,
    (search, regenerations): (Arc<Search>, Arc<Regenerations>),
    metrics: Metrics,
) -> anyhow::Result<(Option<Server>, Option<Arc<Events>>)> {
    let mut events = None;
    let auth = Arc::new(Authenticator::new(&settings.auth)?);
    for warning in auth.warnings() {
        tracing::warn!("{warning}");
    }
    let (key, server, router) = if role == Role::Worker {
        let bind = settings.metrics.addr();
        let bind = bind.map_err(|problem| SettingsError::Invalid { key: "metrics.bind", problem })?;
        let Some(bind) = bind else { return Ok((None, None)) };
        ("metrics.bind", ServerSettings { bind, ..settings.server.clone() }, metrics_router(metrics, auth))
    } else {
        let state = AppState::new(db.clone(), search, regenerations, metrics, auth, settings);
        events = Some(state.events.clone());
        ("server.bind", settings.server.clone(), router(state))
    };
    let bound = Server::bind(&server, router).await.with_context(|| {
        let (bind, variable) = (server.bind, key.to_uppercase().replace('.', "__"));
        format!("{key}: can't listen on {bind}; is another program using it? Set MAPX__{variable}")
    })?;
    Ok((Some(bound), events))
}

/// What tells others of what happens here.
struct Webhooks {
    broker: Arc<OnDemand>,
    relay: Arc<WebhookRelay>,
    courier: Arc<Courier>,
}

impl Webhooks {
    /// They go through a broker of their own on the same server, under the prefix `PREFIX.webhooks`.
    fn new(settings: &Settings, role: Role, db: &Db, process: Arc<str>) -> Self {
        let of_broker = settings.clone();
        let broker = Arc::new(OnDemand::new(move || {
            // No rungs: the waits are long, and kept in the ledger.
            let never = Backoff::new(Duration::ZERO, Duration::ZERO, 0);
            let topology = Topology::new(&format!("{}.webhooks", of_broker.broker.prefix), &never);
            broker_of(&of_broker, role, topology, 1).map_err(|error| Unavailable(format!("{error:#}")))
        }));
        let sender = Sender::new(&settings.webhook);
        let relay = Arc::new(WebhookRelay::new(db.clone(), broker.clone(), settings));
        let courier = Arc::new(Courier::new(db.clone(), broker.clone(), sender, settings, process));
        Self { broker, relay, courier }
    }
}

/// The broker that `broker.url` names.
fn broker(settings: &Settings, role: Role) -> anyhow::Result<Arc<dyn Broker>> {
    let topology = Topology::new(&settings.broker.prefix, &settings.queue.backoff());
    broker_of(settings, role, topology, settings.broker.bundle)
}

fn broker_of(
    settings: &Settings,
    role: Role,
    topology: Topology,
    bundle: usize,
) -> anyhow::Result<Arc<dyn Broker>> {
    let server = settings.broker.server();
    let server = server.map_err(|problem| SettingsError::Invalid { key: "broker.url", problem })?;
    Ok(match server {
        None => Arc::new(EmbeddedBroker::new(topology)),
        Some(server) => {
            let (ca_file, host) = (&settings.broker.ca_file, heartbeat::host());
            Arc::new(RabbitBroker::new(server, ca_file, topology, role.as_str(), &host)?.bundling(bundle))
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
