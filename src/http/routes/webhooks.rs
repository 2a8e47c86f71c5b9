//! Webhooks: who is told of what.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::db::webhooks::{Created, Endpoint, MAX_ENDPOINTS};
use crate::domain::webhook::Event;
use crate::domain::webhook::request::{EndpointChange, NewEndpoint};
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::identity::{Actor, Discretion};
use crate::http::params::PathParams;
use crate::http::shape::Envelope;
use crate::http::state::AppState;
use crate::webhook::secret;

/// What an endpoint can be told of by its own choice.
#[derive(serde::Serialize, ToSchema)]
#[allow(dead_code, reason = "a schema, never constructed")]
enum ChosenEvent {
    #[serde(rename = "embedding.ready")]
    Ready,
    #[serde(rename = "embedding.failed")]
    Failed,
    #[serde(rename = "regeneration.finished")]
    Finished,
}

/// Whom to tell of what.
#[derive(ToSchema)]
#[schema(example = json!({
    "url": "https://example.com/hooks/mapx", "events": ["embedding.failed", "regeneration.finished"],
    "description": "the page of whoever is on call"
}))]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "a schema, never constructed")]
pub struct CreateWebhookRequest {
    /// https or http, at an address of the public internet unless `webhook.allow_private` is set; at most 2,048 bytes,
    /// without a user and a password.
    url: String,
    /// One or more of `embedding.ready`, `embedding.failed` and `regeneration.finished`; all of them when absent.
    #[schema(min_items = 1)]
    events: Option<Vec<ChosenEvent>>,
    /// Whether to tell of each row that a regeneration embeds, too; its end is told either way. False when absent.
    include_regenerations: Option<bool>,
    /// For people; at most 200 characters.
    #[schema(max_length = 200)]
    description: Option<String>,
}

/// What to change; what isn't named stays as it is.
#[derive(ToSchema)]
#[schema(example = json!({ "enabled": true, "events": ["embedding.ready"], "include_regenerations": false }))]
#[schema(min_properties = 1)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "a schema, never constructed")]
pub struct ChangeWebhookRequest {
    url: Option<String>,
    #[schema(min_items = 1)]
    events: Option<Vec<ChosenEvent>>,
    include_regenerations: Option<bool>,
    /// Null removes it.
    #[schema(max_length = 200)]
    description: Option<String>,
    /// A disabled endpoint is told nothing of what happens meanwhile; what it was to be told before waits until it is
    /// enabled again.
    enabled: Option<bool>,
}

/// An endpoint. Its secret is shown when it is made and when it is rotated, and never again.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": 1, "url": "https://example.com/hooks/mapx", "description": null,
    "events": ["embedding.failed", "regeneration.finished"], "include_regenerations": false, "enabled": false,
    "disabled_at": "2026-01-10T12:00:00Z", "disabled_reason": "nothing but failures for 5 days; the last one: status 500",
    "failing_since": "2026-01-05T11:58:00Z", "previous_secret_until": null,
    "created_at": "2026-01-01T09:00:00Z", "updated_at": "2026-01-10T12:00:00Z"
}))]
pub struct WebhookBody {
    pub id: i64,
    /// To a caller who may only see, its origin: the rest may be a key.
    pub url: String,
    pub description: Option<String>,
    pub events: Vec<Event>,
    pub include_regenerations: bool,
    pub enabled: bool,
    pub disabled_at: Option<DateTime<Utc>>,
    pub disabled_reason: Option<String>,
    /// The first failure since the last success; null while all is well.
    pub failing_since: Option<DateTime<Utc>>,
    /// Until when the secret before the last rotation signs, too.
    pub previous_secret_until: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// An endpoint with its new secret.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": 1, "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=", "url": "https://example.com/hooks/mapx",
    "description": null, "events": ["embedding.ready", "embedding.failed", "regeneration.finished"],
    "include_regenerations": false, "enabled": true, "disabled_at": null, "disabled_reason": null,
    "failing_since": null, "previous_secret_until": null, "created_at": "2026-01-01T09:00:00Z",
    "updated_at": "2026-01-01T09:00:00Z"
}))]
pub struct WebhookSecretBody {
    /// Signs each request (Standard Webhooks). Keep it: it can't be asked for again.
    pub secret: String,
    #[serde(flatten)]
    pub webhook: WebhookBody,
}

/// An endpoint that is gone.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({ "id": 1 }))]
pub struct DeletedWebhookBody {
    pub id: i64,
}

impl From<Endpoint> for WebhookBody {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            events: endpoint.chosen().events(),
            id: endpoint.id,
            url: endpoint.url,
            description: endpoint.description,
            include_regenerations: endpoint.include_regenerations,
            enabled: endpoint.disabled_at.is_none(),
            disabled_at: endpoint.disabled_at,
            disabled_reason: endpoint.disabled_reason,
            failing_since: endpoint.failing_since,
            previous_secret_until: endpoint.previous_secret_until.filter(|until| *until > Utc::now()),
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
        }
    }
}

impl WebhookBody {
    fn shown(self, discretion: Discretion) -> Self {
        Self { url: discretion.url(self.url), ..self }
    }
}

/// Register a webhook
///
/// The answer has its secret, once. Requests carry `webhook-id`, `webhook-timestamp` and `webhook-signature`, as Standard
/// Webhooks has them, and must be answered with a 2xx.
#[utoipa::path(
    post, path = "/api/webhooks", tag = "webhooks",
    request_body = CreateWebhookRequest,
    responses(
        (status = 201, description = "It is told of what happens from now on", body = Envelope<WebhookSecretBody>),
        (status = 400, description = "A field is missing, unknown or wrong, or the URL leads inside", body = ErrorBody),
        (status = 409, description = "There are as many as there may be", body = ErrorBody),
    )
)]
pub async fn create(
    State(state): State<AppState>,
    Actor(who): Actor,
    JsonBody(json): JsonBody,
) -> Result<impl IntoResponse, ApiError> {
    let new = NewEndpoint::read(json, state.webhook.allow_private)?;
    let secret = secret::generate();
    match state.db.create_webhook(new, secret.clone(), who).await? {
        Created::New(endpoint) => {
            let body = WebhookSecretBody { secret: secret.expose().to_owned(), webhook: endpoint.into() };
            Ok((StatusCode::CREATED, Envelope::new(body, "Webhook registered")))
        }
        Created::TooMany => {
            Err(ApiError::Conflict(format!("there are {MAX_ENDPOINTS} webhooks already; delete one first")))
        }
    }
}

/// All webhooks
#[utoipa::path(
    get, path = "/api/webhooks", tag = "webhooks",
    responses((status = 200, description = "The oldest first, without their secrets", body = Envelope<Vec<WebhookBody>>))
)]
pub async fn list(State(state): State<AppState>, discretion: Discretion) -> Result<impl IntoResponse, ApiError> {
    let endpoints = state.db.webhook_endpoints().await?;
    let bodies = endpoints.into_iter().map(|endpoint| WebhookBody::from(endpoint).shown(discretion));
    Ok(Envelope::new(bodies.collect::<Vec<_>>(), "Webhooks"))
}

/// One webhook
#[utoipa::path(
    get, path = "/api/webhooks/{id}", tag = "webhooks",
    params(("id" = i64, Path, minimum = 1, description = "The webhook's id")),
    responses(
        (status = 200, description = "How it is", body = Envelope<WebhookBody>),
        (status = 400, description = "The id is no number", body = ErrorBody),
        (status = 404, description = "No such webhook", body = ErrorBody),
    )
)]
pub async fn get(
    State(state): State<AppState>,
    discretion: Discretion,
    path: PathParams,
) -> Result<impl IntoResponse, ApiError> {
    let endpoint = state.db.webhook_endpoint(path.id("id")?).await?.ok_or(ApiError::NotFound("webhook"))?;
    Ok(Envelope::new(WebhookBody::from(endpoint).shown(discretion), "Webhook"))
}

/// Change a webhook
#[utoipa::path(
    patch, path = "/api/webhooks/{id}", tag = "webhooks",
    params(("id" = i64, Path, minimum = 1, description = "The webhook's id")),
    request_body = ChangeWebhookRequest,
    responses(
        (status = 200, description = "As it is now", body = Envelope<WebhookBody>),
        (status = 400, description = "A field is unknown or wrong, or none is named", body = ErrorBody),
        (status = 404, description = "No such webhook", body = ErrorBody),
    )
)]
pub async fn change(
    State(state): State<AppState>,
    Actor(who): Actor,
    path: PathParams,
    JsonBody(json): JsonBody,
) -> Result<impl IntoResponse, ApiError> {
    let (id, change) = (path.id("id")?, EndpointChange::read(json, state.webhook.allow_private)?);
    let endpoint = state.db.change_webhook(id, change, who).await?.ok_or(ApiError::NotFound("webhook"))?;
    Ok(Envelope::new(WebhookBody::from(endpoint), "Webhook changed"))
}

/// Delete a webhook
///
/// With its log. What it was still to be told is not sent.
#[utoipa::path(
    delete, path = "/api/webhooks/{id}", tag = "webhooks",
    params(("id" = i64, Path, minimum = 1, description = "The webhook's id")),
    responses(
        (status = 200, description = "It is gone", body = Envelope<DeletedWebhookBody>),
        (status = 400, description = "The id is no number", body = ErrorBody),
        (status = 404, description = "No such webhook", body = ErrorBody),
    )
)]
pub async fn delete(
    State(state): State<AppState>,
    Actor(who): Actor,
    path: PathParams,
) -> Result<impl IntoResponse, ApiError> {
    let id = path.id("id")?;
    match state.db.delete_webhook(id, who).await? {
        true => Ok(Envelope::new(DeletedWebhookBody { id }, "Webhook deleted")),
        false => Err(ApiError::NotFound("webhook")),
    }
}

/// Give a webhook another secret
///
/// The one it had goes on to sign beside the new one for `webhook.secret_overlap_ms`, a day by default. A second rotation
/// within that time ends the first secret's.
#[utoipa::path(
    post, path = "/api/webhooks/{id}/rotate-secret", tag = "webhooks",
    params(("id" = i64, Path, minimum = 1, description = "The webhook's id")),
    responses(
        (status = 200, description = "Its new secret, once", body = Envelope<WebhookSecretBody>),
        (status = 400, description = "The id is no number", body = ErrorBody),
        (status = 404, description = "No such webhook", body = ErrorBody),
    )
)]
pub async fn rotate(
    State(state): State<AppState>,
    Actor(who): Actor,
    path: PathParams,
) -> Result<impl IntoResponse, ApiError> {
    let (id, secret) = (path.id("id")?, secret::generate());
    let rotated = state.db.rotate_webhook(id, secret.clone(), state.webhook.secret_overlap(), who).await?;
    let webhook = rotated.ok_or(ApiError::NotFound("webhook"))?.into();
    Ok(Envelope::new(WebhookSecretBody { secret: secret.expose().to_owned(), webhook }, "Secret rotated"))
}
