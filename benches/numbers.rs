//! The numbers of the README, printed by `scripts/bench`. Never a test: on a shared machine a time says
//! little, so what counts is printed as a ratio to something measured in the same run.

#[path = "../tests/it/support/provider.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod provider;

use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mapx_embeddings::embedder::batch::embed_documents;
use mapx_embeddings::embedder::local::LocalEmbedder;
use provider::{Behaviour, FakeProvider};
use serde_json::{Value, json};
use tempfile::TempDir;

const SAMPLE: &str = include_str!("../data/sample.ndjson");
const USER: &str = "3f0c1a52-7c1e-4b0a-9b57-0a6f1d2e4c01";
/// Dimensions of the made-up provider.
const DIMENSIONS: usize = 256;

/// The real binary over a folder of its own.
struct Service {
    child: Child,
    base: String,
    http: reqwest::Client,
    _data: TempDir,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    async fn start(env: &[(&str, String)]) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let child = Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"))
            .env("MAPX__SERVER__BIND", format!("127.0.0.1:{port}"))
            .env("MAPX__DATABASE__URL", format!("sqlite://{}", data.path().join("bench.db").display()))
            .env("MAPX__LOG__LEVEL", "error")
            .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
            .stderr(Stdio::null())
            .spawn()
            .expect("the service starts");
        let http = reqwest::Client::new();
        let service = Self { child, base: format!("http://127.0.0.1:{port}"), http, _data: data };
        until(|| async { service.http.get(format!("{}/health/live", service.base)).send().await.is_ok() }).await;
        service
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", self.base)).send().await.expect("an answer");
        answer.json::<Value>().await.expect("JSON")["data"].take()
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.http.post(format!("{}{path}", self.base)).json(body).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.status());
        answer.json::<Value>().await.expect("JSON")["data"].take()
    }

    async fn save(&self, text: &str) -> i64 {
        let body = json!({ "user_id": USER, "description": text, "visibility": "public" });
        let saved = self.post("/api/recommendations/save", &body).await;
        saved["recommendation_id"].as_i64().expect("an id")
    }

    async fn import(&self, lines: String) -> u64 {
        let url = format!("{}/api/recommendations/import", self.base);
        let answer = self.http.post(url).body(lines).send().await.expect("an answer");
        answer.json::<Value>().await.expect("JSON")["data"]["imported"].as_u64().expect("a count")
    }

    async fn drained(&self) {
        until(|| async {
            let queue = self.get("/api/recommendations/embedding-queue/status").await;
            queue["queueLength"] == 0 && queue["processing"] == 0 && queue["retrying"] == 0
        })
        .await;
    }

    /// The most memory it has had, in MiB.
    fn peak_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("a peak");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1024.0
    }
}

/// Asks until it is so; a bench that waits for what can't come must say so.
async fn until<F: Future<Output = bool>>(ask: impl Fn() -> F) {
    let started = Instant::now();
    while !ask().await {
        assert!(started.elapsed() < Duration::from_secs(300), "it did not happen within five minutes");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Sorted times with their percentiles in milliseconds.
struct Times(Vec<f64>);

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times.iter().map(|t| t.as_secs_f64() * 1e3).collect())
    }

    fn at(&self, share: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * share).round() as usize]
    }

    fn show(&self) -> String {
        format!("p50 {:.2} ms, p99 {:.2} ms (n = {})", self.at(0.5), self.at(0.99), self.0.len())
    }
}

/// `count` rows like the sample's: its own texts with a number, places shared by three rows.
fn sample_like(count: usize) -> String {
    let rows: Vec<Value> =
        SAMPLE.lines().map(|line| serde_json::from_str(line).expect("the sample is JSON")).collect();
    let mut lines = String::new();
    for n in 0..count {
        let mut row = rows[n % rows.len()].clone();
        row["title"] = format!("{} ({n})", row["title"].as_str().unwrap_or_default()).into();
        for name in ["google_place_id", "service_name"] {
            if let Some(known) = row[name].as_str() {
                row[name] = format!("{known} {}", n / 3).into();
            }
        }
        lines.push_str(&row.to_string());
        lines.push('\n');
    }
    lines
}

/// These lines of the corpus; beyond its end it starts over with other titles.
fn corpus(path: &Path, rows: Range<usize>) -> String {
    let text = std::fs::read_to_string(path).expect("scripts/bench writes the corpus");
    let lines: Vec<&str> = text.lines().collect();
    let mut chosen = String::new();
    for n in rows {
        let line = lines[n % lines.len()];
        match n / lines.len() {
            0 => chosen.push_str(line),
            round => chosen.push_str(&line.replacen("\"title\": \"", &format!("\"title\": \"Again {round}: "), 1)),
        }
        chosen.push('\n');
    }
    chosen
}

async fn import_speed() {
    println!("## Import: 10,000 sample-like rows, embedded and searchable, defaults\n");
    let lines = sample_like(10_000);
    let texts: Vec<String> = lines.lines().map(str::to_owned).collect();
    let local = LocalEmbedder::builtin().expect("the built-in model");
    let started = Instant::now();
    for batch in texts.chunks(5) {
        embed_documents(&local, batch).await;
    }
    let raw = 10_000.0 / started.elapsed().as_secs_f64();
    for run in 1..=3 {
        let service = Service::start(&[]).await;
        let started = Instant::now();
        assert_eq!(service.import(lines.clone()).await, 10_000);
        let imported = started.elapsed();
        service.drained().await;
        let rate = 10_000.0 / started.elapsed().as_secs_f64();
        println!(
            "run {run}: {rate:.0} rows/s end to end (saved after {:.2} s); the model alone, by 5: {raw:.0} \
             texts/s; ratio {:.2}",
            imported.as_secs_f64(),
            rate / raw
        );
    }
}

async fn save_latency() {
    println!("\n## Save: by what the provider does, interleaved\n");
    let mut services = Vec::new();
    let kinds = [
        ("answers at once", None),
        ("takes 500 ms", Some(Behaviour::Delay(Duration::from_millis(500)))),
        ("never answers", Some(Behaviour::Never)),
    ];
    for (name, behaviour) in kinds {
        let fake = FakeProvider::start(DIMENSIONS).await;
        if let Some(behaviour) = behaviour {
            fake.always(behaviour);
        }
        let service = Service::start(&[
            ("MAPX__EMBEDDER__PROVIDER", "openai".into()),
            ("MAPX__EMBEDDER__BASE_URL", fake.base_url()),
            ("MAPX__EMBEDDER__MODEL", "fake".into()),
            ("MAPX__EMBEDDER__DIMENSIONS", DIMENSIONS.to_string()),
        ])
        .await;
        services.push((name, fake, service, Vec::new()));
    }
    for n in 0..3_000 {
        let first = n % services.len();
        // In turn: what a save leaves to be done in the background slows the next service's save down.
        let (before, after) = services.split_at_mut(first);
        for (_, _, service, times) in after.iter_mut().chain(before) {
            let started = Instant::now();
            service.save(&format!("A place to sit, number {n}")).await;
            times.push(started.elapsed());
        }
    }
    let mut base = None;
    for (name, _, _, times) in services {
        let times = Times::of(times);
        let base = *base.get_or_insert((times.at(0.5), times.at(0.99)));
        let ratios = (times.at(0.5) / base.0, times.at(0.99) / base.1);
        println!("{name:<16} {}; ratio p50 {:.2}, p99 {:.2}", times.show(), ratios.0, ratios.1);
    }
}

async fn saturated() {
    let service = Service::start(&[]).await;
    let idle = save_times(&service, 500).await;
    let import = service.import(sample_like(30_000));
    let saves = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        save_times(&service, 500).await
    };
    let (_, busy) = tokio::join!(import, saves);
    println!("local model idle {}", idle.show());
    println!(
        "local model busy {} while 30,000 rows are imported; ratio p50 {:.1}",
        busy.show(),
        busy.at(0.5) / idle.at(0.5)
    );
}

async fn save_times(service: &Service, count: usize) -> Times {
    let mut times = Vec::new();
    for n in 0..count {
        let started = Instant::now();
        service.save(&format!("A quiet corner, number {n}")).await;
        times.push(started.elapsed());
    }
    Times::of(times)
}

async fn save_to_searchable() {
    println!("\n## From the start of a save to its vector being searchable, idle\n");
    let service = Service::start(&[]).await;
    let mut times = Vec::new();
    for n in 0..200 {
        let started = Instant::now();
        let id = service.save(&format!("A bench under chestnut trees, number {n}")).await;
        let path = format!("/api/recommendations/{id}/embedding");
        until(|| async { service.get(&path).await["status"] == "ready" }).await;
        times.push(started.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{}", Times::of(times).show());
}

async fn search_speed(corpus_file: &Path) {
    println!("\n## Search at 100,000 × 256, and the memory of importing them\n");
    let service = Service::start(&[]).await;
    let mut peaks = Vec::new();
    for rows in [0..50_000, 50_000..100_000] {
        service.import(corpus(corpus_file, rows)).await;
        service.drained().await;
        peaks.push(service.peak_mib());
    }
    let (at_half, at_full) = (peaks[0], peaks[1]);
    let vectors = 50_000.0 * 256.0 * 4.0 / 1_048_576.0;
    println!(
        "peak memory: {at_half:.0} MiB at 50,000 rows, {at_full:.0} MiB at 100,000; the difference is {:.2} of the vectors' own {vectors:.0} MiB",
        (at_full - at_half) / vectors
    );
    let queries: Vec<String> =
        corpus(corpus_file, 0..60_000).lines().skip(100).step_by(301).map(query_of).collect();
    for mode in ["semantic", "keyword", "hybrid"] {
        let mut times = Vec::new();
        for query in &queries {
            // Another wording for each mode: the cache of query vectors must not help.
            let body = json!({ "query": format!("{query} {mode}"), "mode": mode });
            let started = Instant::now();
            service.post("/api/recommendations/search", &body).await;
            times.push(started.elapsed());
        }
        println!("{mode:<10} {}", Times::of(times).show());
    }
}

/// Some words out of a row's description.
fn query_of(line: &str) -> String {
    let row: Value = serde_json::from_str(line).expect("the corpus is JSON");
    let words = row["description"].as_str().unwrap_or_default().split_whitespace();
    words.skip(3).take(4).collect::<Vec<_>>().join(" ")
}

#[tokio::main]
async fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let corpus_file =
        std::env::var("MAPX_BENCH_CORPUS").expect("MAPX_BENCH_CORPUS names the corpus; use scripts/bench");
    import_speed().await;
    save_latency().await;
    saturated().await;
    save_to_searchable().await;
    search_speed(Path::new(&corpus_file)).await;
}
