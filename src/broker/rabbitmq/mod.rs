//! The broker that is a RabbitMQ server, 3.10 or later ([`Durability::Disk`]).
//!
//! Two connections, one to publish and one to consume, each kept up by a task of its own ([`link`]). What is
//! asked while there is none is answered at once with the reason; nothing here waits for a server to come
//! back, as the ledger has what can't be handed over.

mod bundle;
mod connection;
mod consumer;
mod declare;
mod depths;
mod health;
mod lane;
mod link;
mod message;
mod publisher;
mod settled;
mod splitter;
mod subscription;
mod suspects;
mod width;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::in_hand::Hands;
use super::topology::Topology;
use super::{Broker, Consumer, Depths, Durability, InHand, Outgoing, PublishError, Unavailable};
use crate::config::broker::AmqpServer;
use crate::domain::intake::Intake;
use crate::domain::priority::Priority;
use bundle::pack;
use connection::Address;
use consumer::{Inbox, RabbitConsumer};
use health::{Health, Purpose};
use link::Link;
use splitter::Splitter;
use subscription::Subscription;

/// How long the end waits for the last acks to be sent.
const LAST_ACKS: Duration = Duration::from_secs(2);

/// Why the broker can't even be tried with these settings.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("broker.ca_file: can't use {path}: {problem}")]
    CaFile { path: String, problem: String },
    #[error("broker.ca_file: the system's certificate authorities can't be used, name one: {0}")]
    Roots(String),
}

pub struct RabbitBroker {
    topology: Arc<Topology>,
    /// Tasks in one message at most.
    bundle: usize,
    publishing: Arc<Link>,
    consuming: Link,
    health: Arc<Health>,
    hands: Arc<Mutex<Hands>>,
    pumps: TaskTracker,
}

impl RabbitBroker {
    /// Starts to connect, and doesn't wait for it. `role` and `host` tell a person in RabbitMQ's management
    /// UI whose connections these are. Must be called on a tokio runtime, and closed before that ends: lapin
    /// has threads of its own.
    ///
    /// # Errors
    /// When the certificates can't be used; what only the server can refuse is told by [`Broker::trouble`].
    pub fn new(
        server: AmqpServer,
        ca_file: &str,
        topology: Topology,
        role: &'static str,
        host: &str,
    ) -> Result<Self, BuildError> {
        let address = Arc::new(Address::new(server, ca_file, role, host)?);
        let (topology, health) = (Arc::new(topology), Arc::new(Health::default()));
        let link = |purpose| Link::start(address.clone(), topology.clone(), purpose, health.clone());
        let (publishing, consuming) = (Arc::new(link(Purpose::Publish)), link(Purpose::Consume));
        let (hands, pumps) = (Arc::default(), TaskTracker::new());
        Ok(Self { topology, bundle: 1, publishing, consuming, health, hands, pumps })
    }

    /// With up to so many tasks in a message where many are handed over at once.
    pub fn bundling(self, bundle: usize) -> Self {
        Self { bundle, ..self }
    }

    /// Subscribes to the queues, all of them that are taken from, or none.
    async fn subscribe(
        &self,
        queues: Vec<(Option<Priority>, &str)>,
        prefetch: usize,
        intake: Intake,
        splitter: Option<Splitter>,
    ) -> Result<Box<dyn Consumer>, Unavailable> {
        let live = self.consuming.up().await?;
        live.ensure_declared().await?;
        let inbox = Inbox::new(prefetch, intake, queues.iter().map(|(lane, _)| *lane));
        let consumer = RabbitConsumer(inbox.clone());
        let (hands, pumps) = (self.hands.clone(), self.pumps.clone());
        let mut subscription = Subscription::new(live, queues, hands, inbox, splitter.map(Arc::new), pumps);
        subscription.open().await?;
        self.pumps.spawn(subscription.keep());
        Ok(Box::new(consumer))
    }
}

#[async_trait]
impl Broker for RabbitBroker {
    async fn publish(&self, messages: Vec<Outgoing>) -> Vec<Result<(), PublishError>> {
        if messages.is_empty() {
            return Vec::new();
        }
        publisher::publish(&self.publishing, &self.topology, &pack(messages, self.bundle)).await
    }

    async fn consume_from(&self, prefetch: usize, intake: Intake) -> Result<Box<dyn Consumer>, Unavailable> {
        let lanes = Priority::ALL.map(|lane| (Some(lane), self.topology.lane_queue(lane)));
        self.subscribe(lanes.into(), prefetch, intake, None).await
    }

    async fn consume_dead_letters(&self, prefetch: usize) -> Result<Box<dyn Consumer>, Unavailable> {
        let notices = vec![(None, self.topology.notice_queue())];
        self.subscribe(notices, prefetch, Intake::ALL, None).await
    }

    async fn review_dead_letters(&self, prefetch: usize) -> Result<Box<dyn Consumer>, Unavailable> {
        let dead = vec![(None, self.topology.dead_queue())];
        let splitter = Splitter::new(self.publishing.clone(), self.topology.clone(), self.pumps.clone());
        self.subscribe(dead, prefetch, Intake::ALL, Some(splitter)).await
    }

    async fn depths(&self) -> Result<Depths, Unavailable> {
        let live = self.consuming.up().await?;
        let depths = depths::depths(&live, &self.topology).await?;
        Ok(Depths { unacked: self.in_hand().map(|lane| lane.deliveries), ..depths })
    }

    fn in_hand(&self) -> [InHand; 3] {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner).look()
    }

    fn trouble(&self) -> Option<String> {
        self.health.trouble()
    }

    async fn close(&self) {
        self.pumps.close();
        // Consumers have been dropped by now, and their last acks are on their way.
        let _ = timeout(LAST_ACKS, self.pumps.wait()).await;
        tokio::join!(self.publishing.close(), self.consuming.close());
    }

    fn durability(&self) -> Durability {
        Durability::Disk
    }
}
