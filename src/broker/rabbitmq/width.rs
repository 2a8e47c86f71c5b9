//! How many tasks a lane's messages carry.
//!
//! The server counts messages: sent as many bundles as there may be tasks, a worker would keep from the others what it
//! can't come to for long.

/// Of how many messages the mean is taken, about.
const REMEMBERED: f64 = 8.0;
/// How far the mean may be from what is gone by, as each change costs a channel: a bundle among many singles is none.
const SAME: std::ops::Range<f64> = 0.6..2.0;

#[derive(Clone, Copy, Debug)]
pub(super) struct Width {
    /// Tasks in a message.
    mean: f64,
    gone_by: usize,
}

/// One each, until there are others: a channel that comes upon bundles is sent a bundle for each task that it should be,
/// until it knows, which is so at each new subscription. Taken for bundles, singles would be what a worker starves for.
impl Default for Width {
    fn default() -> Self {
        Self { mean: 1.0, gone_by: 1 }
    }
}

impl Width {
    /// A message with so many tasks has come.
    pub fn learn(&mut self, parts: usize) {
        self.mean += (parts as f64 - self.mean) / REMEMBERED;
        if !SAME.contains(&(self.mean / self.gone_by as f64)) {
            self.gone_by = (self.mean.round() as usize).max(1);
        }
    }

    /// Messages for so many tasks; of bundles one more, so that one is at hand when another is done with.
    pub fn messages(self, tasks: usize) -> usize {
        match self.gone_by {
            1 => tasks,
            parts => tasks.div_ceil(parts) + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages for 80 tasks after these have come, again and again.
    fn after(messages: &[usize]) -> Vec<usize> {
        let mut width = Width::default();
        let mut seen = Vec::new();
        for parts in messages.iter().cycle().take(messages.len() * 100) {
            width.learn(*parts);
            seen.push(width.messages(80));
        }
        seen
    }

    #[test]
    fn singles_are_counted_one_by_one_and_bundles_soon_as_what_they_are() {
        assert!(after(&[1]).iter().all(|messages| *messages == 80));
        let bundles = after(&[8]);
        assert!((11..=15).contains(bundles.last().expect("some")), "{bundles:?}");
        // The last bundle of a batch is a small one.
        assert!(after(&[8, 8, 8, 3])[30..].iter().all(|messages| (11..=21).contains(messages)));
    }

    #[test]
    fn where_both_come_it_is_what_they_carry_on_the_whole() {
        let mut mixed = vec![1; 20];
        mixed.push(8);
        let seen = &after(&mixed)[100..];
        assert!(seen.iter().all(|messages| *messages >= 80 / 3), "{seen:?}");
    }

    #[test]
    fn a_change_is_seldom() {
        let among = |singles: usize| [vec![1; singles], vec![8]].concat();
        for messages in [vec![8, 8, 8, 3], vec![1], among(1), among(5), among(10), among(20)] {
            let seen = &after(&messages)[100..];
            let changes = seen.windows(2).filter(|pair| pair[0] != pair[1]).count();
            assert_eq!(changes, 0, "{messages:?}: {seen:?}");
        }
    }

    #[test]
    fn one_huge_message_is_forgotten() {
        let mut width = Width::default();
        width.learn(10_000);
        assert_eq!(width.messages(80), 2);
        (0..100).for_each(|_| width.learn(1));
        assert_eq!(width.messages(80), 80);
    }
}
