//! What the broker should hold after a history.

use std::collections::BTreeMap;

use chrono::DateTime;
use mapx_embeddings::broker::topology::DELIVERY_LIMIT;
use mapx_embeddings::broker::{Delivery, Depths, Message};
use mapx_embeddings::domain::priority::Priority;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    Ready,
    /// By the number of its consumer.
    Held(usize),
    Retrying {
        due: u64,
    },
    Acked,
    Dead,
}

#[derive(Debug)]
pub struct Tracked {
    lane: Priority,
    pub place: Place,
    /// Its place in line; retries that come back within one tick share it.
    arrival: u64,
    returns: u32,
    attempt: u32,
}

/// What the broker should hold, by message id.
#[derive(Default)]
pub struct Model {
    messages: BTreeMap<String, Tracked>,
    arrivals: u64,
    tick: u64,
    /// Oldest first.
    pub dead: Vec<String>,
}

impl Model {
    fn next_arrival(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    pub fn count(&self, is: impl Fn(&Tracked) -> bool) -> usize {
        self.messages.values().filter(|message| is(message)).count()
    }

    pub fn ready(&self) -> usize {
        self.count(|message| message.place == Place::Ready)
    }

    pub fn held_by(&self, consumer: usize) -> usize {
        self.count(|message| message.place == Place::Held(consumer))
    }

    pub fn publish(&mut self, lane: Priority) -> Message {
        let (id, arrival) = (self.messages.len().to_string(), self.next_arrival());
        let tracked = Tracked { lane, place: Place::Ready, arrival, returns: 0, attempt: 0 };
        self.messages.insert(id.clone(), tracked);
        Message { body: id.clone().into_bytes(), id, attempt: 0, published_at: DateTime::UNIX_EPOCH, trace: None }
    }

    /// The broker says that this is the next of its lane.
    pub fn deliver(&mut self, delivery: &Delivery, consumer: usize) {
        let id = &delivery.message.id;
        let message = &self.messages[id];
        assert_eq!(message.place, Place::Ready, "{id} was delivered");
        assert_eq!(delivery.lane, message.lane, "{id} changed lanes");
        assert_eq!(delivery.message.attempt, message.attempt);
        assert_eq!(delivery.returns, message.returns, "{id}");
        let first = self.messages.values().filter(|m| m.lane == message.lane && m.place == Place::Ready);
        assert_eq!(first.map(|m| m.arrival).min(), Some(message.arrival), "{id} overtook another");
        self.move_to(id, Place::Held(consumer));
    }

    pub fn take_back(&mut self, id: &str) {
        let message = self.messages.get_mut(id).expect("known");
        message.returns += 1;
        message.place = Place::Ready;
        if message.returns > DELIVERY_LIMIT {
            self.bury(id);
        }
    }

    pub fn retry(&mut self, id: &str, ticks: u64) {
        let due = self.tick + ticks;
        let message = self.messages.get_mut(id).expect("known");
        (message.returns, message.attempt) = (0, message.attempt + 1);
        message.place = Place::Retrying { due };
    }

    pub fn bury(&mut self, id: &str) {
        self.move_to(id, Place::Dead);
        self.dead.push(id.to_owned());
    }

    pub fn move_to(&mut self, id: &str, place: Place) {
        self.messages.get_mut(id).expect("known").place = place;
    }

    pub fn advance_one_tick(&mut self) {
        self.tick += 1;
        let (arrival, tick) = (self.next_arrival(), self.tick);
        for message in self.messages.values_mut() {
            if message.place == (Place::Retrying { due: tick }) {
                (message.place, message.arrival) = (Place::Ready, arrival);
            }
        }
    }

    pub fn depths(&self) -> Depths {
        let by_lane = |is: fn(&Tracked) -> bool| {
            Priority::ALL.map(|lane| self.count(|message| message.lane == lane && is(message)) as u64)
        };
        Depths {
            ready: by_lane(|message| message.place == Place::Ready),
            unacked: by_lane(|message| matches!(message.place, Place::Held(_))),
            retrying: self.count(|message| matches!(message.place, Place::Retrying { .. })) as u64,
            dead: self.dead.len() as u64,
        }
    }
}
