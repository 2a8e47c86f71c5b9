//! `demo`: the whole service at work on the sample, in one command.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use super::client::Client;
use super::service::Service;
use super::status::{STATUS, describe, number};
use super::{DemoArgs, import, out, search, table};
use crate::config::Settings;
use crate::config::secret::ServerUrl;
use crate::shutdown;

const SAMPLE: &str = include_str!("../../data/sample.ndjson");

/// Questions whose answers in the sample share no word with them: what finds these is the meaning.
pub const SEARCHES: [&str; 6] = [
    "somewhere quiet to work with my laptop",
    "my tap is dripping",
    "fix a flat tyre",
    "kids on a rainy day",
    "where can I swim outdoors",
    "learn an instrument",
];
/// Answers shown for each.
const SHOWN: u64 = 3;
/// Characters of a cell.
const CELL: usize = 52;
/// Longer than a process waits before it tells what it has done.
const HEARTBEAT: Duration = Duration::from_secs(1);

pub async fn run(mut settings: Settings, args: DemoArgs) -> anyhow::Result<ExitCode> {
    settings.database.url = ServerUrl::new(format!("sqlite://{}", args.data.join("demo.db").display()));
    let database = settings.database.url.to_string();
    let stop = shutdown::on_signal()?;
    let service = Service::start(settings).await?;
    let shown = async {
        tokio::select! {
            shown = show(&service.client, &database) => shown,
            () = stop.cancelled() => Ok(()),
        }
    };
    if let Err(error) = shown.await {
        service.end().await?;
        return Err(error);
    }
    if args.once {
        service.end().await?;
    } else {
        out::line(format_args!("\nServing at {} until Ctrl-C. Try:", service.client.base()))?;
        out::line(format_args!(
            "  curl {}/api/recommendations/search -d '{{\"query\": \"a treat for my mother\"}}'",
            service.client.base()
        ))?;
        service.serve_until(stop).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The status once the process has told what it made: its heartbeat comes a moment later.
async fn told(client: &Client, made: u64) -> anyhow::Result<Value> {
    let started = Instant::now();
    loop {
        let status: Value = client.get(STATUS).await?;
        let ready: u64 = status["workers"].as_array().into_iter().flatten().map(|w| number(&w["readyTotal"])).sum();
        if ready >= made || started.elapsed() > HEARTBEAT {
            return Ok(status);
        }
        tokio::time::sleep(HEARTBEAT / 20).await;
    }
}

async fn show(client: &Client, database: &str) -> anyhow::Result<()> {
    let before: Value = client.get(STATUS).await?;
    // The sample is imported in one transaction: it is there whole or not at all.
    if number(&before["recommendations"]) == 0 {
        let counts: Value = client.post_lines("/api/recommendations/import", SAMPLE.into()).await?;
        out::line(format_args!("Imported {} recommendations into {database}.", counts["imported"]))?;
    } else {
        out::line(format_args!("Found {} recommendations in {database}.", before["recommendations"]))?;
    }
    import::drain(client).await?;
    let after: Value = client.get(STATUS).await?;
    let made = number(&after["embedded"]).saturating_sub(number(&before["embedded"]));
    out::line(format_args!("Embeddings made in this run: {made}.\n"))?;
    for query in SEARCHES {
        let found: Value = client
            .post("/api/recommendations/search", &json!({ "query": query, "limit": SHOWN }), None)
            .await
            .with_context(|| format!("searching for {query:?}"))?;
        let took = found["search_metadata"]["took_ms"].as_f64().unwrap_or(0.0);
        out::line(format_args!("▸ {query}   ({took:.1} ms)"))?;
        out::line(format_args!(
            "{}\n",
            table::render(&["", "title", "where or who", "says"], &search::rows(&found), CELL)
        ))?;
    }
    out::line(describe(&told(client, made).await?))?;
    Ok(())
}
