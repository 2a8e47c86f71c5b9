//! What it shows, as it happens.

use mapx_embeddings::config::Settings;
use serde_json::json;

use super::{DESKTOP, dashboard};
use crate::promises::{self, one_by_one, plug};
use crate::support::app::{TestApp, user};
use crate::support::browser::Browser;
use crate::support::provider::Behaviour;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_appears_and_moves_to_ready() {
    let (provider, app) = promises::remote(one_by_one).await;
    let browser = dashboard(&app, DESKTOP).await;
    browser.says("#summary", "Nothing has been saved yet").await;
    let plug = plug(&app, &provider).await;
    let id = app.save_text("a quiet place").await;
    browser.says(&format!("#activity [data-id='{id}']"), "waiting").await;
    browser.says("#tile-waiting", "1").await;
    browser.says("#tile-hand", "1").await;
    browser.says("#coverage .pending b", "2").await;
    provider.release();
    for id in [plug, id] {
        browser.says(&format!("#activity [data-id='{id}']"), "ready").await;
    }
    browser.says("#tile-waiting", "0").await;
    browser.says("#summary", "every recommendation has its embedding").await;
    browser.says("#coverage .current b", "2").await;
    browser.says("#tile-covered", "100 %").await;
    // And in the history.
    browser
        .until("document.querySelector('#chart-throughput svg').getAttribute('aria-label').includes('at most')")
        .await;
    browser.until("!document.querySelector('#tile-latency').textContent.startsWith('–')").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_said_and_mended() {
    let (provider, app) = promises::remote(|_| {}).await;
    let id = app.save_text("before").await;
    app.embedding_is(id, "ready").await;
    let browser = dashboard(&app, DESKTOP).await;
    let (data, address) = (app.data(), app.base.trim_start_matches("http://").to_owned());
    app.stop().await;
    browser.says("#connection", "Connection lost").await;
    browser.until("!document.getElementById('lost').hidden && document.body.classList.contains('stale')").await;
    let bind = |settings: &mut Settings| settings.server.bind = address.parse().expect("an address");
    let app = promises::remote_over(data, &provider, bind).await;
    browser.says("#connection", "Live").await;
    browser.until("document.getElementById('lost').hidden && !document.body.classList.contains('stale')").await;
    // Live again, and not only so called.
    let id = app.save_text("after").await;
    browser.says(&format!("#activity [data-id='{id}']"), "ready").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_provider_is_like_is_told() {
    let (provider, app) = promises::remote(|settings| {
        settings.embedder.requests_per_minute = 600;
        settings.embedder.price_per_million_tokens = 1_000.0;
        settings.queue.max_retries = 5;
    })
    .await;
    let browser = dashboard(&app, DESKTOP).await;
    provider.next(Behaviour::status(500, "oops"));
    let id = app.save_text("a quiet place").await;
    app.embedding_is(id, "ready").await;
    browser.says("#provider-state", "breaker closed").await;
    browser.says("#provider", "of 600").await;
    browser.says("#provider", "Failed calls1 ").await;
    browser.says("#provider", "p50 ").await;
    browser
        .until("/Today[\\d,]+ tokens, \\$0\\.0[1-9]/.test(document.getElementById('provider').textContent)")
        .await;
    provider.always(Behaviour::status(401, "no such key"));
    app.save_text("another").await;
    browser.says("#provider-state", "breaker open").await;
    browser.says("#summary", "The provider can't be used").await;
    browser.until("!document.getElementById('provider-error').hidden").await;
    browser.says("#workers", "working").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_finds_no_room_among_the_listeners_sees_the_numbers_all_the_same() {
    let app = TestApp::with(|settings| settings.server.max_event_listeners = 0).await;
    app.save(&json!({ "user_id": user(1), "description": "seen", "visibility": "public" })).await;
    let browser = Browser::open(&format!("{}/dashboard", app.base), DESKTOP).await;
    browser.says("#connection", "Every two seconds").await;
    browser.says("#summary", "every recommendation has its embedding").await;
    browser.until("document.getElementById('lost').hidden").await;
    app.stop().await;
}

/// Answers requests that have this in their address in the service's place.
fn answering(part: &str, answer: &str) -> String {
    format!(
        "const real = window.fetch; window.fetch = async (url, init) => {{ \
         const say = (status, body) => new Response(JSON.stringify(body), {{ status }}); \
         if (String(url).includes({part:?})) {{ {answer} }} return real(url, init); }};"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhook_deliveries_are_shown_where_there_are_any() {
    let app = TestApp::start().await;
    let page = format!("{}/dashboard", app.base);
    let gone = answering("/api/webhooks", "return say(404, { success: false, message: 'no such route' });");
    let browser = Browser::open_after(&page, DESKTOP, &gone).await;
    browser.says("#jobs", "There was none yet").await;
    browser.until("document.getElementById('hooks-card').hidden").await;
    let endpoints = json!([
        { "id": 1, "url": "https://example.com/hooks", "enabled": true, "failing_since": null },
        { "id": 2, "url": "https://example.org/other", "enabled": false, "disabled_at": "2026-01-01T00:00:00Z",
          "disabled_reason": "410 Gone", "failing_since": null },
    ]);
    let deliveries = json!({ "items": [{
        "id": 12, "event": "embedding.ready", "state": "delivered", "attempts": 2, "next_attempt_at": null,
        "created_at": "2026-01-01T00:00:00Z", "last_attempt": { "at": "2026-01-01T00:00:05Z", "status": 204, "duration_ms": 31, "error": null },
    }], "next_cursor": null });
    let answer = format!(
        "if (String(url).includes('/1/deliveries')) return say(200, {{ data: {deliveries} }}); \
         if (String(url).includes('/deliveries')) return say(200, {{ data: {{ items: [] }} }}); \
         return say(200, {{ data: {endpoints} }});"
    );
    let browser = Browser::open_after(&page, DESKTOP, &answering("/api/webhooks", &answer)).await;
    browser.says("#hooks-note", "2 endpoints, 1 disabled").await;
    browser.says("#hooks tr:first-child", "embedding.ready").await;
    browser.says("#hooks tr:first-child", "204, 31 ms").await;
    browser.says("#hooks tr:nth-child(2)", "410 Gone").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_asked_for_where_one_is_wanted_and_sent_with_everything() {
    let app = TestApp::start().await;
    let refuse = "if (new Headers(init?.headers).get('authorization') !== 'Bearer right one') \
                  return say(401, { success: false, message: 'a token is required' });";
    let page = format!("{}/dashboard", app.base);
    let browser = Browser::open_after(&page, DESKTOP, &answering("/api/", refuse)).await;
    browser.until("document.getElementById('token-box').open").await;
    browser.says("#token-text", "a token is required").await;
    browser.press("wrong one\u{e007}").await;
    browser.until("document.getElementById('token-box').open").await;
    browser.run("document.getElementById('token').value = ''").await;
    browser.press("right one\u{e007}").await;
    browser.says("#connection", "Live").await;
    browser.says("#summary", "Nothing has been saved yet").await;
    // With this tab it is forgotten.
    assert_eq!(browser.run("return [sessionStorage.length, localStorage.length]").await, json!([1, 0]));
    app.stop().await;
}
