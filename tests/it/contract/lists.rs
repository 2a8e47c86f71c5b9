//! By user, by place, by Google's id, the network's rating, reviewed places.

use serde_json::{Value, json};

use super::{API, body, follow, ids, list, names, names_field, path_of};
use crate::support::app::{TestApp, user};

/// Saves for a place and returns the ids of the recommendation and of the place.
async fn at_place(app: &TestApp, by: u128, fields: Value) -> (i64, i64) {
    let mut sent = body(json!({ "user_id": user(by), "place_name": "Almada" }));
    sent.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let answer = app.post(super::SAVE, &sent).await;
    let data = answer.data(201);
    (data["recommendation_id"].as_i64().unwrap(), data["place_id"].as_i64().unwrap())
}

#[tokio::test]
async fn a_users_list_is_paged_newest_first() {
    let app = TestApp::start().await;
    let mut saved = Vec::new();
    for n in 0..5 {
        saved.push(app.save(&body(json!({ "title": n.to_string() }))).await);
    }
    app.save(&body(json!({ "user_id": user(2) }))).await;
    saved.reverse();
    let path = format!("{API}/user/{}", user(1));
    let page = async |query: &str| app.get(&format!("{path}{query}"), None).await;

    let all = page("").await;
    assert_eq!(ids(all.data(200)), saved);
    assert_eq!(names(&all.body), ["data", "message", "pagination", "success"]);
    assert_eq!(all.body["pagination"], json!({ "limit": 20, "offset": 0, "total": 5, "hasMore": false }));

    let middle = page("?limit=2&offset=1").await;
    assert_eq!(ids(middle.data(200)), saved[1..3]);
    assert_eq!(middle.body["pagination"], json!({ "limit": 2, "offset": 1, "total": 5, "hasMore": true }));
    assert_eq!(page("?limit=2&offset=3").await.body["pagination"]["hasMore"], false);

    let beyond = page("?limit=100&offset=9223372036854775807").await;
    assert_eq!(beyond.data(200), &json!([]));
    assert_eq!(page("?limit=&offset=").await.body["pagination"]["limit"], 20);
    app.stop().await;
}

#[tokio::test]
async fn a_listed_recommendation_has_mapxs_fields_and_its_place_when_it_has_one() {
    let app = TestApp::start().await;
    app.save(&body(json!({}))).await;
    let place = json!({ "place_address": "Rua 1", "place_lat": 1.5, "place_lng": 2.5 });
    let (with_place, place_id) = at_place(&app, 1, place).await;
    let data = list(&app, &format!("{API}/user/{}", user(1)), None).await;
    let common = [
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
        "visibility",
    ];
    assert_eq!(names(&data[1]), common);
    let place = ["place_address", "place_id", "place_lat", "place_lng", "place_name"];
    let mut all: Vec<&str> = common.into_iter().chain(place).collect();
    all.sort_unstable();
    assert_eq!(names(&data[0]), all);
    assert_eq!((&data[0]["id"], &data[0]["place_id"]), (&json!(with_place), &json!(place_id)));
    app.stop().await;
}

#[tokio::test]
async fn a_user_or_a_place_that_nobody_knows_has_an_empty_list() {
    let app = TestApp::start().await;
    let user_list = app.get(&format!("{API}/user/{}", user(7)), None).await;
    assert_eq!(user_list.data(200), &json!([]));
    assert_eq!(user_list.body["pagination"]["total"], 0);
    assert_eq!(list(&app, &format!("{API}/place/7"), None).await, json!([]));
    assert_eq!(list(&app, &format!("{API}/places/reviewed"), None).await, json!([]));
    app.stop().await;
}

#[tokio::test]
async fn a_places_list_is_newest_first_and_narrows_by_visibility() {
    let app = TestApp::start().await;
    let (public, place) = at_place(&app, 1, json!({})).await;
    let (friends, _) = at_place(&app, 1, json!({ "visibility": "friends" })).await;
    at_place(&app, 1, json!({ "place_name": "Elsewhere" })).await;
    let path = format!("{API}/place/{place}");
    let by = async |query: &str| ids(&list(&app, &format!("{path}{query}"), Some(user(1))).await);
    for all in ["", "?visibility=all", "?visibility="] {
        assert_eq!(by(all).await, [friends, public], "{all}");
    }
    assert_eq!(by("?visibility=public").await, [public]);
    assert_eq!(by("?visibility=friends").await, [friends]);
    assert_eq!(by("?limit=1").await, [friends]);
    let first = &list(&app, &path, Some(user(1))).await[0];
    assert_eq!((&first["user_name"], &first["user_id"]), (&Value::Null, &json!(user(1))));
    app.stop().await;
}

#[tokio::test]
async fn a_google_id_gives_the_place_or_null() {
    let app = TestApp::start().await;
    let fields = json!({ "google_place_id": "ChIJ é/1", "place_lat": 1.5, "place_category": "bar" });
    let (_, id) = at_place(&app, 1, fields).await;
    let place = list(&app, &format!("{API}/place/google/ChIJ%20%C3%A9%2F1"), None).await;
    assert_eq!(
        names(&place),
        [
            "address",
            "category_name",
            "created_at",
            "google_place_id",
            "id",
            "lat",
            "lng",
            "metadata",
            "name",
            "updated_at"
        ]
    );
    assert_eq!((&place["id"], &place["name"]), (&json!(id), &json!("Almada")));
    assert_eq!((&place["lat"], &place["category_name"]), (&json!(1.5), &json!("bar")));
    let unknown = app.get(&format!("{API}/place/google/nowhere"), None).await;
    assert_eq!(unknown.data(200), &Value::Null);
    app.stop().await;
}

#[tokio::test]
async fn the_network_rating_is_over_the_viewer_and_whom_it_follows() {
    let app = TestApp::start().await;
    let (_, place) = at_place(&app, 1, json!({ "rating": 5 })).await;
    at_place(&app, 2, json!({ "rating": 2, "visibility": "friends" })).await;
    at_place(&app, 3, json!({ "rating": 1 })).await;
    at_place(&app, 2, json!({})).await;
    follow(&app, 1, 2).await;
    let path = format!("{API}/place/{place}/network-rating");
    assert_eq!(list(&app, &path, Some(user(1))).await, json!({ "average_rating": 3.5, "rating_count": 2 }));
    assert_eq!(list(&app, &path, Some(user(2))).await, json!({ "average_rating": 2.0, "rating_count": 1 }));
    let nothing = json!({ "average_rating": null, "rating_count": 0 });
    assert_eq!(list(&app, &path, None).await, nothing);
    assert_eq!(list(&app, &format!("{API}/place/999/network-rating"), Some(user(1))).await, nothing);
    app.stop().await;
}

#[tokio::test]
async fn reviewed_places_tell_what_their_visible_recommendations_say() {
    let app = TestApp::start().await;
    let (_, almada) = at_place(&app, 1, json!({ "rating": 4 })).await;
    at_place(&app, 2, json!({ "rating": 1 })).await;
    at_place(&app, 2, json!({})).await;
    let (_, belem) = at_place(&app, 2, json!({ "place_name": "Belém", "visibility": "friends" })).await;
    let path = format!("{API}/places/reviewed");
    let public = app.get(&path, None).await;
    let places = public.data(200);
    assert_eq!(ids(places), [almada]);
    assert_eq!(
        names(&places[0]),
        [
            "address",
            "average_rating",
            "category_name",
            "created_at",
            "google_place_id",
            "id",
            "lat",
            "latest_review_date",
            "lng",
            "metadata",
            "name",
            "review_count",
            "updated_at"
        ]
    );
    assert_eq!((&places[0]["review_count"], &places[0]["average_rating"]), (&json!(3), &json!(2.5)));
    assert_eq!(public.body["pagination"], json!({ "limit": 20, "offset": 0, "total": 1, "hasMore": false }));

    let own = list(&app, &format!("{path}?visibility=all"), Some(user(2))).await;
    assert_eq!(ids(&own), [belem, almada]);
    assert_eq!(own[0]["average_rating"], Value::Null);
    assert_eq!(ids(&list(&app, &format!("{path}?visibility=friends"), Some(user(2))).await), [belem]);
    let page = app.get(&format!("{path}?limit=1&offset=1"), Some(user(2))).await;
    assert_eq!(ids(page.data(200)), [almada]);
    assert_eq!(page.body["pagination"]["total"], 2);
    app.stop().await;
}

#[tokio::test]
async fn parameters_out_of_range_are_refused_by_name() {
    let app = TestApp::start().await;
    let user_list = format!("{API}/user/{}", user(1));
    let limits = ["0", "101", "-1", "x", "1.5", "%00", "1e2", "99999999999999999999", "%FF", "1%20"];
    let offsets = ["-1", "x", "9223372036854775808", "99999999999999999999", "%00"];
    let (place, reviewed) = (format!("{API}/place/1"), format!("{API}/places/reviewed"));
    for path in [&user_list, &place, &reviewed] {
        for limit in limits {
            names_field(&app.get(&format!("{path}?limit={limit}"), None).await, "limit");
        }
        for offset in offsets {
            names_field(&app.get(&format!("{path}?offset={offset}"), None).await, "offset");
        }
    }
    for path in [&place, &reviewed] {
        for visibility in ["secret", "%00", "Public", "public%00", "1"] {
            names_field(&app.get(&format!("{path}?visibility={visibility}"), None).await, "visibility");
        }
    }
    for groups in ["1,2", "x", "%00"] {
        names_field(&app.get(&format!("{reviewed}?groupIds={groups}"), None).await, "groupIds");
    }
    list(&app, &format!("{reviewed}?groupIds="), None).await;
    app.stop().await;
}

#[tokio::test]
async fn ids_that_are_none_are_refused_by_name() {
    let app = TestApp::start().await;
    let numbers = [
        "abc",
        "0",
        "-1",
        "1.5",
        "1e3",
        "9223372036854775808",
        "-9223372036854775809",
        "%00",
        "1%00",
        "%20",
        "%zz",
        "%",
        "%EF%BC%91",
        "1;2",
        "null",
    ];
    for id in numbers {
        names_field(&app.get(&format!("{API}/{id}"), None).await, "id");
        names_field(&app.get(&format!("{API}/{id}/embedding"), None).await, "id");
        names_field(&app.put(&format!("{API}/{id}"), Some(user(1)), &json!({})).await, "id");
        names_field(&app.delete(&format!("{API}/{id}"), Some(user(1))).await, "id");
        names_field(&app.get(&format!("{API}/place/{id}"), None).await, "place_id");
        names_field(&app.get(&format!("{API}/place/{id}/network-rating"), None).await, "place_id");
    }
    for id in ["1", "%00", "me", "00000000-0000-0000-0000-00000000000g", "%zz", "null"] {
        names_field(&app.get(&format!("{API}/user/{id}"), None).await, "user_id");
        names_field(&app.put(&format!("/api/users/{id}/following/{}", user(1)), None, &json!({})).await, "id");
        names_field(&app.put(&format!("/api/users/{}/following/{id}", user(1)), None, &json!({})).await, "other");
        names_field(&app.delete(&format!("/api/users/{}/following/{id}", user(1)), None).await, "other");
    }
    names_field(&app.get(&format!("{API}/place/google/a%00b"), None).await, "google_place_id");
    for path in [path_of(1).replace('1', "%FF"), format!("{API}/place/google/%FF"), format!("{API}/user/%C3")] {
        names_field(&app.get(&path, None).await, "path");
    }
    app.stop().await;
}
