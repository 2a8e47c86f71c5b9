//! `/openapi.json`: complete, and true of the answers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{API, CONFIG, IMPORT, REGENERATE, SAVE, SEARCH, body, path_of, words};
use crate::support::app::{Answer, TestApp, eventually, user};

const QUEUE: &str = "/api/recommendations/embedding-queue";
const EVENTS: &str = "/api/recommendations/embedding-queue/events";
const HISTORY: &str = "/api/recommendations/embedding-queue/history";
const COVERAGE: &str = "/api/recommendations/embedding-queue/coverage";
const REPLAY: &str = "/api/recommendations/embedding-queue/dead-letters/replay";
const DISCARD: &str = "/api/recommendations/embedding-queue/dead-letters/discard";
const PAUSE: &str = "/api/recommendations/embedding-queue/pause";
const WEBHOOKS: &str = "/api/webhooks";
const WEBHOOK: &str = "/api/webhooks/{id}";
const RESUME: &str = "/api/recommendations/embedding-queue/resume";

pub(super) async fn document(app: &TestApp) -> Value {
    let response = app.request(reqwest::Method::GET, "/openapi.json").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    response.json().await.unwrap()
}

#[tokio::test]
async fn every_route_is_described() {
    let app = TestApp::start().await;
    let document = document(&app).await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = document["paths"].as_object().unwrap().iter();
    let described: BTreeMap<&str, BTreeSet<&str>> = paths
        .map(|(path, item)| (path.as_str(), item.as_object().unwrap().keys().map(String::as_str).collect()))
        .collect();
    let expected = [
        ("/api/recommendations/embedding-queue/config", &["get", "put"][..]),
        ("/api/recommendations/embedding-queue/audit", &["get"]),
        ("/api/recommendations/embedding-queue/dead-letters", &["get"]),
        ("/api/recommendations/embedding-queue/dead-letters/groups", &["get"]),
        ("/api/recommendations/embedding-queue/dead-letters/{recommendation_id}", &["get"]),
        ("/api/recommendations/embedding-queue/dead-letters/replay", &["post"]),
        ("/api/recommendations/embedding-queue/dead-letters/discard", &["post"]),
        ("/api/recommendations/embedding-queue/pause", &["post"]),
        ("/api/recommendations/embedding-queue/resume", &["post"]),
        ("/api/recommendations/embedding-queue/workers/{id}/drain", &["post"]),
        ("/api/recommendations/embedding-queue/workers/{id}/undrain", &["post"]),
        ("/api/recommendations/embedding-queue/status", &["get"]),
        ("/api/recommendations/embedding-queue/events", &["get"]),
        ("/api/recommendations/embedding-queue/history", &["get"]),
        ("/api/recommendations/embedding-queue/coverage", &["get"]),
        ("/api/recommendations/import", &["post"]),
        ("/api/recommendations/place/google/{google_place_id}", &["get"]),
        ("/api/recommendations/place/{place_id}", &["get"]),
        ("/api/recommendations/place/{place_id}/network-rating", &["get"]),
        ("/api/recommendations/places/reviewed", &["get"]),
        ("/api/recommendations/regenerate-embeddings", &["get", "post"]),
        ("/api/recommendations/regenerate-embeddings/{job}", &["get", "delete"]),
        ("/api/recommendations/regenerate-embeddings/{job}/pause", &["post"]),
        ("/api/recommendations/regenerate-embeddings/{job}/resume", &["post"]),
        ("/api/recommendations/save", &["post"]),
        ("/api/recommendations/search", &["post"]),
        ("/api/recommendations/user/{user_id}", &["get"]),
        ("/api/recommendations/{id}", &["get", "put", "delete"]),
        ("/api/recommendations/{id}/embedding", &["get"]),
        ("/api/users/{id}/following/{other}", &["put", "delete"]),
        ("/api/webhooks", &["get", "post"]),
        ("/api/webhooks/{id}", &["get", "patch", "delete"]),
        ("/api/webhooks/{id}/deliveries", &["get"]),
        ("/api/webhooks/{id}/deliveries/{delivery}", &["get"]),
        ("/api/webhooks/{id}/deliveries/{delivery}/redeliver", &["post"]),
        ("/api/webhooks/{id}/rotate-secret", &["post"]),
        ("/api/webhooks/{id}/test", &["post"]),
        ("/health/live", &["get"]),
        ("/health/ready", &["get"]),
        ("/metrics", &["get"]),
        ("/openapi.json", &["get"]),
    ];
    for (path, methods) in expected {
        assert_eq!(described.get(path), Some(&methods.iter().copied().collect()), "{path}");
    }
    app.stop().await;
}

#[tokio::test]
async fn the_examples_of_bodies_work() {
    let app = TestApp::start().await;
    let document = document(&app).await;
    let operating = [REPLAY, DISCARD, PAUSE, RESUME].map(|path| ("post", path, 200));
    let others = [("post", SAVE, 201), ("post", SEARCH, 200), ("put", CONFIG, 200), ("post", REGENERATE, 202)];
    let others = others.into_iter().chain([("post", WEBHOOKS, 201), ("patch", WEBHOOK, 200)]);
    for (method, path, status) in others.chain(operating) {
        let schema = &document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"];
        let example = &resolve(&document, schema)["example"];
        assert!(example.is_object(), "{path}");
        let method = method.to_uppercase().parse().expect("a method");
        let answer = app.send(app.request(method, &path.replace("{id}", "1")).json(example)).await;
        answer.data(status);
    }
    app.stop().await;
}

#[tokio::test]
async fn every_answer_is_as_its_schema_says() {
    let app = TestApp::start().await;
    let document = document(&app).await;
    let fields = json!({
        "google_place_id": "g1", "place_name": "Almada", "place_address": "Rua 1", "place_lat": 1.5, "place_lng": 2,
        "place_category": "bar", "place_metadata": { "m": 1 }, "title": "T", "rating": 4, "labels": ["a"],
        "content_data": { "c": 1 }, "metadata": { "m": 1 },
    });
    let saved = app.post(SAVE, &body(fields)).await;
    let service = app.post(SAVE, &body(json!({ "service_name": "Ana", "service_type": "plumber" }))).await;
    let plain = app.save(&body(json!({}))).await;
    app.embedding_is(plain, "ready").await;
    let mine = Some(user(1));
    let one = path_of(plain);
    let id = "/api/recommendations/{id}";
    let following = "/api/users/{id}/following/{other}";
    let job = "/api/recommendations/regenerate-embeddings/{job}";
    let pause = "/api/recommendations/regenerate-embeddings/{job}/pause";
    let resume = "/api/recommendations/regenerate-embeddings/{job}/resume";
    let follow = format!("/api/users/{}/following/{}", user(1), user(2));
    let answers = [
        ("post", SAVE, saved),
        ("post", SAVE, service),
        ("post", SAVE, app.post(SAVE, &json!({})).await),
        ("post", IMPORT, app.post(IMPORT, &json!({})).await),
        ("post", SEARCH, app.post(SEARCH, &json!({ "query": "coffee", "threshold": -1 })).await),
        ("post", SEARCH, app.post(SEARCH, &json!({ "query": "🎉" })).await),
        ("post", SEARCH, app.post(SEARCH, &json!({})).await),
        ("get", id, app.get(&path_of(1), mine).await),
        ("get", id, app.get(&one, mine).await),
        ("get", id, app.get(&path_of(99), mine).await),
        ("put", id, app.put(&one, mine, &json!({ "title": "N" })).await),
        ("put", id, app.put(&one, None, &json!({})).await),
        ("put", id, app.put(&one, Some(user(2)), &json!({})).await),
        ("get", "/api/recommendations/{id}/embedding", app.get(&format!("{one}/embedding"), mine).await),
        ("get", "/api/recommendations/user/{user_id}", app.get(&format!("{API}/user/{}", user(1)), mine).await),
        ("get", "/api/recommendations/place/{place_id}", app.get(&format!("{API}/place/1"), mine).await),
        ("get", "/api/recommendations/place/{place_id}", app.get(&format!("{API}/place/x"), mine).await),
        (
            "get",
            "/api/recommendations/place/{place_id}/network-rating",
            app.get(&format!("{API}/place/1/network-rating"), mine).await,
        ),
        (
            "get",
            "/api/recommendations/place/google/{google_place_id}",
            app.get(&format!("{API}/place/google/g1"), mine).await,
        ),
        (
            "get",
            "/api/recommendations/place/google/{google_place_id}",
            app.get(&format!("{API}/place/google/g2"), mine).await,
        ),
        ("get", "/api/recommendations/places/reviewed", app.get(&format!("{API}/places/reviewed"), mine).await),
        (
            "get",
            "/api/recommendations/embedding-queue/status",
            app.get(&format!("{API}/embedding-queue/status"), mine).await,
        ),
        ("get", HISTORY, app.get(HISTORY, None).await),
        ("get", HISTORY, app.get(&format!("{HISTORY}?minutes=0"), None).await),
        ("get", COVERAGE, app.get(COVERAGE, None).await),
        ("get", EVENTS, app.send(app.request(reqwest::Method::GET, EVENTS).header("last-event-id", "x")).await),
        ("get", CONFIG, app.get(CONFIG, None).await),
        ("put", CONFIG, app.put(CONFIG, None, &json!({ "max_concurrent": 4 })).await),
        ("get", CONFIG, app.get(CONFIG, None).await),
        ("put", CONFIG, app.put(CONFIG, None, &json!({ "max_concurrent": 0 })).await),
        ("put", CONFIG, app.put(CONFIG, None, &json!({ "max_concurent": 4 })).await),
        ("post", REGENERATE, app.post(REGENERATE, &json!({ "scope": "all", "dry_run": true })).await),
        ("post", REGENERATE, app.post(REGENERATE, &json!({ "scope": "all" })).await),
        ("post", REGENERATE, app.post(REGENERATE, &json!({ "scope": "some" })).await),
        ("get", REGENERATE, app.get(REGENERATE, None).await),
        ("get", job, app.get(&format!("{REGENERATE}/1"), None).await),
        ("get", job, app.get(&format!("{REGENERATE}/2"), None).await),
        ("get", job, app.get(&format!("{REGENERATE}/0"), None).await),
        ("post", pause, app.post(&format!("{REGENERATE}/2/pause"), &json!({})).await),
        ("post", resume, app.post(&format!("{REGENERATE}/2/resume"), &json!({})).await),
        ("delete", job, app.delete(&format!("{REGENERATE}/2"), None).await),
        ("put", following, app.put(&follow, mine, &json!({})).await),
        ("delete", following, app.delete(&follow, mine).await),
        ("delete", following, app.delete(&follow, Some(user(2))).await),
        ("get", "/health/live", app.get("/health/live", None).await),
        ("get", "/health/ready", app.get("/health/ready", None).await),
        ("delete", id, app.delete(&one, mine).await),
    ];
    for (method, path, answer) in answers {
        let wrong = differences(&document, method, path, &answer);
        assert!(wrong.is_empty(), "{method} {path} {}: {wrong:#?}\n{}", answer.status, answer.body);
    }
    app.stop().await;
}

#[tokio::test]
async fn so_are_the_answers_to_whoever_operates_it() {
    let app = words::app().await;
    let document = document(&app).await;
    let (one, two) = (app.save(&body(json!({ "description": "poison" }))).await, app.save(&body(json!({}))).await);
    app.embedding_is(one, "failed").await;
    app.embedding_is(two, "ready").await;
    let worker = app.queue().await["workers"][0]["id"].as_str().expect("it has told of itself").to_owned();
    let none = json!({});
    let (list, letter) = (format!("{QUEUE}/dead-letters"), format!("{QUEUE}/dead-letters/{{recommendation_id}}"));
    let (groups, audit) = (format!("{QUEUE}/dead-letters/groups"), format!("{QUEUE}/audit"));
    let (drain, undrain) = (format!("{QUEUE}/workers/{{id}}/drain"), format!("{QUEUE}/workers/{{id}}/undrain"));
    let of = |path: &str, id: &str| path.replace("{recommendation_id}", id).replace("{id}", id);
    let answers = [
        ("get", &*list, app.get(&list, None).await),
        ("get", &list, app.get(&format!("{list}?limit=0"), None).await),
        ("get", &groups, app.get(&groups, None).await),
        ("get", &groups, app.get(&format!("{groups}?lane=x"), None).await),
        ("get", &letter, app.get(&of(&letter, &one.to_string()), None).await),
        ("get", &letter, app.get(&of(&letter, &two.to_string()), None).await),
        ("get", &letter, app.get(&of(&letter, "x"), None).await),
        ("post", REPLAY, app.post(REPLAY, &json!({ "ids": [two] })).await),
        ("post", REPLAY, app.post(REPLAY, &none).await),
        ("post", DISCARD, app.post(DISCARD, &json!({ "filter": {} })).await),
        ("post", DISCARD, app.post(DISCARD, &none).await),
        ("post", PAUSE, app.post(PAUSE, &json!({ "lane": "low" })).await),
        ("post", PAUSE, app.post(PAUSE, &json!({ "lane": 5 })).await),
        ("post", RESUME, app.post(RESUME, &none).await),
        ("post", RESUME, app.post(RESUME, &json!([])).await),
        ("post", &drain, app.post(&of(&drain, &worker), &none).await),
        ("post", &drain, app.post(&of(&drain, "nobody"), &none).await),
        ("get", "/api/recommendations/embedding-queue/status", app.get(&format!("{QUEUE}/status"), None).await),
        ("post", &undrain, app.post(&of(&undrain, &worker), &none).await),
        ("post", &undrain, app.post(&of(&undrain, "nobody"), &none).await),
        ("get", &audit, app.get(&audit, None).await),
        ("get", &audit, app.get(&format!("{audit}?cursor=x"), None).await),
    ];
    for (method, path, answer) in answers {
        let wrong = differences(&document, method, path, &answer);
        assert!(wrong.is_empty(), "{method} {path} {}: {wrong:#?}\n{}", answer.status, answer.body);
    }
    app.stop().await;
}

#[tokio::test]
async fn and_the_answers_about_webhooks() {
    let app = TestApp::with(|settings| settings.webhook.retry_schedule_ms = vec![]).await;
    let document = document(&app).await;
    let (log, one) = (format!("{WEBHOOK}/deliveries"), format!("{WEBHOOK}/deliveries/{{delivery}}"));
    let (test, rotate, again) =
        (format!("{WEBHOOK}/test"), format!("{WEBHOOK}/rotate-secret"), format!("{one}/redeliver"));
    let of = |path: &str, id: &str| path.replace("{id}", id).replace("{delivery}", "1");
    let none = json!({});
    // Where nobody listens: refused at once, or after the name was looked for in vain.
    let url = json!({ "url": "https://mapx.invalid/hook" });
    let patch =
        async |path: &str, body: &Value| app.send(app.request(reqwest::Method::PATCH, path).json(body)).await;
    let mut answers = vec![
        ("post", WEBHOOKS, app.post(WEBHOOKS, &url).await),
        ("post", WEBHOOKS, app.post(WEBHOOKS, &none).await),
        ("get", WEBHOOKS, app.get(WEBHOOKS, None).await),
        ("get", WEBHOOK, app.get(&of(WEBHOOK, "1"), None).await),
        ("get", WEBHOOK, app.get(&of(WEBHOOK, "2"), None).await),
        ("get", WEBHOOK, app.get(&of(WEBHOOK, "x"), None).await),
        ("patch", WEBHOOK, patch(&of(WEBHOOK, "1"), &json!({ "events": ["embedding.ready"] })).await),
        ("patch", WEBHOOK, patch(&of(WEBHOOK, "1"), &none).await),
        ("patch", WEBHOOK, patch(&of(WEBHOOK, "2"), &json!({ "enabled": true })).await),
        ("post", &rotate, app.post(&of(&rotate, "1"), &none).await),
        ("post", &rotate, app.post(&of(&rotate, "2"), &none).await),
        ("post", &rotate, app.post(&of(&rotate, "x"), &none).await),
        ("post", &test, app.post(&of(&test, "1"), &none).await),
        ("post", &test, app.post(&of(&test, "2"), &none).await),
        ("post", &test, app.post(&of(&test, "x"), &none).await),
    ];
    eventually("it has failed", async || {
        (app.get(&of(&one, "1"), None).await.data(200)["state"] == "failed").then_some(())
    })
    .await;
    answers.extend([
        ("get", &*log, app.get(&of(&log, "1"), None).await),
        ("get", &log, app.get(&format!("{}?limit=0", of(&log, "1")), None).await),
        ("get", &log, app.get(&of(&log, "2"), None).await),
        ("get", &one, app.get(&of(&one, "1"), None).await),
        ("get", &one, app.get(&of(&one, "2"), None).await),
        ("get", &one, app.get(&of(&one, "x"), None).await),
        ("post", &again, app.post(&of(&again, "1"), &none).await),
        ("post", &again, app.post(&of(&again, "2"), &none).await),
        ("post", &again, app.post(&of(&again, "x"), &none).await),
    ]);
    patch(&of(WEBHOOK, "1"), &json!({ "enabled": false })).await.data(200);
    answers.extend([
        ("post", &*test, app.post(&of(&test, "1"), &none).await),
        ("post", &again, app.post(&of(&again, "1"), &none).await),
        ("delete", WEBHOOK, app.delete(&of(WEBHOOK, "1"), None).await),
        ("delete", WEBHOOK, app.delete(&of(WEBHOOK, "1"), None).await),
        ("delete", WEBHOOK, app.delete(&of(WEBHOOK, "x"), None).await),
    ]);
    for n in 0..100 {
        app.post(WEBHOOKS, &json!({ "url": format!("https://mapx.invalid/{n}") })).await.data(201);
    }
    answers.push(("post", WEBHOOKS, app.post(WEBHOOKS, &url).await));
    for (method, path, answer) in answers {
        let wrong = differences(&document, method, path, &answer);
        assert!(wrong.is_empty(), "{method} {path} {}: {wrong:#?}\n{}", answer.status, answer.body);
    }
    app.stop().await;
}

#[tokio::test]
async fn the_check_of_schemas_can_fail() {
    let app = TestApp::start().await;
    let document = document(&app).await;
    let mut answer = app.get("/health/live", None).await;
    let mut wrong_with = |change: fn(&mut Value)| {
        let kept = answer.body.clone();
        change(&mut answer.body);
        let wrong = differences(&document, "get", "/health/live", &answer);
        answer.body = kept;
        wrong.len()
    };
    assert_eq!(wrong_with(|_| ()), 0);
    assert_eq!(wrong_with(|body| body["data"]["status"] = json!(1)), 1);
    assert_eq!(wrong_with(|body| body["data"]["more"] = json!(1)), 1);
    assert_eq!(wrong_with(|body| body["data"] = json!({})), 2);
    app.stop().await;
}

/// Where an answer isn't what the document promises.
fn differences(document: &Value, method: &str, path: &str, answer: &Answer) -> Vec<String> {
    let responses = &document["paths"][path][method]["responses"];
    let response = &responses[answer.status.as_str()];
    let schema = &response["content"]["application/json"]["schema"];
    if schema.is_null() {
        return vec![format!("{} is not described", answer.status)];
    }
    let mut wrong = Vec::new();
    check(document, schema, &answer.body, "$", &mut wrong);
    wrong
}

pub(super) fn resolve<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).expect("the schema exists"),
        None => schema,
    }
}

pub(super) fn check(document: &Value, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    let schema = resolve(document, schema);
    for alternatives in ["oneOf", "anyOf"] {
        if let Some(schemas) = schema[alternatives].as_array() {
            let fits = |one: &Value| {
                let mut wrong = Vec::new();
                check(document, one, value, at, &mut wrong);
                wrong.is_empty()
            };
            if !schemas.iter().any(fits) {
                wrong.push(format!("{at} fits none of {alternatives}"));
            }
        }
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        Value::Null => Vec::new(),
        one => vec![one.clone()],
    };
    if !types.is_empty() && !types.iter().any(|name| is_a(value, name)) {
        wrong.push(format!("{at} is no {types:?}: {value}"));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        wrong.push(format!("{at} is none of the words: {value}"));
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        for (n, item) in values.iter().enumerate() {
            check(document, items, item, &format!("{at}[{n}]"), wrong);
        }
    }
    let (mut properties, mut required) = (BTreeMap::new(), BTreeSet::new());
    fields(document, schema, &mut properties, &mut required);
    let Some(object) = value.as_object().filter(|_| !properties.is_empty()) else { return };
    for name in required.iter().filter(|name| !object.contains_key(**name)) {
        wrong.push(format!("{at}.{name} is missing"));
    }
    for (name, value) in object {
        match properties.get(name.as_str()) {
            Some(property) => check(document, property, value, &format!("{at}.{name}"), wrong),
            None => wrong.push(format!("{at}.{name} is not described")),
        }
    }
}

/// The fields of an object, those of its flattened parts included.
fn fields<'d>(
    document: &'d Value,
    schema: &'d Value,
    properties: &mut BTreeMap<&'d str, &'d Value>,
    required: &mut BTreeSet<&'d str>,
) {
    let schema = resolve(document, schema);
    properties.extend(schema["properties"].as_object().into_iter().flatten().map(|(name, s)| (name.as_str(), s)));
    required.extend(schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str));
    for part in schema["allOf"].as_array().into_iter().flatten() {
        fields(document, part, properties, required);
    }
}

fn is_a(value: &Value, name: &Value) -> bool {
    match name.as_str().expect("a type") {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no such type: {other}"),
    }
}
