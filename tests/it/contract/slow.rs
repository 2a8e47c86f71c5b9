//! Clients that are slow or hang up: their own affair, and nobody else's.

use std::time::Duration;

use serde_json::json;

use super::raw::{Raw, head};
use super::{IMPORT, SAVE, SEARCH, body};
use crate::support::app::{TestApp, eventually};

/// Long enough for nobody: every request that is waited for in these tests is one that should time out.
async fn impatient() -> TestApp {
    TestApp::with(|settings| settings.server.request_timeout_ms = 200).await
}

/// A request's head that announces a body of this length.
fn announcing(path: &str, length: usize) -> String {
    head("POST", path, &format!("Content-Length: {length}\r\n"))
}

#[tokio::test]
async fn a_client_that_says_nothing_is_hung_up_on() {
    let app = impatient().await;
    for start in ["", "G", "PRI * HT", "GET /health/live HTTP/1.1\r\nHost: te"] {
        let mut raw = Raw::open(&app).await;
        raw.send(start).await;
        assert_eq!(raw.until_closed().await, b"", "{start:?}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_head_that_trickles_is_hung_up_on() {
    let app = impatient().await;
    let mut raw = Raw::open(&app).await;
    raw.send("GET /health/live HTTP/1.1\r\n").await;
    // Each byte comes in time, the head as a whole never does.
    let trickle = async {
        let mut every = tokio::time::interval(Duration::from_millis(20));
        loop {
            every.tick().await;
            raw.send("x: y\r\n").await;
            if raw.is_closed() {
                break;
            }
        }
    };
    tokio::time::timeout(crate::support::app::PATIENCE, trickle).await.expect("the service hangs up");
    app.stop().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_408_in_the_envelope() {
    let app = impatient().await;
    for path in [SAVE, SEARCH, IMPORT] {
        for start in ["", "{\"description\": "] {
            let mut raw = Raw::open(&app).await;
            raw.send(announcing(path, 1_000)).await;
            raw.send(start).await;
            let reply = raw.reply().await.expect("an answer");
            assert_eq!((reply.status, reply.error().as_str()), (408, "BODY_TIMEOUT"), "{path} {start:?}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn slow_clients_hold_nobody_up() {
    let app = TestApp::start().await;
    let mut hanging = Vec::new();
    for n in 0..60 {
        let mut raw = Raw::open(&app).await;
        match n % 3 {
            0 => raw.send("POST /api/rec").await,
            1 => raw.send(format!("{}{{", announcing(SAVE, 1_000))).await,
            _ => raw.send(format!("{}{}\n{{", announcing(IMPORT, 100_000), body(json!({})))).await,
        }
        hanging.push(raw);
    }
    let id = app.save_text("A calm reading room").await;
    app.embedding_is(id, "ready").await;
    let found = app.search(&json!({ "query": "calm reading room" })).await;
    assert_eq!(found["total_recommendations"], 1);
    drop(hanging);
    app.save_text("Another").await;
    app.stop().await;
}

#[tokio::test]
async fn a_client_that_never_reads_its_answers_holds_nobody_up() {
    let app = TestApp::with(|settings| settings.queue.shutdown_grace_ms = 100).await;
    let mut deaf = Raw::open(&app).await;
    let request = "GET /openapi.json HTTP/1.1\r\nHost: test\r\n\r\n".repeat(500);
    let sent = tokio::time::timeout(Duration::from_millis(500), deaf.send(request)).await;
    app.save_text("Others go on").await;
    // Whether all of it could be sent is the kernel's affair.
    drop(sent);
    app.stop().await;
}

#[tokio::test]
async fn hanging_up_half_way_saves_nothing_and_harms_nobody() {
    let app = TestApp::start().await;
    let whole = body(json!({})).to_string();
    for path in [SAVE, SEARCH, IMPORT] {
        for sent in [0, 1, whole.len() / 2, whole.len()] {
            let mut raw = Raw::open(&app).await;
            raw.send(announcing(path, whole.len() + 1)).await;
            raw.send(&whole[..sent]).await;
            if sent % 2 == 0 {
                raw.finish().await;
            }
        }
    }
    app.save_text("The only one").await;
    assert_eq!(app.queue().await["recommendations"], 1);
    let data = app.data();
    app.stop().await;
    let app = TestApp::over(data, |_| {}, None).await;
    assert_eq!(app.queue().await["recommendations"], 1);
    app.stop().await;
}

#[tokio::test]
async fn an_import_that_breaks_off_keeps_its_whole_batches_and_no_half_line() {
    let app = TestApp::start().await;
    let line = format!("{}\n", body(json!({})));
    let mut raw = Raw::open(&app).await;
    raw.send(announcing(IMPORT, 10_000_000)).await;
    raw.send(line.repeat(700)).await;
    raw.send(&line[..line.len() / 2]).await;
    let saved = async || (app.queue().await["recommendations"] == 500).then_some(());
    eventually("the first batch is saved", saved).await;
    drop(raw);
    let data = app.data();
    app.stop().await;
    let app = TestApp::over(data, |_| {}, None).await;
    assert_eq!(app.queue().await["recommendations"], 500);
    app.stop().await;
}

#[tokio::test]
async fn a_client_that_hangs_does_not_keep_the_service_from_ending() {
    let app = TestApp::with(|settings| settings.queue.shutdown_grace_ms = 100).await;
    let mut hanging = Vec::new();
    for start in ["".to_owned(), "GET /".into(), announcing(SAVE, 10), announcing(IMPORT, 10)] {
        let mut raw = Raw::open(&app).await;
        raw.send(start).await;
        hanging.push(raw);
    }
    app.save_text("Before the end").await;
    app.stop().await;
    drop(hanging);
}
