//! What the providers are sent.

use reqwest::Url;
use serde_json::{Map, Value, json};

use crate::config::presets::Api;
use crate::embedder::Purpose;

/// `{base_url}/embeddings`, or `/embed` for Cohere, a query string kept.
pub fn endpoint(base_url: &str, api: Api) -> Result<Url, String> {
    let mut url = Url::parse(base_url).map_err(|error| format!("is no URL ({error})"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with http:// or https://".into());
    }
    // It would show up in logs and errors.
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a password; embedder.api_key is the place for it".into());
    }
    let last = if api == Api::Cohere { "embed" } else { "embeddings" };
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().push(last);
    }
    Ok(url)
}

/// Where text-embeddings-inference tells its limits: beside `/v1`.
pub fn info_endpoint(endpoint: &Url) -> Url {
    let mut url = endpoint.clone();
    let below_v1 = endpoint.path().ends_with("/v1/embeddings");
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop();
        if below_v1 {
            segments.pop();
        }
        segments.push("info");
    }
    url
}

/// What stays the same from call to call.
#[derive(Clone, Debug)]
pub struct Shape {
    pub api: Api,
    pub model: String,
    /// Asked for where the model has several sizes.
    pub dimensions: Option<usize>,
}

impl Shape {
    /// Whether vectors may be asked for as base64: a third of the digits, and nothing to round.
    pub fn knows_base64(&self) -> bool {
        match self.api {
            Api::Openai { base64 } => base64,
            Api::Azure | Api::Voyage | Api::Jina | Api::Tei => true,
            Api::Cohere => false,
        }
    }

    /// The body of a call. Whoever would cut a long text in silence is told not to.
    pub fn body(&self, texts: &[String], purpose: Purpose, base64: bool) -> Value {
        let format = if base64 { "base64" } else { "float" };
        let mut body = Map::new();
        let mut put = |name: &str, value: Value| drop(body.insert(name.into(), value));
        put("model", json!(self.model));
        put(if self.api == Api::Cohere { "texts" } else { "input" }, json!(texts));
        match self.api {
            Api::Openai { .. } | Api::Azure | Api::Tei => put("encoding_format", json!(format)),
            Api::Voyage => {
                // Without the parameter Voyage writes numbers.
                if base64 {
                    put("encoding_format", json!(format));
                }
                put("truncation", json!(false));
                put("input_type", json!(by(purpose, "document", "query")));
            }
            Api::Jina => {
                put("embedding_type", json!(format));
                put("truncate", json!(false));
                put("task", json!(by(purpose, "retrieval.passage", "retrieval.query")));
            }
            Api::Cohere => {
                put("embedding_types", json!(["float"]));
                put("truncate", json!("NONE"));
                put("input_type", json!(by(purpose, "search_document", "search_query")));
            }
        }
        if let Some(dimensions) = self.dimensions {
            let name =
                if matches!(self.api, Api::Voyage | Api::Cohere) { "output_dimension" } else { "dimensions" };
            put(name, json!(dimensions));
        }
        Value::Object(body)
    }
}

fn by<T>(purpose: Purpose, document: T, query: T) -> T {
    match purpose {
        Purpose::Document => document,
        Purpose::Query => query,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENAI: Api = Api::Openai { base64: true };

    #[test]
    fn the_endpoint_lies_below_the_base_url() {
        for (base, expected) in [
            ("http://host/v1", "http://host/v1/embeddings"),
            ("http://host/v1/", "http://host/v1/embeddings"),
            ("http://host", "http://host/embeddings"),
            ("https://host/d?api-version=1", "https://host/d/embeddings?api-version=1"),
        ] {
            assert_eq!(endpoint(base, OPENAI).unwrap().as_str(), expected);
        }
        assert_eq!(endpoint("https://host/v2", Api::Cohere).unwrap().as_str(), "https://host/v2/embed");
        for (base, expected) in
            [("http://host/v1", "http://host/info"), ("http://host/tei/v1", "http://host/tei/info")]
        {
            assert_eq!(info_endpoint(&endpoint(base, Api::Tei).unwrap()).as_str(), expected);
        }
    }

    #[test]
    fn every_api_is_asked_in_its_own_words() {
        let body = |api, purpose| {
            let shape = Shape { api, model: "m".into(), dimensions: Some(256) };
            shape.body(&["a".into()], purpose, shape.knows_base64())
        };
        assert_eq!(
            body(OPENAI, Purpose::Query),
            json!({"model": "m", "input": ["a"], "encoding_format": "base64", "dimensions": 256})
        );
        assert_eq!(
            body(Api::Voyage, Purpose::Query),
            json!({"model": "m", "input": ["a"], "encoding_format": "base64", "truncation": false,
                   "input_type": "query", "output_dimension": 256})
        );
        assert_eq!(
            body(Api::Jina, Purpose::Document),
            json!({"model": "m", "input": ["a"], "embedding_type": "base64", "truncate": false,
                   "task": "retrieval.passage", "dimensions": 256})
        );
        assert_eq!(
            body(Api::Cohere, Purpose::Document),
            json!({"model": "m", "texts": ["a"], "embedding_types": ["float"], "truncate": "NONE",
                   "input_type": "search_document", "output_dimension": 256})
        );
    }
}
