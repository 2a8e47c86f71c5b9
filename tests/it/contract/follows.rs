//! Following, and what it lets one see.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{API, body, follow, ids, list, names_field, path_of, words};
use crate::support::app::{TestApp, found_ids, user};

fn following(follower: u128, followed: u128) -> String {
    format!("/api/users/{}/following/{}", user(follower), user(followed))
}

/// Where `viewer` finds the recommendation, of everywhere it could be shown.
async fn seen(app: &TestApp, viewer: Option<Uuid>, id: i64, place: i64) -> Vec<&'static str> {
    let mut seen = Vec::new();
    let mut note = |place, here: bool| seen.extend(here.then_some(place));
    note("itself", app.get(&path_of(id), viewer).await.status == 200);
    note("embedding", app.get(&format!("{}/embedding", path_of(id)), viewer).await.status == 200);
    note("user", ids(&list(app, &format!("{API}/user/{}", user(1)), viewer).await).contains(&id));
    note("place", ids(&list(app, &format!("{API}/place/{place}"), viewer).await).contains(&id));
    note("reviewed", ids(&list(app, &format!("{API}/places/reviewed"), viewer).await).contains(&place));
    for mode in ["hybrid", "semantic", "keyword"] {
        let search = json!({ "query": "coffee", "mode": mode, "threshold": -1, "user_id": viewer });
        note(mode, found_ids(&app.search(&search).await).contains(&id));
    }
    seen
}

const EVERYWHERE: [&str; 8] = ["itself", "embedding", "user", "place", "reviewed", "hybrid", "semantic", "keyword"];
const NOWHERE: [&str; 0] = [];

/// Saves at a place, with a vector, and returns the ids of both.
async fn save(app: &TestApp, visibility: &str) -> (i64, i64) {
    let fields = json!({ "visibility": visibility, "place_name": "Almada", "embedding": words::at(0.9) });
    let saved = app.post(super::SAVE, &body(fields)).await;
    let data = saved.data(201);
    (data["recommendation_id"].as_i64().unwrap(), data["place_id"].as_i64().unwrap())
}

#[tokio::test]
async fn what_is_for_friends_is_seen_by_followers_alone() {
    let app = words::app().await;
    let (id, place) = save(&app, "friends").await;
    follow(&app, 3, 1).await;
    // Being followed by the author opens nothing.
    follow(&app, 1, 4).await;
    assert_eq!(seen(&app, Some(user(1)), id, place).await, EVERYWHERE);
    assert_eq!(seen(&app, Some(user(3)), id, place).await, EVERYWHERE);
    for other in [None, Some(user(2)), Some(user(4))] {
        assert_eq!(seen(&app, other, id, place).await, NOWHERE, "{other:?}");
    }
    app.delete(&following(3, 1), Some(user(3))).await.data(200);
    assert_eq!(seen(&app, Some(user(3)), id, place).await, NOWHERE);
    app.stop().await;
}

#[tokio::test]
async fn a_change_of_the_visibility_holds_everywhere_at_once() {
    let app = words::app().await;
    let change = async |id, visibility: &str| {
        app.put(&path_of(id), Some(user(1)), &json!({ "visibility": visibility })).await.data(200);
    };
    let (id, place) = save(&app, "public").await;
    for anyone in [None, Some(user(1)), Some(user(2))] {
        assert_eq!(seen(&app, anyone, id, place).await, EVERYWHERE);
    }
    change(id, "friends").await;
    assert_eq!(seen(&app, Some(user(2)), id, place).await, NOWHERE);

    let (id, place) = save(&app, "friends").await;
    assert_eq!(seen(&app, Some(user(2)), id, place).await, NOWHERE);
    change(id, "public").await;
    assert_eq!(seen(&app, Some(user(2)), id, place).await, EVERYWHERE);
    app.stop().await;
}

#[tokio::test]
async fn a_list_counts_only_what_the_viewer_may_see() {
    let app = TestApp::start().await;
    app.save(&body(json!({ "visibility": "friends" }))).await;
    app.save(&body(json!({}))).await;
    let path = format!("{API}/user/{}", user(1));
    let total = async |viewer| app.get(&path, viewer).await.body["pagination"]["total"].clone();
    assert_eq!((total(Some(user(1))).await, total(None).await), (json!(2), json!(1)));
    app.stop().await;
}

#[tokio::test]
async fn following_twice_or_unfollowing_a_stranger_changes_nothing() {
    let app = TestApp::start().await;
    let expected = |following: bool| -> Value {
        json!({ "follower_id": user(1), "following_id": user(2), "following": following })
    };
    for _ in 0..2 {
        let answer = app.put(&following(1, 2), Some(user(1)), &json!({})).await;
        assert_eq!(answer.data(200), &expected(true));
    }
    for _ in 0..2 {
        assert_eq!(app.delete(&following(1, 2), Some(user(1))).await.data(200), &expected(false));
    }
    app.stop().await;
}

#[tokio::test]
async fn one_follows_for_oneself_and_not_oneself() {
    let app = TestApp::start().await;
    for answer in [
        app.put(&following(1, 2), Some(user(2)), &json!({})).await,
        app.delete(&following(1, 2), Some(user(2))).await,
    ] {
        answer.refusal(403);
    }
    names_field(&app.put(&following(1, 1), Some(user(1)), &json!({})).await, "other");
    app.stop().await;
}
