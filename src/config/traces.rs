//! Where traces go.

use serde::{Deserialize, Serialize};
use url::Url;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceSettings {
    /// The collector's base address (OTLP over HTTP); empty for no traces.
    pub otlp_endpoint: String,
    /// Of requests that belong to no trace yet, the share that begins one; 0 to 1.
    pub sample_ratio: f64,
}

impl TraceSettings {
    /// The key and what is wrong with it.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Some(("traces.sample_ratio", format!("{} is not from 0 to 1", self.sample_ratio)));
        }
        if self.otlp_endpoint.is_empty() {
            return None;
        }
        let known = Url::parse(&self.otlp_endpoint).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        (!known).then(|| ("traces.otlp_endpoint", "is no address like http://127.0.0.1:4318".to_owned()))
    }
}
