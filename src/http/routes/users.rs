//! Who follows whom.

use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::fields::InvalidField;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::identity::Acting;
use crate::http::params::PathParams;
use crate::http::shape::Envelope;
use crate::http::state::AppState;

/// Whether one user follows another from now on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "follower_id": "3f0c1a52-7c1e-4b0a-9b57-0a6f1d2e4c01", "following_id": "9c1d7f0e-3b52-4e6a-8a3d-5d2f7b6c1e02",
    "following": true
}))]
pub struct FollowingBody {
    pub follower_id: Uuid,
    pub following_id: Uuid,
    pub following: bool,
}

/// Follow a user
///
/// The follower sees what the other keeps for friends. Doing it twice changes nothing.
#[utoipa::path(
    put, path = "/api/users/{id}/following/{other}", tag = "users",
    params(
        ("id" = Uuid, Path, description = "The follower"),
        ("other" = Uuid, Path, description = "Who is followed"),
        super::docs::ActingUser,
    ),
    responses(
        (status = 200, description = "Following", body = Envelope<FollowingBody>),
        (status = 400, description = "An id is no UUID, or both are the same", body = ErrorBody),
        (status = 403, description = "The acting user is not the follower", body = ErrorBody),
    )
)]
pub async fn follow(
    State(state): State<AppState>,
    acting: Acting,
    path: PathParams,
) -> Result<impl IntoResponse, ApiError> {
    let (follower, followed) = pair(&acting, &path)?;
    if follower == followed {
        return Err(InvalidField::new("other", "must be another user").into());
    }
    state.db.follow(follower, followed).await?;
    Ok(Envelope::new(FollowingBody { follower_id: follower, following_id: followed, following: true }, "Following"))
}

/// Stop following a user
#[utoipa::path(
    delete, path = "/api/users/{id}/following/{other}", tag = "users",
    params(
        ("id" = Uuid, Path, description = "The follower"),
        ("other" = Uuid, Path, description = "Who is followed"),
        super::docs::ActingUser,
    ),
    responses(
        (status = 200, description = "Not following", body = Envelope<FollowingBody>),
        (status = 400, description = "An id is no UUID", body = ErrorBody),
        (status = 403, description = "The acting user is not the follower", body = ErrorBody),
    )
)]
pub async fn unfollow(
    State(state): State<AppState>,
    acting: Acting,
    path: PathParams,
) -> Result<impl IntoResponse, ApiError> {
    let (follower, followed) = pair(&acting, &path)?;
    state.db.unfollow(follower, followed).await?;
    let body = FollowingBody { follower_id: follower, following_id: followed, following: false };
    Ok(Envelope::new(body, "Not following"))
}

/// Follower and followed; a stated acting user must be the follower.
fn pair(acting: &Acting, path: &PathParams) -> Result<(Uuid, Uuid), ApiError> {
    let (follower, followed) = (path.user("id")?, path.user("other")?);
    if acting.0.is_some_and(|user| user != follower) {
        return Err(ApiError::Forbidden);
    }
    Ok((follower, followed))
}
