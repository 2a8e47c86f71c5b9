//! RabbitMQ in a test: each test has queues of its own on the one server, and takes them away at the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
    QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Queue};
use mapx_embeddings::broker::rabbitmq::RabbitBroker;
use mapx_embeddings::broker::topology::Topology;
use mapx_embeddings::broker::{Broker, Consumer, Depths, Durability, InHand, Outgoing, PublishError, Unavailable};
use mapx_embeddings::config::broker::{AmqpServer, BrokerSettings};
use mapx_embeddings::config::secret::{Secret, ServerUrl};
use mapx_embeddings::domain::backoff::Backoff;
use mapx_embeddings::domain::intake::Intake;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::app::install_cryptography;
use super::data;

/// How long the server may take for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// The URL of the server for tests, without a vhost.
#[track_caller]
pub fn url() -> String {
    data::server("MAPX_TEST_AMQP_URL")
}

pub fn server(url: &str) -> AmqpServer {
    let settings = BrokerSettings {
        url: ServerUrl::new(url),
        username: String::new(),
        password: Secret::default(),
        ca_file: String::new(),
        prefix: "unused".into(),
        window: 1,
        bundle: 1,
    };
    settings.server().expect("a good URL").expect("a server")
}

/// A prefix that no other test has.
pub fn prefix() -> String {
    format!("test-{}", Uuid::now_v7().simple())
}

/// A broker with queues of its own, which are deleted when it is dropped.
pub struct TestBroker {
    inner: RabbitBroker,
    _queues: Queues,
}

impl TestBroker {
    pub async fn connect(ladder: &Backoff) -> Self {
        Self::over(Queues::new(&prefix(), ladder)).await
    }

    /// Another process's broker over the same queues.
    pub async fn over(queues: Queues) -> Self {
        let inner = RabbitBroker::new(server(&url()), "", queues.topology.clone(), "test", "localhost");
        let broker = Self { inner: inner.expect("no certificates are needed"), _queues: queues };
        broker.is_up().await;
        broker
    }

    pub fn bundling(self, bundle: usize) -> Self {
        Self { inner: self.inner.bundling(bundle), ..self }
    }

    /// Waits until the server can be asked.
    pub async fn is_up(&self) {
        let started = Instant::now();
        while let Err(error) = self.inner.depths().await {
            assert!(started.elapsed() < PATIENCE, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[async_trait]
impl Broker for TestBroker {
    async fn publish(&self, messages: Vec<Outgoing>) -> Vec<Result<(), PublishError>> {
        self.inner.publish(messages).await
    }

    async fn consume_from(&self, prefetch: usize, intake: Intake) -> Result<Box<dyn Consumer>, Unavailable> {
        self.inner.consume_from(prefetch, intake).await
    }

    async fn review_dead_letters(&self, prefetch: usize) -> Result<Box<dyn Consumer>, Unavailable> {
        self.inner.review_dead_letters(prefetch).await
    }

    async fn consume_dead_letters(&self, prefetch: usize) -> Result<Box<dyn Consumer>, Unavailable> {
        self.inner.consume_dead_letters(prefetch).await
    }

    async fn depths(&self) -> Result<Depths, Unavailable> {
        self.inner.depths().await
    }

    fn in_hand(&self) -> [InHand; 3] {
        self.inner.in_hand()
    }

    fn trouble(&self) -> Option<String> {
        self.inner.trouble()
    }

    async fn close(&self) {
        self.inner.close().await;
    }

    fn durability(&self) -> Durability {
        self.inner.durability()
    }
}

/// The queues and exchanges of one prefix; the last one to drop it deletes them.
#[derive(Clone)]
pub struct Queues {
    pub topology: Topology,
    _deleted: Arc<Deleted>,
}

struct Deleted {
    url: String,
    topology: Topology,
}

impl Queues {
    #[track_caller]
    pub fn new(prefix: &str, ladder: &Backoff) -> Self {
        let topology = Topology::new(prefix, ladder);
        Self { topology: topology.clone(), _deleted: Arc::new(Deleted { url: url(), topology }) }
    }
}

impl Drop for Deleted {
    fn drop(&mut self) {
        let (url, topology) = (self.url.clone(), self.topology.clone());
        // A runtime of its own, as the test's may be on its way out.
        let deleting = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let deleted = tokio::time::timeout(PATIENCE, delete(&url, &topology)).await;
                deleted.expect("the server answers").expect("deleted");
            });
        });
        let deleted = deleting.join();
        if !std::thread::panicking() {
            deleted.expect("the queues are deleted");
        }
    }
}

/// A connection beside those of the service.
pub async fn connect(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default()).await.expect("the server for tests answers")
}

/// A channel of such a connection.
pub struct Raw {
    /// Kept open.
    connection: Connection,
    pub channel: Channel,
}

impl Raw {
    pub async fn open(url: &str) -> Self {
        let connection = connect(url).await;
        let channel = connection.create_channel().await.expect("a channel");
        Self { connection, channel }
    }

    /// The next message of a queue, unacked.
    pub async fn get(&self, queue: &str) -> Option<BasicGetMessage> {
        self.channel.basic_get(queue.into(), BasicGetOptions::default()).await.expect("the queue is there")
    }

    /// Whether there is such a queue. On a channel of its own, as the answer that there is none ends it.
    pub async fn is_there(&self, queue: &str) -> bool {
        let channel = self.connection.create_channel().await.expect("a channel");
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.into(), options, FieldTable::default()).await.is_ok()
    }

    /// Messages ready in a queue.
    pub async fn ready(&self, queue: &str) -> u32 {
        self.look(queue).await.message_count()
    }

    /// Consumers of a queue.
    pub async fn consumers(&self, queue: &str) -> u32 {
        self.look(queue).await.consumer_count()
    }

    async fn look(&self, queue: &str) -> Queue {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        declared.expect("the queue is there")
    }

    pub async fn publish(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions::default();
        self.channel
            .basic_publish(exchange.into(), key.into(), options, body, properties)
            .await
            .expect("published");
    }

    pub async fn purge(&self, queue: &str) -> u32 {
        self.channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.expect("purged")
    }

    pub async fn delete(&self, queue: &str) {
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("deleted");
    }
}

/// Asks the management API; the path is below `/api`.
pub async fn api(method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
    install_cryptography();
    let request =
        reqwest::Client::new().request(method, format!("{}/api{path}", data::server("MAPX_TEST_RABBITMQ_API")));
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    let response = request.send().await.expect("the management API answers");
    let (status, text) = (response.status(), response.text().await.expect("a body"));
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// A virtual host of a test's own, which is deleted with all that is in it.
pub struct Vhost {
    pub name: String,
}

impl Vhost {
    pub async fn new() -> Self {
        let vhost = Self { name: prefix() };
        vhost.create().await;
        vhost
    }

    /// Only its name.
    pub fn missing() -> Self {
        Self { name: prefix() }
    }

    pub async fn create(&self) {
        let (status, _) = api(Method::PUT, &format!("/vhosts/{}", self.name), Some(json!({}))).await;
        assert!(status.is_success(), "{status}");
    }

    pub fn url(&self) -> String {
        format!("{}/{}", url(), self.name)
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        let name = self.name.clone();
        let deleting = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(api(Method::DELETE, &format!("/vhosts/{name}"), None));
        });
        let _ = deleting.join();
    }
}

async fn delete(url: &str, topology: &Topology) -> lapin::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    for queue in topology.queues() {
        channel.queue_delete(queue.name.as_str().into(), QueueDeleteOptions::default()).await?;
    }
    for exchange in topology.exchanges() {
        channel.exchange_delete(exchange.name.as_str().into(), ExchangeDeleteOptions::default()).await?;
    }
    connection.close(200, "OK".into()).await
}
