//! Settings that change while the service runs: `PUT /api/recommendations/embedding-queue/config`.

use std::time::{Duration, Instant};

use mapx_embeddings::config::Settings;
use serde_json::{Value, json};

use crate::promises::{called, one_by_one, plug, remote, remote_over};
use crate::support::app::{PATIENCE, TestApp, eventually, install_cryptography};
use crate::support::data::TestData;
use crate::support::process::Process;
use crate::support::provider::{Behaviour, FakeProvider};
use crate::support::rabbit::Vhost;
use crate::support::stored;

const CONFIG: &str = "/api/recommendations/embedding-queue/config";
/// Within which every process goes by a change, with something on top for a busy machine.
const PROMISED: Duration = Duration::from_secs(2);
const MARGIN: Duration = Duration::from_secs(3);

async fn change(app: &TestApp, body: Value) -> Value {
    app.put(CONFIG, None, &body).await.data(200).clone()
}

/// Waits until the only process says that it goes by these values.
async fn in_force(app: &TestApp, max_concurrent: u64, batch_size: u64) {
    eventually("the values are in force", async || {
        let worker = app.queue().await["workers"][0].clone();
        (worker["maxConcurrent"] == max_concurrent && worker["batchSize"] == batch_size).then_some(())
    })
    .await;
}

async fn running(provider: &FakeProvider, calls: usize) {
    let there = async || (provider.running() == calls).then_some(());
    eventually(&format!("{calls} calls at once"), there).await;
}

async fn save(app: &TestApp, texts: usize) {
    for n in 0..texts {
        app.save_text(&format!("text {n}")).await;
    }
}

/// Waits until so many tasks are with the broker.
async fn handed_over(app: &TestApp, tasks: i64) {
    let data = app.data();
    let there = async || (stored::handed_over(&data).await == tasks).then_some(());
    eventually(&format!("{tasks} with the broker"), there).await;
}

#[tokio::test]
async fn calls_at_once_grow_and_shrink_while_they_run() {
    let (provider, app) = remote(one_by_one).await;
    provider.always(Behaviour::Hold);
    save(&app, 20).await;
    running(&provider, 1).await;

    let started = Instant::now();
    let told = change(&app, json!({ "max_concurrent": 4 })).await;
    assert_eq!(told["max_concurrent"], json!({ "value": 4, "source": "live" }));
    assert_eq!(told["batch_size"], json!({ "value": 1, "source": "configuration" }));
    running(&provider, 4).await;
    assert!(started.elapsed() < PROMISED + MARGIN, "in force after {:?}", started.elapsed());
    in_force(&app, 4, 1).await;

    change(&app, json!({ "maxConcurrent": 1 })).await;
    in_force(&app, 1, 1).await;
    assert_eq!(provider.running(), 4, "calls in flight are finished");
    let called_before = provider.calls().len();
    provider.release();
    called(&provider, called_before + 1).await;
    running(&provider, 1).await;
    provider.count_afresh();
    for calls in 2..=5 {
        provider.release();
        called(&provider, called_before + calls).await;
    }
    assert_eq!(provider.most_at_once(), 1);

    provider.behave();
    provider.release();
    assert_eq!(app.drained().await["deadLettered"], 0);
    app.stop().await;
}

#[tokio::test]
async fn a_worker_that_waits_for_work_starts_no_call_too_many() {
    let (provider, app) = remote(|settings| {
        settings.queue.max_concurrent = 2;
        settings.queue.batch_size = 1;
    })
    .await;
    provider.always(Behaviour::Hold);
    save(&app, 1).await;
    running(&provider, 1).await;
    change(&app, json!({ "max_concurrent": 1 })).await;
    in_force(&app, 1, 1).await;
    save(&app, 5).await;
    handed_over(&app, 6).await;
    for calls in 2..=4 {
        provider.release();
        called(&provider, calls).await;
    }
    assert_eq!(provider.most_at_once(), 1);
    provider.behave();
    provider.release();
    app.drained().await;
    app.stop().await;
}

#[tokio::test]
async fn texts_in_a_call_grow_and_shrink_and_null_returns_to_the_own_configuration() {
    let (provider, app) = remote(|settings| {
        settings.queue.max_concurrent = 1;
        settings.queue.batch_size = 2;
    })
    .await;
    plug(&app, &provider).await;
    save(&app, 60).await;
    handed_over(&app, 61).await;
    provider.always(Behaviour::Hold);
    let steps =
        [(json!({ "batch_size": 7 }), 7), (json!({ "batchSize": 3 }), 3), (json!({ "batch_size": null }), 2)];
    for (body, size) in steps {
        change(&app, body).await;
        in_force(&app, 1, size as u64).await;
        // Not at once: a call takes what is there, and a server sends more ahead only now.
        let mut last = 0;
        for _ in 0..4 {
            let calls = provider.calls().len();
            provider.release();
            called(&provider, calls + 1).await;
            last = provider.calls().last().expect("a call").inputs.len();
            if last == size {
                break;
            }
        }
        let sizes: Vec<usize> = provider.calls().iter().map(|call| call.inputs.len()).collect();
        assert_eq!(last, size, "{sizes:?}");
    }
    provider.behave();
    provider.release();
    app.drained().await;
    app.stop().await;
}

#[tokio::test]
async fn a_change_survives_a_restart_and_holds_from_the_first_call() {
    let (provider, app) = remote(one_by_one).await;
    change(&app, json!({ "max_concurrent": 2, "batch_size": 3 })).await;
    in_force(&app, 2, 3).await;
    let data = app.data();
    app.stop().await;

    provider.always(Behaviour::Hold);
    let wide = |settings: &mut Settings| settings.queue.max_concurrent = 9;
    let app = remote_over(data, &provider, wide).await;
    save(&app, 20).await;
    running(&provider, 2).await;
    in_force(&app, 2, 3).await;
    handed_over(&app, 20).await;
    let told = app.get(CONFIG, None).await;
    assert_eq!(told.data(200)["max_concurrent"], json!({ "value": 2, "source": "live" }));
    for calls in 3..=6 {
        provider.release();
        called(&provider, calls).await;
    }
    assert_eq!(provider.most_at_once(), 2);
    assert!(provider.calls().iter().all(|call| call.inputs.len() <= 3));

    change(&app, json!({ "max_concurrent": null, "batch_size": null })).await;
    in_force(&app, 9, 5).await;
    let told = app.get(CONFIG, None).await;
    assert_eq!(told.data(200)["max_concurrent"], json!({ "value": 9, "source": "configuration" }));
    provider.behave();
    provider.release();
    app.drained().await;
    app.stop().await;
}

#[tokio::test]
async fn what_can_not_be_is_refused_by_name_and_changes_nothing() {
    let app = TestApp::start().await;
    change(&app, json!({ "max_concurrent": 6 })).await;
    let before = app.get(CONFIG, None).await.data(200).clone();
    let refused = [
        (json!({ "max_concurrent": 0 }), "max_concurrent: 0 is not from 1 to 1000"),
        (json!({ "maxConcurrent": 1_001 }), "max_concurrent: 1001 is not from 1 to 1000"),
        (json!({ "batch_size": 2_049, "max_concurrent": 2 }), "batch_size: 2049 is not from 1 to 2048"),
        (json!({ "max_concurrent": 2, "batch_size": "9" }), "batch_size: must be a whole number"),
        (json!({ "max_concurrent": 2, "max_retries": 9 }), "unknown key max_retries in the body"),
        (json!({ "max_concurrent": 2, "maxConcurrent": 3 }), "max_concurrent: is given twice"),
        (json!({}), "body: must have max_concurrent, batch_size or both"),
        (json!([2]), "body: must be a JSON object"),
    ];
    for (body, expected) in refused {
        let answer = app.put(CONFIG, None, &body).await;
        assert!(answer.refusal(400).starts_with(expected), "{body}: {}", answer.body);
        assert_eq!(answer.body["error"], "INVALID_FIELD");
    }
    let nothing = app.send(app.request(reqwest::Method::PUT, CONFIG)).await;
    assert!(nothing.refusal(400).starts_with("body: must have"), "{}", nothing.body);
    let after = app.get(CONFIG, None).await.data(200).clone();
    for field in ["max_concurrent", "batch_size"] {
        assert_eq!(after[field], before[field]);
    }
    assert_eq!(after["max_concurrent"], json!({ "value": 6, "source": "live" }));
    app.stop().await;
}

/// What the workers of a stack of processes say that they go by.
async fn told(base: &str) -> Vec<(i64, i64)> {
    let answer = reqwest::get(format!("{base}{CONFIG}")).await.expect("an answer");
    let body: Value = answer.json().await.expect("JSON");
    let number = |value: &Value| value.as_i64().expect("a number");
    let workers = body["data"]["workers"].as_array().expect("workers").iter();
    workers.map(|worker| (number(&worker["max_concurrent"]), number(&worker["batch_size"]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_process_goes_by_a_change_and_so_does_one_that_starts_later() {
    install_cryptography();
    let (data, vhost) = (TestData::postgres().await, Vhost::new().await);
    let provider = FakeProvider::start(8).await;
    let env = [
        ("MAPX__DATABASE__URL", data.url()),
        ("MAPX__BROKER__URL", vhost.url()),
        ("MAPX__QUEUE__BATCH_SIZE", "1".to_owned()),
        ("MAPX__QUEUE__MAX_CONCURRENT", "1".to_owned()),
        ("MAPX__EMBEDDER__PROVIDER", "openai".to_owned()),
        ("MAPX__EMBEDDER__BASE_URL", provider.base_url()),
        ("MAPX__EMBEDDER__MODEL", "fake-model".to_owned()),
        ("MAPX__EMBEDDER__DIMENSIONS", "8".to_owned()),
    ];
    let api = Process::start("serve", &env).await;
    let mut workers = vec![Process::start("worker", &env).await, Process::start("worker", &env).await];
    eventually("both have told of themselves", async || (told(api.base()).await == [(1, 1); 2]).then_some(()))
        .await;

    let http = reqwest::Client::new();
    provider.always(Behaviour::Hold);
    for n in 0..40 {
        let body = json!({ "user_id": uuid::Uuid::from_u128(1), "description": format!("text {n}") });
        let saved = http.post(format!("{}/api/recommendations/save", api.base())).json(&body).send().await;
        assert_eq!(saved.expect("an answer").status(), 201);
    }
    running(&provider, 2).await;

    let put = async |body: Value| {
        let answer = http.put(format!("{}{CONFIG}", api.base())).json(&body).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
    };
    let started = Instant::now();
    put(json!({ "max_concurrent": 3 })).await;
    running(&provider, 6).await;
    assert!(started.elapsed() < PROMISED + MARGIN, "in force after {:?}", started.elapsed());
    eventually("both say so", async || (told(api.base()).await == [(3, 1); 2]).then_some(())).await;

    workers.push(Process::start("worker", &env).await);
    running(&provider, 9).await;
    put(json!({ "max_concurrent": 1, "batch_size": 2 })).await;
    eventually("all three say so", async || (told(api.base()).await == [(1, 2); 3]).then_some(())).await;
    let before = provider.calls().len();
    provider.release();
    called(&provider, before + 3).await;
    running(&provider, 3).await;
    provider.count_afresh();
    for round in 1..=2 {
        let before = provider.calls().len();
        provider.release();
        called(&provider, before + 3).await;
        assert_eq!(provider.most_at_once(), 3, "in round {round}");
    }
    provider.behave();
    provider.release();
    let done = Instant::now();
    while stored::tasks(&data, "%").await > 0 {
        assert!(done.elapsed() < PATIENCE, "tasks are left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn who_changed_them_is_written_down_and_so_is_what_is_done_to_a_regeneration() {
    let (provider, app) = remote(|settings| settings.queue.batch_size = 1).await;
    let row = app.save_text("text").await;
    app.embedding_is(row, "ready").await;
    change(&app, json!({ "max_concurrent": 4, "batch_size": null })).await;
    provider.always(Behaviour::Hold);
    let jobs = "/api/recommendations/regenerate-embeddings";
    let job = app.post(jobs, &json!({ "scope": "all" })).await.data(202)["job_id"].clone();
    for verb in ["pause", "resume"] {
        app.post(&format!("{jobs}/{job}/{verb}"), &json!({})).await.data(200);
    }
    app.delete(&format!("{jobs}/{job}"), None).await.data(200);
    provider.behave();
    provider.release();
    let audit = app.get("/api/recommendations/embedding-queue/audit", None).await.data(200)["items"].clone();
    let lines = audit.as_array().expect("items").iter().rev();
    let told: Vec<(&str, &Value)> =
        lines.map(|line| (line["action"].as_str().expect("an action"), &line["filter"])).collect();
    let about = json!({ "job_id": job });
    assert_eq!(told[0], ("configure", &json!({ "max_concurrent": 4, "batch_size": null })));
    assert_eq!(told[1].0, "regenerate");
    for (line, action) in told[2..].iter().zip(["regenerate.pause", "regenerate.resume", "regenerate.cancel"]) {
        assert_eq!(*line, (action, &about));
    }
    assert_eq!(told.len(), 5);
    assert!(audit.as_array().expect("items").iter().all(|line| line["who"] == "anonymous"), "{audit}");
    // What is refused changes nothing.
    app.put("/api/recommendations/embedding-queue/config", None, &json!({ "batch_size": 0 })).await.refusal(400);
    let after = app.get("/api/recommendations/embedding-queue/audit", None).await.data(200)["items"].clone();
    assert_eq!(after, audit);
    app.stop().await;
}
