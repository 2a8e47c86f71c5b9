//! Workers that finish what they hold and take nothing new.

use std::time::Duration;

use serde_json::{Value, json};

use super::{at, post, service};
use crate::promises::{called, one_by_one, plug};
use crate::support::app::{eventually, install_cryptography, user};
use crate::support::data::TestData;
use crate::support::process::Process;
use crate::support::provider::{Behaviour, FakeProvider};
use crate::support::rabbit::{self, Raw, Vhost};

/// One call at a time with one text, over RabbitMQ and PostgreSQL.
pub(crate) fn env(data: &TestData, vhost: &Vhost, provider: &FakeProvider) -> [(&'static str, String); 9] {
    [
        ("MAPX__DATABASE__URL", data.url()),
        ("MAPX__BROKER__URL", vhost.url()),
        ("MAPX__QUEUE__BATCH_SIZE", "1".to_owned()),
        ("MAPX__QUEUE__MAX_CONCURRENT", "1".to_owned()),
        ("MAPX__QUEUE__MAX_CONCURRENT_LIMIT", "0".to_owned()),
        ("MAPX__EMBEDDER__PROVIDER", "openai".to_owned()),
        ("MAPX__EMBEDDER__BASE_URL", provider.base_url()),
        ("MAPX__EMBEDDER__MODEL", "fake-model".to_owned()),
        ("MAPX__EMBEDDER__DIMENSIONS", "8".to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_draining_then_drained_and_works_again_when_asked() {
    let (provider, app, _broker) = service(one_by_one).await;
    let first = plug(&app, &provider).await;
    let worker = eventually("it has told of itself", async || {
        let worker = app.queue().await["workers"][0].clone();
        (worker["state"] == "working").then_some(worker)
    })
    .await;
    let id = worker["id"].as_str().expect("an id").to_owned();
    let told = post(&app, &format!("workers/{id}/drain"), json!({})).await;
    assert_eq!((&told["id"], told["drain_since"].is_string()), (&json!(id), true));
    let is = async |state: &str| {
        eventually(&format!("it is {state}"), async || {
            (app.queue().await["workers"][0]["state"] == state).then_some(())
        })
        .await;
    };
    is("draining").await;
    // Whatever it was sent ahead is done, and nothing that comes now.
    provider.release();
    app.embedding_is(first, "ready").await;
    is("drained").await;
    let calls = provider.calls().len();
    let late = app.save_text("late").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(provider.calls().len(), calls);
    assert_eq!(app.queue().await["workers"][0]["state"], "drained");
    post(&app, &format!("workers/{id}/undrain"), json!({})).await;
    app.embedding_is(late, "ready").await;
    is("working").await;
    app.stop().await;
}

/// What RabbitMQ has counted of the normal lane: delivered, and of these delivered again.
async fn deliveries(vhost: &Vhost) -> (u64, u64) {
    let path = format!("/queues/{}/mapx.tasks.normal", vhost.name);
    let (_, queue) = rabbit::api(reqwest::Method::GET, &path, None).await;
    let count = |name: &str| queue["message_stats"][name].as_u64().unwrap_or(0);
    (count("deliver"), count("redeliver"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_worker_that_is_drained_and_killed_nothing_comes_back() {
    install_cryptography();
    let (data, vhost) = (TestData::postgres().await, Vhost::new().await);
    let provider = FakeProvider::start(8).await;
    let env = env(&data, &vhost, &provider);
    let api = Process::start("serve", &env).await;
    let (first, _second) = (Process::start("worker", &env).await, Process::start("worker", &env).await);
    let http = reqwest::Client::new();
    let base = api.base().to_owned();
    let status = async || {
        let answer = http.get(format!("{base}{}", at("status"))).send().await.expect("an answer");
        answer.json::<Value>().await.expect("JSON")["data"].clone()
    };
    let of = |status: &Value, pid: u32| {
        let mut workers = status["workers"].as_array().expect("workers").iter();
        workers.find(|worker| worker["pid"] == pid).cloned()
    };
    provider.always(Behaviour::Hold);
    for n in 0..40 {
        let body = json!({ "user_id": user(1), "description": format!("text {n}") });
        let saved = http.post(format!("{base}/api/recommendations/save")).json(&body).send().await;
        assert_eq!(saved.expect("an answer").status(), 201);
    }
    called(&provider, 2).await;
    // Its account is some seconds old, and of a channel that closes before it is taken, something may be missing.
    let raw = Raw::open(&vhost.url()).await;
    eventually("RabbitMQ has counted what both were sent", async || {
        let sent = 40 - u64::from(raw.ready("mapx.tasks.normal").await);
        (deliveries(&vhost).await.0 == sent).then_some(())
    })
    .await;
    let worker = eventually("it has told of itself", async || of(&status().await, first.id())).await;
    let path = at(&format!("workers/{}/drain", worker["id"].as_str().expect("an id")));
    let answer = http.post(format!("{base}{path}")).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    eventually("it drains", async || {
        (of(&status().await, first.id()).expect("it runs")["state"] == "draining").then_some(())
    })
    .await;
    provider.behave();
    provider.release();
    eventually("it is drained", async || {
        (of(&status().await, first.id()).expect("it runs")["state"] == "drained").then_some(())
    })
    .await;
    first.kill().await;
    eventually("the other one does the rest", async || (status().await["embedded"] == 40).then_some(())).await;
    let mut inputs = provider.inputs();
    let all = inputs.len();
    inputs.sort_unstable();
    inputs.dedup();
    assert_eq!((all, inputs.len()), (40, 40), "each text once");
    let counted = eventually("RabbitMQ has counted", async || {
        let counted = deliveries(&vhost).await;
        (counted.0 >= 40).then_some(counted)
    })
    .await;
    assert_eq!(counted, (40, 0), "delivered, and of these again");
}
