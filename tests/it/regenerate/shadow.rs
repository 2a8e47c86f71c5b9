//! A regeneration of most of a large table takes the vectors' index away and builds it anew, on PostgreSQL; searches,
//! saves and edits go on, and a kill or a cancel at any moment leaves no trace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mapx_embeddings::config::Settings;
use mapx_embeddings::config::secret::ServerUrl;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, Statement};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{JOBS, begin, completed, does, fill, job, tell, times};
use crate::promises::{DIMENSIONS, assert_stored, called, remote_over};
use crate::support::app::{TestApp, eventually, found_ids, user};
use crate::support::data::TestData;
use crate::support::provider::{Behaviour, FakeProvider, vector};

pub(super) const ROWS: u64 = 400;
const INDEX: &str = "recommendations_embedding_hnsw";
/// Nobody's text, whose vector a row is given as its old one.
pub(super) const OLD: &str = "what the row said to an older model";

fn small(settings: &mut Settings) {
    settings.regeneration.shadow_rows = 100;
    settings.regeneration.window = 40;
    settings.queue.batch_size = 4;
    settings.queue.max_concurrent = 2;
}

async fn over(data: &Arc<TestData>, provider: &FakeProvider) -> TestApp {
    let app = remote_over(data.clone(), provider, small).await;
    app.queue().await;
    app
}

/// Rows with vectors, and the one with the old vector.
async fn filled(data: &Arc<TestData>) -> (FakeProvider, TestApp, i64) {
    let provider = FakeProvider::start(DIMENSIONS).await;
    let app = over(data, &provider).await;
    fill(data, ROWS, ROWS).await;
    let begun = app.post(JOBS, &json!({})).await.data(202).clone();
    assert_eq!(begun["strategy"], "in-place", "{begun}");
    assert_eq!(begun["strategy_reason"], "only all and stale replace vectors");
    completed(&app, begun["job_id"].as_i64().expect("an id")).await;
    let row =
        number(data, "SELECT CAST(min(id) AS BIGINT) FROM recommendations WHERE description = 'A place, number 7'")
            .await;
    let old = vector(OLD, DIMENSIONS).iter().map(f32::to_string).collect::<Vec<_>>().join(",");
    let give = format!(
        "SET mapx.program = 'mapx-embeddings'; UPDATE recommendations SET embedding = '[{old}]' WHERE id = {row}"
    );
    does(data, &give).await;
    // The queries' vectors are kept from now on, whatever the provider does.
    assert!(finds(&app, OLD, row).await && !finds(&app, &new(7), row).await);
    (provider, app, row)
}

pub(super) fn new(n: usize) -> String {
    format!("Type: unclear. Description: A place, number {n}")
}

/// Whether a row's vector is that of this text, as a search by meaning tells.
async fn finds(app: &TestApp, text: &str, row: i64) -> bool {
    let query = json!({ "query": text, "mode": "semantic", "threshold": 0.9999, "limit": 20 });
    found_ids(&app.search(&query).await).contains(&row)
}

async fn one<T: sea_orm::TryGetable>(conn: &DatabaseConnection, select: &str) -> Option<T> {
    let statement = Statement::from_string(conn.get_database_backend(), select);
    let row = conn.query_one_raw(statement).await.unwrap_or_else(|error| panic!("{select}: {error}"));
    row.map(|row| row.try_get_by_index(0).expect("the column"))
}

pub(super) async fn number(data: &TestData, select: &str) -> i64 {
    let conn = data.connect().await;
    let number = one(&conn, select).await.expect("a row");
    conn.close().await.expect("closes");
    number
}

/// All columns, indexes that are whole, triggers, and how many copies there are.
pub(super) async fn schema(data: &TestData) -> String {
    let conn = data.connect().await;
    let select = "SELECT string_agg(line, E'\\n' ORDER BY line) FROM (\
        SELECT table_name || '.' || column_name || ' ' || udt_name AS line FROM information_schema.columns WHERE table_schema = 'public' \
        UNION ALL SELECT pg_get_indexdef(indexrelid) || ' ' || indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid \
          WHERE c.relnamespace = 'public'::regnamespace \
        UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal \
        UNION ALL SELECT 'key ' || key FROM service_state WHERE key LIKE 'search.%' \
        UNION ALL SELECT count(*) || ' copies' FROM embedding_stand_ins) AS lines";
    let lines = one::<String>(&conn, select).await.expect("lines");
    conn.close().await.expect("closes");
    lines
}

/// One connection, always the same.
pub(super) async fn session(data: &TestData) -> DatabaseConnection {
    let mut options = ConnectOptions::new(data.url());
    options.max_connections(1);
    Database::connect(options).await.expect("the database opens")
}

/// Keeps a job in a phase: a transaction that holds a lock, until it is dropped.
pub(super) struct Block(DatabaseConnection);

impl Block {
    pub(super) async fn new(data: &TestData, mode: &str) -> Self {
        let conn = session(data).await;
        conn.execute_unprepared(&format!("BEGIN; LOCK TABLE recommendations IN {mode} MODE"))
            .await
            .expect("locked");
        Self(conn)
    }

    pub(super) async fn release(self) {
        self.0.execute_unprepared("COMMIT").await.expect("released");
        self.0.close().await.expect("closes");
    }
}

async fn reaches(app: &TestApp, id: i64, phase: &str) -> Value {
    eventually(&format!("the job is {phase}"), async || {
        let job = job(app, id).await;
        assert!(job["state"] == "running", "too quick to be seen: {job}");
        (job["phase"] == phase).then_some(job)
    })
    .await
}

/// Waits until nothing is left of a shadow.
async fn cleared(data: &TestData, id: i64) {
    let left = format!("SELECT count(*) FROM regenerations WHERE id = {id} AND phase IS NOT NULL");
    eventually("the shadow is gone", async || (number(data, &left).await == 0).then_some(())).await;
}

/// Searches without a pause: the row is found by its old vector or by its new one, at every moment.
fn watch(app: &TestApp, row: i64) -> (Arc<AtomicBool>, JoinHandle<usize>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (http, url, ended) = (app.http.clone(), format!("{}/api/recommendations/search", app.base), stop.clone());
    let watching = tokio::spawn(async move {
        let found = async |text: &str| {
            let query = json!({ "query": text, "mode": "semantic", "threshold": 0.9999, "limit": 20 });
            let answer = http.post(&url).json(&query).send().await.expect("an answer");
            let (status, text) = (answer.status(), answer.text().await.expect("a body"));
            assert!(status.is_success(), "{status}: {text}");
            let answer: Value = serde_json::from_str(&text).expect("JSON");
            found_ids(&answer["data"]).contains(&row)
        };
        let mut searches = 0;
        while !ended.load(Ordering::SeqCst) {
            // Between two searches the one may have become the other.
            assert!(found(OLD).await || found(&new(7)).await, "neither after {searches} searches");
            searches += 1;
        }
        searches
    });
    (stop, watching)
}

/// The index serves: a plan that may not read the table goes through it.
pub(super) async fn assert_index_serves(data: &TestData) {
    let conn = session(data).await;
    conn.execute_unprepared("SET enable_seqscan = off").await.expect("set");
    let explain = "EXPLAIN SELECT id FROM recommendations ORDER BY embedding <=> '[1,0,0,0,0,0,0,0]' LIMIT 3";
    let statement = Statement::from_string(conn.get_database_backend(), explain);
    let rows = conn.query_all_raw(statement).await.expect("a plan");
    let plan: Vec<String> = rows.iter().map(|row| row.try_get_by_index(0).expect("text")).collect();
    assert!(plan.iter().any(|line| line.contains(INDEX)), "{plan:?}");
    conn.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn most_of_a_table_goes_through_a_shadow_and_searches_find_the_old_or_the_new() {
    let data = TestData::postgres().await;
    let (provider, app, row) = filled(&data).await;
    let before = schema(&data).await;
    let told = app.post(JOBS, &json!({ "scope": "all", "dry_run": true })).await.data(200).clone();
    let why = format!("{ROWS} rows for {ROWS} vectors: a new index is quicker");
    assert_eq!((&told["strategy"], &told["strategy_reason"]), (&json!("shadow"), &json!(why)));
    assert_eq!(schema(&data).await, before, "a dry run did something");
    // What a process has left that died half-way through a swap: older than the row.
    let zeros = "0,".repeat(DIMENSIONS - 1);
    does(&data, &format!("INSERT INTO embedding_stand_ins VALUES ({row}, 1, 'fake-model', '[{zeros}1]')")).await;
    let sent = provider.inputs().len();
    let (stop, watching) = watch(&app, row);
    provider.always(Behaviour::Delay(Duration::from_millis(40)));
    let id = begin(&app, &json!({ "scope": "all" })).await;
    let begun = reaches(&app, id, "filling").await;
    assert_eq!((&begun["strategy"], &begun["strategy_reason"]), (&json!("shadow"), &json!(why)));
    let audit =
        app.get("/api/recommendations/embedding-queue/audit?limit=1", None).await.data(200)["items"][0].clone();
    assert_eq!(
        (&audit["action"], &audit["filter"]["strategy_reason"]),
        (&json!("regenerate"), &json!(why)),
        "{audit}"
    );
    assert_eq!(number(&data, &format!("SELECT count(*) FROM pg_class WHERE relname = '{INDEX}'")).await, 0);
    // Done already, and found by its old vector all the same.
    let first = format!(
        "SELECT count(*) FROM recommendations WHERE id = {row} AND embedded_at >= \
        (SELECT created_at FROM regenerations WHERE id = {id})"
    );
    eventually("the row is done", async || (number(&data, &first).await == 1).then_some(())).await;
    assert!(finds(&app, OLD, row).await, "the old vector serves");
    // What is saved and edited meanwhile is found at once, and after it.
    let saved = app.save_text("saved meanwhile").await;
    let edited = row + 300;
    let edit = json!({ "description": "edited meanwhile" });
    app.put(&format!("/api/recommendations/{edited}"), Some(Uuid::from_u128(1)), &edit).await.data(200);
    for (id, text) in [(saved, "saved meanwhile"), (edited, "edited meanwhile")] {
        let ready =
            format!("SELECT count(*) FROM recommendations WHERE id = {id} AND embedded_version = content_version");
        eventually("it is ready", async || (number(&data, &ready).await == 1).then_some(())).await;
        assert!(finds(&app, &format!("Type: unclear. Description: {text}"), id).await, "{text}");
    }
    assert_eq!(job(&app, id).await["phase"], "filling", "too quick to be seen");
    provider.behave();
    let done = completed(&app, id).await;
    assert_eq!((&done["total"], &done["phase"], &done["failed"]), (&json!(ROWS), &json!(null), &json!(0)));
    assert!(finds(&app, &new(7), row).await && !finds(&app, OLD, row).await, "the new vector serves");
    for (id, text) in [(saved, "saved meanwhile"), (edited, "edited meanwhile"), (row, "A place, number 7")] {
        assert_stored(&app, id, text).await;
        assert!(finds(&app, &format!("Type: unclear. Description: {text}"), id).await, "{text}");
    }
    stop.store(true, Ordering::SeqCst);
    println!("{} searches, none without it", watching.await.expect("always found"));
    assert_eq!(schema(&data).await, before);
    assert_index_serves(&data).await;
    let times = times(&provider, sent);
    let asked = times.iter().filter(|(text, _)| text.contains("A place"));
    assert!(asked.clone().count() as u64 >= ROWS - 1 && asked.clone().all(|(_, times)| *times == 1), "{times:?}");
    app.stop().await;
}

/// The lock that keeps a job in a phase, and whether the provider does.
pub(super) const PHASES: [(&str, Option<&str>); 4] = [
    ("preparing", Some("ROW EXCLUSIVE")),
    ("filling", None),
    ("indexing", Some("ROW EXCLUSIVE")),
    ("swapping", Some("ACCESS SHARE")),
];

/// Begins one that stays in this phase until the block is released.
async fn held_in(
    app: &TestApp,
    provider: &FakeProvider,
    (phase, lock): (&str, Option<&str>),
) -> (i64, Option<Block>) {
    let data = app.data();
    provider.always(Behaviour::Hold);
    let early = match lock.filter(|_| phase == "preparing") {
        Some(mode) => Some(Block::new(&data, mode).await),
        None => None,
    };
    let calls = provider.calls().len();
    let id = begin(app, &json!({ "scope": "all" })).await;
    if early.is_none() {
        reaches(app, id, "filling").await;
        called(provider, calls + 1).await;
    }
    let block = match lock.filter(|_| early.is_none()) {
        Some(mode) => Some(Block::new(&data, mode).await),
        None => early,
    };
    if phase != "filling" {
        provider.behave();
        provider.release();
    }
    reaches(app, id, phase).await;
    (id, block)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_cancelled_in_any_phase_leaves_the_schema_as_it_was_and_can_be_resumed() {
    for held in PHASES {
        let data = TestData::postgres().await;
        let (provider, app, row) = filled(&data).await;
        let before = schema(&data).await;
        let (stop, watching) = watch(&app, row);
        let (id, block) = held_in(&app, &provider, held).await;
        let cancelled = tell(&app, id, "cancel").await.data(200).clone();
        assert_eq!(cancelled["state"], "cancelled", "{}", held.0);
        provider.behave();
        provider.release();
        if let Some(block) = block {
            block.release().await;
        }
        cleared(&data, id).await;
        assert_eq!(schema(&data).await, before, "{}", held.0);
        assert_index_serves(&data).await;
        if held.0 == "preparing" {
            assert!(finds(&app, OLD, row).await);
        }
        tell(&app, id, "resume").await.data(200);
        let done = completed(&app, id).await;
        assert_eq!((&done["total"], &done["done"]), (&json!(ROWS), &json!(ROWS)), "{}", held.0);
        assert_eq!(schema(&data).await, before, "{}", held.0);
        assert!(finds(&app, &new(7), row).await);
        stop.store(true, Ordering::SeqCst);
        watching.await.expect("always found");
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_paused_in_any_phase_stays_there_through_a_restart() {
    for held in PHASES {
        let data = TestData::postgres().await;
        let (provider, app, row) = filled(&data).await;
        let before = schema(&data).await;
        let (id, block) = held_in(&app, &provider, held).await;
        tell(&app, id, "pause").await.data(200);
        provider.behave();
        provider.release();
        if let Some(block) = block {
            block.release().await;
        }
        app.stop().await;
        let app = over(&data, &provider).await;
        assert_eq!(job(&app, id).await["state"], "paused");
        if held.0 == "filling" {
            // A start makes the index, but not one that a regeneration has taken away.
            assert_eq!(number(&data, &format!("SELECT count(*) FROM pg_class WHERE relname = '{INDEX}'")).await, 0);
        }
        assert!(finds(&app, OLD, row).await || finds(&app, &new(7), row).await, "{}", held.0);
        tell(&app, id, "resume").await.data(200);
        completed(&app, id).await;
        assert_eq!(schema(&data).await, before, "{}", held.0);
        app.stop().await;
    }
}

/// Another process, with statements that it has prepared before, saves, edits and searches all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_sees_no_error_through_all_of_it() {
    let data = TestData::full().await;
    let (provider, app, row) = filled(&data).await;
    let other = Arc::new(over(&data, &provider).await);
    let before = schema(&data).await;
    let (stop, watching) = watch(&other, row);
    let writes = Arc::new(AtomicUsize::new(0));
    let (ended, written, writer) = (stop.clone(), writes.clone(), other.clone());
    let writing = tokio::spawn(async move {
        let mut last = Vec::new();
        while !ended.load(Ordering::SeqCst) {
            let n = written.fetch_add(1, Ordering::SeqCst);
            let id = writer.save_text(&format!("written {n}")).await;
            let text = format!("edited {n}");
            let edit = json!({ "description": text });
            writer.put(&format!("/api/recommendations/{id}"), Some(user(1)), &edit).await.data(200);
            last.push((id, text));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        last
    });
    eventually("it writes", async || (writes.load(Ordering::SeqCst) > 5).then_some(())).await;
    provider.always(Behaviour::Delay(Duration::from_millis(5)));
    completed(&app, begin(&app, &json!({ "scope": "all" })).await).await;
    stop.store(true, Ordering::SeqCst);
    let last = writing.await.expect("no error");
    println!("{} searches, {} saves and edits", watching.await.expect("always found"), last.len());
    app.drained().await;
    for (id, text) in last {
        other.embedding_is(id, "ready").await;
        assert_stored(&app, id, &text).await;
    }
    assert_eq!(schema(&data).await, before);
    assert_index_serves(&data).await;
    let other = Arc::into_inner(other).expect("nobody else has it");
    other.stop().await;
    app.stop().await;
}

/// As in a container whose /dev/shm is smaller than what the server may use for a build.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_too_little_shared_memory_one_process_builds_the_index() {
    let data = TestData::postgres().await;
    let (provider, app, row) = filled(&data).await;
    let before = schema(&data).await;
    for setting in ["maintenance_work_mem = '2000GB'", "min_parallel_table_scan_size = 0"] {
        does(
            &data,
            &format!(
                "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET {}', current_database()); END $$",
                setting.replace('\'', "''")
            ),
        )
        .await;
    }
    completed(&app, begin(&app, &json!({ "scope": "all" })).await).await;
    assert_eq!(schema(&data).await, before);
    assert_index_serves(&data).await;
    assert!(finds(&app, &new(7), row).await);
    drop(provider);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_one_takes_over_what_a_cancelled_one_has_yet_to_clear() {
    let data = TestData::postgres().await;
    let (provider, app, row) = filled(&data).await;
    let before = schema(&data).await;
    let (first, block) = held_in(&app, &provider, PHASES[2]).await;
    tell(&app, first, "cancel").await.data(200);
    let second = begin(&app, &json!({ "scope": "all" })).await;
    assert_eq!(job(&app, second).await["strategy"], "shadow");
    assert_eq!(job(&app, first).await["phase"], json!(null));
    block.expect("a lock").release().await;
    completed(&app, second).await;
    assert_eq!(schema(&data).await, before);
    assert!(finds(&app, &new(7), row).await);
    assert!(
        number(&data, &format!("SELECT count(*) FROM regenerations WHERE id = {first} AND state = 'cancelled'"))
            .await
            == 1
    );
    app.stop().await;
}

/// With the index used where the planner, for so few rows, would do without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_go_through_the_index_of_the_copy() {
    let data = TestData::postgres().await;
    let (provider, app, row) = filled(&data).await;
    app.stop().await;
    let url = format!("{}?options=-c%20enable_seqscan%3Doff%20-c%20enable_sort%3Doff", data.url());
    let app = remote_over(data.clone(), &provider, |settings| {
        small(settings);
        settings.database.url = ServerUrl::new(url);
    })
    .await;
    assert!(finds(&app, OLD, row).await);
    let (id, _) = held_in(&app, &provider, PHASES[1]).await;
    let scans = "SELECT CAST(coalesce(max(idx_scan), 0) AS BIGINT) FROM pg_stat_user_indexes \
        WHERE indexrelname = 'embedding_stand_ins_hnsw'";
    let before = number(&data, scans).await;
    assert!(finds(&app, OLD, row).await);
    eventually("the copy's index is scanned", async || (number(&data, scans).await > before).then_some(())).await;
    // A private row, and one that is deleted, are found by nobody else.
    let hide = format!(
        "SET mapx.program = 'mapx-embeddings'; UPDATE recommendations SET visibility = 'friends' WHERE id = {row}"
    );
    does(&data, &hide).await;
    assert!(!finds(&app, OLD, row).await);
    // A scan that comes home with too few is followed by a comparison with all.
    let all = json!({ "query": OLD, "mode": "semantic", "threshold": -1, "limit": 100 });
    assert_eq!(found_ids(&app.search(&all).await).len(), 100);
    provider.behave();
    provider.release();
    completed(&app, id).await;
    app.stop().await;
}

/// The old model's vectors can't be compared with the new one's queries: nothing is copied but what is made anew, and
/// the whole is found once the index is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_model_goes_through_a_shadow_too() {
    let data = TestData::postgres().await;
    let (provider, app, row) = filled(&data).await;
    let before = schema(&data).await;
    app.stop().await;
    provider.when_contains("A place", Behaviour::Hold);
    let app = remote_over(data.clone(), &provider, |settings| {
        small(settings);
        settings.embedder.model = "other-model".into();
    })
    .await;
    let begun = "SELECT coalesce(max(id), 0) FROM regenerations WHERE origin = 'model-change'";
    let id =
        eventually("the change is begun", async || Some(number(&data, begun).await).filter(|id| *id > 0)).await;
    let running = reaches(&app, id, "filling").await;
    assert_eq!((&running["origin"], &running["strategy"]), (&json!("model-change"), &json!("shadow")));
    let saved = app.save_text("saved meanwhile").await;
    app.embedding_is(saved, "ready").await;
    assert!(finds(&app, "Type: unclear. Description: saved meanwhile", saved).await);
    assert_eq!(number(&data, "SELECT count(*) FROM embedding_stand_ins WHERE embedding IS NOT NULL").await, 1);
    provider.behave();
    provider.release();
    completed(&app, id).await;
    assert!(finds(&app, &new(7), row).await);
    assert_eq!(schema(&data).await, before);
    app.stop().await;
}
