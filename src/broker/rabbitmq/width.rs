//! How many tasks a lane's messages carry.
//!
//! The server counts messages: sent as many bundles as there may be tasks, a worker would keep from the others what it
//! can't come to for long.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Width {
    parts: usize,
    /// Messages of one task since the last bundle.
    singles: usize,
}

impl Width {
    fn of(parts: usize) -> Self {
        Self { parts, singles: 0 }
    }

    /// A bundle counts at once. That there are none any more is seen late: each change costs a channel.
    pub fn learn(&mut self, parts: usize, prefetch: usize) {
        if parts > 1 {
            *self = Self::of(parts.max(self.parts));
        } else if self.parts > 1 {
            self.singles += 1;
            if self.singles >= 2 * prefetch {
                *self = Self::default();
            }
        }
    }

    /// Messages for so many tasks.
    pub fn messages(self, tasks: usize) -> usize {
        tasks.div_ceil(self.parts)
    }
}

/// One each, until a bundle is seen: the first channel on a queue of bundles is sent more than it should be, some ten
/// calls' worth, once. Taken for bundles, singles would be what a worker starves for.
impl Default for Width {
    fn default() -> Self {
        Self::of(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_counts_at_once_and_singles_only_after_a_while() {
        let mut width = Width::default();
        assert_eq!(width.messages(80), 80);
        width.learn(8, 80);
        assert_eq!(width.messages(80), 10);
        // The last one of a batch, and a retry now and then.
        width.learn(3, 80);
        for _ in 0..159 {
            width.learn(1, 80);
        }
        assert_eq!(width.messages(80), 10);
        width.learn(1, 80);
        assert_eq!(width.messages(80), 80);
    }

    #[test]
    fn singles_are_counted_from_the_last_bundle() {
        let mut width = Width::of(8);
        for parts in std::iter::repeat_n([1, 1, 1, 1, 8], 100).flatten() {
            width.learn(parts, 4);
        }
        assert_eq!(width, Width::of(8));
    }

    #[test]
    fn there_is_always_one_message() {
        assert_eq!(Width::of(8).messages(1), 1);
        assert_eq!(Width::of(100).messages(101), 2);
    }
}
