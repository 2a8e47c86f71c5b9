//! The number of calls at once follows what the provider takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{EightAtOnce, controlled};
use crate::support::app::eventually;
use crate::support::hidden_limit::{Beyond, Callers, Phase, run};

const FIXED: [usize; 6] = [1, 2, 4, 8, 16, 32];
const MINUTE: Duration = Duration::from_secs(60);

fn phases() -> Vec<Phase> {
    [16, 4, 24, 8, 12].map(|limit| Phase { lasts: MINUTE, limit }).to_vec()
}

/// What the controller gets, as shares of the best fixed number over all and of the best of each phase.
async fn shares(beyond: Beyond) -> (f64, f64) {
    let phases = phases();
    let mut fixed = Vec::new();
    for calls in FIXED {
        fixed.push(run(beyond, &phases, Callers::Fixed(calls), 7).await);
    }
    let adaptive = run(beyond, &phases, Callers::Adaptive, 7).await;
    let overall = fixed.iter().map(|run| run.total()).max().expect("runs");
    let best = |phase: usize| fixed.iter().map(|run| run.answers[phase]).max().expect("runs");
    let by_phase: u64 = (0..phases.len()).map(best).sum();
    for (calls, run) in FIXED.iter().zip(&fixed) {
        println!("{beyond:?}: fixed {calls}: {:?} = {}, {} refused", run.answers, run.total(), run.refused);
    }
    println!("{beyond:?}: adaptive: {:?} = {}, {} refused", adaptive.answers, adaptive.total(), adaptive.refused);
    let total = adaptive.total() as f64;
    println!(
        "{beyond:?}: {:.3} of {overall}, {:.3} of {by_phase}",
        total / overall as f64,
        total / by_phase as f64
    );
    (total / overall as f64, total / by_phase as f64)
}

#[tokio::test(start_paused = true)]
async fn where_calls_queue_it_gets_nine_tenths_of_the_best_fixed_number() {
    let (overall, by_phase) = shares(Beyond::Queues).await;
    assert!(overall >= 0.9 && by_phase >= 0.9, "{overall:.3} {by_phase:.3}");
}

#[tokio::test(start_paused = true)]
async fn where_calls_are_refused_it_gets_nine_tenths_of_the_best_fixed_number() {
    let (overall, by_phase) = shares(Beyond::IsRefused).await;
    assert!(overall >= 0.9 && by_phase >= 0.9, "{overall:.3} {by_phase:.3}");
}

#[tokio::test]
async fn a_busy_worker_grows_says_why_and_stays_within_its_bounds() {
    let provider = Arc::new(EightAtOnce {
        slots: tokio::sync::Semaphore::new(8),
        most: AtomicUsize::new(0),
        now: AtomicUsize::new(0),
    });
    let app = controlled(provider.clone(), |settings| {
        settings.queue.max_concurrent = 2;
        settings.queue.max_concurrent_limit = 12;
        settings.queue.batch_size = 1;
    })
    .await;
    for n in 0..400 {
        app.save_text(&format!("text {n}")).await;
    }
    let grown = eventually("it grows", async || {
        let concurrency = app.queue().await["workers"][0]["concurrency"].clone();
        (concurrency["current"].as_u64() > Some(4)).then_some(concurrency)
    })
    .await;
    assert_eq!((&grown["min"], &grown["max"]), (&1.into(), &12.into()), "{grown}");
    assert_eq!(grown["reason"], "latency allows more", "{grown}");
    assert!(grown["changedAt"].is_string(), "{grown}");
    app.drained().await;
    let most = provider.most.load(Ordering::SeqCst);
    assert!((5..=12).contains(&most), "{most}");
    app.stop().await;
}
