//! The channels behind a subscription, and how their prefetch is changed.
//!
//! The server takes a channel's prefetch for the consumers that start after it was set, so a change means fresh
//! channels. Those before are retired: they get no more, and what they were sent is handed out before the rest.
//! Returning it would count towards the delivery limit, and a few changes during an outage would make dead letters
//! of tasks that nobody ever tried.

use std::sync::{Arc, Mutex};

use futures_util::future::try_join_all;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::Unavailable;
use super::super::in_hand::Hands;
use super::consumer::Inbox;
use super::lane::{Lane, Pump};
use super::link::Live;
use crate::domain::priority::Priority;

pub(super) struct Subscription {
    pub live: Arc<Live>,
    /// The queues and their lanes.
    pub queues: Vec<(Option<Priority>, String)>,
    pub hands: Arc<Mutex<Hands>>,
    pub inbox: Arc<Inbox>,
    pub pumps: TaskTracker,
}

impl Subscription {
    /// Subscribes to the queues, all of them or none; returns what retires these channels.
    pub async fn open(&self, prefetch: usize) -> Result<CancellationToken, Unavailable> {
        let retired = CancellationToken::new();
        // All at once: the lane that is subscribed first would have a start over the others.
        let subscribing = self.queues.iter().map(|(priority, queue)| {
            let lane = Lane::new(*priority, self.hands.clone(), retired.clone());
            Pump::subscribe(self.live.clone(), queue, prefetch, lane, self.inbox.clone())
        });
        let pumps = try_join_all(subscribing).await.inspect_err(|_| self.live.undeclare())?;
        for pump in pumps {
            self.pumps.spawn(pump.run());
        }
        Ok(retired)
    }

    /// Opens fresh channels whenever the prefetch is to be another, until the subscription ends.
    pub async fn keep(self, mut current: CancellationToken) {
        loop {
            let prefetch = tokio::select! {
                () = self.inbox.closed() => return,
                prefetch = self.inbox.turn() => prefetch,
            };
            // Opened before the others are retired: the caller never waits for a channel.
            match self.open(prefetch).await {
                Ok(next) => std::mem::replace(&mut current, next).cancel(),
                Err(Unavailable(reason)) => return self.inbox.end(Some(reason)),
            }
        }
    }
}
