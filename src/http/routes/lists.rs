//! Lists of recommendations.

use axum::extract::State;
use axum::response::IntoResponse;

use crate::http::error::{ApiError, ErrorBody};
use crate::http::identity::Acting;
use crate::http::params::{PathParams, QueryParams};
use crate::http::shape::{Envelope, PageEnvelope, Pagination, RecommendationBody};
use crate::http::state::AppState;

/// A user's recommendations, as far as the viewer may see them
#[utoipa::path(
    get, path = "/api/recommendations/user/{user_id}", tag = "recommendations",
    params(
        ("user_id" = uuid::Uuid, Path, description = "Whose"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 100, description = "At most so many; 20 when absent"),
        ("offset" = Option<u64>, Query, description = "How many to skip"),
        super::docs::ActingUser,
    ),
    responses(
        (status = 200, description = "Newest first", body = PageEnvelope<RecommendationBody>),
        (status = 400, description = "A parameter is wrong; the message names it", body = ErrorBody),
    )
)]
pub async fn by_user(
    State(state): State<AppState>,
    acting: Acting,
    path: PathParams,
    query: QueryParams,
) -> Result<impl IntoResponse, ApiError> {
    let (user, page) = (path.user("user_id")?, query.page()?);
    let (rows, total) = state.db.recommendations_by_user(user, acting.0, page).await?;
    let pagination = Pagination::new(page, rows.len(), total);
    let data: Vec<RecommendationBody> = rows.into_iter().map(Into::into).collect();
    let message = format!("{} recommendations", data.len());
    Ok(axum::Json(PageEnvelope { success: true, data, pagination, message }))
}

/// A place's recommendations, as far as the viewer may see them
#[utoipa::path(
    get, path = "/api/recommendations/place/{place_id}", tag = "places",
    params(
        ("place_id" = i64, Path, minimum = 1, description = "The place's id"),
        ("visibility" = Option<super::docs::VisibilityFilter>, Query, description = "Only these; all when absent"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 100, description = "At most so many; 20 when absent"),
        super::docs::ActingUser,
    ),
    responses(
        (status = 200, description = "Newest first", body = Envelope<Vec<RecommendationBody>>),
        (status = 400, description = "A parameter is wrong; the message names it", body = ErrorBody),
    )
)]
pub async fn by_place(
    State(state): State<AppState>,
    acting: Acting,
    path: PathParams,
    query: QueryParams,
) -> Result<impl IntoResponse, ApiError> {
    let place = path.id("place_id")?;
    let (visibility, page) = (query.visibility()?, query.page()?);
    let rows = state.db.recommendations_by_place(place, acting.0, visibility, page.limit).await?;
    let data: Vec<RecommendationBody> = rows.into_iter().map(Into::into).collect();
    let message = format!("{} recommendations", data.len());
    Ok(Envelope::new(data, message))
}
