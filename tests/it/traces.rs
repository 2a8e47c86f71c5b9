//! One trace from the save through the queue to the vector.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use reqwest::Method;
use serde_json::json;

use crate::promises::remote;
use crate::support::app::{TestApp, user};
use crate::support::provider::Behaviour;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// Takes spans, as a collector does.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

async fn take(State(collector): State<Collector>, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    collector.0.lock().expect("no panic").extend(scopes.flat_map(|scope| scope.spans));
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Collector {
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(collector.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (collector, address)
    }

    /// The spans of a trace, by their names; of a name that comes several times in the order of their beginnings.
    fn of(&self, trace: &str) -> HashMap<String, Vec<Span>> {
        let mut spans = HashMap::<String, Vec<Span>>::new();
        for span in self.0.lock().expect("no panic").iter().filter(|span| hex(&span.trace_id) == trace) {
            spans.entry(span.name.clone()).or_default().push(span.clone());
        }
        spans.values_mut().for_each(|spans| spans.sort_by_key(|span| span.start_time_unix_nano));
        spans
    }
}

async fn save(app: &TestApp, description: &str, traceparent: &str) -> i64 {
    let request = app
        .request(Method::POST, "/api/recommendations/save")
        .header("traceparent", traceparent)
        .json(&json!({ "user_id": user(1), "description": description }));
    app.send(request).await.data(201)["recommendation_id"].as_i64().expect("an id")
}

fn parent(span: &Span) -> String {
    hex(&span.parent_span_id)
}

fn id(span: &Span) -> String {
    hex(&span.span_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_its_message_its_call_and_its_write_are_one_trace() {
    let (collector, address) = Collector::start().await;
    let (provider, app) = remote(|settings| {
        settings.traces.otlp_endpoint = address;
        settings.queue.retry_delay_ms = 20;
    })
    .await;
    // The first attempt fails: a retry is of the same trace.
    provider.next(Behaviour::status(500, "no"));
    let row = save(&app, "traced", &format!("00-{TRACE}-{CALLER}-01")).await;
    app.embedding_is(row, "ready").await;
    // Not sampled by the caller, and no traceparent at all.
    let quiet = "0".repeat(31) + "1";
    let unsampled = save(&app, "unsampled", &format!("00-{quiet}-{CALLER}-00")).await;
    app.embedding_is(unsampled, "ready").await;
    let wrong = save(&app, "its traceparent is none", "nonsense").await;
    app.embedding_is(wrong, "ready").await;
    // What is left is sent at the end.
    app.stop().await;

    let spans = collector.of(TRACE);
    let one = |name: &str| {
        let of = spans.get(name).unwrap_or_else(|| panic!("no {name} among {:?}", spans.keys()));
        assert_eq!(of.len(), 1, "{name}");
        of[0].clone()
    };
    let request = one("POST /api/recommendations/save");
    assert_eq!(parent(&request), CALLER);
    let publish = one("publish");
    assert_eq!(parent(&publish), id(&request));
    let attempts = &spans["embed"];
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    for attempt in attempts {
        assert_eq!(parent(attempt), id(&publish));
        assert!(attempt.start_time_unix_nano >= publish.start_time_unix_nano);
        assert!(attempt.end_time_unix_nano > attempt.start_time_unix_nano);
    }
    let failed = attempts[0].status.as_ref().expect("a status");
    assert!(failed.message.contains("500"), "{failed:?}");
    assert!(attempts[1].status.as_ref().is_none_or(|status| status.code == 0));
    let calls = &spans["call the provider"];
    assert_eq!(calls.iter().map(parent).collect::<Vec<_>>(), attempts.iter().map(id).collect::<Vec<_>>());
    assert_eq!(parent(&one("write back")), id(&attempts[1]));
    let attributes = |span: &Span| format!("{:?}", span.attributes);
    assert!(attributes(&attempts[1]).contains("mapx.recommendation_id"));
    assert!(!format!("{spans:?}").contains("traced\""), "no text of a user");

    assert!(collector.of(&quiet).is_empty());
    // The one without a traceparent began a trace of its own, which went all the way.
    let all = collector.0.lock().expect("no panic").clone();
    let first = |span: &&Span| span.parent_span_id.is_empty() && span.name == "POST /api/recommendations/save";
    let began: Vec<&Span> = all.iter().filter(first).collect();
    assert_eq!(began.len(), 1, "{began:?}");
    let own = collector.of(&hex(&began[0].trace_id));
    assert!(own.contains_key("write back"), "{:?}", own.keys());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_is_a_trace_and_a_collector_that_is_away_holds_up_nothing() {
    let (collector, address) = Collector::start().await;
    let (_provider, app) = remote(|settings| {
        settings.traces.otlp_endpoint = address;
        settings.traces.sample_ratio = 0.0;
    })
    .await;
    let row = app.save_text("untraced").await;
    app.embedding_is(row, "ready").await;
    let request = app
        .request(Method::PUT, &format!("/api/recommendations/{row}"))
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"))
        .header("x-user-id", user(1).to_string())
        .json(&json!({ "description": "edited and traced" }));
    app.send(request).await.data(200);
    app.drained().await;
    app.stop().await;
    let spans = collector.of(TRACE);
    for name in ["PUT /api/recommendations/{id}", "publish", "embed", "call the provider", "write back"] {
        assert!(spans.contains_key(name), "no {name} among {:?}", spans.keys());
    }
    let all = collector.0.lock().expect("no panic").len();
    assert_eq!(all, spans.values().map(Vec::len).sum::<usize>(), "nothing else was sampled");

    let (_provider, app) = remote(|settings| settings.traces.otlp_endpoint = "http://127.0.0.1:9".into()).await;
    let row = save(&app, "traced to nobody", &format!("00-{TRACE}-{CALLER}-01")).await;
    app.embedding_is(row, "ready").await;
    app.stop().await;
}
