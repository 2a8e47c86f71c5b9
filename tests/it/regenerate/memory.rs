//! A job over ten times the rows takes no more memory.

use serde_json::{Value, json};

use super::{JOBS, fill, path_of};
use crate::support::app::install_cryptography;
use crate::support::data::TestData;
use crate::support::process::Process;
use crate::support::provider::FakeProvider;

/// Few, so that the vectors in memory, which SQLite needs for its searches, are little beside the rest.
const DIMENSIONS: usize = 8;
/// What rows may take besides: SQLite's index has a vector, an id and who may see it in memory.
const OF_INDEX: u64 = 160;
const MORE_MIB: u64 = 8;

/// The most memory of a process that has regenerated so many rows, in MiB.
async fn peak(rows: u64) -> u64 {
    let data = TestData::new().await;
    let provider = FakeProvider::start(DIMENSIONS).await;
    let settings = data.settings();
    let env = [
        ("MAPX__DATABASE__URL", data.url()),
        ("MAPX__BROKER__URL", settings.broker.url.expose().to_owned()),
        ("MAPX__EMBEDDER__PROVIDER", "openai".into()),
        ("MAPX__EMBEDDER__BASE_URL", provider.base_url()),
        ("MAPX__EMBEDDER__MODEL", "fake-model".into()),
        ("MAPX__EMBEDDER__DIMENSIONS", DIMENSIONS.to_string()),
        ("MAPX__QUEUE__BATCH_SIZE", "200".into()),
        ("MAPX__QUEUE__MAX_CONCURRENT_LIMIT", "0".into()),
        ("MAPX__REGENERATION__WINDOW", "2000".into()),
        // Not to wait for an index that is no part of this.
        ("MAPX__DATABASE__VECTOR_INDEX", "none".into()),
        ("MAPX__LOG__LEVEL", "warn,mapx_embeddings::app=info".into()),
    ];
    let process = Process::start("all", &env).await;
    fill(&data, rows, rows).await;
    let http = reqwest::Client::new();
    let begun = http.post(format!("{}{JOBS}", process.base())).json(&json!({ "scope": "all" })).send().await;
    let begun: Value = begun.expect("an answer").json().await.expect("JSON");
    let url = format!("{}{}", process.base(), path_of(begun["data"]["job_id"].as_i64().expect("an id")));
    let started = std::time::Instant::now();
    loop {
        let job: Value = http.get(&url).send().await.expect("an answer").json().await.expect("JSON");
        if job["data"]["state"] == "completed" {
            assert_eq!(job["data"]["done"], rows);
            break;
        }
        assert!(started.elapsed().as_secs() < 300, "{job}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let peak = process.peak_mib();
    println!("{rows} rows in {:.1} s: {peak} MiB at most", started.elapsed().as_secs_f64());
    process.kill().await;
    peak
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_the_rows_take_no_more_memory() {
    install_cryptography();
    // With fewer rows, SQLite's page caches, which are of a fixed size, would not be full.
    let (few, many) = match (crate::support::data::full_stack(), cfg!(debug_assertions)) {
        (true, true) => (10_000, 60_000),
        (false, true) => (30_000, 90_000),
        (true, false) => (10_000, 100_000),
        (false, false) => (50_000, 150_000),
    };
    let (small, large) = (peak(few).await, peak(many).await);
    let index = if crate::support::data::full_stack() { 0 } else { many * OF_INDEX / (1 << 20) };
    assert!(large <= small + index + MORE_MIB, "{small} MiB for {few} rows, {large} MiB for {many}");
}
