//! The regeneration room: feeds jobs to the ledger, a window at a time, and tells what one would take.

mod estimate;
mod shadow;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::Settings;
use crate::db::loaded::Loaded;
use crate::db::regenerations::{Advance, Begun, Met, NewItem, Regeneration};
use crate::db::{Db, DbError};
use crate::domain::regeneration::{JobState, Phase, RegenerationRequest, Scope};
use crate::domain::text::content_hash;
use crate::embedder::Embedder;

pub use estimate::{Estimate, TimeBasis};

/// Rows that are read at once: bounds the memory, as each has its text.
const PAGE: u64 = 200;
/// How soon to look again while a job moves, while it stands still, and while there is none.
const BUSY: Duration = Duration::from_millis(100);
const STILL: Duration = Duration::from_millis(250);
const IDLE: Duration = Duration::from_millis(500);
/// A feeder that isn't heard of for so long is replaced.
const LEASE: Duration = Duration::from_secs(4);
/// The span over which the rate is taken.
const RATE_SPAN: Duration = Duration::from_secs(10);
/// The longest wait between attempts while the database is away.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Feeds the open regeneration, if another process doesn't.
pub struct Regenerations {
    db: Db,
    embedder: Arc<dyn Embedder>,
    window: u64,
    shadow_rows: u64,
    /// Over which the provider's rate limits count.
    rate_window: Duration,
    holder: String,
}

impl Regenerations {
    pub fn new(db: Db, embedder: Arc<dyn Embedder>, settings: &Settings) -> Self {
        let rate_window = Duration::from_millis(settings.embedder.rate_window_ms);
        let holder = Uuid::now_v7().to_string();
        let (window, shadow_rows) = (settings.regeneration.window, settings.regeneration.shadow_rows);
        Self { db, embedder, window, shadow_rows, rate_window, holder }
    }

    /// Begins one, as `who` has it.
    pub async fn begin(&self, request: RegenerationRequest, who: String) -> Result<Begun, DbError> {
        let begun = self.db.begin_regeneration(request.scope, request.priority, self.shadow_rows, who).await?;
        if let Begun::New(job) = &begun {
            let Regeneration { id, total, .. } = *job;
            let (strategy, reason) = (job.strategy.as_str(), &job.strategy_reason);
            tracing::info!(regeneration = id, rows = total, strategy, reason, "a regeneration has begun");
        }
        Ok(begun)
    }

    /// Feeds until `shutdown`, and then lets another process go on. Errors are waited out with back-off.
    pub async fn run(&self, shutdown: CancellationToken) {
        tokio::join!(self.feed(&shutdown), self.tend_shadows(&shutdown));
    }

    async fn feed(&self, shutdown: &CancellationToken) {
        let patience =
            || ExponentialBuilder::default().with_max_delay(MAX_BACKOFF).with_jitter().without_max_times().build();
        let (mut delays, mut away) = (patience(), false);
        let mut pace = Pace::default();
        while !shutdown.is_cancelled() {
            let wait = match self.turn(&mut pace).await {
                Ok(wait) => {
                    if std::mem::take(&mut away) {
                        tracing::info!("the regeneration goes on");
                    }
                    delays = patience();
                    wait
                }
                Err(error) => {
                    if !std::mem::replace(&mut away, true) {
                        tracing::warn!(%error, "the regeneration can't go on at the moment");
                    }
                    delays.next().unwrap_or(MAX_BACKOFF)
                }
            };
            let _ = tokio::time::timeout(wait, shutdown.cancelled()).await;
        }
        if let Err(error) = self.db.release_regeneration(&self.holder).await {
            tracing::debug!(%error, "the regeneration's lease runs out by itself");
        }
    }

    /// One step of the job, if there is one and it is ours; returns how long to wait before the next.
    async fn turn(&self, pace: &mut Pace) -> Result<Duration, DbError> {
        let Some(job) = self.db.hold_regeneration(&self.holder, LEASE).await? else {
            *pace = Pace::default();
            return Ok(IDLE);
        };
        if job.phase.is_some_and(|phase| phase != Phase::Filling) {
            return Ok(STILL);
        }
        let window = self.db.regeneration_window(&job).await?;
        let room = self.window.saturating_sub(window.items.saturating_sub(window.closed.len() as u64));
        let met = self.meet(&job, room).await?;
        let more = met.as_ref().is_some_and(|met| !met.last && room > PAGE);
        let rate = pace.after(&job, window.closed.len());
        let running = job.state == JobState::Running;
        let idle = window.closed.is_empty() && met.is_none() && (window.waiting == 0 || !running);
        if idle && !(job.walked && window.items == 0) && (rate - job.rate).abs() <= job.rate / 20.0 {
            return Ok(STILL);
        }
        let step = Advance { closed: window.closed, met, rate };
        let after = self.db.advance_regeneration(job.id, &self.holder, step).await?;
        if let Some(job) = after.filter(|job| job.state == JobState::Completed) {
            told(&job);
        }
        Ok(if more { Duration::ZERO } else { BUSY })
    }

    /// The rows that come next, as far as there is room for them.
    async fn meet(&self, job: &Regeneration, room: u64) -> Result<Option<Met>, DbError> {
        if job.state != JobState::Running || job.walked || room == 0 {
            return Ok(None);
        }
        let limit = room.min(PAGE);
        let rows = self.db.regeneration_page(job.scope, job.last_id, job.end_id, limit).await?;
        let last = (rows.len() as u64) < limit;
        let to = rows.last().map_or(job.end_id, |row| row.id);
        let mut met = Met { from: job.last_id, to, last, ..Met::default() };
        for row in rows {
            let hash = content_hash(&row.content.compose());
            let counted = self.is_counted(job.scope, &row);
            if counted || self.is_wanted(job.scope, &row, &hash) {
                met.unexpected += u64::from(!counted);
                met.items.push(NewItem { id: row.id, content_version: row.content_version, hash });
            }
        }
        Ok(Some(met))
    }

    /// Whether the columns alone bring the row into the scope, so that the total counts it.
    fn is_counted(&self, scope: Scope, row: &Loaded) -> bool {
        scope != Scope::Stale
            || row.embedded_version != Some(row.content_version)
            || row.embedding_model.as_deref() != Some(&*self.db.model().id)
    }

    /// Whether its text does: another version of this program may have composed it in another way.
    fn is_wanted(&self, scope: Scope, row: &Loaded, hash: &str) -> bool {
        self.is_counted(scope, row) || row.embedded_hash.as_deref().is_some_and(|stored| stored != hash)
    }
}

fn told(job: &Regeneration) {
    let Regeneration { id, done, failed, skipped, .. } = *job;
    tracing::info!(regeneration = id, done, failed, skipped, "the regeneration is complete");
}

/// Rows a second over the last ten.
#[derive(Default)]
struct Pace {
    job: i64,
    recent: VecDeque<(Instant, usize)>,
}

impl Pace {
    fn after(&mut self, job: &Regeneration, closed: usize) -> f64 {
        if self.job != job.id || job.state != JobState::Running {
            self.recent.clear();
        }
        self.job = job.id;
        while self.recent.front().is_some_and(|(at, _)| at.elapsed() > RATE_SPAN) {
            self.recent.pop_front();
        }
        if closed > 0 || self.recent.is_empty() {
            self.recent.push_back((Instant::now(), closed));
        }
        // From the first note on, which is only where the span begins.
        let Some((begun, first)) = self.recent.front() else { return 0.0 };
        let rows: usize = self.recent.iter().map(|(_, rows)| rows).sum::<usize>() - first;
        let seconds = begun.elapsed().as_secs_f64();
        if job.state == JobState::Running && seconds > 0.0 { rows as f64 / seconds.max(0.5) } else { 0.0 }
    }
}
