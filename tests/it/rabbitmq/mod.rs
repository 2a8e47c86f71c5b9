//! What only a real RabbitMQ can do to the service, and what the service makes of it.

mod bundles;
mod by_hand;
mod connections;
mod delays;
mod node;
mod queues;
mod reconciler;
mod refusals;
mod roles;
mod suspects;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use mapx_embeddings::broker::rabbitmq::RabbitBroker;
use mapx_embeddings::broker::topology::Topology;
use mapx_embeddings::broker::{Broker, Message, Outgoing, PublishError, Route};
use mapx_embeddings::config::Settings;
use mapx_embeddings::config::secret::ServerUrl;
use mapx_embeddings::domain::backoff::Backoff;
use mapx_embeddings::domain::priority::Priority;

use crate::promises;
use crate::support::app::{PATIENCE, TestApp, eventually};
use crate::support::provider::FakeProvider;
use crate::support::rabbit::{self, Raw, Vhost};

fn ladder() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_millis(400), 3)
}

/// A broker over the default names of a vhost.
fn broker(url: &str) -> Arc<RabbitBroker> {
    let topology = Topology::new("mapx", &ladder());
    let broker = RabbitBroker::new(rabbit::server(url), "", topology, "test", "localhost");
    Arc::new(broker.expect("no certificates are needed"))
}

/// The whole service over a vhost, with a provider that the test scripts.
async fn service(vhost: &Vhost, change: impl FnOnce(&mut Settings)) -> (FakeProvider, TestApp) {
    let url = vhost.url();
    promises::remote(|settings| {
        settings.broker.url = ServerUrl::new(url);
        settings.broker.prefix = "mapx".into();
        change(settings);
    })
    .await
}

/// In the end: a relay that finds one before its notice holds it for a moment, to look at it.
async fn dead_letters_are(raw: &Raw, count: u32) {
    eventually("the dead letters are as told", async || (raw.ready("mapx.dead").await == count).then_some(()))
        .await;
}

/// One call at a time with one text, and a reconciler that looks so often.
async fn slow_service(vhost: &Vhost, reconcile_ms: u64) -> (FakeProvider, TestApp) {
    service(vhost, |settings| {
        promises::one_by_one(settings);
        settings.queue.reconcile_interval_ms = reconcile_ms;
    })
    .await
}

fn message(id: impl ToString) -> Message {
    let published_at = DateTime::from_timestamp_millis(Utc::now().timestamp_millis()).expect("a valid time");
    Message { id: id.to_string(), body: b"{}".to_vec(), attempt: 0, published_at, trace: None }
}

fn to_lane(lane: Priority, id: impl ToString) -> Outgoing {
    Outgoing { route: Route::Lane(lane), message: message(id) }
}

async fn publish_one(broker: &dyn Broker, outgoing: Outgoing) -> Result<(), PublishError> {
    broker.publish(vec![outgoing]).await.pop().expect("an answer")
}

/// Publishes again and again until the broker takes it.
async fn publish_patiently(broker: &dyn Broker, outgoing: Outgoing) {
    let started = Instant::now();
    while let Err(error) = publish_one(broker, outgoing.clone()).await {
        assert!(started.elapsed() < PATIENCE, "still: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for the broker's trouble to be as told, and returns it.
async fn trouble_is(broker: &dyn Broker, what: &str, as_told: impl Fn(Option<&str>) -> bool) -> Option<String> {
    let started = Instant::now();
    loop {
        let trouble = broker.trouble();
        if as_told(trouble.as_deref()) {
            return trouble;
        }
        assert!(started.elapsed() < PATIENCE, "not {what}: {trouble:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn raw(vhost: &Vhost) -> Raw {
    Raw::open(&vhost.url()).await
}
