//! What of a channel's deliveries is settled and not yet told to the server: acks go in runs, as singly they
//! cost the server three times as much.
//!
//! Delivery tags of a channel count up from one. An ack of a tag can cover all tags before it, so it may only
//! be sent over a prefix in which everything is settled. A slow delivery must not keep the acks behind it
//! back for ever: they use up the prefetch, and they come again should the connection be lost.
//!
//! A message with several parts is settled with the last of them: acked when all are, else returned as a whole.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

/// How long an ack may wait for slower deliveries before it before it goes alone.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// One frame to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// With `multiple`, for this tag and all before it.
    Ack { tag: u64, multiple: bool },
    /// Back to its lane, and counted towards the delivery limit: to RabbitMQ 4.3, a nack doesn't count.
    Reject { tag: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Acked at that moment, and not yet told.
    Acked(Instant),
    /// Told.
    Gone,
}

#[derive(Debug, Default)]
pub(super) struct Settled {
    /// The newest tag delivered.
    delivered: u64,
    /// Everything up to here has been told.
    told: u64,
    fates: BTreeMap<u64, Fate>,
    /// To be returned, in the order in which they were dropped.
    returned: Vec<u64>,
    /// Of the messages that have several parts.
    parts: HashMap<u64, Parts>,
}

#[derive(Debug)]
struct Parts {
    in_hand: usize,
    /// One of them was dropped.
    returned: bool,
}

impl Settled {
    /// A message with so many parts, each of which is to be acked or given back.
    pub fn deliver(&mut self, tag: u64, parts: usize) {
        self.delivered = self.delivered.max(tag);
        if parts > 1 {
            self.parts.insert(tag, Parts { in_hand: parts, returned: false });
        }
    }

    pub fn ack(&mut self, tag: u64, now: Instant) {
        self.settle(tag, false, now);
    }

    pub fn give_back(&mut self, tag: u64, now: Instant) {
        self.settle(tag, true, now);
    }

    fn settle(&mut self, tag: u64, mut returned: bool, now: Instant) {
        if let Some(parts) = self.parts.get_mut(&tag) {
            parts.in_hand -= 1;
            parts.returned |= returned;
            if parts.in_hand > 0 {
                return;
            }
            returned = parts.returned;
            self.parts.remove(&tag);
        }
        match returned {
            true => self.returned.push(tag),
            false => _ = self.fates.insert(tag, Fate::Acked(now)),
        }
    }

    /// True when the server has been told about everything that it delivered.
    pub fn is_done(&self) -> bool {
        self.told == self.delivered && self.returned.is_empty()
    }

    /// What is to be sent now.
    pub fn frames(&mut self, now: Instant) -> Vec<Frame> {
        let mut frames = Vec::new();
        for tag in std::mem::take(&mut self.returned) {
            frames.push(Frame::Reject { tag });
            self.fates.insert(tag, Fate::Gone);
        }
        frames.extend(self.prefix());
        for (tag, fate) in &mut self.fates {
            if matches!(fate, Fate::Acked(since) if now.duration_since(*since) >= LONGEST_WAIT) {
                frames.push(Frame::Ack { tag: *tag, multiple: false });
                *fate = Fate::Gone;
            }
        }
        frames
    }

    /// When there will be something to send although nothing more is settled.
    pub fn next_due(&self) -> Option<Instant> {
        let waiting = self.fates.values().filter_map(|fate| match fate {
            Fate::Acked(since) => Some(*since + LONGEST_WAIT),
            Fate::Gone => None,
        });
        waiting.min()
    }

    /// One ack for the run of settled tags at the front.
    fn prefix(&mut self) -> Option<Frame> {
        let (mut last, mut count) = (None, 0);
        while let Some(fate) = self.fates.remove(&(self.told + 1)) {
            self.told += 1;
            if matches!(fate, Fate::Acked(_)) {
                // Not a tag that is gone: the server knows it no more, and would close the channel.
                last = Some(self.told);
                count += 1;
            }
        }
        last.map(|tag| Frame::Ack { tag, multiple: count > 1 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn delivered(tags: u64) -> Settled {
        let mut settled = Settled::default();
        (1..=tags).for_each(|tag| settled.deliver(tag, 1));
        settled
    }

    #[test]
    fn a_run_is_one_frame() {
        let (mut settled, now) = (delivered(5), Instant::now());
        for tag in [3, 1, 2] {
            settled.ack(tag, now);
        }
        assert_eq!(settled.frames(now), [Frame::Ack { tag: 3, multiple: true }]);
        assert_eq!(settled.frames(now), []);
        settled.ack(4, now);
        assert_eq!(settled.frames(now), [Frame::Ack { tag: 4, multiple: false }]);
        assert!(!settled.is_done());
    }

    #[test]
    fn what_waits_for_a_slow_one_goes_alone_after_a_while() {
        let (mut settled, now) = (delivered(3), Instant::now());
        settled.ack(2, now);
        settled.ack(3, now);
        assert_eq!(settled.frames(now), []);
        assert_eq!(settled.next_due(), Some(now + LONGEST_WAIT));
        let alone = [2, 3].map(|tag| Frame::Ack { tag, multiple: false });
        assert_eq!(settled.frames(now + LONGEST_WAIT), alone);
        assert_eq!(settled.next_due(), None);
        settled.ack(1, now);
        assert_eq!(settled.frames(now), [Frame::Ack { tag: 1, multiple: false }]);
        assert!(settled.is_done());
    }

    #[test]
    fn what_is_returned_goes_first_and_in_the_order_of_its_return() {
        let (mut settled, now) = (delivered(4), Instant::now());
        settled.ack(1, now);
        settled.give_back(4, now);
        settled.give_back(2, now);
        settled.ack(3, now);
        let expected = [Frame::Reject { tag: 4 }, Frame::Reject { tag: 2 }, Frame::Ack { tag: 3, multiple: true }];
        assert_eq!(settled.frames(now), expected);
        assert!(settled.is_done());
    }

    #[test]
    fn a_message_is_acked_with_the_last_of_its_parts() {
        let (mut settled, now) = (Settled::default(), Instant::now());
        settled.deliver(1, 3);
        settled.deliver(2, 1);
        settled.ack(2, now);
        for _ in 0..2 {
            settled.ack(1, now);
            assert_eq!(settled.frames(now), []);
        }
        settled.ack(1, now);
        assert_eq!(settled.frames(now), [Frame::Ack { tag: 2, multiple: true }]);
        assert!(settled.is_done());
    }

    #[test]
    fn a_part_that_is_dropped_returns_the_message_once_no_other_is_in_hand() {
        let now = Instant::now();
        for dropped in 0..3 {
            let mut settled = Settled::default();
            settled.deliver(1, 3);
            for part in 0..3 {
                assert_eq!(settled.frames(now), [], "{dropped}");
                match part == dropped {
                    true => settled.give_back(1, now),
                    false => settled.ack(1, now),
                }
            }
            assert_eq!(settled.frames(now), [Frame::Reject { tag: 1 }], "{dropped}");
            assert!(settled.is_done());
        }
    }

    proptest! {
        /// The server's side of the channel: a tag that it doesn't know any more closes the channel, and an
        /// ack for several must not cover one that is still in hand.
        #[test]
        fn the_server_never_sees_a_tag_twice_nor_one_that_is_in_hand(
            steps in prop::collection::vec((any::<prop::sample::Index>(), 0..6u8), 1..200),
        ) {
            let mut settled = Settled::default();
            let (mut in_hand, mut known) = (Vec::new(), std::collections::BTreeSet::new());
            let (mut tag, mut now) = (0, Instant::now());
            for (index, step) in steps {
                match step {
                    parts @ 3..6 => {
                        tag += 1;
                        // One, two or three.
                        let parts = usize::from(parts) - 2;
                        settled.deliver(tag, parts);
                        in_hand.extend(std::iter::repeat_n(tag, parts));
                        known.insert(tag);
                    }
                    1 if !in_hand.is_empty() => settled.ack(in_hand.remove(index.index(in_hand.len())), now),
                    2 if !in_hand.is_empty() => settled.give_back(in_hand.remove(index.index(in_hand.len())), now),
                    _ => {
                        now += Duration::from_millis(30);
                        check(settled.frames(now), &in_hand, &mut known);
                    }
                }
            }
            for tag in in_hand.drain(..) {
                settled.ack(tag, now);
            }
            check(settled.frames(now + LONGEST_WAIT), &[], &mut known);
            assert!(settled.is_done() && known.is_empty(), "{settled:?} {known:?}");
        }
    }

    fn check(frames: Vec<Frame>, in_hand: &[u64], known: &mut std::collections::BTreeSet<u64>) {
        for frame in frames {
            match frame {
                Frame::Ack { tag, multiple } => {
                    assert!(known.contains(&tag), "{tag} is unknown");
                    let covered: Vec<u64> =
                        known.iter().copied().filter(|t| *t == tag || (multiple && *t < tag)).collect();
                    assert!(covered.iter().all(|t| !in_hand.contains(t)), "{frame:?} covers one in hand");
                    covered.iter().for_each(|t| assert!(known.remove(t)));
                }
                Frame::Reject { tag } => assert!(known.remove(&tag) && !in_hand.contains(&tag)),
            }
        }
    }
}
