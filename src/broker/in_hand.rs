//! What a process holds unacked: how much, and how far its lanes have come.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::domain::priority::Priority;

/// What this process holds of one lane. Moments are those at which messages *entered* the lane: published
/// to it, or come back from a retry.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct InHand {
    /// Delivered and neither acked nor returned, waiting for their turn in this process included.
    pub deliveries: u64,
    /// When the oldest of these entered the lane.
    pub oldest: Option<DateTime<Utc>>,
    /// When the newest message that this process was ever delivered entered the lane: a lane is first in,
    /// first out, so all that entered before it has been delivered to someone.
    pub newest: Option<DateTime<Utc>>,
}

/// Keeps the account.
#[derive(Debug, Default)]
pub(super) struct Hands {
    lanes: [Lane; 3],
}

#[derive(Debug, Default)]
struct Lane {
    /// How many of each moment.
    held: BTreeMap<DateTime<Utc>, u64>,
    newest: Option<DateTime<Utc>>,
}

impl Hands {
    pub fn take(&mut self, lane: Priority, entered: DateTime<Utc>) {
        let lane = &mut self.lanes[lane as usize];
        *lane.held.entry(entered).or_default() += 1;
        lane.newest = lane.newest.max(Some(entered));
    }

    /// Acked or returned.
    pub fn leave(&mut self, lane: Priority, entered: DateTime<Utc>) {
        let held = &mut self.lanes[lane as usize].held;
        if let Some(count) = held.get_mut(&entered) {
            *count -= 1;
            if *count == 0 {
                held.remove(&entered);
            }
        }
    }

    pub fn look(&self) -> [InHand; 3] {
        self.lanes.each_ref().map(|lane| InHand {
            deliveries: lane.held.values().sum(),
            oldest: lane.held.first_key_value().map(|(moment, _)| *moment),
            newest: lane.newest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_as_it_is_left_and_the_newest_stays() {
        let moment = |s| DateTime::from_timestamp(s, 0).expect("a moment");
        let mut hands = Hands::default();
        for s in [5, 3, 3, 9] {
            hands.take(Priority::Normal, moment(s));
        }
        for (left, deliveries, oldest) in
            [(3, 3, Some(3)), (3, 2, Some(5)), (9, 1, Some(5)), (5, 0, None), (5, 0, None)]
        {
            hands.leave(Priority::Normal, moment(left));
            let expected = InHand { deliveries, oldest: oldest.map(moment), newest: Some(moment(9)) };
            assert_eq!(hands.look(), [InHand::default(), expected, InHand::default()]);
        }
    }
}
