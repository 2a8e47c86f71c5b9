//! A dry run changes nothing and says what the run then takes.

use mapx_embeddings::config::Settings;
use serde_json::{Value, json};

use super::{JOBS, begin, completed, fill, in_bulk, remote};
use crate::support::app::TestApp;
use crate::support::stored;

async fn dry(app: &TestApp, scope: &str) -> Value {
    app.post(JOBS, &json!({ "scope": scope, "dry_run": true })).await.data(200).clone()
}

fn priced(settings: &mut Settings) {
    in_bulk(settings);
    settings.embedder.price_per_million_tokens = 2.0;
}

#[tokio::test]
async fn a_dry_run_says_what_the_run_then_takes() {
    let (provider, app) = remote(priced).await;
    fill(&app.data(), 300, 120).await;
    for scope in ["missing", "all"] {
        let before = app.queue().await["provider"]["usage"]["total"].clone();
        let told = dry(&app, scope).await;
        assert_eq!((&told["dry_run"], &told["exact"], &told["rows"]), (&json!(true), &json!(true), &json!(300)));
        assert_eq!(stored::tasks(&app.data(), "%").await, 0, "a dry run did something");
        let calls = provider.inputs().len();
        completed(&app, begin(&app, &json!({ "scope": scope })).await).await;
        assert_eq!(told["distinct_texts"], json!(provider.inputs().len() - calls));
        let number = |usage: &Value, field: &str| usage[field].as_f64().expect("a number");
        let used = crate::support::app::eventually("the usage is noted", async || {
            let after = app.queue().await["provider"]["usage"]["total"].clone();
            let tokens = number(&after, "tokens") - number(&before, "tokens");
            (tokens >= number(&told, "tokens")).then_some(after)
        })
        .await;
        assert_eq!(number(&used, "tokens") - number(&before, "tokens"), number(&told, "tokens"));
        let cost = number(&used, "cost") - number(&before, "cost");
        assert!((cost - number(&told, "estimated_cost_usd")).abs() < 1e-9, "{told} {used}");
    }
    // By now there is a pace to go by.
    let told = dry(&app, "all").await;
    assert_eq!(told["time_basis"], "last_regeneration");
    assert!(told["estimated_seconds"].as_f64() > Some(0.0), "{told}");
    app.stop().await;
}

#[tokio::test]
async fn kept_vectors_cost_nothing_and_are_told() {
    let (provider, app) = remote(priced).await;
    fill(&app.data(), 20, 10).await;
    completed(&app, begin(&app, &json!({})).await).await;
    // The vectors go; what was paid for is kept.
    let forget = "UPDATE recommendations SET embedding = NULL, embedded_version = NULL, embedded_hash = NULL, embedding_model = NULL";
    super::does(&app.data(), forget).await;
    let told = dry(&app, "missing").await;
    let (texts, cached) = (&told["distinct_texts"], &told["cached_texts"]);
    if app.data().is_postgres() {
        // Another program's session: a trigger has given each row a task, so none is missing.
        assert_eq!((&told["rows"], texts), (&json!(0), &json!(0)));
    } else {
        assert_eq!((&told["rows"], texts, cached, &told["tokens"]), (&json!(20), &json!(0), &json!(10), &json!(0)));
        completed(&app, begin(&app, &json!({})).await).await;
    }
    assert_eq!(provider.inputs().len(), 10);
    app.stop().await;
}

#[tokio::test]
async fn of_a_large_table_a_sample_is_looked_at() {
    let (_provider, app) = remote(priced).await;
    fill(&app.data(), 25_000, 25_000).await;
    let told = dry(&app, "missing").await;
    assert_eq!((&told["exact"], &told["rows"]), (&json!(false), &json!(25_000)));
    let sampled = told["sampled_rows"].as_u64().expect("a number");
    assert!((15_000..=20_000).contains(&sampled), "{told}");
    assert_eq!(told["distinct_texts"], 25_000);
    // "Type: unclear. Description: A place, number 12345": the tokens are bytes here.
    let tokens = told["tokens"].as_f64().expect("a number");
    let exact: usize = (0..25_000).map(|n| format!("Type: unclear. Description: A place, number {n}").len()).sum();
    assert!((tokens - exact as f64).abs() < exact as f64 * 0.01, "{tokens} for {exact}");
    app.stop().await;
}

#[tokio::test]
async fn what_is_not_known_is_null_and_what_costs_nothing_is_0() {
    let (_provider, app) = remote(in_bulk).await;
    fill(&app.data(), 2, 2).await;
    let told = dry(&app, "missing").await;
    assert_eq!((&told["estimated_cost_usd"], &told["estimated_seconds"]), (&json!(null), &json!(null)));
    assert_eq!(told["time_basis"], "unknown");
    app.stop().await;
    let app = TestApp::start().await;
    assert_eq!(dry(&app, "all").await["estimated_cost_usd"], 0.0);
    app.stop().await;
}
