//! Of the guard around a scripted embedder; outages and limits as a whole are tested from outside.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::config::Settings;
use crate::embedder::batch::embed_documents;
use crate::embedder::scripted::Scripted;
use crate::embedder::{Allowance, Quota as Said};

/// Answers each request for budget with the same wait.
#[derive(Default)]
struct Budget {
    wait: Mutex<Option<Duration>>,
    taken: Mutex<Vec<u64>>,
    given_back: Mutex<Vec<i64>>,
    blocked: AtomicBool,
}

#[async_trait]
impl SharedBudget for Budget {
    async fn take(&self, tokens: u64, _: Purpose) -> Option<Duration> {
        let wait = lock(&self.wait).take();
        if wait.is_none() {
            lock(&self.taken).push(tokens);
        }
        wait
    }

    async fn settle(&self, give_back: i64, _: Allowance) {
        lock(&self.given_back).push(give_back);
    }

    async fn block(&self, _: Duration) {
        self.blocked.store(true, Ordering::Relaxed);
    }
}

fn guarded(scripted: Scripted, tokens_per_minute: u64) -> (Arc<Scripted>, Arc<Budget>, Guarded) {
    let (scripted, budget) = (Arc::new(scripted), Arc::new(Budget::default()));
    let mut settings = Settings::load(None, []).unwrap();
    settings.embedder.tokens_per_minute = tokens_per_minute;
    let guarded = Guarded::new(scripted.clone(), budget.clone(), &settings);
    (scripted, budget, guarded)
}

fn texts(count: usize) -> Vec<String> {
    // Twenty bytes, and so twenty tokens, each.
    (0..count).map(|n| format!("a text of twenty, {n:02}")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_short_wait_is_made_here_and_a_long_one_is_the_callers() {
    let (scripted, budget, guarded) = guarded(Scripted::default(), 1_000);
    let begun = Instant::now();
    *lock(&budget.wait) = Some(Duration::from_millis(1_500));
    guarded.embed(&texts(1), Purpose::Document).await.unwrap();
    assert_eq!(begun.elapsed().as_millis(), 1_500);
    let long = Duration::from_secs(40);
    *lock(&budget.wait) = Some(long);
    let error = guarded.embed(&texts(1), Purpose::Document).await.unwrap_err();
    assert!(matches!(error, EmbedError::Wait { after, .. } if after == long), "{error}");
    assert_eq!((begun.elapsed().as_millis(), scripted.sizes().len()), (1_500, 1));
}

#[tokio::test]
async fn a_call_with_more_tokens_than_the_limit_is_made_in_pieces() {
    let (scripted, budget, guarded) = guarded(Scripted::default(), 100);
    let answers = embed_documents(&guarded, &texts(8)).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(scripted.sizes(), [5, 3]);
    assert_eq!(*lock(&budget.taken), [100, 60]);
    assert_eq!(guarded.limits().max_input_tokens, 100);
}

#[tokio::test]
async fn without_a_limit_nobody_asks_the_budget() {
    let (_, budget, guarded) = guarded(Scripted::default(), 0);
    guarded.embed(&texts(1), Purpose::Document).await.unwrap();
    tokio::task::yield_now().await;
    assert!(lock(&budget.taken).is_empty() && lock(&budget.given_back).is_empty());
    // Until an answer tells of one.
    let tokens = Said { limit: Some(50), left: Some(10), reset: None };
    let allowance = Allowance { tokens, ..Allowance::default() };
    let answer = Answer { tokens: Some(4), allowance, ..Answer::default() };
    guarded.core.quota.settle(20, &answer);
    tokio::task::yield_now().await;
    assert_eq!(*lock(&budget.given_back), [16]);
    guarded.embed(&texts(1), Purpose::Document).await.unwrap();
    assert_eq!(*lock(&budget.taken), [20]);
    assert_eq!(guarded.limits().max_input_tokens, 50);
}

#[tokio::test]
async fn a_wait_of_the_providers_is_told_to_all_processes() {
    let wait = EmbedError::Wait { after: Duration::from_secs(7), reason: "slow down".into() };
    let (_, budget, guarded) = guarded(Scripted { fail: Some((0, wait.clone())), ..Scripted::default() }, 0);
    assert_eq!(guarded.embed(&texts(1), Purpose::Document).await, Err(wait));
    tokio::task::yield_now().await;
    assert!(budget.blocked.load(Ordering::Relaxed));
    assert_eq!(guarded.refusal(), None, "a limit is no outage");
}

#[tokio::test]
async fn a_lone_failure_is_the_documents_own_after_a_probe_went_well() {
    let down = EmbedError::Transient("down".into());
    let (scripted, _, guarded) = guarded(Scripted { fail: Some((0, down.clone())), ..Scripted::default() }, 0);
    assert_eq!(guarded.embed(&texts(3), Purpose::Document).await, Err(down));
    assert_eq!(scripted.sizes(), [3, 1]);
    assert_eq!(guarded.refusal(), None);
}

#[tokio::test]
async fn documents_calls_are_told_with_their_outcome() {
    let (_, _, guarded) = guarded(Scripted { poison: "twenty", ..Scripted::default() }, 0);
    let samples = Arc::new(Mutex::new(Vec::new()));
    let told = samples.clone();
    guarded.observe(move |sample| lock(&told).push((sample.in_flight, sample.outcome)));
    let _ = guarded.embed(&texts(1), Purpose::Document).await;
    let _ = guarded.embed(&["fine".to_owned()], Purpose::Document).await;
    let _ = guarded.embed(&["a query".to_owned()], Purpose::Query).await;
    assert_eq!(*lock(&samples), [(1, Outcome::Answered), (1, Outcome::Answered)]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_does_not_leave_the_breaker_open_for_ever() {
    let key = EmbedError::Misconfigured("wrong key".into());
    let (_, _, guarded) = guarded(Scripted { fail: Some((0, key)), panics: Some(1), ..Scripted::default() }, 0);
    assert!(guarded.embed(&texts(1), Purpose::Document).await.is_err());
    assert!(guarded.refusal().is_some());
    tokio::time::timeout(Duration::from_secs(300), guarded.available()).await.expect("it closes");
    guarded.embed(&texts(1), Purpose::Document).await.expect("an answer");
}
