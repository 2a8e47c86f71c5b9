//! The same from the command line.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

use super::receiver::Reply;
use super::verifier::verdict;
use super::{TEST, audit, newest_is, service};
use crate::support::app::TestApp;

/// Runs the program without a terminal; returns its exit code and what it printed, errors included.
async fn cli(app: &TestApp, arguments: &str) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"))
        .arg("webhooks")
        .args(arguments.split(' '))
        .args(["--url", &app.base])
        .stdin(Stdio::null())
        .output()
        .await
        .expect("the program runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), format!("{out}{err}"))
}

/// As it must succeed; JSON.
async fn done(app: &TestApp, arguments: &str) -> Value {
    let (code, text) = cli(app, &format!("{arguments} --json")).await;
    assert_eq!(code, Some(0), "{arguments}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments}: no JSON ({e}): {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_are_registered_tried_out_changed_and_deleted() {
    let (_provider, app, receiver) = service(|settings| settings.webhook.retry_schedule_ms = vec![]).await;
    let create = format!("create {} --event embedding.ready --description on-call", receiver.url("/hook"));
    let (code, text) = cli(&app, &create).await;
    assert!(code == Some(0) && text.contains("whsec_") && text.contains("not shown again"), "{text}");
    let secret = text.split_whitespace().find(|word| word.starts_with("whsec_")).expect("a secret").to_owned();
    let (code, text) = cli(&app, "list").await;
    assert!(code == Some(0) && text.contains("embedding.ready") && !text.contains("whsec_"), "{text}");
    assert_eq!(done(&app, "show 1").await["description"], "on-call");

    let (code, text) = cli(&app, "test 1").await;
    assert!(code == Some(0) && text.contains(TEST) && text.contains("delivered") && text.contains("200"), "{text}");
    assert_eq!(verdict(&secret, &receiver.has(1).await[0]).await, "ok");
    receiver.next(Reply::Text(500, "out of order".into()));
    let (code, text) = cli(&app, "test 1").await;
    assert!(code == Some(1) && text.contains("status 500") && text.contains("out of order"), "{text}");

    let filtered =
        done(&app, "filter 1 --event embedding.ready --event embedding.failed --include-regenerations").await;
    assert_eq!(filtered["events"], json!(["embedding.ready", "embedding.failed"]));
    assert_eq!(filtered["include_regenerations"], true);
    assert_eq!(done(&app, "filter 1 --exclude-regenerations").await["include_regenerations"], false);
    assert_eq!(cli(&app, "filter 1").await.0, Some(1));

    receiver.next(Reply::Status(500));
    app.save_text("somewhere quiet").await;
    receiver.has(3).await;
    let failed = newest_is(&app, 1, "failed").await["id"].clone();
    let (_, text) = cli(&app, "deliveries 1 --state failed").await;
    assert!(text.contains("embedding.ready") && text.contains("status 500"), "{text}");
    assert_eq!(done(&app, "deliveries 1 --limit 1").await["next_cursor"], failed.to_string());
    let (code, text) = cli(&app, &format!("redeliver 1 {failed}")).await;
    assert!(code == Some(0) && text.contains("once more"), "{text}");
    newest_is(&app, 1, "delivered").await;
    assert_eq!(done(&app, &format!("delivery 1 {failed}")).await["history"].as_array().map(Vec::len), Some(2));

    let rotated = done(&app, "rotate 1").await;
    assert!(rotated["secret"].as_str().is_some_and(|new| new.starts_with("whsec_") && new != secret), "{rotated}");
    assert_eq!(done(&app, "disable 1").await["enabled"], false);
    let (code, text) = cli(&app, "test 1").await;
    assert!(code == Some(1) && text.contains("webhook 1 is disabled"), "{text}");
    assert_eq!(done(&app, "enable 1").await["enabled"], true);
    let (code, text) = cli(&app, "delete 1").await;
    assert!(code == Some(1) && text.contains("this would delete webhook 1 (") && text.contains("--yes"), "{text}");
    assert_eq!(done(&app, "delete 1 --yes").await, json!({ "id": 1 }));
    assert_eq!(cli(&app, "show 1").await.0, Some(1));
    let line = audit(&app).await.remove(0);
    assert_eq!((&line["who"], &line["action"]), (&json!("cli"), &json!("webhook.delete")));
    let (code, text) = cli(&app, "create http://127.0.0.1:1/hook --event everything").await;
    assert!(code == Some(1) && text.contains("events[0] must be one of"), "{text}");
    app.stop().await;
}
