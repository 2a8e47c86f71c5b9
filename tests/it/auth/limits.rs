//! How much one client may ask, and all together.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{ADMIN, API, QUEUE, SAVE, SEARCH, call, get, guarded, send, token_of};
use crate::support::app::{PATIENCE, TestApp, eventually, user};

async fn limited(burst: u32) -> TestApp {
    TestApp::with(|settings| {
        guarded(settings);
        // So slow that no test waits long enough for another one by accident.
        settings.server.rate_limit_per_second = 1;
        settings.server.rate_limit_burst = burst;
    })
    .await
}

#[tokio::test]
async fn a_client_that_asks_too_much_is_told_when_to_come_again() {
    let app = limited(30).await;
    let path = format!("{API}/places/reviewed");
    let refused = async |token: &str| {
        let mut refused = None;
        for _ in 0..60 {
            let seen = get(&app, &path, token).await;
            if seen.status == 429 {
                seen.refused(429, "RATE_LIMITED");
                refused = Some(seen.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap());
            }
        }
        refused
    };
    let wait = refused(&token_of(1)).await.expect("it asked too much");
    assert!((1..=31).contains(&wait), "{wait}");
    // Another user, an operator and who isn't known at all have their own.
    assert_eq!(get(&app, &path, &token_of(2)).await.status, 200);
    assert_eq!(get(&app, &path, ADMIN).await.status, 200);
    get(&app, &path, "wrong").await.refused(401, "UNAUTHENTICATED");
    // Wrong tokens count for the address, so that they can't be tried at will; so does what isn't there.
    for n in 0..60 {
        get(&app, &path, &format!("wrong {n}").replace(' ', "-")).await;
    }
    get(&app, &path, "another-wrong-one").await.refused(429, "RATE_LIMITED");
    call(&app, "GET", "/nowhere", &[], None).await.refused(429, "RATE_LIMITED");
    get(&app, "/metrics", "a-guess-at-the-token").await.refused(429, "RATE_LIMITED");
    assert_eq!(get(&app, &path, &token_of(2)).await.status, 200);
    // Supervisors and Prometheus are answered as ever.
    for _ in 0..60 {
        assert_eq!(call(&app, "GET", "/health/live", &[], None).await.status, 200);
        assert_eq!(get(&app, "/metrics", super::SCRAPER).await.status, 200);
    }
    app.stop().await;
}

#[tokio::test]
async fn behind_a_proxy_that_names_the_user_each_user_is_a_client() {
    let app = TestApp::with(|settings| {
        settings.server.rate_limit_per_second = 1;
        settings.server.rate_limit_burst = 20;
    })
    .await;
    let path = format!("{API}/places/reviewed");
    let mut last = 200;
    for _ in 0..40 {
        last = app.get(&path, Some(user(1))).await.status.as_u16();
    }
    assert_eq!(last, 429);
    assert_eq!(app.get(&path, Some(user(2))).await.status, 200);
    app.stop().await;
}

#[tokio::test]
async fn a_client_is_served_again_once_it_has_waited() {
    let app = TestApp::with(|settings| {
        settings.server.rate_limit_per_second = 20;
        settings.server.rate_limit_burst = 1;
    })
    .await;
    let status = async || app.get(&format!("{QUEUE}/status"), None).await.status;
    eventually("it is refused", async || (status().await == 429).then_some(())).await;
    eventually("it is served", async || (status().await == 200).then_some(())).await;
    app.stop().await;
}

#[tokio::test]
async fn without_a_limit_nobody_is_refused() {
    let app = TestApp::start().await;
    for _ in 0..200 {
        assert_eq!(app.get(&format!("{QUEUE}/config"), None).await.status, 200);
    }
    app.stop().await;
}

#[tokio::test]
async fn more_than_can_be_worked_on_at_once_waits_and_is_then_refused() {
    let app = TestApp::with(|settings| {
        guarded(settings);
        settings.server.max_concurrent_requests = 1;
        settings.server.request_timeout_ms = 500;
    })
    .await;
    // A request whose body never comes holds the one turn until its time is up, and not longer.
    let mut slow = TcpStream::connect(app.base.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST {SAVE} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 100\r\n\r\n{{",
        token_of(1)
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let path = format!("{API}/places/reviewed");
    let seen = eventually("it has the turn", async || {
        let started = std::time::Instant::now();
        let seen = get(&app, &path, &token_of(1)).await;
        (started.elapsed() > Duration::from_millis(100)).then_some(seen)
    })
    .await;
    // It got its turn when the other's time was up, or was refused a moment before.
    assert!(seen.status == 200 || seen.status == 503, "{}", seen.text);
    if seen.status == 503 {
        seen.refused(503, "OVERLOADED");
        assert!(seen.headers.contains_key("retry-after"));
    }
    assert_eq!(get(&app, &path, &token_of(1)).await.status, 200);
    app.stop().await;
}

#[tokio::test]
async fn while_every_turn_is_taken_the_service_still_says_that_it_is_alive() {
    let app = TestApp::with(|settings| {
        guarded(settings);
        settings.server.max_concurrent_requests = 1;
        settings.server.request_timeout_ms = 3_600_000;
    })
    .await;
    let mut slow = TcpStream::connect(app.base.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST {API}/import HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 100\r\n\r\n{{",
        token_of(1)
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let (path, token) = (format!("{API}/places/reviewed"), token_of(1));
    eventually("the turn is taken", async || {
        let asked = tokio::time::timeout(Duration::from_millis(200), get(&app, &path, &token)).await;
        asked.is_err().then_some(())
    })
    .await;
    for path in ["/health/live", "/health/ready"] {
        let alive = tokio::time::timeout(PATIENCE, call(&app, "GET", path, &[], None)).await;
        assert_eq!(alive.expect("an answer").status, 200);
    }
    drop(slow);
    assert_eq!(get(&app, &path, &token).await.status, 200);
    app.stop().await;
}

#[tokio::test]
async fn a_large_body_is_refused_and_who_may_not_send_one_is_told_that_first() {
    let app = super::app().await;
    let large = json!({ "description": "x".repeat(2 << 20) });
    send(&app, "POST", SAVE, &token_of(1), &large).await.refused(413, "BODY_TOO_LARGE");
    let small = json!({ "query": "x" });
    call(&app, "POST", SEARCH, &[], Some(&small)).await.refused(401, "UNAUTHENTICATED");
    app.stop().await;
}
