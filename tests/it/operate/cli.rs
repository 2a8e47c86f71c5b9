//! The same from the command line.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

use super::{dead_lettered, get, import, service};
use crate::support::app::{TestApp, eventually};

/// Runs the program without a terminal; returns its exit code and what it printed, errors included.
async fn cli(app: &TestApp, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"))
        .args(arguments)
        .args(["--url", &app.base])
        .stdin(Stdio::null())
        .output()
        .await
        .expect("the program runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), format!("{out}{err}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_listed_grouped_shown_replayed_and_discarded() {
    let (provider, app, _broker) = service(|_| {}).await;
    import(&app, (0..3).map(|n| format!("poison number {n}"))).await;
    let id = app.save_text("poison in haste").await;
    dead_lettered(&app, 4).await;
    let (code, text) = cli(&app, &["dead-letters", "list", "--lane", "normal"]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("poison in haste") && text.contains("400") && !text.contains("number"), "{text}");
    let (_, text) = cli(&app, &["dead-letters", "groups", "--json"]).await;
    let groups: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&groups["total"], &groups["groups"][0]["count"]), (&json!(4), &json!(4)));
    let (_, text) = cli(&app, &["dead-letters", "show", &id.to_string()]).await;
    assert!(text.contains("permanent") && text.contains("poison in haste"), "{text}");

    for (arguments, code, told) in [
        (&["dead-letters", "replay"][..], 1, "which ones?"),
        (
            &["dead-letters", "replay", "--all"],
            1,
            "this would replay 4 dead letters; without a terminal to ask at, say --yes",
        ),
        (&["dead-letters", "replay", "--all", "--lane", "low", "--yes"], 2, "cannot be used with"),
        (&["dead-letters", "show", "987654321"], 1, "dead letter not found"),
        (&["dead-letters", "list", "--older-than", "soon"], 1, "older_than must be a duration"),
    ] {
        let (exit, text) = cli(&app, arguments).await;
        assert!(exit == Some(code) && text.contains(told), "{arguments:?}: {exit:?} {text}");
    }
    dead_lettered(&app, 4).await;
    provider.behave();
    let (code, text) = cli(&app, &["dead-letters", "replay", "--id", &id.to_string(), "--yes"]).await;
    assert_eq!((code, text.trim()), (Some(0), "1 replayed"));
    app.embedding_is(id, "ready").await;
    let (code, text) = cli(&app, &["dead-letters", "discard", "--error", "400", "--yes"]).await;
    assert_eq!((code, text.trim()), (Some(0), "3 discarded"));
    let audit = get(&app, "audit").await;
    assert_eq!((&audit["items"][0]["who"], &audit["items"][0]["action"]), (&json!("cli"), &json!("discard")));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_are_paused_and_resumed_and_a_worker_is_drained() {
    let (_provider, app, _broker) = service(|_| {}).await;
    let (code, text) = cli(&app, &["pause", "--lane", "low", "--reason", "the bill"]).await;
    assert!(code == Some(0) && text.contains("paused: low (since ") && text.contains("by cli: the bill"), "{text}");
    let (_, text) = cli(&app, &["status"]).await;
    assert!(text.contains("paused: low"), "{text}");
    let (code, text) = cli(&app, &["resume"]).await;
    assert_eq!((code, text.trim()), (Some(0), "no lane is paused"));
    let worker = eventually("it has told of itself", async || {
        app.queue().await["workers"][0]["id"].as_str().map(str::to_owned)
    })
    .await;
    assert!(cli(&app, &["drain", &worker]).await.1.contains("draining since"));
    eventually("it is drained", async || {
        cli(&app, &["status"]).await.1.contains(&format!("{worker}, drained,")).then_some(())
    })
    .await;
    assert_eq!(cli(&app, &["drain", "--undo", &worker]).await.1.trim(), "working again");
    let (code, text) = cli(&app, &["drain", "nobody"]).await;
    assert!(code == Some(1) && text.contains("worker not found"), "{text}");
    app.stop().await;
}
