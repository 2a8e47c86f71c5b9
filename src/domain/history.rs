//! What is counted over time: amounts by measure, and distributions in buckets that can be added up.

use std::collections::BTreeMap;
use std::time::Duration;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Embeddings made.
    Ready,
    /// Tasks given up.
    Failed,
    /// Attempts that failed and are made again.
    Retried,
    /// From the moment a task was enqueued to its stored vector; a distribution.
    Latency,
    /// Calls with documents that the provider answered.
    Calls,
    /// Texts in these calls.
    Texts,
    /// Tokens in these calls and in those of searches.
    Tokens,
    /// What these cost, in USD.
    Cost,
    /// Calls of any kind that the provider refused for its rate limits (429).
    Refused,
    /// Calls of any kind that failed otherwise.
    CallErrors,
    /// How long calls with documents took; a distribution.
    CallTook,
}

impl Measure {
    pub const ALL: [Self; 11] = [
        Self::Ready,
        Self::Failed,
        Self::Retried,
        Self::Latency,
        Self::Calls,
        Self::Texts,
        Self::Tokens,
        Self::Cost,
        Self::Refused,
        Self::CallErrors,
        Self::CallTook,
    ];

    /// The word that is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Retried => "retried",
            Self::Latency => "latency",
            Self::Calls => "calls",
            Self::Texts => "texts",
            Self::Tokens => "tokens",
            Self::Cost => "cost",
            Self::Refused => "refused",
            Self::CallErrors => "call_errors",
            Self::CallTook => "call_took",
        }
    }

    /// `None` for a word that this version doesn't know.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|measure| measure.as_str() == word)
    }
}

/// Amounts by measure and bucket; the bucket of what is no distribution is 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Amounts(BTreeMap<(Measure, i16), f64>);

impl Amounts {
    pub fn add(&mut self, measure: Measure, amount: f64) {
        self.add_to(measure, 0, amount);
    }

    /// One more of a distribution.
    pub fn sample(&mut self, measure: Measure, took: Duration) {
        self.add_to(measure, bucket(took), 1.0);
    }

    /// Nothing is kept of an amount of nothing.
    pub fn add_to(&mut self, measure: Measure, bucket: i16, amount: f64) {
        if amount != 0.0 {
            *self.0.entry((measure, bucket)).or_default() += amount;
        }
    }

    pub fn merge(&mut self, other: Self) {
        for ((measure, bucket), amount) in other.0 {
            self.add_to(measure, bucket, amount);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of measures and buckets.
    pub fn iter(&self) -> impl Iterator<Item = (Measure, i16, f64)> {
        self.0.iter().map(|((measure, bucket), amount)| (*measure, *bucket, *amount))
    }

    pub fn total(&self, measure: Measure) -> f64 {
        self.of(measure).map(|(_, amount)| amount).sum()
    }

    /// The time within which this share (0 to 1) of a distribution was done: at most a tenth off. `None` where there
    /// was nothing.
    pub fn quantile(&self, measure: Measure, share: f64) -> Option<Duration> {
        let wanted = self.total(measure) * share;
        let mut below = 0.0;
        let mut last = None;
        for (bucket, amount) in self.of(measure) {
            below += amount;
            last = Some(middle(bucket));
            if below >= wanted {
                break;
            }
        }
        last
    }

    fn of(&self, measure: Measure) -> impl Iterator<Item = (i16, f64)> {
        self.0.range((measure, i16::MIN)..=(measure, i16::MAX)).map(|((_, bucket), amount)| (*bucket, *amount))
    }
}

/// Buckets of which each is a fifth wider than the one before (2^¼): four for each doubling.
const A_DOUBLING: f64 = 4.0;

/// The bucket of a time; all below a tenth of a millisecond are one.
fn bucket(took: Duration) -> i16 {
    let tenths = (took.as_secs_f64() * 1e4).max(1.0);
    // At most 64 doublings, far from the end of the type.
    (tenths.log2() * A_DOUBLING).floor() as i16
}

/// The middle of a bucket, by ratio.
fn middle(bucket: i16) -> Duration {
    Duration::from_secs_f64(((f64::from(bucket) + 0.5) / A_DOUBLING).exp2() / 1e4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_a_tenth_off() {
        for ms in [0.2, 1.0, 4.9, 55.0, 1_234.0, 86_400_000.0] {
            let mut amounts = Amounts::default();
            amounts.sample(Measure::Latency, Duration::from_secs_f64(ms / 1e3));
            let told = amounts.quantile(Measure::Latency, 0.5).expect("there is one").as_secs_f64() * 1e3;
            assert!((told / ms - 1.0).abs() < 0.1, "{ms} ms is told as {told}");
        }
        assert_eq!(Amounts::default().quantile(Measure::Latency, 0.5), None);
    }

    #[test]
    fn quantiles_are_those_of_all_that_was_added_up() {
        let (mut one, mut other) = (Amounts::default(), Amounts::default());
        (0..95).for_each(|_| one.sample(Measure::Latency, Duration::from_millis(10)));
        (0..5).for_each(|_| other.sample(Measure::Latency, Duration::from_secs(10)));
        other.sample(Measure::CallTook, Duration::from_secs(100));
        one.merge(other);
        let quantile = |share| one.quantile(Measure::Latency, share).expect("there are some").as_secs_f64();
        assert!((0.009..0.011).contains(&quantile(0.5)) && (0.009..0.011).contains(&quantile(0.95)));
        assert!((9.0..11.0).contains(&quantile(0.96)) && (9.0..11.0).contains(&quantile(1.0)));
        assert_eq!(one.total(Measure::Latency), 100.0);
    }

    #[test]
    fn every_stored_word_is_read_back() {
        assert!(Measure::ALL.iter().all(|measure| Measure::parse(measure.as_str()) == Some(*measure)));
        assert_eq!(Measure::parse("lost"), None);
    }
}
