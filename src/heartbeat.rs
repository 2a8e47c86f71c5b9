//! Tells the other processes, through the database, what this one is doing, and learns there by which settings
//! all of them go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::Role;
use crate::db::workers::Heartbeat;
use crate::db::{Db, DbError};
use crate::embedder::guard::Guarded;
use crate::relay::Relay;
use crate::worker::{Tally, Worker};

/// How often to look whether something has changed.
const LOOK: Duration = Duration::from_millis(200);
/// How often to write although nothing has changed.
const RENEW: Duration = Duration::from_secs(3);
/// How often to add up what calls to the provider took.
const NOTE: Duration = Duration::from_secs(1);
/// How often to write down what became ready or was given up, for listeners.
const TELL: Duration = Duration::from_millis(400);
/// How often to look for settings that have been changed.
const FOLLOW: Duration = Duration::from_secs(1);

pub struct Reporter {
    db: Db,
    tally: Arc<Tally>,
    worker: Arc<Worker>,
    relay: Arc<Relay>,
    guard: Option<Arc<Guarded>>,
    role: Role,
    id: String,
    host: String,
    started_at: DateTime<Utc>,
    /// In the last look at a worker that is drained: its last acks are told by the next.
    was_empty: AtomicBool,
}

impl Reporter {
    /// `id` is the one that this process goes by, see [`new_id`].
    pub fn new(
        id: Arc<str>,
        db: Db,
        worker: Arc<Worker>,
        relay: Arc<Relay>,
        guard: Option<Arc<Guarded>>,
        role: Role,
    ) -> Self {
        Self {
            db,
            tally: worker.tally(),
            relay,
            guard,
            role,
            id: id.to_string(),
            host: host(),
            started_at: Utc::now(),
            worker,
            was_empty: AtomicBool::new(false),
        }
    }

    /// Reports and follows until `shutdown`, then signs off. Side by side: what is to be written may have to
    /// wait, on SQLite for everybody's writes before it.
    pub async fn run(&self, shutdown: CancellationToken) {
        tokio::join!(self.report(&shutdown), self.follow(&shutdown));
        if let Err(error) = self.db.sign_off(self.id.clone()).await {
            tracing::debug!(%error, "signing off failed");
        }
    }

    /// The settings as they are now; before the worker starts, so that it never goes by others.
    pub async fn look(&self) -> Result<(), DbError> {
        let (live, intake) = tokio::join!(self.db.live_queue(), self.db.intake(&self.id));
        self.worker.follow(live?, intake?);
        Ok(())
    }

    async fn follow(&self, shutdown: &CancellationToken) {
        while tokio::time::timeout(FOLLOW, shutdown.cancelled()).await.is_err() {
            // Without the database, the last known values hold.
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "the live settings could not be read");
            }
        }
    }

    async fn report(&self, shutdown: &CancellationToken) {
        let mut last: Option<(Heartbeat, Instant)> = None;
        let (mut noted, mut told) = (Instant::now(), Instant::now());
        while !shutdown.is_cancelled() {
            let beat = self.beat();
            let news = last.as_ref().is_none_or(|(known, at)| at.elapsed() >= RENEW || differs(known, &beat));
            if news {
                match self.db.beat(beat.clone()).await {
                    Ok(()) => last = Some((beat, Instant::now())),
                    Err(error) => tracing::debug!(%error, "the heartbeat could not be written"),
                }
            }
            if noted.elapsed() >= NOTE {
                noted = Instant::now();
                tokio::join!(self.note_usage(), self.note_history());
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                self.tell_events().await;
            }
            let _ = tokio::time::timeout(LOOK, shutdown.cancelled()).await;
        }
        tokio::join!(self.note_usage(), self.note_history(), self.tell_events());
    }

    /// As [`Self::note_usage`].
    async fn note_history(&self) {
        self.db.chronicle().add(self.worker.meter().take_calls());
        if let Err(error) = self.db.write_history().await {
            tracing::debug!(%error, "the history could not be written");
        }
    }

    /// As [`Self::note_usage`].
    async fn tell_events(&self) {
        if let Err(error) = self.db.write_journal().await {
            tracing::debug!(%error, "the events could not be written");
        }
    }

    /// What could not be written is written with what comes next.
    async fn note_usage(&self) {
        let usage = self.worker.meter().take();
        if !usage.is_empty()
            && let Err(error) = self.db.add_usage(usage).await
        {
            tracing::debug!(%error, "what the provider's calls took could not be noted");
            self.worker.meter().put_back(usage);
        }
    }

    /// What the worker is about; `None` where there is none.
    fn state(&self) -> Option<&'static str> {
        if self.role == Role::Serve {
            return None;
        }
        let empty = self.worker.is_draining() && self.worker.is_empty();
        let was_empty = self.was_empty.swap(empty, Ordering::Relaxed);
        Some(match (self.worker.is_draining(), empty && was_empty) {
            (false, _) => "working",
            (true, false) => "draining",
            (true, true) => "drained",
        })
    }

    fn beat(&self) -> Heartbeat {
        let (in_hand, in_force) = (self.worker.in_hand(), self.worker.in_force());
        let [newest_high, newest_normal, newest_low] = in_hand.map(|lane| lane.newest);
        let [oldest_high, oldest_normal, oldest_low] = in_hand.map(|lane| lane.oldest);
        let breaker = self.guard.as_ref().map(|guard| guard.view());
        let refused = breaker.as_ref().and_then(|view| view.reason.clone());
        let concurrency = self.worker.concurrency();
        Heartbeat {
            id: self.id.clone(),
            role: self.role.as_str().to_owned(),
            host: self.host.clone(),
            pid: i64::from(std::process::id()),
            started_at: self.started_at,
            heartbeat_at: Utc::now(),
            in_flight: self.tally.in_flight(),
            max_concurrent: in_force.max_concurrent as i64,
            batch_size: in_force.batch_size as i64,
            ready_total: self.tally.ready() as i64,
            failed_total: self.tally.failed() as i64,
            ready_per_second: self.tally.ready_per_second(),
            broker_error: self.relay.trouble(),
            provider_error: refused.clone().or_else(|| self.worker.trouble()),
            newest_high,
            newest_normal,
            newest_low,
            oldest_high,
            oldest_normal,
            oldest_low,
            breaker_state: breaker.as_ref().map(|view| view.phase.as_str().to_owned()),
            breaker_reason: refused,
            breaker_since: breaker.as_ref().map(|view| view.since),
            breaker_probe_at: breaker.and_then(|view| view.next_probe_at),
            concurrency_min: Some(concurrency.min as i64),
            concurrency_max: Some(concurrency.max as i64),
            concurrency_reason: Some(concurrency.reason.as_str().to_owned()),
            concurrency_changed_at: Some(concurrency.changed_at),
            state: self.state().map(str::to_owned),
            drain_since: None,
        }
    }
}

/// A name for this process that no other has.
pub fn new_id() -> Arc<str> {
    Uuid::now_v7().to_string().into()
}

fn differs(known: &Heartbeat, beat: &Heartbeat) -> bool {
    Heartbeat { heartbeat_at: known.heartbeat_at, ..beat.clone() } != *known
}

/// This machine's name, as far as it can be known without a library.
pub fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok());
    name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".into())
}
