//! What a crowd of listeners costs those who save.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::EVENTS;
use crate::support::app::{TestApp, eventually, user};

const LISTENERS: usize = 2_000;
const EVERY: Duration = Duration::from_millis(10);
const SPAN: Duration = Duration::from_secs(3);
/// Without and with them in turn: what else runs on the machine then falls upon both.
const ROUNDS: usize = 3;

/// Saves at this pace.
async fn save(app: &TestApp, took: &mut Vec<Duration>) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let began = Instant::now();
    while began.elapsed() < SPAN {
        every.tick().await;
        let text = format!("a quiet place, number {}", took.len());
        let body = json!({ "user_id": user(1), "description": text, "visibility": "public" });
        let sent = Instant::now();
        app.post("/api/recommendations/save", &body).await.data(201);
        took.push(sent.elapsed());
    }
}

fn quantile(took: &mut [Duration], share: f64) -> f64 {
    took.sort_unstable();
    took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3
}

/// Listeners on a thread of their own, which end when this is dropped.
struct Crowd {
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
    bytes: Arc<AtomicUsize>,
}

impl Crowd {
    async fn gather(app: &TestApp) -> Self {
        let (stop, bytes, here) =
            (CancellationToken::new(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let address = app.base.trim_start_matches("http://").to_owned();
        let (stopped, counted, present) = (stop.clone(), bytes.clone(), here.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut crowd = JoinSet::new();
                for _ in 0..LISTENERS {
                    crowd.spawn(listen(address.clone(), counted.clone(), present.clone()));
                }
                stopped.cancelled().await;
            });
        });
        let crowd = Self { stop, thread: Some(thread), bytes };
        eventually("all of them listen", async || (here.load(Ordering::Relaxed) == LISTENERS).then_some(())).await;
        crowd
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

async fn listen(address: String, bytes: Arc<AtomicUsize>, here: Arc<AtomicUsize>) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let head = format!("GET {EVENTS} HTTP/1.1\r\nHost: test\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut buffer = vec![0; 16 * 1024];
    let mut first = true;
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        if std::mem::take(&mut first) {
            assert!(buffer.starts_with(b"HTTP/1.1 200"));
            here.fetch_add(1, Ordering::Relaxed);
        }
        bytes.fetch_add(n, Ordering::Relaxed);
    }
}

/// The proof of the number is a machine with nothing else on it (`-- --nocapture` prints it); what is asserted is that
/// the crowd isn't in the way, on any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_listeners_are_in_no_savers_way() {
    let app = TestApp::with(|settings| settings.server.max_event_listeners = LISTENERS).await;
    save(&app, &mut Vec::new()).await;
    let (mut without, mut with, mut read) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        save(&app, &mut without).await;
        let crowd = Crowd::gather(&app).await;
        save(&app, &mut with).await;
        read += crowd.bytes.load(Ordering::Relaxed) / LISTENERS;
    }
    let [(a50, a99), (b50, b99)] =
        [&mut without, &mut with].map(|took| (quantile(took, 0.5), quantile(took, 0.99)));
    println!("saves without listeners: p50 {a50:.2} ms, p99 {a99:.2} ms");
    println!("with {LISTENERS}: p50 {b50:.2} ms, p99 {b99:.2} ms ({:.2} of it); {read} bytes to each", b99 / a99);
    assert!(b99 < a99 * 3.0 + 20.0, "p99 {b99:.1} ms with and {a99:.1} ms without them");
    app.stop().await;
}
