//! `GET /metrics`.

use reqwest::Method;

use crate::promises::{called, remote};
use crate::support::app::{TestApp, eventually};
use crate::support::provider::Behaviour;

pub async fn text(app: &TestApp) -> String {
    let answer = app.request(Method::GET, "/metrics").send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    answer.text().await.expect("a body")
}

/// Every sample belongs to a metric that was described before it, and is a number.
fn assert_format(text: &str) {
    let mut known = Vec::new();
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            let name = described.split(' ').next().unwrap();
            assert!(!known.contains(&name), "{name} twice");
            known.push(name);
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            let name = name.split('{').next().unwrap();
            assert_eq!(known.last(), Some(&name), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}

#[tokio::test]
async fn an_autoscaler_reads_what_waits_what_runs_and_what_holds_it_back() {
    let (provider, app) = remote(|settings| {
        settings.queue.max_concurrent = 1;
        settings.queue.batch_size = 1;
        settings.embedder.requests_per_minute = 1_000;
    })
    .await;
    provider.always(Behaviour::Hold);
    for n in 0..4 {
        app.save_text(&format!("text {n}")).await;
    }
    called(&provider, 1).await;
    let metrics = eventually("what runs is told", async || {
        let text = text(&app).await;
        let told = text.lines().any(|line| line.starts_with("mapx_in_flight{") && line.ends_with(" 1"));
        told.then_some(text)
    })
    .await;
    assert_format(&metrics);
    let has = |line: &str| metrics.lines().any(|told| told == line);
    assert!(has("mapx_lane_tasks{lane=\"normal\"} 4"), "{metrics}");
    assert!(has("mapx_lane_oldest_seconds{lane=\"low\"} 0"), "{metrics}");
    assert!(has("mapx_provider_limit{kind=\"requests\"} 1000"), "{metrics}");
    let open = |line: &&str| line.starts_with("mapx_provider_breaker{") && line.contains("state=\"closed\"");
    assert!(metrics.lines().find(open).expect("the breaker").ends_with(" 1"), "{metrics}");
    provider.behave();
    provider.release();
    app.drained().await;
    app.stop().await;
}

#[tokio::test]
async fn a_local_model_has_no_breaker_and_no_limits() {
    let app = TestApp::start().await;
    let metrics = text(&app).await;
    assert_format(&metrics);
    assert!(!metrics.contains("mapx_provider_limit") && !metrics.contains("mapx_provider_breaker{"), "{metrics}");
    app.stop().await;
}
