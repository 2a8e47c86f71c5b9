//! Listeners that are too many, too slow, or in the way of a shutdown.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::EVENTS;
use crate::support::app::{PATIENCE, TestApp, eventually, user};
use crate::support::listener::Listener;

#[tokio::test]
async fn one_too_many_is_refused_until_another_has_gone() {
    let app = TestApp::with(|settings| settings.server.max_event_listeners = 2).await;
    let first = Listener::open(&app.base, None).await;
    let _second = Listener::open(&app.base, None).await;
    let answer = app.get(EVENTS, None).await;
    assert!(answer.refusal(429).contains("server.max_event_listeners"), "{}", answer.body);
    drop(first);
    eventually("there is room again", async || {
        let response = app.request(reqwest::Method::GET, EVENTS).send().await.expect("an answer");
        (response.status() == 200).then_some(())
    })
    .await;
    app.stop().await;
}

#[tokio::test]
async fn a_shutdown_waits_for_no_listener() {
    let app = TestApp::start().await;
    let mut listener = Listener::open(&app.base, None).await;
    listener.next_of("status").await;
    let began = Instant::now();
    app.stop().await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    while listener.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_does_not_read_is_dropped_and_nobody_waits_for_it() {
    let app = TestApp::with(|settings| {
        settings.server.request_timeout_ms = 2_000;
        settings.server.max_event_listeners = 2;
    })
    .await;
    let address = app.base.trim_start_matches("http://").parse().expect("an address");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    let mut slow = socket.connect(address).await.expect("a connection");
    let head = format!("GET {EVENTS} HTTP/1.1\r\nHost: test\r\n\r\n");
    slow.write_all(head.as_bytes()).await.expect("sent");
    slow.readable().await.expect("it is a listener");
    let mut good = Listener::open(&app.base, None).await;
    app.get(EVENTS, None).await.refusal(429);
    // More than the buffers between the two hold.
    let began = Instant::now();
    for batch in 0.. {
        let text = |n| json!({ "user_id": user(1), "description": format!("text {batch} {n}") }).to_string();
        let lines: Vec<String> = (0..400).map(text).collect();
        let request = app.request(reqwest::Method::POST, "/api/recommendations/import");
        let request = request.header("content-type", "application/x-ndjson").body(lines.join("\n"));
        app.send(request).await.data(200);
        good.next_of("ready").await;
        let third = app.request(reqwest::Method::GET, EVENTS).send().await.expect("an answer");
        if third.status() == 200 {
            break;
        }
        assert!(began.elapsed() < PATIENCE * 2, "it is still there after {batch} batches");
    }
    // What was on its way to it is all that it ever gets.
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, slow.read_to_end(&mut rest)).await.expect("it was cut off");
    assert!(rest.len() < 2_000_000, "{} bytes were kept for it", rest.len());
    app.stop().await;
}
