//! In which order messages are handed out that have come back often.
//!
//! One of them may be what ends every process that takes it, and the end takes along whatever that process holds: it all
//! comes back together, and in its order. Handed out in that order, what stands behind the guilty one would never have
//! its turn, and would be a dead letter at the same moment. So which comes next is left to chance, once all that the
//! server sends ahead are there: half of them, on the average, are done before each end.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::topology::SUSPICIOUS_RETURNS;
use super::lane::Arrival;

/// How long the first of them waits for the others.
pub(super) const SETTLE: Duration = Duration::from_millis(200);
/// Among so many chance decides.
const SHUFFLED: usize = 1_000;

pub(super) fn is_one(arrival: &Arrival) -> bool {
    // Dead letters come back from everybody who looks at them.
    arrival.lane.is_worked_on() && arrival.received.returns >= SUSPICIOUS_RETURNS
}

/// Whether something can be handed out.
pub(super) fn is_ready(lane: &VecDeque<Arrival>) -> bool {
    lane.front().is_some_and(|first| !is_one(first) || first.at.elapsed() >= SETTLE)
}

/// The first one, or any of those that have come back often and stand in front.
pub(super) fn pop(lane: &mut VecDeque<Arrival>) -> Option<Arrival> {
    match lane.iter().take(SHUFFLED).take_while(|arrival| is_one(arrival)).count() {
        0 | 1 => lane.pop_front(),
        suspects => lane.swap_remove_front(rand::random_range(0..suspects)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tokio::time::advance;
    use tokio_util::sync::CancellationToken;

    use super::super::lane::Lane;
    use super::*;
    use crate::domain::priority::Priority;

    fn lane(returns: &[u32]) -> VecDeque<Arrival> {
        let lane = Lane::new(Some(Priority::Low), Default::default(), CancellationToken::new());
        (1..).zip(returns).map(|(tag, returns)| Arrival::mock(&lane, tag, *returns)).collect()
    }

    fn order(mut lane: VecDeque<Arrival>) -> Vec<u64> {
        std::iter::from_fn(|| pop(&mut lane)).map(|arrival| arrival.tag).collect()
    }

    #[tokio::test]
    async fn chance_decides_among_those_in_front_alone() {
        let often = SUSPICIOUS_RETURNS;
        assert_eq!(order(lane(&[0, often - 1, often, 0, 1])), [1, 2, 3, 4, 5]);
        let orders: HashSet<_> = (0..200).map(|_| order(lane(&[often, often, often + 4, 0, often]))).collect();
        // Each of the six with a probability of 1 - 1e-16.
        assert_eq!(orders.len(), 6, "{orders:?}");
        assert!(orders.iter().all(|order| order[3..] == [4, 5]), "{orders:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_of_them_waits_for_the_others_and_nobody_else_does() {
        assert!(!is_ready(&lane(&[])) && is_ready(&lane(&[0])));
        let suspects = lane(&[SUSPICIOUS_RETURNS]);
        assert!(!is_ready(&suspects));
        advance(SETTLE).await;
        assert!(is_ready(&suspects));
    }
}
