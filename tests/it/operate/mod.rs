//! What someone on call does: looks at dead letters, replays and discards them, pauses lanes, drains workers.

mod cli;
mod dead_letters;
mod discards;
pub(crate) mod drains;
mod pauses;
mod refusals;
mod replays;

use std::sync::Arc;
use std::time::Duration;

use mapx_embeddings::broker::Broker;
use mapx_embeddings::config::Settings;
use serde_json::{Value, json};

use crate::promises;
use crate::support::app::{TestApp, eventually, user};
use crate::support::broker::{Mood, MoodyBroker};
use crate::support::data::{TestData, full_stack};
use crate::support::provider::{Behaviour, FakeProvider};
use crate::support::rabbit::Raw;

const QUEUE: &str = "/api/recommendations/embedding-queue";

fn at(path: &str) -> String {
    format!("{QUEUE}/{path}")
}

/// The broker, looked at from beside the service.
enum Broken {
    Rabbit(Box<Raw>),
    Embedded(Arc<MoodyBroker>),
}

impl Broken {
    /// Dead letters that it holds.
    async fn dead(&self) -> u64 {
        match self {
            Self::Rabbit(raw) => raw.ready("mapx.dead").await.into(),
            Self::Embedded(broker) => broker.depths().await.expect("it is well").dead,
        }
    }

    /// And stay so many: while they are looked through, they are in nobody's sight.
    async fn dead_is(&self, count: u64) {
        eventually(&format!("{count} dead letters with the broker"), async || {
            if self.dead().await != count {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(700)).await;
            (self.dead().await == count).then_some(())
        })
        .await;
    }
}

/// A service with a provider that refuses every text with "poison" in it, and its broker.
async fn service(change: impl FnOnce(&mut Settings)) -> (FakeProvider, TestApp, Broken) {
    let provider = FakeProvider::start(promises::DIMENSIONS).await;
    provider.when_contains("poison", Behaviour::status(400, "no"));
    if full_stack() {
        let data = TestData::full().await;
        let url = data.vhost_url();
        let app = promises::remote_over(data, &provider, change).await;
        return (provider, app, Broken::Rabbit(Box::new(Raw::open(&url).await)));
    }
    let (mut embedded, base_url) = (None, provider.base_url());
    let app = TestApp::with_broker(
        |settings| embedded.insert(MoodyBroker::new(settings, Mood::Well)).clone(),
        |settings| {
            promises::ask(settings, base_url);
            change(settings);
        },
    )
    .await;
    (provider, app, Broken::Embedded(embedded.expect("made")))
}

/// Imports so many texts at low priority.
async fn import(app: &TestApp, texts: impl Iterator<Item = String>) {
    let line = |text| json!({ "user_id": user(1), "description": text, "visibility": "public" }).to_string();
    let lines = texts.map(line).collect::<Vec<_>>().join("\n");
    let path = "/api/recommendations/import";
    let request = app.request(reqwest::Method::POST, path).header("content-type", "application/x-ndjson");
    app.send(request.body(lines)).await.data(200);
}

/// Waits until so many are dead in the ledger.
async fn dead_lettered(app: &TestApp, count: u64) {
    eventually(&format!("{count} dead"), async || (app.queue().await["deadLettered"] == count).then_some(())).await;
}

async fn post(app: &TestApp, path: &str, body: Value) -> Value {
    app.post(&at(path), &body).await.data(200).clone()
}

async fn get(app: &TestApp, path: &str) -> Value {
    app.get(&at(path), None).await.data(200).clone()
}

fn ids(items: &Value) -> Vec<i64> {
    let items = items.as_array().expect("items").iter();
    items.map(|item| item["recommendation_id"].as_i64().expect("an id")).collect()
}
