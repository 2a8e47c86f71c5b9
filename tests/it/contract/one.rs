//! `GET`, `PUT` and `DELETE /api/recommendations/{id}`.

use reqwest::Method;
use serde_json::{Value, json};

use super::{body, follow, list, names, path_of};
use crate::support::app::{TestApp, found_ids, user};

async fn change(app: &TestApp, id: i64, fields: Value) -> Value {
    app.put(&path_of(id), Some(user(1)), &fields).await.data(200).clone()
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let app = TestApp::start().await;
    for id in [1, i64::MAX] {
        let path = path_of(id);
        for answer in [
            app.get(&path, Some(user(1))).await,
            app.get(&format!("{path}/embedding"), Some(user(1))).await,
            app.put(&path, Some(user(1)), &json!({ "title": "x" })).await,
            app.delete(&path, Some(user(1))).await,
        ] {
            assert_eq!(answer.refusal(404), "recommendation not found");
            assert_eq!(answer.body["error"], "NOT_FOUND");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_change_leaves_absent_fields_as_they_are() {
    let app = TestApp::start().await;
    let id = app
        .save(&body(json!({
            "title": "T", "rating": 3, "labels": ["a"], "metadata": { "m": 1 }, "content_data": { "c": 1 },
            "visibility": "friends", "place_name": "Almada", "place_address": "Rua 1", "service_name": "Ana",
        })))
        .await;
    let before = list(&app, &path_of(id), Some(user(1))).await;
    let answer = change(&app, id, json!({ "title": "New" })).await;
    assert_eq!(names(&answer), ["embedding", "message", "place_id", "recommendation_id", "service_id", "success"]);
    let mut after = list(&app, &path_of(id), Some(user(1))).await;
    assert_eq!(after["title"], "New");
    for field in ["title", "updated_at"] {
        after[field] = before[field].clone();
    }
    assert_eq!(after, before);
    app.stop().await;
}

#[tokio::test]
async fn a_change_sets_every_field_and_null_clears_what_can_be_cleared() {
    let app = TestApp::start().await;
    let id = app.save(&body(json!({}))).await;
    let fields = json!({
        "content_type": "service", "title": "T", "description": "D", "content_data": { "c": 1 }, "labels": ["a"],
        "metadata": { "m": 1 }, "rating": 5, "visibility": "friends", "service_name": "Ana", "place_name": "Almada",
    });
    change(&app, id, fields.clone()).await;
    let read = list(&app, &path_of(id), Some(user(1))).await;
    for (field, value) in fields.as_object().unwrap() {
        assert_eq!(&read[field], value, "{field}");
    }
    let clear = json!({ "title": null, "content_data": null, "labels": null, "metadata": null, "rating": null });
    change(&app, id, clear.clone()).await;
    let read = list(&app, &path_of(id), Some(user(1))).await;
    assert_eq!(read["labels"], json!([]));
    for field in ["title", "content_data", "metadata", "rating"] {
        assert_eq!(read[field], Value::Null, "{field}");
    }
    assert_eq!(read["description"], "D");
    app.stop().await;
}

#[tokio::test]
async fn a_change_of_one_field_of_a_place_keeps_the_others() {
    let app = TestApp::start().await;
    let place = json!({
        "place_name": "Almada", "place_address": "Rua 1", "place_lat": 1.5, "place_lng": 2.5, "place_category": "bar",
    });
    let id = app.save(&body(place.clone())).await;
    for (field, value) in [("place_address", json!("Rua 2")), ("place_lat", json!(3.5)), ("place_name", json!("B"))]
    {
        let mut expected = list(&app, &path_of(id), None).await;
        change(&app, id, json!({ field: value })).await;
        let read = list(&app, &path_of(id), None).await;
        expected[field] = value;
        for field in place.as_object().unwrap().keys() {
            assert_eq!(read[field], expected[field], "{field}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_change_of_one_field_of_a_service_keeps_the_others() {
    let app = TestApp::start().await;
    let id = app.save(&body(json!({ "service_name": "Ana", "service_type": "plumber" }))).await;
    change(&app, id, json!({ "service_address": "Rua 2" })).await;
    change(&app, id, json!({ "service_business_name": "Canos" })).await;
    let read = list(&app, &path_of(id), None).await;
    assert_eq!(read["service_name"], "Ana");
    assert_eq!(read["service_type"], "plumber");
    assert_eq!(read["service_address"], "Rua 2");
    assert_eq!(read["service_business_name"], "Canos");
    app.stop().await;
}

#[tokio::test]
async fn another_name_by_a_change_renames_no_place_of_google() {
    let app = TestApp::start().await;
    let place = json!({ "google_place_id": "g1", "place_name": "Almada", "place_lat": 1.5 });
    let (mine, other) = (app.save(&body(place.clone())).await, app.save(&body(place)).await);
    change(&app, mine, json!({ "place_name": "Belém" })).await;
    let (mine, other) = (list(&app, &path_of(mine), None).await, list(&app, &path_of(other), None).await);
    assert_eq!(other["place_name"], "Almada");
    assert_eq!(mine["place_name"], "Belém");
    assert_eq!(mine.get("google_place_id"), None);
    app.stop().await;
}

#[tokio::test]
async fn a_change_of_what_is_embedded_makes_a_new_version() {
    let app = TestApp::start().await;
    let id = app.save_text("Silent reading room").await;
    app.embedding_is(id, "ready").await;
    assert_eq!(change(&app, id, json!({ "visibility": "friends" })).await["embedding"]["status"], "ready");
    assert_eq!(app.embedding(id).await["content_version"], 1);

    let changed = change(&app, id, json!({ "description": "Loud techno until sunrise" })).await;
    assert_eq!(changed["embedding"]["status"], "pending");
    let ready = app.embedding_is(id, "ready").await;
    assert_eq!((&ready["content_version"], &ready["embedded_version"]), (&json!(2), &json!(2)));
    app.stop().await;
}

#[tokio::test]
async fn only_the_owner_may_change_or_delete() {
    let app = TestApp::start().await;
    let public = app.save(&body(json!({}))).await;
    let friends = app.save(&body(json!({ "visibility": "friends" }))).await;
    follow(&app, 3, 1).await;
    let cases = [
        (public, None, 401, "NO_IDENTITY"),
        (friends, None, 401, "NO_IDENTITY"),
        (public, Some(user(2)), 403, "FORBIDDEN"),
        (friends, Some(user(2)), 404, "NOT_FOUND"),
        (friends, Some(user(3)), 403, "FORBIDDEN"),
    ];
    for (id, acting, status, error) in cases {
        for answer in [
            app.put(&path_of(id), acting, &json!({ "title": "Mine" })).await,
            app.delete(&path_of(id), acting).await,
        ] {
            answer.refusal(status);
            assert_eq!(answer.body["error"], error);
        }
    }
    for id in [public, friends] {
        assert_eq!(list(&app, &path_of(id), Some(user(1))).await["title"], Value::Null);
    }
    app.stop().await;
}

#[tokio::test]
async fn the_acting_user_of_a_change_may_stand_in_the_body() {
    let app = TestApp::start().await;
    let id = app.save(&body(json!({}))).await;
    let by = |n| json!({ "user_id": user(n), "title": "New" });
    app.put(&path_of(id), None, &by(2)).await.refusal(403);
    app.put(&path_of(id), None, &by(1)).await.data(200);
    // The header wins, and no change gives a recommendation away.
    app.put(&path_of(id), Some(user(1)), &by(2)).await.data(200);
    assert_eq!(list(&app, &path_of(id), None).await["user_id"], json!(user(1)));
    let request = app.request(Method::DELETE, &path_of(id)).json(&json!({ "user_id": user(1) }));
    app.send(request).await.data(200);
    app.stop().await;
}

#[tokio::test]
async fn what_is_deleted_is_gone_everywhere() {
    let app = TestApp::start().await;
    let id = app.save_text("A calm reading room").await;
    app.embedding_is(id, "ready").await;
    let deleted = app.delete(&path_of(id), Some(user(1))).await;
    assert_eq!(deleted.data(200), &json!({ "success": true, "recommendation_id": id }));
    app.get(&path_of(id), Some(user(1))).await.refusal(404);
    app.delete(&path_of(id), Some(user(1))).await.refusal(404);
    for mode in ["hybrid", "semantic", "keyword"] {
        let found = app.search(&json!({ "query": "calm reading room", "mode": mode })).await;
        assert_eq!(found_ids(&found), [0; 0], "{mode}");
    }
    let queue = app.queue().await;
    assert_eq!((&queue["queueLength"], &queue["recommendations"]), (&json!(0), &json!(0)));
    app.stop().await;
}
