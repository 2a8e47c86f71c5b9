//! Distributed traces: one from the save through the queue to the vector, sent to a collector over OTLP.
//!
//! Off unless an endpoint is set, and then nothing is made. A span of a worker always has one of a save above it: a
//! backlog of untraced tasks makes no traces of its own.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
    TracerProvider,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};

use crate::config::traces::TraceSettings;
use crate::domain::trace::TraceParent;

/// For one batch of spans. What a collector doesn't take is lost, and nothing waits for it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of the process waits for the last spans.
const LAST: Duration = Duration::from_secs(3);
const NAME: &str = "mapx-embeddings";

/// Why no spans can be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    #[error("traces.otlp_endpoint: {0}")]
    Exporter(String),
}

/// Where spans go; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<Sending>>);

#[derive(Debug)]
struct Sending {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

/// What a span stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request to us.
    Server,
    /// A message handed to the broker.
    Producer,
    /// A message that is worked on.
    Consumer,
    /// Something that is waited for: the provider, the database.
    Client,
}

impl Kind {
    fn of(self) -> SpanKind {
        match self {
            Self::Server => SpanKind::Server,
            Self::Producer => SpanKind::Producer,
            Self::Consumer => SpanKind::Consumer,
            Self::Client => SpanKind::Client,
        }
    }
}

/// A span from its beginning to its drop; nothing at all where it isn't recorded.
#[derive(Debug, Default)]
pub struct Span(Option<opentelemetry_sdk::trace::Span>);

impl Traces {
    /// Begins to send to the settings' endpoint; within a tokio runtime. `process` tells this one from others.
    ///
    /// # Errors
    /// When the endpoint can't be one. One that doesn't answer is no error: spans are then dropped.
    pub fn start(settings: &TraceSettings, process: &str) -> Result<Self, TracesError> {
        if settings.otlp_endpoint.is_empty() {
            return Ok(Self::default());
        }
        let told = |error: &dyn std::fmt::Display| TracesError::Exporter(error.to_string());
        let client = reqwest::Client::builder().timeout(TIMEOUT).build().map_err(|error| told(&error))?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Sender { client, runtime: tokio::runtime::Handle::current() })
            .with_endpoint(format!("{}/v1/traces", settings.otlp_endpoint.trim_end_matches('/')))
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|error| told(&error))?;
        let instance = KeyValue::new("service.instance.id", process.to_owned());
        let resource = Resource::builder().with_service_name(NAME).with_attribute(instance).build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample_ratio))))
            .with_resource(resource)
            .build();
        Ok(Self(Some(Arc::new(Sending { tracer: provider.tracer(NAME), provider }))))
    }

    /// A span under `parent`, or the first of a trace of its own.
    pub fn begin<N: Into<Cow<'static, str>>>(
        &self,
        kind: Kind,
        name: impl FnOnce() -> N,
        parent: Option<TraceParent>,
    ) -> Span {
        let Some(sending) = &self.0 else { return Span(None) };
        let context = match parent.and_then(remote) {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        let builder = sending.tracer.span_builder(name()).with_kind(kind.of());
        let span = sending.tracer.build_with_context(builder, &context);
        Span(span.is_recording().then_some(span))
    }

    /// A span under `parent`; nothing where there is none.
    pub fn follow(&self, kind: Kind, name: &'static str, parent: Option<TraceParent>) -> Span {
        if parent.is_some() { self.begin(kind, || name, parent) } else { Span(None) }
    }

    /// Sends what there is left; after it, nothing more is sent.
    pub async fn stop(&self) {
        let Some(sending) = self.0.clone() else { return };
        // It waits for its own thread, which needs the runtime to send.
        let stopped = tokio::task::spawn_blocking(move || sending.provider.shutdown_with_timeout(LAST)).await;
        if let Ok(Err(error)) = stopped {
            tracing::debug!(%error, "the last spans could not be sent");
        }
    }
}

/// The span of that name as one of another process.
fn remote(parent: TraceParent) -> Option<SpanContext> {
    let trace = TraceId::from_hex(parent.trace_id()).ok()?;
    let span = SpanId::from_hex(parent.span_id()).ok()?;
    let flags = TraceFlags::default().with_sampled(parent.is_sampled());
    Some(SpanContext::new(trace, span, flags, true, TraceState::default()))
}

impl Span {
    /// What goes on with this span above it.
    pub fn context(&self) -> Option<TraceParent> {
        let context = self.0.as_ref()?.span_context().clone();
        let flags = context.trace_flags().to_u8();
        TraceParent::parse(&format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id()))
    }

    /// A detail, by its name in OpenTelemetry's conventions where there is one.
    /// Its value is asked for only where the span is recorded.
    pub fn set<V: Into<Value>>(&mut self, key: &'static str, value: impl FnOnce() -> V) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(key, value()));
        }
    }

    /// It did not go well.
    pub fn fail(&mut self, reason: &str) {
        if let Some(span) = &mut self.0 {
            span.set_status(Status::error(reason.to_owned()));
        }
    }
}

/// Sends batches of spans; they come from a thread of the exporter's own.
#[derive(Debug)]
struct Sender {
    client: reqwest::Client,
    runtime: tokio::runtime::Handle,
}

#[async_trait::async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let answer = client.execute(request).await?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            Ok::<_, reqwest::Error>((status, headers, answer.bytes().await?))
        });
        let (status, headers, body) = sent.await??;
        let mut response = Response::builder().status(status).body(body)?;
        *response.headers_mut() = headers;
        Ok(response)
    }
}
