//! The service over adopted tables.

use serde_json::{Value, json};

use super::*;
use crate::support::app::{eventually, found_ids};
use crate::support::provider::Behaviour;

async fn adopted() -> (Old, FakeProvider, TestApp) {
    let old = Old::adopted().await;
    let provider = FakeProvider::start(DIMENSIONS).await;
    let app = old.serve(&provider).await;
    (old, provider, app)
}

/// Waits until the embedding of a row of user 1 is there.
async fn ready(app: &TestApp, id: i64) -> Value {
    eventually(&format!("{id} is ready"), async || {
        let state = app.get(&format!("/api/recommendations/{id}/embedding"), Some(user(1))).await;
        let state = state.data(200).clone();
        (state["status"] == "ready").then_some(state)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_vectors_are_found_at_once_and_missing_ones_are_made() {
    let old = Old::adopted().await;
    let provider = FakeProvider::start(DIMENSIONS).await;
    provider.when_contains("Description", Behaviour::Hold);
    let app = old.serve(&provider).await;
    // Of 65, without the two that are deleted, 23 have none.
    eventually("all that lack one are enqueued", async || {
        (old.one::<i64>("SELECT count(*) FROM embedding_tasks").await == 23).then_some(())
    })
    .await;
    let found =
        app.search(&json!({ "query": "anything", "mode": "semantic", "threshold": -1.0, "limit": 100 })).await;
    assert_eq!(found_ids(&found).len(), 20, "all public ones with a vector");
    let found = app.search(&json!({ "query": "deleted", "threshold": 0.99 })).await;
    assert!(found_ids(&found).is_empty(), "{found}");
    let found = app.search(&json!({ "query": "old number 44", "mode": "keyword" })).await;
    assert!(found_ids(&found).contains(&44), "and by words those without: {found}");
    provider.behave();
    provider.release();
    app.drained().await;
    let ready =
        "SELECT count(*) FROM recommendations WHERE embedded_version = content_version AND embedding IS NOT NULL";
    assert_eq!(old.one::<i64>(ready).await, 64, "all but the deleted one without");
    let documents: Vec<String> =
        provider.inputs().into_iter().filter(|text| text.contains("Description")).collect();
    assert_eq!(documents.len(), 23, "nothing that had a vector was paid for again");
    assert!(!documents.iter().any(|text| text.contains("deleted")));
    app.stop().await;
    // A second start finds everything done.
    let calls = provider.calls().len();
    let app = old.serve(&provider).await;
    app.drained().await;
    assert_eq!(provider.calls().len(), calls);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_rows_are_read_listed_changed_and_deleted() {
    let (old, _provider, app) = adopted().await;
    app.drained().await;
    let row = app.get("/api/recommendations/6", Some(user(1))).await;
    let row = row.data(200);
    assert_eq!((&row["labels"], &row["visibility"]), (&json!(["calm", "l'eau ☕"]), &json!("public")));
    assert_eq!(row["place_name"], "Biblioteca d'Água");
    // Visibility, labels and moments that nobody filled in.
    let row = app.get("/api/recommendations/7", Some(user(2))).await;
    assert_eq!((&row.data(200)["labels"], &row.data(200)["visibility"]), (&json!([]), &json!("friends")));
    assert!(row.data(200)["created_at"].is_string(), "{}", row.body);
    app.get("/api/recommendations/7", Some(user(3))).await.refusal(404);
    for deleted in [64, 65] {
        app.get(&format!("/api/recommendations/{deleted}"), Some(user(1))).await.refusal(404);
    }
    let list = app.get(&format!("/api/recommendations/user/{}?limit=100", user(1)), Some(user(1))).await;
    assert_eq!(list.data(200).as_array().expect("a list").len(), 63);
    assert_eq!(list.body["pagination"]["total"], 63);
    let tip = app.get("/api/recommendations/61", None).await;
    assert_eq!(tip.data(200)["content_type"], "tip");
    for path in ["/place/1", "/place/1/network-rating", "/place/google/gp-1", "/places/reviewed?limit=10"] {
        app.get(&format!("/api/recommendations{path}"), Some(user(1))).await.data(200);
    }

    // Changed at once, embedded soon.
    let change = json!({ "description": "a new text about herons" });
    for id in [3, 50, 61] {
        app.put(&format!("/api/recommendations/{id}"), Some(user(1)), &change).await.data(200);
        let state = ready(&app, id).await;
        assert_eq!((&state["model"], &state["content_version"]), (&json!(MODEL), &json!(2)));
    }
    let found = app.search(&json!({ "query": "herons", "mode": "keyword", "user_id": user(1) })).await;
    assert_eq!(found_ids(&found).len(), 3);

    // Deleted as the other program deletes: its picture still leans on the row.
    for id in [1, 41, 61] {
        app.delete(&format!("/api/recommendations/{id}"), Some(user(1))).await.data(200);
        app.get(&format!("/api/recommendations/{id}"), Some(user(1))).await.refusal(404);
        app.delete(&format!("/api/recommendations/{id}"), Some(user(1))).await.refusal(404);
    }
    let kept = "SELECT count(*) FROM recommendations WHERE deleted_at IS NOT NULL AND id IN (1, 41, 61)";
    assert_eq!(old.one::<i64>(kept).await, 3);
    assert_eq!(old.one::<i64>("SELECT count(*) FROM embedding_tasks").await, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_deletion_that_another_table_forbids_is_a_400() {
    let old = Old::new().await;
    old.does("ALTER TABLE recommendations DROP COLUMN deleted_at").await;
    old.migrate(&["--adopt-model", MODEL], 0).await;
    let provider = FakeProvider::start(DIMENSIONS).await;
    let app = old.serve(&provider).await;
    let refused = app.delete("/api/recommendations/1", Some(user(1))).await;
    assert!(refused.refusal(400).contains("media"), "{}", refused.body);
    app.delete("/api/recommendations/2", Some(user(1))).await.data(200);
    assert_eq!(old.one::<i64>("SELECT count(*) FROM recommendations WHERE id = 2").await, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_rows_go_into_the_old_tables() {
    let (old, _provider, app) = adopted().await;
    let saves = [
        json!({ "description": "quiet", "place_name": "Twice", "place_address": "Quay 2" }),
        json!({ "description": "loud", "google_place_id": "gp-1", "place_name": "Biblioteca d'Água" }),
        json!({ "description": "new", "google_place_id": "gp-9", "place_name": "New", "place_lat": 1.0, "place_lng": 2.0 }),
        json!({ "description": "quick", "service_name": "Ana", "service_type": "Plumber" }),
        json!({ "description": "nothing named", "visibility": "public", "labels": ["x"], "rating": 5 }),
    ];
    for mut body in saves {
        body["user_id"] = json!(user(1));
        let answer = app.post("/api/recommendations/save", &body).await;
        let id = answer.data(201)["recommendation_id"].as_i64().expect("an id");
        assert!(id > 65, "{}", answer.body);
        ready(&app, id).await;
    }
    assert_eq!(old.one::<i64>("SELECT count(*) FROM places").await, 4, "one is new, two were known");
    assert_eq!(old.one::<i64>("SELECT count(*) FROM services").await, 2);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_old_tables_do_not_allow_is_a_400_that_says_so() {
    let (old, _provider, app) = adopted().await;
    let before = old.one::<i64>("SELECT count(*) FROM recommendations").await;
    let body = |change: Value| {
        let mut body = json!({ "user_id": user(1), "description": "fine" });
        body.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        body
    };
    for (change, rule) in [
        (json!({ "user_id": user(9) }), "user_id"),
        (json!({ "service_name": "Berta" }), "can_be_reached"),
        (json!({ "content_type": "place" }), "place_has_its_place"),
        (json!({ "content_type": "service" }), "service_has_its_service"),
        (json!({ "content_type": "unclear", "place_name": "Somewhere" }), "place_has_its_place"),
        (json!({ "place_name": "Half", "place_lat": 1.0 }), "both_coordinates"),
        (json!({ "google_place_id": "no-name" }), "\"name\""),
        (json!({ "service_name": "Ana", "service_type": "x".repeat(101) }), "character varying(100)"),
        (json!({ "description": "THIS IS SHOUTING" }), "descriptions must not shout"),
    ] {
        let answer = app.post("/api/recommendations/save", &body(change)).await;
        assert!(answer.refusal(400).contains(rule), "{rule}: {}", answer.body);
    }
    let shout = json!({ "description": "THIS IS SHOUTING" });
    let answer = app.put("/api/recommendations/2", Some(user(1)), &shout).await;
    assert!(answer.refusal(400).contains("descriptions must not shout"), "{}", answer.body);
    let path = format!("/api/users/{}/following/{}", user(1), user(9));
    assert!(app.put(&path, Some(user(1)), &json!({})).await.refusal(400).contains("user"), "nobody to follow");
    assert_eq!(old.one::<i64>("SELECT count(*) FROM recommendations").await, before);

    // In an import, only the guilty lines are refused, and named.
    let lines =
        [json!({}), json!({ "description": "THIS IS SHOUTING" }), json!({ "content_type": "place" }), json!({})];
    let lines: Vec<String> = lines.into_iter().map(|line| body(line).to_string()).collect();
    let request = app.request(reqwest::Method::POST, "/api/recommendations/import").body(lines.join("\n"));
    let answer = app.send(request).await;
    let counts = answer.data(200);
    assert_eq!((&counts["imported"], &counts["refused"]), (&json!(2), &json!(2)));
    assert_eq!((&counts["errors"][0]["line"], &counts["errors"][1]["line"]), (&json!(2), &json!(3)));
    app.stop().await;
}
