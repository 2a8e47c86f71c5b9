//! The budget of a provider that all processes share.

use std::time::{Duration, Instant};

use mapx_embeddings::db::provider::{Cost, Settlement};
use mapx_embeddings::db::{Db, ModelSpec};

use crate::support::data::TestData;

const KEY: &str = "model@0";
const DOCUMENT: Cost = Cost { tokens: 100.0, query: false };
const QUERY: Cost = Cost { tokens: 100.0, query: true };

async fn open(data: &TestData) -> Db {
    let model = ModelSpec { id: "none".into(), dimensions: 2 };
    Db::open(&data.settings().database, model).await.expect("opens")
}

/// Two processes on PostgreSQL; SQLite has one.
async fn processes(data: &TestData) -> Vec<Db> {
    let first = open(data).await;
    let second = if data.is_postgres() { open(data).await } else { first.clone() };
    vec![first, second]
}

#[tokio::test]
async fn many_who_take_side_by_side_get_what_there_is_and_no_more() {
    const LIMIT: f64 = 40.0;
    let data = TestData::new().await;
    let processes = processes(&data).await;
    processes[0].declare_provider(KEY, LIMIT, 0.0, 1_000.0).await.unwrap();
    let (began, lasts) = (Instant::now(), Duration::from_millis(2_000));
    let takers = (0..16).map(|n| {
        let db = processes[n % 2].clone();
        tokio::spawn(async move {
            let mut taken = 0;
            while began.elapsed() < lasts {
                match db.take_budget(KEY, DOCUMENT).await.unwrap() {
                    None => taken += 1,
                    Some(ms) => tokio::time::sleep(Duration::from_secs_f64(ms.min(50.0) / 1e3)).await,
                }
            }
            taken
        })
    });
    let mut taken = 0;
    for taker in takers.collect::<Vec<_>>() {
        taken += taker.await.unwrap();
    }
    let most = LIMIT + LIMIT * began.elapsed().as_secs_f64() + 1.0;
    assert!(f64::from(taken) <= most, "{taken} of {most}");
    assert!(f64::from(taken) >= 0.8 * (LIMIT + LIMIT * lasts.as_secs_f64()), "{taken} of {most}");
}

#[tokio::test]
async fn requests_and_tokens_are_taken_together_or_not_at_all() {
    let data = TestData::new().await;
    let db = open(&data).await;
    db.declare_provider(KEY, 3.01, 250.0, 3_600_000.0).await.unwrap();
    assert_eq!(db.take_budget(KEY, DOCUMENT).await.unwrap(), None);
    assert_eq!(db.take_budget(KEY, DOCUMENT).await.unwrap(), None);
    let wait = db.take_budget(KEY, DOCUMENT).await.unwrap().expect("the tokens are used up");
    // Half of a call's tokens are missing: a fifth of an hour.
    assert!((700_000.0..=760_000.0).contains(&wait), "{wait}");
    let limits = db.provider_limits(KEY).await.unwrap().unwrap();
    assert_eq!((limits.requests_left.floor(), limits.tokens_left.floor()), (1.0, 50.0));
    // What wasn't used comes back, and is enough.
    db.settle_budget(KEY, Settlement { give_back: 60.0, ..Settlement::default() }).await.unwrap();
    assert_eq!(db.take_budget(KEY, DOCUMENT).await.unwrap(), None);
    assert!(db.take_budget(KEY, DOCUMENT).await.unwrap().is_some(), "and now the requests are, too");
}

#[tokio::test]
async fn documents_leave_something_to_queries_only_while_there_are_any() {
    let data = TestData::new().await;
    let db = open(&data).await;
    db.declare_provider(KEY, 3.01, 0.0, 3_600_000.0).await.unwrap();
    assert_eq!(db.take_budget(KEY, QUERY).await.unwrap(), None);
    assert_eq!(db.take_budget(KEY, DOCUMENT).await.unwrap(), None);
    assert!(db.take_budget(KEY, DOCUMENT).await.unwrap().is_some(), "the last is for a query");
    assert_eq!(db.take_budget(KEY, QUERY).await.unwrap(), None);
    assert!(db.take_budget(KEY, QUERY).await.unwrap().is_some());
    // Without queries documents have all of it.
    db.declare_provider("other", 2.01, 0.0, 3_600_000.0).await.unwrap();
    for _ in 0..2 {
        assert_eq!(db.take_budget("other", DOCUMENT).await.unwrap(), None);
    }
}

#[tokio::test]
async fn what_a_provider_says_becomes_the_limit() {
    let data = TestData::new().await;
    let db = open(&data).await;
    db.declare_provider(KEY, 0.0, 0.0, 3_600_000.0).await.unwrap();
    assert_eq!(db.take_budget(KEY, DOCUMENT).await.unwrap(), None, "nothing is known");
    let told = Settlement { requests: (Some(100.0), Some(1.1)), tokens: (Some(1_000.0), None), give_back: 0.0 };
    db.settle_budget(KEY, told).await.unwrap();
    let limits = db.provider_limits(KEY).await.unwrap().unwrap();
    assert_eq!((limits.requests_limit, limits.requests_left.floor()), (100.0, 1.0));
    assert_eq!((limits.tokens_limit, limits.tokens_left.floor()), (1_000.0, 1_000.0));
    assert_eq!(db.take_budget(KEY, DOCUMENT).await.unwrap(), None);
    assert!(db.take_budget(KEY, DOCUMENT).await.unwrap().is_some());
}

#[tokio::test]
async fn a_wait_that_one_was_told_holds_all_documents_and_no_query() {
    let data = TestData::new().await;
    let processes = processes(&data).await;
    processes[0].declare_provider(KEY, 100.0, 0.0, 60_000.0).await.unwrap();
    processes[0].block_provider(KEY, 30_000.0).await.unwrap();
    let wait = processes[1].take_budget(KEY, DOCUMENT).await.unwrap().expect("a wait");
    assert!((25_000.0..=30_000.0).contains(&wait), "{wait}");
    assert_eq!(processes[1].take_budget(KEY, QUERY).await.unwrap(), None);
    assert!(processes[1].provider_limits(KEY).await.unwrap().unwrap().waiting_until().is_some());
}
