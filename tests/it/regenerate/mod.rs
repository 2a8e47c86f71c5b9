//! Regenerations from outside: what is embedded again, once a text, a window at a time, through restarts.

mod command;
mod counted;
mod dry_run;
mod dumped;
mod killed;
mod lifecycle;
mod memory;
mod model_change;
mod scopes;
mod shadow;
mod shadow_killed;
mod shadow_measured;

use std::collections::HashMap;

use mapx_embeddings::config::Settings;
use reqwest::Method;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use crate::support::app::{Answer, TestApp, eventually};
use crate::support::data::TestData;
use crate::support::provider::FakeProvider;

const JOBS: &str = "/api/recommendations/regenerate-embeddings";

fn path_of(job: i64) -> String {
    format!("{JOBS}/{job}")
}

/// Large calls, so that a debug build gets somewhere.
fn in_bulk(settings: &mut Settings) {
    settings.queue.batch_size = 32;
}

/// A service whose start is over: it has looked for rows without a vector, and those that come now are found by
/// nobody.
async fn remote(change: impl FnOnce(&mut Settings)) -> (FakeProvider, TestApp) {
    let (provider, app) = crate::promises::remote(change).await;
    app.queue().await;
    (provider, app)
}

/// Rows without a vector and without a task. Of each text there are as many as `rows / texts`, far from each other.
async fn fill(data: &TestData, rows: u64, texts: u64) {
    let conn = data.connect().await;
    let user = "INSERT INTO users (id, created_at) VALUES";
    let insert = "INSERT INTO recommendations (user_id, content_type, description, visibility, created_at, updated_at) SELECT";
    let statement = match data.is_postgres() {
        true => format!(
            "SET mapx.program = 'mapx-embeddings'; {user} ('00000000-0000-0000-0000-000000000001', now()) ON CONFLICT DO NOTHING; \
             {insert} '00000000-0000-0000-0000-000000000001', 'unclear', 'A place, number ' || (n % {texts}), 'public', \
             now(), now() FROM generate_series(1, {rows}) n"
        ),
        false => format!(
            "PRAGMA busy_timeout = 20000; {user} (x'00000000000000000000000000000001', '2026-01-01T00:00:00Z') ON CONFLICT DO NOTHING; \
             {insert} x'00000000000000000000000000000001', 'unclear', 'A place, number ' || (n % {texts}), 'public', \
             '2026-01-01T00:00:00Z', '2026-01-01T00:00:00Z' FROM (WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL \
             SELECT n + 1 FROM c WHERE n < {rows}) SELECT n FROM c)"
        ),
    };
    conn.execute_unprepared(&statement).await.expect("filled");
    conn.close().await.expect("closes");
}

/// Does something to the database that no API does.
async fn does(data: &TestData, statement: &str) {
    let conn = data.connect().await;
    conn.execute_unprepared(statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
    conn.close().await.expect("closes");
}

async fn begin(app: &TestApp, body: &Value) -> i64 {
    let answer = app.post(JOBS, body).await;
    let data = answer.data(202);
    assert_eq!((&data["success"], &data["failed"]), (&json!(0), &json!(0)));
    data["job_id"].as_i64().expect("an id")
}

async fn job(app: &TestApp, id: i64) -> Value {
    app.get(&path_of(id), None).await.data(200).clone()
}

async fn tell(app: &TestApp, id: i64, what: &str) -> Answer {
    match what {
        "cancel" => app.delete(&path_of(id), None).await,
        _ => app.send(app.request(Method::POST, &format!("{}/{what}", path_of(id)))).await,
    }
}

/// Waits for the end, which is exactly at 100 %.
async fn completed(app: &TestApp, id: i64) -> Value {
    let job = eventually("the regeneration is complete", async || {
        let job = job(app, id).await;
        (job["state"] == "completed").then_some(job)
    })
    .await;
    assert_whole(&job);
    job
}

/// A completed job's numbers add up.
fn assert_whole(job: &Value) {
    let number = |field: &str| job[field].as_u64().expect("a number");
    assert_eq!(number("done") + number("failed") + number("skipped"), number("total"), "{job}");
    assert_eq!(job["percent"], 100.0, "{job}");
    assert!(job["finished_at"].is_string(), "{job}");
}

/// How often each text was sent since the first `before` of them.
fn times(provider: &FakeProvider, before: usize) -> HashMap<String, usize> {
    let mut times = HashMap::new();
    for input in provider.inputs().split_off(before) {
        *times.entry(input).or_insert(0) += 1;
    }
    times
}
