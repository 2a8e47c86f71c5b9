//! Two hundred thousand tasks behind a slow provider: a backlog is no loss, costs no memory, and the status
//! doesn't wait for it.

use std::time::{Duration, Instant};

use mapx_embeddings::db::Db;
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use serde_json::Value;

use crate::support::app::install_cryptography;
use crate::support::data::TestData;
use crate::support::process::Process;
use crate::support::provider::{Behaviour, FakeProvider};

const TASKS: i64 = 200_000;
const DIMENSIONS: usize = 8;
/// For all tasks to be handed over.
const HAND_OVER: Duration = Duration::from_secs(240);
/// Rounds of the reconciler are a second apart.
const WATCHED: Duration = Duration::from_secs(15);
const MOST_MIB: u64 = 100;

/// Rows and tasks as saves make them; without triggers and foreign keys, to be quick.
async fn fill(conn: &DatabaseConnection) {
    let rows = format!(
        "SET session_replication_role = replica; \
         INSERT INTO users (id) VALUES ('00000000-0000-0000-0000-000000000001'); \
         INSERT INTO recommendations (user_id, content_type, description, visibility) \
         SELECT '00000000-0000-0000-0000-000000000001', 'unclear', 'A place, number ' || n, 'public' \
         FROM generate_series(1, {TASKS}) n; \
         INSERT INTO embedding_tasks (recommendation_id, target, content_version, priority, state, enqueued_at, \
         not_before, updated_at) SELECT id, 'current', 1, 1 + id % 2, 'pending', now(), now(), now() \
         FROM recommendations"
    );
    conn.execute_unprepared(&rows).await.expect("filled");
}

async fn number(conn: &DatabaseConnection, select: &str) -> i64 {
    let select = Statement::from_string(conn.get_database_backend(), select);
    let row = conn.query_one_raw(select).await.expect("an answer").expect("a row");
    row.try_get_by_index(0).expect("a number")
}

const NOT_HANDED_OVER: &str = "SELECT (SELECT count(*) FROM embedding_tasks WHERE state = 'pending') \
    + (SELECT count(*) FROM claims)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_is_published_once_costs_no_memory_and_holds_nobody_up() {
    install_cryptography();
    let data = TestData::full().await;
    let provider = FakeProvider::start(DIMENSIONS).await;
    provider.always(Behaviour::Delay(Duration::from_secs(1)));
    let settings = data.settings();
    Db::migrate(&settings.database, None).await.expect("a schema");
    let conn = data.connect().await;
    fill(&conn).await;
    let env = [
        ("MAPX__DATABASE__URL", data.url()),
        ("MAPX__BROKER__URL", settings.broker.url.expose().to_owned()),
        ("MAPX__BROKER__WINDOW", TASKS.to_string()),
        ("MAPX__QUEUE__RECONCILE_INTERVAL_MS", "1000".into()),
        // The backlog is to stay one: no more calls at once than there are.
        ("MAPX__QUEUE__MAX_CONCURRENT_LIMIT", "0".into()),
        ("MAPX__EMBEDDER__PROVIDER", "openai".into()),
        ("MAPX__EMBEDDER__BASE_URL", provider.base_url()),
        ("MAPX__EMBEDDER__MODEL", "slow".into()),
        ("MAPX__EMBEDDER__DIMENSIONS", DIMENSIONS.to_string()),
    ];
    let serve = Process::start("serve", &env).await;
    let workers = [Process::start("worker", &env).await, Process::start("worker", &env).await];
    let started = Instant::now();
    while number(&conn, NOT_HANDED_OVER).await > 0 {
        assert!(started.elapsed() < HAND_OVER, "{} left", number(&conn, NOT_HANDED_OVER).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("handed {TASKS} tasks over within {:.1} s", started.elapsed().as_secs_f64());
    let before = number(&conn, "SELECT count(*) FROM embedding_tasks").await;

    let mut times = watched(&conn, serve.base()).await;
    let after = number(&conn, "SELECT count(*) FROM embedding_tasks").await;
    assert!(after < before, "the workers work: {before} then {after} open");
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("status: median {:?}, p95 {:?} (n = {})", at(50), at(95), times.len());
    assert!(at(50) < Duration::from_millis(50), "status took {:?}", at(50));
    for process in [&serve].into_iter().chain(&workers) {
        println!("peak memory {} MiB", process.peak_mib());
        assert!(process.peak_mib() < MOST_MIB, "{} MiB", process.peak_mib());
    }
    for process in workers.into_iter().chain([serve]) {
        process.kill().await;
    }
    conn.close().await.expect("closes");
}

/// Asks for the status while the reconciler makes its rounds; nothing is ever handed over again.
async fn watched(conn: &DatabaseConnection, base: &str) -> Vec<Duration> {
    let http = reqwest::Client::new();
    let last = "SELECT CAST(extract(epoch FROM max(published_at)) * 1000 AS BIGINT) FROM embedding_tasks";
    let newest = number(conn, last).await;
    let (started, mut times) = (Instant::now(), Vec::new());
    while started.elapsed() < WATCHED {
        let asked = Instant::now();
        let answer = http.get(format!("{base}/api/recommendations/embedding-queue/status")).send().await;
        let status: Value = answer.expect("an answer").json().await.expect("JSON");
        times.push(asked.elapsed());
        let waiting = status["data"]["queueLength"].as_i64().expect("a number");
        assert!((TASKS * 9 / 10..=TASKS).contains(&waiting), "{status}");
        assert_eq!(number(conn, NOT_HANDED_OVER).await, 0, "published again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(number(conn, last).await <= newest, "a task was published a second time");
    times
}
