//! The real program: a regeneration that is cancelled, resumed, paused, killed again and again, and finished.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use sea_orm::{ConnectionTrait, Statement};
use serde_json::{Value, json};

use super::{JOBS, assert_whole, fill, path_of, times};
use crate::promises::{DIMENSIONS, called};
use crate::support::app::{eventually, install_cryptography, user};
use crate::support::data::TestData;
use crate::support::process::Process;
use crate::support::provider::{Behaviour, FakeProvider};
use crate::support::stored;

const ROWS: u64 = 20_000;
const TEXTS: u64 = 15_000;
const WINDOW: i64 = 1_000;
const CALLS: usize = 3;
const BATCH: usize = 64;
/// For the whole of it, in a debug build beside other work.
const LIMIT: Duration = Duration::from_secs(240);

/// The processes of the stack: one, or an API and a worker.
struct Running {
    processes: Vec<Process>,
}

impl Running {
    async fn start(data: &TestData, provider: &FakeProvider) -> Self {
        let roles: &[&str] = if data.is_postgres() { &["serve", "worker"] } else { &["all"] };
        Self::roles(data, provider, roles).await
    }

    async fn roles(data: &TestData, provider: &FakeProvider, roles: &[&str]) -> Self {
        let settings = data.settings();
        let env = [
            ("MAPX__DATABASE__URL", data.url()),
            ("MAPX__BROKER__URL", settings.broker.url.expose().to_owned()),
            ("MAPX__EMBEDDER__PROVIDER", "openai".into()),
            ("MAPX__EMBEDDER__BASE_URL", provider.base_url()),
            ("MAPX__EMBEDDER__MODEL", "fake-model".into()),
            ("MAPX__EMBEDDER__DIMENSIONS", DIMENSIONS.to_string()),
            ("MAPX__QUEUE__MAX_CONCURRENT", CALLS.to_string()),
            ("MAPX__QUEUE__MAX_CONCURRENT_LIMIT", "0".into()),
            ("MAPX__QUEUE__BATCH_SIZE", BATCH.to_string()),
            ("MAPX__QUEUE__RECONCILE_INTERVAL_MS", "1000".into()),
            ("MAPX__REGENERATION__WINDOW", WINDOW.to_string()),
            // Not to wait for an index that is no part of this.
            ("MAPX__DATABASE__VECTOR_INDEX", "none".into()),
        ];
        let mut processes = Vec::new();
        for role in roles {
            processes.push(Process::start(role, &env).await);
        }
        Self { processes }
    }

    fn base(&self) -> &str {
        self.processes[0].base()
    }

    async fn kill(self) {
        for process in self.processes {
            process.kill().await;
        }
    }
}

async fn ask(method: Method, url: String, body: &Value) -> Value {
    let response = Client::new().request(method, &url).json(body).send().await.expect("an answer");
    let status = response.status();
    let answer: Value = response.json().await.expect("JSON");
    assert!(status.is_success(), "{url}: {answer}");
    answer["data"].clone()
}

fn settled(job: &Value) -> u64 {
    ["done", "failed", "skipped"].iter().filter_map(|field| job[*field].as_u64()).sum()
}

/// Waits until so many rows are settled.
async fn reaches(base: &str, job: i64, rows: u64) -> Value {
    let started = Instant::now();
    loop {
        let job = ask(Method::GET, format!("{base}{}", path_of(job)), &json!({})).await;
        let settled = settled(&job);
        if settled >= rows && (job["total"] != rows || job["state"] == "completed") {
            return job;
        }
        assert!(started.elapsed() < LIMIT, "{job}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A save is found ready this long after it was begun.
async fn fresh_save(base: &str) -> Duration {
    let started = Instant::now();
    let text = format!("fresh {started:?}");
    let body = json!({ "user_id": user(1), "description": text, "visibility": "public" });
    let saved = ask(Method::POST, format!("{base}/api/recommendations/save"), &body).await;
    let path = format!("{base}/api/recommendations/{}/embedding?user_id={}", saved["recommendation_id"], user(1));
    eventually("the fresh save is ready", async || {
        let state = ask(Method::GET, path.clone(), &json!({})).await;
        (state["status"] == "ready").then_some(())
    })
    .await;
    started.elapsed()
}

/// The most tasks that are in the ledger at once until `stop`.
async fn most_tasks(data: Arc<TestData>, stop: Arc<AtomicBool>) -> i64 {
    let conn = data.connect().await;
    let count = "SELECT count(*) FROM embedding_tasks t JOIN regeneration_items i \
                 ON i.recommendation_id = t.recommendation_id";
    let mut most = 0;
    while !stop.load(Ordering::SeqCst) {
        let count = Statement::from_string(conn.get_database_backend(), count);
        if let Ok(Some(row)) = conn.query_one_raw(count).await {
            most = most.max(row.try_get_by_index::<i64>(0).expect("a number"));
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    conn.close().await.expect("closes");
    most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_regeneration_that_is_cancelled_resumed_killed_and_finished_pays_once_a_text() {
    install_cryptography();
    let data = TestData::new().await;
    let provider = FakeProvider::start(DIMENSIONS).await;
    // Long enough that a kill finds calls under way, most of the time.
    provider.always(Behaviour::Delay(Duration::from_millis(15)));
    let mut running = Running::start(&data, &provider).await;
    fill(&data, ROWS, TEXTS).await;
    let stop = Arc::new(AtomicBool::new(false));
    let most = tokio::spawn(most_tasks(data.clone(), stop.clone()));
    let begun = ask(Method::POST, format!("{}{JOBS}", running.base()), &json!({ "scope": "all" })).await;
    assert_eq!(begun["total"], ROWS);
    let job = begun["job_id"].as_i64().expect("an id");
    let path = path_of(job);

    reaches(running.base(), job, 1_500).await;
    ask(Method::DELETE, format!("{}{path}", running.base()), &json!({})).await;
    ask(Method::POST, format!("{}{path}/resume", running.base()), &json!({})).await;
    reaches(running.base(), job, 3_000).await;
    let mut saves = vec![fresh_save(running.base()).await];
    ask(Method::POST, format!("{}{path}/pause", running.base()), &json!({})).await;
    running.kill().await;
    running = Running::start(&data, &provider).await;
    // Paused it stays, whoever restarts.
    let paused = ask(Method::GET, format!("{}{path}", running.base()), &json!({})).await;
    assert_eq!(paused["state"], "paused");
    ask(Method::POST, format!("{}{path}/resume", running.base()), &json!({})).await;
    for rows in [6_000, 10_000, 14_000] {
        reaches(running.base(), job, rows).await;
        saves.push(fresh_save(running.base()).await);
        running.kill().await;
        running = Running::start(&data, &provider).await;
    }
    let done = reaches(running.base(), job, ROWS).await;
    stop.store(true, Ordering::SeqCst);
    assert_whole(&done);
    // Rows without a vector whose job was cancelled keep their tasks, and are done all the same.
    assert_eq!((&done["total"], &done["done"], &done["failed"]), (&json!(ROWS), &json!(ROWS), &json!(0)));

    let mut times = times(&provider, 0);
    times.retain(|text, _| !text.contains("fresh"));
    let again: usize = times.values().map(|times| times - 1).sum();
    println!("{} texts, {again} asked for again after 4 kills; fresh saves ready after {saves:?}", times.len());
    assert_eq!(times.len() as u64, TEXTS);
    // A call that was under way at a kill had its answer nowhere but in the process that died.
    assert!(again <= 4 * CALLS * BATCH, "{again}");
    assert!(times.values().all(|times| *times <= 2), "a text was asked for a third time");
    assert!(saves.iter().max() < Some(&Duration::from_secs(3)), "{saves:?}");
    let most = most.await.expect("no panic");
    println!("at most {most} of its tasks in the ledger at once");
    assert!((1..=WINDOW).contains(&most), "{most}");
    running.kill().await;
    let rows = stored::rows(&data).await;
    for row in rows.iter().filter(|row| row.description.starts_with("A place")) {
        assert_eq!(row.embedded_version, Some(row.content_version));
        assert!(row.holds(&crate::promises::embedding_of(&row.description)), "{}", row.description);
    }
}

#[derive(Debug, PartialEq)]
struct Lease {
    holder: String,
    /// Whether it holds still.
    good: bool,
}

async fn lease(data: &TestData) -> Lease {
    let conn = data.connect().await;
    let select = "SELECT holder, held_until > now() AS good FROM regenerations WHERE open = 1";
    let select = Statement::from_string(conn.get_database_backend(), select);
    let row = conn.query_one_raw(select).await.expect("an answer").expect("it is open");
    conn.close().await.expect("closes");
    Lease { holder: row.try_get("", "holder").expect("a holder"), good: row.try_get("", "good").expect("a word") }
}

/// Of two processes that could feed it one does. When that one is killed, the other goes on within seconds; whichever
/// it is, one of two kills meets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feeder_that_is_killed_is_replaced_within_seconds() {
    const ROWS: u64 = 6_000;
    install_cryptography();
    let data = TestData::full().await;
    let provider = FakeProvider::start(DIMENSIONS).await;
    provider.always(Behaviour::Hold);
    let mut running = Running::roles(&data, &provider, &["serve", "worker", "serve"]).await;
    let second = running.processes.pop().expect("three");
    fill(&data, ROWS, ROWS).await;
    let begun = ask(Method::POST, format!("{}{JOBS}", second.base()), &json!({ "scope": "all" })).await;
    let job = begun["job_id"].as_i64().expect("an id");
    called(&provider, CALLS).await;
    let before = lease(&data).await;
    assert!(before.good);
    for dying in [running.processes.remove(0), second] {
        let other = Running::roles(&data, &provider, &["serve"]).await.processes.remove(0);
        running.processes.insert(0, other);
        let killed = Instant::now();
        dying.kill().await;
        // Past what it held, if it held it.
        tokio::time::sleep(Duration::from_millis(4_100)).await;
        eventually("somebody feeds it", async || lease(&data).await.good.then_some(())).await;
        println!("somebody feeds it {:?} after the kill", killed.elapsed());
        assert!(killed.elapsed() < Duration::from_secs(8), "{:?}", killed.elapsed());
    }
    assert_ne!(lease(&data).await.holder, before.holder);
    provider.behave();
    provider.release();
    assert_whole(&reaches(running.base(), job, ROWS).await);
    running.kill().await;
}
