//! `import FILE`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Body;
use serde_json::Value;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::ImportArgs;
use super::client::Client;
use super::out;
use super::service::Service;
use super::status::{STATUS, number};
use crate::config::Settings;

/// How often the queue is looked at while it drains.
const LOOK: Duration = Duration::from_millis(100);
/// Refused lines that are printed; `--json` has a thousand.
const SHOWN: usize = 20;

pub async fn run(settings: Settings, args: ImportArgs) -> anyhow::Result<ExitCode> {
    // Opened first: a file that isn't there starts no service.
    let (input, size) = open(&args.file).await?;
    let service = Service::find(settings, &args.target).await?;
    let counts = send(&service.client, input, size).await;
    // A service of our own would go away with its queue unserved; the ledger would keep it, but who imports
    // wants to search.
    if counts.is_ok() && service.is_own() {
        drain(&service.client).await?;
    }
    service.end().await?;
    let counts = counts?;
    if args.output.json {
        out::line(&counts)?;
    } else {
        report(&counts)?;
    }
    Ok(if number(&counts["refused"]) > 0 { ExitCode::from(3) } else { ExitCode::SUCCESS })
}

async fn open(file: &Path) -> anyhow::Result<(Box<dyn AsyncRead + Send + Unpin>, Option<u64>)> {
    if file == Path::new("-") {
        return Ok((Box::new(tokio::io::stdin()), None));
    }
    let opened = tokio::fs::File::open(file).await.with_context(|| format!("can't open {}", file.display()))?;
    let size = opened.metadata().await.ok().map(|metadata| metadata.len());
    Ok((Box::new(opened), size))
}

async fn send(
    client: &Client,
    input: Box<dyn AsyncRead + Send + Unpin>,
    size: Option<u64>,
) -> anyhow::Result<Value> {
    let bar = match size {
        Some(size) => ProgressBar::new(size).with_style(style("importing {wide_bar} {bytes}/{total_bytes}")),
        None => ProgressBar::no_length().with_style(style("importing {bytes}")),
    };
    let counted = bar.clone();
    let lines = ReaderStream::with_capacity(input, 64 * 1024).inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            counted.inc(chunk.len() as u64);
        }
    });
    let counts = client.post_lines("/api/recommendations/import", Body::wrap_stream(lines)).await;
    bar.finish_and_clear();
    counts
}

/// Shows the queue until it is empty.
pub async fn drain(client: &Client) -> anyhow::Result<()> {
    let bar = ProgressBar::new(0).with_style(style("embedding {wide_bar} {pos}/{len} {per_sec}"));
    loop {
        let status: Value = client.get(STATUS).await?;
        bar.set_length(number(&status["recommendations"]));
        bar.set_position(number(&status["embedded"]));
        let open = number(&status["queueLength"]) + number(&status["processing"]) + number(&status["retrying"]);
        if open == 0 {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    bar.finish_and_clear();
    Ok(())
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is fixed")
}

fn report(counts: &Value) -> anyhow::Result<()> {
    let (imported, refused) = (number(&counts["imported"]), number(&counts["refused"]));
    out::line(format_args!("{imported} recommendations imported, {refused} lines refused"))?;
    for error in counts["errors"].as_array().into_iter().flatten().take(SHOWN) {
        out::line(format_args!("  line {}: {}", error["line"], error["message"].as_str().unwrap_or("?")))?;
    }
    if refused > SHOWN as u64 {
        out::line(format_args!("  … and {} more; --json names the first thousand", refused - SHOWN as u64))?;
    }
    Ok(())
}
