//! Search, in the shape that MapX's clients read.

use std::collections::HashMap;

use axum::extract::State;
use axum::response::IntoResponse;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use utoipa::ToSchema;

use crate::domain::query::{self, SearchFields};
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::identity::Acting;
use crate::http::shape::{Envelope, PlaceFields, ServiceFields};
use crate::http::state::AppState;
use crate::search::{Answer, Hit, Mode, Request};

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "query": "somewhere quiet to work with my laptop", "summary": "",
    "results": [{
        "type": "place", "place_id": 3, "place_name": "Biblioteca do Rio", "place_address": "Rua das Flores 12, Lisbon",
        "recommendations": [{
            "recommendation_id": 7, "content_type": "place", "title": "Hush on the fourth floor",
            "description": "Nobody talks up here and every table has a plug.", "content_data": null,
            "user_name": "Inês", "rating": 5, "labels": ["library", "plugs"], "metadata": null, "similarity": 0.36,
            "created_at": "2026-01-31T12:00:00Z"
        }],
        "average_similarity": 0.36, "total_recommendations": 1
    }],
    "qna": { "questions": [], "answers": [] }, "total_groups": 1, "total_places": 1, "total_recommendations": 1,
    "search_metadata": {
        "threshold": 0.22, "limit": 5, "query_processed": true, "mode": "hybrid", "degraded": false, "reason": null,
        "took_ms": 2.1, "pending_embeddings": 0
    }
}))]
pub struct SearchBody {
    pub query: String,
    /// Always empty: summaries by a language model are MapX's own affair.
    pub summary: String,
    /// By falling average similarity.
    pub results: Vec<Group>,
    pub qna: Qna,
    pub total_groups: usize,
    pub total_places: usize,
    pub total_recommendations: usize,
    pub search_metadata: SearchMetadata,
}

/// Always empty, as the summary.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Qna {
    pub questions: Vec<String>,
    pub answers: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SearchMetadata {
    /// Least cosine of a match by meaning.
    pub threshold: f32,
    pub limit: usize,
    pub query_processed: bool,
    /// How the results were found.
    pub mode: Mode,
    /// True when it is less than was asked for.
    pub degraded: bool,
    /// Why.
    pub reason: Option<String>,
    pub took_ms: f64,
    /// Embeddings still being made.
    pub pending_embeddings: u64,
}

/// The recommendations of one place, of one service, or of neither.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Group {
    /// `place`, `service` or, without either, `content_type`.
    #[serde(rename = "type")]
    #[schema(example = "place")]
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(flatten)]
    pub place: PlaceFields,
    #[serde(flatten)]
    pub service: ServiceFields,
    pub recommendations: Vec<Found>,
    pub average_similarity: f32,
    pub total_recommendations: usize,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Found {
    pub recommendation_id: i64,
    pub content_type: String,
    pub title: Option<String>,
    pub description: String,
    #[schema(value_type = Option<Object>)]
    pub content_data: Option<Json>,
    pub user_name: Option<String>,
    pub rating: Option<i16>,
    #[schema(value_type = Vec<String>)]
    pub labels: Json,
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Json>,
    /// The cosine to the query; see the mode.
    pub similarity: f32,
    pub created_at: DateTime<Utc>,
}

/// Search recommendations
///
/// By meaning and by words, fused. Answers by keywords alone, and says `degraded`, while the model is away.
#[utoipa::path(
    post, path = "/api/recommendations/search", tag = "search",
    params(super::docs::ActingUser),
    request_body(content = super::docs::SearchRequest),
    responses(
        (status = 200, description = "Grouped by place or service", body = Envelope<SearchBody>),
        (status = 400, description = "A field is wrong; the message names it", body = ErrorBody),
        (status = 408, description = "The body did not arrive in time", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
    )
)]
pub async fn search(
    State(state): State<AppState>,
    acting: Acting,
    JsonBody(raw): JsonBody,
) -> Result<impl IntoResponse, ApiError> {
    let viewer = acting.or_body(&raw)?;
    let SearchFields { query, limit, threshold, content_type, mode } = query::search(raw)?;
    let mode = match mode.as_deref() {
        None | Some("hybrid") => Mode::Hybrid,
        Some("semantic") => Mode::Semantic,
        Some(_) => Mode::Keyword,
    };
    let request = Request { query, mode, limit, threshold, content_type, viewer };
    let answer = state.search.search(&request).await?;
    let message = format!("{} recommendations found", answer.hits.len());
    Ok(Envelope::new(shape(request, answer), message))
}

fn shape(request: Request, answer: Answer) -> SearchBody {
    let total_recommendations = answer.hits.len();
    let results = groups(answer.hits);
    SearchBody {
        query: request.query,
        summary: String::new(),
        qna: Qna::default(),
        total_groups: results.len(),
        total_places: results.iter().filter(|group| group.kind == "place").count(),
        total_recommendations,
        results,
        search_metadata: SearchMetadata {
            threshold: answer.threshold,
            limit: request.limit,
            query_processed: true,
            mode: answer.mode,
            degraded: answer.degraded.is_some(),
            reason: answer.degraded,
            took_ms: answer.took.as_secs_f64() * 1e3,
            pending_embeddings: answer.pending_embeddings,
        },
    }
}

/// What a recommendation is grouped by.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Place(i64),
    Service(i64),
    ContentType(String),
}

/// Groups hits (best first); ties keep the order of the best hit.
fn groups(hits: Vec<Hit>) -> Vec<Group> {
    let mut positions: HashMap<Key, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for hit in hits {
        let key = match (hit.row.place_id, hit.row.service_id) {
            (Some(place), _) => Key::Place(place),
            (None, Some(service)) => Key::Service(service),
            (None, None) => Key::ContentType(hit.row.content_type.clone()),
        };
        let position = *positions.entry(key).or_insert_with_key(|key| {
            groups.push(Group::new(key, &hit));
            groups.len() - 1
        });
        groups[position].recommendations.push(Found::from(hit));
    }
    for group in &mut groups {
        group.total_recommendations = group.recommendations.len();
        let sum: f32 = group.recommendations.iter().map(|found| found.similarity).sum();
        group.average_similarity = sum / group.recommendations.len() as f32;
        group.recommendations.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
    }
    groups.sort_by(|a, b| b.average_similarity.total_cmp(&a.average_similarity));
    groups
}

impl Group {
    fn new(key: &Key, hit: &Hit) -> Self {
        let (kind, content_type) = match key {
            Key::Place(_) => ("place".to_owned(), None),
            Key::Service(_) => ("service".to_owned(), None),
            Key::ContentType(name) => ("content_type".to_owned(), Some(name.clone())),
        };
        let place = if matches!(key, Key::Place(_)) { PlaceFields::of(&hit.row) } else { PlaceFields::default() };
        let service =
            if matches!(key, Key::Service(_)) { ServiceFields::of(&hit.row) } else { ServiceFields::default() };
        Self {
            kind,
            content_type,
            place,
            service,
            recommendations: Vec::new(),
            average_similarity: 0.0,
            total_recommendations: 0,
        }
    }
}

impl From<Hit> for Found {
    fn from(Hit { row, similarity }: Hit) -> Self {
        Self {
            recommendation_id: row.id,
            content_type: row.content_type,
            title: row.title,
            description: row.description,
            content_data: row.content_data,
            user_name: row.user_name,
            rating: row.rating,
            labels: row.labels,
            metadata: row.metadata,
            similarity,
            created_at: row.created_at,
        }
    }
}
