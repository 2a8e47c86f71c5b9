//! The broker room: what the relay and the worker ask of a message broker, and who answers.
//!
//! A message is a hint (an id and a version, see [`crate::domain::task`]); the ledger is the truth. So a
//! broker may deliver twice, but what it has taken over with `Ok` it must not drop, and what it delivered
//! comes back unless it was acked.

pub mod embedded;
mod in_hand;
pub mod on_demand;
pub mod rabbitmq;
pub mod topology;

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::domain::intake::Intake;
use crate::domain::priority::Priority;
use crate::domain::trace::TraceParent;
pub use in_hand::InHand;
use topology::SUSPICIOUS_RETURNS;

/// What travels: RabbitMQ's properties and headers, and the body.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// `message_id`: the task's key and version.
    pub id: String,
    pub body: Vec<u8>,
    /// Header `mapx-attempt`: how many attempts have failed so far.
    pub attempt: u32,
    /// When a relay first handed it over; a retry keeps it.
    pub published_at: DateTime<Utc>,
    /// Header `traceparent`: the span that handed it over.
    pub trace: Option<TraceParent>,
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// To the end of a lane.
    Lane(Priority),
    /// Into a retry rung; after its delay the message is at the end of its lane. The delay is rounded up to
    /// the next rung of the ladder.
    Retry { lane: Priority, delay: Duration },
    /// To the dead letters.
    Dead { lane: Priority, reason: String },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    pub route: Route,
    pub message: Message,
}

/// The broker did not take a message over; whether it has it all the same is unknown.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    #[error("the broker refused the message: {0}")]
    Refused(String),
    #[error("the broker did not confirm: {0}")]
    Unconfirmed(String),
}

/// The broker can't be asked at the moment: subscribe again, with back-off.
#[derive(Debug, thiserror::Error)]
#[error("the broker is not available: {0}")]
pub struct Unavailable(pub String);

/// How much waits where.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Depths {
    /// Messages ready in each lane, by [`Priority::rank`]; without those in a consumer's hands. A message may carry
    /// several tasks.
    pub ready: [u64; 3],
    /// Deliveries to this process that are not yet acked, by lane. What other processes hold is not known here.
    pub unacked: [u64; 3],
    /// In the retry rungs.
    pub retrying: u64,
    pub dead: u64,
}

/// How a message ended in the dead letters, by a worker's verdict or by the broker's own (delivery limit).
#[derive(Clone, Debug, PartialEq)]
pub struct Death {
    pub reason: String,
    /// To the second.
    pub at: DateTime<Utc>,
}

/// Whether what the broker holds survives the end of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// No: at boot every published task must be published again.
    Process,
    /// Yes.
    Disk,
}

#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Hands messages over, pipelined; one answer a message, in order. `Ok` only once the broker is
    /// responsible for it.
    async fn publish(&self, messages: Vec<Outgoing>) -> Vec<Result<(), PublishError>>;

    /// Subscribes to all three lanes, as [`Broker::consume_from`] does.
    async fn consume(&self, prefetch: usize) -> Result<Box<dyn Consumer>, Unavailable> {
        self.consume_from(prefetch, Intake::ALL).await
    }

    /// Subscribes to the lanes. At most `prefetch` deliveries, and at least one, are in the caller's hands at
    /// once; a broker behind a network may have as many of each lane sent ahead, or some times as many until it knows
    /// how many tasks its messages carry.
    async fn consume_from(&self, prefetch: usize, intake: Intake) -> Result<Box<dyn Consumer>, Unavailable>;

    /// Subscribes to the notices of dead letters: one for each message that became one, whoever gave it up.
    /// An ack forgets the notice; the dead letter itself stays where it is, for a person.
    async fn consume_dead_letters(&self, prefetch: usize) -> Result<Box<dyn Consumer>, Unavailable>;

    /// Takes the dead letters themselves, to look through them: an ack removes one, and what is dropped goes back.
    /// While they are held, nobody else sees them.
    async fn review_dead_letters(&self, prefetch: usize) -> Result<Box<dyn Consumer>, Unavailable>;

    async fn depths(&self) -> Result<Depths, Unavailable>;

    /// What this process holds of each lane, by [`Priority::rank`].
    fn in_hand(&self) -> [InHand; 3];

    /// Why the broker can't be used at the moment, as far as this process knows without asking.
    fn trouble(&self) -> Option<String>;

    /// Ends everything in good order; after it, nothing can be asked any more.
    async fn close(&self);

    fn durability(&self) -> Durability;
}

/// A subscription. Dropping it ends it; deliveries that are still held come back when they are dropped.
#[async_trait]
pub trait Consumer: Send {
    /// Waits until there is something and the prefetch allows it, then takes what is there, at most `max`,
    /// in weighted rounds over the lanes. At most one suspect comes, behind all others; a broker that outlives
    /// this process may hand suspects out in any order. Cancelling the future loses nothing.
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, Unavailable>;

    /// From now on at most `prefetch` deliveries, and at least one, are in the caller's hands. What it holds
    /// beyond that it keeps, and nothing is returned: a return counts towards the delivery limit.
    fn set_prefetch(&mut self, prefetch: usize);

    /// From now on this is sent, and nothing else; nothing is returned at once, for the same reason. After the
    /// last of an intake that is to be the last, `receive` answers with nothing.
    fn set_intake(&mut self, intake: Intake);
}

/// A message in a worker's hands. Dropped without [`Delivery::ack`], it goes back to its lane, and with it all that came
/// in the same message to the server, the acked ones too.
pub struct Delivery {
    pub message: Message,
    pub lane: Priority,
    /// How often it came back unacked.
    pub returns: u32,
    /// Set on the notice of a dead letter, and on one that a person has moved back to a lane.
    pub death: Option<Death>,
    receipt: Box<dyn Receipt>,
}

impl Delivery {
    pub fn new(message: Message, lane: Priority, returns: u32, receipt: Box<dyn Receipt>) -> Self {
        Self { message, lane, returns, death: None, receipt }
    }

    pub fn with_death(self, death: Option<Death>) -> Self {
        Self { death, ..self }
    }

    /// Whether it may be what ended those that had it: then it is worked on alone.
    pub fn is_suspect(&self) -> bool {
        self.returns >= SUSPICIOUS_RETURNS
    }

    /// Done with it: the broker forgets it. Fire and forget, as a lost ack only means a second delivery.
    pub fn ack(self) {
        self.receipt.ack();
    }
}

/// The broker's side of a delivery. Its `Drop` without an ack returns the message.
pub trait Receipt: Send + Sync {
    fn ack(self: Box<Self>);
}
