//! Web pages: ours, those that are named, and all others.

use serde_json::json;

use super::{API, QUEUE, SAVE, SEARCH, call, guarded, token_of};
use crate::support::app::TestApp;

const PAGE: &str = "https://app.example.org";
const EVIL: &str = "https://evil.example.org";

async fn app(origins: &str) -> TestApp {
    TestApp::with(|settings| {
        guarded(settings);
        settings.server.cors_origins = mapx_embeddings::config::words::Words::new(origins.split(','));
    })
    .await
}

async fn preflight(app: &TestApp, origin: &str) -> super::Seen {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    call(app, "OPTIONS", &format!("{API}/1"), &headers, None).await
}

#[tokio::test]
async fn a_named_page_may_call_and_no_other() {
    let app = app(&format!("{PAGE},http://localhost:5173")).await;
    let allowed = |seen: &super::Seen| {
        seen.headers.get("access-control-allow-origin").map(|origin| origin.to_str().unwrap().to_owned())
    };
    let seen = preflight(&app, PAGE).await;
    assert_eq!((seen.status.as_u16(), allowed(&seen).as_deref()), (200, Some(PAGE)));
    let methods = seen.headers["access-control-allow-methods"].to_str().unwrap();
    assert!(["GET", "POST", "PUT", "PATCH", "DELETE"].iter().all(|method| methods.contains(method)), "{methods}");
    assert!(seen.headers["access-control-allow-headers"].to_str().unwrap().contains("authorization"));
    assert!(!seen.headers.contains_key("access-control-allow-credentials"));
    for other in [EVIL, "null", "https://app.example.org.evil.example", "http://app.example.org"] {
        assert_eq!(allowed(&preflight(&app, other).await), None, "{other}");
    }
    // A refusal can be read by the page too, or it could not tell its user.
    let bearer = format!("Bearer {}", token_of(1));
    for authorization in [bearer.as_str(), "Bearer wrong"] {
        let headers = [("origin", PAGE), ("authorization", authorization)];
        let seen = call(&app, "GET", &format!("{QUEUE}/status"), &headers, None).await;
        assert_eq!(allowed(&seen).as_deref(), Some(PAGE), "{}", seen.text);
        assert!(seen.headers["vary"].to_str().unwrap().contains("origin"));
    }
    app.stop().await;
}

#[tokio::test]
async fn without_named_pages_no_header_invites_one() {
    let app = TestApp::start().await;
    let seen = preflight(&app, PAGE).await;
    assert_eq!(seen.status, 405);
    assert!(!seen.headers.keys().any(|name| name.as_str().starts_with("access-control")), "{:?}", seen.headers);
    app.stop().await;
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing_behind_its_readers_back() {
    // Without authentication the browser of whoever sits at this machine is as good as they are.
    let app = TestApp::with(|settings| {
        settings.server.cors_origins = mapx_embeddings::config::words::Words::new([PAGE]);
    })
    .await;
    let pause = format!("{QUEUE}/pause");
    let send = async |site: &str, origin: &str, path: &str| {
        let headers = [("sec-fetch-site", site), ("origin", origin), ("content-type", "text/plain")];
        call(&app, "POST", path, &headers, Some(&json!({}))).await
    };
    for path in [&*pause, SAVE, SEARCH] {
        send("cross-site", EVIL, path).await.refused(403, "CROSS_SITE");
    }
    assert!(app.queue().await["paused"]["low"].is_null());
    send("cross-site", PAGE, &pause).await.data(200);
    for site in ["same-origin", "same-site", "none"] {
        send(site, EVIL, &pause).await.data(200);
    }
    app.stop().await;
}

#[tokio::test]
async fn every_answer_tells_browsers_to_run_nothing() {
    let app = app("").await;
    for path in ["/health/live", "/openapi.json", "/nowhere", "/metrics", &format!("{QUEUE}/config")] {
        let seen = call(&app, "GET", path, &[], None).await;
        let header = |name: &str| seen.headers[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-security-policy"), "default-src 'none'; frame-ancestors 'none'", "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cache-control"), "no-store");
    }
    app.stop().await;
}

#[test]
fn a_page_of_ours_runs_only_what_comes_with_it() {
    let policy = mapx_embeddings::http::origins::PAGE_POLICY;
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    for word in ["unsafe", "*", "http:", "https:", "inline"] {
        assert!(!policy.contains(word), "{policy}");
    }
    for rule in [
        "script-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ] {
        assert!(policy.split("; ").any(|part| part == rule), "{rule}: {policy}");
    }
}
