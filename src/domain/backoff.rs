//! When a failed task is tried again.

use std::time::Duration;

/// Exponential back-off by whole powers of two: `base × 2^(attempt − 1)`, at most `cap`.
///
/// The delays form a short ladder, so a broker needs one retry queue a delay.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    max_retries: u32,
}

/// Jitter only adds, and at most this share: a rung's delay is kept within 10 %.
const MAX_JITTER: f64 = 0.1;

impl Backoff {
    pub fn new(base: Duration, cap: Duration, max_retries: u32) -> Self {
        Self { base, cap: cap.max(base), max_retries }
    }

    /// The delay before the attempt that follows the `failed`-th failure (from 1), or `None` when the
    /// task has had its first attempt and `max_retries` more.
    pub fn after(&self, failed: u32) -> Option<Duration> {
        (failed <= self.max_retries).then(|| self.rung(failed.saturating_sub(1)))
    }

    /// True when the attempt that follows `failed` failures is the last.
    pub fn is_last(&self, failed: u32) -> bool {
        failed >= self.max_retries
    }

    /// The distinct delays, shortest first: one retry queue each.
    pub fn rungs(&self) -> Vec<Duration> {
        let mut rungs: Vec<_> = (0..self.max_retries).map(|n| self.rung(n)).collect();
        rungs.dedup();
        rungs
    }

    fn rung(&self, n: u32) -> Duration {
        self.base.saturating_mul(1u32.checked_shl(n).unwrap_or(u32::MAX)).min(self.cap)
    }
}

/// `delay` plus up to 10 %: `share` is a random number from 0 to 1. Without it, everything that failed
/// together comes back together.
pub fn jittered(delay: Duration, share: f64) -> Duration {
    delay + delay.mul_f64(MAX_JITTER * share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn delays_double_up_to_the_cap_and_end() {
        let backoff = Backoff::new(secs(5), secs(15), 4);
        let delays: Vec<_> = (1..=5).map(|n| backoff.after(n)).collect();
        assert_eq!(delays, [Some(secs(5)), Some(secs(10)), Some(secs(15)), Some(secs(15)), None]);
        assert_eq!(backoff.rungs(), [secs(5), secs(10), secs(15)]);
        assert!(!backoff.is_last(3));
        assert!(backoff.is_last(4));
    }

    #[test]
    fn no_retries_means_none() {
        let backoff = Backoff::new(secs(5), secs(15), 0);
        assert_eq!(backoff.after(1), None);
        assert!(backoff.rungs().is_empty());
    }

    #[test]
    fn a_huge_attempt_stays_at_the_cap() {
        let backoff = Backoff::new(secs(5), secs(3600), u32::MAX);
        assert_eq!(backoff.after(4_000_000), Some(secs(3600)));
    }

    #[test]
    fn jitter_adds_at_most_a_tenth() {
        assert_eq!(jittered(secs(10), 0.0), secs(10));
        assert_eq!(jittered(secs(10), 1.0), secs(11));
    }
}
