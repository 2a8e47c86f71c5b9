//! Each provider's own API, limits and headers, from outside.

use std::sync::Arc;
use std::time::Duration;

use mapx_embeddings::config::embedder::EmbedderSettings;
use mapx_embeddings::config::secret::{Secret, ServerUrl};
use mapx_embeddings::embedder::batch::embed_documents;
use mapx_embeddings::embedder::{EmbedError, Embedder, Purpose, Quota, build};
use serde_json::json;

use crate::support::provider::meter::{Beyond, Latency, Rate};
use crate::support::provider::{Behaviour, FakeProvider};

const DIMENSIONS: usize = 8;

fn settings(preset: &str, base_url: String) -> EmbedderSettings {
    EmbedderSettings {
        preset: preset.into(),
        base_url,
        dimensions: DIMENSIONS,
        api_key: Secret::new("sk-very-secret-key"),
        timeout_ms: 2_000,
        connect_timeout_ms: 500,
        threshold: -1.0,
        ..EmbedderSettings::default()
    }
}

async fn preset(preset: &str) -> (FakeProvider, Arc<dyn Embedder>) {
    let provider = FakeProvider::start(DIMENSIONS).await;
    let base = match preset.split(':').next() {
        Some("azure") => provider.origin(),
        Some("cohere") => format!("{}/v2", provider.origin()),
        _ => provider.base_url(),
    };
    let embedder = build(&settings(preset, base)).unwrap();
    (provider, embedder)
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("text {n}")).collect()
}

#[tokio::test]
async fn every_preset_is_asked_in_its_own_words_and_understood() {
    for (name, path, header) in [
        ("openai:text-embedding-3-small", "/v1/embeddings", "authorization"),
        ("azure:mine", "/openai/deployments/mine/embeddings?api-version=2024-10-21", "api-key"),
        ("voyage:voyage-3.5", "/v1/embeddings", "authorization"),
        ("cohere:embed-v4.0", "/v2/embed", "authorization"),
        ("jina:jina-embeddings-v3", "/v1/embeddings", "authorization"),
        ("mistral:mistral-embed", "/v1/embeddings", "authorization"),
        ("ollama:nomic-embed-text", "/v1/embeddings", "authorization"),
        ("vllm:m", "/v1/embeddings", "authorization"),
        ("localai:m", "/v1/embeddings", "authorization"),
        ("litellm:m", "/v1/embeddings", "authorization"),
        ("tei:m", "/v1/embeddings", "authorization"),
    ] {
        let (provider, embedder) = preset(name).await;
        let answer = embedder.embed(&texts(2), Purpose::Query).await.unwrap();
        assert!(answer.vectors.iter().all(Result::is_ok), "{name}");
        assert_eq!(answer.tokens, Some(12), "{name}");
        let call = provider.calls().remove(0);
        assert_eq!(call.path, path, "{name}");
        assert!(call.headers[header].to_str().unwrap().ends_with("sk-very-secret-key"), "{name}");
    }
    let (provider, embedder) = preset("voyage:voyage-3.5").await;
    embedder.embed(&texts(1), Purpose::Document).await.unwrap();
    embedder.embed(&texts(1), Purpose::Query).await.unwrap();
    let kinds: Vec<_> = provider.calls().iter().map(|call| call.body["input_type"].clone()).collect();
    assert_eq!(kinds, ["document", "query"]);
    assert_eq!(provider.calls()[0].body["output_dimension"], DIMENSIONS);
}

#[tokio::test]
async fn base64_is_given_up_once_where_it_is_refused() {
    let (provider, embedder) = preset("openai:text-embedding-3-small").await;
    let refusal = r#"{"error": {"message": "unknown", "param": "encoding_format"}}"#;
    provider.next(Behaviour::status(400, refusal));
    for _ in 0..2 {
        assert!(embedder.embed(&texts(1), Purpose::Document).await.is_ok());
    }
    let formats: Vec<_> = provider.calls().iter().map(|call| call.body["encoding_format"].clone()).collect();
    assert_eq!(formats, ["base64", "float", "float"]);
}

#[tokio::test]
async fn the_headers_of_the_settings_go_with_every_call() {
    let provider = FakeProvider::start(DIMENSIONS).await;
    let headers = [("x-tenant", "blue"), ("authorization", "Token 7")];
    let headers = headers.map(|(name, value)| (name.to_owned(), Secret::new(value))).into();
    let embedder = build(&EmbedderSettings { headers, ..settings("vllm:m", provider.base_url()) }).unwrap();
    embedder.embed(&texts(1), Purpose::Document).await.unwrap();
    let sent = provider.calls().remove(0).headers;
    assert_eq!(sent["x-tenant"], "blue");
    assert_eq!(sent["authorization"], "Token 7");
}

#[tokio::test]
async fn a_proxy_is_asked_instead() {
    // The fake takes a request for any host, as a proxy gets it.
    let proxy = FakeProvider::start(DIMENSIONS).await;
    let url = proxy.origin().replace("http://", "http://me:p%40ss@");
    let own = settings("vllm:m", "http://nowhere.invalid/v1".into());
    let embedder = build(&EmbedderSettings { proxy: ServerUrl::new(url), ..own }).unwrap();
    embedder.embed(&texts(1), Purpose::Document).await.unwrap();
    let sent = proxy.calls().remove(0).headers;
    assert!(sent["proxy-authorization"].to_str().unwrap().starts_with("Basic "));
}

#[tokio::test]
async fn tei_tells_its_limits_before_the_first_call() {
    let (provider, embedder) = preset("tei:m").await;
    provider.tell_info(json!({"model_id": "m", "max_input_length": 20, "max_batch_tokens": 60,
        "max_client_batch_size": 4, "auto_truncate": true}));
    let mut documents = texts(10);
    documents.push("a long text that has to be split ".repeat(3));
    let answers = embed_documents(&*embedder, &documents).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert!(answers[10].as_ref().unwrap().parts > 3);
    for call in provider.calls() {
        assert!(call.inputs.len() <= 4 && call.inputs.iter().all(|input| input.len() <= 20), "{:?}", call.inputs);
        assert!(call.inputs.iter().map(String::len).sum::<usize>() <= 60);
    }
}

#[tokio::test]
async fn tei_with_another_model_is_refused_and_one_without_info_is_not() {
    let (provider, embedder) = preset("tei:m").await;
    provider.tell_info(json!({"model_id": "other", "max_input_length": 20, "max_batch_tokens": 60,
        "max_client_batch_size": 4}));
    let error = embedder.embed(&texts(1), Purpose::Document).await.unwrap_err();
    assert_eq!(error, EmbedError::Misconfigured("the provider serves other, embedder.model says m".into()));
    assert!(provider.calls().is_empty());
    let (_provider, embedder) = preset("tei:m").await;
    assert!(embedder.embed(&texts(1), Purpose::Document).await.is_ok());
    assert_eq!(embedder.limits().max_input_tokens, 512);
}

#[tokio::test]
async fn the_allowance_is_what_the_headers_say() {
    let (provider, embedder) = preset("vllm:m").await;
    provider.meter().limit_rate(Rate { window: Duration::from_secs(60), requests: 3, tokens: 100 });
    let allowance = embedder.embed(&texts(2), Purpose::Document).await.unwrap().allowance;
    assert_eq!((allowance.requests.limit, allowance.requests.left), (Some(3), Some(2)));
    assert_eq!((allowance.tokens.limit, allowance.tokens.left), (Some(100), Some(88)));
    assert!(allowance.tokens.reset.unwrap() > Duration::from_secs(50));
    provider.behave();
    provider.next(Behaviour::Headers(vec![("x-ratelimit-remaining-tokens", "-1".into())]));
    let (provider, embedder) = preset("azure:mine").await;
    provider.next(Behaviour::Headers(vec![("x-ratelimit-remaining-tokens", "-1".into())]));
    assert_eq!(embedder.embed(&texts(1), Purpose::Document).await.unwrap().allowance.tokens, Quota::default());
}

#[tokio::test]
async fn a_rate_limit_is_waited_for_and_a_call_beyond_it_split() {
    let (provider, embedder) = preset("vllm:m").await;
    provider.meter().limit_rate(Rate { window: Duration::from_millis(300), requests: 100, tokens: 20 });
    // Three texts of six are within the limit, all eight never.
    let answers = embed_documents(&*embedder, &texts(8)).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 2, "{answers:?}");
    let waits = answers.iter().filter(|answer| format!("{answer:?}").contains("Wait"));
    assert_eq!(waits.count(), 6);
    let lone = embed_documents(&*embedder, &["x".repeat(30)]).await.remove(0).unwrap_err().to_string();
    assert!(lone.ends_with("this text alone is larger than the provider's rate limit"), "{lone}");
}

#[tokio::test]
async fn a_lower_limit_of_tokens_makes_smaller_calls() {
    let provider = FakeProvider::start(DIMENSIONS).await;
    let own = EmbedderSettings { max_request_tokens: 20, ..settings("vllm:m", provider.base_url()) };
    let answers = embed_documents(&*build(&own).unwrap(), &texts(8)).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(provider.calls().iter().map(|call| call.inputs.len()).collect::<Vec<_>>(), [3, 3, 2]);
}

#[tokio::test]
async fn an_outage_an_overload_and_a_slow_answer_are_told_apart() {
    let (provider, embedder) = preset("vllm:m").await;
    provider.meter().down(true);
    let down = embedder.embed(&texts(1), Purpose::Document).await.unwrap_err();
    assert!(matches!(&down, EmbedError::Transient(why) if why.ends_with("no healthy upstream")), "{down:?}");
    provider.meter().down(false);
    provider.meter().limit_calls(0, Beyond::Refuse);
    let full = embedder.embed(&texts(1), Purpose::Document).await.unwrap_err();
    assert!(matches!(full, EmbedError::Wait { .. }), "{full:?}");
    provider.meter().limit_calls(1, Beyond::Queue);
    let ms = Duration::from_millis;
    for latency in [Latency::Uniform(ms(1), ms(5)), Latency::LogNormal(ms(3), 0.5)] {
        provider.meter().take(latency, 7);
        assert!(embedder.embed(&texts(1), Purpose::Document).await.is_ok());
    }
}
