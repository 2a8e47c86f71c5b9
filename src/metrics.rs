//! What monitoring and autoscalers read, in Prometheus' text format.
//!
//! What the database knows is read at the scrape and nothing of it is counted twice; any process tells the same of
//! all. Distributions are each process's own. The few lines of the format need no library.

use std::fmt::{Display, Write};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::db::counts::Counts;
use crate::db::provider::ProviderLimits;
use crate::db::usage::UsageSoFar;
use crate::db::webhooks::WebhookCounts;
use crate::db::workers::Heartbeat;
use crate::db::{Db, DbError};
use crate::domain::intake::Pauses;
use crate::domain::priority::Priority;
use crate::domain::usage::Usage;
use crate::measures::{CallOutcome, Measures, Snapshot};

const LANES: [&str; 3] = ["high", "normal", "low"];
const BREAKER: [&str; 3] = ["closed", "open", "half-open"];

/// Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    db: Db,
    /// Whose limits to tell.
    provider: Option<String>,
    measures: Arc<Measures>,
}

impl Metrics {
    pub fn new(db: Db, provider: Option<String>, measures: Arc<Measures>) -> Self {
        Self { db, provider, measures }
    }

    /// What this process measures.
    pub fn measures(&self) -> &Measures {
        &self.measures
    }

    /// The metrics of this moment.
    pub async fn text(&self) -> Result<String, DbError> {
        let provider = async { tokio::join!(self.limits(), self.usage()) };
        let (counts, workers, pauses, webhooks, (limits, used)) =
            tokio::join!(self.db.counts(), self.db.workers(), self.db.pauses(), self.db.webhook_counts(), provider);
        let mut text = render(&counts?, &workers?, limits?.as_ref(), Utc::now());
        paused(&mut text, &pauses?);
        told(&mut text, &webhooks?);
        if let Some(used) = used? {
            usage(&mut text, &used.total);
        }
        measured(&mut text, &self.measures);
        Ok(text.0)
    }

    /// What calls to the provider took; none for a local model.
    pub async fn usage(&self) -> Result<Option<UsageSoFar>, DbError> {
        match &self.provider {
            Some(_) => self.db.usage().await.map(Some),
            None => Ok(None),
        }
    }

    /// The provider's limits and what is left of them; none for a local model.
    pub async fn limits(&self) -> Result<Option<ProviderLimits>, DbError> {
        match &self.provider {
            Some(key) => self.db.provider_limits(key).await,
            None => Ok(None),
        }
    }
}

fn render(counts: &Counts, workers: &[Heartbeat], limits: Option<&ProviderLimits>, now: DateTime<Utc>) -> Text {
    let mut text = Text::default();
    queue(&mut text, counts, now);
    processes(&mut text, workers);
    if let Some(limits) = limits {
        provider(&mut text, limits, now);
    }
    text
}

fn queue(text: &mut Text, counts: &Counts, now: DateTime<Utc>) {
    let queue = &counts.queue;
    text.begin("mapx_lane_tasks", "gauge", "Tasks that wait or are in a worker's hands, by lane");
    for (lane, open) in LANES.iter().zip(queue.open) {
        text.sample("mapx_lane_tasks", &[("lane", lane)], open);
    }
    text.begin("mapx_lane_oldest_seconds", "gauge", "Age of the longest waiting task, by lane; 0 without one");
    for (lane, oldest) in LANES.iter().zip(queue.oldest_of) {
        let age = oldest.map_or(0.0, |at| (now - at).num_milliseconds().max(0) as f64 / 1e3);
        text.sample("mapx_lane_oldest_seconds", &[("lane", lane)], age);
    }
    text.one("mapx_tasks_retrying", "gauge", "Tasks that failed and wait for the next attempt", queue.retrying);
    text.one("mapx_tasks_dead", "gauge", "Tasks in the dead letters", queue.dead);
    text.one("mapx_recommendations", "gauge", "Recommendations in all", counts.recommendations);
    let open = counts.unembedded;
    text.one("mapx_recommendations_unembedded", "gauge", "Recommendations without a vector of their text", open);
}

fn paused(text: &mut Text, pauses: &Pauses) {
    text.begin("mapx_lane_paused", "gauge", "Whether no worker takes from a lane, as somebody has paused it");
    for lane in Priority::ALL {
        let paused = u8::from(pauses.is_paused(lane));
        text.sample("mapx_lane_paused", &[("lane", lane.name())], paused);
    }
}

fn told(text: &mut Text, counts: &WebhookCounts) {
    text.one("mapx_webhooks", "gauge", "Webhooks in all", counts.endpoints);
    text.one("mapx_webhooks_disabled", "gauge", "Webhooks that are told nothing", counts.disabled);
    let help = "Deliveries of webhooks that have not ended, by whether they wait or are with the broker";
    text.begin("mapx_webhook_deliveries", "gauge", help);
    for (state, count) in [("waiting", counts.waiting), ("published", counts.published)] {
        text.sample("mapx_webhook_deliveries", &[("state", state)], count);
    }
}

fn processes(text: &mut Text, workers: &[Heartbeat]) {
    let mut each = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Heartbeat) -> Option<f64>| {
        text.begin(name, kind, help);
        for worker in workers {
            if let Some(value) = value(worker) {
                text.sample(name, &[("process", &worker.id), ("role", &worker.role)], value);
            }
        }
    };
    each("mapx_process_up", "gauge", "Processes that were heard of lately", &|_| Some(1.0));
    each("mapx_in_flight", "gauge", "Tasks in its hands", &|w| Some(w.in_flight as f64));
    each("mapx_concurrency", "gauge", "Provider calls at once", &|w| Some(w.max_concurrent as f64));
    each("mapx_concurrency_max", "gauge", "Provider calls at once at most", &|w| {
        w.concurrency_max.map(|max| max as f64)
    });
    each("mapx_embeddings_ready_total", "counter", "Embeddings made since its start", &|w| {
        Some(w.ready_total as f64)
    });
    each("mapx_embeddings_failed_total", "counter", "Tasks given up since its start", &|w| {
        Some(w.failed_total as f64)
    });
    each("mapx_embeddings_per_second", "gauge", "Embeddings a second over the last ten", &|w| {
        Some(w.ready_per_second)
    });
    each("mapx_provider_ok", "gauge", "Whether the provider can be used", &|w| {
        Some(f64::from(u8::from(w.provider_error.is_none())))
    });
    each("mapx_broker_ok", "gauge", "Whether the broker can be used", &|w| {
        Some(f64::from(u8::from(w.broker_error.is_none())))
    });
    text.begin("mapx_provider_breaker", "gauge", "The circuit breaker's state: 1 for the one it is in");
    for worker in workers {
        for state in BREAKER.iter().filter(|_| worker.breaker_state.is_some()) {
            let is = u8::from(worker.breaker_state.as_deref() == Some(*state));
            text.sample("mapx_provider_breaker", &[("process", &worker.id), ("state", state)], is);
        }
    }
}

fn provider(text: &mut Text, limits: &ProviderLimits, now: DateTime<Utc>) {
    let kinds = [
        ("requests", limits.requests_limit, limits.requests_left),
        ("tokens", limits.tokens_limit, limits.tokens_left),
    ];
    let known = || kinds.into_iter().filter(|(_, limit, _)| *limit > 0.0);
    text.begin("mapx_provider_limit", "gauge", "The provider's rate limit in a window, where it is known");
    known().for_each(|(kind, limit, _)| text.sample("mapx_provider_limit", &[("kind", kind)], limit));
    text.begin("mapx_provider_left", "gauge", "What is left of it");
    known().for_each(|(kind, _, left)| text.sample("mapx_provider_left", &[("kind", kind)], left));
    let wait = limits.waiting_until().map_or(0.0, |until| (until - now).num_milliseconds().max(0) as f64 / 1e3);
    text.one("mapx_provider_wait_seconds", "gauge", "For how long the provider asked to wait", wait);
}

fn usage(text: &mut Text, usage: &Usage) {
    let model = "with this model, over all processes since the first";
    let mut count =
        |name: &str, help: &str, value: f64| text.one(name, "counter", &format!("{help} {model}"), value);
    count("mapx_provider_calls_total", "Calls that were answered with vectors", usage.calls as f64);
    count("mapx_provider_texts_total", "Texts in these calls", usage.texts as f64);
    count("mapx_provider_tokens_total", "Tokens in these calls", usage.tokens as f64);
    count("mapx_provider_cached_texts_total", "Texts whose vector was kept", usage.cached as f64);
    count("mapx_provider_cost_usd_total", "US dollars at the price of the time", usage.cost);
}

fn measured(text: &mut Text, measures: &Measures) {
    let name = "mapx_queue_wait_seconds";
    text.begin(name, "histogram", "From enqueued to first taken up by a worker of this process, by lane");
    for lane in Priority::ALL {
        text.histogram(name, &[("lane", lane.name())], &measures.queue_wait[lane as usize].snapshot());
    }
    let name = "mapx_provider_call_seconds";
    text.begin(name, "histogram", "Calls of this process to the provider, by outcome");
    for outcome in CallOutcome::ALL {
        text.histogram(name, &[("outcome", outcome.name())], &measures.provider_call[outcome as usize].snapshot());
    }
    let each = [
        ("mapx_call_texts", "Texts in a call of this process that brings documents", &measures.call_texts),
        ("mapx_write_back_seconds", "Until a batch's vectors are committed", &measures.write_back),
        ("mapx_save_to_ready_seconds", "From enqueued to stored, without regenerations", &measures.save_to_ready),
        ("mapx_publish_seconds", "Until the broker has confirmed a batch", &measures.publish),
    ];
    for (name, help, histogram) in each {
        text.begin(name, "histogram", help);
        text.histogram(name, &[], &histogram.snapshot());
    }
    let name = "mapx_http_request_seconds";
    text.begin(name, "histogram", "Requests to this process until their answer begins");
    for (kind, snapshot) in measures.requests() {
        let status = kind.status.to_string();
        let labels = [("method", kind.method.as_str()), ("route", kind.route.as_str()), ("status", &status)];
        text.histogram(name, &labels, &snapshot);
    }
}

/// Lines of the format.
#[derive(Default)]
struct Text(String);

impl Text {
    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String can't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let braces = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{braces} {value}");
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], snapshot: &Snapshot) {
        let bucket = format!("{name}_bucket");
        let mut sample = |bound: &str, count: u64| {
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound)]).collect();
            self.sample(&bucket, &labels, count);
        };
        snapshot.buckets.iter().for_each(|(bound, count)| sample(&bound.to_string(), *count));
        sample("+Inf", snapshot.count);
        self.sample(&format!("{name}_sum"), labels, snapshot.sum);
        self.sample(&format!("{name}_count"), labels, snapshot.count);
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.begin(name, kind, help);
        self.sample(name, &[], value);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_described_once_and_its_labels_are_escaped() {
        let mut text = Text::default();
        text.begin("a", "gauge", "what it is");
        text.sample("a", &[("x", "q\"\\\n"), ("y", "z")], 1.5);
        text.one("b", "counter", "more", 2);
        let expected = "# HELP a what it is\n# TYPE a gauge\na{x=\"q\\\"\\\\\\n\",y=\"z\"} 1.5\n\
                        # HELP b more\n# TYPE b counter\nb 2\n";
        assert_eq!(text.0, expected);
    }
}
