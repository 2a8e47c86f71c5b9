//! A provider's rate limits are kept, and used up.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mapx_embeddings::embedder::{EmbedError, Purpose};

use super::{Conduct, controlled};
use crate::support::app::eventually;

const REQUESTS: f64 = 3.0;
const TOKENS: f64 = 10_000.0;
/// Of one chunk, as it is counted and as it is estimated.
const COUNTED: usize = 1_700;
const ESTIMATED: usize = 1_750;
/// For saving, the relay's poll and the last write.
const SLACK: Duration = Duration::from_millis(800);

/// Enforces its limits itself.
struct Strict {
    window: Duration,
    buckets: Mutex<(f64, f64, Instant)>,
    refused: AtomicUsize,
}

impl Strict {
    fn new(window: Duration) -> Arc<Self> {
        Arc::new(Self {
            window,
            buckets: Mutex::new((REQUESTS, TOKENS, Instant::now())),
            refused: AtomicUsize::new(0),
        })
    }
}

#[async_trait]
impl Conduct for Strict {
    async fn call(&self, texts: &[String], _: Purpose) -> Result<Option<u64>, EmbedError> {
        let tokens = texts.len() * COUNTED;
        assert!(tokens as f64 <= TOKENS, "a call with more tokens than the whole limit");
        {
            let mut buckets = self.buckets.lock().unwrap();
            let windows = buckets.2.elapsed().as_secs_f64() / self.window.as_secs_f64();
            let requests = (buckets.0 + windows * REQUESTS).min(REQUESTS);
            let left = (buckets.1 + windows * TOKENS).min(TOKENS);
            if requests < 1.0 || left < tokens as f64 {
                self.refused.fetch_add(1, Ordering::SeqCst);
                return Err(EmbedError::Wait { after: self.window, reason: "429".into() });
            }
            *buckets = (requests - 1.0, left - tokens as f64, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(Some(tokens as u64))
    }

    fn tokens(&self, _: &str) -> usize {
        ESTIMATED
    }
}

/// Drains so many chunks through the limit, and says how long it may take at least and took.
async fn drain(chunks: usize, window: Duration) -> (Duration, Duration, usize) {
    let provider = Strict::new(window);
    let app = controlled(provider.clone(), |settings| {
        settings.queue.batch_size = 25;
        settings.queue.max_retries = 0;
        settings.embedder.requests_per_minute = REQUESTS as u64;
        settings.embedder.tokens_per_minute = TOKENS as u64;
        settings.embedder.rate_window_ms = window.as_millis() as u64;
    })
    .await;
    let began = Instant::now();
    for n in 0..chunks {
        app.save_text(&format!("chunk {n}")).await;
    }
    let queue = app.drained().await;
    let took = began.elapsed();
    assert_eq!(queue["deadLettered"], 0, "{queue}");
    // The status counts rows and tasks one after the other.
    eventually("all are counted", async || (app.queue().await["embedded"] == chunks).then_some(())).await;
    let limits = &queue["provider"]["limits"];
    assert_eq!(
        (&limits["requests"]["limit"], &limits["tokens"]["limit"]),
        (&3.0.into(), &10_000.0.into()),
        "{queue}"
    );
    app.stop().await;
    let windows = (chunks * COUNTED) as f64 / TOKENS - 1.0;
    (window.mul_f64(windows), took, provider.refused.load(Ordering::SeqCst))
}

#[tokio::test]
async fn three_requests_and_ten_thousand_tokens_a_window_are_used_up_and_not_exceeded() {
    let (least, took, refused) = drain(47, Duration::from_millis(1_200)).await;
    println!("{took:?} where the limit allows {least:?}; {refused} refused");
    assert_eq!(refused, 0);
    assert!(took >= least.mul_f64(0.95), "{took:?} {least:?}");
    assert!(took <= least.mul_f64(1.1) + SLACK, "{took:?} {least:?}");
}

#[tokio::test]
async fn what_must_wait_long_waits_in_the_ledger_and_comes_in_time() {
    let (least, took, refused) = drain(14, Duration::from_secs(6)).await;
    println!("{took:?} where the limit allows {least:?}; {refused} refused");
    assert_eq!(refused, 0);
    assert!(took <= least.mul_f64(1.1) + SLACK, "{took:?} {least:?}");
}
