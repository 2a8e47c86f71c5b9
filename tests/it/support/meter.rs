//! What limits the fake provider: requests and tokens a window, calls at once, and how long an answer takes.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Response;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::response;

/// How long an answer takes; the same sequence for the same seed.
#[derive(Clone, Copy, Debug)]
pub enum Latency {
    Uniform(Duration, Duration),
    /// By its median and the standard deviation of its logarithm.
    LogNormal(Duration, f64),
}

/// What is granted in a window, which begins with the first request after the last one ended.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub window: Duration,
    pub requests: u64,
    /// A text has as many as it has bytes.
    pub tokens: u64,
}

/// What becomes of a call beyond the limit of calls at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Beyond {
    Queue,
    Refuse,
}

/// Everything may change at run time.
#[derive(Clone, Default)]
pub struct Meter(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    rate: Option<(Rate, Instant, u64, u64)>,
    places: Option<(Arc<Semaphore>, Beyond)>,
    latency: Option<(Latency, SmallRng)>,
    down: bool,
}

type Headers = Vec<(&'static str, String)>;

impl Meter {
    /// Limits requests and tokens from now on.
    pub fn limit_rate(&self, rate: Rate) {
        self.0.lock().unwrap().rate = Some((rate, Instant::now(), rate.requests, rate.tokens));
    }

    /// Limits calls at once from now on; those under way go on.
    pub fn limit_calls(&self, calls: usize, beyond: Beyond) {
        self.0.lock().unwrap().places = Some((Arc::new(Semaphore::new(calls)), beyond));
    }

    pub fn take(&self, latency: Latency, seed: u64) {
        self.0.lock().unwrap().latency = Some((latency, SmallRng::seed_from_u64(seed)));
    }

    /// While it is down, every call is a 503.
    pub fn down(&self, down: bool) {
        self.0.lock().unwrap().down = down;
    }

    /// The headers for the answer, or the refusal.
    pub(super) fn admit(&self, inputs: &[String]) -> Result<Headers, Box<Response<Body>>> {
        let mut state = self.0.lock().unwrap();
        if state.down {
            return Err(Box::new(response(503, &[], Body::from("no healthy upstream"))));
        }
        let Some((rate, begun, requests, tokens)) = &mut state.rate else { return Ok(Headers::new()) };
        if begun.elapsed() >= rate.window {
            (*begun, *requests, *tokens) = (Instant::now(), rate.requests, rate.tokens);
        }
        let asked = inputs.iter().map(|input| input.len() as u64).sum::<u64>();
        let reset = rate.window.saturating_sub(begun.elapsed());
        let told = |requests: u64, tokens: u64| {
            let reset = format!("{}ms", reset.as_millis() + 1);
            vec![
                ("x-ratelimit-limit-requests", rate.requests.to_string()),
                ("x-ratelimit-limit-tokens", rate.tokens.to_string()),
                ("x-ratelimit-remaining-requests", requests.to_string()),
                ("x-ratelimit-remaining-tokens", tokens.to_string()),
                ("x-ratelimit-reset-requests", reset.clone()),
                ("x-ratelimit-reset-tokens", reset),
            ]
        };
        if asked > rate.tokens {
            let message = format!(
                "Request too large for fake-model on tokens per min (TPM): Limit {}, Requested {asked}.",
                rate.tokens
            );
            return Err(refusal(&message, &told(*requests, *tokens)));
        }
        if *requests == 0 || asked > *tokens {
            let used = rate.tokens - *tokens;
            let message = format!(
                "Rate limit reached for fake-model: Limit {}, Used {used}, Requested {asked}.",
                rate.tokens
            );
            let mut headers = told(*requests, *tokens);
            headers.push(("retry-after-ms", (reset.as_millis() + 1).to_string()));
            return Err(refusal(&message, &headers));
        }
        (*requests, *tokens) = (*requests - 1, *tokens - asked);
        Ok(told(*requests, *tokens))
    }

    /// A place among the calls at once, held until the answer is on its way, after the time that it takes.
    pub(super) async fn place(&self) -> Result<Option<OwnedSemaphorePermit>, Box<Response<Body>>> {
        let places = self.0.lock().unwrap().places.clone();
        let place = match places {
            None => None,
            Some((places, Beyond::Queue)) => places.acquire_owned().await.ok(),
            Some((places, Beyond::Refuse)) => match places.try_acquire_owned() {
                Ok(place) => Some(place),
                Err(_) => return Err(refusal("Model is overloaded", &[])),
            },
        };
        let latency = self.0.lock().unwrap().latency.as_mut().map(|(latency, rng)| sample(*latency, rng));
        if let Some(latency) = latency {
            tokio::time::sleep(latency).await;
        }
        Ok(place)
    }
}

fn refusal(message: &str, headers: &[(&'static str, String)]) -> Box<Response<Body>> {
    let body =
        json!({"error": {"message": message, "type": "tokens", "param": null, "code": "rate_limit_exceeded"}});
    Box::new(response(429, headers, Body::from(body.to_string())))
}

fn sample(latency: Latency, rng: &mut SmallRng) -> Duration {
    match latency {
        Latency::Uniform(least, most) => rng.random_range(least..=most),
        Latency::LogNormal(median, deviation) => {
            // Box and Muller.
            let (a, b): (f64, f64) = (rng.random_range(f64::MIN_POSITIVE..1.0), rng.random());
            let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
            median.mul_f64((normal * deviation).exp())
        }
    }
}
