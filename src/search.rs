//! Search: by meaning and by words, fused, and always answered.
//!
//! Meaning and words are looked for at once. When the provider of the query's vector is down or slow, the answer comes
//! from the keywords alone and says so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::config::Settings;
use crate::db::lists::Listed;
use crate::db::regenerations::Regeneration;
use crate::db::search::{ByMeaning, ByWords, Found, Match, Scope};
use crate::db::{Db, DbError};
use crate::domain::embedding::Embedding;
use crate::domain::fusion::reciprocal_rank;
use crate::domain::keywords::content_words;
use crate::domain::recommendation::ContentType;
use crate::embedder::Embedder;
use crate::embedder::query::QueryEmbedder;

/// Candidates of each leg, at least: fusion needs more than it returns.
const CANDIDATES: usize = 50;

/// How to search, and how an answer was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Meaning and words, fused.
    #[default]
    Hybrid,
    Semantic,
    Keyword,
}

/// Until the last vector of the new model is there, those of the old one are of no use: the query has none.
fn half_way(job: &Regeneration) -> String {
    format!(
        "the model was changed and {} of {} recommendations wait for a vector of {}: they are found by their words alone",
        job.total.saturating_sub(job.settled()),
        job.total,
        job.model
    )
}

/// What to look for, and for whom.
#[derive(Clone, Debug)]
pub struct Request {
    pub query: String,
    pub mode: Mode,
    /// Recommendations at most.
    pub limit: usize,
    /// Least cosine of a match by meaning; `None` takes the model's own.
    pub threshold: Option<f32>,
    pub content_type: Option<ContentType>,
    pub viewer: Option<Uuid>,
}

#[derive(Clone, Debug)]
pub struct Hit {
    pub row: Listed,
    /// The cosine to the query. For a row without a vector yet, the threshold: it matched by its words. In a
    /// keyword answer, BM25 brought into 0 to 1 by `s / (1 + s)`.
    pub similarity: f32,
}

#[derive(Clone, Debug)]
pub struct Answer {
    /// Best first.
    pub hits: Vec<Hit>,
    /// How it was found, which may be less than was asked for.
    pub mode: Mode,
    /// Why it is less.
    pub degraded: Option<String>,
    pub threshold: f32,
    pub took: Duration,
    /// Embeddings still being made: what they are of is found by words only.
    pub pending_embeddings: u64,
}

pub struct Search {
    db: Db,
    queries: QueryEmbedder,
    threshold: f32,
}

impl Search {
    pub fn new(db: Db, embedder: Arc<dyn Embedder>, settings: &Settings) -> Self {
        let timeout = Duration::from_millis(settings.search.embed_timeout_ms);
        let threshold = embedder.default_threshold();
        let queries = QueryEmbedder::new(embedder, settings.search.query_cache, timeout);
        Self { db, queries, threshold }
    }

    pub async fn search(&self, request: &Request) -> Result<Answer, DbError> {
        let started = Instant::now();
        let (found, pending, change) =
            tokio::join!(self.find(request), self.db.pending_embeddings(), self.db.model_change());
        let mut found = found?;
        if request.mode != Mode::Keyword && found.degraded.is_none() {
            found.degraded = change?.map(|job| half_way(&job));
        }
        found.ranked.truncate(request.limit);
        let hits = self.load(found.ranked, request.viewer).await?;
        Ok(Answer {
            hits,
            mode: found.mode,
            degraded: found.degraded,
            threshold: self.threshold(request),
            took: started.elapsed(),
            pending_embeddings: pending?,
        })
    }

    fn threshold(&self, request: &Request) -> f32 {
        request.threshold.unwrap_or(self.threshold)
    }

    async fn find(&self, request: &Request) -> Result<Ranked, DbError> {
        let words = content_words(&request.query);
        let embedded = match request.mode {
            Mode::Keyword => None,
            Mode::Semantic | Mode::Hybrid => Some(self.queries.embed(&request.query).await),
        };
        match embedded {
            Some(Ok(query)) => self.by_meaning(request, &query, &words).await,
            Some(Err(error)) => self.by_words(request, &words, Some(error.to_string())).await,
            None => self.by_words(request, &words, None).await,
        }
    }

    /// With the query's vector: by meaning, and in a hybrid search by all of the words too.
    async fn by_meaning(&self, request: &Request, query: &Embedding, words: &[String]) -> Result<Ranked, DbError> {
        let meaning = ByMeaning { query, floor: self.threshold(request) };
        let all = (request.mode == Mode::Hybrid).then_some(ByWords { words, wanted: Match::All });
        let ranked = self.fuse(request, self.db.find(Some(meaning), all, scope(request)).await?);
        if !ranked.is_empty() || request.mode == Mode::Semantic {
            return Ok(Ranked { ranked, mode: request.mode, degraded: None });
        }
        // Nothing by meaning and nothing with all of the words: some of them are better than nothing.
        let any = ByWords { words, wanted: Match::Any };
        let found = self.db.find(Some(meaning), Some(any), scope(request)).await?;
        Ok(Ranked { ranked: self.fuse(request, found), mode: Mode::Hybrid, degraded: None })
    }

    async fn by_words(
        &self,
        request: &Request,
        words: &[String],
        degraded: Option<String>,
    ) -> Result<Ranked, DbError> {
        let keywords = async |wanted| self.db.find(None, Some(ByWords { words, wanted }), scope(request)).await;
        let mut hits = keywords(Match::All).await?.by_words;
        if hits.len() < request.limit {
            for hit in keywords(Match::Any).await?.by_words {
                if !hits.iter().any(|(known, _)| *known == hit.0) {
                    hits.push(hit);
                }
            }
        }
        let ranked = hits.into_iter().map(|(id, score)| (id, within_one(score))).collect();
        Ok(Ranked { ranked, mode: Mode::Keyword, degraded })
    }

    /// Fuses what was found; every id gets its cosine, or the threshold when its vector isn't ready.
    fn fuse(&self, request: &Request, found: Found) -> Vec<(i64, f32)> {
        let by_meaning: Vec<i64> = found.by_meaning.iter().map(|(id, _)| *id).collect();
        let by_words: Vec<i64> = found.by_words.iter().map(|(id, _)| *id).collect();
        let cosines: HashMap<i64, f32> = found.cosines.into_iter().chain(found.by_meaning).collect();
        let cosine = |id: &i64| cosines.get(id).copied().unwrap_or_else(|| self.threshold(request));
        reciprocal_rank(&[&by_meaning, &by_words]).iter().map(|id| (*id, cosine(id))).collect()
    }

    /// The rows, in the order of `ranked`; one that was deleted meanwhile is left out.
    async fn load(&self, ranked: Vec<(i64, f32)>, viewer: Option<Uuid>) -> Result<Vec<Hit>, DbError> {
        let ids: Vec<i64> = ranked.iter().map(|(id, _)| *id).collect();
        let mut rows = self.db.recommendations(&ids, viewer).await?;
        let hits = ranked.into_iter().filter_map(|(id, similarity)| {
            let position = rows.iter().position(|row| row.id == id)?;
            Some(Hit { row: rows.swap_remove(position), similarity })
        });
        Ok(hits.collect())
    }
}

/// Ids with the similarities that are shown, best first, and how they were found.
struct Ranked {
    ranked: Vec<(i64, f32)>,
    mode: Mode,
    degraded: Option<String>,
}

fn scope(request: &Request) -> Scope {
    let k = (request.limit * 3).max(CANDIDATES);
    Scope { viewer: request.viewer, content_type: request.content_type, k }
}

/// A keyword score above 0 as a similarity.
fn within_one(score: f64) -> f32 {
    (score / (1.0 + score)).clamp(0.0, 1.0) as f32
}
