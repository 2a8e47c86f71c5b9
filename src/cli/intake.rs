//! `pause`, `resume` and `drain`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{Output, Target, out};
use crate::config::Settings;

const QUEUE: &str = "/api/recommendations/embedding-queue";

#[derive(Debug, Args)]
pub struct PauseArgs {
    /// high, normal or low; all of them without it
    #[arg(long)]
    lane: Option<String>,
    /// Why, for whoever looks at the status
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// high, normal or low; all of them without it
    #[arg(long)]
    lane: Option<String>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The process's id, as the status has it
    worker: String,
    /// Let it work again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

pub async fn pause(settings: &Settings, args: PauseArgs) -> anyhow::Result<ExitCode> {
    let body = json!({ "lane": args.lane, "reason": args.reason });
    let path = format!("{QUEUE}/pause");
    tell(settings, &args.target, &args.output, &path, body, |data| paused(&data["paused"])).await
}

pub async fn resume(settings: &Settings, args: ResumeArgs) -> anyhow::Result<ExitCode> {
    let path = format!("{QUEUE}/resume");
    tell(settings, &args.target, &args.output, &path, json!({ "lane": args.lane }), |data| paused(&data["paused"]))
        .await
}

pub async fn drain(settings: &Settings, args: DrainArgs) -> anyhow::Result<ExitCode> {
    let id: String = url::form_urlencoded::byte_serialize(args.worker.as_bytes()).collect();
    let path = format!("{QUEUE}/workers/{id}/{}", if args.undo { "undrain" } else { "drain" });
    tell(settings, &args.target, &args.output, &path, json!({}), |data| match data["drain_since"].as_str() {
        Some(since) => format!("draining since {since}; the status says when it is drained"),
        None => "working again".to_owned(),
    })
    .await
}

async fn tell(
    settings: &Settings,
    target: &Target,
    output: &Output,
    path: &str,
    body: Value,
    describe: impl Fn(&Value) -> String,
) -> anyhow::Result<ExitCode> {
    let data: Value = target.client(settings)?.post(path, &body, None).await?;
    out::line(if output.json { data.to_string() } else { describe(&data) })?;
    Ok(ExitCode::SUCCESS)
}

/// The paused lanes in a few words.
pub fn paused(lanes: &Value) -> String {
    let one = |lane: &'static str| {
        let pause = lanes[lane].as_object()?;
        let by = pause["by"].as_str().unwrap_or("?");
        let reason = pause["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
        Some(format!("{lane} (since {}, by {by}{reason})", pause["since"].as_str().unwrap_or("?")))
    };
    let paused: Vec<String> = ["high", "normal", "low"].into_iter().filter_map(one).collect();
    if paused.is_empty() { "no lane is paused".to_owned() } else { format!("paused: {}", paused.join(", ")) }
}
