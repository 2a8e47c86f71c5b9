//! What every route answers besides what it is for: who isn't let in, and who asks too much. Written into the
//! description from the table of who may do what, so that no route can forget it.

use serde_json::{Value, json};
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, PathItem, Ref, RefOr, Response, ResponseBuilder};

use axum::http::Method;

use super::access::Access;

const SCHEME: &str = "bearer";

/// Adds the security scheme, and to every operation what its access means.
pub fn complete(mut api: OpenApi) -> OpenApi {
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").description(Some(
        "A user's JSON Web Token, or a token of the configuration. Without authentication (`[auth]`) none is needed.",
    ));
    let components = api.components.get_or_insert_default();
    components.add_security_scheme(SCHEME, SecurityScheme::Http(scheme.build()));
    for (path, item) in &mut api.paths.paths {
        for (method, operation) in operations(item) {
            if let Some(access) = Access::of(&method, path) {
                describe(operation, access, method != Method::GET);
            }
        }
    }
    api
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    let all = [
        (Method::GET, get),
        (Method::PUT, put),
        (Method::POST, post),
        (Method::DELETE, delete),
        (Method::PATCH, patch),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

fn describe(operation: &mut Operation, access: Access, changes: bool) {
    if access == Access::Probe {
        return;
    }
    add(
        operation,
        429,
        "Too many requests from this client; Retry-After says when",
        "RATE_LIMITED",
        "too many requests from this client; try again in 2 s",
    );
    add(
        operation,
        503,
        "The database, the keys of tokens or a free turn can't be had just now",
        "UNAVAILABLE",
        "the service can't answer just now",
    );
    if access.is_open() {
        return;
    }
    // Either of them will do: a token, or a service that asks for none.
    let requirements = [SecurityRequirement::new(SCHEME, [""; 0]), SecurityRequirement::default()];
    operation.security = Some(requirements.into());
    add(operation, 401, "No token, or one that isn't good", "UNAUTHENTICATED", "the token has expired");
    let who = who(access);
    let besides = if changes { ", or a page of another site asks" } else { "" };
    add(operation, 403, &format!("{who}{besides}"), "NOT_ALLOWED", "this token may read and not act");
    let note = format!("With authentication: {}.", permission(access));
    let told = operation.description.take().filter(|text| !text.is_empty());
    operation.description = Some(told.map_or(note.clone(), |text| format!("{text}\n\n{note}")));
}

fn permission(access: Access) -> &'static str {
    match access {
        Access::Read => "whoever has a token, and without one where auth.anonymous_read is set",
        Access::SignedIn => "whoever has a token",
        Access::Act => "users",
        Access::Own => "the user whose it is",
        Access::Import => "users for themselves, operators for the users whom the lines name",
        Access::Watch => "operators, and those who may see everything",
        Access::Operate => "operators",
        Access::Metrics => "the metrics token, operators, and those who may see everything",
        Access::Probe | Access::Public | Access::Page => "anyone",
    }
}

fn who(access: Access) -> &'static str {
    match access {
        Access::Read | Access::SignedIn => "The token may not, or user_id is not its user",
        Access::Act | Access::Import => "The token may not act, or user_id is not its user",
        Access::Own => "Someone else's, or the token may not act",
        _ => "The token may not",
    }
}

/// Adds an answer, unless the route has described it itself.
fn add(operation: &mut Operation, status: u16, description: &str, code: &str, message: &str) {
    let example = json!({ "success": false, "message": message, "error": code });
    let responses = &mut operation.responses.responses;
    responses.entry(status.to_string()).or_insert_with(|| RefOr::T(answer(description, example)));
}

fn answer(description: &str, example: Value) -> Response {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).example(Some(example));
    ResponseBuilder::new().description(description).content("application/json", body.build()).build()
}
