//! Everything is told once, in order, whichever process did it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use super::EVENTS;
use crate::promises;
use crate::support::app::{TestApp, install_cryptography, user};
use crate::support::data::TestData;
use crate::support::listener::Listener;
use crate::support::process::Process;
use crate::support::provider::{Behaviour, FakeProvider};
use crate::support::rabbit::Vhost;

#[tokio::test]
async fn what_becomes_ready_or_is_given_up_is_told_once() {
    let (provider, app) = promises::remote(|settings| settings.queue.max_retries = 0).await;
    provider.when_contains("poison", Behaviour::status(400, "no such thing"));
    let mut listener = Listener::open(&app.base, None).await;
    let mut other = Listener::open(&app.base, None).await;
    let good = app.save_text("a quiet place").await;
    let bad = app.save_text("poison").await;
    for listener in [&mut listener, &mut other] {
        let (mut ready, mut failed) = (Vec::new(), Vec::new());
        while ready.len() + failed.len() < 2 {
            let message = listener.next().await.expect("it goes on");
            match message.event.as_str() {
                "ready" => ready.push(message.data),
                "failed" => failed.push(message.data),
                _ => {}
            }
        }
        assert_eq!((&ready[0]["recommendation_id"], &ready[0]["content_version"]), (&json!(good), &json!(1)));
        assert!(ready[0]["took_ms"].as_i64().is_some_and(|ms| (0..30_000).contains(&ms)), "{ready:?}");
        assert_eq!(failed[0]["recommendation_id"], bad);
        assert!(failed[0]["error"].as_str().is_some_and(|error| error.contains("400")), "{failed:?}");
    }
    app.stop().await;
}

#[tokio::test]
async fn the_status_comes_first_and_then_at_most_twice_a_second() {
    let app = TestApp::start().await;
    let mut listener = Listener::open(&app.base, None).await;
    let first = listener.next_of("status").await;
    assert_eq!(first.data["queueLength"], 0);
    assert!(first.data["workers"].is_array());
    let began = Instant::now();
    let mut statuses = Vec::new();
    while began.elapsed() < Duration::from_secs(3) {
        app.save_text("good coffee").await;
        let until = Duration::from_secs(3).saturating_sub(began.elapsed()).min(Duration::from_millis(20));
        if let Ok(Some(message)) = tokio::time::timeout(until, listener.next()).await
            && message.event == "status"
        {
            statuses.push(message.data);
        }
    }
    assert!((1..=7).contains(&statuses.len()), "{}", statuses.len());
    app.stop().await;
}

#[tokio::test]
async fn whoever_comes_back_is_told_what_was_missed_and_nothing_twice() {
    let app = TestApp::start().await;
    let mut listener = Listener::open(&app.base, None).await;
    let first = app.save_text("one").await;
    let queued = listener.about(first).await;
    assert_eq!(queued.event, "queued");
    let seen = listener.about(first).await;
    drop(listener);
    let mut missed = Vec::new();
    for n in 0..3 {
        let id = app.save_text(&format!("missed {n}")).await;
        app.embedding_is(id, "ready").await;
        missed.push(id);
    }
    // Written down by the way: a stream that begins before that must tell them all the same.
    let mut listener = Listener::open(&app.base, Some(&seen.id)).await;
    let last = app.save_text("last").await;
    let mut told = Vec::new();
    while told.last() != Some(&last) {
        let message = listener.next().await.expect("it goes on");
        if message.event == "ready" {
            told.extend(message.data["recommendation_id"].as_i64());
        }
    }
    missed.push(last);
    assert_eq!(told, missed);
    app.stop().await;
}

#[tokio::test]
async fn what_is_on_its_way_while_somebody_comes_back_is_not_told_twice() {
    let app = TestApp::start().await;
    // The look for this one goes on meanwhile, and is at some other point each time.
    let _other = Listener::open(&app.base, None).await;
    let mut last = "0".to_owned();
    for round in 0..8 {
        let missed = app.save_text(&format!("missed {round}")).await;
        app.embedding_is(missed, "ready").await;
        tokio::time::sleep(Duration::from_millis(60 * round)).await;
        let mut listener = Listener::open(&app.base, Some(&last)).await;
        let next = app.save_text(&format!("next {round}")).await;
        let mut told = Vec::new();
        while told.last() != Some(&(next, "ready".to_owned())) {
            let message = listener.next().await.expect("it goes on");
            if let Some(id) = message.data["recommendation_id"].as_i64() {
                told.push((id, message.event));
                last = message.id;
            }
        }
        let expected = [missed, next].map(|id| ["queued", "ready"].map(|kind| (id, kind.to_owned()))).concat();
        let mut sorted = told.clone();
        sorted.sort();
        assert_eq!(sorted, expected, "in round {round}: {told:?}");
    }
    app.stop().await;
}

#[tokio::test]
async fn an_id_of_another_stream_is_refused_by_name() {
    let app = TestApp::start().await;
    app.get(&format!("{EVENTS}?queued=perhaps"), None).await.refusal(400);
    let answer = app.send(app.request(reqwest::Method::GET, EVENTS).header("last-event-id", "yesterday")).await;
    assert!(answer.refusal(400).starts_with("last-event-id"), "{}", answer.body);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_other_processes_do_is_told_to_all_listeners() {
    install_cryptography();
    let (data, vhost) = (TestData::postgres().await, Vhost::new().await);
    let provider = FakeProvider::start(8).await;
    let mut env = crate::operate::drains::env(&data, &vhost, &provider).to_vec();
    env.extend([("MAPX__QUEUE__BATCH_SIZE", "8".to_owned()), ("MAPX__QUEUE__MAX_CONCURRENT", "4".to_owned())]);
    let apis = [Process::start("serve", &env).await, Process::start("serve", &env).await];
    let _workers = [Process::start("worker", &env).await, Process::start("worker", &env).await];
    let mut listeners = Vec::new();
    for api in &apis {
        listeners.push(Listener::open(api.base(), None).await);
    }
    let http = reqwest::Client::new();
    let mut saved = BTreeSet::new();
    for n in 0..100 {
        let body = json!({ "user_id": user(1), "description": format!("text {n}") });
        let url = format!("{}/api/recommendations/save", apis[n % 2].base());
        let answer: Value = http.post(url).json(&body).send().await.expect("sent").json().await.expect("JSON");
        saved.insert(answer["data"]["recommendation_id"].as_i64().expect("an id"));
    }
    for listener in &mut listeners {
        let mut told = Vec::new();
        while told.len() < saved.len() {
            told.push(listener.next_of("ready").await.data["recommendation_id"].as_i64().expect("an id"));
        }
        assert_eq!(told.iter().copied().collect::<BTreeSet<_>>(), saved, "each once: {told:?}");
    }
    // And nothing more than once: what comes next is a status.
    for listener in &mut listeners {
        let next = listener.next().await.expect("it goes on");
        assert!(["status", "queued"].contains(&next.event.as_str()), "{next:?}");
    }
}

/// Entries of a busy hour, each of which tells of one: of so many, from [`MISSED`] on.
async fn fill(app: &TestApp, entries: i64) {
    let conn = app.data().connect().await;
    let event = |n: i64| json!([{ "kind": "ready", "recommendation_id": MISSED + n, "content_version": 1, "at_ms": 1_790_000_000_000_i64 }]);
    let rows: Vec<String> = (0..entries).map(|n| format!("(CURRENT_TIMESTAMP, 0, '{}')", event(n))).collect();
    let insert = format!("INSERT INTO embedding_journal (at, skipped, events) VALUES {}", rows.join(","));
    conn.execute_unprepared(&insert).await.expect("inserted");
    conn.close().await.expect("closes");
}

const MISSED: i64 = 1_000_000;

#[tokio::test]
async fn whoever_missed_too_much_is_told_that_there_was_more() {
    for (entries, is_whole) in [(150, true), (450, false)] {
        let app = TestApp::start().await;
        let mut listener = Listener::open(&app.base, None).await;
        let seen = listener.about(app.save_text("one").await).await;
        drop(listener);
        fill(&app, entries).await;
        let mut listener = Listener::open(&app.base, Some(&seen.id)).await;
        let (mut told, mut skipped) = (Vec::new(), 0);
        loop {
            let message = listener.next().await.expect("it goes on");
            match message.event.as_str() {
                "status" => break,
                "skipped" => skipped += 1,
                _ => told.extend(message.data["recommendation_id"].as_i64().filter(|id| *id >= MISSED)),
            }
        }
        let expected: Vec<i64> = (MISSED..).take(told.len()).collect();
        assert_eq!(told, expected, "in their order, and none is left out");
        let all = told.len() as i64 == entries;
        assert_eq!((all, skipped, told.len() >= 150), (is_whole, i32::from(!is_whole), true), "{}", told.len());
        app.stop().await;
    }
}
