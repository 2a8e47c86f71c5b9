//! The three lanes and the weighted rounds in which they are served.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The lane a task travels in. A user's edit goes `High`, a save `Normal`, bulk work `Low`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    High,
    Normal,
    Low,
}

impl Priority {
    /// From the most to the least urgent: the order of [`Priority::rank`].
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// 0 is the most urgent; what the ledger stores, so that `ORDER BY priority` is lane order.
    pub fn rank(self) -> i16 {
        self as i16
    }

    /// The lane of a stored rank; an unknown rank is the least urgent, so nothing is ever stuck.
    pub fn from_rank(rank: i16) -> Self {
        match rank {
            0 => Self::High,
            1 => Self::Normal,
            _ => Self::Low,
        }
    }

    /// How many deliveries of a full round this lane gets while all three have some waiting.
    pub fn weight(self) -> u32 {
        match self {
            Self::High => 8,
            Self::Normal => 3,
            Self::Low => 1,
        }
    }

    /// The lane's name in queue names, JSON and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no lane.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("must be \"high\", \"normal\" or \"low\"")]
pub struct UnknownPriority;

impl FromStr for Priority {
    type Err = UnknownPriority;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|p| p.name() == s).ok_or(UnknownPriority)
    }
}

/// Smooth weighted round-robin over the lanes, work-conserving: an empty lane's share goes to those
/// that have something, and no lane waits for more than a round.
///
/// Each choice adds every waiting lane's weight to its credit, serves the lane with the most credit and
/// charges it the sum of the weights that took part (the scheme of nginx's upstream balancer), which
/// spreads the turns instead of serving eight of one lane in a row.
#[derive(Debug, Default)]
pub struct Rounds {
    credit: [i64; 3],
}

impl Rounds {
    /// The lane to serve next among those for which `waiting` says yes; `None` when all are empty.
    pub fn next(&mut self, waiting: impl Fn(Priority) -> bool) -> Option<Priority> {
        let mut total = 0;
        let mut chosen: Option<Priority> = None;
        for lane in Priority::ALL {
            let slot = lane as usize;
            if !waiting(lane) {
                // An idle lane saves nothing up: it would burst when it comes back.
                self.credit[slot] = 0;
                continue;
            }
            total += i64::from(lane.weight());
            self.credit[slot] += i64::from(lane.weight());
            if chosen.is_none_or(|best| self.credit[slot] > self.credit[best as usize]) {
                chosen = Some(lane);
            }
        }
        if let Some(lane) = chosen {
            self.credit[lane as usize] -= total;
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(rounds: &mut Rounds, turns: usize, waiting: impl Fn(Priority) -> bool) -> [u32; 3] {
        let mut served = [0; 3];
        for _ in 0..turns {
            served[rounds.next(&waiting).expect("a lane waits") as usize] += 1;
        }
        served
    }

    #[test]
    fn full_lanes_are_served_eight_three_one() {
        assert_eq!(serve(&mut Rounds::default(), 1200, |_| true), [800, 300, 100]);
    }

    #[test]
    fn low_is_served_within_every_round() {
        let mut rounds = Rounds::default();
        for _ in 0..50 {
            assert_eq!(serve(&mut rounds, 12, |_| true)[Priority::Low as usize], 1);
        }
    }

    #[test]
    fn an_empty_lane_leaves_its_share_to_the_others() {
        let served = serve(&mut Rounds::default(), 110, |lane| lane != Priority::Normal);
        assert_eq!(served[Priority::Normal as usize], 0);
        assert!(served[Priority::High as usize] >= 95, "{served:?}");
        assert!(served[Priority::Low as usize] >= 10, "{served:?}");
    }

    #[test]
    fn nothing_waits_nothing_is_served() {
        assert_eq!(Rounds::default().next(|_| false), None);
    }

    #[test]
    fn names_and_ranks_round_trip() {
        for lane in Priority::ALL {
            assert_eq!(lane.name().parse(), Ok(lane));
            assert_eq!(Priority::from_rank(lane.rank()), lane);
        }
        assert_eq!("urgent".parse::<Priority>(), Err(UnknownPriority));
    }
}
