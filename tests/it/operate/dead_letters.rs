//! Looking at dead letters.

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, Statement};
use serde_json::{Value, json};

use super::{dead_lettered, get, ids, import, service};
use crate::support::app::{TestApp, eventually, user};
use crate::support::data::TestData;
use crate::support::provider::Behaviour;

fn moment(value: &Value) -> DateTime<Utc> {
    value.as_str().expect("a moment").parse().expect("RFC 3339")
}

async fn attempts_stored(data: &TestData) -> i64 {
    let conn = data.connect().await;
    let count = Statement::from_string(conn.get_database_backend(), "SELECT count(*) FROM embedding_attempts");
    let row = conn.query_one_raw(count).await.expect("the count").expect("a row");
    conn.close().await.expect("closes");
    row.try_get_by_index(0).expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tells_every_attempt_when_why_and_by_whom() {
    let (provider, app, _broker) = service(|settings| settings.queue.max_retries = 2).await;
    provider.when_contains("unlucky", Behaviour::status(500, "down"));
    let before = Utc::now();
    let id = app.save_text("unlucky").await;
    dead_lettered(&app, 1).await;
    let one = get(&app, &format!("dead-letters/{id}")).await;
    let worker = app.queue().await["workers"][0]["id"].clone();
    let history = one["history"].as_array().expect("attempts");
    assert_eq!(history.len(), 3, "{one}");
    for (n, attempt) in history.iter().enumerate() {
        assert_eq!((&attempt["attempt"], &attempt["class"]), (&json!(n + 1), &json!("transient")));
        assert_eq!(attempt["worker"], worker);
        assert!(attempt["error"].as_str().expect("an error").contains("answered 500"), "{attempt}");
        assert!(attempt["duration_ms"].as_i64().expect("a time") >= 0);
        assert!(moment(&attempt["at"]) >= before - chrono::Duration::milliseconds(1));
    }
    assert!(history.windows(2).all(|pair| moment(&pair[0]["at"]) < moment(&pair[1]["at"])), "{one}");
    assert_eq!((&one["attempts"], &one["lane"]), (&json!(3), &json!("normal")));
    assert_eq!((&one["excerpt"], &one["content_version"]), (&json!("unlucky"), &json!(1)));

    // What has succeeded has no history; nor has one that was never tried.
    assert_eq!(attempts_stored(&app.data()).await, 3);
    let edit = json!({ "description": "lucky" });
    app.put(&format!("/api/recommendations/{id}"), Some(user(1)), &edit).await.data(200);
    app.embedding_is(id, "ready").await;
    let data = app.data();
    eventually("they are forgotten", async || (attempts_stored(&data).await == 0).then_some(())).await;
    assert_eq!(
        app.get(&super::at(&format!("dead-letters/{id}")), None).await.refusal(404),
        "dead letter not found"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_are_grouped_by_error_whatever_ids_are_in_it() {
    let (provider, app, _broker) = service(|settings| settings.queue.max_retries = 0).await;
    for n in 0..5 {
        let told = format!("input {n} of document 77{n} is too long");
        provider.when_contains(&format!("long {n}"), Behaviour::status(400, &told));
        app.save_text(&format!("long {n}")).await;
    }
    let poison = app.save_text("poison").await;
    dead_lettered(&app, 6).await;
    let groups = get(&app, "dead-letters/groups").await;
    assert_eq!(groups["total"], 6);
    let groups = groups["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), 2, "{groups:?}");
    assert_eq!(groups[0]["count"], 5);
    let error = groups[0]["error"].as_str().expect("an error");
    assert!(error.contains("400") && error.contains("input # of document # is too long"), "{error}");
    assert!(moment(&groups[0]["first_seen"]) <= moment(&groups[0]["last_seen"]));
    assert_eq!((&groups[1]["count"], &groups[1]["example_id"]), (&json!(1), &json!(poison)));
    // A group's name is a filter for what is in it.
    let name: String = url::form_urlencoded::byte_serialize(error.as_bytes()).collect();
    assert_eq!(ids(&get(&app, &format!("dead-letters?error={name}")).await["items"]).len(), 5);
    app.stop().await;
}

/// The ids on all pages of two.
async fn paged(app: &TestApp, filter: &str) -> Vec<i64> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(app, &format!("dead-letters?limit=2&cursor={cursor}&{filter}")).await;
        let items = ids(&page["items"]);
        assert!((1..=2).contains(&items.len()), "{page}");
        all.extend(items);
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return all,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_come_in_pages_and_by_error_age_and_lane() {
    let (_provider, app, _broker) = service(|_| {}).await;
    import(&app, (0..4).map(|n| format!("poison number {n}"))).await;
    dead_lettered(&app, 4).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let between = Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let last = app.save_text("poison in haste").await;
    dead_lettered(&app, 5).await;

    let all = paged(&app, "").await;
    assert_eq!((all.len(), all[0]), (5, last));
    let mut sorted = all.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), 5, "{all:?}");
    assert_eq!(paged(&app, "lane=normal").await, [last]);
    assert_eq!(paged(&app, "lane=low&error=NO").await, all[1..]);
    assert_eq!(paged(&app, &format!("older_than={between}")).await, all[1..]);
    assert_eq!(paged(&app, &format!("newer_than={between}")).await, [last]);
    assert_eq!(paged(&app, "newer_than=1h").await, all);
    assert_eq!(get(&app, "dead-letters?older_than=1h").await["items"], json!([]));
    let item = &get(&app, "dead-letters?limit=1").await["items"][0];
    assert_eq!((&item["excerpt"], &item["attempts"]), (&json!("poison in haste"), &json!(1)));
    assert!(item["error"].as_str().expect("an error").contains("answered 400"), "{item}");
    app.stop().await;
}
