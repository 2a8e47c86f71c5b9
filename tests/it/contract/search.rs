//! `POST /api/recommendations/search`.

use serde_json::{Value, json};

use super::{body, names, path_of, words};
use crate::support::app::{TestApp, found_ids, user};

async fn save(app: &TestApp, cosine: f64, fields: Value) -> i64 {
    let mut sent = body(json!({ "embedding": words::at(cosine) }));
    sent.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    app.save(&sent).await
}

async fn semantic(app: &TestApp, more: Value) -> Value {
    let mut search = json!({ "query": "anything", "mode": "semantic", "threshold": 0.1 });
    search.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    app.search(&search).await
}

fn close(value: &Value, expected: f64) {
    assert!((value.as_f64().unwrap() - expected).abs() < 1e-4, "{value} should be {expected}");
}

/// A place with cosines 0.9 and 0.5, a service with 0.8, and two without either.
async fn three_groups() -> (TestApp, [i64; 5]) {
    let app = words::app().await;
    let place = json!({
        "google_place_id": "g1", "place_name": "Almada", "place_address": "Rua 1", "place_lat": 1.5,
        "place_lng": 2.5, "title": "T", "content_data": { "c": 1 }, "rating": 4, "labels": ["a"],
        "metadata": { "m": 1 },
    });
    let service = json!({
        "service_name": "Ana", "service_type": "plumber", "service_business_name": "Canos",
        "service_address": "Rua 2",
    });
    let ids = [
        save(&app, 0.5, place.clone()).await,
        save(&app, 0.9, place).await,
        save(&app, 0.8, service).await,
        save(&app, 0.6, json!({})).await,
        // Said to be a place, but of none that is named.
        save(&app, 0.3, json!({ "content_type": "place" })).await,
    ];
    (app, ids)
}

#[tokio::test]
async fn groups_come_by_falling_average_and_hits_by_falling_similarity() {
    let (app, ids) = three_groups().await;
    let found = semantic(&app, json!({})).await;
    let groups = found["results"].as_array().unwrap();
    let kinds: Vec<&str> = groups.iter().map(|group| group["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["service", "place", "content_type", "content_type"]);
    for (group, average) in groups.iter().zip([0.8, 0.7, 0.6, 0.3]) {
        close(&group["average_similarity"], average);
        assert_eq!(group["total_recommendations"], group["recommendations"].as_array().unwrap().len());
    }
    assert_eq!(found_ids(&found), [ids[2], ids[1], ids[0], ids[3], ids[4]]);
    close(&groups[1]["recommendations"][0]["similarity"], 0.9);
    assert_eq!((&groups[2]["content_type"], &groups[3]["content_type"]), (&json!("unclear"), &json!("place")));
    app.stop().await;
}

#[tokio::test]
async fn the_answer_has_mapxs_shape() {
    let (app, _) = three_groups().await;
    let found = semantic(&app, json!({ "limit": 50 })).await;
    assert_eq!(
        names(&found),
        [
            "qna",
            "query",
            "results",
            "search_metadata",
            "summary",
            "total_groups",
            "total_places",
            "total_recommendations"
        ]
    );
    assert_eq!((&found["query"], &found["summary"]), (&json!("anything"), &json!("")));
    assert_eq!(found["qna"], json!({ "questions": [], "answers": [] }));
    assert_eq!((&found["total_groups"], &found["total_places"]), (&json!(4), &json!(1)));
    assert_eq!(found["total_recommendations"], 5);
    let mut metadata = found["search_metadata"].clone();
    assert!(metadata["took_ms"].as_f64().is_some_and(|ms| ms >= 0.0));
    metadata["took_ms"] = json!(1);
    close(&metadata["threshold"], 0.1);
    metadata["threshold"] = json!(1);
    let expected = json!({
        "threshold": 1, "limit": 50, "query_processed": true, "mode": "semantic", "degraded": false, "reason": null,
        "took_ms": 1, "pending_embeddings": 0,
    });
    assert_eq!(metadata, expected);
    app.stop().await;
}

#[tokio::test]
async fn a_group_has_the_fields_of_its_kind() {
    let (app, ids) = three_groups().await;
    let found = semantic(&app, json!({})).await;
    let [service, place, neither] = [0, 1, 2].map(|n| found["results"][n].clone());
    let common = ["average_similarity", "recommendations", "total_recommendations", "type"];
    let with = |own: &[&'static str]| {
        let mut all = [&common[..], own].concat();
        all.sort_unstable();
        all
    };
    let of_place = ["google_place_id", "place_address", "place_id", "place_lat", "place_lng", "place_name"];
    assert_eq!(names(&place), with(&of_place));
    assert_eq!((&place["google_place_id"], &place["place_lat"]), (&json!("g1"), &json!(1.5)));
    let of_service = ["service_address", "service_business_name", "service_id", "service_name", "service_type"];
    assert_eq!(names(&service), with(&of_service));
    assert_eq!((&service["service_name"], &service["service_type"]), (&json!("Ana"), &json!("plumber")));
    assert_eq!(names(&neither), with(&["content_type"]));

    let hit = &place["recommendations"][0];
    assert_eq!(
        names(hit),
        [
            "content_data",
            "content_type",
            "created_at",
            "description",
            "labels",
            "metadata",
            "rating",
            "recommendation_id",
            "similarity",
            "title",
            "user_name"
        ]
    );
    let shown = json!({
        "recommendation_id": ids[1], "content_type": "place", "title": "T", "description": "Good coffee",
        "content_data": { "c": 1 }, "user_name": null, "rating": 4, "labels": ["a"], "metadata": { "m": 1 },
    });
    for (field, value) in shown.as_object().unwrap() {
        assert_eq!(&hit[field], value, "{field}");
    }
    app.stop().await;
}

#[tokio::test]
async fn the_threshold_and_the_limit_cut() {
    let (app, ids) = three_groups().await;
    assert_eq!(found_ids(&semantic(&app, json!({ "threshold": 0.55 })).await), [ids[1], ids[2], ids[3]]);
    assert_eq!(found_ids(&semantic(&app, json!({ "threshold": 1 })).await), [0; 0]);
    let two = semantic(&app, json!({ "limit": 2 })).await;
    assert_eq!(found_ids(&two), [ids[1], ids[2]]);
    assert_eq!((&two["total_recommendations"], &two["search_metadata"]["limit"]), (&json!(2), &json!(2)));
    let by_default = app.search(&json!({ "query": "anything", "mode": "semantic" })).await;
    close(&by_default["search_metadata"]["threshold"], 0.7);
    assert_eq!(found_ids(&by_default), [ids[1], ids[2]]);
    app.stop().await;
}

#[tokio::test]
async fn the_content_type_narrows_every_mode() {
    let (app, ids) = three_groups().await;
    for mode in ["hybrid", "semantic", "keyword"] {
        for (kind, id) in [("service", ids[2]), ("unclear", ids[3])] {
            let search = json!({ "query": "coffee", "mode": mode, "content_type": kind, "threshold": 0.1 });
            assert_eq!(found_ids(&app.search(&search).await), [id], "{mode} {kind}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn each_mode_finds_in_its_own_way_and_says_so() {
    let app = words::app().await;
    let by_meaning = save(&app, 0.9, json!({ "description": "Nothing alike" })).await;
    let by_words = save(&app, 0.2, json!({ "description": "A reading room" })).await;
    let find = async |mode: Value| {
        let found = app.search(&json!({ "query": "reading room", "mode": mode, "threshold": 0.5 })).await;
        let mut ids = found_ids(&found);
        ids.sort_unstable();
        (ids, found["search_metadata"]["mode"].as_str().unwrap().to_owned())
    };
    assert_eq!(find(json!("semantic")).await, (vec![by_meaning], "semantic".into()));
    assert_eq!(find(json!("keyword")).await, (vec![by_words], "keyword".into()));
    assert_eq!(find(json!("hybrid")).await, (vec![by_meaning, by_words], "hybrid".into()));
    assert_eq!(find(Value::Null).await, (vec![by_meaning, by_words], "hybrid".into()));
    app.stop().await;
}

#[tokio::test]
async fn without_the_provider_keywords_answer_and_say_degraded() {
    let app = words::app().await;
    let id = save(&app, 0.9, json!({ "description": "Far away from it all" })).await;
    for mode in ["hybrid", "semantic"] {
        let found = app.search(&json!({ "query": "far away", "mode": mode })).await;
        assert_eq!(found_ids(&found), [id], "{mode}");
        let metadata = &found["search_metadata"];
        assert_eq!((&metadata["mode"], &metadata["degraded"]), (&json!("keyword"), &json!(true)));
        assert_eq!(metadata["reason"], "the provider is away");
    }
    let asked = app.search(&json!({ "query": "far away", "mode": "keyword" })).await;
    assert_eq!(asked["search_metadata"]["degraded"], false);
    app.stop().await;
}

#[tokio::test]
async fn what_is_not_embedded_yet_is_found_by_its_words_and_counted() {
    let app = words::app().await;
    let id = app.save(&body(json!({ "description": "A stuck window" }))).await;
    let found = app.search(&json!({ "query": "window", "threshold": 0.5 })).await;
    assert_eq!(found_ids(&found), [id]);
    close(&found["results"][0]["recommendations"][0]["similarity"], 0.5);
    assert_eq!(found["search_metadata"]["pending_embeddings"], 1);
}

#[tokio::test]
async fn no_syntax_of_a_query_means_anything_to_the_keyword_index() {
    let app = TestApp::start().await;
    let id = app.save_text("Crème brûlée at the \"Café\"").await;
    app.embedding_is(id, "ready").await;
    let odd = [
        "\"",
        "\"\"",
        "*",
        "caf*",
        "NEAR(",
        "NEAR(a b, 2)",
        "title:x",
        "col:",
        "a AND",
        "OR",
        "NOT",
        "^a",
        "{a b}:c",
        "-a",
        "+",
        "(",
        ")",
        "a\"b",
        "\\",
        "%",
        "_",
        "'; DROP TABLE recommendations; --",
        "🎉",
        "🎉🎉🎉",
        "👩‍👩‍👧‍👦",
        "…",
        "ा",
        "① ²",
        "\u{301}",
        "İ",
        "\u{200b}",
        "\u{feff}",
        "\u{fffd}",
        "日本語",
        "العربية",
        "ﬁ",
        "$1",
        "?1",
        ":a",
        "@a",
        "NULL",
        "recommendations_fts",
        "rank",
        "\u{1}\u{2}",
        "a\nb\r\nc\td",
    ];
    for query in odd {
        for mode in ["hybrid", "semantic", "keyword"] {
            let found = app.search(&json!({ "query": query, "mode": mode })).await;
            assert_eq!(found["query"], query.trim(), "{mode}");
        }
    }
    for query in ["creme BRULEE", "café\"", "\"café\" AND", "title:creme"] {
        let found = app.search(&json!({ "query": query, "mode": "keyword" })).await;
        assert_eq!(found_ids(&found), [id], "{query}");
    }
    app.stop().await;
}

#[tokio::test]
async fn who_searches_may_stand_in_the_body_and_the_header_wins() {
    let app = words::app().await;
    let id = save(&app, 0.9, json!({ "visibility": "friends" })).await;
    assert_eq!(found_ids(&semantic(&app, json!({ "user_id": user(1) })).await), [id]);
    let search = json!({ "query": "coffee", "user_id": user(1) });
    let request = app.request(reqwest::Method::POST, super::SEARCH).header("x-user-id", user(2).to_string());
    assert_eq!(found_ids(app.send(request.json(&search)).await.data(200)), [0; 0]);
    app.stop().await;
}

#[tokio::test]
async fn the_deepest_metadata_that_is_saved_can_be_read_everywhere() {
    let app = words::app().await;
    let deep: Value = serde_json::from_str(&format!("{}1{}", r#"{"a":"#.repeat(64), "}".repeat(64))).unwrap();
    let id = save(&app, 0.9, json!({ "metadata": deep, "content_data": deep })).await;
    assert_eq!(app.get(&path_of(id), None).await.data(200)["metadata"], deep);
    assert_eq!(found_ids(&semantic(&app, json!({})).await), [id]);
    app.stop().await;
}
