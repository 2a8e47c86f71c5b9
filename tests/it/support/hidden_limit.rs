//! A provider with a limit that nobody tells and that changes, simulated in paused time, and callers that try to get
//! the most out of it. Shared by the test and the bench that draws it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use mapx_embeddings::domain::gradient::{Gradient, Outcome, Sample};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, sleep_until};

/// What happens to a call beyond the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    Queues,
    /// A 429 that asks to wait a second.
    IsRefused,
}

/// How a refusal is made and what it asks.
const REFUSED_AFTER: Duration = Duration::from_millis(20);
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// What the callers may choose between.
pub const BOUNDS: (usize, usize) = (1, 32);
/// Where a controller begins, as `queue.max_concurrent` does.
const START: usize = 3;

/// So long the limit is so much.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    pub lasts: Duration,
    pub limit: usize,
}

#[derive(Clone, Copy, Debug)]
pub enum Callers {
    Fixed(usize),
    Adaptive,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Run {
    /// Answers by phase.
    pub answers: Vec<u64>,
    pub refused: u64,
    /// Twice a second: seconds and the callers' number.
    pub trace: Vec<(f64, usize)>,
}

impl Run {
    pub fn total(&self) -> u64 {
        self.answers.iter().sum()
    }
}

struct Provider {
    beyond: Beyond,
    slots: Semaphore,
    limit: Cell<usize>,
    serving: Cell<usize>,
}

impl Provider {
    fn set(self: &Rc<Self>, limit: usize) {
        let before = self.limit.replace(limit);
        if limit > before {
            self.slots.add_permits(limit - before);
        } else if limit < before {
            // Those who are served are served to their end.
            let provider = self.clone();
            tokio::task::spawn_local(async move {
                if let Ok(permits) = provider.slots.acquire_many((before - limit) as u32).await {
                    permits.forget();
                }
            });
        }
    }

    async fn call(&self, served_in: Duration) -> Outcome {
        if self.beyond == Beyond::IsRefused {
            if self.serving.get() >= self.limit.get() {
                sleep(REFUSED_AFTER).await;
                return Outcome::Refused;
            }
            self.serving.set(self.serving.get() + 1);
            sleep(served_in).await;
            self.serving.set(self.serving.get() - 1);
            return Outcome::Answered;
        }
        let _slot = self.slots.acquire().await;
        sleep(served_in).await;
        Outcome::Answered
    }
}

/// From 20 to 500 ms, most of them short: 180 ms in the mean.
fn latency(rng: &mut SmallRng) -> Duration {
    let share: f64 = rng.random();
    Duration::from_secs_f64(0.02 + 0.48 * share * share)
}

/// Lets callers with more than enough to do call through all phases. Needs paused time.
pub async fn run(beyond: Beyond, phases: &[Phase], callers: Callers, seed: u64) -> Run {
    let phases = phases.to_vec();
    LocalSet::new().run_until(through(beyond, phases, callers, seed)).await
}

async fn through(beyond: Beyond, phases: Vec<Phase>, callers: Callers, seed: u64) -> Run {
    let provider = Rc::new(Provider {
        beyond,
        slots: Semaphore::new(phases[0].limit),
        limit: Cell::new(phases[0].limit),
        serving: Cell::new(0),
    });
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut gradient = Gradient::new(START, BOUNDS.0, BOUNDS.1);
    let (mut calls, began, mut run) = (JoinSet::new(), Instant::now(), Run::default());
    let (mut open_at, mut ends) = (began, began);
    for phase in phases {
        provider.set(phase.limit);
        ends += phase.lasts;
        run.answers.push(0);
        while Instant::now() < ends {
            let limit = if let Callers::Fixed(calls) = callers { calls } else { gradient.limit() };
            let elapsed = began.elapsed();
            if run.trace.len() as u128 * 500 <= elapsed.as_millis() {
                run.trace.push((elapsed.as_secs_f64(), limit));
            }
            if calls.len() < limit && Instant::now() >= open_at {
                let (provider, served_in, in_flight) = (provider.clone(), latency(&mut rng), calls.len() + 1);
                calls.spawn_local(async move {
                    let begun = Instant::now();
                    let outcome = provider.call(served_in).await;
                    Sample { took: begun.elapsed(), in_flight, outcome }
                });
                continue;
            }
            tokio::select! {
                Some(ended) = calls.join_next() => {
                    let sample = ended.expect("no panic");
                    gradient.sample(began.elapsed(), sample);
                    match sample.outcome {
                        Outcome::Answered => *run.answers.last_mut().expect("a phase") += 1,
                        _ => {
                            run.refused += 1;
                            open_at = Instant::now() + RETRY_AFTER;
                        }
                    }
                }
                () = sleep_until(open_at.min(ends)), if Instant::now() < open_at => {}
                () = sleep_until(ends) => {}
            }
        }
    }
    run
}
