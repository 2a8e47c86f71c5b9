//! A circuit breaker: whether the provider may be called, and when to look again.
//!
//! It never closes on its own: only a probe that went well says that calls may be made.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::Rng;
use tokio::time::Instant;

use crate::domain::backoff::jittered;

/// Failed queries in a row that count as an outage; for documents a probe decides at once.
const FAILED_QUERIES: u32 = 5;

/// Why no calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No answers, or errors of its own: it may be back any moment.
    Outage,
    /// It refuses what was configured: a person must change something.
    Misconfigured,
}

impl Cause {
    /// The first pause before a probe, doubled up to the last. What waits is to flow within two seconds of the end
    /// of an outage, so those stay short; a probe costs one word.
    fn pauses(self) -> (Duration, Duration) {
        match self {
            Self::Outage => (Duration::from_millis(250), Duration::from_secs(1)),
            Self::Misconfigured => (Duration::from_secs(1), Duration::from_secs(60)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Closed,
    Open,
    /// A probe is under way.
    HalfOpen,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// What others are told.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerView {
    pub phase: Phase,
    /// When it was last opened or closed.
    pub since: DateTime<Utc>,
    pub reason: Option<String>,
    pub next_probe_at: Option<DateTime<Utc>>,
}

/// Why no call is made, and for how long at least.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub after: Duration,
    pub reason: String,
}

#[derive(Debug)]
pub struct Breaker {
    open: Option<Open>,
    since: DateTime<Utc>,
    failed_queries: u32,
}

#[derive(Debug)]
struct Open {
    cause: Cause,
    reason: String,
    probe_at: Instant,
    /// Probes that failed.
    probes: u32,
    probing: bool,
}

impl Open {
    fn schedule(&mut self, now: Instant) {
        let (first, last) = self.cause.pauses();
        let pause = first.saturating_mul(1 << self.probes.min(16)).min(last);
        self.probe_at = now + jittered(pause, rand::rng().random());
        self.probing = false;
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self { open: None, since: Utc::now(), failed_queries: 0 }
    }
}

impl Breaker {
    /// Why no call may be made now.
    pub fn refusal(&self, now: Instant) -> Option<Refusal> {
        let open = self.open.as_ref()?;
        // Never zero: who is refused while a probe runs must not ask in a loop.
        let after = open.probe_at.saturating_duration_since(now).max(open.cause.pauses().0);
        Some(Refusal { after, reason: open.reason.clone() })
    }

    /// Opens, or goes on being open for this cause; true when it was closed, and somebody must begin to probe.
    pub fn open(&mut self, cause: Cause, reason: String, now: Instant) -> bool {
        let was_closed = self.open.is_none();
        match &mut self.open {
            // Calls that were under way together fail together: one step, not one each.
            Some(open) if open.cause == cause => open.reason = reason,
            open => {
                self.since = Utc::now();
                let mut opened = Open { cause, reason, probe_at: now, probes: 0, probing: false };
                opened.schedule(now);
                *open = Some(opened);
            }
        }
        was_closed
    }

    /// A query failed; true when it was one too many, and the caller should open.
    pub fn query_failed(&mut self) -> bool {
        self.failed_queries += 1;
        self.failed_queries >= FAILED_QUERIES
    }

    /// The provider answered a call; one that was under way when this opened doesn't close it.
    pub fn answered(&mut self) {
        self.failed_queries = 0;
    }

    /// When to probe; `None` while closed.
    pub fn probe_at(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.probe_at)
    }

    pub fn probe_begins(&mut self) {
        if let Some(open) = &mut self.open {
            open.probing = true;
        }
    }

    /// The probe failed.
    pub fn stay_open(&mut self, cause: Cause, reason: String, now: Instant) {
        self.open(cause, reason, now);
        if let Some(open) = &mut self.open {
            open.probes += 1;
            open.schedule(now);
        }
    }

    /// The probe went well.
    pub fn close(&mut self) {
        *self = Self::default();
    }

    pub fn view(&self, now: Instant) -> BreakerView {
        let phase = match &self.open {
            None => Phase::Closed,
            Some(open) if open.probing => Phase::HalfOpen,
            Some(_) => Phase::Open,
        };
        let at = |at: Instant| Utc::now() + at.saturating_duration_since(now);
        BreakerView {
            phase,
            since: self.since,
            reason: self.open.as_ref().map(|open| open.reason.clone()),
            next_probe_at: self.probe_at().filter(|_| phase == Phase::Open).map(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(cause: Cause, probes: usize) -> Vec<u128> {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.open(cause, "down".into(), now);
        let mut pauses = Vec::new();
        for _ in 0..probes {
            let pause = breaker.probe_at().unwrap() - now;
            pauses.push(pause.as_millis());
            breaker.probe_begins();
            breaker.stay_open(cause, "still down".into(), now);
        }
        pauses
    }

    #[test]
    fn probes_grow_and_stay_within_a_second_of_an_outages_end() {
        for (pause, expected) in pauses(Cause::Outage, 5).into_iter().zip([250, 500, 1_000, 1_000, 1_000]) {
            // Jitter adds up to a tenth.
            assert!((expected..=expected + expected / 10).contains(&pause), "{pause} {expected}");
        }
        let waits = [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000];
        for (pause, expected) in pauses(Cause::Misconfigured, 8).into_iter().zip(waits) {
            // Jitter adds up to a tenth.
            assert!((expected..=expected + expected / 10).contains(&pause), "{pause} {expected}");
        }
    }

    #[test]
    fn it_is_closed_open_half_open_and_closed_again() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        assert_eq!(breaker.view(now).phase, Phase::Closed);
        assert_eq!(breaker.refusal(now), None);
        assert!(breaker.open(Cause::Outage, "down".into(), now));
        assert!(!breaker.open(Cause::Outage, "down".into(), now), "one prober, not one each");
        assert_eq!(breaker.view(now).phase, Phase::Open);
        assert!(breaker.view(now).next_probe_at.is_some());
        assert_eq!(breaker.refusal(now).unwrap().reason, "down");
        breaker.answered();
        assert!(breaker.refusal(now).is_some(), "what was under way doesn't close it");
        breaker.probe_begins();
        assert_eq!(breaker.view(now).phase, Phase::HalfOpen);
        assert!(breaker.refusal(now).is_some(), "one probe, and no other call");
        breaker.close();
        assert_eq!(breaker.view(now).phase, Phase::Closed);
    }

    #[test]
    fn failed_queries_in_a_row_are_an_outage_and_an_answer_between_them_is_none() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            assert!((1..FAILED_QUERIES).all(|_| !breaker.query_failed()));
            breaker.answered();
        }
        assert!((1..FAILED_QUERIES).all(|_| !breaker.query_failed()));
        assert!(breaker.query_failed());
    }
}
