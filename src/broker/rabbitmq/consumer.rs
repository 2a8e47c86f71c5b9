//! A subscription: several lanes' deliveries, taken in weighted rounds.
//!
//! Each lane has a channel with a prefetch of its own, so that a burst in one never fills the only window and
//! holds up the others. Every lane's window is the whole prefetch: with a share each, a lane that is alone,
//! which is the usual case, would be served at a twelfth of what the worker can take. So the server may send
//! ahead three times what the caller may hold, which is small as a message is an id; the caller's own limit
//! is kept here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::task::coop::consume_budget;
use tokio_util::sync::CancellationToken;

use super::super::{Consumer, Delivery, Receipt, Unavailable};
use super::lane::{Arrival, Lane};
use crate::domain::priority::{Priority, Rounds};

/// What arrived and nobody has taken yet.
pub(super) struct Inbox {
    state: Mutex<State>,
    /// Something can be taken, or the subscription has ended. For one waiter, as `receive` has the consumer
    /// to itself.
    news: Notify,
    /// The channels may have to be changed. For one waiter, too.
    turned: Notify,
    closed: CancellationToken,
}

#[derive(Default)]
struct State {
    /// What the caller may hold.
    prefetch: usize,
    /// What the channels were opened with.
    opened_with: usize,
    lanes: [VecDeque<Arrival>; 3],
    rounds: Rounds,
    /// Deliveries in the caller's hands.
    held: usize,
    /// Why there will be no more.
    ended: Option<String>,
}

impl Inbox {
    pub fn new(prefetch: usize) -> Arc<Self> {
        let prefetch = prefetch.max(1);
        let state = State { prefetch, opened_with: prefetch, ..State::default() };
        let (news, turned) = (Notify::new(), Notify::new());
        Arc::new(Self { state: Mutex::new(state), news, turned, closed: CancellationToken::new() })
    }

    /// Holds for the caller at once, and for the channels as soon as they can be changed.
    pub fn set_prefetch(&self, prefetch: usize) {
        self.state().prefetch = prefetch.max(1);
        self.turned.notify_one();
    }

    /// Waits until fresh channels are to be opened; returns their prefetch. Only once all that earlier channels
    /// were sent is taken, or a caller that takes nothing for long and changes its mind often would come to hold
    /// the whole queue.
    pub async fn turn(&self) -> usize {
        loop {
            let turned = self.turned.notified();
            if let Some(prefetch) = self.state().turn() {
                return prefetch;
            }
            turned.await;
        }
    }

    pub fn put(&self, arrival: Arrival) {
        let mut state = self.state();
        if state.ended.is_some() {
            // After the others went back: nobody would take it.
            return arrival.lane.give_back(arrival.tag, arrival.received.entered);
        }
        state.lanes[arrival.received.lane as usize].push_back(arrival);
        drop(state);
        self.news.notify_one();
    }

    /// Ends the subscription, for all its lanes: what was not taken goes back, in order.
    pub fn end(&self, reason: Option<String>) {
        let mut state = self.state();
        if state.ended.is_none() {
            state.ended = Some(reason.unwrap_or_else(|| "it has been closed".to_owned()));
        }
        for arrival in state.lanes.iter_mut().flat_map(|lane| lane.drain(..)) {
            arrival.lane.give_back(arrival.tag, arrival.received.entered);
        }
        drop(state);
        self.closed.cancel();
        self.news.notify_one();
    }

    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    fn take(&self, max: usize) -> Result<Vec<Arrival>, Unavailable> {
        let mut state = self.state();
        if let Some(reason) = &state.ended {
            return Err(Unavailable(reason.clone()));
        }
        let room = state.prefetch.saturating_sub(state.held).min(max);
        let taken: Vec<Arrival> = std::iter::from_fn(|| state.next()).take(room).collect();
        state.held += taken.len();
        if state.prefetch != state.opened_with {
            self.turned.notify_one();
        }
        Ok(taken)
    }

    fn free_one(&self) {
        let mut state = self.state();
        state.held = state.held.saturating_sub(1);
        drop(state);
        self.news.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn turn(&mut self) -> Option<usize> {
        let left = self.lanes.iter().filter_map(VecDeque::front).any(|first| first.lane.is_retired());
        if left || self.prefetch == self.opened_with {
            return None;
        }
        self.opened_with = self.prefetch;
        Some(self.prefetch)
    }

    fn next(&mut self) -> Option<Arrival> {
        let Self { lanes, rounds, .. } = self;
        let lane = rounds.next(|lane: Priority| !lanes[lane as usize].is_empty())?;
        lanes[lane as usize].pop_front()
    }
}

pub(super) struct RabbitConsumer(pub(super) Arc<Inbox>);

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, Unavailable> {
        consume_budget().await;
        if max == 0 {
            return Ok(Vec::new());
        }
        loop {
            let news = self.0.news.notified();
            let taken = self.0.take(max)?;
            if !taken.is_empty() {
                return Ok(taken.into_iter().map(|arrival| deliver(arrival, self.0.clone())).collect());
            }
            news.await;
        }
    }

    fn set_prefetch(&mut self, prefetch: usize) {
        self.0.set_prefetch(prefetch);
    }
}

impl Drop for RabbitConsumer {
    fn drop(&mut self) {
        self.0.end(None);
    }
}

fn deliver(arrival: Arrival, inbox: Arc<Inbox>) -> Delivery {
    let Arrival { received, lane, tag } = arrival;
    let receipt = Held { inbox, lane, tag, entered: received.entered, acked: false };
    Delivery::new(received.message, received.lane, received.redelivered, Box::new(receipt))
        .with_death(received.death)
}

/// Of a channel that is lost, an ack or a return goes nowhere: the server delivers the message again.
struct Held {
    inbox: Arc<Inbox>,
    lane: Arc<Lane>,
    tag: u64,
    entered: DateTime<Utc>,
    acked: bool,
}

impl Receipt for Held {
    fn ack(mut self: Box<Self>) {
        self.acked = true;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.acked {
            self.lane.ack(self.tag, self.entered);
        } else {
            self.lane.give_back(self.tag, self.entered);
        }
        self.inbox.free_one();
    }
}
