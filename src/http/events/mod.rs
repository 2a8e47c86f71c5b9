//! Tells listeners what happens: one look at the database for all of them, twice a second and only while there are
//! any, and bytes that are made once.
//!
//! Listeners are in cohorts that are sent to one after the other: thousands that are woken at once would be in the way
//! of a save. Each reads from a ring that its cohort shares; who is a whole ring behind is dropped. Nothing is kept for
//! anybody.

mod wire;

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use futures_util::{Stream, stream};
use serde_json::Value;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

pub use wire::Position;
use wire::{Rendered, render, skipped};

use super::error::ApiError;
use super::routes::StatusSource;
use crate::db::{Db, DbError};

/// How often to look, and so how often a listener is sent anything.
const TICK: Duration = Duration::from_millis(500);
/// The share of a tick over which the cohorts are spread.
const SPREAD: f64 = 0.8;
/// Listeners that are woken at once; more only where the pauses between them would get shorter than this.
const COHORT: usize = 16;
const PAUSE: Duration = Duration::from_millis(2);
/// Ticks that a listener may be behind.
const RING: usize = 16;
/// A listener that was sent nothing for so long is sent a comment, so that both sides know of a broken connection.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// What only says how late it is (a heartbeat, an age) is sent no more often than this.
const AGES: Duration = Duration::from_secs(3);
/// Entries of the journal in a tick, and in what a listener has missed; of more it is told that there was more.
const ENTRIES: u64 = 200;
/// The longest wait for the first look.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// What is sent at once.
#[derive(Debug, Default)]
struct Tick {
    status: Bytes,
    entries: Vec<Rendered>,
    /// All of it, and without what was queued.
    all: Bytes,
    ended: Bytes,
}

impl Tick {
    fn new(status: Bytes, entries: Vec<Rendered>) -> Self {
        let all = joined(entries.iter().map(|entry| &entry.all), &status);
        let ended = joined(entries.iter().map(|entry| &entry.ended), &status);
        Self { status, entries, all, ended }
    }
}

fn joined<'b>(parts: impl Iterator<Item = &'b Bytes>, last: &'b Bytes) -> Bytes {
    let parts: Vec<&[u8]> = parts.chain([last]).map(|bytes| bytes.as_ref()).collect();
    parts.concat().into()
}

#[derive(Default)]
struct Hub {
    cohorts: Vec<broadcast::Sender<Arc<Tick>>>,
    listeners: usize,
    /// The last status that was sent, for those who come now.
    status: Bytes,
}

/// One a process.
pub struct Events {
    db: Db,
    source: StatusSource,
    hub: Mutex<Hub>,
    limit: usize,
    /// A listener came while there was none.
    came: Notify,
    /// Whether the database is looked at: what is committed from now on is told.
    looking: watch::Sender<bool>,
    closed: CancellationToken,
}

impl Events {
    /// For at most `limit` listeners at once.
    pub fn new(source: StatusSource, limit: usize) -> Self {
        let (hub, looking) = (Mutex::default(), watch::Sender::new(false));
        Self {
            db: source.db.clone(),
            source,
            hub,
            limit,
            came: Notify::new(),
            looking,
            closed: CancellationToken::new(),
        }
    }

    /// Looks and tells until `shutdown`, which ends all streams: nobody waits for those to be finished.
    pub async fn run(&self, shutdown: CancellationToken) {
        tokio::select! {
            () = self.look() => {}
            () = shutdown.cancelled() => {}
        }
        self.closed.cancel();
    }

    async fn look(&self) {
        loop {
            if !self.is_wanted() {
                self.came.notified().await;
            }
            let mut told = Told::default();
            let cursor = self.db.journal_end().await;
            let Ok(mut cursor) = cursor.inspect_err(|error| tracing::debug!(%error, "no events can be told"))
            else {
                sleep(TICK).await;
                continue;
            };
            loop {
                let began = Instant::now();
                match self.tick(&mut cursor, &mut told).await {
                    Ok(tick) => self.send(tick).await,
                    Err(error) => tracing::debug!(%error, "events have to wait"),
                }
                sleep_until(began + TICK).await;
                if !self.is_wanted() {
                    break;
                }
            }
        }
    }

    /// Whether anybody listens; if not, what comes next is no longer looked at.
    fn is_wanted(&self) -> bool {
        let mut hub = self.hub();
        if hub.listeners == 0 {
            hub.status = Bytes::new();
            self.looking.send_replace(false);
        }
        hub.listeners > 0
    }

    async fn tick(&self, cursor: &mut i64, told: &mut Told) -> Result<Tick, DbError> {
        let (status, entries) = tokio::join!(self.source.look(), self.db.journal_after(*cursor, ENTRIES));
        let (status, entries) = (serde_json::to_value(status?).unwrap_or_default(), entries?);
        if let Some(last) = entries.last() {
            *cursor = last.id;
        }
        let status = match told.is_news(&status) {
            true => Bytes::from(format!("id: {cursor}\nevent: status\ndata: {status}\n\n")),
            false => Bytes::new(),
        };
        Ok(Tick::new(status, render(&entries, None)))
    }

    async fn send(&self, tick: Tick) {
        let tick = Arc::new(tick);
        let cohorts = {
            let mut hub = self.hub();
            hub.cohorts.retain(|cohort| cohort.receiver_count() > 0);
            if !tick.status.is_empty() {
                hub.status = tick.status.clone();
            }
            // Under the same lock as those who come: they are either sent this, or begin after it.
            self.looking.send_replace(true);
            hub.cohorts.clone()
        };
        if tick.all.is_empty() {
            return;
        }
        let spread = TICK.mul_f64(SPREAD);
        let steps = (spread.as_millis() / PAUSE.as_millis()) as usize;
        let together = cohorts.len().div_ceil(steps).max(1);
        let pause = spread / u32::try_from(cohorts.len().div_ceil(together).max(1)).unwrap_or(u32::MAX);
        for (n, cohorts) in cohorts.chunks(together).enumerate() {
            if n > 0 {
                sleep(pause).await;
            }
            for cohort in cohorts {
                // An error says that the last of them has gone.
                let _ = cohort.send(tick.clone());
            }
        }
    }

    /// A stream of what happens from now on, after what has happened since `last`; with what is queued, where that is
    /// wanted.
    ///
    /// # Errors
    /// `TooManyListeners`, or `Unavailable` when the database doesn't answer.
    pub async fn listen(
        self: &Arc<Self>,
        last: Option<Position>,
        queued: bool,
    ) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + use<>, ApiError> {
        let mut listener = self.join(queued)?;
        let looking = async { self.looking.subscribe().wait_for(|looking| *looking).await.map(|_| ()) };
        if !matches!(timeout(FIRST_LOOK, looking).await, Ok(Ok(()))) {
            return Err(ApiError::Unavailable);
        }
        let mut first = b"retry: 2000\n\n".to_vec();
        if let Some(last) = last {
            let missed = self.db.journal_after(last.entry - 1, ENTRIES).await?;
            if missed.first().is_none_or(|entry| entry.id > last.entry) && last.entry > 0 {
                // What followed it may be forgotten with it.
                first.extend(skipped(last.entry, None));
            }
            let cut = missed.last().map(|entry| entry.id).filter(|_| missed.len() as u64 == ENTRIES);
            let missed = render(&missed, Some(last));
            listener.seen = missed.iter().map(|entry| entry.id).collect();
            listener.seen.insert(last.entry);
            missed.iter().for_each(|entry| first.extend_from_slice(listener.part(entry)));
            first.extend(cut.map(|last| skipped(last, None)).into_iter().flatten());
        }
        first.extend_from_slice(&self.hub().status);
        listener.first = Some(first.into());
        Ok(stream::unfold(listener, async |mut listener| {
            let bytes = listener.next().await?;
            Some((Ok(bytes), listener))
        }))
    }

    fn join(self: &Arc<Self>, queued: bool) -> Result<Listener, ApiError> {
        let mut hub = self.hub();
        if self.closed.is_cancelled() {
            return Err(ApiError::Unavailable);
        }
        if hub.listeners >= self.limit {
            return Err(ApiError::TooManyListeners(self.limit));
        }
        hub.listeners += 1;
        let roomy = hub.cohorts.iter().find(|cohort| cohort.receiver_count() < COHORT);
        let receiver = match roomy {
            Some(cohort) => cohort.subscribe(),
            None => {
                let (cohort, receiver) = broadcast::channel(RING);
                hub.cohorts.push(cohort);
                receiver
            }
        };
        self.came.notify_one();
        Ok(Listener { events: self.clone(), receiver, queued, first: None, seen: HashSet::new() })
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Listener {
    events: Arc<Events>,
    receiver: broadcast::Receiver<Arc<Tick>>,
    /// Whether it wants to know of what is queued.
    queued: bool,
    first: Option<Bytes>,
    /// Entries that it has had, as it asked for what it had missed.
    seen: HashSet<i64>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.events.hub().listeners -= 1;
    }
}

impl Listener {
    /// `None` ends the stream, and with it the connection.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            let tick = tokio::select! {
                () = self.events.closed.cancelled() => return None,
                tick = timeout(HEARTBEAT, self.receiver.recv()) => tick,
            };
            match tick {
                Ok(Ok(tick)) => match self.unseen(&tick) {
                    bytes if bytes.is_empty() => {}
                    bytes => return Some(bytes),
                },
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a listener is dropped");
                    return None;
                }
                Err(_) => return Some(Bytes::from_static(b": still here\n\n")),
            }
        }
    }

    fn unseen(&self, tick: &Tick) -> Bytes {
        if !tick.entries.iter().any(|entry| self.seen.contains(&entry.id)) {
            return if self.queued { tick.all.clone() } else { tick.ended.clone() };
        }
        let entries = tick.entries.iter().filter(|entry| !self.seen.contains(&entry.id));
        joined(entries.map(|entry| self.part(entry)), &tick.status)
    }

    fn part<'r>(&self, entry: &'r Rendered) -> &'r Bytes {
        if self.queued { &entry.all } else { &entry.ended }
    }
}

/// What of the status was sent last.
#[derive(Default)]
struct Told {
    status: Value,
    bare: Value,
    at: Option<Instant>,
}

impl Told {
    fn is_news(&mut self, status: &Value) -> bool {
        let bare = without_ages(status);
        let old = self.at.is_none_or(|at| at.elapsed() >= AGES);
        let news = bare != self.bare || old && *status != self.status;
        if news {
            *self = Self { status: status.clone(), bare, at: Some(Instant::now()) };
        }
        news
    }
}

fn without_ages(status: &Value) -> Value {
    let mut bare = status.clone();
    for name in ["oldestPendingSeconds", "oldestByPriority", "etaSeconds"] {
        bare[name] = Value::Null;
    }
    for worker in bare["workers"].as_array_mut().into_iter().flatten() {
        worker["heartbeatAt"] = Value::Null;
    }
    bare
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_that_only_grew_older_is_no_news_at_once() {
        let status = |queue: u64, age: f64| json!({ "queueLength": queue, "oldestPendingSeconds": age, "workers": [{ "heartbeatAt": age }] });
        let mut told = Told::default();
        assert!(told.is_news(&status(1, 0.5)));
        assert!(!told.is_news(&status(1, 1.0)));
        assert!(told.is_news(&status(2, 1.0)));
        told.at = told.at.and_then(|at| at.checked_sub(AGES));
        assert!(!told.is_news(&status(2, 1.0)));
        assert!(told.is_news(&status(2, 1.5)));
    }
}
