//! The description of the API, and of the bodies that [`crate::domain::body`] reads by hand.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::{Map, Value as Json};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::domain::priority::Priority;
use crate::domain::recommendation::{ContentType, Visibility};
use crate::http::description;
use crate::search::Mode;

/// Two lines of an import.
pub const IMPORT_EXAMPLE: &str = concat!(
    r#"{"user_id": "3f0c1a52-7c1e-4b0a-9b57-0a6f1d2e4c01", "description": "Desk by the hour", "place_name": "Ito Desk"}"#,
    "\n",
    r#"{"user_id": "3f0c1a52-7c1e-4b0a-9b57-0a6f1d2e4c01", "description": "She hears leaks", "service_name": "Darlene"}"#,
    "\n"
);

/// The user who acts. Whoever isn't named sees what is public, and can't change anything.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "a description, never constructed")]
pub struct ActingUser {
    /// The acting user. Wins over the body's `user_id`.
    #[param(rename = "x-user-id", nullable = false, example = "3f0c1a52-7c1e-4b0a-9b57-0a6f1d2e4c01")]
    user: Option<Uuid>,
}

/// Who operates the service.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "a description, never constructed")]
pub struct Operator {
    /// The acting user, who is written into the audit.
    #[param(rename = "x-user-id", nullable = false, example = "3f0c1a52-7c1e-4b0a-9b57-0a6f1d2e4c01")]
    user: Option<Uuid>,
    /// The name in the audit where no user is named; `anonymous` when absent.
    #[param(
        rename = "x-actor",
        nullable = false,
        example = "night shift",
        min_length = 1,
        max_length = 64,
        pattern = "^[!-~]([\\t -~]*[!-~])?$"
    )]
    actor: Option<String>,
}

/// A word to find it by; without what is blank around it, and blank ones are left out.
#[derive(ToSchema)]
#[schema(max_length = 1_000, example = "library")]
#[allow(dead_code, reason = "a schema, never constructed")]
pub struct Label(String);

/// A duration before now (`90s`, `15m`, `2h`, `7d`, `1w`), or a moment (RFC 3339).
#[derive(ToSchema)]
#[schema(
    pattern = "^([0-9]{1,5}[smhdw]|[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?Z)$",
    example = "2h"
)]
#[allow(dead_code, reason = "a schema, never constructed")]
pub struct Moment(String);

/// The same in a query, where an empty one counts as absent.
#[derive(ToSchema)]
#[schema(
    pattern = "^([0-9]{1,5}[smhdw]|[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?Z)?$",
    example = "2h"
)]
#[allow(dead_code, reason = "a schema, never constructed")]
pub struct MomentParam(String);

/// Which ones are listed.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "a schema, never constructed")]
pub enum VisibilityFilter {
    Friends,
    Public,
    All,
}

/// The id of a recommendation.
#[derive(ToSchema)]
#[schema(minimum = 1, example = 7)]
#[allow(dead_code, reason = "a schema, never constructed")]
pub struct RecommendationId(i64);

/// The body of a save, or a line of an import. Text is stored without what is blank around it, a blank one counts as
/// absent, as null does, and none may contain NUL. Objects are at most 64 levels deep. Other fields are left alone.
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
    /// Whose it is. Needed unless the header x-user-id is sent, which wins.
    user_id: Option<Uuid>,
    /// What is said of it, in words: what is embedded first of all.
    #[schema(min_length = 1, max_length = 100_000, pattern = "[^\\s\\u0085]")]
    description: String,
    /// Inferred from the place or service fields when absent.
    content_type: Option<ContentType>,
    #[schema(max_length = 1_000)]
    title: Option<String>,
    /// Details of any kind, which are embedded too.
    #[schema(value_type = Option<Object>, example = json!({ "price": "2 €" }))]
    content_data: Option<Map<String, Json>>,
    #[schema(value_type = Option<Vec<Label>>, max_items = 100)]
    labels: Option<Vec<String>>,
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Json>>,
    /// Stars.
    #[schema(minimum = 1, maximum = 5)]
    rating: Option<i16>,
    /// friends when absent, as MapX has it: nothing is public that nobody called so.
    visibility: Option<Visibility>,
    /// Places with the same one are the same place.
    #[schema(max_length = 1_000)]
    google_place_id: Option<String>,
    #[schema(max_length = 1_000)]
    place_name: Option<String>,
    #[schema(max_length = 1_000)]
    place_address: Option<String>,
    /// Degrees.
    #[schema(minimum = -90, maximum = 90)]
    place_lat: Option<f64>,
    /// Degrees.
    #[schema(minimum = -180, maximum = 180)]
    place_lng: Option<f64>,
    #[schema(max_length = 1_000)]
    place_category: Option<String>,
    #[schema(value_type = Option<Object>)]
    place_metadata: Option<Map<String, Json>>,
    #[schema(max_length = 1_000)]
    service_name: Option<String>,
    #[schema(max_length = 1_000)]
    service_type: Option<String>,
    #[schema(max_length = 1_000)]
    service_business_name: Option<String>,
    #[schema(max_length = 1_000)]
    service_address: Option<String>,
    #[schema(value_type = Option<Object>)]
    service_metadata: Option<Map<String, Json>>,
    /// A ready vector of the current model, with exactly its number of dimensions, finite and not all zeros: stored at
    /// once, nothing is enqueued.
    #[schema(min_items = 1)]
    embedding: Option<Vec<f32>>,
    /// The lane of its embedding; `normal` for a save and `low` for a line of an import when absent.
    priority: Option<Priority>,
}

/// What is to change: absent fields stay as they are, and null clears those that can be empty. For the rest as in a
/// save.
#[derive(ToSchema)]
#[schema(example = json!({ "title": "Hush on the fifth floor", "rating": null }))]
#[allow(dead_code, reason = "a schema, never constructed")]
pub struct ChangeRequest {
    /// Who changes it, unless the header x-user-id says so. An author can't be changed.
    user_id: Option<Uuid>,
    /// Can't be cleared.
    #[schema(min_length = 1, max_length = 100_000, pattern = "[^\\s\\u0085]", nullable = false)]
    description: Option<String>,
    content_type: Option<ContentType>,
    #[schema(max_length = 1_000)]
    title: Option<String>,
    #[schema(value_type = Option<Object>)]
    content_data: Option<Map<String, Json>>,
    #[schema(value_type = Option<Vec<Label>>, max_items = 100)]
    labels: Option<Vec<String>>,
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Json>>,
    /// Stars.
    #[schema(minimum = 1, maximum = 5)]
    rating: Option<i16>,
    visibility: Option<Visibility>,
    #[schema(max_length = 1_000)]
    google_place_id: Option<String>,
    #[schema(max_length = 1_000)]
    place_name: Option<String>,
    #[schema(max_length = 1_000)]
    place_address: Option<String>,
    /// Degrees.
    #[schema(minimum = -90, maximum = 90)]
    place_lat: Option<f64>,
    /// Degrees.
    #[schema(minimum = -180, maximum = 180)]
    place_lng: Option<f64>,
    #[schema(max_length = 1_000)]
    place_category: Option<String>,
    #[schema(value_type = Option<Object>)]
    place_metadata: Option<Map<String, Json>>,
    #[schema(max_length = 1_000)]
    service_name: Option<String>,
    #[schema(max_length = 1_000)]
    service_type: Option<String>,
    #[schema(max_length = 1_000)]
    service_business_name: Option<String>,
    #[schema(max_length = 1_000)]
    service_address: Option<String>,
    #[schema(value_type = Option<Object>)]
    service_metadata: Option<Map<String, Json>>,
    /// A ready vector of the current model for the changed text.
    #[schema(min_items = 1)]
    embedding: Option<Vec<f32>>,
    /// The lane of a new embedding; `high` when absent.
    priority: Option<Priority>,
}

/// The body of a search. Other fields are left alone; null counts as absent.
#[derive(ToSchema)]
#[schema(example = json!({"query": "somewhere quiet to work with my laptop", "limit": 5}))]
#[allow(dead_code, reason = "a schema, never constructed")]
pub struct SearchRequest {
    /// In one's own words; without NUL.
    #[schema(min_length = 1, max_length = 2_000, pattern = "[^\\s\\u0085]")]
    query: String,
    /// Recommendations at most.
    #[schema(minimum = 1, maximum = 100, default = 10)]
    limit: Option<u64>,
    /// Least cosine of a match by meaning; the model's own when absent.
    #[schema(minimum = -1, maximum = 1)]
    threshold: Option<f32>,
    content_type: Option<ContentType>,
    /// `hybrid` when absent: by meaning and by words, fused.
    mode: Option<Mode>,
    /// Who searches, unless the header x-user-id says so.
    user_id: Option<Uuid>,
    /// MapX's narrowing to groups of friends. Refused unless it is empty: there is no table of their members here, and
    /// ignoring it would show too much.
    #[schema(rename = "groupIds", max_items = 0)]
    group_ids: Option<Vec<i64>>,
}

/// This description
#[utoipa::path(
    get, path = "/openapi.json", tag = "docs",
    responses((status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json",
        example = json!({ "openapi": "3.1.0", "info": { "title": "mapx-embeddings", "version": "0.1.0" }, "paths": {} })))
)]
pub async fn openapi_json() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], description::json())
}
