//! The description as a file, in its every example, and as a page.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use mapx_embeddings::http;
use reqwest::Method;
use serde_json::{Value, json};

use super::openapi::{check, document, resolve};
use super::{API, SAVE, SEARCH, body, names_field, path_of};
use crate::support::app::{TestApp, user};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Every operation of a document as `method path`.
fn operations(document: &Value) -> BTreeMap<String, &Value> {
    let paths = document["paths"].as_object().expect("paths").iter();
    let all = paths.flat_map(|(path, item)| {
        let methods = METHODS.into_iter().filter(|method| item.get(method).is_some());
        methods.map(move |method| (format!("{method} {path}"), &item[method]))
    });
    all.collect()
}

#[test]
fn the_file_is_what_the_code_describes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let kept = fs::read_to_string(path).unwrap_or_default();
    let made = http::openapi().to_pretty_json().unwrap();
    let differs = kept.lines().zip(made.lines()).position(|(kept, made)| kept != made);
    let at = differs.unwrap_or(kept.lines().count().min(made.lines().count()));
    let line = |text: &str| text.lines().nth(at).unwrap_or("(its end)").trim().to_owned();
    assert!(
        kept.trim_end() == made,
        "docs/openapi.json isn't what the code describes, from line {} on: it has\n  {}\nand the code says\n  {}\n\
         Look at what has changed, then: cargo run -- openapi > docs/openapi.json",
        at + 1,
        line(&kept),
        line(&made),
    );
}

#[tokio::test]
async fn the_service_serves_the_file() {
    let app = TestApp::start().await;
    let served = app.request(Method::GET, "/openapi.json").send().await.unwrap().text().await.unwrap();
    assert_eq!(served, http::openapi().to_pretty_json().unwrap());
    app.stop().await;
}

#[tokio::test]
async fn every_body_and_every_answer_has_an_example_that_its_schema_allows() {
    let app = TestApp::start().await;
    let document = document(&app).await;
    let mut wrong = Vec::new();
    for (name, operation) in operations(&document) {
        let bodies = operation.get("requestBody").map(|body| ("the body".to_owned(), body));
        let answers = operation["responses"].as_object().expect("answers").iter();
        let answers = answers.map(|(status, answer)| (status.clone(), answer));
        for (of, described) in bodies.into_iter().chain(answers) {
            let contents = described["content"].as_object();
            assert!(contents.is_some_and(|all| !all.is_empty()), "{name}: {of} has no content");
            for (kind, content) in contents.into_iter().flatten() {
                let mut differences = Vec::new();
                match content.get("example") {
                    None => differences.push("there is none".to_owned()),
                    Some(example) => check(&document, &content["schema"], example, "$", &mut differences),
                }
                wrong.extend(
                    differences.into_iter().map(|what| format!("{name}, example of {of} ({kind}): {what}")),
                );
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    app.stop().await;
}

#[tokio::test]
async fn what_the_description_allows_is_taken_and_what_it_forbids_is_refused_beside_a_header_that_wins() {
    let app = TestApp::start().await;
    let mine = Some(user(1));
    // Whole numbers are whole however they are written.
    let search = json!({ "query": "coffee", "limit": 5.0 });
    assert_eq!(app.post(SEARCH, &search).await.data(200)["search_metadata"]["limit"], 5);
    names_field(&app.post(SEARCH, &json!({ "query": "coffee", "limit": 5.5 })).await, "limit");
    let discard = format!("{API}/embedding-queue/dead-letters/discard");
    assert_eq!(app.post(&discard, &json!({ "ids": [7.0, 12] })).await.data(200)["count"], 0);
    names_field(&app.post(&discard, &json!({ "ids": [7.5] })).await, "ids");
    names_field(&app.post(&discard, &json!({ "ids": [1e300] })).await, "ids");
    // The header wins, and what is wrong in the body is told all the same.
    for stated in ["", "me"] {
        let wrong = json!({ "user_id": stated, "query": "coffee", "description": "Good coffee" });
        for path in [SAVE, SEARCH] {
            let request = app.request(Method::POST, path).header("x-user-id", user(1).to_string()).json(&wrong);
            names_field(&app.send(request).await, "user_id");
        }
    }
    let id = app.save(&body(json!({}))).await;
    names_field(&app.put(&path_of(id), mine, &json!({ "user_id": "me" })).await, "user_id");
    let pause = format!("{API}/embedding-queue/pause");
    for actor in ["", "é", &"x".repeat(65)] {
        let request = app.request(Method::POST, &pause).header("x-user-id", user(1).to_string());
        names_field(&app.send(request.header("x-actor", actor)).await, "x-actor");
    }
    let said = app.request(Method::POST, &pause).header("x-user-id", user(1).to_string()).header("x-actor", "cli");
    assert_eq!(app.send(said).await.data(200)["paused"]["high"]["by"], user(1).to_string());
    app.stop().await;
}

#[tokio::test]
async fn every_operation_says_what_all_of_them_can_answer() {
    let app = TestApp::start().await;
    let document = document(&app).await;
    let (mut wrong, mut names) = (Vec::new(), BTreeSet::new());
    for (name, operation) in operations(&document) {
        let statuses: BTreeSet<&str> =
            operation["responses"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = Vec::new();
        if name.contains(" /api/") {
            expected.extend(["500", "503"]);
        }
        let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
        if !parameters.is_empty() || operation.get("requestBody").is_some() {
            expected.push("400");
        }
        if operation["requestBody"]["content"].get("application/json").is_some() {
            expected.extend(["408", "413"]);
        }
        wrong.extend(
            expected.into_iter().filter(|status| !statuses.contains(status)).map(|s| format!("{name}: no {s}")),
        );
        for (status, answer) in operation["responses"].as_object().unwrap() {
            let schema = &answer["content"]["application/json"]["schema"];
            let is_envelope =
                !schema.is_null() && resolve(&document, schema)["properties"].get("success").is_some();
            if name.contains(" /api/") && !is_envelope && !status.starts_with('2') {
                wrong.push(format!("{name}: {status} isn't in the envelope"));
            }
        }
        let own = operation["operationId"].as_str().expect("a name");
        if !names.insert(own) {
            wrong.push(format!("{name}: {own} is another one's name too"));
        }
        for part in ["summary", "tags"] {
            if operation.get(part).is_none() {
                wrong.push(format!("{name}: no {part}"));
            }
        }
        let untold =
            parameters.iter().filter(|parameter| parameter["description"].as_str().is_none_or(str::is_empty));
        wrong.extend(untold.map(|parameter| format!("{name}: what is {}?", parameter["name"])));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let mut referred = BTreeSet::new();
    references(&document, &mut referred);
    let dangling: Vec<_> = referred.iter().filter(|reference| document.pointer(reference).is_none()).collect();
    assert!(dangling.is_empty(), "{dangling:?}");
    app.stop().await;
}

fn references<'d>(part: &'d Value, into: &mut BTreeSet<&'d str>) {
    match part {
        Value::Object(fields) => {
            into.extend(
                fields.get("$ref").and_then(Value::as_str).map(|reference| reference.trim_start_matches('#')),
            );
            fields.values().for_each(|field| references(field, into));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, into)),
        _ => {}
    }
}

#[tokio::test]
async fn the_page_shows_every_operation_and_loads_nothing_from_elsewhere() {
    let app = TestApp::start().await;
    let document = document(&app).await;
    let response = app.request(Method::GET, "/docs").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("script-src") && !policy.contains("http"), "{policy}");
    let page = response.text().await.unwrap();
    for (name, operation) in operations(&document) {
        let (method, path) = name.split_once(' ').unwrap();
        let summary = operation["summary"].as_str().unwrap().replace('\'', "&#39;");
        assert!(
            page.contains(&format!("<b class=\"{method}\">{method}</b> {summary}</a></li>")),
            "{name}: contents"
        );
        assert!(page.contains(&format!("<code>{path}</code></a></p>")), "{name}: {path}");
        for status in operation["responses"].as_object().unwrap().keys() {
            assert!(page.contains(&format!("\">{status}</b>")), "{name}: {status}");
        }
    }
    // No inline style, no script, nothing to load but its own style, and each link leads somewhere.
    for never in ["<script", "style=", "<style", "<img", "<iframe", "<form", "javascript:", " onclick"] {
        assert!(!page.contains(never), "{never}");
    }
    let ids: Vec<&str> = attributes(&page, "id").collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "an anchor is there twice");
    for link in attributes(&page, "href") {
        match link.strip_prefix('#') {
            Some(anchor) => assert!(ids.contains(&anchor), "{link} leads nowhere"),
            None => assert!(["data:,", "/docs/style.css", "/openapi.json"].contains(&link), "{link}"),
        }
    }
    assert_eq!(attributes(&page, "src").count(), 0);
    let style = app.request(Method::GET, "/docs/style.css").send().await.unwrap();
    assert_eq!(style.headers()["content-type"], "text/css; charset=utf-8");
    let style = style.text().await.unwrap();
    assert!(style.contains("prefers-color-scheme: dark") && !style.contains("url(") && !style.contains("@import"));
    app.stop().await;
}

/// The values of an attribute within tags.
fn attributes<'p>(page: &'p str, name: &'p str) -> impl Iterator<Item = &'p str> {
    let tags = page.split('<').skip(1).filter_map(|rest| rest.split('>').next());
    tags.filter_map(move |tag| tag.split_once(&format!(" {name}=\""))?.1.split('"').next())
}
