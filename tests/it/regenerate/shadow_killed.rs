//! The real program, killed in each phase of a regeneration with a shadow: whoever comes next finishes it.

use std::sync::Arc;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::shadow::{Block, PHASES, ROWS, assert_index_serves, number, schema};
use super::{JOBS, assert_whole, fill, path_of, times};
use crate::promises::{DIMENSIONS, called};
use crate::support::app::{eventually, found_ids, install_cryptography};
use crate::support::data::TestData;
use crate::support::process::Process;
use crate::support::provider::{Behaviour, FakeProvider};
use crate::support::stored;

async fn start(data: &TestData, provider: &FakeProvider) -> Process {
    let env = [
        ("MAPX__DATABASE__URL", data.url()),
        ("MAPX__EMBEDDER__PROVIDER", "openai".into()),
        ("MAPX__EMBEDDER__BASE_URL", provider.base_url()),
        ("MAPX__EMBEDDER__MODEL", "fake-model".into()),
        ("MAPX__EMBEDDER__DIMENSIONS", DIMENSIONS.to_string()),
        ("MAPX__QUEUE__MAX_CONCURRENT", "2".into()),
        ("MAPX__QUEUE__MAX_CONCURRENT_LIMIT", "0".into()),
        ("MAPX__QUEUE__BATCH_SIZE", "8".into()),
        ("MAPX__REGENERATION__SHADOW_ROWS", "100".into()),
    ];
    Process::start("all", &env).await
}

async fn ask(process: &Process, method: Method, path: &str, body: &Value) -> Value {
    let url = format!("{}{path}", process.base());
    let response = Client::new().request(method, &url).json(body).send().await.expect("an answer");
    let status = response.status();
    let answer: Value = response.json().await.expect("JSON");
    assert!(status.is_success(), "{url}: {answer}");
    answer["data"].clone()
}

async fn until(process: &Process, job: i64, field: &str, value: &str) -> Value {
    eventually(&format!("its {field} is {value}"), async || {
        let job = ask(process, Method::GET, &path_of(job), &json!({})).await;
        (job[field] == value).then_some(job)
    })
    .await
}

async fn begin(process: &Process, scope: &str) -> i64 {
    let begun = ask(process, Method::POST, JOBS, &json!({ "scope": scope })).await;
    begun["job_id"].as_i64().expect("an id")
}

async fn finds_something(process: &Process) -> bool {
    let query = json!({ "query": "A place, number 7", "mode": "semantic", "threshold": -1 });
    !found_ids(&ask(process, Method::POST, "/api/recommendations/search", &query).await).is_empty()
}

async fn survives(phase: &str, lock: Option<&str>) {
    let data: Arc<TestData> = TestData::postgres().await;
    let provider = FakeProvider::start(DIMENSIONS).await;
    let process = start(&data, &provider).await;
    // Its start is over once it answers: what comes now is found by nobody.
    ask(&process, Method::GET, JOBS, &json!({})).await;
    fill(&data, ROWS, ROWS).await;
    let first = begin(&process, "missing").await;
    until(&process, first, "state", "completed").await;
    assert!(finds_something(&process).await);
    let before = schema(&data).await;
    let sent = provider.inputs().len();
    provider.always(Behaviour::Hold);
    let mut block = None;
    if phase == "preparing" {
        block = Some(Block::new(&data, lock.expect("a lock")).await);
    }
    let job = begin(&process, "all").await;
    if phase != "preparing" {
        until(&process, job, "phase", "filling").await;
        called(&provider, 1 + ROWS as usize / 8).await;
        if let Some(mode) = lock {
            block = Some(Block::new(&data, mode).await);
        }
    }
    if phase != "filling" {
        provider.behave();
        provider.release();
    }
    until(&process, job, "phase", phase).await;
    if phase == "indexing" {
        let half = "SELECT count(*) FROM pg_index WHERE indrelid = 'recommendations'::regclass AND NOT indisvalid";
        eventually("half an index is there", async || (number(&data, half).await == 1).then_some(())).await;
    }
    process.kill().await;
    // The server notices, rather than finish what nobody waits for any more.
    let building = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND query LIKE 'CREATE INDEX CONCURRENTLY%'";
    eventually("nobody builds", async || (number(&data, building).await == 0).then_some(())).await;
    let process = start(&data, &provider).await;
    let found = ask(&process, Method::GET, &path_of(job), &json!({})).await;
    assert_eq!((&found["state"], &found["phase"]), (&json!("running"), &json!(phase)));
    provider.behave();
    provider.release();
    assert!(finds_something(&process).await, "{phase}");
    if let Some(block) = block {
        block.release().await;
    }
    let done = until(&process, job, "state", "completed").await;
    assert_whole(&done);
    assert_eq!((&done["total"], &done["done"], &done["phase"]), (&json!(ROWS), &json!(ROWS), &json!(null)));
    assert_eq!(schema(&data).await, before, "{phase}");
    assert_index_serves(&data).await;
    let times = times(&provider, sent);
    let most = times.iter().filter(|(text, _)| text.contains("Type:")).map(|(_, times)| *times).max();
    assert!(most <= Some(2), "a text was asked for a third time: {times:?}");
    assert_eq!(number(&data, "SELECT count(*) FROM embedding_tasks").await, 0);
    process.kill().await;
    for row in stored::rows(&data).await {
        assert!(row.holds(&crate::promises::embedding_of(&row.description)), "{}", row.description);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_killed_in_any_phase_is_finished() {
    install_cryptography();
    for (phase, lock) in PHASES {
        survives(phase, lock).await;
    }
}
