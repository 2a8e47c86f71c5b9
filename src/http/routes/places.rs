//! Places.

use axum::extract::State;
use axum::response::IntoResponse;

use crate::http::error::{ApiError, ErrorBody};
use crate::http::identity::Acting;
use crate::http::params::{PathParams, QueryParams};
use crate::http::shape::{Envelope, NetworkRatingBody, PageEnvelope, Pagination, PlaceBody, ReviewedPlaceBody};
use crate::http::state::AppState;

/// What the viewer and those it follows rate a place
#[utoipa::path(
    get, path = "/api/recommendations/place/{place_id}/network-rating", tag = "places",
    params(("place_id" = i64, Path, minimum = 1, description = "The place's id"), super::docs::ActingUser),
    responses(
        (status = 200, description = "Average and count; null and 0 when there is none", body = Envelope<NetworkRatingBody>),
        (status = 400, description = "The id is no id", body = ErrorBody),
    )
)]
pub async fn network_rating(
    State(state): State<AppState>,
    acting: Acting,
    path: PathParams,
) -> Result<impl IntoResponse, ApiError> {
    let (average_rating, rating_count) = state.db.network_rating(path.id("place_id")?, acting.0).await?;
    Ok(Envelope::new(NetworkRatingBody { average_rating, rating_count }, "Network rating"))
}

/// The place of a Google id
#[utoipa::path(
    get, path = "/api/recommendations/place/google/{google_place_id}", tag = "places",
    params(("google_place_id" = String, Path, example = "sample-lisbon-cafe-almada", description = "Google's id of the place")),
    responses(
        (status = 200, description = "The place, or null", body = Envelope<Option<PlaceBody>>),
        (status = 400, description = "The id can't be read", body = ErrorBody),
    )
)]
pub async fn by_google_id(State(state): State<AppState>, path: PathParams) -> Result<impl IntoResponse, ApiError> {
    let place = state.db.place_by_google_id(path.text("google_place_id")?).await?;
    let message = if place.is_some() { "Place found" } else { "No place with this Google id" };
    Ok(Envelope::new(place.map(PlaceBody::from), message))
}

/// Places with recommendations that the viewer may see
#[utoipa::path(
    get, path = "/api/recommendations/places/reviewed", tag = "places",
    params(
        ("visibility" = Option<super::docs::VisibilityFilter>, Query, description = "Only these; all when absent"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 100, description = "At most so many; 20 when absent"),
        ("offset" = Option<u64>, Query, description = "How many to skip"),
        super::docs::ActingUser,
    ),
    responses(
        (status = 200, description = "The latest reviewed first", body = PageEnvelope<ReviewedPlaceBody>),
        (status = 400, description = "A parameter is wrong; the message names it", body = ErrorBody),
    )
)]
pub async fn reviewed(
    State(state): State<AppState>,
    acting: Acting,
    query: QueryParams,
) -> Result<impl IntoResponse, ApiError> {
    query.no_groups()?;
    let (visibility, page) = (query.visibility()?, query.page()?);
    let (rows, total) = state.db.reviewed_places(acting.0, visibility, page).await?;
    let pagination = Pagination::new(page, rows.len(), total);
    let data: Vec<ReviewedPlaceBody> = rows.into_iter().map(Into::into).collect();
    let message = format!("{} places", data.len());
    Ok(axum::Json(PageEnvelope { success: true, data, pagination, message }))
}
