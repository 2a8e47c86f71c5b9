//! What this process has done lately and not yet written down: amounts for the history and events for the journal.
//!
//! Noted after the commit that did it, in memory, and written by the way some times a second: the statements that do
//! it are measured ones and stay what they are. A process that is killed takes up to half a second of this with it; the
//! rows and the ledger are the truth, and the status tells of them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;

use super::embeddings::Finished;
use super::recommendations::Saved;
use super::tasks::{BrokerDeath, FailedAttempt};
use crate::domain::event::{Event, EventKind};
use crate::domain::history::{Amounts, Measure};
use crate::domain::status::{EmbeddingStatus, TaskState};
use crate::domain::task::EmbedTask;

/// Events of a kind between two writes; beyond that they are only counted. Nobody reads five hundred lines a second.
const MOST: usize = 200;
/// Characters of an error in an event.
const ERROR: usize = 300;

#[derive(Debug, Default)]
pub struct Chronicle(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    amounts: Amounts,
    page: Page,
}

/// Events, and how many there was no room for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Page {
    pub events: Vec<Event>,
    pub skipped: u64,
    /// Events by kind: whoever writes back thousands a second counts none of them again.
    of_kind: [usize; 3],
}

impl Page {
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.skipped == 0
    }

    fn note(&mut self, event: Event) {
        // A flood of the one kind must not hide the other.
        let of_kind = &mut self.of_kind[event.kind as usize];
        if *of_kind < MOST {
            *of_kind += 1;
            self.events.push(event);
        } else {
            self.skipped += 1;
        }
    }
}

impl Chronicle {
    /// More for the history.
    pub fn add(&self, amounts: Amounts) {
        if !amounts.is_empty() {
            self.lock().amounts.merge(amounts);
        }
    }

    /// Those that were current are ready, where a task asked for them: what was delivered twice is told once.
    pub(super) fn note_finished(&self, finished: &[Finished], current: &[bool]) {
        let now = Utc::now();
        let mut noted = self.lock();
        for (one, _) in finished.iter().zip(current).filter(|(_, current)| **current) {
            let Some(since) = one.enqueued_at else { continue };
            noted.amounts.add(Measure::Ready, 1.0);
            let took = (!one.regenerated).then(|| (now - since).num_milliseconds().max(0));
            if let Some(ms) = took {
                noted.amounts.sample(Measure::Latency, Duration::from_millis(ms.unsigned_abs()));
            }
            let event = event(EventKind::Ready, one.task, now.timestamp_millis());
            noted.page.note(Event { took_ms: took, ..event });
        }
    }

    /// A save or an edit that asked for a vector, or brought its own.
    pub(super) fn note_saved(&self, saved: &Saved, content_version: Option<i64>) {
        let (kind, took_ms) = match saved.status {
            EmbeddingStatus::Ready => (EventKind::Ready, Some(0)),
            _ => (EventKind::Queued, None),
        };
        let at_ms = Utc::now().timestamp_millis();
        let event = Event { kind, recommendation_id: saved.id, content_version, at_ms, took_ms, error: None };
        self.lock().page.note(event);
    }

    /// Of the failed attempts those that were about the current version.
    pub(super) fn note_failures(&self, failures: &[FailedAttempt], current: &[bool]) {
        let now = Utc::now().timestamp_millis();
        let mut noted = self.lock();
        for (failure, _) in failures.iter().zip(current).filter(|(_, current)| **current) {
            match failure.state {
                TaskState::Retrying => noted.amounts.add(Measure::Retried, 1.0),
                TaskState::Dead => noted.give_up(failure.task, &failure.error, now),
                TaskState::Pending | TaskState::Published => {}
            }
        }
    }

    pub(super) fn note_broker_dead(&self, deaths: &[BrokerDeath], recorded: &[bool]) {
        let now = Utc::now().timestamp_millis();
        let mut noted = self.lock();
        for (death, _) in deaths.iter().zip(recorded).filter(|(_, recorded)| **recorded) {
            noted.give_up(death.task, &death.reason, now);
        }
    }

    pub(super) fn take_amounts(&self) -> Amounts {
        std::mem::take(&mut self.lock().amounts)
    }

    pub(super) fn take_page(&self) -> Page {
        std::mem::take(&mut self.lock().page)
    }

    /// What could not be written comes before what was noted since.
    pub(super) fn put_back(&self, mut page: Page) {
        let mut noted = self.lock();
        let since = std::mem::take(&mut noted.page);
        page.skipped += since.skipped;
        since.events.into_iter().for_each(|event| page.note(event));
        noted.page = page;
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Noted {
    fn give_up(&mut self, task: EmbedTask, error: &str, at_ms: i64) {
        self.amounts.add(Measure::Failed, 1.0);
        let error = Some(error.chars().take(ERROR).collect());
        self.page.note(Event { error, ..event(EventKind::Failed, task, at_ms) });
    }
}

fn event(kind: EventKind, task: EmbedTask, at_ms: i64) -> Event {
    let EmbedTask { recommendation_id, content_version, .. } = task;
    Event { kind, recommendation_id, content_version: Some(content_version), at_ms, took_ms: None, error: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::task::Target;

    fn event_of(kind: EventKind, id: i64) -> Event {
        event(kind, EmbedTask { recommendation_id: id, content_version: 1, target: Target::Current }, 0)
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_and_hides_no_failure() {
        let mut page = Page::default();
        (0..1_000).for_each(|id| page.note(event_of(EventKind::Ready, id)));
        page.note(event_of(EventKind::Failed, 7));
        assert_eq!((page.events.len(), page.skipped), (MOST + 1, 1_000 - MOST as u64));
        assert_eq!(page.events.last().map(|event| event.kind), Some(EventKind::Failed));
    }

    #[test]
    fn what_could_not_be_written_keeps_its_place() {
        let chronicle = Chronicle::default();
        let mut page = Page::default();
        page.note(event_of(EventKind::Ready, 1));
        chronicle.lock().page.note(event_of(EventKind::Ready, 2));
        chronicle.put_back(page);
        let ids: Vec<i64> = chronicle.take_page().events.iter().map(|event| event.recommendation_id).collect();
        assert_eq!(ids, [1, 2]);
        assert!(chronicle.take_page().is_empty());
    }
}
