//! What the program says and does when PostgreSQL isn't as it should be.

mod away;
mod refusals;

use std::process::Output;

use tokio::process::Command;

/// Runs a command of the program to its end.
async fn program(arguments: &[&str], env: &[(&str, String)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"))
        .args(arguments)
        .env("MAPX__SERVER__BIND", "127.0.0.1:0")
        .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
        .kill_on_drop(true)
        .output()
        .await
        .expect("the program runs")
}

/// The one line that a failed start leaves behind.
#[track_caller]
fn complaint(output: &Output, code: i32) -> String {
    let text = String::from_utf8(output.stderr.clone()).expect("text");
    assert_eq!(output.status.code(), Some(code), "{text}");
    let told: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!((told.len(), text.lines().last()), (1, told.first().copied()), "one line, and the last one: {text}");
    assert!(!text.contains("panicked") && !text.contains("backtrace"), "{text}");
    told[0].to_owned()
}
