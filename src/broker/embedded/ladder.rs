//! The retry ladder: messages that wait for their time.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::super::Message;
use crate::domain::priority::Priority;

/// Ordered by due time, so a long delay never holds up a short one; the number keeps messages of the same
/// instant apart and in order.
#[derive(Debug, Default)]
pub(super) struct Ladder {
    waiting: BTreeMap<(Instant, u64), (Priority, Message)>,
    climbed: u64,
}

impl Ladder {
    pub fn push(&mut self, due: Instant, lane: Priority, message: Message) {
        self.waiting.insert((due, self.climbed), (lane, message));
        self.climbed += 1;
    }

    /// The next message whose time has come, earliest first.
    pub fn pop_due(&mut self, now: Instant) -> Option<(Priority, Message)> {
        let first = self.waiting.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// When the next message is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::message;
    use super::*;

    #[test]
    fn what_is_due_first_comes_first_and_not_before() {
        let mut ladder = Ladder::default();
        let now = Instant::now();
        let after = |ms| now + Duration::from_millis(ms);
        for (ms, id) in [(400, "late"), (100, "early"), (100, "early too")] {
            ladder.push(after(ms), Priority::Low, message(id));
        }
        assert_eq!(ladder.next_due(), Some(after(100)));
        assert_eq!(ladder.pop_due(after(99)), None);
        assert_eq!(ladder.pop_due(after(100)), Some((Priority::Low, message("early"))));
        assert_eq!(ladder.pop_due(after(100)), Some((Priority::Low, message("early too"))));
        assert_eq!(ladder.pop_due(after(399)), None);
        assert_eq!(ladder.len(), 1);
        assert_eq!(ladder.next_due(), Some(after(400)));
    }
}
