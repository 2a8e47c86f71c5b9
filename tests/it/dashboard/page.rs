//! The page itself: nothing from elsewhere, nothing that runs in it but its own scripts, for keyboards and phones.

use serde_json::json;

use super::{DEAD, DESKTOP, PHONE, dashboard};
use crate::promises;
use crate::support::app::{TestApp, user};
use crate::support::provider::{Behaviour, FakeProvider};

/// What a person might put into a text, and a provider into an error.
const MARKUP: &str = "<img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>";
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";

/// A service with something in every panel.
async fn full() -> (FakeProvider, TestApp) {
    let (provider, app) = promises::remote(|settings| settings.queue.max_retries = 0).await;
    let error = json!({ "error": { "message": format!("{MARKUP}{}", "long".repeat(60)) } });
    provider.when_contains("poison", Behaviour::status(400, &error.to_string()));
    let body = json!({ "user_id": user(1), "title": MARKUP, "description": "quiet desk", "visibility": "public" });
    let ready = app.save(&body).await;
    let failed = app.save_text("poison").await;
    app.embedding_is(ready, "ready").await;
    app.embedding_is(failed, "failed").await;
    app.post("/api/recommendations/regenerate-embeddings", &json!({ "scope": "missing" })).await.data(202);
    app.drained().await;
    (provider, app)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_complains_of_nothing_and_asks_nobody_else() {
    let (_provider, app) = full().await;
    let browser = dashboard(&app, DESKTOP).await;
    browser.says(DEAD, "onerror").await;
    browser.click("#query").await;
    browser.press(&format!("quiet desk{ENTER}")).await;
    browser.says("#results", MARKUP).await;
    assert_eq!(browser.run("return window.hacked ?? null").await, json!(null), "markup in data ran");
    // Script that comes in by another way is refused, too.
    let script = "const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s); \
                  return window.hacked ?? null";
    assert_eq!(browser.run(script).await, json!(null), "the policy lets inline scripts run");
    // The browser's own page comes before ours.
    let inside = [app.base.as_str(), "data:", "chrome:"];
    let outside = |url: &String| !inside.iter().any(|begin| url.starts_with(begin));
    let requests = browser.requests().await;
    assert!(requests.iter().any(|url| url.ends_with("/dashboard/app.js")), "{requests:#?}");
    assert_eq!(requests.iter().filter(|url| outside(url)).collect::<Vec<_>>(), [] as [&String; 0]);
    let mut complaints = browser.complaints().await;
    // What this test tried itself, and a service without webhooks.
    let own = complaints.iter().filter(|text| text.contains("Content Security Policy")).count();
    complaints.retain(|text| !text.contains("Content Security Policy") && !text.contains("/api/webhooks"));
    assert_eq!((complaints, own), (Vec::<String>::new(), 1));
    app.stop().await;
}

#[tokio::test]
async fn every_file_comes_with_a_strict_policy_and_none_from_elsewhere() {
    let app = TestApp::start().await;
    for file in ["", "/app.js", "/api.js", "/charts.js", "/page.js", "/queue.js", "/work.js", "/style.css"] {
        let path = format!("/dashboard{file}");
        let response = app.request(reqwest::Method::GET, &path).send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
        let policy = header("content-security-policy");
        // A file that is opened by itself loads nothing at all.
        let own = if file.is_empty() { "; script-src 'self'; style-src 'self'" } else { "; frame-ancestors" };
        assert!(policy.starts_with(&format!("default-src 'none'{own}")), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        let text = response.text().await.expect("text");
        let addresses = text.split("http").skip(1).map(|rest| format!("http{}", &rest[..rest.len().min(30)]));
        let outside: Vec<String> =
            addresses.filter(|address| address.contains("://") && !address.contains("www.w3.org")).collect();
        assert_eq!(outside, Vec::<String>::new(), "{path}");
        assert!(!text.contains("innerHTML") && !text.contains(" style=") && !text.contains("onclick="), "{path}");
    }
    app.get("/dashboard/other.js", None).await.refusal(404);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_it_can_be_done_with_a_keyboard() {
    let (_provider, app) = full().await;
    let browser = dashboard(&app, DESKTOP).await;
    browser.says(DEAD, "onerror").await;
    let focused = "document.activeElement";
    for _ in 0..40 {
        browser.press(TAB).await;
        if browser.run(&format!("return {focused}.textContent === 'Replay'")).await == true {
            break;
        }
    }
    browser.until(&format!("{focused}.textContent === 'Replay' && {focused}.matches(':focus-visible')")).await;
    browser.press(ENTER).await;
    browser.until(&format!("document.getElementById('confirm').open && {focused}.closest('dialog')")).await;
    browser.press(ESCAPE).await;
    browser.until(&format!("!document.getElementById('confirm').open && {focused}.textContent === 'Replay'")).await;
    // Redrawing takes nobody's focus.
    app.save_text("another").await;
    browser.says("#activity", "ready").await;
    browser.until(&format!("{focused}.textContent === 'Replay'")).await;
    assert_eq!(app.queue().await["deadLettered"], 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_fits_a_phone() {
    let (_provider, app) = full().await;
    let browser = dashboard(&app, PHONE).await;
    browser.says(DEAD, "onerror").await;
    browser.says("#jobs", "Job 1").await;
    let wide = "const page = document.documentElement; return page.scrollWidth - page.clientWidth";
    assert_eq!(browser.run(wide).await, 0, "it scrolls sideways");
    let small = "return [...document.querySelectorAll('button')].filter((b) => b.offsetParent && b.offsetHeight < 36).map((b) => b.textContent)";
    assert_eq!(browser.run(small).await, json!([]), "too small for a thumb");
    app.stop().await;
}
