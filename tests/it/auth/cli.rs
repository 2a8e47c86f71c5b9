//! The command line shows a token.

use std::process::Stdio;

use tokio::process::Command;

use super::{ADMIN, QUEUE, READER, app, get, token_of};
use crate::support::app::TestApp;

async fn cli(app: &TestApp, token: Option<&str>, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"));
    command.args(arguments).stdin(Stdio::null()).env_remove("MAPX_TOKEN");
    if !arguments.contains(&"--help") {
        command.args(["--url", &app.base]);
    }
    if let Some(token) = token {
        command.env("MAPX_TOKEN", token);
    }
    let output = command.output().await.expect("the program runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), format!("{out}{err}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_need_a_token_and_say_where_it_goes() {
    let app = app().await;
    let commands: [&[&str]; 6] = [
        &["status"],
        &["pause", "--lane", "low"],
        &["resume"],
        &["dead-letters", "list"],
        &["regenerations", "list"],
        &["regenerate", "--dry-run"],
    ];
    for command in commands {
        let (code, text) = cli(&app, None, command).await;
        assert!(code == Some(1) && text.contains("--token or MAPX_TOKEN"), "{command:?}: {text}");
        let (code, text) = cli(&app, Some(ADMIN), command).await;
        assert_eq!(code, Some(0), "{command:?}: {text}");
    }
    let (code, text) = cli(&app, Some(READER), &["pause"]).await;
    assert!(code == Some(1) && text.contains("may see everything and do nothing"), "{text}");
    let (code, text) = cli(&app, None, &["status", "--token", ADMIN]).await;
    assert_eq!(code, Some(0), "{text}");
    // The configuration's own token is for the service of that configuration.
    let elsewhere = Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"))
        .args(["status", "--url", &app.base])
        .env("MAPX__AUTH__ADMIN_TOKEN", ADMIN)
        .output()
        .await
        .expect("the program runs");
    assert_eq!(elsewhere.status.code(), Some(1), "{elsewhere:?}");
    let bind = app.base.trim_start_matches("http://");
    let own = Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"))
        .arg("status")
        .envs([("MAPX__AUTH__ADMIN_TOKEN", ADMIN), ("MAPX__SERVER__BIND", bind)])
        .output()
        .await
        .expect("the program runs");
    assert_eq!(own.status.code(), Some(0), "{own:?}");
    let token = token_of(1);
    let (code, text) = cli(&app, Some(&token), &["search", "coffee"]).await;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = cli(&app, Some("two\nlines"), &["status"]).await;
    assert!(code == Some(1) && text.contains("--token"), "{text}");
    let audit = get(&app, &format!("{QUEUE}/audit"), READER).await.text;
    assert!(audit.contains("admin token (cli)"), "{audit}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn help_does_not_show_the_token() {
    let app = app().await;
    let (code, text) = cli(&app, Some(ADMIN), &["pause", "--help"]).await;
    assert!(code == Some(0) && text.contains("--token") && text.contains("MAPX_TOKEN"), "{text}");
    assert!(!text.contains(ADMIN), "{text}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_starts_its_own_service_operates_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = folder.path().join("lines.ndjson");
    let line = serde_json::json!({ "user_id": crate::support::app::user(7), "description": "Fresh bread" });
    std::fs::write(&lines, line.to_string()).expect("written");
    for (arguments, expected) in [
        (vec!["import", lines.to_str().expect("text"), "--json"], "\"imported\":1"),
        (vec!["search", "bread", "--json"], "results"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"))
            .args(&arguments)
            .env_remove("MAPX_TOKEN")
            .env("MAPX__AUTH__JWT_SECRET", super::SECRET)
            .env("MAPX__SERVER__BIND", "127.0.0.1:0")
            .env("MAPX__DATABASE__URL", format!("sqlite://{}", folder.path().join("own.db").display()))
            .output()
            .await
            .expect("the program runs");
        let text = String::from_utf8_lossy(&output.stdout).replace(": ", ":");
        assert!(output.status.success() && text.contains(expected), "{arguments:?}: {output:?}");
    }
}

#[tokio::test]
async fn keys_that_can_not_be_read_stop_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.json");
    for content in [None, Some("no json"), Some("{\"keys\": []}")] {
        if let Some(content) = content {
            std::fs::write(&file, content).expect("written");
        }
        let output = Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"))
            .arg("all")
            .env("MAPX__AUTH__JWKS_FILE", &file)
            .env("MAPX__SERVER__BIND", "127.0.0.1:0")
            .env("MAPX__DATABASE__URL", format!("sqlite://{}", folder.path().join("test.db").display()))
            .output()
            .await
            .expect("the program runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains("auth.jwks_file: "), "{content:?}: {text}");
    }
}
