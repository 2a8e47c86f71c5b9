//! What a shadow is worth: `cargo test --release --test it -- --ignored --nocapture shadow_measured`.

use std::time::{Duration, Instant};

use sea_orm::ConnectionTrait;
use serde_json::json;

use super::shadow::session;
use super::{begin, fill, job};
use crate::support::app::TestApp;
use crate::support::data::TestData;

const ROWS: u64 = 20_000;
const LIMIT: Duration = Duration::from_secs(900);

async fn takes(app: &TestApp, scope: &str) -> Duration {
    let started = Instant::now();
    let id = begin(app, &json!({ "scope": scope })).await;
    let (mut told, mut phase) = (String::new(), Instant::now());
    loop {
        let job = job(app, id).await;
        let now = format!("{} {}", job["strategy"], job["phase"]);
        if now != told {
            println!("{told}: {:?}", phase.elapsed());
            (told, phase) = (now, Instant::now());
        }
        if job["state"] == "completed" {
            return started.elapsed();
        }
        assert!(started.elapsed() < LIMIT, "{job}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of some minutes"]
async fn the_same_rows_in_place_and_through_a_shadow() {
    let data = TestData::postgres().await;
    let mut took = Vec::new();
    for shadow_rows in [0, ROWS] {
        let app = TestApp::over(data.clone(), |settings| settings.regeneration.shadow_rows = shadow_rows, None).await;
        app.queue().await;
        if shadow_rows == 0 {
            fill(&data, ROWS, ROWS).await;
            // Texts of which each has words of its own, as vectors that are all alike are another index.
            let conn = session(&data).await;
            let words = "SET mapx.program = 'mapx-embeddings'; UPDATE recommendations SET description = \
                (SELECT string_agg(substr(md5(id::text || n), 1, 4 + n % 5), ' ') FROM generate_series(1, 20) n)";
            conn.execute_unprepared(words).await.expect("written");
            conn.close().await.expect("closes");
            println!("{:?} for the first vectors", takes(&app, "missing").await);
        }
        took.push(takes(&app, "all").await);
        app.stop().await;
    }
    let ratio = took[0].as_secs_f64() / took[1].as_secs_f64();
    println!("{ROWS} rows: {:?} in place, {:?} through a shadow, {ratio:.1} times as quick", took[0], took[1]);
}
