//! Events as the stream has them.

use axum::body::Bytes;
use chrono::DateTime;
use serde_json::{Value, json};

use crate::db::journal::Entry;
use crate::domain::event::{Event, EventKind};
use crate::domain::fields::InvalidField;

/// Events in a tick; beyond that they are only counted.
const MOST: usize = 400;
/// Where a listener left off: an entry of the journal, and the event in it; the last one where none is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub(super) entry: i64,
    event: Option<usize>,
}

impl Position {
    /// Reads the header `last-event-id`.
    pub fn parse(text: &str) -> Result<Self, InvalidField> {
        let (entry, event) = match text.split_once('.') {
            Some((entry, event)) => (entry.parse(), event.parse().map(Some)),
            None => (text.parse(), Ok(None)),
        };
        match (entry, event) {
            (Ok(entry), Ok(event)) if entry >= 0 => Ok(Self { entry, event }),
            _ => Err(InvalidField::new("last-event-id", "must be the id of an event of this stream")),
        }
    }
}

/// What is sent of an entry.
#[derive(Clone, Debug)]
pub(super) struct Rendered {
    pub id: i64,
    /// Everything.
    pub all: Bytes,
    /// Without what was queued: half of the bytes for those who wait for results.
    pub ended: Bytes,
}

/// Each entry as it is sent: its events after `from`, and how many were skipped.
pub(super) fn render(entries: &[Entry], from: Option<Position>) -> Vec<Rendered> {
    let mut room = MOST;
    let mut rendered = Vec::with_capacity(entries.len());
    for entry in entries {
        let begin = match from {
            Some(Position { entry: id, event: None }) if id == entry.id => continue,
            Some(Position { entry: id, event: Some(event) }) if id == entry.id => event.saturating_add(1),
            _ => 0,
        };
        let events = entry.events.iter().enumerate().skip(begin);
        let (mut all, mut ended) = (Vec::new(), Vec::new());
        for (n, event) in events.clone().take(room) {
            let message = message(entry.id, n, event);
            all.extend_from_slice(message.as_bytes());
            if event.kind != EventKind::Queued {
                ended.extend_from_slice(message.as_bytes());
            }
        }
        let left = events.count();
        let skipped_now = entry.skipped + left.saturating_sub(room) as u64;
        room = room.saturating_sub(left);
        if skipped_now > 0 {
            let skipped = skipped(entry.id, Some(skipped_now));
            all.extend_from_slice(&skipped);
            ended.extend_from_slice(&skipped);
        }
        rendered.push(Rendered { id: entry.id, all: all.into(), ended: ended.into() });
    }
    rendered
}

fn message(entry: i64, n: usize, event: &Event) -> String {
    let mut data = json!({
        "recommendation_id": event.recommendation_id,
        "at": DateTime::from_timestamp_millis(event.at_ms),
    });
    for (name, value) in [
        ("content_version", event.content_version.map(Value::from)),
        ("took_ms", event.took_ms.map(Value::from)),
        ("error", event.error.clone().map(Value::from)),
    ] {
        if let Some(value) = value {
            data[name] = value;
        }
    }
    format!("id: {entry}.{n}\nevent: {}\ndata: {data}\n\n", event.kind.as_str())
}

/// So many events are not told; `None` where nobody knows how many.
pub(super) fn skipped(entry: i64, count: Option<u64>) -> Vec<u8> {
    format!("id: {entry}\nevent: skipped\ndata: {}\n\n", json!({ "count": count })).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: i64, events: usize, skipped: u64) -> Entry {
        let event = |n: usize| Event {
            kind: EventKind::Ready,
            recommendation_id: n as i64,
            content_version: Some(1),
            at_ms: 0,
            took_ms: Some(5),
            error: None,
        };
        Entry { id, skipped, events: (0..events).map(event).collect() }
    }

    fn text(rendered: &[Rendered]) -> String {
        rendered.iter().map(|entry| String::from_utf8_lossy(&entry.all).into_owned()).collect()
    }

    #[test]
    fn what_was_queued_is_for_those_who_ask() {
        let mut entry = entry(1, 2, 0);
        entry.events[0].kind = EventKind::Queued;
        let rendered = render(&[entry], None).remove(0);
        let kinds = |bytes: &Bytes| String::from_utf8_lossy(bytes).matches("event: ").count();
        assert_eq!((kinds(&rendered.all), kinds(&rendered.ended)), (2, 1));
    }

    #[test]
    fn a_position_is_read_back_and_nothing_else_is() {
        assert_eq!(Position::parse("12.3"), Ok(Position { entry: 12, event: Some(3) }));
        assert_eq!(Position::parse("12"), Ok(Position { entry: 12, event: None }));
        for bad in ["", "x", "1.x", "-1", "1.-1", "1.2.3"] {
            assert!(Position::parse(bad).unwrap_err().to_string().starts_with("last-event-id"), "{bad}");
        }
    }

    #[test]
    fn what_is_resumed_begins_after_the_last_event() {
        let entries = [entry(12, 3, 0), entry(13, 1, 0)];
        let after = |last| {
            let text = text(&render(&entries, Position::parse(last).ok()));
            text.lines().filter_map(|line| line.strip_prefix("id: ").map(str::to_owned)).collect::<Vec<_>>()
        };
        assert_eq!(after("12.1"), ["12.2", "13.0"]);
        assert_eq!(after("12"), ["13.0"]);
        assert_eq!(after("11"), ["12.0", "12.1", "12.2", "13.0"]);
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let text = text(&render(&[entry(1, MOST - 1, 0), entry(2, 5, 7)], None));
        assert_eq!(text.matches("event: ready").count(), MOST);
        assert!(text.ends_with("id: 2\nevent: skipped\ndata: {\"count\":11}\n\n"), "{text}");
    }
}
