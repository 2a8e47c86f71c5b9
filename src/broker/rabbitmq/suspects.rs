//! Messages that have come back often, waiting to be handed out.
//!
//! One of them may be what ends every process that takes it, and the end takes along whatever that process holds: it all
//! comes back together, and in its order. Handed out in that order, what stands behind the guilty one, or in a less urgent
//! lane, would never have its turn, and would be a dead letter at the same moment. So which comes next is left to chance,
//! whatever its lane, once all that the server sends ahead are there: half of them, on the average, are done before each
//! end.

use std::time::Duration;

use rand::seq::IteratorRandom;
use tokio::time::Instant;

use super::super::topology::SUSPICIOUS_RETURNS;
use super::lane::Arrival;
use crate::domain::intake::Intake;
use crate::domain::priority::Priority;

/// How long the first of them waits for the others.
pub(super) const SETTLE: Duration = Duration::from_millis(200);

pub(super) fn is_one(arrival: &Arrival) -> bool {
    // Dead letters come back from everybody who looks at them.
    arrival.lane.is_worked_on() && arrival.received.returns >= SUSPICIOUS_RETURNS
}

#[derive(Default)]
pub(super) struct Suspects {
    waiting: Vec<Arrival>,
    /// When the first of those came that have come together.
    since: Option<Instant>,
}

impl Suspects {
    pub fn put(&mut self, arrival: Arrival) {
        if self.waiting.last().is_none_or(|last| arrival.at >= last.at + SETTLE) {
            self.since = Some(arrival.at);
        }
        self.waiting.push(arrival);
    }

    /// Any one of these lanes, once they have settled.
    pub fn pop(&mut self, intake: Intake, now: Instant) -> Option<Arrival> {
        if self.is_settling(now) {
            return None;
        }
        let waiting = self.waiting.iter().enumerate();
        let of_lanes = waiting.filter(|(_, arrival)| intake.takes(arrival.received.lane));
        let (at, _) = of_lanes.choose(&mut rand::rng())?;
        Some(self.waiting.swap_remove(at))
    }

    /// Whether some wait for nothing but the others.
    pub fn settle(&self, intake: Intake, now: Instant) -> bool {
        self.is_settling(now) && Priority::ALL.into_iter().any(|lane| intake.takes(lane) && self.has(lane))
    }

    fn is_settling(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now < since + SETTLE)
    }

    pub fn has(&self, lane: Priority) -> bool {
        self.iter().any(|arrival| arrival.received.lane == lane)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arrival> {
        self.waiting.iter()
    }

    /// Those of which this holds, in the order in which they are kept.
    pub fn remove(&mut self, is_due: impl Fn(&Arrival) -> bool) -> impl Iterator<Item = Arrival> {
        self.waiting.extract_if(.., move |arrival| is_due(arrival))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tokio::time::advance;
    use tokio_util::sync::CancellationToken;

    use super::super::lane::Lane;
    use super::*;

    fn suspects(lanes: &[Priority]) -> Suspects {
        let mut suspects = Suspects::default();
        for (tag, lane) in (1..).zip(lanes) {
            let lane = Lane::new(Some(*lane), Default::default(), CancellationToken::new());
            suspects.put(Arrival::mock(&lane, tag, SUSPICIOUS_RETURNS));
        }
        suspects
    }

    fn order(mut suspects: Suspects, intake: Intake) -> Vec<u64> {
        let now = Instant::now() + SETTLE;
        std::iter::from_fn(|| suspects.pop(intake, now)).map(|arrival| arrival.tag).collect()
    }

    #[tokio::test]
    async fn chance_decides_whatever_their_lane() {
        let lanes = [Priority::High, Priority::Low, Priority::Low];
        let orders: HashSet<_> = (0..200).map(|_| order(suspects(&lanes), Intake::ALL)).collect();
        // Each of the six is missing with a probability of 1e-16.
        assert_eq!(orders.len(), 6, "{orders:?}");
        let no_low = Intake { lanes: Priority::ALL.map(|lane| lane != Priority::Low), last: false };
        assert_eq!(order(suspects(&lanes), no_low), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_waits_for_the_others() {
        let (mut suspects, now) = (suspects(&[Priority::High]), Instant::now());
        assert!(suspects.settle(Intake::ALL, now) && suspects.pop(Intake::ALL, now).is_none());
        let later = now + SETTLE;
        assert!(!suspects.settle(Intake::ALL, later) && suspects.pop(Intake::ALL, later).is_some());
        assert!(suspects.pop(Intake::ALL, later).is_none() && !suspects.settle(Intake::ALL, later));
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_come_later_wait_for_each_other_too() {
        let lane = Lane::new(Some(Priority::Low), Default::default(), CancellationToken::new());
        let mut suspects = suspects(&[Priority::High]);
        let closed = Intake { lanes: Priority::ALL.map(|lane| lane == Priority::Low), last: false };
        advance(SETTLE).await;
        assert!(suspects.pop(closed, Instant::now()).is_none() && !suspects.settle(closed, Instant::now()));
        suspects.put(Arrival::mock(&lane, 2, SUSPICIOUS_RETURNS));
        assert!(suspects.pop(closed, Instant::now()).is_none() && suspects.settle(closed, Instant::now()));
        advance(SETTLE).await;
        assert_eq!(suspects.pop(closed, Instant::now()).map(|arrival| arrival.tag), Some(2));
    }
}
