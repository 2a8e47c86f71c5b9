//! A subscription: several lanes' deliveries, taken in weighted rounds.
//!
//! Each lane has a channel with a prefetch of its own, so that a burst in one never fills the only window and
//! holds up the others. Every lane's window is the whole prefetch: with a share each, a lane that is alone,
//! which is the usual case, would be served at a twelfth of what the worker can take. So the server may send
//! ahead three times what the caller may hold, and where it comes upon bundles once more than that: small, as a
//! task is an id and a version. The caller's own limit is kept here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::super::{Consumer, Delivery, Receipt, Unavailable};
use super::lane::{Arrival, Lane};
use super::suspects::{self, SETTLE, Suspects};
use super::width::Width;
use crate::domain::intake::Intake;
use crate::domain::priority::{Priority, Rounds};

/// How long what was sent ahead waits here for the caller, whose lane is closed or who is slow.
const LONGEST_HOLD: Duration = Duration::from_secs(25 * 60);
/// How often to look whether it is over.
const HOLD_LOOK: Duration = Duration::from_secs(30);

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
    intake: Intake,
    /// The lane of each queue, and what its channel was opened with.
    opened: Vec<(Option<Priority>, Option<usize>)>,
    /// What each lane's messages carry.
    widths: [Width; 3],
    /// Channels that may still bring something.
    delivering: usize,
    lanes: [VecDeque<Arrival>; 3],
    /// In none of the lanes.
    suspects: Suspects,
    /// Whether one of them was the last to be taken: it is the others' turn.
    suspect_taken: bool,
    rounds: Rounds,
    /// Deliveries in the caller's hands.
    held: usize,
    /// Why there will be no more.
    ended: Option<String>,
}

impl Inbox {
    pub fn new(prefetch: usize, intake: Intake, queues: impl Iterator<Item = Option<Priority>>) -> Arc<Self> {
        let opened = queues.map(|lane| (lane, None)).collect();
        let state = State { prefetch: prefetch.max(1), intake, opened, ..State::default() };
        let (news, turned) = (Notify::new(), Notify::new());
        Arc::new(Self { state: Mutex::new(state), news, turned, closed: CancellationToken::new() })
    }

    /// Holds for the caller at once, and for the channels as soon as they can be changed.
    pub fn set_prefetch(&self, prefetch: usize) {
        self.state().prefetch = prefetch.max(1);
        self.turned.notify_one();
    }

    /// As [`Inbox::set_prefetch`].
    pub fn set_intake(&self, intake: Intake) {
        let mut state = self.state();
        if state.intake == intake {
            return;
        }
        state.intake = intake;
        drop(state);
        self.turned.notify_one();
        self.news.notify_one();
    }

    /// The channels to begin with.
    pub fn first_turns(&self) -> Vec<Turn> {
        self.state().turns()
    }

    /// Waits until channels are to be opened or retired. A fresh one only once all that an earlier one was sent is
    /// taken, or a caller that takes nothing for long and changes its mind often would come to hold the whole queue.
    pub async fn turns(&self) -> Vec<Turn> {
        loop {
            let turned = self.turned.notified();
            let turns = self.state().turns();
            if !turns.is_empty() {
                return turns;
            }
            turned.await;
        }
    }

    /// A channel has begun to deliver.
    pub fn begun(&self) {
        self.state().delivering += 1;
    }

    /// A channel brings nothing more.
    pub fn stopped(&self) {
        let mut state = self.state();
        state.delivering = state.delivering.saturating_sub(1);
        drop(state);
        self.news.notify_one();
    }

    /// Waits until something has been held for too long: RabbitMQ takes the channel from a consumer that keeps a
    /// delivery for half an hour.
    pub async fn held_too_long(&self) {
        while !self.state().holds_too_long() {
            sleep(HOLD_LOOK).await;
        }
    }

    /// It goes back. Of a closed lane, nobody gets it before that is open again.
    pub fn give_back_held(&self) {
        let mut state = self.state();
        for lane in &mut state.lanes {
            while let Some(arrival) = lane.pop_front_if(|arrival| is_held_too_long(arrival)) {
                arrival.give_back();
            }
        }
        state.suspects.remove(is_held_too_long).for_each(Arrival::give_back);
    }

    pub fn put(&self, arrivals: Vec<Arrival>) {
        let mut state = self.state();
        for arrival in arrivals {
            match state.ended {
                None => {
                    let lane = arrival.received.lane as usize;
                    if suspects::is_one(&arrival) {
                        // Channels are not exchanged for their width: where a process ends with two channels of a
                        // lane, what the one returns may be sent through the other, which counts as another end.
                        state.suspects.put(arrival);
                        continue;
                    }
                    if arrival.part == 0 {
                        state.widths[lane].learn(arrival.parts);
                    }
                    state.lanes[lane].push_back(arrival);
                }
                // After the others went back: nobody would take it.
                Some(_) => arrival.give_back(),
            }
        }
        if state.is_to_turn() {
            self.turned.notify_one();
        }
        drop(state);
        self.news.notify_one();
    }

    /// Ends the subscription, for all its lanes: what was not taken goes back, and what is no suspect in order.
    pub fn end(&self, reason: Option<String>) {
        let mut state = self.state();
        if state.ended.is_none() {
            state.ended = Some(reason.unwrap_or_else(|| "it has been closed".to_owned()));
        }
        let State { lanes, suspects, .. } = &mut *state;
        lanes.iter_mut().flat_map(|lane| lane.drain(..)).for_each(Arrival::give_back);
        suspects.remove(|_| true).for_each(Arrival::give_back);
        drop(state);
        self.closed.cancel();
        self.news.notify_one();
    }

    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// What can be handed out; and where that is nothing, whether something that is there will be in a moment.
    fn take(&self, max: usize) -> Result<(Vec<Arrival>, bool), Unavailable> {
        let mut state = self.state();
        if let Some(reason) = &state.ended {
            return Err(Unavailable(reason.clone()));
        }
        let room = state.prefetch.saturating_sub(state.held).min(max);
        let now = Instant::now();
        let arrivals = state.next_ones(room, now);
        state.held += arrivals.len();
        if state.is_to_turn() {
            self.turned.notify_one();
        }
        let settle = arrivals.is_empty() && room > 0 && state.suspects.settle(state.intake, now);
        Ok((arrivals, settle))
    }

    /// Whether nothing more comes, as this was to be the last.
    fn is_finished(&self) -> bool {
        let state = self.state();
        let taken = |lane| state.intake.takes(lane) && state.suspects.has(lane);
        let left = Priority::ALL.into_iter().any(|lane| state.has_others(lane) || taken(lane));
        state.intake.last && state.delivering == 0 && !left && !state.is_to_turn()
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

/// A channel that is to be opened with this prefetch, or none to be there, for the queue at this place.
pub(super) struct Turn {
    pub queue: usize,
    pub prefetch: Option<usize>,
}

impl State {
    fn turns(&mut self) -> Vec<Turn> {
        let mut turns = Vec::new();
        for queue in 0..self.opened.len() {
            let (lane, opened) = self.opened[queue];
            let prefetch = self.wanted(lane);
            if prefetch != opened && (prefetch.is_none() || !self.has_left(lane)) {
                self.opened[queue].1 = prefetch;
                turns.push(Turn { queue, prefetch });
            }
        }
        turns
    }

    fn is_to_turn(&self) -> bool {
        self.opened.iter().any(|(lane, opened)| self.wanted(*lane) != *opened)
    }

    /// What a queue's channel is to be opened with.
    fn wanted(&self, lane: Option<Priority>) -> Option<usize> {
        let sent = !self.intake.last && lane.is_none_or(|lane| self.intake.takes(lane));
        let messages = |lane: Priority| self.widths[lane as usize].messages(self.prefetch);
        sent.then_some(lane.map_or(self.prefetch, messages))
    }

    /// Whether something of a retired channel is still to be taken.
    fn has_left(&self, lane: Option<Priority>) -> bool {
        let of_queue = |arrival: &&Arrival| lane.is_none_or(|lane| lane == arrival.received.lane);
        self.oldest().filter(of_queue).any(|arrival| arrival.lane.is_retired())
    }

    fn holds_too_long(&self) -> bool {
        self.oldest().any(is_held_too_long)
    }

    /// Of each lane, and all suspects.
    fn oldest(&self) -> impl Iterator<Item = &Arrival> {
        self.lanes.iter().filter_map(VecDeque::front).chain(self.suspects.iter())
    }

    fn has_others(&self, lane: Priority) -> bool {
        self.intake.takes(lane) && !self.lanes[lane as usize].is_empty()
    }

    /// At most so many: one suspect alone, or others. In turn where there are both, so that neither waits for the other.
    fn next_ones(&mut self, room: usize, now: Instant) -> Vec<Arrival> {
        if room == 0 {
            return Vec::new();
        }
        let others = Priority::ALL.into_iter().any(|lane| self.has_others(lane));
        let suspect = match self.suspect_taken && others {
            true => None,
            false => self.suspects.pop(self.intake, now),
        };
        self.suspect_taken = suspect.is_some();
        match suspect {
            Some(suspect) => vec![suspect],
            None => std::iter::from_fn(|| self.next()).take(room).collect(),
        }
    }

    fn next(&mut self) -> Option<Arrival> {
        let Self { lanes, rounds, intake, .. } = self;
        let lane = rounds.next(|lane: Priority| intake.takes(lane) && !lanes[lane as usize].is_empty())?;
        lanes[lane as usize].pop_front()
    }
}

fn is_held_too_long(arrival: &Arrival) -> bool {
    arrival.at.elapsed() >= LONGEST_HOLD
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
            let (arrivals, settle) = self.0.take(max)?;
            if !arrivals.is_empty() || self.0.is_finished() {
                return Ok(arrivals.into_iter().map(|arrival| deliver(arrival, self.0.clone())).collect());
            }
            tokio::select! {
                () = news => {}
                () = sleep(SETTLE), if settle => {}
            }
        }
    }

    fn set_prefetch(&mut self, prefetch: usize) {
        self.0.set_prefetch(prefetch);
    }

    fn set_intake(&mut self, intake: Intake) {
        self.0.set_intake(intake);
    }
}

impl Drop for RabbitConsumer {
    fn drop(&mut self) {
        self.0.end(None);
    }
}

fn deliver(arrival: Arrival, inbox: Arc<Inbox>) -> Delivery {
    let Arrival { received, lane, tag, .. } = arrival;
    let receipt = Held { inbox, lane, tag, entered: received.entered, acked: false };
    Delivery::new(received.message, received.lane, received.returns, Box::new(receipt)).with_death(received.death)
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

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::super::super::in_hand::Hands;
    use super::*;

    const LANE: Priority = Priority::Normal;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_goes_back_before_the_server_gives_the_consumer_up() {
        let inbox = Inbox::new(1, Intake::ALL, [Some(LANE)].into_iter());
        let hands: Arc<Mutex<Hands>> = Arc::default();
        let lane = Lane::new(Some(LANE), hands, CancellationToken::new());
        let began = Instant::now();
        inbox.put(vec![Arrival::mock(&lane, 1, 0), Arrival::mock(&lane, 2, 0)]);
        let taken = inbox.take(1).expect("available").0;
        advance(Duration::from_secs(60)).await;
        inbox.put(vec![Arrival::mock(&lane, 3, 0)]);
        inbox.held_too_long().await;
        // RabbitMQ's limit is half an hour.
        assert!(began.elapsed() < Duration::from_secs(28 * 60), "{:?}", began.elapsed());
        inbox.give_back_held();
        // The first is in the caller's hands, and the last has not waited for so long.
        let left: Vec<u64> = inbox.state().lanes[LANE as usize].iter().map(|arrival| arrival.tag).collect();
        assert_eq!((taken[0].tag, left), (1, vec![3]));
    }
}
