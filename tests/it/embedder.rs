//! The embedder room from outside: the built-in model, and a provider that misbehaves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mapx_embeddings::config::embedder::{EmbedderSettings, Provider};
use mapx_embeddings::config::secret::Secret;
use mapx_embeddings::domain::embedding::Embedding;
use mapx_embeddings::embedder::batch::{DocumentError, embed_documents};
use mapx_embeddings::embedder::query::QueryEmbedder;
use mapx_embeddings::embedder::{EmbedError, Embedder, Purpose, build};

use crate::support::provider::{Behaviour, FakeProvider, vector};

const DIMENSIONS: usize = 8;
const KEY: &str = "sk-very-secret-key";

fn settings(provider: Provider, base_url: String) -> EmbedderSettings {
    EmbedderSettings {
        provider,
        base_url,
        model: "fake-model".into(),
        dimensions: if provider == Provider::Local { 0 } else { DIMENSIONS },
        api_key: Secret::new(KEY),
        timeout_ms: 400,
        connect_timeout_ms: 200,
        threshold: -1.0,
        rate_window_ms: 60_000,
        ..EmbedderSettings::default()
    }
}

async fn remote() -> (FakeProvider, Arc<dyn Embedder>) {
    let provider = FakeProvider::start(DIMENSIONS).await;
    let embedder = build(&settings(Provider::Openai, provider.base_url())).unwrap();
    (provider, embedder)
}

fn local() -> Arc<dyn Embedder> {
    build(&settings(Provider::Local, String::new())).unwrap()
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(String::from).into()
}

fn expected(text: &str) -> Embedding {
    Embedding::new(vector(text, DIMENSIONS), DIMENSIONS).unwrap()
}

fn cosine(a: &Embedding, b: &Embedding) -> f32 {
    a.as_slice().iter().zip(b.as_slice()).map(|(a, b)| a * b).sum()
}

/// The error of one call with two texts to a provider that behaves like this once.
async fn error_of(behaviour: Behaviour) -> EmbedError {
    let (provider, embedder) = remote().await;
    provider.next(behaviour);
    let error = embedder.embed(&texts(["one", "two"]), Purpose::Document).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains(KEY), "{error:?}");
    error
}

async fn transient(behaviour: Behaviour) -> String {
    match error_of(behaviour).await {
        EmbedError::Transient(reason) => reason,
        other => panic!("{other:?}"),
    }
}

async fn misconfigured(behaviour: Behaviour) -> String {
    match error_of(behaviour).await {
        EmbedError::Misconfigured(reason) => reason,
        other => panic!("{other:?}"),
    }
}

async fn rejected(behaviour: Behaviour) -> String {
    match error_of(behaviour).await {
        EmbedError::Rejected(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_provider_is_called_as_openai_documents_it() {
    let (provider, embedder) = remote().await;
    let answers = embedder.embed(&texts(["one", "two"]), Purpose::Document).await.unwrap().vectors;
    assert_eq!(answers, [Ok(expected("one")), Ok(expected("two"))]);
    let calls = provider.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].inputs, ["one", "two"]);
    assert_eq!(calls[0].authorization, Some(format!("Bearer {KEY}")));
    let body = serde_json::json!({"model": "fake-model", "input": ["one", "two"], "encoding_format": "float"});
    assert_eq!(calls[0].body, body);
    assert_eq!((embedder.model(), embedder.dimensions()), ("fake-model", DIMENSIONS));
}

#[tokio::test]
async fn dimensions_are_asked_for_where_the_model_takes_them_and_no_key_is_sent_where_there_is_none() {
    let provider = FakeProvider::start(DIMENSIONS).await;
    let embedder = build(&EmbedderSettings {
        model: "text-embedding-3-small".into(),
        api_key: Secret::default(),
        ..settings(Provider::Openai, provider.base_url())
    });
    embedder.unwrap().embed(&texts(["one"]), Purpose::Document).await.unwrap();
    let call = provider.calls().remove(0);
    assert_eq!(call.body["dimensions"], DIMENSIONS);
    assert_eq!(call.authorization, None);
}

#[tokio::test]
async fn vectors_go_to_their_texts_whatever_the_order_of_the_answer() {
    let (provider, embedder) = remote().await;
    provider.next(Behaviour::Base64);
    let base64 = embedder.embed(&texts(["one"]), Purpose::Document).await.unwrap().vectors;
    assert_eq!(base64, [Ok(expected("one"))], "unasked, but right");
    provider.next(Behaviour::ShuffledIndex);
    let answers = embedder.embed(&texts(["one", "two", "three"]), Purpose::Document).await.unwrap().vectors;
    assert_eq!(answers, [Ok(expected("one")), Ok(expected("two")), Ok(expected("three"))]);
}

#[tokio::test]
async fn an_answer_that_is_none_is_refused_in_its_own_words() {
    assert_eq!(transient(Behaviour::WrongCount).await, "the provider answered 1 vectors for 2 texts");
    assert_eq!(transient(Behaviour::DuplicateIndex).await, "the provider answered twice for text 0");
    assert_eq!(
        transient(Behaviour::MissingIndex).await,
        "the provider answered without saying which text vector 0 is of (it has no index)"
    );
    assert_eq!(transient(Behaviour::Index(2)).await, "the provider answered for text 2 of 2 texts");
    assert_eq!(
        misconfigured(Behaviour::Integers).await,
        "the provider's vectors are whole numbers, quantised to int8 or binary; floats are needed"
    );
    assert_eq!(transient(Behaviour::Text("AACA*w==")).await, "the provider's vector is no valid base64");
    assert_eq!(
        transient(Behaviour::Text("AACAPwA=")).await,
        "the provider's vector has 5 bytes in base64, not four a number"
    );
    assert_eq!(transient(Behaviour::Compressed).await, "the provider's answer is compressed (gzip), unasked");
    assert!(transient(Behaviour::Html).await.contains("answer (text/html) is no list of embeddings"));
    assert_eq!(
        misconfigured(Behaviour::Dimensions(5)).await,
        "the provider's vectors have 5 dimensions, embedder.dimensions says 8"
    );
    for number in ["null", "1e39"] {
        assert_eq!(rejected(Behaviour::Number(number)).await, "the provider's vector number 0 is not finite");
    }
    assert_eq!(rejected(Behaviour::Number("NaN")).await, "the provider's vector holds a number that is not finite");
    assert!(rejected(Behaviour::Zeros).await.contains("all zeros"));
}

#[tokio::test]
async fn a_body_without_measure_is_not_read_to_its_end() {
    let huge = transient(Behaviour::Huge(100 << 20)).await;
    assert!(huge.contains("is longer than the"), "{huge}");
    let begin = Instant::now();
    assert_eq!(transient(Behaviour::Endless).await, "the provider did not answer within 400 ms");
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn trouble_on_the_line_is_transient() {
    assert_eq!(transient(Behaviour::Never).await, "the provider did not answer within 400 ms");
    for behaviour in [Behaviour::Truncated, Behaviour::Drop] {
        let reason = transient(behaviour.clone()).await;
        assert!(reason.starts_with("the call to the provider failed: "), "{behaviour:?}: {reason}");
    }
    let (provider, embedder) = remote().await;
    drop(provider);
    let refused = embedder.embed(&texts(["one"]), Purpose::Document).await.unwrap_err();
    assert!(matches!(refused, EmbedError::Transient(_)), "{refused:?}");
}

#[tokio::test]
async fn a_status_says_what_to_do_next() {
    for status in [408, 500, 502, 503, 504] {
        assert!(transient(Behaviour::status(status, "oh no")).await.ends_with(": oh no"));
    }
    for status in [401, 403, 404] {
        let echo = format!(r#"{{"error": {{"message": "bad key {KEY}"}}}}"#);
        assert!(misconfigured(Behaviour::status(status, &echo)).await.ends_with(": bad key ***"));
    }
    for status in [400, 413, 422] {
        assert!(rejected(Behaviour::status(status, "too long")).await.ends_with(": too long"));
    }
    let quota = r#"{"error": {"message": "no money", "code": "insufficient_quota"}}"#;
    assert!(misconfigured(Behaviour::status(429, quota)).await.ends_with(": no money"));
}

#[tokio::test]
async fn a_rate_limit_says_how_long_to_wait() {
    let limited = |status, name, value: &str| {
        error_of(Behaviour::Status { status, body: "slow".into(), headers: vec![(name, value.into())] })
    };
    let after = |error| match error {
        EmbedError::Wait { after, .. } => after,
        other => panic!("{other:?}"),
    };
    assert_eq!(after(error_of(Behaviour::rate_limited("7")).await), Duration::from_secs(7));
    assert_eq!(after(limited(503, "retry-after", "3").await), Duration::from_secs(3));
    assert_eq!(after(limited(429, "x-ratelimit-reset-tokens", "6m0s").await), Duration::from_secs(360));
    assert_eq!(after(limited(429, "x-other", "6m0s").await), Duration::from_secs(1));
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let elsewhere = FakeProvider::start(DIMENSIONS).await;
    let to = format!("{}/embeddings", elsewhere.base_url());
    let reason = misconfigured(Behaviour::Redirect(to)).await;
    assert!(reason.ends_with("embedder.base_url must name the final address"), "{reason}");
    assert!(reason.contains("that is not followed") && reason.contains(&elsewhere.origin()), "{reason}");
    assert!(elsewhere.calls().is_empty());
}

#[tokio::test]
async fn a_poisoned_text_costs_only_itself() {
    let (provider, embedder) = remote().await;
    provider.when_contains("poison", Behaviour::status(400, r#"{"error": {"message": "not this one"}}"#));
    let mut documents: Vec<String> = (0..1_000).map(|n| format!("text {n}")).collect();
    documents[617] = "poison".into();
    let answers = embed_documents(&*embedder, &documents).await;
    let failed: Vec<usize> = (0..1_000).filter(|n| answers[*n].is_err()).collect();
    assert_eq!(failed, [617]);
    assert!(matches!(&answers[617], Err(DocumentError::Unembeddable(why)) if why.0.ends_with(": not this one")));
    assert_eq!(answers[999].as_ref().unwrap().embedding, expected("text 999"));
    assert!(provider.calls().len() <= 30, "{} calls", provider.calls().len());
}

#[tokio::test]
async fn a_vector_without_direction_costs_only_its_text() {
    let (provider, embedder) = remote().await;
    // The fake spoils the first vector of a call, so the guilty text comes first.
    provider.when_contains("odd", Behaviour::Zeros);
    let answers = embed_documents(&*embedder, &texts(["odd", "fine", "good", "well"])).await;
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, true, true]);
}

#[tokio::test]
async fn what_came_before_a_rate_limit_is_kept() {
    let (provider, embedder) = remote().await;
    provider.next(Behaviour::Answer);
    provider.next(Behaviour::rate_limited("7"));
    let documents: Vec<String> = (0..2_050).map(|n| format!("text {n}")).collect();
    let answers = embed_documents(&*embedder, &documents).await;
    assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 2_048);
    assert!(matches!(answers[2_049], Err(DocumentError::Call(EmbedError::Wait { .. }))));
}

#[tokio::test]
async fn a_provider_that_recovers_is_used_again_at_once() {
    let (provider, embedder) = remote().await;
    provider.always(Behaviour::status(500, ""));
    let queries = QueryEmbedder::new(embedder, 100, Duration::from_secs(5));
    assert!(queries.embed("cafe").await.is_err());
    provider.behave();
    assert_eq!(queries.embed("cafe").await, Ok(expected("cafe")));
    assert_eq!(queries.embed(" cafe ").await, Ok(expected("cafe")));
    let calls = provider.calls();
    assert_eq!(calls.len(), 2);
    assert!(calls[1].at - calls[0].at < Duration::from_secs(1));
}

#[tokio::test]
async fn queries_wait_for_no_slow_provider() {
    let (provider, embedder) = remote().await;
    provider.always(Behaviour::Delay(Duration::from_millis(300)));
    let begin = Instant::now();
    let queries = QueryEmbedder::new(embedder, 100, Duration::from_millis(50));
    assert!(matches!(queries.embed("cafe").await, Err(EmbedError::Transient(why)) if why.contains("within 50 ms")));
    assert!(begin.elapsed() < Duration::from_millis(250));
}

#[test]
fn settings_that_cannot_work_name_their_key() {
    let problem = |change: fn(&mut EmbedderSettings)| {
        let mut settings = settings(Provider::Local, String::new());
        change(&mut settings);
        build(&settings).err().unwrap().to_string()
    };
    assert!(problem(|s| s.model_dir = "no/such".into()).starts_with("embedder.model_dir: the directory no/such"));
    let dimensions = problem(|s| s.dimensions = 384);
    assert_eq!(dimensions, "embedder.dimensions: is 384, but minilm-static-256-i8@7dfaf784 has 256 dimensions");
    assert!(problem(|s| s.provider = Provider::Openai).starts_with("embedder.base_url: "));
}

#[test]
fn a_configured_threshold_replaces_the_model_s() {
    let local = EmbedderSettings { threshold: 0.5, ..settings(Provider::Local, String::new()) };
    assert_eq!(build(&local).unwrap().default_threshold(), 0.5);
}

#[tokio::test]
async fn the_builtin_model_finds_what_is_meant() {
    let documents =
        texts(["A quiet cafe with good light for working", "The plumber fixed our leaking pipe in an hour"]);
    let answers = embed_documents(&*local(), &documents).await;
    let query = local()
        .embed(&texts(["coffee shop to work from"]), Purpose::Document)
        .await
        .unwrap()
        .vectors
        .remove(0)
        .unwrap();
    let [cafe, plumber] = [0, 1].map(|n| cosine(&query, &answers[n].as_ref().unwrap().embedding));
    assert!(cafe > local().default_threshold() && plumber < local().default_threshold(), "{cafe} {plumber}");
}

#[tokio::test]
async fn the_builtin_model_cuts_nothing_off() {
    let beginning = "quiet cafe with good light ".repeat(150);
    let whole = format!("{beginning}{}", "plumber fixed the leaking pipe ".repeat(130));
    let answers = local().embed(&[beginning, whole], Purpose::Document).await.unwrap().vectors;
    let [beginning, whole] = [0, 1].map(|n| answers[n].as_ref().unwrap());
    assert!(cosine(beginning, whole) < 0.95, "the second half must count");
}

#[tokio::test]
async fn the_builtin_model_says_what_it_knows_no_word_of() {
    let huge_word = "x".repeat(5_000);
    let documents = texts(["", " \n ", "🎻🎉", &huge_word, "cafe"]);
    // Straight to the model, and through the batch.
    let direct = local().embed(&documents, Purpose::Document).await.unwrap().vectors;
    assert_eq!(direct.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, false, false, false, true]);
    let unknown = "no word of the text is known to the model";
    assert!(direct[..4].iter().all(|answer| answer.as_ref().unwrap_err().0 == unknown));
    let batched = embed_documents(&*local(), &documents).await;
    let reasons: Vec<String> = batched[..4].iter().map(|a| a.as_ref().unwrap_err().to_string()).collect();
    assert_eq!(reasons, ["the text is blank", "the text is blank", unknown, unknown]);
}

#[tokio::test]
async fn a_megabyte_of_text_is_embedded_to_its_last_word() {
    let embedder = local();
    let beginning = "Quiet cafe with good light. ".repeat(38_000);
    let both = format!("{beginning}{}", "Plumber fixed the leaking pipe. ".repeat(33_000));
    let answers = embed_documents(&*embedder, &[beginning, both]).await;
    let [first, both] = [0, 1].map(|n| answers[n].as_ref().unwrap());
    assert!(first.parts > 100 && both.parts > 200, "{} {}", first.parts, both.parts);
    assert!(cosine(&first.embedding, &both.embedding) < 0.95, "the second half must count");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_batch_leaves_room_for_queries_and_callers_do_not_mix_up_vectors() {
    let embedder = local();
    let documents: Arc<Vec<String>> =
        Arc::new((0..10_000).map(|n| format!("Restaurant number {n} on street {}", n % 77)).collect());
    let batch = || {
        let (embedder, documents) = (embedder.clone(), documents.clone());
        tokio::spawn(async move { embed_documents(&*embedder, &documents).await })
    };
    let batches = [batch(), batch(), batch()];
    let query = embedder
        .embed(&texts(["Restaurant number 7 on street 7"]), Purpose::Document)
        .await
        .unwrap()
        .vectors
        .remove(0)
        .unwrap();
    for batch in batches {
        let answers = batch.await.unwrap();
        assert_eq!(answers.len(), 10_000);
        assert_eq!(answers[7].as_ref().unwrap().embedding, query);
        assert!(answers.iter().all(Result::is_ok));
    }
}
