//! Our message as RabbitMQ's properties, headers and body, and back.
//!
//! Anyone can publish to a queue by hand, so everything may be missing or of another type: what is read gets
//! a default and never an error. Whether the body is a task is the worker's question.

use std::time::Duration;

use chrono::{DateTime, Utc};
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use super::super::topology::Topology;
use super::super::{Death, Message, Outgoing, Route};
use super::bundle::{Parcel, unpack};
use crate::domain::priority::Priority;
use crate::domain::trace::TraceParent;

const ATTEMPT: &str = "mapx-attempt";
/// As W3C's draft for AMQP has it.
const TRACEPARENT: &str = "traceparent";
/// Milliseconds since 1970. AMQP's own timestamp has whole seconds.
const PUBLISHED_AT: &str = "mapx-published-at";
/// When the message comes out of its rung, in milliseconds since 1970.
const DUE_AT: &str = "mapx-due-at";
const REASON: &str = "mapx-reason";
const LANE: &str = "mapx-lane";
/// How many tasks a bundle carries, for a person's eyes: the body says it, too.
const TASKS: &str = "mapx-tasks";
/// When it was given up, in milliseconds since 1970.
const DEAD_AT: &str = "mapx-dead-at";

/// RabbitMQ's count of a message's returns.
const RETURNS: &str = "x-delivery-count";

/// RabbitMQ's own account of how a message left its queues.
const X_DEATH: &str = "x-death";
/// Its reason for a message that left a rung on time.
const EXPIRED: &str = "expired";

/// A reason's length in bytes: all headers must fit into one frame, of 128 KiB or less.
const LONGEST_REASON: usize = 8 * 1024;
const PERSISTENT: u8 = 2;

/// What a delivery carries.
pub(super) struct Received {
    pub message: Message,
    pub lane: Priority,
    /// When it entered the lane.
    pub entered: DateTime<Utc>,
    /// How often it came back, as the server counts.
    pub returns: u32,
    pub death: Option<Death>,
}

impl Received {
    /// One for each task that the message carries.
    pub fn parts(self) -> Vec<Self> {
        let Self { message, lane, entered, returns, death } = self;
        let part = |message| Self { message, lane, entered, returns, death: death.clone() };
        unpack(message).into_iter().map(part).collect()
    }
}

/// Neither the `priority` property nor an expiration of its own: RabbitMQ 4.3 starves by the first, and a
/// message a long expiration stands before holds up what comes behind it.
pub(super) fn properties(parcel: &Parcel, topology: &Topology, now: DateTime<Utc>) -> BasicProperties {
    let Parcel { outgoing: Outgoing { route, message }, parts } = parcel;
    let mut headers = FieldTable::default();
    headers.insert(ATTEMPT.into(), AMQPValue::LongLongInt(message.attempt.into()));
    headers.insert(PUBLISHED_AT.into(), millis(message.published_at));
    if let Some(trace) = &message.trace {
        headers.insert(TRACEPARENT.into(), AMQPValue::LongString(trace.as_str().into()));
    }
    if *parts > 1 {
        headers.insert(TASKS.into(), AMQPValue::LongLongInt(i64::try_from(*parts).unwrap_or(i64::MAX)));
    }
    match route {
        Route::Lane(_) => {}
        Route::Retry { delay, .. } => {
            headers.insert(DUE_AT.into(), millis(after(now, topology.rung_for(*delay))));
        }
        Route::Dead { lane, reason } => {
            let reason = &reason[..reason.floor_char_boundary(LONGEST_REASON)];
            headers.insert(REASON.into(), AMQPValue::LongString(reason.into()));
            headers.insert(LANE.into(), AMQPValue::LongString(lane.name().into()));
            headers.insert(DEAD_AT.into(), millis(now));
        }
    }
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT)
        .with_timestamp(u64::try_from(message.published_at.timestamp()).unwrap_or_default())
        .with_headers(headers);
    // A longer one can't be said, and none of ours is.
    match ShortString::try_new(message.id.clone()) {
        Ok(id) => properties.with_message_id(id),
        Err(_) => properties,
    }
}

/// Reads a delivery from a lane's queue, or from the notices, where the lane is told by the routing key.
pub(super) fn received(delivery: Delivery, lane: Option<Priority>, now: DateTime<Utc>) -> Received {
    let Delivery { properties, data: body, redelivered, routing_key, .. } = delivery;
    let none = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&none);
    let attempt = count(headers, ATTEMPT);
    let property = || DateTime::from_timestamp(i64::try_from((*properties.timestamp())?).ok()?, 0);
    // Not later than now: a wrong clock or a forged header must not make a lane look served to its end.
    let published_at = moment(headers, PUBLISHED_AT).or_else(property).map_or(now, |at| at.min(now));
    let entered = moment(headers, DUE_AT).map_or(published_at, |due| due.max(published_at).min(now));
    let trace = text(headers, TRACEPARENT).as_deref().and_then(TraceParent::parse);
    let id = properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
    Received {
        message: Message { id, body, attempt, published_at, trace },
        lane: lane.or_else(|| routing_key.as_str().parse().ok()).unwrap_or(Priority::Low),
        entered,
        // Of a message that was published with such a header, it says nothing.
        returns: if redelivered { count(headers, RETURNS).max(1) } else { 0 },
        death: death(headers, now),
    }
}

/// By a worker, with its reason; or by the broker, with its word for it.
fn death(headers: &FieldTable, now: DateTime<Utc>) -> Option<Death> {
    if let Some(reason) = text(headers, REASON) {
        return Some(Death { reason, at: moment(headers, DEAD_AT).unwrap_or(now) });
    }
    let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get(X_DEATH) else { return None };
    deaths.as_slice().iter().find_map(|death| {
        let AMQPValue::FieldTable(death) = death else { return None };
        let reason = text(death, "reason").filter(|reason| reason != EXPIRED)?;
        let at = match death.inner().get("time") {
            Some(AMQPValue::Timestamp(seconds)) => DateTime::from_timestamp(i64::try_from(*seconds).ok()?, 0),
            _ => None,
        };
        Some(Death { reason, at: at.unwrap_or(now) })
    })
}

fn text(table: &FieldTable, key: &str) -> Option<String> {
    match table.inner().get(key)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// Every integer that AMQP has.
fn integer(table: &FieldTable, key: &str) -> Option<i64> {
    match *table.inner().get(key)? {
        AMQPValue::ShortShortInt(n) => Some(n.into()),
        AMQPValue::ShortShortUInt(n) => Some(n.into()),
        AMQPValue::ShortInt(n) => Some(n.into()),
        AMQPValue::ShortUInt(n) => Some(n.into()),
        AMQPValue::LongInt(n) => Some(n.into()),
        AMQPValue::LongUInt(n) => Some(n.into()),
        AMQPValue::LongLongInt(n) => Some(n),
        _ => None,
    }
}

/// None is zero.
fn count(table: &FieldTable, key: &str) -> u32 {
    integer(table, key).map_or(0, |n| u32::try_from(n.max(0)).unwrap_or(u32::MAX))
}

fn moment(table: &FieldTable, key: &str) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(integer(table, key)?)
}

fn millis(at: DateTime<Utc>) -> AMQPValue {
    AMQPValue::LongLongInt(at.timestamp_millis())
}

fn after(now: DateTime<Utc>, delay: Duration) -> DateTime<Utc> {
    let delay = chrono::Duration::from_std(delay).unwrap_or(chrono::Duration::MAX);
    now.checked_add_signed(delay).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// For a header or a client property.
pub(super) fn long(text: impl AsRef<str>) -> LongString {
    text.as_ref().as_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::backoff::Backoff;

    fn second(s: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(s, 0).expect("a moment")
    }

    fn delivery(properties: BasicProperties, key: &str) -> Delivery {
        let mut delivery = Delivery::mock(1, "mapx.tasks".into(), key.into(), false, b"body".to_vec());
        delivery.properties = properties;
        delivery
    }

    fn with(entries: Vec<(&str, AMQPValue)>) -> BasicProperties {
        let mut headers = FieldTable::default();
        for (key, value) in entries {
            headers.insert(key.into(), value);
        }
        BasicProperties::default().with_headers(headers)
    }

    fn outgoing(route: Route) -> Outgoing {
        let message = Message {
            id: "7:current:v2".into(),
            body: b"body".to_vec(),
            attempt: 3,
            published_at: second(50),
            trace: None,
        };
        Outgoing { route, message }
    }

    fn alone(outgoing: &Outgoing) -> Parcel {
        Parcel { outgoing: outgoing.clone(), parts: 1 }
    }

    fn topology() -> Topology {
        Topology::new("mapx", &Backoff::new(Duration::from_secs(5), Duration::from_secs(15), 3))
    }

    #[test]
    fn what_is_said_is_read_again() {
        let lane = Priority::Normal;
        let retry = outgoing(Route::Retry { lane, delay: Duration::from_secs(6) });
        let sent = properties(&alone(&retry), &topology(), second(100));
        assert_eq!((sent.delivery_mode(), sent.priority(), sent.expiration()), (&Some(PERSISTENT), &None, &None));
        let back = received(delivery(sent, "normal"), Some(lane), second(200));
        assert_eq!((back.message, back.death), (retry.message, None));
        // From its rung of ten seconds.
        assert_eq!(back.entered, second(110));

        let dead = outgoing(Route::Dead { lane: Priority::Low, reason: "ü".repeat(10_000) });
        let sent = properties(&alone(&dead), &topology(), second(100));
        let told = received(delivery(sent, "low"), None, second(200));
        assert_eq!((told.message, told.lane), (dead.message, Priority::Low));
        let death = told.death.expect("a death");
        assert_eq!((death.reason, death.at), ("ü".repeat(LONGEST_REASON / 2), second(100)));
    }

    #[test]
    fn what_is_missing_has_a_default() {
        let now = second(200);
        let bare = received(delivery(BasicProperties::default(), "nonsense"), None, now);
        let message =
            Message { id: String::new(), body: b"body".to_vec(), attempt: 0, published_at: now, trace: None };
        assert_eq!((bare.message, bare.lane, bare.entered, bare.death), (message, Priority::Low, now, None));
        let stamped = received(delivery(BasicProperties::default().with_timestamp(150), "high"), None, now);
        assert_eq!((stamped.message.published_at, stamped.lane), (second(150), Priority::High));
    }

    #[test]
    fn a_clock_that_is_ahead_is_not_believed() {
        // A moment that never comes would be the newest for ever, and the lane would never seem to move.
        let now = second(200);
        for key in [PUBLISHED_AT, DUE_AT] {
            for value in [AMQPValue::LongLongInt(i64::MAX), AMQPValue::LongLongInt(999_000)] {
                let ahead = received(delivery(with(vec![(key, value)]), "high"), None, now);
                assert!(ahead.message.published_at <= now && ahead.entered <= now, "{key}");
            }
        }
    }

    #[test]
    fn a_rung_is_no_death_and_a_delivery_limit_is() {
        let x_death = |reason: &str| {
            let mut death = FieldTable::default();
            death.insert("reason".into(), AMQPValue::LongString(reason.into()));
            death.insert("time".into(), AMQPValue::Timestamp(150));
            AMQPValue::FieldTable(death)
        };
        let read = |deaths: Vec<AMQPValue>| {
            let properties = with(vec![(X_DEATH, AMQPValue::FieldArray(deaths.into()))]);
            received(delivery(properties, "high"), None, second(200)).death
        };
        assert_eq!(read(vec![x_death(EXPIRED)]), None);
        let limit = Death { reason: "delivery_limit".into(), at: second(150) };
        assert_eq!(read(vec![x_death("delivery_limit"), x_death(EXPIRED)]), Some(limit));
    }
}
