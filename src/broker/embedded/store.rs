//! Everything the embedded broker holds: plain data behind one lock, no waiting.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::super::in_hand::{Hands, InHand};
use super::super::topology::{DELIVERY_LIMIT, DELIVERY_LIMIT_REASON, SUSPICIOUS_RETURNS, Topology};
use super::super::{Death, Depths, Message, Outgoing, Route};
use super::ladder::Ladder;
use super::lanes::{Lanes, Queued};
use crate::domain::backoff::jittered;
use crate::domain::intake::Intake;
use crate::domain::priority::Priority;

/// How many notices of dead letters wait at most, the newest. The ledger has what a worker gave up.
pub(super) const KEPT_NOTICES: usize = 10_000;
/// How many dead letters there are at most, the newest. The ledger has them all.
const KEPT_DEAD: usize = 100_000;

/// Where what has died lies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shelf {
    /// Of which nobody has taken notice yet.
    Notices,
    DeadLetters,
}

#[derive(Debug)]
pub(super) struct Store {
    topology: Topology,
    lanes: Lanes,
    ladder: Ladder,
    /// Newest last, both.
    dead: VecDeque<Notice>,
    notices: VecDeque<Notice>,
    hands: Hands,
}

/// A dead letter, or the notice of one.
#[derive(Clone, Debug)]
pub(super) struct Notice {
    pub message: Message,
    pub lane: Priority,
    pub death: Death,
    pub told_before: bool,
}

impl Store {
    pub fn new(topology: Topology) -> Self {
        Self {
            topology,
            lanes: Lanes::default(),
            ladder: Ladder::default(),
            dead: VecDeque::new(),
            notices: VecDeque::new(),
            hands: Hands::default(),
        }
    }

    /// Moves every retry whose time has come to the end of its lane.
    pub fn promote(&mut self, now: Instant) {
        while let Some((lane, message)) = self.ladder.pop_due(now) {
            self.lanes.push(lane, message, Utc::now());
        }
    }

    pub fn accept(&mut self, outgoing: Outgoing, now: Instant) {
        let Outgoing { route, message } = outgoing;
        match route {
            Route::Lane(lane) => {
                let entered = message.published_at;
                self.lanes.push(lane, message, entered);
            }
            Route::Retry { lane, delay } => {
                let delay = jittered(self.topology.rung_for(delay), rand::random());
                self.ladder.push(now + delay, lane, message);
            }
            Route::Dead { lane, reason } => self.bury(message, lane, reason),
        }
    }

    /// Hands out what is ready, at most `max` and nothing behind a suspect.
    pub fn take(&mut self, max: usize, intake: Intake) -> Vec<Queued> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(queued) = self.lanes.pop(intake)
        {
            let is_suspect = queued.returns >= SUSPICIOUS_RETURNS;
            taken.push(queued);
            if is_suspect {
                break;
            }
        }
        for queued in &taken {
            self.hands.take(queued.lane, queued.entered);
        }
        taken
    }

    /// When the next retry is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.ladder.next_due()
    }

    /// A handed-out message was acked.
    pub fn forget(&mut self, lane: Priority, entered: DateTime<Utc>) {
        self.hands.leave(lane, entered);
    }

    /// A handed-out message was not acked.
    pub fn take_back(&mut self, mut queued: Queued) {
        self.hands.leave(queued.lane, queued.entered);
        queued.returns += 1;
        if queued.returns > DELIVERY_LIMIT {
            self.bury(queued.message, queued.lane, DELIVERY_LIMIT_REASON.to_owned());
        } else {
            self.lanes.put_back(queued);
        }
    }

    pub fn depths(&self) -> Depths {
        Depths {
            ready: self.lanes.depths(),
            unacked: self.in_hand().map(|lane| lane.deliveries),
            retrying: self.ladder.len() as u64,
            dead: self.dead.len() as u64,
        }
    }

    pub fn in_hand(&self) -> [InHand; 3] {
        self.hands.look()
    }

    /// Hands out what lies there, at most `max`, the oldest first.
    pub fn take_from(&mut self, shelf: Shelf, max: usize) -> Vec<Notice> {
        let shelf = self.shelf(shelf);
        let count = shelf.len().min(max);
        shelf.drain(..count).collect()
    }

    /// What was taken from there was not acked.
    pub fn take_back_to(&mut self, shelf: Shelf, notice: Notice) {
        self.shelf(shelf).push_front(Notice { told_before: true, ..notice });
    }

    fn shelf(&mut self, shelf: Shelf) -> &mut VecDeque<Notice> {
        match shelf {
            Shelf::Notices => &mut self.notices,
            Shelf::DeadLetters => &mut self.dead,
        }
    }

    fn bury(&mut self, message: Message, lane: Priority, reason: String) {
        let death = Death { reason, at: Utc::now() };
        let notice = Notice { message, lane, death, told_before: false };
        for (shelf, kept) in [(&mut self.dead, KEPT_DEAD), (&mut self.notices, KEPT_NOTICES)] {
            // What is given back may have made it longer.
            while shelf.len() >= kept {
                shelf.pop_front();
            }
            shelf.push_back(notice.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{five_ten_fifteen, message};
    use super::*;

    fn store() -> Store {
        Store::new(five_ten_fifteen())
    }

    fn dead(n: usize) -> Outgoing {
        let route = Route::Dead { lane: Priority::Low, reason: format!("reason {n}") };
        Outgoing { route, message: message(&n.to_string()) }
    }

    #[test]
    fn a_retry_waits_for_its_rung_and_at_most_a_tenth_more() {
        let now = Instant::now();
        let route = Route::Retry { lane: Priority::Low, delay: Duration::from_secs(6) };
        let dues: Vec<_> = (0..100)
            .map(|_| {
                let mut store = store();
                store.accept(Outgoing { route: route.clone(), message: message("a") }, now);
                store.next_due().expect("it waits") - now
            })
            .collect();
        assert!(dues.iter().all(|due| (10.0..=11.0).contains(&due.as_secs_f64())), "{dues:?}");
        assert!(dues.windows(2).any(|pair| pair[0] != pair[1]), "no jitter: {dues:?}");
    }

    #[test]
    fn only_the_newest_notices_are_kept() {
        let mut store = store();
        for n in 0..KEPT_NOTICES + 2 {
            store.accept(dead(n), Instant::now());
        }
        assert_eq!(store.depths().dead, KEPT_NOTICES as u64 + 2);
        let kept = store.take_from(Shelf::Notices, usize::MAX);
        assert_eq!(kept.len(), KEPT_NOTICES);
        assert_eq!(kept[0].death.reason, "reason 2");
        assert_eq!(store.take_from(Shelf::Notices, usize::MAX).len(), 0);
    }
}
