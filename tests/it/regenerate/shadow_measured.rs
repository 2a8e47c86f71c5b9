//! What a shadow is worth: `cargo test --release --test it -- --ignored --nocapture shadow_measured`.

use std::time::{Duration, Instant};

use mapx_embeddings::config::Settings;
use sea_orm::ConnectionTrait;
use serde_json::json;

use super::shadow::session;
use super::{begin, fill, job};
use crate::promises::ask;
use crate::support::app::TestApp;
use crate::support::data::TestData;
use crate::support::provider::FakeProvider;

const LIMIT: Duration = Duration::from_secs(900);

async fn takes(app: &TestApp, scope: &str) -> Duration {
    let started = Instant::now();
    let id = begin(app, &json!({ "scope": scope })).await;
    let (mut told, mut phase) = (String::new(), Instant::now());
    loop {
        let job = job(app, id).await;
        let now = format!("{} {}", job["strategy"], job["phase"]);
        if now != told {
            println!("  {told} {:?}", phase.elapsed());
            (told, phase) = (now, Instant::now());
        }
        if job["state"] == "completed" {
            return started.elapsed();
        }
        assert!(started.elapsed() < LIMIT, "{job}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Gives each row words of its own, as vectors that are all alike are another index, and others each time, as a vector
/// that is there already costs an index less. Past the triggers: nobody embeds them yet.
async fn rewrite(data: &TestData, salt: &str) {
    let conn = session(data).await;
    let words = format!(
        "SET mapx.program = 'mapx-embeddings'; UPDATE recommendations SET description = (SELECT string_agg(\
         substr(md5(id::text || '{salt}' || n), 1, 4 + n % 5), ' ') FROM generate_series(1, 20) n)"
    );
    conn.execute_unprepared(&words).await.expect("written");
    conn.close().await.expect("closes");
}

/// What so many rows take in place, and through a shadow.
async fn compare(rows: u64, dimensions: usize, change: impl Fn(&mut Settings)) {
    let data = TestData::postgres().await;
    let mut took = Vec::new();
    for shadow_rows in [0, rows] {
        let app = TestApp::over(
            data.clone(),
            |settings| {
                change(settings);
                settings.regeneration.shadow_rows = shadow_rows;
            },
            None,
        )
        .await;
        app.queue().await;
        if shadow_rows == 0 {
            fill(&data, rows, rows).await;
            rewrite(&data, "first").await;
            println!("{:?} for the first vectors", takes(&app, "missing").await);
        }
        rewrite(&data, if shadow_rows == 0 { "in place" } else { "shadow" }).await;
        took.push(takes(&app, "all").await);
        app.stop().await;
    }
    let ratio = took[0].as_secs_f64() / took[1].as_secs_f64();
    println!(
        "{rows} rows of {dimensions} dimensions: {:?} in place, {:?} through a shadow, {ratio:.1} times as quick",
        took[0], took[1]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of some minutes"]
async fn the_same_rows_in_place_and_through_a_shadow() {
    compare(8_000, 256, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of some minutes"]
async fn the_same_large_rows_in_place_and_through_a_shadow() {
    const DIMENSIONS: usize = 1_536;
    let provider = FakeProvider::start(DIMENSIONS).await;
    let url = provider.base_url();
    let large = |settings: &mut Settings| {
        ask(settings, url.clone());
        settings.embedder.dimensions = DIMENSIONS;
        settings.database.cached_vectors = 0;
        settings.queue.batch_size = 64;
    };
    compare(5_000, DIMENSIONS, large).await;
}
