//! What can't be meant is refused by the name of its field, and nothing is done.

use serde_json::{Value, json};

use super::{at, get, service};

#[tokio::test]
async fn every_refusal_names_its_field_and_leaves_no_trace() {
    let (_provider, app, _broker) = service(|_| {}).await;
    let filter = |filter: Value| json!({ "filter": filter });
    let many: Vec<i64> = (1..=1_001).collect();
    let dead = [
        (json!({}), "ids or filter is required"),
        (json!([1]), "body must be a JSON object"),
        (json!({ "ids": [1], "filter": {} }), "filter must not come with ids"),
        (json!({ "ids": [] }), "ids must be 1 to 1000"),
        (json!({ "ids": [0] }), "ids must be 1 to 1000"),
        (json!({ "ids": ["7"] }), "ids must be 1 to 1000"),
        (json!({ "ids": 7 }), "ids must be 1 to 1000"),
        (json!({ "ids": many }), "ids must be 1 to 1000"),
        (json!({ "id": [7] }), "id is unknown"),
        (filter(json!([])), "filter must be an object"),
        (filter(json!({ "erorr": "x" })), "filter.erorr is unknown; there are error, lane"),
        (filter(json!({ "error": "" })), "filter.error must be 1 to 1000 characters"),
        (filter(json!({ "error": 5 })), "filter.error must be text"),
        (filter(json!({ "lane": "fast" })), "filter.lane must be \"high\""),
        (filter(json!({ "older_than": "soon" })), "filter.older_than must be a duration"),
        (filter(json!({ "newer_than": "5" })), "filter.newer_than must be a duration"),
    ];
    for (body, expected) in dead {
        for path in ["dead-letters/replay", "dead-letters/discard"] {
            let answer = app.post(&at(path), &body).await;
            assert!(answer.refusal(400).starts_with(expected), "{path} {body}: {}", answer.body);
            assert_eq!(answer.body["error"], "INVALID_FIELD");
        }
    }
    let only = [
        ("dead-letters/replay", json!({ "filter": {}, "priority": "now" }), "priority must be \"high\""),
        ("dead-letters/discard", json!({ "filter": {}, "priority": "low" }), "priority is unknown"),
        ("pause", json!({ "lane": "fast" }), "lane must be \"high\""),
        ("pause", json!({ "lanes": [] }), "lanes is unknown; there are lane, reason"),
        ("pause", json!({ "reason": "x".repeat(501) }), "reason must be text of at most 500 characters"),
        ("resume", json!({ "reason": "x" }), "reason is unknown"),
        ("resume", json!("low"), "body must be a JSON object"),
    ];
    for (path, body, expected) in only {
        let answer = app.post(&at(path), &body).await;
        assert!(answer.refusal(400).starts_with(expected), "{path} {body}: {}", answer.body);
    }
    for (path, expected) in [
        ("dead-letters?limit=0", "limit must be"),
        ("dead-letters?cursor=x", "cursor must be"),
        ("dead-letters?lane=x", "lane must be"),
        ("dead-letters?older_than=x", "older_than must be"),
        ("dead-letters/groups?newer_than=x", "newer_than must be"),
        ("dead-letters/seven", "recommendation_id must be"),
        ("audit?limit=101", "limit must be"),
        ("audit?cursor=x", "cursor must be"),
    ] {
        let answer = app.get(&at(path), None).await;
        assert!(answer.refusal(400).starts_with(expected), "{path}: {}", answer.body);
    }
    for path in ["workers/nobody/drain", "workers/nobody/undrain"] {
        assert_eq!(app.post(&at(path), &json!({})).await.refusal(404), "worker not found");
    }
    let actor =
        app.request(reqwest::Method::POST, &at("resume")).header("x-actor", "x".repeat(65)).json(&json!({}));
    assert!(app.send(actor).await.refusal(400).starts_with("x-actor must be 1 to 64"));
    assert_eq!(get(&app, "audit").await, json!({ "items": [], "next_cursor": null }));
    assert_eq!(app.queue().await["paused"], json!({ "high": null, "normal": null, "low": null }));
    app.stop().await;
}
