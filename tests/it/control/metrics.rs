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
            let described = known.last().expect("a metric");
            let of = ["", "_bucket", "_sum", "_count"].map(|part| format!("{described}{part}"));
            assert!(of.iter().any(|of| of == name), "{line}");
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

/// The value of a sample, by its name and labels.
fn value(text: &str, sample: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in:\n{text}")).parse().expect("a number")
}

/// Buckets rise, and the last one is the count.
fn assert_histogram(text: &str, name: &str, labels: &str) {
    let buckets: Vec<f64> = text
        .lines()
        .filter(|line| line.starts_with(&format!("{name}_bucket{{{labels}")))
        .map(|line| line.rsplit_once(' ').expect("a value").1.parse().expect("a number"))
        .collect();
    let braces = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.trim_end_matches(',')) };
    assert!(buckets.len() > 5 && buckets.is_sorted(), "{name}: {buckets:?}");
    assert_eq!(buckets.last(), Some(&value(text, &format!("{name}_count{braces}"))), "{name}");
    assert!(value(text, &format!("{name}_sum{braces}")) >= 0.0);
}

#[tokio::test]
async fn distributions_tell_how_long_everything_took() {
    let (provider, app) = remote(|settings| {
        settings.queue.max_concurrent = 1;
        settings.queue.batch_size = 2;
    })
    .await;
    // What is measured below is at least this long.
    provider.always(Behaviour::Delay(std::time::Duration::from_millis(150)));
    for n in 0..4 {
        app.save_text(&format!("text {n}")).await;
    }
    app.drained().await;
    let missing = app.request(Method::GET, "/api/recommendations/999999").send().await.expect("an answer");
    assert_eq!(missing.status(), 404);
    let none = app.request(Method::GET, "/nowhere/at/all").send().await.expect("an answer");
    assert_eq!(none.status(), 404);
    let metrics = text(&app).await;
    assert_format(&metrics);
    for (name, labels) in [
        ("mapx_queue_wait_seconds", "lane=\"normal\","),
        ("mapx_provider_call_seconds", "outcome=\"answered\","),
        ("mapx_call_texts", ""),
        ("mapx_write_back_seconds", ""),
        ("mapx_save_to_ready_seconds", ""),
        ("mapx_publish_seconds", ""),
        ("mapx_http_request_seconds", "method=\"POST\",route=\"/api/recommendations/save\",status=\"201\","),
    ] {
        assert_histogram(&metrics, name, labels);
    }
    let value = |sample: &str| value(&metrics, sample);
    assert_eq!(value("mapx_save_to_ready_seconds_count"), 4.0);
    assert!(value("mapx_save_to_ready_seconds_sum") >= 4.0 * 0.15, "from the save, not from the call");
    assert_eq!(value("mapx_queue_wait_seconds_count{lane=\"normal\"}"), 4.0);
    assert_eq!(value("mapx_queue_wait_seconds_count{lane=\"low\"}"), 0.0);
    assert_eq!(value("mapx_call_texts_sum"), 4.0);
    assert!(value("mapx_provider_call_seconds_sum{outcome=\"answered\"}") >= 0.15);
    assert!(value("mapx_write_back_seconds_count") >= 1.0 && value("mapx_publish_seconds_count") >= 1.0);
    assert_eq!(
        value(
            "mapx_http_request_seconds_count{method=\"POST\",route=\"/api/recommendations/save\",status=\"201\"}"
        ),
        4.0
    );
    assert_eq!(
        value("mapx_http_request_seconds_count{method=\"GET\",route=\"/api/recommendations/{id}\",status=\"404\"}"),
        1.0
    );
    // A path that is no route is not repeated: a client could fill the memory with them.
    assert_eq!(value("mapx_http_request_seconds_count{method=\"GET\",route=\"-\",status=\"404\"}"), 1.0);
    app.stop().await;
}

/// The names of metrics in a file.
fn named(text: &str) -> Vec<&str> {
    let ends =
        |at: usize| text[at..].find(|c: char| !c.is_ascii_lowercase() && c != '_').map_or(text.len(), |n| at + n);
    text.match_indices("mapx_").map(|(at, _)| &text[at..ends(at)]).collect()
}

#[tokio::test]
async fn what_the_dashboard_the_alerts_and_the_autoscaler_ask_for_is_told() {
    let (_provider, app) = remote(|settings| settings.embedder.requests_per_minute = 1_000).await;
    let metrics = eventually("a heartbeat", async || {
        let text = text(&app).await;
        text.contains("mapx_process_up{").then_some(text)
    })
    .await;
    let told: Vec<&str> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for file in ["grafana/dashboards/mapx-embeddings.json", "prometheus/alerts.yml", "keda.yaml"] {
        let path = format!("{}/config/{file}", env!("CARGO_MANIFEST_DIR"));
        let asked = std::fs::read_to_string(path).expect("the file is there");
        let names = named(&asked);
        assert!(!names.is_empty(), "{file}");
        for name in names {
            let parts = ["_bucket", "_sum", "_count"].map(|part| name.strip_suffix(part));
            let of = parts.into_iter().flatten().chain([name]).any(|name| told.contains(&name));
            assert!(of, "{file} asks for {name}, which nothing tells");
        }
    }
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
