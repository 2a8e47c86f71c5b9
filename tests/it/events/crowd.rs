//! What a crowd of listeners costs those who save.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::EVENTS;
use crate::support::app::{TestApp, eventually, user};

const LISTENERS: usize = 2_000;
const EVERY: Duration = Duration::from_millis(10);
const SPAN: Duration = Duration::from_secs(6);

/// Saves at this pace and returns what they took, sorted.
async fn save(app: &TestApp) -> Vec<Duration> {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (began, mut took) = (Instant::now(), Vec::new());
    while began.elapsed() < SPAN {
        every.tick().await;
        let text = format!("a quiet place, number {}", took.len());
        let body = json!({ "user_id": user(1), "description": text, "visibility": "public" });
        let sent = Instant::now();
        app.post("/api/recommendations/save", &body).await.data(201);
        took.push(sent.elapsed());
    }
    took.sort_unstable();
    took
}

fn quantile(took: &[Duration], share: f64) -> f64 {
    took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3
}

/// Reads and counts what it gets, as cheaply as can be: it shares the machine with the service.
async fn listen(address: String, bytes: Arc<AtomicUsize>) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let head = format!("GET {EVENTS} HTTP/1.1\r\nHost: test\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut buffer = vec![0; 2_048];
    let mut first = true;
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        if std::mem::take(&mut first) {
            assert!(buffer.starts_with(b"HTTP/1.1 200"));
            bytes.fetch_add(1, Ordering::Relaxed);
        }
        bytes.fetch_add(n << 16, Ordering::Relaxed);
    }
}

/// The proof of the numbers is a machine with nothing else on it (`-- --nocapture` prints them); what is asserted is
/// that the crowd isn't in the way, on any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_listeners_are_in_no_savers_way() {
    let app = TestApp::with(|settings| settings.server.max_event_listeners = LISTENERS).await;
    save(&app).await;
    let without = save(&app).await;
    let (mut crowd, counted) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for n in 0..LISTENERS {
        let address = app.base.trim_start_matches("http://").to_owned();
        crowd.spawn(listen(address, counted.clone()));
        if n % 100 == 99 {
            tokio::task::yield_now().await;
        }
    }
    eventually("all of them listen", async || {
        (counted.load(Ordering::Relaxed) & 0xffff >= LISTENERS).then_some(())
    })
    .await;
    let with = save(&app).await;
    let [(a50, a99), (b50, b99)] = [&without, &with].map(|took| (quantile(took, 0.5), quantile(took, 0.99)));
    let read = (counted.load(Ordering::Relaxed) >> 16) / LISTENERS;
    println!("saves without listeners: p50 {a50:.2} ms, p99 {a99:.2} ms");
    println!(
        "with {LISTENERS}: p50 {b50:.2} ms, p99 {b99:.2} ms ({:.2} of it); each was sent {read} bytes",
        b99 / a99
    );
    assert!(b99 < a99 * 3.0 + 20.0, "p99 {b99:.1} ms with and {a99:.1} ms without them");
    crowd.shutdown().await;
    app.stop().await;
}
