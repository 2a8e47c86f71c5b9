//! The description of the API, and of the bodies that [`crate::domain::body`] reads by hand.

use axum::response::IntoResponse;
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::priority::Priority;
use crate::domain::recommendation::{ContentType, Visibility};
use crate::search::Mode;

/// The body of a save, a line of an import, or, each field optional, of a change.
#[derive(ToSchema)]
#[schema(example = json!({
    "user_id": "3f0c1a52-7c1e-4b0a-9b57-0a6f1d2e4c01",
    "title": "Hush on the fourth floor",
    "description": "Nobody talks up here and every table has a plug.",
    "place_name": "Biblioteca do Rio", "place_address": "Rua das Flores 12, Lisbon",
    "labels": ["library", "plugs"], "rating": 5, "visibility": "public"
}))]
#[allow(dead_code, reason = "a schema, never constructed")]
pub struct SaveRequest {
    /// Needed unless the header x-user-id is sent, which wins.
    user_id: Option<Uuid>,
    /// Neither empty nor blank, at most 100,000 characters.
    description: String,
    /// Inferred from the place or service fields when absent.
    content_type: Option<ContentType>,
    title: Option<String>,
    #[schema(value_type = Option<Object>)]
    content_data: Option<Map<String, Json>>,
    labels: Option<Vec<String>>,
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Json>>,
    #[schema(minimum = 1, maximum = 5)]
    rating: Option<i16>,
    /// friends when absent, as MapX has it: nothing is public that nobody called so.
    visibility: Option<Visibility>,
    google_place_id: Option<String>,
    place_name: Option<String>,
    place_address: Option<String>,
    #[schema(minimum = -90, maximum = 90)]
    place_lat: Option<f64>,
    #[schema(minimum = -180, maximum = 180)]
    place_lng: Option<f64>,
    place_category: Option<String>,
    #[schema(value_type = Option<Object>)]
    place_metadata: Option<Map<String, Json>>,
    service_name: Option<String>,
    service_type: Option<String>,
    service_business_name: Option<String>,
    service_address: Option<String>,
    #[schema(value_type = Option<Object>)]
    service_metadata: Option<Map<String, Json>>,
    /// A ready vector of the current model: stored at once, nothing is enqueued.
    embedding: Option<Vec<f32>>,
    priority: Option<Priority>,
}

/// The body of a search.
#[derive(ToSchema)]
#[schema(example = json!({"query": "somewhere quiet to work with my laptop", "limit": 5}))]
#[allow(dead_code, reason = "a schema, never constructed")]
pub struct SearchRequest {
    /// Neither empty nor blank, at most 2,000 characters.
    query: String,
    /// Recommendations at most; 10 when absent.
    #[schema(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// Least cosine of a match by meaning; the model's own when absent.
    #[schema(minimum = -1, maximum = 1)]
    threshold: Option<f32>,
    content_type: Option<ContentType>,
    mode: Option<Mode>,
    /// Who searches, unless the header x-user-id says so.
    user_id: Option<Uuid>,
}

/// This description
#[utoipa::path(
    get, path = "/openapi.json", tag = "docs",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json"))
)]
pub async fn openapi_json() -> impl IntoResponse {
    axum::Json(super::openapi())
}
