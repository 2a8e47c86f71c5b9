//! What every operation has in common, written into the description once instead of at each of them, so that none
//! can forget it: a name of its own, examples, and the answers that the layers and the readers of bodies give.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::response::Response;
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::{ContentBuilder, OpenApi, PathItem, Ref, RefOr, ResponseBuilder, Schema, Type};

use super::example::{Schemas, type_of};
use crate::domain::fields::InvalidField;
use crate::http::error::ApiError;

const JSON: &str = "application/json";
const ERROR: &str = "ErrorBody";

const CONVENTIONS: &str = "\n\nA success is answered with `{\"success\": true, \"data\": …, \"message\": …}`, everything \
    else with `{\"success\": false, \"message\": …, \"error\": CODE}`: the message is for a person and names the field, \
    the code is for a program.\n\nA body is read as JSON whatever its content-type says. An empty query parameter counts as \
    absent. A path that isn't here is a 404 (NO_SUCH_ROUTE), a method that a path doesn't have a 405 \
    (METHOD_NOT_ALLOWED, with the header allow), and what is hardly HTTP is a 400, 414 or 431 without a body. A GET is \
    also answered as a HEAD.";

/// Adds what is the same for all.
pub fn complete(mut api: OpenApi) -> OpenApi {
    let known = json_of(&api.components)["schemas"].take();
    let schemas = Schemas(&known);
    let mut used = BTreeSet::new();
    for (path, item) in &mut api.paths.paths {
        for operation in operations(item) {
            used.insert(tag(operation).to_owned());
            name(operation);
            if path.starts_with("/api/") {
                answers(operation);
            }
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter {
                    exemplify_parameter(parameter);
                }
            }
            if let Some(RefOr::T(body)) = &mut operation.request_body {
                complete_body(body, &schemas);
            }
            exemplify_answers(operation, &schemas);
        }
    }
    if let Some(tags) = &mut api.tags {
        tags.retain(|listed| used.contains(&listed.name));
    }
    let told = api.info.description.get_or_insert_default();
    told.push_str(CONVENTIONS);
    api
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

fn tag(operation: &Operation) -> &str {
    operation.tags.as_ref().and_then(|tags| tags.first()).map_or("", String::as_str)
}

/// The handlers' names are unique among those of a tag only.
fn name(operation: &mut Operation) {
    if let Some(own) = operation.operation_id.take() {
        operation.operation_id = Some(format!("{}_{own}", tag(operation).replace(' ', "_")));
    }
}

/// The answers that aren't the handler's own; those that are there stay as they are.
fn answers(operation: &mut Operation) {
    let takes = |kind: &str| match &operation.request_body {
        Some(RefOr::T(body)) => body.content.contains_key(kind),
        _ => false,
    };
    if takes(JSON) {
        add(operation, ApiError::TooSlow, "The body did not arrive in time");
        add(operation, ApiError::TooLarge(BODY_LIMIT), "The body is larger than server.body_limit_bytes");
    }
    if !operation.parameters.as_ref().is_none_or(Vec::is_empty) || operation.request_body.is_some() {
        add(
            operation,
            ApiError::BrokenBody(String::new()),
            "A parameter or the body is wrong; the message names it",
        );
    }
    add(operation, ApiError::Internal, "A fault of the service, which its log tells");
    add(operation, ApiError::Unavailable, "The database does not answer, or the request took too long");
}

/// The default of the configuration, for an example.
const BODY_LIMIT: usize = 1_048_576;

fn add(operation: &mut Operation, error: ApiError, description: &str) {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(ERROR))).build();
    let response = ResponseBuilder::new().description(description).content(JSON, content).build();
    let responses = &mut operation.responses.responses;
    responses.entry(error.status().as_str().to_owned()).or_insert(RefOr::T(response));
}

fn exemplify_parameter(parameter: &mut Parameter) {
    let told = json_of(parameter);
    if told.get("example").is_some() || parameter.parameter_in != ParameterIn::Path {
        return;
    }
    let example = match (type_of(&told["schema"]), told["schema"]["format"].as_str()) {
        // Two users in one path are two users.
        ("string", Some("uuid")) if parameter.name == "other" => json!("9c1d7f0e-3b52-4e6a-8a3d-5d2f7b6c1e02"),
        ("string", Some("uuid")) => json!("3f0c1a52-7c1e-4b0a-9b57-0a6f1d2e4c01"),
        ("integer", _) => json!(7),
        _ => return,
    };
    *parameter = ParameterBuilder::from(parameter.clone()).example(Some(example)).build();
}

/// A body that may be absent is no null all the same.
fn complete_body(body: &mut RequestBody, schemas: &Schemas) {
    for content in body.content.values_mut() {
        let RefOr::T(content) = content else { continue };
        if let Some(RefOr::T(Schema::OneOf(either))) = &content.schema
            && let Some(one @ RefOr::Ref(_)) = either.items.iter().find(|one| matches!(one, RefOr::Ref(_)))
        {
            content.schema = Some(one.clone());
        }
        if let Some(RefOr::T(Schema::Object(object))) = &mut content.schema
            && let SchemaType::Array(types) = &mut object.schema_type
        {
            types.retain(|one| *one != Type::Null);
        }
        if content.example.is_none() && content.examples.is_empty() {
            content.example = Some(schemas.example(&json_of(&content.schema)));
        }
    }
}

fn exemplify_answers(operation: &mut Operation, schemas: &Schemas) {
    let (tag, wrong) = (tag(operation).to_owned(), wrong_field(operation));
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(Response { description, content, .. }) = response else { continue };
        let Some(RefOr::T(content)) = content.get_mut(JSON) else { continue };
        if content.example.is_some() || !content.examples.is_empty() {
            continue;
        }
        let schema = json_of(&content.schema);
        content.example = if Schemas::name(&schema) == Some(ERROR) {
            refusal(status, &tag, &wrong).map(|error| json_of(&error.body()))
        } else {
            Some(success(schemas, &schema, description))
        };
    }
}

/// What a refusal of this status looks like.
fn refusal(status: &str, tag: &str, wrong: &InvalidField) -> Option<ApiError> {
    Some(match status {
        "400" => ApiError::InvalidField(wrong.clone()),
        "401" => ApiError::NoIdentity,
        "403" => ApiError::Forbidden,
        "404" => ApiError::NotFound(match tag {
            "dead letters" => "dead letter",
            "regeneration" => "regeneration",
            "webhooks" => "webhook",
            "queue" => "worker",
            _ => "recommendation",
        }),
        "408" => ApiError::TooSlow,
        "409" => ApiError::Conflict("regeneration 7 is completed; begin another".to_owned()),
        "413" => ApiError::TooLarge(BODY_LIMIT),
        "429" => ApiError::TooManyListeners(2_500),
        "500" => ApiError::Internal,
        "503" => ApiError::Unavailable,
        _ => return None,
    })
}

/// The problem that is the likeliest of an operation's.
fn wrong_field(operation: &Operation) -> InvalidField {
    if operation.request_body.is_some() {
        return InvalidField::new("body", "must be a JSON object, not a list");
    }
    let parameters: Vec<&Parameter> = operation.parameters.iter().flatten().filter_map(of_its_own).collect();
    let has = |name: &str| parameters.iter().any(|parameter| parameter.name == name);
    if has("limit") {
        return InvalidField::new("limit", "must be a whole number from 1 to 100");
    }
    match parameters.iter().find(|parameter| parameter.parameter_in == ParameterIn::Path) {
        Some(id) if is_uuid(id) => InvalidField::new(id.name.as_str(), "must be a UUID"),
        Some(id) => InvalidField::new(id.name.as_str(), format!("must be a whole number from 1 to {}", i64::MAX)),
        None => InvalidField::new("query", "can't be read"),
    }
}

fn of_its_own(parameter: &RefOr<Parameter>) -> Option<&Parameter> {
    match parameter {
        RefOr::T(parameter) => Some(parameter),
        RefOr::Ref(_) => None,
    }
}

fn is_uuid(parameter: &Parameter) -> bool {
    json_of(&parameter.schema)["format"] == "uuid"
}

/// An answer of the schema; of an envelope, with what the answer means for a message.
fn success(schemas: &Schemas, schema: &Value, description: &str) -> Value {
    let mut example = schemas.example(schema);
    let is_envelope = example.get("success").is_some() && example.get("data").is_some();
    if is_envelope && example["message"] == "…" {
        example["message"] = json!(description);
    }
    example
}

/// Any part of a description is JSON. Were one not, it would go without an example, which a test notices.
fn json_of(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}
