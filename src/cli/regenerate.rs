//! `regenerate` and `regenerations`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::client::Client;
use super::status::number;
use super::{RegenerateArgs, RegenerationsArgs, RegenerationsCommand, out, table};
use crate::config::Settings;
use crate::shutdown;

const JOBS: &str = "/api/recommendations/regenerate-embeddings";
/// How often `--watch` looks.
const WATCH: Duration = Duration::from_secs(1);
/// Of a job that ended otherwise than complete.
const FAILED: u8 = 1;

pub async fn run(settings: Settings, args: RegenerateArgs) -> anyhow::Result<ExitCode> {
    let client = args.target.client(&settings)?;
    let mut body = json!({ "scope": args.scope.as_str(), "dry_run": args.dry_run });
    if let Some(priority) = args.priority {
        body["priority"] = json!(priority.name());
    }
    let answer: Value = client.post(JOBS, &body, None).await.context(NOT_RUNNING)?;
    if args.dry_run {
        out::line(if args.output.json {
            serde_json::to_string_pretty(&answer)?
        } else {
            describe_dry_run(&answer)
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let id = answer["job_id"].as_i64().context("the service's answer has another shape")?;
    if args.watch {
        return watch(&client, id, args.output.json).await;
    }
    if args.output.json {
        out::line(serde_json::to_string_pretty(&answer)?)?;
    } else {
        out::line(format_args!(
            "Regeneration {id} has begun: {} rows, {} ({}). `mapx-embeddings regenerations show {id} --watch` follows it.",
            number(&answer["total"]),
            text(&answer["strategy"]),
            text(&answer["strategy_reason"])
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

const NOT_RUNNING: &str = "not done; `mapx-embeddings` starts the service";

pub async fn jobs(settings: Settings, args: RegenerationsArgs) -> anyhow::Result<ExitCode> {
    let client = args.target.client(&settings)?;
    let json = args.json;
    let job: Value = match args.command {
        RegenerationsCommand::List => {
            let jobs: Vec<Value> = client.get(JOBS).await.context(NOT_RUNNING)?;
            out::line(if json { serde_json::to_string_pretty(&jobs)? } else { describe_list(&jobs) })?;
            return Ok(ExitCode::SUCCESS);
        }
        RegenerationsCommand::Show { job, watch: true } => return watch(&client, job, json).await,
        RegenerationsCommand::Show { job, .. } => client.get(&path(job)).await,
        RegenerationsCommand::Pause { job } => client.post(&format!("{}/pause", path(job)), &json!({}), None).await,
        RegenerationsCommand::Resume { job } => {
            client.post(&format!("{}/resume", path(job)), &json!({}), None).await
        }
        RegenerationsCommand::Cancel { job } => client.delete(&path(job)).await,
    }
    .context(NOT_RUNNING)?;
    out::line(if json { serde_json::to_string_pretty(&job)? } else { describe(&job) })?;
    Ok(ExitCode::SUCCESS)
}

fn path(job: i64) -> String {
    format!("{JOBS}/{job}")
}

/// Follows a job to its end, or until Ctrl-C, which doesn't end the job.
async fn watch(client: &Client, id: i64, json: bool) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signal()?;
    let bar = (!json).then(|| {
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}\n{msg}");
        ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    });
    let mut ended = None;
    while ended.is_none() && !stop.is_cancelled() {
        let job: Value = client.get(&path(id)).await.context(NOT_RUNNING)?;
        match &bar {
            Some(bar) => {
                bar.set_length(number(&job["total"]));
                bar.set_position(["done", "failed", "skipped"].iter().map(|field| number(&job[*field])).sum());
                bar.set_message(describe(&job));
            }
            None => out::line(&job)?,
        }
        if job["finished_at"].is_string() {
            ended = Some(job);
        } else {
            let _ = tokio::time::timeout(WATCH, stop.cancelled()).await;
        }
    }
    if let Some(bar) = bar {
        bar.abandon();
        // A bar draws on a terminal only.
        if let Some(job) = ended.as_ref().filter(|_| bar.is_hidden()) {
            out::line(describe(job))?;
        }
    }
    let complete = ended.is_none_or(|job| job["state"] == "completed");
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn describe(job: &Value) -> String {
    let eta = job["eta_seconds"].as_f64();
    let phase = job["phase"].as_str().map(|phase| format!(", {phase}")).unwrap_or_default();
    [
        format!("regeneration   {} ({}, {})", number(&job["job_id"]), text(&job["scope"]), text(&job["strategy"])),
        format!("strategy       {}", text(&job["strategy_reason"])),
        format!("state          {}, {:.1} %{phase}", text(&job["state"]), job["percent"].as_f64().unwrap_or(0.0)),
        format!(
            "rows           {}: {} done, {} failed, {} skipped",
            number(&job["total"]),
            number(&job["done"]),
            number(&job["failed"]),
            number(&job["skipped"])
        ),
        format!("rate           {:.1}/s", job["rate"].as_f64().unwrap_or(0.0)),
        format!("done in        {}", eta.map_or("-".into(), |s| format!("{s:.0} s"))),
    ]
    .join("\n")
}

fn describe_list(jobs: &[Value]) -> String {
    let rows = jobs.iter().map(|job| {
        vec![
            number(&job["job_id"]).to_string(),
            text(&job["scope"]).to_owned(),
            text(&job["state"]).to_owned(),
            format!("{:.1} %", job["percent"].as_f64().unwrap_or(0.0)),
            number(&job["total"]).to_string(),
            number(&job["failed"]).to_string(),
            text(&job["created_at"]).to_owned(),
        ]
    });
    table::render(&["job", "scope", "state", "progress", "rows", "failed", "begun"], &Vec::from_iter(rows), 30)
}

fn describe_dry_run(told: &Value) -> String {
    let about = if told["exact"] == true { "" } else { "about " };
    let cost = told["estimated_cost_usd"].as_f64().map_or("unknown".into(), |cost| format!("{about}{cost:.4} USD"));
    let time = told["estimated_seconds"].as_f64().map_or("unknown".into(), |s| format!("about {s:.0} s"));
    [
        format!("rows           {about}{}", number(&told["rows"])),
        format!("texts          {about}{} to be embedded", number(&told["distinct_texts"])),
        format!("kept           {about}{} whose vector is there already", number(&told["cached_texts"])),
        format!("tokens         {about}{}", number(&told["tokens"])),
        format!("cost           {cost}"),
        format!("time           {time} (by {})", text(&told["time_basis"]).replace('_', " ")),
        format!("strategy       {} ({})", text(&told["strategy"]), text(&told["strategy_reason"])),
    ]
    .join("\n")
}
