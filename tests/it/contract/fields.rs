//! Fields that are wrong: the same table for a save, a change and an import.

use reqwest::Method;
use serde_json::{Value, json};

use super::{IMPORT, SAVE, SEARCH, body, list, names_field, path_of, send_bytes};
use crate::support::app::{TestApp, user};

const TEXTS: [&str; 11] = [
    "title",
    "description",
    "google_place_id",
    "place_name",
    "place_address",
    "place_category",
    "service_name",
    "service_type",
    "service_business_name",
    "service_address",
    "content_type",
];
const OBJECTS: [&str; 4] = ["content_data", "metadata", "place_metadata", "service_metadata"];

/// Every field with values it must refuse.
fn wrong() -> Vec<(&'static str, Value)> {
    let mut wrong = Vec::new();
    let mut add = |field, values: Vec<Value>| wrong.extend(values.into_iter().map(|value| (field, value)));
    for field in TEXTS {
        add(field, vec![json!(7), json!(true), json!([]), json!({}), json!("a\0b"), json!("x".repeat(100_001))]);
    }
    for field in OBJECTS {
        let nul = [json!({ "a": "b\0" }), json!({ "a\0": 1 }), json!({ "a": [{ "b": ["\0"] }] })];
        let deep = serde_json::from_str(&format!("{}1{}", r#"{"a":"#.repeat(65), "}".repeat(65))).unwrap();
        add(field, vec![json!("x"), json!(1), json!(false), json!([{}]), deep]);
        add(field, nul.into());
    }
    add("description", vec![json!(""), json!(" \t\n "), json!("\u{a0}")]);
    add("content_type", vec![json!("tip"), json!("contact"), json!("song"), json!(""), json!("Place")]);
    add("labels", vec![json!("a"), json!({}), json!(1), json!(["a", 1]), json!([null]), json!([["a"]])]);
    add("labels", vec![json!(["a\0"]), json!(vec!["x"; 101]), json!(["x".repeat(1_001)])]);
    add("rating", vec![json!(0), json!(6), json!(-1), json!(2.5), json!("5"), json!(true), json!([5]), json!({})]);
    add("rating", vec![json!(1e300), json!(4_294_967_297_u64), json!(u64::MAX), json!(i64::MIN)]);
    add("visibility", vec![json!("secret"), json!("all"), json!("Public"), json!(""), json!(1), json!(["public"])]);
    add("priority", vec![json!("urgent"), json!(0), json!(""), json!({})]);
    add("place_lat", vec![json!(90.1), json!(-91), json!("1"), json!(1e300), json!([1]), json!(true)]);
    add("place_lng", vec![json!(180.1), json!(-181), json!("1"), json!({})]);
    add(
        "embedding",
        vec![json!("no"), json!({}), json!([]), json!([1.0]), json!(vec![1; 255]), json!(vec![1; 257])],
    );
    add("embedding", vec![json!(vec![0; 256]), json!(vec![1e300; 256]), json!(vec![1e-300; 256])]);
    add("embedding", vec![json!(vec!["1"; 256]), json!(vec![Value::Null; 256]), json!(vec![-1e39; 256])]);
    wrong
}

#[tokio::test]
async fn a_save_with_a_wrong_field_names_it_and_saves_nothing() {
    let app = TestApp::start().await;
    for (field, value) in wrong() {
        let answer = app.post(SAVE, &body(json!({ field: value }))).await;
        names_field(&answer, field);
    }
    for value in [json!("me"), json!(7), json!([]), json!({}), json!("\0"), json!(format!("{}0", user(1)))] {
        names_field(&app.post(SAVE, &body(json!({ "user_id": value }))).await, "user_id");
    }
    names_field(&app.post(SAVE, &json!({ "user_id": user(1) })).await, "description");
    assert_eq!(app.queue().await["recommendations"], 0);
    app.stop().await;
}

#[tokio::test]
async fn a_change_with_a_wrong_field_names_it_and_changes_nothing() {
    let app = TestApp::start().await;
    let id = app.save(&body(json!({ "title": "Kept", "place_name": "Kept too" }))).await;
    let before = list(&app, &path_of(id), None).await;
    for (field, value) in wrong() {
        names_field(&app.put(&path_of(id), Some(user(1)), &json!({ "title": "New", field: value })).await, field);
    }
    names_field(&app.put(&path_of(id), Some(user(1)), &json!({ "description": null })).await, "description");
    names_field(&app.put(&path_of(id), None, &json!({ "user_id": "me" })).await, "user_id");
    assert_eq!(list(&app, &path_of(id), None).await, before);
    app.stop().await;
}

#[tokio::test]
async fn an_import_names_the_wrong_field_of_every_line() {
    let app = TestApp::start().await;
    let wrong = wrong();
    let lines: Vec<String> =
        wrong.iter().map(|(field, value)| body(json!({ *field: value })).to_string()).collect();
    let answer = send_bytes(&app, Method::POST, IMPORT, lines.join("\n")).await;
    let counts = answer.data(200);
    assert_eq!((&counts["imported"], &counts["refused"]), (&json!(0), &json!(wrong.len())));
    for (number, (field, _)) in (1..).zip(&wrong) {
        let error = &counts["errors"][number - 1];
        assert_eq!(error["line"], number);
        assert!(error["message"].as_str().unwrap().starts_with(field), "{error} should name {field}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_search_with_a_wrong_field_names_it() {
    let app = TestApp::start().await;
    let wrong = [
        ("query", vec![json!(null), json!(""), json!(" \n"), json!(7), json!(["a"]), json!({}), json!("a\0b")]),
        ("query", vec![json!("x".repeat(2_001)), json!("é".repeat(2_001))]),
        (
            "limit",
            vec![json!(0), json!(101), json!(-1), json!(1.5), json!("10"), json!(1e300), json!([]), json!(true)],
        ),
        ("threshold", vec![json!(1.1), json!(-1.1), json!("0.7"), json!(1e300), json!([]), json!(true)]),
        ("content_type", vec![json!("tip"), json!("contact"), json!("x"), json!(1), json!([])]),
        ("mode", vec![json!("fuzzy"), json!(1), json!([]), json!("Hybrid"), json!("\0")]),
        ("groupIds", vec![json!([1]), json!("1"), json!(1), json!({}), json!(["a"])]),
        ("user_id", vec![json!("me"), json!(1), json!([]), json!("\0")]),
    ];
    for (field, values) in wrong {
        for value in values {
            let mut search = json!({ "query": "coffee" });
            search[field] = value;
            names_field(&app.post(SEARCH, &search).await, field);
        }
    }
    names_field(&app.post(SEARCH, &json!({})).await, "query");
    app.stop().await;
}

#[tokio::test]
async fn what_a_search_of_mapx_carries_besides_is_left_alone() {
    let app = TestApp::start().await;
    let search = json!({
        "query": "coffee", "groupIds": [], "noSummary": true, "summaryMode": "fast", "threshold": null, "limit": null,
        "mode": null, "content_type": null, "user_id": null,
    });
    let found = app.search(&search).await;
    assert_eq!(found["search_metadata"]["limit"], 10);
    for edge in
        [json!({ "limit": 1 }), json!({ "limit": 100 }), json!({ "threshold": 1 }), json!({ "threshold": -1 })]
    {
        let mut search = json!({ "query": "x".repeat(2_000) });
        search.as_object_mut().unwrap().extend(edge.as_object().unwrap().clone());
        app.search(&search).await;
    }
    app.stop().await;
}

/// Bodies that are no JSON, or not JSON of an object.
fn broken() -> Vec<(Vec<u8>, &'static str)> {
    let malformed: Vec<Vec<u8>> = [
        &b"{"[..],
        b"}",
        b"{\"a\":}",
        b"{\"a\" 1}",
        b"{'a':1}",
        b"{\"a\":1,}",
        b"{\"a\":1}x",
        b"nul",
        b"\"a",
        b"{\"description\":\"\xff\xfe\"}",
        b"\xef\xbb\xbf{}",
        b"{\"description\":\"\\ud800\"}",
        b"{\"a\":\"\n\"}",
        b"{\"rating\":NaN}",
        b"{\"rating\":Infinity}",
        b"{\"rating\":1e999}",
        b"{\"embedding\":[NaN]}",
        b"{\"embedding\":[1e999]}",
        b"{\"rating\":-}",
        b"{\"rating\":01}",
        b"\0",
        b"user_id=1&description=x",
        b"\x1f\x8b\x08\x00",
        b"<xml/>",
    ]
    .into_iter()
    .map(<[u8]>::to_vec)
    .collect();
    let deep = ["[", "{\"a\":"].map(|open| open.repeat(100_000).into_bytes());
    let no_object = [&b"[]"[..], b"1", b"\"text\"", b"true", b"null", b"[{\"description\":\"x\"}]"];
    let malformed = malformed.into_iter().chain(deep).map(|bytes| (bytes, "MALFORMED_JSON"));
    malformed.chain(no_object.into_iter().map(|bytes| (bytes.to_vec(), "INVALID_FIELD"))).collect()
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused_in_the_envelope() {
    let app = TestApp::start().await;
    let id = app.save(&body(json!({}))).await;
    let own = path_of(id);
    for (method, path) in [(Method::POST, SAVE), (Method::POST, SEARCH), (Method::PUT, own.as_str())] {
        for (bytes, error) in broken() {
            let request = app.request(method.clone(), path).header("x-user-id", user(1).to_string());
            let answer = app.send(request.body(bytes.clone())).await;
            let message = answer.refusal(400);
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]);
            assert!(message.contains("body"), "{message:?} should name the body: {shown}");
            assert_eq!(answer.body["error"], error, "{shown}");
        }
    }
    names_field(&send_bytes(&app, Method::POST, SAVE, "").await, "user_id");
    names_field(&send_bytes(&app, Method::POST, SEARCH, " \n").await, "query");
    app.stop().await;
}
