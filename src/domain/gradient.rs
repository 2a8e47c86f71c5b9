//! How many calls to run at once against a provider whose own limit nobody tells: learned from latencies and
//! refusals.
//!
//! Three rules. While the mean latency of a window of calls stays near the least that was seen, the number grows by
//! its square root; as latency rises beyond a tolerance, it shrinks in proportion (the gradient idea of Netflix'
//! concurrency-limits). A call that is refused was one too many: one less, and a ceiling that is tried again ever
//! later. Failures and timeouts shrink it at once.
//!
//! No clock and no I/O: whoever uses it says what time it is.

use std::time::Duration;

/// Mean latency may rise to so many times the least before it counts as queueing: the least is the mean of a few
/// calls, and so lies below the true mean by chance.
const TOLERANCE: f64 = 2.0;
/// Calls in a window at least, for their mean to say something.
const WINDOW: u32 = 8;
/// How fast the least latency follows a provider that has become slower for good, a window.
const DRIFT: f64 = 0.02;
/// The largest step down of one window.
const STEEPEST: f64 = 0.5;
/// What failures and timeouts leave, once a window.
const AFTER_FAILURE: f64 = 0.7;
/// A ceiling is tried again after so long, doubled up to the second as often as it held.
const HOLDS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(20));

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    /// A rate limit: it was one too many.
    Refused,
    /// No answer in time, or an error of the provider's own.
    Failed,
    /// It says nothing of load.
    Other,
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub took: Duration,
    /// Calls under way when it began, itself included.
    pub in_flight: usize,
    pub outcome: Outcome,
}

/// Why the number is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Set,
    Growing,
    LatencyRises,
    Refused,
    Failing,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Set => "as it is set",
            Self::Growing => "latency allows more",
            Self::LatencyRises => "latency rises",
            Self::Refused => "the provider refused a call",
            Self::Failing => "calls fail or time out",
        }
    }
}

#[derive(Debug)]
pub struct Gradient {
    min: f64,
    max: f64,
    limit: f64,
    reason: Reason,
    /// The least mean of a window, in seconds, which slowly follows the others.
    least: Option<f64>,
    window: Window,
    ceiling: Option<Ceiling>,
}

#[derive(Debug, Default)]
struct Window {
    calls: u32,
    seconds: f64,
    most_in_flight: usize,
    failed: bool,
}

/// A number that was refused.
#[derive(Clone, Copy, Debug)]
struct Ceiling {
    at: f64,
    until: Duration,
    hold: Duration,
    /// It is being tried again.
    tried: bool,
}

impl Gradient {
    /// Begins at `start` and stays within `min` (at least one) and `max`.
    pub fn new(start: usize, min: usize, max: usize) -> Self {
        let min = min.max(1) as f64;
        let max = (max as f64).max(min);
        let limit = (start as f64).clamp(min, max);
        Self { min, max, limit, reason: Reason::Set, least: None, window: Window::default(), ceiling: None }
    }

    /// Calls at once.
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Takes in a call that ended at `now`, which must not fall; true when the limit has changed.
    pub fn sample(&mut self, now: Duration, sample: Sample) -> bool {
        let before = self.limit();
        match sample.outcome {
            Outcome::Answered => self.answered(now, sample),
            Outcome::Refused => self.refused(now, sample),
            Outcome::Failed => {
                if !std::mem::replace(&mut self.window.failed, true) {
                    self.set(self.limit * AFTER_FAILURE, Reason::Failing);
                }
            }
            Outcome::Other => {}
        }
        self.limit() != before
    }

    fn answered(&mut self, now: Duration, sample: Sample) {
        let window = &mut self.window;
        window.calls += 1;
        window.seconds += sample.took.as_secs_f64();
        window.most_in_flight = window.most_in_flight.max(sample.in_flight);
        if window.calls < WINDOW.max(self.limit as u32) {
            return;
        }
        let Window { calls, seconds, most_in_flight, .. } = std::mem::take(window);
        let mean = seconds / f64::from(calls);
        let least = match self.least {
            Some(least) if mean > least => least + (mean - least) * DRIFT,
            Some(least) => least + (mean - least) / 2.0,
            None => mean,
        };
        self.least = Some(least);
        let gradient = (TOLERANCE * least / mean.max(f64::EPSILON)).clamp(STEEPEST, 1.0);
        let next = self.limit * gradient + self.limit.sqrt();
        if next < self.limit {
            self.set(next, Reason::LatencyRises);
        } else if most_in_flight * 2 > self.limit() {
            // Not while there is too little to do: that says nothing of more.
            self.grow(now, next);
        }
    }

    fn grow(&mut self, now: Duration, next: f64) {
        let Some(mut ceiling) = self.ceiling else { return self.set(next, Reason::Growing) };
        if ceiling.tried {
            // A window beyond it without a refusal: it is gone.
            self.ceiling = None;
            self.set(next, Reason::Growing);
        } else if now < ceiling.until {
            self.set(next.min(ceiling.at), Reason::Growing);
        } else {
            ceiling.tried = true;
            self.ceiling = Some(ceiling);
            self.set(ceiling.at + 1.0, Reason::Growing);
        }
    }

    /// Those refused together are one too many each, so that one burst finds the way down.
    fn refused(&mut self, now: Duration, sample: Sample) {
        let most = self.limit.min((sample.in_flight as f64).max(self.limit - 1.0));
        self.set((most - 1.0).floor(), Reason::Refused);
        let hold = match self.ceiling {
            Some(ceiling) if ceiling.tried => (ceiling.hold * 2).min(HOLDS.1),
            Some(ceiling) => ceiling.hold,
            None => HOLDS.0,
        };
        self.ceiling = Some(Ceiling { at: self.limit, until: now + hold, hold, tried: false });
        self.window = Window::default();
    }

    fn set(&mut self, limit: f64, reason: Reason) {
        let limit = limit.clamp(self.min, self.max);
        if limit as usize != self.limit as usize {
            self.reason = reason;
        }
        self.limit = limit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(gradient: &mut Gradient, calls: usize, ms: u64, outcome: Outcome) {
        for _ in 0..calls {
            let sample = Sample { took: Duration::from_millis(ms), in_flight: gradient.limit(), outcome };
            gradient.sample(Duration::ZERO, sample);
        }
    }

    #[test]
    fn it_grows_to_its_end_while_latency_stays() {
        let mut gradient = Gradient::new(3, 1, 32);
        feed(&mut gradient, 300, 100, Outcome::Answered);
        assert_eq!((gradient.limit(), gradient.reason()), (32, Reason::Growing));
    }

    #[test]
    fn rising_latency_brings_it_down_and_falling_up_again() {
        let mut gradient = Gradient::new(32, 1, 32);
        feed(&mut gradient, 64, 100, Outcome::Answered);
        feed(&mut gradient, 64, 800, Outcome::Answered);
        assert!(gradient.limit() < 24, "{}", gradient.limit());
        assert_eq!(gradient.reason(), Reason::LatencyRises);
        feed(&mut gradient, 300, 100, Outcome::Answered);
        assert_eq!(gradient.limit(), 32);
    }

    #[test]
    fn each_refused_call_was_one_too_many_and_never_is_it_below_its_least() {
        let mut gradient = Gradient::new(20, 2, 32);
        feed(&mut gradient, 12, 10, Outcome::Refused);
        assert_eq!((gradient.limit(), gradient.reason()), (8, Reason::Refused));
        feed(&mut gradient, 100, 10, Outcome::Refused);
        assert_eq!(gradient.limit(), 2);
        let mut gradient = Gradient::new(4, 0, 8);
        feed(&mut gradient, 100, 10, Outcome::Refused);
        assert_eq!(gradient.limit(), 1);
    }

    #[test]
    fn what_was_refused_is_tried_again_after_a_while_and_not_before() {
        let mut gradient = Gradient::new(9, 1, 32);
        feed(&mut gradient, 1, 10, Outcome::Refused);
        feed(&mut gradient, 200, 100, Outcome::Answered);
        assert_eq!(gradient.limit(), 8, "the ceiling holds");
        let sample = Sample { took: Duration::from_millis(100), in_flight: 8, outcome: Outcome::Answered };
        for _ in 0..8 {
            gradient.sample(HOLDS.0, sample);
        }
        assert_eq!(gradient.limit(), 9);
        for _ in 0..9 {
            gradient.sample(HOLDS.0, sample);
        }
        assert_eq!(gradient.limit(), 12, "and is gone");
    }

    #[test]
    fn a_burst_of_failures_is_one_step() {
        let mut gradient = Gradient::new(20, 1, 32);
        feed(&mut gradient, 20, 10, Outcome::Failed);
        assert_eq!((gradient.limit(), gradient.reason()), (14, Reason::Failing));
    }

    #[test]
    fn too_little_to_do_is_no_reason_to_grow() {
        let mut gradient = Gradient::new(8, 1, 32);
        let sample = Sample { took: Duration::from_millis(100), in_flight: 2, outcome: Outcome::Answered };
        for _ in 0..500 {
            gradient.sample(Duration::ZERO, sample);
        }
        assert_eq!(gradient.limit(), 8);
    }
}
