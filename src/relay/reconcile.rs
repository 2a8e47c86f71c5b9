//! Notices what the broker has lost.
//!
//! The ledger says of a task that the broker has it; whether that is so, nobody can ask: a queue tells how
//! many messages are ready and not which, and those in a worker's hands are counted by the worker alone. Age
//! says nothing either, as a backlog may wait for hours. But a lane is first in, first out, and what comes
//! back to it comes back to its front. So two looks, one round of the reconciler apart, tell:
//!
//! - A lane that was *empty* in both, nothing ready and nothing in anyone's hands, has lost whatever entered
//!   it before the first. One look is not enough: a message that has just been taken is neither ready nor in
//!   a heartbeat yet. By the second look every process that is alive has written a newer heartbeat, in which
//!   the message is held, or it has been acked, and then the ledger knows.
//! - A lane that *moved* between the looks: by the first, a message had been delivered that entered it at
//!   some moment, so everything that entered before was delivered by then. What of it isn't in anyone's hands
//!   in either look, and not finished, either came back to the lane or is lost. What came back stands in
//!   front: before the lane could move, it was delivered again, and would be in someone's hands now.
//!
//! Where neither holds, as nobody works or a provider is away, nothing is concluded; nothing waits for it.
//!
//! Moments are the relays' and, for retries, the workers' own; the grace makes up for their clocks' and for
//! the time a message needs to enter its lane. Clocks more than a round apart (30 s) can bring a message
//! twice, which is harmless, and lose none.

use std::collections::HashMap;
use std::sync::PoisonError;

use chrono::{DateTime, Utc};

use super::{Relay, held};
use crate::broker::Depths;
use crate::db::DbError;
use crate::db::workers::Heartbeat;
use crate::domain::priority::Priority;

/// What the broker and the heartbeats said at one moment.
#[derive(Clone, Debug)]
pub(super) struct Look {
    /// Before anything was asked.
    at: DateTime<Utc>,
    /// By lane.
    empty: [bool; 3],
    newest: [Option<DateTime<Utc>>; 3],
    oldest: [Option<DateTime<Utc>>; 3],
    /// Each process's last heartbeat, by that process's own clock.
    heartbeats: HashMap<String, DateTime<Utc>>,
}

impl Look {
    fn new(at: DateTime<Utc>, depths: &Depths, processes: &[Heartbeat]) -> Self {
        let by_lane = |n: usize| {
            let newest = processes.iter().filter_map(|process| process.newest()[n]).max();
            let oldest = processes.iter().filter_map(|process| process.oldest()[n]).min();
            (newest, oldest)
        };
        let lanes = [0, 1, 2].map(by_lane);
        let empty = Priority::ALL.map(|lane| held(depths, lane) == 0 && lanes[lane as usize].1.is_none());
        let heartbeats = processes.iter().map(|process| (process.id.clone(), process.heartbeat_at)).collect();
        Self { at, empty, newest: lanes.map(|lane| lane.0), oldest: lanes.map(|lane| lane.1), heartbeats }
    }

    /// Whether every process that is alive has been heard since `before`.
    fn is_news_after(&self, before: &Self) -> bool {
        self.heartbeats.iter().all(|(id, at)| before.heartbeats.get(id).is_none_or(|then| at > then))
    }

    /// The moment before which everything that entered the lane is finished or lost; `None` when that can't be
    /// told.
    fn settled(&self, before: &Self, lane: Priority) -> Option<DateTime<Utc>> {
        let n = lane as usize;
        if self.empty[n] && before.empty[n] {
            return Some(before.at);
        }
        let reached = before.newest[n].filter(|reached| self.newest[n] > Some(*reached))?;
        [Some(reached), before.oldest[n], self.oldest[n]].into_iter().flatten().min()
    }
}

impl Relay {
    /// Looks for tasks that the ledger believes with the broker and the broker no longer has; they are pending
    /// again.
    pub async fn reconcile(&self) -> Result<(), DbError> {
        let at = Utc::now();
        let Ok(depths) = self.broker.depths().await else { return Ok(()) };
        // After the broker: what was taken in between is in hand.
        let look = Look::new(at, &depths, &self.db.workers().await?);
        let Some(before) = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone() else {
            self.remember(look);
            return Ok(());
        };
        if !look.is_news_after(&before) {
            // The next look compares with the same one.
            return Ok(());
        }
        let grace = chrono::Duration::from_std(self.lateness).unwrap_or(chrono::Duration::MAX);
        for lane in Priority::ALL {
            let settled = look.settled(&before, lane).and_then(|moment| moment.checked_sub_signed(grace));
            let Some(settled) = settled else { continue };
            let lost = self.db.release_lost(lane, settled).await?;
            if lost > 0 {
                tracing::warn!(%lane, tasks = lost, "the broker has lost tasks; they are pending again");
            }
        }
        self.remember(look);
        Ok(())
    }

    fn remember(&self, look: Look) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(look);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Priority = Priority::Normal;

    fn second(s: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(s, 0).expect("a moment")
    }

    /// A look at `at` with so many ready, and of each process its newest and oldest.
    fn look(at: i64, ready: u64, processes: &[(Option<i64>, Option<i64>)]) -> Look {
        let lane = |moments: Vec<Option<i64>>| {
            let some = moments.into_iter().flatten().map(second);
            some.collect::<Vec<_>>()
        };
        let newest = lane(processes.iter().map(|(newest, _)| *newest).collect()).into_iter().max();
        let oldest = lane(processes.iter().map(|(_, oldest)| *oldest).collect()).into_iter().min();
        let heartbeats = (0..processes.len()).map(|n| (n.to_string(), second(at))).collect();
        let empty = [true, ready == 0 && oldest.is_none(), true];
        Look { at: second(at), empty, newest: [None, newest, None], oldest: [None, oldest, None], heartbeats }
    }

    fn settled(before: &Look, now: &Look) -> Option<i64> {
        now.settled(before, LANE).map(|moment| moment.timestamp())
    }

    #[test]
    fn an_empty_lane_is_settled_up_to_the_first_look() {
        let idle = &[(Some(50), None)];
        assert_eq!(settled(&look(100, 0, idle), &look(130, 0, idle)), Some(100));
        // Without any worker, too: what was handed over must be somewhere.
        assert_eq!(settled(&look(100, 0, &[]), &look(130, 0, &[])), Some(100));
        // Seen empty once only, or with something in hand.
        assert_eq!(settled(&look(100, 1, idle), &look(130, 0, idle)), None);
        assert_eq!(settled(&look(100, 0, idle), &look(130, 0, &[(Some(50), Some(50))])), None);
    }

    #[test]
    fn a_backlog_that_stands_still_tells_nothing() {
        let stuck = &[(Some(50), Some(48))];
        assert_eq!(settled(&look(100, 200_000, stuck), &look(90_000, 200_000, stuck)), None);
        assert_eq!(settled(&look(100, 200_000, &[]), &look(90_000, 200_000, &[])), None);
    }

    #[test]
    fn a_lane_that_moves_is_settled_up_to_what_had_been_delivered_before() {
        let (before, now) = (look(100, 9, &[(Some(50), None)]), look(130, 9, &[(Some(60), None)]));
        assert_eq!(settled(&before, &now), Some(50));
    }

    #[test]
    fn what_any_process_holds_in_either_look_is_not_lost() {
        let before = look(100, 9, &[(Some(50), Some(45)), (Some(20), Some(20))]);
        let now = look(130, 9, &[(Some(60), Some(55)), (Some(20), Some(20))]);
        assert_eq!(settled(&before, &now), Some(20));
        let later = look(160, 9, &[(Some(70), Some(65)), (Some(20), None)]);
        assert_eq!(settled(&now, &later), Some(20));
        let last = look(190, 9, &[(Some(80), Some(75)), (Some(20), None)]);
        assert_eq!(settled(&later, &last), Some(65));
    }

    #[test]
    fn a_process_that_has_not_been_heard_since_says_nothing_new() {
        let (before, now) = (look(100, 0, &[(None, None)]), look(130, 0, &[(None, None)]));
        assert!(now.is_news_after(&before));
        assert!(!Look { heartbeats: before.heartbeats.clone(), ..now.clone() }.is_news_after(&before));
        // One that has come or gone in between doesn't matter.
        assert!(look(130, 0, &[]).is_news_after(&before));
        assert!(now.is_news_after(&look(100, 0, &[])));
    }
}
