//! The promises of DESIGN.md, each tested from outside over HTTP on the embedded stack.

mod concurrency;
mod lanes;
mod nothing_lost;
mod nothing_silent;
mod paid_once;
mod pauses;
mod poison;
mod reconciler;
mod retries;
mod saves;
mod search;
mod stale;

use std::sync::Arc;

use mapx_embeddings::config::Settings;
use mapx_embeddings::config::embedder::Provider;
use mapx_embeddings::domain::embedding::Embedding;
use serde_json::{Value, json};

use crate::support::app::{Answer, TestApp, eventually, user};
use crate::support::data::TestData;
use crate::support::provider::{Behaviour, FakeProvider, vector};
use crate::support::stored;

pub(crate) const DIMENSIONS: usize = 8;

/// A service whose embeddings come from a provider that the test scripts.
pub(crate) async fn remote(change: impl FnOnce(&mut Settings)) -> (FakeProvider, TestApp) {
    let data = TestData::new().await;
    let provider = FakeProvider::start(DIMENSIONS).await;
    let app = remote_over(data, &provider, change).await;
    (provider, app)
}

pub(crate) async fn remote_over(
    data: Arc<TestData>,
    provider: &FakeProvider,
    change: impl FnOnce(&mut Settings),
) -> TestApp {
    let url = provider.base_url();
    TestApp::over(data, |settings| ask(settings, url).then(change), None).await
}

/// Points the settings to a provider; returns them for further changes.
pub(crate) fn ask(settings: &mut Settings, base_url: String) -> Change<'_> {
    settings.embedder.provider = Provider::Openai;
    settings.embedder.base_url = base_url;
    settings.embedder.model = "fake-model".into();
    settings.embedder.dimensions = DIMENSIONS;
    Change(settings)
}

pub(crate) struct Change<'s>(&'s mut Settings);

impl Change<'_> {
    fn then(self, change: impl FnOnce(&mut Settings)) {
        change(self.0);
    }
}

/// One call at a time with one text.
pub(crate) fn one_by_one(settings: &mut Settings) {
    settings.queue.max_concurrent = 1;
    settings.queue.batch_size = 1;
}

/// The text that is embedded for a description alone.
fn composed(description: &str) -> String {
    format!("Type: unclear. Description: {description}")
}

/// The vector that the provider gives a description, as it is stored.
pub(crate) fn embedding_of(description: &str) -> Embedding {
    Embedding::new(vector(&composed(description), DIMENSIONS), DIMENSIONS).expect("a direction")
}

/// Waits until the provider has got so many calls.
pub(crate) async fn called(provider: &FakeProvider, calls: usize) {
    eventually(&format!("{calls} calls"), async || (provider.calls().len() >= calls).then_some(())).await;
}

/// Waits until so many tasks are with the broker.
async fn handed_over(app: &TestApp, tasks: i64) {
    let data = app.data();
    eventually(&format!("{tasks} with the broker"), async || {
        (stored::handed_over(&data).await == tasks).then_some(())
    })
    .await;
}

/// A row that keeps the only worker busy until the provider releases it.
pub(crate) async fn plug(app: &TestApp, provider: &FakeProvider) -> i64 {
    let before = provider.calls().len();
    provider.next(Behaviour::Hold);
    // Another text each time, as the vector of the last one is kept.
    let plugs = provider.inputs().iter().filter(|input| input.contains("plug")).count();
    let id = app.save_text(&format!("plug{}", " again".repeat(plugs))).await;
    called(provider, before + 1).await;
    id
}

async fn edit(app: &TestApp, id: i64, change: Value) -> Answer {
    let answer = app.put(&format!("/api/recommendations/{id}"), Some(user(1)), &change).await;
    answer.data(200);
    answer
}

async fn describe(app: &TestApp, id: i64, description: &str) {
    edit(app, id, json!({ "description": description })).await;
}

/// The row's stored vector is that of this description and of its newest version.
pub(crate) async fn assert_stored(app: &TestApp, id: i64, description: &str) {
    let row = stored::row(&app.data(), id).await.expect("the row");
    assert_eq!(row.embedded_version, Some(row.content_version));
    assert!(row.holds(&embedding_of(description)), "another vector than that of {description:?}");
}
