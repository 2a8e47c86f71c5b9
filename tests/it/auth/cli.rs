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
