//! `POST /api/recommendations/import`.

use reqwest::{Body, Method};
use serde_json::{Value, json};

use super::{API, IMPORT, body, list, names, names_field, path_of, send_bytes};
use crate::support::app::{TestApp, user};

async fn import(app: &TestApp, lines: impl Into<Vec<u8>>) -> Value {
    send_bytes(app, Method::POST, IMPORT, lines).await.data(200).clone()
}

#[tokio::test]
async fn good_lines_are_saved_and_bad_ones_named_by_number() {
    let app = TestApp::start().await;
    let good = body(json!({}));
    let lines = format!("{good}\n\n{{oops\n{good}\r\n[]\n   \n{}\n{good}", body(json!({ "rating": 9 })));
    let counts = import(&app, lines).await;
    assert_eq!(names(&counts), ["errors", "imported", "refused"]);
    assert_eq!((&counts["imported"], &counts["refused"]), (&json!(3), &json!(3)));
    let numbers: Vec<u64> =
        counts["errors"].as_array().unwrap().iter().map(|e| e["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [3, 5, 7]);
    assert_eq!(names(&counts["errors"][0]), ["line", "message"]);
    assert_eq!(app.queue().await["recommendations"], 3);
    app.stop().await;
}

#[tokio::test]
async fn an_import_of_nothing_is_a_success_with_zeros() {
    let app = TestApp::start().await;
    for nothing in ["", "\n", " \r\n\n"] {
        assert_eq!(import(&app, nothing).await, json!({ "imported": 0, "refused": 0, "errors": [] }));
    }
    app.stop().await;
}

#[tokio::test]
async fn lines_that_are_no_text_or_nested_without_end_are_refused_alone() {
    let app = TestApp::start().await;
    let mut lines = body(json!({})).to_string().into_bytes();
    lines.extend(b"\n\xff\xfe\0\n");
    lines.extend("[".repeat(100_000).into_bytes());
    lines.extend(format!("\n{}", body(json!({}))).into_bytes());
    let counts = import(&app, lines).await;
    assert_eq!((&counts["imported"], &counts["refused"]), (&json!(2), &json!(2)));
    app.stop().await;
}

#[tokio::test]
async fn a_line_beyond_the_body_limit_is_refused_alone_and_the_whole_may_be_longer() {
    let app = TestApp::with(|settings| settings.server.body_limit_bytes = 2_000).await;
    let long = body(json!({ "description": "x".repeat(2_000) }));
    let good = body(json!({ "description": "x".repeat(1_500) }));
    let counts = import(&app, format!("{good}\n{long}\n{good}\n{good}")).await;
    assert_eq!((&counts["imported"], &counts["refused"]), (&json!(3), &json!(1)));
    assert_eq!(counts["errors"][0]["line"], 2);
    app.stop().await;
}

#[tokio::test]
async fn a_thousand_refused_lines_are_named_and_all_are_counted() {
    let app = TestApp::start().await;
    let counts = import(&app, "{}\n".repeat(1_500)).await;
    assert_eq!(counts["refused"], 1_500);
    assert_eq!(counts["errors"].as_array().unwrap().len(), 1_000);
    app.stop().await;
}

#[tokio::test]
async fn an_import_may_be_cut_into_chunks_anywhere() {
    let app = TestApp::start().await;
    let line = format!("{}\n", body(json!({ "title": "Cut é anywhere" })));
    let bytes = line.repeat(20).into_bytes();
    let chunks: Vec<std::io::Result<Vec<u8>>> = bytes.chunks(7).map(|chunk| Ok(chunk.to_vec())).collect();
    let request = app.request(Method::POST, IMPORT).body(Body::wrap_stream(futures_util::stream::iter(chunks)));
    assert_eq!(app.send(request).await.data(200)["imported"], 20);
    app.stop().await;
}

#[tokio::test]
async fn the_header_is_the_author_of_every_line() {
    let app = TestApp::start().await;
    let lines = format!("{}\n{}", json!({ "description": "one" }), body(json!({})));
    let request = app.request(Method::POST, IMPORT).header("x-user-id", user(2).to_string());
    assert_eq!(app.send(request.body(lines.clone())).await.data(200)["imported"], 2);
    let own = list(&app, &format!("{API}/user/{}", user(2)), Some(user(2))).await;
    assert_eq!(own.as_array().unwrap().len(), 2);

    let bad = app.request(Method::POST, IMPORT).header("x-user-id", "me");
    names_field(&app.send(bad.body(lines)).await, "x-user-id");
    app.stop().await;
}

#[tokio::test]
async fn imported_lines_go_low_unless_they_say_otherwise() {
    let app = super::words::app().await;
    // Both are stuck in the provider's hands, so that the lanes can be counted.
    let stuck = |priority| body(json!({ "description": "stuck", "priority": priority }));
    import(&app, format!("{}\n{}", stuck(Value::Null), stuck(json!("high")))).await;
    let lanes = app.queue().await["byPriority"].clone();
    assert_eq!(lanes, json!({ "high": 1, "normal": 0, "low": 1 }));
    assert_eq!(app.embedding(1).await["content_version"], 1);
    assert_eq!(list(&app, &path_of(2), None).await["description"], "stuck");
}
