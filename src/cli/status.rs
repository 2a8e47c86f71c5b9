//! `status`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::StatusArgs;
use super::intake;
use super::out;
use crate::config::Settings;
use crate::shutdown;

pub const STATUS: &str = "/api/recommendations/embedding-queue/status";
/// How often `--watch` looks.
const WATCH: Duration = Duration::from_secs(1);

pub async fn run(settings: Settings, args: StatusArgs) -> anyhow::Result<ExitCode> {
    let client = args.target.client(&settings)?;
    let ask = async || client.get::<Value>(STATUS).await.context("no status; `mapx-embeddings` starts the service");
    if !args.watch {
        let status = ask().await?;
        out::line(if args.output.json { serde_json::to_string_pretty(&status)? } else { describe(&status) })?;
        return Ok(ExitCode::SUCCESS);
    }
    let stop = shutdown::on_signal()?;
    let bar = (!args.output.json).then(watch_bar);
    while !stop.is_cancelled() {
        let status = ask().await?;
        match &bar {
            Some(bar) => show(bar, &status),
            None => out::line(&status)?,
        }
        let _ = tokio::time::timeout(WATCH, stop.cancelled()).await;
    }
    if let Some(bar) = bar {
        bar.abandon();
    }
    Ok(ExitCode::SUCCESS)
}

fn watch_bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("embedded {wide_bar} {pos}/{len}\n{msg}").expect("the template is fixed");
    ProgressBar::new(0).with_style(style)
}

fn show(bar: &ProgressBar, status: &Value) {
    bar.set_length(number(&status["recommendations"]));
    bar.set_position(number(&status["embedded"]));
    bar.set_message(describe(status));
}

pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// The status in a few lines.
pub fn describe(status: &Value) -> String {
    let lanes = &status["byPriority"];
    let oldest = status["oldestPendingSeconds"].as_f64();
    let eta = status["etaSeconds"].as_f64();
    let mut lines = vec![
        format!("waiting        {}", number(&status["queueLength"])),
        format!("in hand        {}", number(&status["processing"])),
        format!(
            "by lane        high {}, normal {}, low {}",
            number(&lanes["high"]),
            number(&lanes["normal"]),
            number(&lanes["low"])
        ),
        format!("retrying       {}", number(&status["retrying"])),
        format!("dead letters   {}", number(&status["deadLettered"])),
        format!("oldest         {}", oldest.map_or("-".into(), |s| format!("{s:.1} s"))),
        format!("throughput     {:.1}/s", status["throughputPerSecond"].as_f64().unwrap_or(0.0)),
        format!("done in        {}", eta.map_or("unknown".into(), |s| format!("{s:.0} s"))),
        format!(
            "embedded       {} of {} with {}",
            number(&status["embedded"]),
            number(&status["recommendations"]),
            status["model"].as_str().unwrap_or("?")
        ),
    ];
    if ["high", "normal", "low"].iter().any(|lane| status["paused"][*lane].is_object()) {
        lines.push(intake::paused(&status["paused"]));
    }
    for part in ["broker", "provider"] {
        let state = status[part]["error"].as_str().unwrap_or("ok");
        lines.push(format!("{part:<14} {}: {state}", status[part]["kind"].as_str().unwrap_or("?")));
    }
    let workers = status["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
    for worker in workers {
        let text = |name: &str| worker[name].as_str().unwrap_or("?").to_owned();
        lines.push(format!(
            "process        {} {}{} on {} (pid {}): {} in hand, {} ready, {} failed",
            text("role"),
            text("id"),
            match worker["state"].as_str() {
                Some(state @ ("draining" | "drained")) => format!(", {state},"),
                _ => String::new(),
            },
            text("host"),
            number(&worker["pid"]),
            number(&worker["inFlight"]),
            number(&worker["readyTotal"]),
            number(&worker["failedTotal"])
        ));
    }
    lines.join("\n")
}
