//! What only PostgreSQL has: the vector's index, and what it costs.

use std::time::Instant;

use mapx_embeddings::config::secret::ServerUrl;
use sea_orm::Statement;

use super::*;
use crate::support::app::eventually;

const INDEX: &str = "recommendations_embedding_hnsw";

/// A number from the server's own books.
async fn number(data: &TestData, select: &str) -> i64 {
    let conn = data.connect().await;
    let statement = Statement::from_string(conn.get_database_backend(), select);
    let row = conn.query_one_raw(statement).await.expect("an answer").expect("a row");
    conn.close().await.expect("closes");
    row.try_get_by_index(0).expect("a number")
}

/// How many scans of the vector's index the server has counted; it counts up to a second late.
async fn scans(data: &TestData) -> i64 {
    number(
        data,
        &format!("SELECT coalesce(max(idx_scan), -1) FROM pg_stat_user_indexes WHERE indexrelname = '{INDEX}'"),
    )
    .await
}

/// Different vectors in thousands, of any dimension.
fn scattered(n: usize, dimensions: usize) -> Embedding {
    let mut state = n as u64 + 1;
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    };
    Embedding::new((0..dimensions).map(|_| number()).collect(), dimensions).expect("a direction")
}

/// All of them, numbered from 1, the nearest first.
fn nearest(vectors: &[Embedding], query: &Embedding) -> Vec<(i64, f32)> {
    let cosine = |v: &Embedding| v.as_slice().iter().zip(query.as_slice()).map(|(a, b)| a * b).sum();
    let mut all: Vec<(i64, f32)> = vectors.iter().zip(1..).map(|(v, id)| (id, cosine(v))).collect();
    all.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_by_meaning_scans_the_index() {
    let data = TestData::postgres().await;
    let shelf = Shelf::of(data.clone(), "model-a", 8).await;
    let row = |n| Draft { embedding: Some(scattered(n, 8)), ..text("a row") };
    shelf.save_all((0..6_000).map(row).collect()).await;
    shelf.execute("ANALYZE recommendations").await;
    let before = scans(&data).await;
    assert!(before >= 0, "there is an index");
    let query = scattered(3, 8);
    let lighthouse = ["lighthouse".to_string()];
    for words in [&[][..], &lighthouse] {
        for viewer in [None, Some(owner())] {
            let found = shelf.find(Some(&query), 0.0, words, Scope { viewer, ..anyone(50) }).await;
            assert_eq!((found.by_meaning.len(), found.by_meaning[0].0), (50, 4));
        }
    }
    eventually("four scans of the index", async || (scans(&data).await >= before + 4).then_some(())).await;
}

/// With the index used where the planner, for so few rows, would do without it.
async fn through_the_index(data: &Arc<TestData>, dimensions: usize) -> Shelf {
    let mut settings = data.settings().database;
    settings.url = ServerUrl::new(format!("{}?options=-c%20enable_seqscan%3Doff", data.url()));
    let model = ModelSpec { id: "model-a".into(), dimensions };
    let db = Db::open(&settings, model).await.expect("the database opens");
    Shelf { db, data: data.clone() }
}

/// One row in a hundred is public, and none of those is near: a plain scan of the index, which looks at the
/// nearest only, would find none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_over_the_index_still_gives_k_of_k() {
    let data = TestData::postgres().await;
    let shelf = through_the_index(&data, DIMENSIONS).await;
    let row = |n: usize| match n % 100 {
        7 => near("a row", 0.1 + n as f32 / 20_000.0),
        _ => for_friends(near("a row", 0.4 + n as f32 / 10_000.0)),
    };
    let all = shelf.save_all((0..5_000).map(row).collect()).await;
    let public: Vec<i64> = all.into_iter().skip(7).step_by(100).rev().collect();
    let before = scans(&data).await;
    assert_eq!(ids(&shelf.by_meaning(0.0, anyone(20)).await), public[..20]);
    eventually("a scan of the index", async || (scans(&data).await > before).then_some(())).await;
}

/// The graph leads to about half of this group's fifty rows. What a scan of it lacks is found all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_no_path_of_the_index_leads_to_are_found() {
    let data = TestData::postgres().await;
    let shelf = through_the_index(&data, DIMENSIONS).await;
    let row = |n: usize| {
        let public = n % 100 == 7;
        let cosine = if public { 0.1 + n as f32 / 20_000.0 } else { 0.4 + n as f32 / 10_000.0 };
        let draft = Draft { embedding: Some(leaning(cosine, 1.0, n as f32 / 5_000.0)), ..text("a row") };
        if public { draft } else { for_friends(draft) }
    };
    let all = shelf.save_all((0..5_000).map(row).collect()).await;
    let public: Vec<i64> = all.into_iter().skip(7).step_by(100).rev().collect();
    let (before, scope) = (scans(&data).await, anyone(50));
    assert_eq!(ids(&shelf.by_meaning(0.0, scope).await), public);
    assert_eq!(ids(&shelf.by_meaning(0.0, Scope { k: 200, ..scope }).await), public);
    // The floor is no shortage.
    assert_eq!(shelf.by_meaning(0.34, scope).await.len(), 2);
    eventually("three scans of the index", async || (scans(&data).await >= before + 3).then_some(())).await;
}

/// Of 3,072 dimensions, the index holds half the precision; what is shown has all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vectors_of_3072_dimensions_are_found_through_an_index_of_half_precision() {
    let data = TestData::postgres().await;
    let shelf = through_the_index(&data, 3_072).await;
    let vectors: Vec<Embedding> = (0..300).map(|n| scattered(n, 3_072)).collect();
    shelf.save_all(vectors.iter().map(|v| Draft { embedding: Some(v.clone()), ..text("a row") }).collect()).await;
    let before = scans(&data).await;
    let query = scattered(1_000, 3_072);
    let found = shelf.find(Some(&query), -1.0, &[], anyone(20)).await;
    assert_cosines(&found.by_meaning, &nearest(&vectors, &query)[..20]);
    eventually("a scan of the index", async || (scans(&data).await > before).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_dimensions_than_an_index_takes_are_compared_one_by_one() {
    let data = TestData::postgres().await;
    let shelf = Shelf::of(data.clone(), "model-a", 4_096).await;
    let vectors: Vec<Embedding> = (0..50).map(|n| scattered(n, 4_096)).collect();
    shelf.save_all(vectors.iter().map(|v| Draft { embedding: Some(v.clone()), ..text("a row") }).collect()).await;
    let query = scattered(1_000, 4_096);
    let found = shelf.find(Some(&query), -1.0, &[], anyone(10)).await;
    assert_cosines(&found.by_meaning, &nearest(&vectors, &query)[..10]);
    assert_eq!(scans(&data).await, -1, "no such index");
}

/// A transaction of the server's each: a hybrid search costs no more of them than one by words alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hybrid_search_is_one_statement() {
    let by_words = transactions(None).await;
    let hybrid = transactions(Some(&east())).await;
    println!("{SEARCHES} searches by words: {by_words} transactions with all around them; hybrid: {hybrid}");
    assert!(by_words >= SEARCHES, "all of them are counted: {by_words}");
    assert!(hybrid < by_words + SEARCHES / 4, "{hybrid}, not {by_words}");
}

const SEARCHES: i64 = 200;

/// What the server has counted once the sessions of so many searches have ended.
async fn transactions(query: Option<&Embedding>) -> i64 {
    let (data, elsewhere) = (TestData::postgres().await, TestData::postgres().await);
    let shelf = Shelf::of(data.clone(), "model-a", DIMENSIONS).await;
    shelf.save_all((0..20).map(|_| near("lighthouse", 0.9)).collect()).await;
    for _ in 0..SEARCHES {
        let found = shelf.find(query, 0.0, &["lighthouse".into()], anyone(10)).await;
        assert_eq!((found.by_words.len(), found.by_meaning.is_empty()), (10, query.is_none()));
    }
    shelf.db.close().await;
    let name = data.name();
    let sessions = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'");
    eventually("the sessions end", async || (number(&elsewhere, &sessions).await == 0).then_some(())).await;
    number(&elsewhere, &format!("SELECT xact_commit FROM pg_stat_database WHERE datname = '{name}'")).await
}

/// No assertion on the clock: the ratio is printed (`--nocapture`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_of_every_row_is_ranked_within_bounds() {
    const ROWS: usize = 10_000;
    let data = TestData::postgres().await;
    let shelf = Shelf::of(data.clone(), "model-a", DIMENSIONS).await;
    let filler = "with a harbour, a library and two markets beside the river ".repeat(3);
    let row =
        |n: usize| text(&format!("common {} {filler}", if n.is_multiple_of(1_000) { "rare" } else { "other" }));
    shelf.save_all((0..ROWS).map(row).collect()).await;
    shelf.execute("ANALYZE recommendations; ANALYZE recommendation_words").await;
    let mut medians = Vec::new();
    for (word, found) in [("rare", 10), ("common", 50)] {
        let mut times = Vec::new();
        for _ in 0..30 {
            let started = Instant::now();
            assert_eq!(shelf.by_words(word, Match::All, anyone(50)).await.len(), found);
            times.push(started.elapsed());
        }
        times.sort_unstable();
        medians.push(times[15]);
    }
    let ratio = medians[1].as_secs_f64() / medians[0].as_secs_f64();
    println!("a word of 10 rows: {:?}; a word of {ROWS}: {:?}, {ratio:.1} times as long", medians[0], medians[1]);
}
