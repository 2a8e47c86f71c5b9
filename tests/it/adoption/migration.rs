//! From the other program's tables to adopted ones.

use mapx_embeddings::db::{Db, DbError, Migrated, ModelSpec};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_start_touches_nothing_and_says_what_to_do() {
    let old = Old::new().await;
    let before = old.snapshot().await;
    let output = old.program("all").output().await.expect("the program runs");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("migrate --plan") && said.contains("migrate --adopt-model MODEL"), "{said}");
    assert_eq!(old.snapshot().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_prints_what_would_run_and_runs_nothing() {
    let old = Old::new().await;
    let before = old.snapshot().await;
    let plan = old.migrate(&["--plan"], 0).await;
    assert!(plan.contains("ADD COLUMN IF NOT EXISTS content_version") && !plan.contains("mapx_adopt"), "{plan}");
    let plan = old.migrate(&["--plan", "--adopt-model", "it's"], 0).await;
    assert!(plan.contains("SELECT pg_temp.mapx_adopt('it''s', 5000)"), "{plan}");
    assert_eq!(old.snapshot().await, before);
    // What it prints is what a migration does.
    old.does(&plan).await;
    assert_eq!(old.one::<i64>("SELECT count(*) FROM recommendations WHERE embedding_model = 'it''s'").await, 41);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adoption_adds_what_is_missing_and_changes_nothing() {
    let old = Old::new().await;
    let before = old.snapshot().await;
    let said = old.migrate(&["--adopt-model", MODEL], 0).await;
    assert!(
        said.contains("is up to date: 0001_initial")
            && said.contains(&format!("41 vectors are now those of {MODEL}"))
    );
    let after = old.snapshot().await;
    before.assert_kept(&after, &before.rows_now(&old.conn).await);
    let adopted = "SELECT count(*) FROM recommendations WHERE embedded_version = content_version AND embedding_model = \
                   'text-embedding-ada-002' AND embedding_parts = 1 AND embedded_at IS NOT NULL";
    assert_eq!(old.one::<i64>(adopted).await, 41);
    // A second time, and from now on.
    let said = old.migrate(&["--adopt-model", MODEL], 0).await;
    assert!(said.contains("nothing to do") && said.contains("no vector"), "{said}");
    let said = old.migrate(&["--plan"], 0).await;
    assert_eq!(said, "-- Nothing to do: the schema is up to date.\n");
    assert_eq!(old.snapshot().await, after);
    let json = old.migrate(&["--adopt-model", MODEL, "--json"], 0).await;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["steps"], &json["adopted_vectors"]), (&serde_json::json!([]), &serde_json::json!(0)));
}

/// Starting changes nothing either that was there before, but for the vectors and the moments of those rows that
/// get one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opened_database_keeps_its_indexes_and_types() {
    let old = Old::adopted().await;
    let before = old.snapshot().await;
    let model = ModelSpec { id: MODEL.into(), dimensions: DIMENSIONS };
    let db = Db::open(&old.data.settings().database, model).await.expect("it opens");
    assert_eq!(db.vectors().await.expect("a count"), 40, "without the deleted one");
    db.close().await;
    let after = old.snapshot().await;
    before.assert_kept(&after, &before.rows_now(&old.conn).await);
    let indexes = "SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%cosine_ops%'";
    assert_eq!(old.one::<i64>(indexes).await, 1, "the index that was there serves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_adoptions_at_once_do_what_one_does() {
    let old = Old::new().await;
    let before = old.snapshot().await;
    let settings = old.data.settings().database;
    let (one, two) = tokio::join!(Db::migrate(&settings, Some(MODEL)), Db::migrate(&settings, Some(MODEL)));
    let (mut one, mut two) = (one.expect("migrated"), two.expect("migrated"));
    if one.steps.is_empty() {
        std::mem::swap(&mut one, &mut two);
    }
    assert_eq!((one.vectors, two), (41, Migrated::default()));
    assert!(!one.steps.is_empty());
    before.assert_kept(&old.snapshot().await, &before.rows_now(&old.conn).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_lack_a_column_get_it() {
    let old = Old::new().await;
    old.does(
        "ALTER TABLE recommendations DROP COLUMN title, DROP COLUMN deleted_at; ALTER TABLE places DROP COLUMN \
         updated_at, DROP COLUMN created_at; ALTER TABLE services DROP COLUMN address; DROP INDEX recommendations_near",
    )
    .await;
    let before = old.snapshot().await;
    old.migrate(&["--adopt-model", MODEL], 0).await;
    before.assert_kept(&old.snapshot().await, &before.rows_now(&old.conn).await);
    let provider = FakeProvider::start(DIMENSIONS).await;
    let app = old.serve(&provider).await;
    app.drained().await;
    let row = app.get("/api/recommendations/2", None).await;
    assert_eq!(row.data(200)["title"], serde_json::Value::Null);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vectors_whose_model_nobody_named_stop_the_start() {
    let old = Old::new().await;
    let said = old.migrate(&[], 0).await;
    assert!(said.contains("is up to date: 0001_initial"), "{said}");
    let model = ModelSpec { id: MODEL.into(), dimensions: DIMENSIONS };
    let settings = old.data.settings().database;
    for _ in 0..2 {
        let error = Db::open(&settings, model.clone()).await.err().expect("refused");
        assert!(matches!(error, DbError::Incompatible(_)), "{error:?}");
        assert!(error.to_string().contains("migrate --adopt-model MODEL"), "{error}");
    }
    old.migrate(&["--adopt-model", MODEL], 0).await;
    Db::open(&settings, model).await.expect("it opens").close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_does_not_fit_the_column_stops_the_start() {
    let small = ModelSpec { id: "small".into(), dimensions: 256 };
    // With vectors and without.
    let old = Old::adopted().await;
    let error = Db::open(&old.data.settings().database, small.clone()).await.err().expect("refused").to_string();
    assert!(
        error.starts_with("embedder.dimensions: ") && error.contains("1536") && error.contains("256"),
        "{error}"
    );
    let old = Old::new().await;
    old.does("UPDATE recommendations SET embedding = NULL").await;
    old.migrate(&[], 0).await;
    let before = old.snapshot().await;
    let error = Db::open(&old.data.settings().database, small).await.err().expect("refused").to_string();
    assert!(
        error.starts_with("embedder.dimensions: ") && error.contains("1536") && error.contains("256"),
        "{error}"
    );
    assert_eq!(old.snapshot().await, before);
}

/// One of our own, with rows and vectors, is never taken for another program's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_our_own_is_not_adopted() {
    let data = TestData::postgres().await;
    let settings = data.settings().database;
    let model = |dimensions| ModelSpec { id: "own".into(), dimensions };
    for dimensions in [4, 4, 8] {
        // Without vectors, the model may change its dimension.
        Db::open(&settings, model(dimensions)).await.expect("it opens").close().await;
    }
    assert_eq!(Db::migrate(&settings, Some(MODEL)).await.expect("migrated"), Migrated::default());
    Db::open(&settings, model(8)).await.expect("it opens").close().await;
    let sqlite = TestData::sqlite();
    let error = Db::migrate(&sqlite.settings().database, Some(MODEL)).await.expect_err("refused").to_string();
    assert!(error.starts_with("--adopt-model: "), "{error}");
}
