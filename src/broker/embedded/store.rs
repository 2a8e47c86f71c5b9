//! Everything the embedded broker holds: plain data behind one lock, no waiting.

use std::collections::VecDeque;

use chrono::Utc;
use tokio::time::Instant;

use super::super::topology::{DELIVERY_LIMIT, DELIVERY_LIMIT_REASON, Topology};
use super::super::{DeadLetter, Depths, Message, Outgoing, Route};
use super::ladder::Ladder;
use super::lanes::{Lanes, Queued};
use crate::domain::backoff::jittered;
use crate::domain::priority::Priority;

/// How many dead letters are kept, the newest. The ledger has them all.
pub(super) const KEPT_DEAD_LETTERS: usize = 10_000;

#[derive(Debug)]
pub(super) struct Store {
    topology: Topology,
    lanes: Lanes,
    ladder: Ladder,
    /// Newest last.
    dead: VecDeque<DeadLetter>,
    unacked: [u64; 3],
}

impl Store {
    pub fn new(topology: Topology) -> Self {
        Self {
            topology,
            lanes: Lanes::default(),
            ladder: Ladder::default(),
            dead: VecDeque::new(),
            unacked: [0; 3],
        }
    }

    /// Moves every retry whose time has come to the end of its lane.
    pub fn promote(&mut self, now: Instant) {
        while let Some((lane, message)) = self.ladder.pop_due(now) {
            self.lanes.push(lane, message);
        }
    }

    pub fn accept(&mut self, outgoing: Outgoing, now: Instant) {
        let Outgoing { route, message } = outgoing;
        match route {
            Route::Lane(lane) => self.lanes.push(lane, message),
            Route::Retry { lane, delay } => {
                let delay = jittered(self.topology.rung_for(delay), rand::random());
                self.ladder.push(now + delay, lane, message);
            }
            Route::Dead { lane, reason } => self.bury(message, lane, reason),
        }
    }

    /// Hands out what is ready, at most `max`.
    pub fn take(&mut self, max: usize) -> Vec<Queued> {
        let taken: Vec<_> = std::iter::from_fn(|| self.lanes.pop()).take(max).collect();
        for queued in &taken {
            self.unacked[queued.lane as usize] += 1;
        }
        taken
    }

    /// When the next retry is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.ladder.next_due()
    }

    /// A handed-out message was acked.
    pub fn forget(&mut self, lane: Priority) {
        self.one_less_unacked(lane);
    }

    /// A handed-out message was not acked.
    pub fn take_back(&mut self, mut queued: Queued) {
        self.one_less_unacked(queued.lane);
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
            unacked: self.unacked,
            retrying: self.ladder.len() as u64,
            dead: self.dead.len() as u64,
        }
    }

    /// Newest first, at most `limit`.
    pub fn dead_letters(&self, limit: usize) -> Vec<DeadLetter> {
        self.dead.iter().rev().take(limit).cloned().collect()
    }

    /// Saturating: this runs in drops, where a panic would abort the process.
    fn one_less_unacked(&mut self, lane: Priority) {
        let unacked = &mut self.unacked[lane as usize];
        *unacked = unacked.saturating_sub(1);
    }

    fn bury(&mut self, message: Message, lane: Priority, reason: String) {
        if self.dead.len() == KEPT_DEAD_LETTERS {
            self.dead.pop_front();
        }
        self.dead.push_back(DeadLetter { message, lane, reason, at: Utc::now() });
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
    fn only_the_newest_dead_letters_are_kept() {
        let mut store = store();
        for n in 0..KEPT_DEAD_LETTERS + 2 {
            store.accept(dead(n), Instant::now());
        }
        assert_eq!(store.depths().dead, KEPT_DEAD_LETTERS as u64);
        let kept = store.dead_letters(usize::MAX);
        assert_eq!(kept.len(), KEPT_DEAD_LETTERS);
        assert_eq!(kept[0].reason, format!("reason {}", KEPT_DEAD_LETTERS + 1));
        assert_eq!(kept.last().map(|letter| letter.reason.as_str()), Some("reason 2"));
    }
}
