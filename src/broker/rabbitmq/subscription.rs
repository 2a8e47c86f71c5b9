//! The channels behind a subscription, and how what they are sent is changed.
//!
//! The server takes a channel's prefetch for the consumers that start after it was set, so a change means a fresh
//! channel. The one before is retired: it gets no more, and what it was sent is handed out before the rest. A lane
//! that is closed has its channel retired in the same way and gets none until it is open again. Returning what was
//! sent would count towards the delivery limit, and a few changes during an outage would make dead letters of tasks
//! that nobody ever tried.

use std::sync::{Arc, Mutex};

use futures_util::future::try_join_all;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::Unavailable;
use super::super::in_hand::Hands;
use super::consumer::{Inbox, Turn};
use super::lane::{Lane, Pump};
use super::link::Live;
use super::splitter::Splitter;
use crate::domain::priority::Priority;

pub(super) struct Subscription {
    live: Arc<Live>,
    queues: Vec<Channel>,
    hands: Arc<Mutex<Hands>>,
    inbox: Arc<Inbox>,
    /// Where no bundle is to be handed out.
    splitter: Option<Arc<Splitter>>,
    pumps: TaskTracker,
}

/// A queue and what retires its channel, while there is one.
struct Channel {
    lane: Option<Priority>,
    queue: String,
    retired: Option<CancellationToken>,
}

impl Subscription {
    pub fn new(
        live: Arc<Live>,
        queues: Vec<(Option<Priority>, &str)>,
        hands: Arc<Mutex<Hands>>,
        inbox: Arc<Inbox>,
        splitter: Option<Arc<Splitter>>,
        pumps: TaskTracker,
    ) -> Self {
        let channel = |(lane, queue): (_, &str)| Channel { lane, queue: queue.to_owned(), retired: None };
        Self { live, queues: queues.into_iter().map(channel).collect(), hands, inbox, splitter, pumps }
    }

    /// Opens the first channels.
    pub async fn open(&mut self) -> Result<(), Unavailable> {
        let turns = self.inbox.first_turns();
        self.make(turns).await
    }

    /// Makes these turns, all of them or none.
    async fn make(&mut self, turns: Vec<Turn>) -> Result<(), Unavailable> {
        // All at once: the lane that is subscribed first would have a start over the others.
        let subscribing = turns.iter().filter_map(|turn| {
            let Channel { lane, queue, .. } = &self.queues[turn.queue];
            let retired = CancellationToken::new();
            let lane = Lane::new(*lane, self.hands.clone(), retired.clone());
            let (live, inbox, splitter) = (self.live.clone(), self.inbox.clone(), self.splitter.clone());
            let pump = Pump::subscribe(live, queue, turn.prefetch?, lane, inbox, splitter);
            Some(async move { Ok((turn.queue, retired, pump.await?)) })
        });
        let opened = try_join_all(subscribing).await.inspect_err(|_| self.live.undeclare())?;
        // Opened before the others are retired: the caller never waits for a channel.
        turns.iter().filter_map(|turn| self.queues[turn.queue].retired.take()).for_each(|old| old.cancel());
        for (queue, retired, pump) in opened {
            self.queues[queue].retired = Some(retired);
            self.inbox.begun();
            self.pumps.spawn(pump.run());
        }
        Ok(())
    }

    /// Opens and retires channels as they are wanted, until the subscription ends.
    pub async fn keep(mut self) {
        loop {
            let turns = tokio::select! {
                () = self.inbox.closed() => return,
                turns = self.inbox.turns() => turns,
                () = self.inbox.held_too_long() => {
                    self.inbox.give_back_held();
                    continue;
                }
            };
            if let Err(Unavailable(reason)) = self.make(turns).await {
                return self.inbox.end(Some(reason));
            }
        }
    }
}
