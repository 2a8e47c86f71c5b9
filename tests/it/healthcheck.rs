//! `healthcheck --worker`: what a container asks a worker, which has no port, through the database.

use std::process::Output;

use chrono::{DateTime, Duration, Utc};
use sea_orm::ConnectionTrait;
use tokio::process::Command;

use crate::support::data::TestData;

async fn healthcheck(url: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"))
        .args(["healthcheck", "--worker", "--timeout", "20"])
        .env("MAPX__DATABASE__URL", url)
        .output()
        .await
        .expect("the program starts")
}

async fn migrate(data: &TestData) {
    let migrated = Command::new(env!("CARGO_BIN_EXE_mapx-embeddings"))
        .arg("migrate")
        .env("MAPX__DATABASE__URL", data.url())
        .output()
        .await
        .expect("the program starts");
    assert!(migrated.status.success(), "{migrated:?}");
}

fn this_host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux says its name").trim().to_owned()
}

/// What a process of that role tells about itself.
async fn beat(data: &TestData, role: &str, host: &str, at: DateTime<Utc>, broker_error: Option<&str>) {
    let broker_error = broker_error.map_or("NULL".to_owned(), |error| format!("'{error}'"));
    let insert = format!(
        "INSERT INTO workers (id, role, host, pid, started_at, heartbeat_at, in_flight, max_concurrent, batch_size, \
         ready_total, failed_total, ready_per_second, broker_error) \
         VALUES ('{}', '{role}', '{host}', 7, '{at}', '{at}', 3, 3, 5, 120, 1, 0, {broker_error})",
        uuid::Uuid::new_v4(),
        at = at.to_rfc3339()
    );
    data.connect().await.execute_unprepared(&insert).await.expect("inserts");
}

#[track_caller]
fn says(output: &Output, code: i32, words: &str) {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(words), "{said}");
}

#[tokio::test]
async fn a_worker_is_healthy_while_its_heartbeat_is_fresh() {
    let data = TestData::postgres().await;
    migrate(&data).await;
    says(&healthcheck(&data.url()).await, 1, "no worker");
    let (host, now) = (this_host(), Utc::now());
    beat(&data, "worker", "another-host", now, None).await;
    beat(&data, "serve", &host, now, None).await;
    beat(&data, "worker", &host, now - Duration::seconds(60), None).await;
    says(&healthcheck(&data.url()).await, 1, "no worker");
    beat(&data, "worker", &host, Utc::now(), None).await;
    says(&healthcheck(&data.url()).await, 0, "3 in hand, 120 ready, 1 failed");
}

#[tokio::test]
async fn a_worker_without_its_broker_is_not_healthy() {
    let data = TestData::postgres().await;
    migrate(&data).await;
    beat(&data, "worker", &this_host(), Utc::now(), Some("connection refused")).await;
    says(&healthcheck(&data.url()).await, 1, "connection refused");
}

#[tokio::test]
async fn the_check_neither_waits_for_a_database_nor_makes_a_schema() {
    let data = TestData::postgres().await;
    says(&healthcheck(&data.url()).await, 1, "no worker");
    let made = "DO $$ BEGIN ASSERT to_regclass('workers') IS NULL; END $$";
    data.connect().await.execute_unprepared(made).await.expect("no table");
    let asked = std::time::Instant::now();
    says(&healthcheck("postgres://mapx@127.0.0.1:1/mapx").await, 1, "database.url");
    assert!(asked.elapsed().as_secs() < 10);
    says(&healthcheck("sqlite://nowhere.db").await, 2, "database.url");
}
