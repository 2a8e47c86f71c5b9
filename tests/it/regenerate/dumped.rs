//! Beside a dump of the database, which holds each table against whoever would have it alone, to its end.

use std::time::Duration;

use sea_orm::{ConnectionTrait, TransactionTrait};
use serde_json::json;

use super::{begin, completed, fill};
use crate::promises::{DIMENSIONS, remote_over};
use crate::support::data::TestData;
use crate::support::provider::FakeProvider;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_begins_and_ends_and_nobody_waits() {
    let data = TestData::full().await;
    let provider = FakeProvider::start(DIMENSIONS).await;
    let app = remote_over(data.clone(), &provider, super::in_bulk).await;
    app.queue().await;
    fill(&data, 40, 40).await;
    completed(&app, begin(&app, &json!({})).await).await;
    let conn = data.connect().await;
    let dump = conn.begin().await.expect("begins");
    let hold = "LOCK TABLE recommendations, embedding_tasks, regenerations, regeneration_items, regeneration_texts \
                IN ACCESS SHARE MODE";
    dump.execute_unprepared(hold).await.expect("held");
    let job = tokio::time::timeout(Duration::from_secs(20), begin(&app, &json!({ "scope": "all" }))).await;
    let id = app.save_text("written beside the dump").await;
    app.embedding_is(id, "ready").await;
    completed(&app, job.expect("it begins")).await;
    dump.rollback().await.expect("ends");
    conn.close().await.expect("closes");
    app.stop().await;
}
