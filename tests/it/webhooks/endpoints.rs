//! Endpoints as people make, change and delete them.

use serde_json::{Value, json};

use super::receiver::Reply;
use super::{
    FAILED, FINISHED, READY, WEBHOOKS, at, audit, deliveries, newest_is, patch, register, service, webhook,
};
use crate::support::app::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_shown_once() {
    let (_provider, app, receiver) = service(|_| {}).await;
    let hook = register(&app, &receiver, json!({ "description": "on call" })).await;
    app.save_text("somewhere quiet").await;
    newest_is(&app, hook.id, "delivered").await;
    let test = app.post(&at(format!("{}/test", hook.id)), &json!({})).await.data(202).clone();
    let detail = app.get(&at(format!("{}/deliveries/{}", hook.id, test["id"])), None).await.data(200).clone();
    let shown = [
        webhook(&app, hook.id).await,
        app.get(WEBHOOKS, None).await.data(200).clone(),
        patch(&app, hook.id, json!({ "description": null })).await,
        json!(deliveries(&app, hook.id).await),
        json!(audit(&app).await),
        test,
        detail,
        json!(app.request(reqwest::Method::GET, "/metrics").send().await.unwrap().text().await.unwrap()),
    ];
    let secret = hook.secret.trim_start_matches("whsec_");
    for text in shown.map(|value| value.to_string()) {
        assert!(!text.contains(secret) && !text.contains("whsec_"), "{text}");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_is_listed_changed_disabled_and_deleted_and_the_audit_says_by_whom() {
    let (_provider, app, receiver) = service(|_| {}).await;
    let hook = register(&app, &receiver, json!({ "description": "on call" })).await;
    let other = register(&app, &receiver, json!({ "events": [FAILED], "include_regenerations": true })).await;
    let list = app.get(WEBHOOKS, None).await.data(200).clone();
    let told: Vec<_> =
        list.as_array().unwrap().iter().map(|one| (one["id"].clone(), one["events"].clone())).collect();
    assert_eq!(told, [(json!(hook.id), json!([READY, FAILED, FINISHED])), (json!(other.id), json!([FAILED]))]);
    assert_eq!((&list[0]["description"], &list[1]["include_regenerations"]), (&json!("on call"), &json!(true)));

    let changed = patch(&app, hook.id, json!({ "events": [READY], "url": receiver.url("/moved") })).await;
    assert_eq!((&changed["events"], &changed["description"]), (&json!([READY]), &json!("on call")));
    app.save_text("somewhere quiet").await;
    assert_eq!(receiver.has(1).await[0].path, "/moved");

    let off = patch(&app, hook.id, json!({ "enabled": false })).await;
    assert_eq!((&off["enabled"], &off["disabled_reason"]), (&json!(false), &json!("disabled by anonymous")));
    let id = app.save_text("somewhere loud").await;
    app.embedding_is(id, "ready").await;
    assert_eq!(deliveries(&app, hook.id).await.len(), 1);
    assert_eq!(patch(&app, hook.id, json!({ "enabled": true })).await["enabled"], true);

    let gone = app.send(app.request(reqwest::Method::DELETE, &at(hook.id)).header("x-actor", "Eve")).await;
    assert_eq!(gone.data(200), &json!({ "id": hook.id }));
    for path in [at(hook.id), at(format!("{}/deliveries", hook.id)), at(format!("{}/deliveries/1", hook.id))] {
        assert_eq!(app.get(&path, None).await.refusal(404), "webhook not found");
    }
    let actions: Vec<_> = audit(&app).await.iter().map(|l| (l["who"].clone(), l["action"].clone())).collect();
    let expected = [
        ("Eve", "webhook.delete"),
        ("anonymous", "webhook.enable"),
        ("anonymous", "webhook.disable"),
        ("anonymous", "webhook.change"),
        ("anonymous", "webhook.create"),
        ("anonymous", "webhook.create"),
    ];
    assert_eq!(actions, expected.map(|(who, action)| (json!(who), json!(action))));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_by_its_name() {
    let (_provider, app, receiver) = service(|_| {}).await;
    let hook = register(&app, &receiver, json!({})).await;
    let url = receiver.url("/hook");
    for (body, told) in [
        (json!({}), "url is required"),
        (json!({ "url": url, "events": [] }), "events must be a list of one or more"),
        (json!({ "url": url, "events": ["embedding.gone"] }), "events[0] must be one of"),
        (json!({ "url": url, "secret": "whsec_mine" }), "secret is not known here"),
        (json!({ "url": url, "include_regenerations": "yes" }), "include_regenerations must be true or false"),
        (json!("hook"), "body must be a JSON object"),
    ] {
        let refused = app.post(WEBHOOKS, &body).await;
        assert!(refused.refusal(400).starts_with(told), "{}", refused.body);
    }
    let empty = app.send(app.request(reqwest::Method::PATCH, &at(hook.id)).json(&json!({}))).await;
    assert!(empty.refusal(400).starts_with("body must name one of"), "{}", empty.body);
    let nobody = app.send(app.request(reqwest::Method::PATCH, &at(999)).json(&json!({ "enabled": true }))).await;
    assert_eq!(nobody.refusal(404), "webhook not found");
    for (path, status, told) in [
        (at("x"), 400, "id must be a whole number"),
        (at("999"), 404, "webhook not found"),
        (at(format!("{}/deliveries?limit=0", hook.id)), 400, "limit must be a whole number"),
        (at(format!("{}/deliveries?state=gone", hook.id)), 400, "state must be one of pending, published"),
        (at(format!("{}/deliveries?cursor=x", hook.id)), 400, "cursor must be"),
        (at(format!("{}/deliveries/x", hook.id)), 400, "delivery must be a whole number"),
        (at(format!("{}/deliveries/999", hook.id)), 404, "delivery not found"),
    ] {
        let refused = app.get(&path, None).await;
        assert!(refused.refusal(status).starts_with(told), "{path}: {}", refused.body);
    }
    for path in ["999/test", "999/rotate-secret", "999/deliveries/1/redeliver"] {
        app.post(&at(path), &json!({})).await.refusal(404);
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_a_hundred_at_most() {
    let (_provider, app, _receiver) = service(|_| {}).await;
    for n in 0..100 {
        app.post(WEBHOOKS, &json!({ "url": format!("https://example.com/{n}"), "events": [FINISHED] }))
            .await
            .data(201);
    }
    let refused = app.post(WEBHOOKS, &json!({ "url": "https://example.com/" })).await;
    assert!(refused.refusal(409).starts_with("there are 100 webhooks already"), "{}", refused.body);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_comes_in_pages_and_by_state() {
    let (_provider, app, receiver) = service(|settings| settings.webhook.retry_schedule_ms = vec![]).await;
    let hook = register(&app, &receiver, json!({})).await;
    receiver.next(Reply::Status(500));
    for n in 0..5 {
        app.save_text(&format!("place number {n}")).await;
        receiver.has(n + 1).await;
    }
    let all = eventually("all have ended", async || {
        let all = deliveries(&app, hook.id).await;
        all.iter().all(|one| ["delivered", "failed"].contains(&one["state"].as_str().unwrap())).then_some(all)
    })
    .await;
    let (mut paged, mut cursor): (Vec<Value>, String) = (Vec::new(), String::new());
    loop {
        let path = at(format!("{}/deliveries?limit=2&cursor={cursor}", hook.id));
        let page = app.get(&path, None).await.data(200).clone();
        paged.extend(page["items"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!((paged.len(), &paged), (5, &all));
    let failed = app.get(&at(format!("{}/deliveries?state=failed", hook.id)), None).await.data(200).clone();
    assert_eq!(failed["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(failed["items"][0]["last_attempt"]["status"], 500);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_input_at_all_is_the_services_own_failure() {
    let (_provider, app, receiver) = service(|_| {}).await;
    let hook = register(&app, &receiver, json!({})).await;
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1e300),
        json!(""),
        json!(" "),
        json!("\0"),
        json!("a\0b"),
        json!("https://example.com/\0"),
        json!("https://example.com/ä?ö#ü"),
        json!("https://ex ample.com/"),
        json!("https://[::1"),
        json!("https://xn--/"),
        json!("http://999.1.1.1/"),
        json!("\u{202e}https://example.com"),
        json!("x".repeat(5_000)),
        json!([]),
        json!([null]),
        json!([["embedding.ready"]]),
        json!(["embedding.ready"; 2_000].to_vec()),
        json!({}),
        json!({ "url": { "url": [] } }),
    ];
    let patch =
        async |id: &str, body: &Value| app.send(app.request(reqwest::Method::PATCH, &at(id)).json(body)).await;
    let mut answers = Vec::new();
    for field in ["url", "events", "description", "include_regenerations", "enabled", "secret", "\0"] {
        for value in &values {
            let mut body = json!({ "url": "https://example.com/" });
            body[field] = value.clone();
            answers.push((format!("POST {body}"), app.post(WEBHOOKS, &body).await));
            let change = json!({ field: value });
            answers.push((format!("PATCH {change}"), patch(&hook.id.to_string(), &change).await));
        }
    }
    for value in &values {
        answers.push((format!("POST {value}"), app.post(WEBHOOKS, value).await));
        answers.push((format!("PATCH {value}"), patch("1", value).await));
    }
    let odd = [
        "0",
        "-1",
        "x",
        "1.5",
        "9223372036854775807",
        "9223372036854775808",
        "%00",
        "%FF",
        "%F0%9F%8E%89",
        "1%2F2",
    ];
    for id in odd {
        for path in [at(id), at(format!("{id}/deliveries")), at(format!("1/deliveries/{id}"))] {
            answers.push((format!("GET {path}"), app.get(&path, None).await));
        }
        for query in ["limit", "cursor", "state"] {
            let path = at(format!("1/deliveries?{query}={id}"));
            answers.push((format!("GET {path}"), app.get(&path, None).await));
        }
        for path in ["test", "rotate-secret", "deliveries/1/redeliver"] {
            answers.push((format!("POST {id}/{path}"), app.post(&at(format!("{id}/{path}")), &json!({})).await));
        }
        let path = at(format!("1/deliveries/{id}/redeliver"));
        answers.push((format!("POST {path}"), app.post(&path, &json!({})).await));
        answers.push((format!("PATCH {id}"), patch(id, &json!({ "enabled": true })).await));
        answers.push((format!("DELETE {id}"), app.delete(&at(id), None).await));
    }
    for (request, answer) in answers {
        assert!(answer.status.as_u16() < 500, "{request}: {} {}", answer.status, answer.body);
        assert_eq!(answer.body["success"], answer.status.is_success(), "{request}: {}", answer.body);
    }
    app.stop().await;
}
