//! Nothing is sent inside unless that is allowed: not as it is written, not as it is looked up, not by a redirect.

use serde_json::json;

use super::receiver::{Receiver, Reply};
use super::{WEBHOOKS, at, here, newest_is, register, service};
use crate::promises;
use crate::support::app::{TestApp, eventually};

/// Addresses inside, in more than one spelling.
const INSIDE: [&str; 24] = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "[::]",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::10.0.0.1]",
    "[fe80::1]",
    "[fd00::1]",
    "[ff02::1]",
    "localhost",
    "hooks.localhost.",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_inside_is_refused_when_it_is_registered_and_when_it_is_changed() {
    let app = TestApp::start().await;
    let outside = json!({ "url": "https://example.com/hook" });
    let id = app.post(WEBHOOKS, &outside).await.data(201)["id"].as_i64().expect("an id");
    for host in INSIDE {
        let body = json!({ "url": format!("http://{host}:8080/hook") });
        let refused = app.post(WEBHOOKS, &body).await;
        let problem = refused.refusal(400);
        assert!(
            problem.starts_with("url leads to an address that is ") && problem.contains("webhook.allow_private"),
            "{host}: {problem}"
        );
        let refused = app.send(app.request(reqwest::Method::PATCH, &at(id)).json(&body)).await;
        assert!(refused.refusal(400).starts_with("url leads to an address that is "), "{host}");
    }
    for (url, told) in [
        ("https://me:pass@example.com/", "url must not hold a user or a password"),
        ("ftp://example.com/", "url must begin with https://"),
        ("/hook", "url must be a URL"),
    ] {
        let refused = app.post(WEBHOOKS, &json!({ "url": url })).await;
        assert!(refused.refusal(400).starts_with(told), "{url}: {}", refused.body);
        assert!(!refused.body.to_string().contains("pass@"), "{}", refused.body);
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_registered_when_it_was_allowed_is_not_sent_when_it_no_longer_is() {
    let (provider, app, receiver) = service(|settings| settings.webhook.retry_schedule_ms = vec![]).await;
    let written = register(&app, &receiver, json!({})).await;
    let named = json!({ "url": format!("http://localhost:{}/hook", receiver.port()) });
    let named = app.post(WEBHOOKS, &named).await.data(201)["id"].as_i64().expect("an id");
    app.save_text("somewhere quiet").await;
    receiver.has(2).await;
    let data = app.data();
    app.stop().await;
    let app = promises::remote_over(data, &provider, |settings| {
        here(settings);
        settings.webhook.retry_schedule_ms = vec![];
        settings.webhook.allow_private = false;
    })
    .await;
    app.save_text("somewhere else").await;
    for id in [written.id, named] {
        let refused = eventually("it is refused", async || {
            let delivery = super::deliveries(&app, id).await.remove(0);
            (delivery["state"] == "failed").then_some(delivery)
        })
        .await;
        let error = refused["last_attempt"]["error"].as_str().expect("an error");
        assert!(error.contains("loopback") && error.contains("webhook.allow_private"), "{error}");
        assert!(refused["last_attempt"]["status"].is_null());
    }
    assert_eq!(receiver.received().len(), 2);
    app.stop().await;
}

/// This machine's own name leads to it, by /etc/hosts or by DNS: an address that only a lookup reveals.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_leads_inside_is_refused_when_it_is_looked_up() {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux").trim().to_owned();
    let (_provider, app, _receiver) = service(|settings| {
        settings.webhook.allow_private = false;
        settings.webhook.retry_schedule_ms = vec![];
    })
    .await;
    let body = json!({ "url": format!("http://{name}:1/hook") });
    let id = app.post(WEBHOOKS, &body).await.data(201)["id"].as_i64().expect("an id");
    app.post(&at(format!("{id}/test")), &json!({})).await.data(202);
    let refused = newest_is(&app, id, "failed").await;
    let error = refused["last_attempt"]["error"].as_str().expect("an error");
    match tokio::net::lookup_host((name.as_str(), 1)).await {
        Ok(_) => assert!(error.contains("refused: the name has an address that is "), "{error}"),
        Err(_) => assert!(error.contains("dns"), "{error}"),
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let (_provider, app, receiver) = service(|settings| settings.webhook.retry_schedule_ms = vec![]).await;
    let elsewhere = Receiver::start().await;
    let hook = register(&app, &receiver, json!({})).await;
    receiver.next(Reply::Redirect(elsewhere.url("/inside")));
    app.save_text("somewhere quiet").await;
    let failed = newest_is(&app, hook.id, "failed").await;
    let attempt = &failed["history"][0];
    assert_eq!(
        (&attempt["status"], &attempt["error"]),
        (&json!(307), &json!("status 307: redirects are not followed"))
    );
    assert_eq!((receiver.received().len(), elsewhere.received().len()), (1, 0));
    app.stop().await;
}
