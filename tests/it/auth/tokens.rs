//! Tokens that are no user's, with and without keys for users' tokens.

use mapx_embeddings::config::secret::Secret;
use serde_json::{Value, json};

use super::{ADMIN, API, QUEUE, READER, SAVE, SCRAPER, app, call, get, guarded, send, token_of};
use crate::support::app::{TestApp, user};

#[tokio::test]
async fn only_the_whole_token_is_the_token() {
    let app = app().await;
    let path = format!("{QUEUE}/config");
    assert_eq!(get(&app, &path, ADMIN).await.status, 200);
    let upper = ADMIN.to_uppercase();
    let wrong =
        [&ADMIN[..ADMIN.len() - 1], &format!("{ADMIN}x"), &upper, &ADMIN[1..], "a", &"a".repeat(ADMIN.len())];
    for token in wrong {
        get(&app, &path, token).await.refused(401, "UNAUTHENTICATED");
    }
    app.stop().await;
}

#[tokio::test]
async fn without_authentication_everything_is_as_it_was() {
    let app = TestApp::start().await;
    let id = app.save(&json!({ "user_id": user(1), "description": "Good" })).await;
    let one = user(1).to_string();
    // Tokens aren't looked at, headers are believed.
    let headers = [("authorization", "Bearer whatever"), ("x-user-id", one.as_str())];
    assert_eq!(call(&app, "GET", &format!("{API}/{id}"), &headers, None).await.status, 200);
    call(&app, "POST", &format!("{QUEUE}/pause"), &[], Some(&json!({}))).await.data(200);
    assert_eq!(call(&app, "GET", "/metrics", &[], None).await.status, 200);
    app.stop().await;
}

#[tokio::test]
async fn tokens_alone_guard_what_operates_the_service_and_leave_users_to_the_proxy() {
    let app = TestApp::with(|settings| {
        guarded(settings);
        settings.auth.jwt_secret = Secret::default();
        (settings.auth.admin_claim, settings.auth.read_claim) = Default::default();
    })
    .await;
    let id = app.save(&json!({ "user_id": user(1), "description": "Good" })).await;
    assert_eq!(app.get(&format!("{API}/{id}"), Some(user(1))).await.status, 200);
    for (method, path, body) in [
        ("POST", format!("{QUEUE}/pause"), Some(json!({}))),
        ("GET", format!("{QUEUE}/dead-letters"), None),
        ("PUT", format!("{QUEUE}/config"), Some(json!({ "batch_size": 9 }))),
        ("POST", format!("{API}/regenerate-embeddings"), Some(json!({ "dry_run": true }))),
        ("GET", "/metrics".into(), None),
    ] {
        let one = user(1).to_string();
        let seen = call(&app, method, &path, &[("x-user-id", &one)], body.as_ref()).await;
        seen.refused(401, "UNAUTHENTICATED");
        let body = body.unwrap_or(Value::Null);
        send(&app, method, &path, &token_of(1), &body).await.refused(401, "UNAUTHENTICATED");
        let allowed = send(&app, method, &path, ADMIN, &body).await;
        assert_eq!(allowed.status, 200, "{path}: {}", allowed.text);
    }
    assert_eq!(get(&app, "/metrics", SCRAPER).await.status, 200);
    assert_eq!(get(&app, &format!("{QUEUE}/dead-letters"), READER).await.status, 200);
    send(&app, "POST", SAVE, READER, &json!({ "description": "x" })).await.refused(403, "NOT_ALLOWED");
    app.stop().await;
}

#[tokio::test]
async fn a_worker_tells_its_metrics_to_the_token_alone() {
    use std::sync::Arc;

    use mapx_embeddings::app::App;
    use mapx_embeddings::broker::embedded::EmbeddedBroker;
    use mapx_embeddings::broker::topology::Topology;
    use mapx_embeddings::config::Role;
    use mapx_embeddings::config::secret::ServerUrl;
    use tokio_util::sync::CancellationToken;

    use crate::support::data::TestData;

    crate::support::app::install_cryptography();
    let data = TestData::full().await;
    let mut settings = data.settings();
    guarded(&mut settings);
    settings.broker.url = ServerUrl::new(data.vhost_url());
    settings.metrics.bind = "127.0.0.1:0".into();
    let embedder = mapx_embeddings::embedder::build(&settings.embedder).unwrap();
    let broker = Arc::new(EmbeddedBroker::new(Topology::new("mapx", &settings.queue.backoff())));
    let worker = App::build_on(settings, Role::Worker, embedder, broker).await.unwrap();
    let base = format!("http://{}", worker.addr());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(worker.run_until(shutdown.clone()));
    let http = reqwest::Client::new();
    let status = async |path: &str, token: Option<&str>| {
        let request = http.get(format!("{base}{path}"));
        let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status("/health/live", None).await, 200);
    let seen = [None, Some("wrong"), Some(SCRAPER), Some(ADMIN)];
    let mut answers = Vec::new();
    for token in seen {
        answers.push(status("/metrics", token).await);
    }
    assert_eq!(answers, [401, 401, 200, 200]);
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
