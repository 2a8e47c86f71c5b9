//! `regenerate` and `regenerations`.

use std::process::Output;

use serde_json::{Value, json};
use tokio::process::Command;

use super::{fill, in_bulk, remote};
use crate::support::app::TestApp;

async fn command(app: &TestApp, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"))
        .args(arguments)
        .args(["--url", &app.base])
        .output()
        .await
        .expect("the program starts")
}

/// What it prints, when it ends with this code.
async fn said(app: &TestApp, arguments: &[&str], code: i32) -> String {
    let output = command(app, arguments).await;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{err}");
    format!("{out}{err}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_regeneration_is_told_begun_followed_and_listed() {
    let (provider, app) = remote(in_bulk).await;
    fill(&app.data(), 30, 20).await;
    let told: Value =
        serde_json::from_str(&said(&app, &["regenerate", "--dry-run", "--json"], 0).await).expect("JSON");
    assert_eq!(
        (&told["scope"], &told["rows"], &told["distinct_texts"]),
        (&json!("missing"), &json!(30), &json!(20))
    );
    assert!(said(&app, &["regenerate", "--dry-run"], 0).await.contains("20 to be embedded"));
    assert!(provider.calls().is_empty(), "a dry run did something");

    let lines = said(&app, &["regenerate", "--scope", "all", "--priority", "high", "--watch", "--json"], 0).await;
    let last: Value = serde_json::from_str(lines.lines().last().expect("a line")).expect("JSON");
    assert_eq!(
        (&last["state"], &last["done"], &last["priority"]),
        (&json!("completed"), &json!(30), &json!("high"))
    );
    let watched = said(&app, &["regenerate", "--watch"], 0).await;
    assert!(watched.contains("completed, 100.0 %"), "{watched}");
    let list = said(&app, &["regenerations", "list"], 0).await;
    assert!(list.lines().nth(2).is_some_and(|line| line.starts_with("2") && line.contains("missing")), "{list}");
    assert!(said(&app, &["regenerations", "show", "1"], 0).await.contains("30 done, 0 failed, 0 skipped"));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_done_says_why() {
    let (_provider, app) = remote(in_bulk).await;
    assert!(said(&app, &["regenerations", "pause", "7"], 1).await.contains("regeneration not found (status 404)"));
    assert!(said(&app, &["regenerate", "--scope", "everything"], 2).await.contains("must be one of"));
    said(&app, &["regenerate"], 0).await;
    for what in ["cancel", "resume", "pause"] {
        let refused = async || {
            let refused = said(&app, &["regenerations", what, "1"], 1).await;
            (refused.contains("regeneration 1 is completed") && refused.contains("status 409")).then_some(())
        };
        super::completed(&app, 1).await;
        assert!(refused().await.is_some(), "{what}");
    }
    app.stop().await;
}
