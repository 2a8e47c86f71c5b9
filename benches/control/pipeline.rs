//! How busy the pipeline keeps a provider that takes 100 ms for a batch of 64, eight at once: the embedded broker and
//! SQLite around it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mapx_embeddings::app::App;
use mapx_embeddings::config::secret::ServerUrl;
use mapx_embeddings::config::{Role, Settings};
use mapx_embeddings::domain::embedding::Embedding;
use mapx_embeddings::embedder::{Answer, EmbedError, Embedder, Limits, Purpose};
use tokio_util::sync::CancellationToken;

const BATCH: usize = 64;
const CALLS: usize = 8;
const LATENCY: Duration = Duration::from_millis(100);
const TEXTS: usize = 40_000;
const DIMENSIONS: usize = 256;
const PATIENCE: Duration = Duration::from_secs(300);

/// Counts the texts it has embedded, and when the first call began and the last ended.
#[derive(Default)]
struct Steady {
    texts: AtomicUsize,
    calls: AtomicUsize,
    span: Mutex<Option<(Instant, Instant)>>,
}

struct Provider(Arc<Steady>);

#[async_trait]
impl Embedder for Provider {
    fn model(&self) -> &str {
        "steady"
    }

    fn dimensions(&self) -> usize {
        DIMENSIONS
    }

    fn limits(&self) -> Limits {
        Limits { max_inputs: 2_048, max_input_tokens: 8_000, max_call_tokens: 300_000, worthwhile_inputs: 1 }
    }

    fn default_threshold(&self) -> f32 {
        0.5
    }

    async fn embed(&self, texts: &[String], _: Purpose) -> Result<Answer, EmbedError> {
        let began = Instant::now();
        tokio::time::sleep(LATENCY).await;
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        self.0.texts.fetch_add(texts.len(), Ordering::Relaxed);
        let mut span = self.0.span.lock().expect("no panic");
        let first = span.map_or(began, |(first, _)| first);
        *span = Some((first, Instant::now()));
        let vector = |text: &String| {
            let numbers = (0..DIMENSIONS).map(|n| (text.len() + n) as f32).collect();
            Ok(Embedding::new(numbers, DIMENSIONS).expect("a direction"))
        };
        Ok(Answer::of(texts.iter().map(vector)))
    }
}

#[tokio::main]
pub async fn busy() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    println!("## How busy a provider is kept: {TEXTS} texts, by {BATCH}, {CALLS} calls of {LATENCY:?} at once\n");
    let mut settings = Settings::load(None, []).expect("the defaults are valid");
    settings.server.bind = "127.0.0.1:0".parse().expect("an address");
    settings.queue.batch_size = BATCH;
    settings.queue.max_concurrent = CALLS;
    settings.queue.max_concurrent_limit = 0;
    let ideal = (BATCH * CALLS) as f64 / LATENCY.as_secs_f64();
    for run in 1..=3 {
        // A database of its own: not the earlier runs' rows are to be measured.
        let folder = tempfile::tempdir().expect("a temporary folder");
        settings.database.url = ServerUrl::new(format!("sqlite://{}", folder.path().join("bench.db").display()));
        let steady = Arc::new(Steady::default());
        saturate(settings.clone(), steady.clone()).await;
        let (first, last) = steady.span.lock().expect("no panic").expect("calls");
        let rate = steady.texts.load(Ordering::Relaxed) as f64 / (last - first).as_secs_f64();
        let calls = steady.calls.load(Ordering::Relaxed);
        println!("run {run}: {rate:.0} texts/s in {calls} calls; ideal {ideal:.0}; {:.1} %", 100.0 * rate / ideal);
    }
}

/// Imports while the queue is paused, so that it isn't the import that is measured.
async fn saturate(settings: Settings, steady: Arc<Steady>) {
    let app = App::build_with(settings, Role::All, Arc::new(Provider(steady.clone()))).await;
    let app = app.expect("the app builds");
    let user = "3f0c1a52-7c1e-4b0a-9b57-0a6f1d2e4c01";
    let lines: String = (0..TEXTS)
        .map(|n| format!("{{\"user_id\": \"{user}\", \"description\": \"text number {n}\"}}\n"))
        .collect();
    let url = format!("http://{}/api/recommendations", app.addr());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(app.run_until(shutdown.clone()));
    let http = reqwest::Client::new();
    let post = async |path: &str, body: String| {
        let answer = http.post(format!("{url}/{path}")).body(body).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
    };
    post("embedding-queue/pause", String::new()).await;
    // Known to the worker by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    post("import", lines).await;
    assert_eq!(steady.texts.load(Ordering::Relaxed), 0, "paused");
    // The relay has published its window.
    tokio::time::sleep(Duration::from_secs(2)).await;
    post("embedding-queue/resume", String::new()).await;
    let began = Instant::now();
    while steady.texts.load(Ordering::Relaxed) < TEXTS {
        assert!(began.elapsed() < PATIENCE, "not embedded within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    shutdown.cancel();
    running.await.expect("no panic").expect("no error");
}
