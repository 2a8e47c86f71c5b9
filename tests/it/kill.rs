//! The real program, killed again and again while saves and edits come in: nothing acknowledged is lost.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mapx_embeddings::embedder::Embedder;
use mapx_embeddings::embedder::local::LocalEmbedder;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::support::app::{PATIENCE, eventually, install_cryptography, user};
use crate::support::data::TestData;
use crate::support::stored::{self, Stored};

const OPERATIONS: usize = 2_000;
const CLIENTS: usize = 8;
const KILLS: usize = 8;
/// A client's time for one request; it is never needed, as a killed server resets its connections.
const TIMEOUT: Duration = Duration::from_secs(20);

const WORDS: [&str; 12] = [
    "quiet", "harbour", "violin", "bakery", "river", "mountain", "garden", "library", "market", "bicycle",
    "museum", "coffee",
];

/// A row as its client knows it.
struct Row {
    /// `None` while no answer to its save has come.
    id: Option<i64>,
    /// The last acknowledged text first, then those whose fate is unknown.
    texts: Vec<String>,
}

/// The program and where it listens.
struct Server {
    child: Child,
    base: String,
}

impl Server {
    async fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"))
            .arg("all")
            .env("MAPX__DATABASE__URL", format!("sqlite://{}", folder.join("test.db").display()))
            .env("MAPX__SERVER__BIND", "127.0.0.1:0")
            .env("MAPX__LOG__FORMAT", "json")
            // Slow, so that there are tasks in every state whenever the kill comes.
            .env("MAPX__QUEUE__MAX_CONCURRENT", "2")
            .env("MAPX__QUEUE__BATCH_SIZE", "2")
            .env("MAPX__BROKER__WINDOW", "50")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let serving = async {
            while let Some(line) = lines.next_line().await.expect("text") {
                let entry: Value = serde_json::from_str(&line).unwrap_or_default();
                if entry["message"] == "serving" {
                    return entry["addr"].as_str().map(|addr| format!("http://{addr}"));
                }
            }
            None
        };
        let base =
            tokio::time::timeout(PATIENCE, serving).await.expect("serves in time").expect("says its address");
        // Read on, or the program would block on a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, base }
    }

    /// SIGKILL: nothing is finished, nothing is flushed.
    async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }
}

/// One client: saves rows and edits its own, and never trusts what was not acknowledged.
async fn client(
    number: usize,
    seed: u64,
    started: Arc<AtomicUsize>,
    mut server: watch::Receiver<Option<String>>,
) -> Vec<Row> {
    let mut random = StdRng::seed_from_u64(seed + number as u64);
    let http = reqwest::Client::builder().timeout(TIMEOUT).build().expect("a client");
    let mut rows: Vec<Row> = Vec::new();
    while started.fetch_add(1, Ordering::SeqCst) < OPERATIONS {
        let base = server.wait_for(Option::is_some).await.expect("the test lives").clone().expect("is some");
        let words: Vec<&str> = (0..4).map(|_| WORDS[random.random_range(0..WORDS.len())]).collect();
        let text = format!("{} {number} {}", words.join(" "), random.random::<u32>());
        let body = json!({ "user_id": user(number as u128), "description": text });
        let known = rows.iter().filter(|row| row.id.is_some()).count();
        if known == 0 || random.random_bool(0.5) {
            let request = http.post(format!("{base}/api/recommendations/save")).json(&body);
            let answer = acknowledged(request, 201).await;
            rows.push(Row { id: answer.and_then(|data| data["recommendation_id"].as_i64()), texts: vec![text] });
        } else {
            let at = random.random_range(0..known);
            let row = rows.iter_mut().filter(|row| row.id.is_some()).nth(at).expect("counted");
            let id = row.id.expect("filtered");
            let request = http.put(format!("{base}/api/recommendations/{id}")).json(&body);
            if acknowledged(request, 200).await.is_some() {
                row.texts.clear();
            }
            row.texts.push(text);
        }
    }
    rows
}

/// The data of a success; `None` when there is no whole answer, as the server was killed meanwhile.
async fn acknowledged(request: reqwest::RequestBuilder, expected: u16) -> Option<Value> {
    let response = request.send().await.ok()?;
    assert_eq!(response.status().as_u16(), expected, "{:?}", response.text().await);
    let body: Value = response.json().await.ok()?;
    Some(body["data"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_acknowledged_survives_being_killed() {
    install_cryptography();
    let seed: u64 = rand::random::<u32>().into();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let data = TestData::sqlite();
    let started = Arc::new(AtomicUsize::new(0));
    let (address, addresses) = watch::channel(None);
    let clients: Vec<_> =
        (0..CLIENTS).map(|n| tokio::spawn(client(n, seed, started.clone(), addresses.clone()))).collect();
    let mut server = Server::start(data.path()).await;
    for kill in 0..KILLS {
        address.send_replace(Some(server.base.clone()));
        let share = OPERATIONS / KILLS;
        let at = kill * share + random.random_range(share / 4..share);
        let reached = async || (started.load(Ordering::SeqCst) >= at).then_some(());
        eventually(&format!("{at} operations"), reached).await;
        tokio::time::sleep(Duration::from_micros(random.random_range(0..20_000))).await;
        // Nobody calls the dead one a second time.
        address.send_replace(None);
        server.kill().await;
        server = Server::start(data.path()).await;
    }
    address.send_replace(Some(server.base.clone()));
    let mut rows = Vec::new();
    for client in clients {
        rows.extend(client.await.expect("no panic"));
    }
    drained(&server.base).await;
    server.kill().await;
    let lost = rows.iter().filter(|row| row.id.is_none() || row.texts.len() > 1).count();
    println!("{} rows, {lost} with an answer that never came", rows.len());
    verify(&data, rows).await;
}

async fn drained(base: &str) {
    eventually("every task is done", async || {
        let answer = reqwest::get(format!("{base}/api/recommendations/embedding-queue/status")).await.ok()?;
        let queue = answer.json::<Value>().await.ok()?["data"].clone();
        assert_eq!(queue["deadLettered"], 0, "{queue}");
        (queue["isProcessing"] == false && queue["retrying"] == 0).then_some(())
    })
    .await;
}

/// Every row is one that a client knows, in the state that it was told or asked for last, with its vector.
async fn verify(data: &TestData, rows: Vec<Row>) {
    assert_eq!(stored::tasks(data, "%").await, 0, "open tasks");
    let stored = stored::rows(data).await;
    let texts: Vec<String> =
        stored.iter().map(|row| format!("Type: unclear. Description: {}", row.description)).collect();
    let model = LocalEmbedder::builtin().expect("the model");
    let limit = model.limits().max_inputs;
    for (rows, texts) in stored.chunks(limit).zip(texts.chunks(limit)) {
        let embeddings = model.embed(texts).await.expect("vectors");
        for (row, embedding) in rows.iter().zip(embeddings) {
            assert_eq!(row.embedded_version, Some(row.content_version), "{row:?}");
            assert!(row.holds(&embedding.expect("a vector")), "another text's vector: {}", row.description);
        }
    }
    let mut found: HashMap<i64, Stored> = stored.into_iter().map(|row| (row.id, row)).collect();
    for row in rows.iter().filter(|row| row.id.is_some()) {
        let stored = row.id.and_then(|id| found.remove(&id)).expect("an acknowledged save is there");
        assert!(row.texts.contains(&stored.description), "{:?} became {:?}", row.texts, stored.description);
    }
    // What is left are saves that were committed, and whose answers never came: at most one row each.
    let mut unknown: Vec<&String> = rows.iter().filter(|row| row.id.is_none()).flat_map(|row| &row.texts).collect();
    for row in found.into_values() {
        let at = unknown.iter().position(|text| **text == row.description);
        unknown.remove(at.unwrap_or_else(|| panic!("nobody saved {row:?}, or it was saved twice")));
    }
}
