//! The three lanes: first in, first out, with what came back served before what is new.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, Utc};

use super::super::Message;
use crate::domain::intake::Intake;
use crate::domain::priority::{Priority, Rounds};

/// A message on its way through a lane: it keeps its place in line when it is handed out and comes back.
#[derive(Debug)]
pub(super) struct Queued {
    pub message: Message,
    pub lane: Priority,
    /// How often it came back unacked.
    pub returns: u32,
    pub entered: DateTime<Utc>,
    arrival: u64,
}

#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: [Lane; 3],
    rounds: Rounds,
    arrivals: u64,
}

/// Everything in `returned` was once taken from the front of `fresh`, so it arrived before all of `fresh`.
#[derive(Debug, Default)]
struct Lane {
    /// By arrival; never more than what consumers may hold at once.
    returned: BTreeMap<u64, Queued>,
    fresh: VecDeque<Queued>,
}

impl Lanes {
    /// To the end of a lane.
    pub fn push(&mut self, lane: Priority, message: Message, entered: DateTime<Utc>) {
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.lanes[lane as usize].fresh.push_back(Queued { message, lane, returns: 0, entered, arrival });
    }

    /// Back to where it was taken from, in whatever order its neighbours come back.
    pub fn put_back(&mut self, queued: Queued) {
        self.lanes[queued.lane as usize].returned.insert(queued.arrival, queued);
    }

    /// The next in weighted rounds over the lanes that are taken from and have something.
    pub fn pop(&mut self, intake: Intake) -> Option<Queued> {
        let lane = self.rounds.next(|lane| intake.takes(lane) && self.lanes[lane as usize].len() > 0)?;
        self.lanes[lane as usize].pop()
    }

    /// By [`Priority::rank`].
    pub fn depths(&self) -> [u64; 3] {
        self.lanes.each_ref().map(|lane| lane.len() as u64)
    }
}

impl Lane {
    fn len(&self) -> usize {
        self.returned.len() + self.fresh.len()
    }

    fn pop(&mut self) -> Option<Queued> {
        self.returned.pop_first().map(|(_, queued)| queued).or_else(|| self.fresh.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::message;
    use super::*;

    fn pop_ids(lanes: &mut Lanes) -> Vec<String> {
        std::iter::from_fn(|| lanes.pop(Intake::ALL)).map(|queued| queued.message.id).collect()
    }

    #[test]
    fn what_comes_back_in_any_order_stands_where_it_stood() {
        let mut lanes = Lanes::default();
        for id in ["a", "b", "c", "d"] {
            lanes.push(Priority::Normal, message(id), Utc::now());
        }
        let taken: Vec<_> = (0..3).filter_map(|_| lanes.pop(Intake::ALL)).collect();
        lanes.push(Priority::Normal, message("e"), Utc::now());
        for queued in taken.into_iter().rev() {
            lanes.put_back(queued);
        }
        assert_eq!(lanes.depths(), [0, 5, 0]);
        assert_eq!(pop_ids(&mut lanes), ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn full_lanes_are_popped_in_rounds() {
        let mut lanes = Lanes::default();
        for lane in Priority::ALL {
            for _ in 0..24 {
                lanes.push(lane, message(lane.name()), Utc::now());
            }
        }
        let mut served = [0; 3];
        for queued in std::iter::from_fn(|| lanes.pop(Intake::ALL)).take(24) {
            served[queued.lane as usize] += 1;
        }
        assert_eq!(served, [16, 6, 2]);
    }
}
