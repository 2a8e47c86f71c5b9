//! What workers take: lanes that are paused for all of them, and a worker that is to take nothing more.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::priority::Priority;

/// A lane that no worker takes from, for the time being.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub since: DateTime<Utc>,
    pub reason: Option<String>,
    /// Who paused it.
    pub by: String,
}

/// By [`Priority::rank`]; `None` for a lane that is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses(pub [Option<Pause>; 3]);

impl Pauses {
    pub fn is_paused(&self, lane: Priority) -> bool {
        self.0[lane as usize].is_some()
    }
}

/// What a subscription is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intake {
    /// By [`Priority::rank`]. Of a lane that is closed nothing more is sent, and what was sent ahead is held until
    /// it is open again.
    pub lanes: [bool; 3],
    /// Nothing more is sent at all; what was sent ahead is still handed out.
    pub last: bool,
}

impl Default for Intake {
    fn default() -> Self {
        Self::ALL
    }
}

impl Intake {
    /// Everything.
    pub const ALL: Self = Self { lanes: [true; 3], last: false };

    /// What the pauses leave; the last of it for a worker that is to be drained.
    pub fn new(pauses: &Pauses, last: bool) -> Self {
        Self { lanes: Priority::ALL.map(|lane| !pauses.is_paused(lane)), last }
    }

    pub fn takes(&self, lane: Priority) -> bool {
        self.lanes[lane as usize]
    }
}
