//! What a regeneration would take: rows, texts, tokens, money and time.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{PAGE, Regenerations};
use crate::db::DbError;
use crate::db::loaded::Loaded;
use crate::db::provider::ProviderLimits;
use crate::db::regenerations::Regeneration;
use crate::domain::regeneration::{JobState, Scope, Strategy};
use crate::domain::text::content_hash;
use crate::domain::usage::cost;

/// Up to so many rows, each one is looked at; of more, so many.
const COUNTED: u64 = 20_000;
/// Stretches of a large table that are looked at, evenly spread.
const STRETCHES: u64 = 100;

/// From so many waiting tasks on, the recent rate is one under load.
const BACKLOG: u64 = 100;
/// Regenerations among which one that was completed is looked for.
const LOOKED_BACK: u64 = 20;

/// Whence an estimated time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeBasis {
    /// Embeddings a second over the last ten, in all processes.
    RecentRate,
    /// The average of the last regeneration that was completed.
    LastRegeneration,
    /// The provider's rate limits, which is the least that it can take.
    RateLimits,
    /// Nothing is known yet.
    Unknown,
}

/// What a regeneration would take now.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    pub rows: u64,
    /// Texts that would be sent, each once.
    pub texts: u64,
    /// Texts whose vector is kept, so that nobody is asked.
    pub cached: u64,
    /// As the embedder counts them: exactly where its tokenizer is at hand, else an upper bound.
    pub tokens: u64,
    /// USD; `None` where no price is known.
    pub cost: Option<f64>,
    pub time: Option<Duration>,
    pub basis: TimeBasis,
    /// Whether every row was looked at; else what is said is extrapolated from so many.
    pub exact: bool,
    pub sampled: u64,
    /// How its vectors would come into the index, and why so.
    pub strategy: Strategy,
    pub strategy_reason: String,
}

/// What has been looked at.
#[derive(Default)]
struct Sample {
    /// Rows in scope.
    rows: u64,
    /// Tokens of the texts that are to be embedded, by hash.
    texts: HashMap<String, u64>,
}

impl Regenerations {
    /// Looks at the rows, or, of a large table, at a part of them, and changes nothing. Twins far apart in a large
    /// table are taken for two texts: a sample can't tell.
    pub async fn estimate(&self, scope: Scope, limits: Option<&ProviderLimits>) -> Result<Estimate, DbError> {
        let extent = self.db.regeneration_extent(scope).await?;
        let (strategy, strategy_reason) = self.db.regeneration_strategy(scope, extent, self.shadow_rows).await?;
        let counted = extent.rows.max(0) as u64;
        let last_id = extent.last_id.max(0);
        let mut sample = Sample::default();
        let exact = match scope {
            // Each row's text has to be looked at to know whether it is one.
            Scope::Stale => self.db.counts().await?.recommendations <= COUNTED,
            _ => counted <= COUNTED,
        };
        if exact {
            self.look(scope, 0, i64::MAX, u64::MAX, &mut sample).await?;
        } else {
            let width = (last_id - extent.first_id).max(1) / STRETCHES as i64 + 1;
            for stretch in 0..STRETCHES as i64 {
                let after = extent.first_id - 1 + stretch * width;
                self.look(scope, after, after + width, COUNTED / STRETCHES, &mut sample).await?;
            }
        }
        let cached = if scope == Scope::All { 0 } else { self.leave_out_kept(&mut sample).await? };
        let rows = if exact { sample.rows } else { counted.max(sample.rows) };
        let scale = |n: u64| match sample.rows {
            0 => 0,
            sampled => (n as f64 * rows as f64 / sampled as f64).round() as u64,
        };
        let (texts, tokens) = (scale(sample.texts.len() as u64), scale(sample.texts.values().sum()));
        let (time, basis) = self.time(texts, tokens, rows, limits).await?;
        let price = if self.embedder.is_paid() { self.embedder.price() } else { Some(0.0) };
        let cost = price.map(|price| cost(tokens, Some(price)));
        let sampled = sample.rows;
        let cached = scale(cached);
        Ok(Estimate { rows, texts, cached, tokens, cost, time, basis, exact, sampled, strategy, strategy_reason })
    }

    /// Adds the rows after the id `after` and up to `to`, at most `most`.
    async fn look(&self, scope: Scope, after: i64, to: i64, most: u64, sample: &mut Sample) -> Result<(), DbError> {
        let (mut after, mut left) = (after, most);
        while left > 0 {
            let limit = left.min(PAGE);
            let rows = self.db.regeneration_page(scope, after, to, limit).await?;
            let Some(end) = rows.last() else { return Ok(()) };
            after = end.id;
            left -= rows.len() as u64;
            let last = (rows.len() as u64) < limit;
            rows.iter().for_each(|row| self.add(scope, row, sample));
            if last {
                return Ok(());
            }
            // Counting tokens takes the processor: others have their turn.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn add(&self, scope: Scope, row: &Loaded, sample: &mut Sample) {
        let text = row.content.compose();
        let hash = content_hash(&text);
        if !self.is_wanted(scope, row, &hash) {
            return;
        }
        sample.rows += 1;
        let same_model = row.embedding_model.as_deref() == Some(&*self.db.model().id);
        let stored = same_model && row.embedded_hash.as_deref() == Some(hash.as_str());
        if !stored || scope == Scope::All {
            sample.texts.entry(hash).or_insert_with(|| self.embedder.tokens(&text) as u64);
        }
    }

    /// Takes out the texts whose vector is kept; returns how many.
    async fn leave_out_kept(&self, sample: &mut Sample) -> Result<u64, DbError> {
        if !self.embedder.is_paid() {
            return Ok(0);
        }
        let hashes: Vec<String> = sample.texts.keys().cloned().collect();
        let kept = self.db.kept_among(&hashes).await?;
        sample.texts.retain(|hash, _| !kept.contains(hash));
        Ok(kept.len() as u64)
    }

    /// How long so much would take.
    async fn time(
        &self,
        texts: u64,
        tokens: u64,
        rows: u64,
        limits: Option<&ProviderLimits>,
    ) -> Result<(Option<Duration>, TimeBasis), DbError> {
        let seconds = |s: f64| Duration::try_from_secs_f64(s).ok();
        let recent: f64 = self.db.workers().await?.iter().map(|worker| worker.ready_per_second).sum();
        // A save now and then says nothing of what there could be.
        if recent > 0.0 && self.db.counts().await?.queue.unfinished() >= BACKLOG {
            return Ok((seconds(rows as f64 / recent), TimeBasis::RecentRate));
        }
        let jobs = self.db.regenerations(LOOKED_BACK).await?;
        if let Some(pace) = jobs.iter().filter(|job| job.model == *self.db.model().id).find_map(pace) {
            return Ok((seconds(rows as f64 / pace), TimeBasis::LastRegeneration));
        }
        let calls = (texts as f64 / self.embedder.limits().max_inputs.max(1) as f64).ceil();
        let bounds = limits.into_iter().flat_map(|l| [(calls, l.requests_limit), (tokens as f64, l.tokens_limit)]);
        let windows = bounds.filter(|(_, limit)| *limit > 0.0).map(|(needed, limit)| needed / limit);
        match windows.reduce(f64::max) {
            Some(windows) => Ok((seconds(windows * self.rate_window.as_secs_f64()), TimeBasis::RateLimits)),
            None => Ok((None, TimeBasis::Unknown)),
        }
    }
}

/// Rows a second of a regeneration that was completed.
fn pace(job: &Regeneration) -> Option<f64> {
    let took = (job.finished_at? - job.created_at).num_milliseconds() as f64 / 1e3;
    (job.state == JobState::Completed && job.done > 0 && took > 0.0).then_some(job.done as f64 / took)
}
