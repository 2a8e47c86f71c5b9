//! What is told to whom, and that it is signed.

use serde_json::json;

use super::receiver::{Receiver, Reply};
use super::verifier::{NO_MATCH, verdict};
use super::{FAILED, READY, TEST, WEBHOOKS, at, deliveries, newest_is, register, service};
use crate::support::app::{eventually, install_cryptography, user};
use crate::support::data::TestData;
use crate::support::process::Process;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_has_its_vector_is_told_with_a_signature_that_another_code_base_accepts() {
    let (_provider, app, receiver) = service(|_| {}).await;
    let webhook = register(&app, &receiver, json!({})).await;
    let id = app.save_text("A secret garden behind the library").await;
    let told = receiver.has(1).await.remove(0);
    assert_eq!(told.path, "/hook");
    assert_eq!(verdict(&webhook.secret, &told).await, "ok");
    let other = register(&app, &receiver, json!({ "events": [FAILED] })).await;
    assert_eq!(verdict(&other.secret, &told).await, NO_MATCH);
    let mut forged = told.clone();
    forged.body = forged.body.replace("ready", "gone");
    assert_eq!(verdict(&webhook.secret, &forged).await, NO_MATCH);

    let body = told.json();
    assert_eq!(body["type"], READY);
    assert!(body["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')), "{body}");
    let data = json!({
        "recommendation_id": id, "content_version": 1, "status": "ready", "model": "fake-model", "job_id": null,
    });
    assert_eq!(body["data"], data);
    assert!(!told.body.contains("garden") && !told.body.contains(&user(1).to_string()), "{}", told.body);
    assert_eq!(told.header("content-type"), "application/json");
    assert!(told.header("user-agent").starts_with("mapx-embeddings/"));

    let delivery = newest_is(&app, webhook.id, "delivered").await;
    assert_eq!(
        (&delivery["event"], &delivery["event_id"], &delivery["attempts"]),
        (&json!(READY), &json!(told.id()), &json!(1))
    );
    assert_eq!(delivery["payload"], body);
    let attempt = &delivery["history"][0];
    assert_eq!((&attempt["status"], &attempt["error"]), (&json!(200), &json!(null)));
    assert_eq!(attempt["url"], receiver.url("/hook"));
    assert_eq!(attempt["webhook_timestamp"].to_string(), told.header("webhook-timestamp"));
    assert!(attempt["duration_ms"].as_i64().is_some_and(|ms| (0..5_000).contains(&ms)), "{attempt}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_endpoint_is_told_what_it_asked_for_and_nothing_else() {
    let (_provider, app, ready) = service(|_| {}).await;
    let (failed, both) = (Receiver::start().await, Receiver::start().await);
    register(&app, &ready, json!({ "events": [READY] })).await;
    register(&app, &failed, json!({ "events": [FAILED] })).await;
    register(&app, &both, json!({ "events": [READY, FAILED] })).await;
    let poisoned = app.save_text("poison ivy everywhere").await;
    let good = app.save_text("roses everywhere").await;
    let told = both.has(2).await;
    let of =
        |event: &str| told.iter().find(|request| request.event() == event).expect("told").json()["data"].clone();
    assert_eq!(of(READY)["recommendation_id"], good);
    let data = json!({
        "recommendation_id": poisoned, "content_version": 1, "status": "failed", "attempts": 1, "class": "permanent",
        "job_id": null,
    });
    assert_eq!(of(FAILED), data);
    assert!(!told.iter().any(|request| request.body.contains("ivy")));
    assert_eq!(failed.has(1).await[0].json()["data"], data);
    assert_eq!(ready.has(1).await[0].json()["data"]["recommendation_id"], good);
    // An edit is a version of its own.
    let edit =
        app.put(&format!("/api/recommendations/{good}"), Some(user(1)), &json!({ "description": "tulips" })).await;
    edit.data(200);
    assert_eq!(ready.has(2).await[1].json()["data"]["content_version"], 2);
    both.has(3).await;
    assert_eq!((failed.received().len(), ready.received().len(), both.received().len()), (1, 2, 3));
    // The same event has one id for all who are told of it.
    let ids = |receiver: &Receiver| receiver.received().iter().map(|r| r.id().to_owned()).collect::<Vec<_>>();
    assert!(ids(&ready).iter().all(|id| ids(&both).contains(id)));
    app.stop().await;
}

/// As in a container without any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_authority_it_starts_and_tells_who_needs_none() {
    install_cryptography();
    let (data, receiver) = (TestData::sqlite(), Receiver::start().await);
    let empty = data.path().join("none");
    std::fs::create_dir(&empty).expect("a folder");
    let env = [
        ("MAPX__DATABASE__URL", data.url()),
        ("MAPX__WEBHOOK__ALLOW_PRIVATE", "true".to_owned()),
        ("MAPX__WEBHOOK__RETRY_SCHEDULE_MS", String::new()),
        ("SSL_CERT_FILE", "/dev/null".to_owned()),
        ("SSL_CERT_DIR", empty.display().to_string()),
    ];
    let service = Process::start("all", &env).await;
    let http = reqwest::Client::new();
    for (url, state) in
        [(receiver.url("/hook"), "delivered"), (receiver.url("/hook").replace("http", "https"), "failed")]
    {
        let post = async |path: String, body: serde_json::Value| {
            let answer =
                http.post(format!("{}{path}", service.base())).json(&body).send().await.expect("an answer");
            answer.json::<serde_json::Value>().await.expect("JSON")["data"]["id"].clone()
        };
        let id = post(WEBHOOKS.into(), json!({ "url": url })).await;
        let test = post(at(format!("{id}/test")), json!({})).await;
        eventually(state, async || {
            let path = format!("{}{}", service.base(), at(format!("{id}/deliveries/{test}")));
            let answer = http.get(path).send().await.expect("an answer");
            (answer.json::<serde_json::Value>().await.expect("JSON")["data"]["state"] == state).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_reaches_any_endpoint_once_and_tells_how_it_went() {
    let (_provider, app, receiver) = service(|_| {}).await;
    let webhook = register(&app, &receiver, json!({ "events": [FAILED] })).await;
    let path = at(format!("{}/test", webhook.id));
    let sent = app.post(&path, &json!({})).await.data(202).clone();
    assert_eq!((&sent["event"], &sent["state"]), (&json!(TEST), &json!("pending")));
    let told = receiver.has(1).await.remove(0);
    assert_eq!(verdict(&webhook.secret, &told).await, "ok");
    assert_eq!(told.json()["data"], json!({ "webhook_id": webhook.id }));
    newest_is(&app, webhook.id, "delivered").await;
    receiver.next(Reply::Text(500, "out of \0order".into()));
    app.post(&path, &json!({})).await.data(202);
    let failed = newest_is(&app, webhook.id, "failed").await;
    let attempt = &failed["history"][0];
    assert_eq!((&attempt["status"], &attempt["response"]), (&json!(500), &json!("out of order")));
    assert_eq!(attempt["error"], "status 500");
    // Nobody's failure but the test's.
    assert_eq!(super::webhook(&app, webhook.id).await["failing_since"], json!(null));
    assert_eq!(deliveries(&app, webhook.id).await.len(), 2);
    assert_eq!(receiver.received().len(), 2);
    app.stop().await;
}
