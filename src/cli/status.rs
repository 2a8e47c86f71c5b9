//! `status`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::intake;
use super::out;
use super::sparkline::{bar as drawn, sparkline};
use super::{StatusArgs, client::Client};
use crate::config::Settings;
use crate::shutdown;

pub const STATUS: &str = "/api/recommendations/embedding-queue/status";
const HISTORY: &str = "/api/recommendations/embedding-queue/history?minutes=60&step=60";
/// Characters of a lane's bar.
const BAR: usize = 40;
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
            Some(bar) => show(bar, &status, history(&client).await.as_ref()),
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

fn show(bar: &ProgressBar, status: &Value, history: Option<&Value>) {
    bar.set_length(number(&status["recommendations"]));
    bar.set_position(number(&status["embedded"]));
    let hour = history.map(last_hour).unwrap_or_default();
    bar.set_message(format!("{}\n{}\n{hour}", describe(status), lanes(status)));
}

/// A service of an older version has none.
async fn history(client: &Client) -> Option<Value> {
    client.get(HISTORY).await.ok()
}

/// A bar for each lane, the deepest at full length.
fn lanes(status: &Value) -> String {
    let depth = |lane: &str| number(&status["byPriority"][lane]);
    let names = ["high", "normal", "low"];
    let most = names.map(depth).into_iter().max().unwrap_or(0).max(1) as f64;
    let line = |lane: &str| {
        let age = status["oldestByPriority"][lane].as_f64();
        let oldest = age.map_or(String::new(), |age| format!(", oldest {age:.1} s"));
        format!("{lane:<14} {} {}{oldest}", drawn(depth(lane) as f64 / most, BAR), depth(lane))
    };
    format!("\n{}", names.map(line).join("\n"))
}

/// A character a minute. The number before it is that of the last minute that is over.
fn last_hour(history: &Value) -> String {
    let points = history["points"].as_array().map(Vec::as_slice).unwrap_or_default();
    let over = points.len().saturating_sub(1);
    let line = |name: &str, of: &dyn Fn(&Value) -> Option<f64>, told: &dyn Fn(f64) -> String| {
        let values: Vec<Option<f64>> = points.iter().map(of).collect();
        let last = values[..over].last().copied().flatten().map_or("-".to_owned(), told);
        format!("{name:<9} {last:>8} {}", sparkline(&values))
    };
    let sum = |point: &Value, names: &[&str]| Some(names.iter().map(|name| number(&point[*name]) as f64).sum());
    let count = |value: f64| format!("{value:.0}");
    let seconds = |ms: f64| if ms < 1e3 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1e3) };
    [
        "the last hour, a minute each".to_owned(),
        line("ready", &|point| sum(point, &["ready"]), &count),
        line("errors", &|point| sum(point, &["failed", "retried"]), &count),
        line("refused", &|point| sum(point, &["refused"]), &count),
        line("p95", &|point| point["latency_p95_ms"].as_f64(), &seconds),
    ]
    .join("\n")
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_deepest_lane_has_the_longest_bar() {
        let status = json!({
            "byPriority": { "high": 0, "normal": 5, "low": 10 },
            "oldestByPriority": { "high": null, "normal": 1.25, "low": 60 },
        });
        let text = lanes(&status);
        let lines: Vec<&str> = text.trim().lines().collect();
        assert_eq!(lines[0], "high            0");
        assert_eq!(lines[1], format!("normal         {} 5, oldest 1.2 s", "█".repeat(BAR / 2)));
        assert_eq!(lines[2], format!("low            {} 10, oldest 60.0 s", "█".repeat(BAR)));
    }

    #[test]
    fn each_minute_is_a_character() {
        let point = |ready: u64, p95: Value| json!({ "ready": ready, "failed": 0, "retried": 1, "refused": 0, "latency_p95_ms": p95 });
        let history =
            json!({ "points": [point(0, Value::Null), point(40, json!(1_500.0)), point(20, json!(750.0))] });
        let text = last_hour(&history);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "ready           40 ▁█▅");
        assert_eq!(lines[2], "errors           1 ███");
        assert_eq!(lines[4], "p95          1.5 s  █▅");
        assert_eq!(last_hour(&json!({})).lines().count(), 5);
    }
}
