//! `healthcheck URL` asks a service at its address; `healthcheck --worker` asks the database for the worker.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;

use super::client::Client;
use super::{HealthcheckArgs, out, quiet};
use crate::config::{Role, Settings, SettingsError};
use crate::db::Db;
use crate::db::workers::{Heartbeat, STALE_SECONDS};
use crate::heartbeat;

pub async fn run(settings: Settings, args: HealthcheckArgs) -> anyhow::Result<ExitCode> {
    let patience = Duration::from_secs(args.timeout);
    match args.url {
        Some(url) => service(&url, patience).await,
        None => worker(quiet(settings), patience).await,
    }
}

async fn service(url: &str, patience: Duration) -> anyhow::Result<ExitCode> {
    let client = Client::new(url, None)?;
    let (status, answer) = client.probe("/health/ready", patience).await?;
    let message = answer["message"].as_str().unwrap_or("no message");
    out::line(format_args!("{}: {message} (status {status})", client.base()))?;
    Ok(if status == 200 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Healthy when this host's newest worker was heard of lately and has its broker. A provider that is away
/// doesn't count: the lanes wait for it, and another worker would fare no better.
async fn worker(settings: Settings, patience: Duration) -> anyhow::Result<ExitCode> {
    if !settings.database.is_postgres() {
        let problem =
            "workers share a postgres:// database; over SQLite there is one process, which has an address";
        return Err(SettingsError::Invalid { key: "database.url", problem: problem.into() }.into());
    }
    let workers = tokio::time::timeout(patience, Db::workers_at(&settings.database)).await;
    let workers = workers.map_err(|_| anyhow!("the database has not answered within {patience:?}"))??;
    let host = heartbeat::host();
    let own = |beat: &&Heartbeat| beat.host == host && beat.role != Role::Serve.as_str();
    let Some(beat) = workers.iter().rfind(own) else {
        out::line(format_args!("no worker on {host} was heard of in the last {STALE_SECONDS} s"))?;
        return Ok(ExitCode::FAILURE);
    };
    out::line(describe(beat))?;
    Ok(if beat.broker_error.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn describe(beat: &Heartbeat) -> String {
    let or_ok = |error: &Option<String>| error.clone().unwrap_or_else(|| "ok".to_owned());
    format!(
        "{} on {} (pid {}): {} in hand, {} ready, {} failed; broker: {}; provider: {}",
        beat.role,
        beat.host,
        beat.pid,
        beat.in_flight,
        beat.ready_total,
        beat.failed_total,
        or_ok(&beat.broker_error),
        or_ok(&beat.provider_error)
    )
}
