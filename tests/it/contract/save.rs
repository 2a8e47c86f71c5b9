//! `POST /api/recommendations/save`.

use chrono::DateTime;
use serde_json::{Value, json};

use super::{SAVE, body, list, names, path_of, words};
use crate::support::app::{TestApp, user};

#[tokio::test]
async fn a_save_answers_with_the_ids_of_what_it_made() {
    let app = TestApp::start().await;
    let plain = app.post(SAVE, &body(json!({}))).await;
    assert_eq!(names(&plain.body), ["data", "message", "success"]);
    assert_eq!(names(plain.data(201)), ["embedding", "message", "recommendation_id", "success"]);
    assert_eq!(plain.body["data"]["success"], true);
    assert_eq!(plain.body["data"]["embedding"], json!({ "status": "pending" }));

    let place = app.post(SAVE, &body(json!({ "place_name": "Almada" }))).await;
    assert_eq!(names(place.data(201)), ["embedding", "message", "place_id", "recommendation_id", "success"]);
    assert!(place.body["data"]["place_id"].as_i64().is_some_and(|id| id > 0));

    let service = app.post(SAVE, &body(json!({ "service_name": "Ana" }))).await;
    assert_eq!(names(service.data(201)), ["embedding", "message", "recommendation_id", "service_id", "success"]);
    assert!(service.body["data"]["service_id"].as_i64().is_some_and(|id| id > 0));
    app.stop().await;
}

#[tokio::test]
async fn what_is_saved_is_read_back_field_by_field() {
    let app = TestApp::start().await;
    let fields = json!({
        "content_type": "place", "title": "Tiles", "content_data": { "price": { "level": 2 } },
        "labels": ["blue", "old"], "metadata": { "visits": [1, 2.5, null, "ü", true] }, "rating": 4,
        "visibility": "friends", "google_place_id": "ChIJ-1", "place_name": "Azulejo", "place_address": "Rua 1",
        "place_lat": 38.7, "place_lng": -9.1, "place_category": "museum",
    });
    let mut sent = body(fields);
    sent["place_metadata"] = json!({ "wheelchair": true });
    let id = app.save(&sent).await;
    let read = list(&app, &path_of(id), Some(user(1))).await;
    sent.as_object_mut().unwrap().remove("place_metadata");
    for (field, value) in sent.as_object().unwrap() {
        assert_eq!(&read[field], value, "{field}");
    }
    assert_eq!(read["user_name"], Value::Null);
    assert_eq!(read["id"], id);
    for time in ["created_at", "updated_at"] {
        DateTime::parse_from_rfc3339(read[time].as_str().unwrap()).unwrap();
    }
    let place = list(&app, "/api/recommendations/place/google/ChIJ-1", None).await;
    assert_eq!(place["metadata"], json!({ "wheelchair": true }));
    app.stop().await;
}

#[tokio::test]
async fn a_service_is_read_back_field_by_field() {
    let app = TestApp::start().await;
    let sent = body(json!({
        "service_name": "Ana", "service_type": "plumber", "service_business_name": "Canos",
        "service_address": "Rua 2", "service_metadata": { "phone": "1" },
    }));
    let read = list(&app, &path_of(app.save(&sent).await), None).await;
    for field in ["service_name", "service_type", "service_business_name", "service_address"] {
        assert_eq!(read[field], sent[field], "{field}");
    }
    assert_eq!(read["content_type"], "service");
    assert!(read["service_id"].is_i64());
    app.stop().await;
}

#[tokio::test]
async fn the_content_type_is_inferred_when_it_is_absent() {
    let app = TestApp::start().await;
    let cases = [
        (json!({}), "unclear"),
        (json!({ "place_lat": 1, "place_lng": 1 }), "unclear"),
        (json!({ "google_place_id": "g" }), "place"),
        (json!({ "service_type": "plumber" }), "service"),
        (json!({ "place_name": "x", "content_type": "unclear" }), "unclear"),
        (json!({ "content_type": null }), "unclear"),
    ];
    for (fields, expected) in cases {
        let id = app.save(&body(fields.clone())).await;
        assert_eq!(list(&app, &path_of(id), None).await["content_type"], expected, "{fields}");
    }
    app.stop().await;
}

#[tokio::test]
async fn the_acting_user_is_the_header_else_the_body() {
    let app = TestApp::start().await;
    let by_body = app.save(&body(json!({}))).await;
    assert_eq!(list(&app, &path_of(by_body), None).await["user_id"], json!(user(1)));

    let request = app.request(reqwest::Method::POST, SAVE).header("x-user-id", user(2).to_string());
    let by_header = app.send(request.json(&body(json!({})))).await;
    let id = by_header.data(201)["recommendation_id"].as_i64().unwrap();
    assert_eq!(list(&app, &path_of(id), None).await["user_id"], json!(user(2)));

    let nobody = app.post(SAVE, &json!({ "description": "x" })).await;
    super::names_field(&nobody, "user_id");
    app.stop().await;
}

#[tokio::test]
async fn null_counts_as_absent_and_unknown_fields_are_left_alone() {
    let app = TestApp::start().await;
    let id = app
        .save(&body(json!({
            "title": null, "rating": null, "labels": null, "metadata": null, "visibility": null, "embedding": null,
            "place_name": null, "priority": null, "service_phone": "1", "went_with": ["Ana"], "anything": { "a": 1 },
        })))
        .await;
    let read = list(&app, &path_of(id), Some(user(1))).await;
    assert_eq!(
        names(&read),
        [
            "content_data",
            "content_type",
            "created_at",
            "description",
            "id",
            "labels",
            "metadata",
            "rating",
            "title",
            "updated_at",
            "user_id",
            "user_name",
            "visibility"
        ]
    );
    assert_eq!(read["labels"], json!([]));
    assert_eq!(read["rating"], Value::Null);
    app.stop().await;
}

#[tokio::test]
async fn a_place_or_a_service_that_is_known_is_found_again() {
    let app = TestApp::start().await;
    let place_of = async |fields| app.post(SAVE, &body(fields)).await.data(201)["place_id"].clone();
    let by_google = place_of(json!({ "google_place_id": "g1", "place_name": "A" })).await;
    assert_eq!(place_of(json!({ "google_place_id": "g1" })).await, by_google);
    let by_name = place_of(json!({ "place_name": "A", "place_address": "Rua 1" })).await;
    assert_ne!(by_name, by_google);
    assert_eq!(place_of(json!({ "place_name": "A", "place_address": "Rua 1" })).await, by_name);
    assert_ne!(place_of(json!({ "place_name": "A", "place_address": "Rua 2" })).await, by_name);

    let service_of = async |fields| app.post(SAVE, &body(fields)).await.data(201)["service_id"].clone();
    let service = service_of(json!({ "service_name": "Ana", "service_type": "plumber" })).await;
    assert_eq!(service_of(json!({ "service_name": "Ana", "service_type": "plumber" })).await, service);
    assert_ne!(service_of(json!({ "service_name": "Ana" })).await, service);
    app.stop().await;
}

#[tokio::test]
async fn a_ready_vector_is_stored_at_once_and_makes_no_task() {
    let app = words::app().await;
    let saved = app.post(SAVE, &body(json!({ "embedding": words::at(0.9) }))).await;
    assert_eq!(saved.data(201)["embedding"]["status"], "ready");
    let id = saved.body["data"]["recommendation_id"].as_i64().unwrap();
    assert_eq!(app.embedding(id).await["status"], "ready");
    assert_eq!(app.queue().await["queueLength"], 0);
    let found = app.search(&json!({ "query": "anything", "mode": "semantic" })).await;
    assert_eq!(found["total_recommendations"], 1);
    app.stop().await;
}

#[tokio::test]
async fn texts_at_their_limit_are_kept_whole() {
    let app = TestApp::start().await;
    let long = "é".repeat(100_000);
    let id = app.save(&body(json!({ "description": long, "title": "ß".repeat(1_000) }))).await;
    let read = list(&app, &path_of(id), None).await;
    assert_eq!(read["description"], json!(long));
    assert_eq!(read["title"].as_str().unwrap().chars().count(), 1_000);
    app.stop().await;
}

#[tokio::test]
async fn nothing_is_public_that_nobody_called_so() {
    let app = TestApp::start().await;
    let id = app.save(&json!({ "user_id": user(1), "description": "Good coffee" })).await;
    app.get(&path_of(id), None).await.refusal(404);
    assert_eq!(app.get(&path_of(id), Some(user(1))).await.data(200)["visibility"], "friends");
    app.stop().await;
}
