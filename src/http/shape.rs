//! The shapes of answers: what MapX's clients read, and the schema's source.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::db::embeddings::EmbeddingState;
use crate::db::lists::Listed;
use crate::db::places::{Place, ReviewedPlace};
use crate::db::recommendations::Saved;
use crate::domain::status::EmbeddingStatus;

/// The envelope of every success.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Envelope<T> {
    /// Always true.
    pub success: bool,
    pub data: T,
    pub message: String,
}

impl<T> Envelope<T> {
    pub fn new(data: T, message: impl Into<String>) -> axum::Json<Self> {
        axum::Json(Self { success: true, data, message: message.into() })
    }
}

/// An envelope around a part of a list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PageEnvelope<T> {
    /// Always true.
    pub success: bool,
    pub data: Vec<T>,
    pub pagination: Pagination,
    pub message: String,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({ "limit": 20, "offset": 0, "total": 1, "hasMore": false }))]
pub struct Pagination {
    pub limit: u64,
    pub offset: u64,
    pub total: u64,
    pub has_more: bool,
}

impl Pagination {
    pub fn new(page: crate::db::lists::Page, shown: usize, total: u64) -> Self {
        let has_more = page.offset.saturating_add(shown as u64) < total;
        Self { limit: page.limit, offset: page.offset, total, has_more }
    }
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "success": true, "recommendation_id": 7, "place_id": 3, "message": "Recommendation saved successfully",
    "embedding": { "status": "pending" }
}))]
pub struct SavedBody {
    pub success: bool,
    pub recommendation_id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_id: Option<i64>,
    pub message: String,
    pub embedding: SavedEmbedding,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SavedEmbedding {
    pub status: EmbeddingStatus,
}

impl SavedBody {
    pub fn new(saved: Saved, message: &str) -> Self {
        Self {
            success: true,
            recommendation_id: saved.id,
            place_id: saved.place_id,
            service_id: saved.service_id,
            message: message.to_owned(),
            embedding: SavedEmbedding { status: saved.status },
        }
    }
}

/// A recommendation as it is listed.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": 7, "user_id": "3f0c1a52-7c1e-4b0a-9b57-0a6f1d2e4c01", "user_name": "Inês", "content_type": "place",
    "title": "Hush on the fourth floor", "description": "Nobody talks up here and every table has a plug.",
    "content_data": null, "rating": 5, "visibility": "public", "labels": ["library", "plugs"], "metadata": null,
    "created_at": "2026-01-31T12:00:00Z", "updated_at": "2026-01-31T12:00:00Z", "place_id": 3,
    "place_name": "Biblioteca do Rio", "place_address": "Rua das Flores 12, Lisbon"
}))]
pub struct RecommendationBody {
    pub id: i64,
    pub user_id: Uuid,
    pub user_name: Option<String>,
    #[schema(example = "place")]
    pub content_type: String,
    pub title: Option<String>,
    pub description: String,
    #[schema(value_type = Option<Object>)]
    pub content_data: Option<Json>,
    /// 1 to 5.
    pub rating: Option<i16>,
    #[schema(example = "public")]
    pub visibility: String,
    #[schema(value_type = Vec<String>)]
    pub labels: Json,
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Json>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    #[serde(flatten)]
    pub place: PlaceFields,
    #[serde(flatten)]
    pub service: ServiceFields,
}

/// The place of a recommendation; absent fields are left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct PlaceFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub google_place_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place_lat: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place_lng: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place_category: Option<String>,
}

/// The service of a recommendation; absent fields are left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ServiceFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_business_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_address: Option<String>,
}

impl PlaceFields {
    pub fn of(row: &Listed) -> Self {
        Self {
            place_id: row.place_id,
            google_place_id: row.google_place_id.clone(),
            place_name: row.place_name.clone(),
            place_address: row.place_address.clone(),
            place_lat: row.place_lat,
            place_lng: row.place_lng,
            place_category: row.place_category.clone(),
        }
    }
}

impl ServiceFields {
    pub fn of(row: &Listed) -> Self {
        Self {
            service_id: row.service_id,
            service_name: row.service_name.clone(),
            service_type: row.service_type.clone(),
            service_business_name: row.service_business_name.clone(),
            service_address: row.service_address.clone(),
        }
    }
}

impl From<Listed> for RecommendationBody {
    fn from(row: Listed) -> Self {
        Self {
            place: PlaceFields::of(&row),
            service: ServiceFields::of(&row),
            id: row.id,
            user_id: row.user_id,
            user_name: row.user_name,
            content_type: row.content_type,
            title: row.title,
            description: row.description,
            content_data: row.content_data,
            rating: row.rating,
            visibility: row.visibility,
            labels: row.labels,
            metadata: row.metadata,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// How far one embedding is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "status": "ready", "attempts": 0, "last_error": null, "model": "minilm-static-256-i8@7dfaf784", "dimensions": 256,
    "parts": 1, "content_version": 1, "embedded_version": 1, "next_attempt_at": null, "discarded_at": null,
    "updated_at": "2026-01-31T12:00:00Z"
}))]
pub struct EmbeddingBody {
    pub status: EmbeddingStatus,
    /// Failed attempts for the current text.
    pub attempts: i32,
    pub last_error: Option<String>,
    /// The model of the stored vector.
    #[schema(example = "minilm-static-256-i8@7dfaf784")]
    pub model: Option<String>,
    pub dimensions: Option<usize>,
    /// Parts in which the text was embedded; more than one for a text longer than the model takes.
    pub parts: Option<i32>,
    pub content_version: i64,
    /// The version whose vector is stored.
    pub embedded_version: Option<i64>,
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When it was discarded: it is found by words alone until its text is edited.
    pub discarded_at: Option<DateTime<Utc>>,
    pub updated_at: DateTime<Utc>,
}

impl EmbeddingBody {
    pub fn new(state: EmbeddingState, dimensions: usize) -> Self {
        Self {
            status: state.status,
            attempts: state.attempts,
            last_error: state.last_error,
            dimensions: state.model.is_some().then_some(dimensions),
            model: state.model,
            parts: state.parts,
            content_version: state.content_version,
            embedded_version: state.embedded_version,
            next_attempt_at: state.next_attempt_at,
            discarded_at: state.discarded_at,
            updated_at: state.updated_at,
        }
    }
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": 3, "google_place_id": "sample-lisbon-cafe-almada", "name": "Café Almada",
    "address": "Rua do Almada 18, Lisbon", "lat": 38.7106, "lng": -9.1461, "metadata": null, "category_name": "cafe",
    "created_at": "2026-01-31T12:00:00Z", "updated_at": "2026-01-31T12:00:00Z"
}))]
pub struct PlaceBody {
    pub id: i64,
    pub google_place_id: Option<String>,
    pub name: Option<String>,
    pub address: Option<String>,
    pub lat: Option<f64>,
    pub lng: Option<f64>,
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Json>,
    pub category_name: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl From<Place> for PlaceBody {
    fn from(place: Place) -> Self {
        let Place { id, google_place_id, name, address, lat, lng, metadata, category_name, created_at, updated_at } =
            place;
        Self { id, google_place_id, name, address, lat, lng, metadata, category_name, created_at, updated_at }
    }
}

/// A place with what its recommendations say.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": 3, "google_place_id": "sample-lisbon-cafe-almada", "name": "Café Almada",
    "address": "Rua do Almada 18, Lisbon", "lat": 38.7106, "lng": -9.1461, "metadata": null, "category_name": "cafe",
    "created_at": "2026-01-31T12:00:00Z", "updated_at": "2026-01-31T12:00:00Z", "review_count": 2,
    "average_rating": 4.5, "latest_review_date": "2026-02-03T09:30:00Z"
}))]
pub struct ReviewedPlaceBody {
    #[serde(flatten)]
    pub place: PlaceBody,
    pub review_count: i64,
    /// 1 to 5; null when nobody has rated it.
    pub average_rating: Option<f64>,
    pub latest_review_date: DateTime<Utc>,
}

impl From<ReviewedPlace> for ReviewedPlaceBody {
    fn from(row: ReviewedPlace) -> Self {
        Self {
            place: PlaceBody {
                id: row.id,
                google_place_id: row.google_place_id,
                name: row.name,
                address: row.address,
                lat: row.lat,
                lng: row.lng,
                metadata: row.metadata,
                category_name: row.category_name,
                created_at: row.created_at,
                updated_at: row.updated_at,
            },
            review_count: row.review_count,
            average_rating: row.average_rating,
            latest_review_date: row.latest_review_date,
        }
    }
}

/// What the viewer and those it follows say of a place.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({ "average_rating": 4.5, "rating_count": 2 }))]
pub struct NetworkRatingBody {
    pub average_rating: Option<f64>,
    pub rating_count: i64,
}
