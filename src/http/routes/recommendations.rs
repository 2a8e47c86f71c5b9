//! One recommendation: save, read, change, delete, and how far its embedding is.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use uuid::Uuid;

use crate::db::changes::Changed;
use crate::domain::body;
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::identity::Acting;
use crate::http::params::PathParams;
use crate::http::shape::{EmbeddingBody, Envelope, RecommendationBody, SavedBody};
use crate::http::state::AppState;
use crate::http::traced::Traced;

/// Save a recommendation
///
/// Answers as soon as the row and its embedding task are committed; never waits for the queue or the model.
#[utoipa::path(
    post, path = "/api/recommendations/save", tag = "recommendations",
    params(super::docs::ActingUser),
    request_body(content = super::docs::SaveRequest),
    responses(
        (status = 201, description = "Saved", body = Envelope<SavedBody>),
        (status = 400, description = "A field is wrong; the message names it", body = ErrorBody),
        (status = 408, description = "The body did not arrive in time", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
    )
)]
pub async fn save(
    State(state): State<AppState>,
    acting: Acting,
    traced: Traced,
    JsonBody(body): JsonBody,
) -> Result<impl IntoResponse, ApiError> {
    let author = acting.author(&body)?;
    let mut draft = body::draft(body, author, state.db.model().dimensions)?;
    draft.trace = traced.0;
    let saved = state.db.save(draft).await?;
    let message = "Recommendation saved successfully";
    Ok((StatusCode::CREATED, Envelope::new(SavedBody::new(saved, message), message)))
}

/// Read a recommendation
#[utoipa::path(
    get, path = "/api/recommendations/{id}", tag = "recommendations",
    params(("id" = i64, Path, minimum = 1, description = "The recommendation's id"), super::docs::ActingUser),
    responses(
        (status = 200, description = "The recommendation", body = Envelope<RecommendationBody>),
        (status = 400, description = "The id is no id", body = ErrorBody),
        (status = 404, description = "Not there, or not visible to the viewer", body = ErrorBody),
    )
)]
pub async fn get(
    State(state): State<AppState>,
    acting: Acting,
    path: PathParams,
) -> Result<impl IntoResponse, ApiError> {
    let found = state.db.recommendation(path.id("id")?, acting.0).await?;
    let found = found.ok_or(ApiError::NotFound("recommendation"))?;
    Ok(Envelope::new(RecommendationBody::from(found), "Recommendation found"))
}

/// Change a recommendation
///
/// Absent fields stay as they are, null clears. A change of what is embedded enqueues a new embedding at
/// high priority; until it is ready, search finds the old one.
#[utoipa::path(
    put, path = "/api/recommendations/{id}", tag = "recommendations",
    params(("id" = i64, Path, minimum = 1, description = "The recommendation's id"), super::docs::ActingUser),
    request_body(content = Option<super::docs::ChangeRequest>, description = "Nothing changes without one"),
    responses(
        (status = 200, description = "Changed", body = Envelope<SavedBody>),
        (status = 400, description = "A field is wrong; the message names it", body = ErrorBody),
        (status = 401, description = "Nobody is acting", body = ErrorBody),
        (status = 403, description = "Someone else's", body = ErrorBody),
        (status = 404, description = "Not there, or not visible to the viewer", body = ErrorBody),
        (status = 408, description = "The body did not arrive in time", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
    )
)]
pub async fn put(
    State(state): State<AppState>,
    acting: Acting,
    traced: Traced,
    path: PathParams,
    JsonBody(body): JsonBody,
) -> Result<impl IntoResponse, ApiError> {
    let id = path.id("id")?;
    let user = Acting::required(acting.or_body(&body)?)?;
    let mut patch = body::patch(body, state.db.model().dimensions)?;
    patch.trace = traced.0;
    let saved = done(state.db.update(id, user, patch).await?)?;
    let message = "Recommendation updated successfully";
    Ok(Envelope::new(SavedBody::new(saved, message), message))
}

/// What was deleted.
#[derive(serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(example = json!({ "success": true, "recommendation_id": 7 }))]
pub struct DeletedBody {
    pub success: bool,
    pub recommendation_id: i64,
}

/// Delete a recommendation
#[utoipa::path(
    delete, path = "/api/recommendations/{id}", tag = "recommendations",
    params(("id" = i64, Path, minimum = 1, description = "The recommendation's id"), super::docs::ActingUser),
    responses(
        (status = 200, description = "Deleted", body = Envelope<DeletedBody>),
        (status = 400, description = "The id is no id, or the body no JSON", body = ErrorBody),
        (status = 401, description = "Nobody is acting", body = ErrorBody),
        (status = 403, description = "Someone else's", body = ErrorBody),
        (status = 404, description = "Not there, or not visible to the viewer", body = ErrorBody),
        (status = 408, description = "The body did not arrive in time", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
    )
)]
pub async fn delete(
    State(state): State<AppState>,
    acting: Acting,
    path: PathParams,
    JsonBody(body): JsonBody,
) -> Result<impl IntoResponse, ApiError> {
    let id = path.id("id")?;
    let user: Uuid = Acting::required(acting.or_body(&body)?)?;
    done(state.db.delete(id, user).await?)?;
    Ok(Envelope::new(DeletedBody { success: true, recommendation_id: id }, "Recommendation deleted successfully"))
}

/// How far the embedding is
#[utoipa::path(
    get, path = "/api/recommendations/{id}/embedding", tag = "embeddings",
    params(("id" = i64, Path, minimum = 1, description = "The recommendation's id"), super::docs::ActingUser),
    responses(
        (status = 200, description = "Its state, with the reason of the last failure", body = Envelope<EmbeddingBody>),
        (status = 400, description = "The id is no id", body = ErrorBody),
        (status = 404, description = "Not there, or not visible to the viewer", body = ErrorBody),
    )
)]
pub async fn embedding(
    State(state): State<AppState>,
    acting: Acting,
    path: PathParams,
) -> Result<impl IntoResponse, ApiError> {
    let id = path.id("id")?;
    let not_found = ApiError::NotFound("recommendation");
    if state.db.recommendation(id, acting.0).await?.is_none() {
        return Err(not_found);
    }
    let found = state.db.embedding_state(id).await?.ok_or(not_found)?;
    Ok(Envelope::new(EmbeddingBody::new(found, state.db.model().dimensions), "Embedding status"))
}

/// What can't be seen isn't there; what can be seen isn't thereby one's own.
fn done<T>(changed: Changed<T>) -> Result<T, ApiError> {
    match changed {
        Changed::Done(value) => Ok(value),
        Changed::NotYours { visible: true } => Err(ApiError::Forbidden),
        Changed::NotYours { visible: false } | Changed::NotFound => Err(ApiError::NotFound("recommendation")),
    }
}
