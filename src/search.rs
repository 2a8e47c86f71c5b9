//! Search: by meaning and by words, fused, and always answered.
//!
//! The two legs run side by side. When the provider of the query's vector is down or slow, the answer comes
//! from the keywords alone and says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::config::Settings;
use crate::db::lists::Listed;
use crate::db::search::keyword::{KeywordHit, Match};
use crate::db::search::{Filter, Viewer};
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

/// The candidates of one leg, best first, with their scores.
#[derive(Default)]
struct Leg {
    ids: Vec<i64>,
    scores: Vec<f32>,
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
        let viewer = self.db.viewer(request.viewer).await?;
        let (found, pending) = tokio::join!(self.find(request, &viewer), self.db.pending_embeddings());
        let mut found = found?;
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

    async fn find(&self, request: &Request, viewer: &Viewer) -> Result<Found, DbError> {
        let words = content_words(&request.query);
        let filter = Filter { content_type: request.content_type };
        let keywords = async |wanted| -> Result<Leg, DbError> {
            let k = candidates(request);
            Ok(Leg::from(self.db.keyword_hits(&words, wanted, viewer, &filter, k).await?))
        };
        let query = match request.mode {
            Mode::Keyword => None,
            // A keyword search that isn't wanted isn't made; one that is runs beside the query's embedding.
            Mode::Semantic => Some((self.semantic(request, viewer, &filter).await?, Leg::default())),
            Mode::Hybrid => {
                let (semantic, keyword) =
                    tokio::join!(self.semantic(request, viewer, &filter), keywords(Match::All));
                Some((semantic?, keyword?))
            }
        };
        let degraded = match query {
            Some((Ok((vector, semantic)), keyword)) => {
                let fused = self.fuse(request, &vector, semantic, keyword).await;
                if !fused.is_empty() || request.mode == Mode::Semantic {
                    return Ok(Found { ranked: fused, mode: request.mode, degraded: None });
                }
                // Nothing by meaning and nothing with all of the words: some of them are better than nothing.
                let leg = keywords(Match::Any).await?;
                let ranked = self.fuse(request, &vector, Leg::default(), leg).await;
                return Ok(Found { ranked, mode: Mode::Hybrid, degraded: None });
            }
            Some((Err(reason), _)) => Some(reason),
            None => None,
        };
        let all = keywords(Match::All).await?;
        let any = if all.ids.len() < request.limit { keywords(Match::Any).await? } else { Leg::default() };
        Ok(Found { ranked: all.then(any), mode: Mode::Keyword, degraded })
    }

    /// The query's vector and its nearest rows, or why there is no vector.
    async fn semantic(
        &self,
        request: &Request,
        viewer: &Viewer,
        filter: &Filter,
    ) -> Result<Result<(Embedding, Leg), String>, DbError> {
        let vector = match self.queries.embed(&request.query).await {
            Ok(vector) => vector,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let (db, viewer, filter) = (self.db.clone(), viewer.clone(), filter.clone());
        let (floor, k) = (self.threshold(request), candidates(request));
        let query = vector.clone();
        // The scan takes milliseconds of pure computing: not on a thread that serves others.
        let scan = tokio::task::spawn_blocking(move || db.index().nearest(&query, &viewer, &filter, floor, k));
        let nearest = scan.await.map_err(|e| DbError::Unavailable(format!("the vector scan ended: {e}")))?;
        Ok(Ok((vector, Leg::from(nearest))))
    }

    /// Fuses the legs; every id gets its cosine, or the threshold when its vector isn't ready.
    async fn fuse(&self, request: &Request, query: &Embedding, semantic: Leg, keyword: Leg) -> Vec<(i64, f32)> {
        let ids = reciprocal_rank(&[&semantic.ids, &keyword.ids]);
        let known = self.db.index().similarities(query, &ids);
        let cosine = |id: &i64| known.iter().find(|(known, _)| known == id).map(|(_, cosine)| *cosine);
        ids.iter().map(|id| (*id, cosine(id).unwrap_or_else(|| self.threshold(request)))).collect()
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

struct Found {
    ranked: Vec<(i64, f32)>,
    mode: Mode,
    degraded: Option<String>,
}

fn candidates(request: &Request) -> usize {
    (request.limit * 3).max(CANDIDATES)
}

impl Leg {
    /// This leg's hits, then those of `other` that it doesn't have.
    fn then(self, other: Self) -> Vec<(i64, f32)> {
        let mut ranked: Vec<(i64, f32)> = self.ids.into_iter().zip(self.scores).collect();
        for (id, score) in other.ids.into_iter().zip(other.scores) {
            if !ranked.iter().any(|(known, _)| *known == id) {
                ranked.push((id, score));
            }
        }
        ranked
    }
}

impl From<Vec<KeywordHit>> for Leg {
    fn from(hits: Vec<KeywordHit>) -> Self {
        let scores = hits.iter().map(|hit| (hit.score / (1.0 + hit.score)).clamp(0.0, 1.0) as f32).collect();
        Self { ids: hits.iter().map(|hit| hit.id).collect(), scores }
    }
}

impl From<Vec<(i64, f32)>> for Leg {
    fn from(hits: Vec<(i64, f32)>) -> Self {
        let (ids, scores) = hits.into_iter().unzip();
        Self { ids, scores }
    }
}
