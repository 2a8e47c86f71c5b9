//! Webhooks from outside: who is told what, how often, with which signatures, and where nothing may be sent to.

mod addresses;
mod cli;
mod concurrency;
mod delivery;
mod endpoints;
mod killed;
mod lost;
mod quiet;
mod receiver;
mod regenerations;
mod retries;
mod rotation;
mod verifier;

use mapx_embeddings::config::Settings;
use serde_json::{Value, json};

use crate::promises;
use crate::support::app::{TestApp, eventually};
use crate::support::provider::{Behaviour, FakeProvider};
use receiver::Receiver;

const WEBHOOKS: &str = "/api/webhooks";
const READY: &str = "embedding.ready";
const FAILED: &str = "embedding.failed";
const FINISHED: &str = "regeneration.finished";
const TEST: &str = "webhook.test";

fn at(path: impl std::fmt::Display) -> String {
    format!("{WEBHOOKS}/{path}")
}

/// What the tests' own receivers need, and short waits.
fn here(settings: &mut Settings) {
    settings.webhook.allow_private = true;
    settings.webhook.retry_schedule_ms = vec![20, 40];
    settings.webhook.timeout_ms = 5_000;
}

/// A service with a provider that refuses every text with "poison" in it, and whoever is told.
async fn service(change: impl FnOnce(&mut Settings)) -> (FakeProvider, TestApp, Receiver) {
    let (provider, app) = promises::remote(|settings| {
        here(settings);
        change(settings);
    })
    .await;
    provider.when_contains("poison", Behaviour::status(400, "no"));
    (provider, app, Receiver::start().await)
}

/// A registered endpoint.
struct Registered {
    id: i64,
    secret: String,
}

async fn register(app: &TestApp, receiver: &Receiver, more: Value) -> Registered {
    let mut body = json!({ "url": receiver.url("/hook") });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let answer = app.post(WEBHOOKS, &body).await;
    let data = answer.data(201);
    let secret = data["secret"].as_str().expect("a secret").to_owned();
    assert!(secret.starts_with("whsec_"), "{secret}");
    Registered { id: data["id"].as_i64().expect("an id"), secret }
}

async fn webhook(app: &TestApp, id: i64) -> Value {
    app.get(&at(id), None).await.data(200).clone()
}

async fn patch(app: &TestApp, id: i64, change: Value) -> Value {
    app.send(app.request(reqwest::Method::PATCH, &at(id)).json(&change)).await.data(200).clone()
}

/// The newest first.
async fn deliveries(app: &TestApp, id: i64) -> Vec<Value> {
    let page = app.get(&at(format!("{id}/deliveries?limit=100")), None).await.data(200).clone();
    page["items"].as_array().expect("items").clone()
}

/// Waits until the newest delivery is in this state, and returns it with its history.
async fn newest_is(app: &TestApp, id: i64, state: &str) -> Value {
    eventually(&format!("the newest delivery is {state}"), async || {
        let newest = deliveries(app, id).await.into_iter().next()?;
        if newest["state"] != state {
            return None;
        }
        let path = at(format!("{id}/deliveries/{}", newest["id"]));
        Some(app.get(&path, None).await.data(200).clone())
    })
    .await
}

async fn audit(app: &TestApp) -> Vec<Value> {
    let path = "/api/recommendations/embedding-queue/audit?limit=100";
    app.get(path, None).await.data(200)["items"].as_array().expect("items").clone()
}
