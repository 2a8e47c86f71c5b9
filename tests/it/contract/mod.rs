//! The HTTP contract, row by row: what MapX's clients rely on, and what happens to those who don't keep it.

mod description;
mod embedding;
mod fields;
mod follows;
mod fuzz;
mod import;
mod lists;
mod one;
mod openapi;
mod raw;
mod requests;
mod save;
mod search;
mod slow;
mod status;
mod words;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::app::{Answer, TestApp, user};

const API: &str = "/api/recommendations";
const SAVE: &str = "/api/recommendations/save";
const IMPORT: &str = "/api/recommendations/import";
const CONFIG: &str = "/api/recommendations/embedding-queue/config";
const REGENERATE: &str = "/api/recommendations/regenerate-embeddings";
const SEARCH: &str = "/api/recommendations/search";

/// A small public body of a save, by the first user, with more fields on top.
fn body(more: Value) -> Value {
    let mut body = json!({ "user_id": user(1), "description": "Good coffee", "visibility": "public" });
    for (field, value) in more.as_object().expect("fields") {
        body[field] = value.clone();
    }
    body
}

fn path_of(id: i64) -> String {
    format!("{API}/{id}")
}

/// The names of an object's fields, in alphabetical order.
fn names(object: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = object.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn ids(list: &Value) -> Vec<i64> {
    list.as_array().expect("a list").iter().map(|item| item["id"].as_i64().expect("an id")).collect()
}

/// Sends bytes as they are.
async fn send_bytes(app: &TestApp, method: Method, path: &str, bytes: impl Into<Vec<u8>>) -> Answer {
    let request = app.request(method, path).header("content-type", "application/json");
    app.send(request.body(bytes.into())).await
}

/// Reads a list and returns its `data`.
async fn list(app: &TestApp, path: &str, viewer: Option<Uuid>) -> Value {
    app.get(path, viewer).await.data(200).clone()
}

async fn follow(app: &TestApp, follower: u128, followed: u128) {
    let path = format!("/api/users/{}/following/{}", user(follower), user(followed));
    app.put(&path, Some(user(follower)), &json!({})).await.data(200);
}

/// Fails unless the message starts with the name of what is wrong.
#[track_caller]
fn names_field(answer: &Answer, field: &str) {
    let message = answer.refusal(400);
    assert!(message.starts_with(field), "{message:?} should name {field:?}");
    assert_eq!(answer.body["error"], "INVALID_FIELD");
    assert_eq!(names(&answer.body), ["error", "message", "success"]);
}
