//! A text that ends every worker that takes it, by the memory it needs or a bug, among others.

use mapx_embeddings::broker::topology::{DELIVERY_LIMIT, DELIVERY_LIMIT_REASON};
use reqwest::Client;
use serde_json::{Value, json};

use super::raw;
use crate::promises::DIMENSIONS;
use crate::support::app::{eventually, install_cryptography, user};
use crate::support::data::{self, TestData};
use crate::support::process::Process;
use crate::support::provider::{Behaviour, FakeProvider};
use crate::support::rabbit::Vhost;

const PATH: &str = "/api/recommendations/embedding-queue";
const BUNDLE: usize = 2;
const ROWS: usize = 20;
/// More than share its message stand behind it. Chance spares each of them with all but one in 2^16 or so.
const DEADLY: usize = 8;

async fn get(url: String) -> Value {
    let answer = Client::new().get(url).send().await.expect("an answer");
    let body: Value = serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
    body["data"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_ends_every_worker_is_given_up_alone() {
    is_given_up_alone("low").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_in_a_more_urgent_lane_takes_nobody_along_either() {
    is_given_up_alone("high").await;
}

/// Whether the only one is, whose lane is this; the others' is `low`.
async fn is_given_up_alone(lane: &str) {
    install_cryptography();
    let vhost = Vhost::new().await;
    let data = TestData::postgres_on(&data::server("MAPX_TEST_POSTGRES_URL")).await;
    let provider = FakeProvider::start(DIMENSIONS).await;
    provider.when_contains("deadly", Behaviour::Hold);
    let env = [
        ("MAPX__DATABASE__URL", data.url()),
        ("MAPX__BROKER__URL", vhost.url()),
        ("MAPX__EMBEDDER__PROVIDER", "openai".into()),
        ("MAPX__EMBEDDER__BASE_URL", provider.base_url()),
        ("MAPX__EMBEDDER__MODEL", "fake-model".into()),
        ("MAPX__EMBEDDER__DIMENSIONS", DIMENSIONS.to_string()),
        ("MAPX__BROKER__BUNDLE", BUNDLE.to_string()),
        ("MAPX__QUEUE__MAX_CONCURRENT", "1".into()),
        ("MAPX__QUEUE__MAX_CONCURRENT_LIMIT", "0".into()),
        ("MAPX__QUEUE__BATCH_SIZE", "250".into()),
    ];
    let serve = Process::start("serve", &env).await;
    let line = |n: usize| match n {
        DEADLY => json!({ "user_id": user(1), "description": "deadly", "priority": lane }).to_string(),
        _ => json!({ "user_id": user(1), "description": format!("text {n}"), "priority": "low" }).to_string(),
    };
    let lines = (0..ROWS).map(line).collect::<Vec<_>>().join("\n");
    let import = format!("{}/api/recommendations/import", serve.base());
    assert_eq!(Client::new().post(import).body(lines).send().await.expect("an answer").status(), 200);
    let raw = raw(&vhost).await;
    // Bundles, so that in its lane it has company in its message, too.
    let bundles = async || (raw.ready("mapx.tasks.low").await == ROWS.div_ceil(BUNDLE) as u32).then_some(());
    eventually("all are with the broker", bundles).await;

    let status = async || get(format!("{}{PATH}/status", serve.base())).await;
    let taken = || provider.inputs().iter().filter(|input| input.contains("deadly")).count();
    let mut ended = 0;
    while status().await["deadLettered"] == 0 {
        let worker = Process::start("worker", &env).await;
        eventually("it has the deadly one in hand, or nobody has", async || {
            (taken() > ended || status().await["deadLettered"] != 0).then_some(())
        })
        .await;
        worker.kill().await;
        ended = taken();
    }
    // An end may count twice: what one channel of the dead one returns, the server may still send to another of it.
    let limit = DELIVERY_LIMIT as usize;
    assert!((limit / 2..=limit + 1).contains(&ended), "{ended} workers have ended");
    let letters = get(format!("{}{PATH}/dead-letters", serve.base())).await;
    let told = letters["items"].as_array().expect("a list");
    let of: Vec<&Value> = told.iter().map(|letter| &letter["excerpt"]).collect();
    assert_eq!(told.len(), 1, "{of:?}");
    assert_eq!((&told[0]["error"], &told[0]["lane"]), (&json!(DELIVERY_LIMIT_REASON), &json!(lane)));

    let _worker = Process::start("worker", &env).await;
    eventually("all others are embedded", async || (status().await["embedded"] == json!(ROWS - 1)).then_some(()))
        .await;
    assert_eq!(status().await["deadLettered"], 1);
    assert_eq!(taken(), ended, "it is left alone");
}
