//! One bad document holds up no other.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mapx_embeddings::domain::embedding::Embedding;
use mapx_embeddings::embedder::{Answer, EmbedError, Embedder, Limits, Purpose, Unembeddable};
use reqwest::Method;
use serde_json::json;

use super::{DIMENSIONS, assert_stored, handed_over, plug, remote};
use crate::support::app::{TestApp, eventually, user};
use crate::support::provider::{Behaviour, vector};
use crate::support::stored;

const RETRY: Duration = Duration::from_millis(400);

/// Saves five texts that go into one call, the third of them bad, and returns their ids.
async fn save_five(app: &TestApp, bad: &str) -> Vec<i64> {
    let mut ids = Vec::new();
    for text in ["good one", "good two", bad, "good four", "good five"] {
        ids.push(app.save_text(text).await);
    }
    ids
}

#[tokio::test]
async fn a_refused_text_fails_alone_with_the_providers_words() {
    let (provider, app) = remote(|settings| settings.queue.max_concurrent = 1).await;
    let refusal = r#"{"error": {"message": "this text breaks the rules", "type": "invalid_request_error"}}"#;
    provider.when_contains("poison", Behaviour::status(400, refusal));
    plug(&app, &provider).await;
    let ids = save_five(&app, "poison").await;
    handed_over(&app, 6).await;
    provider.release();
    let state = app.embedding_is(ids[2], "failed").await;
    assert_eq!(state["last_error"], "the provider answered 400 Bad Request: this text breaks the rules");
    for at in [0, 1, 3, 4] {
        let state = app.embedding_is(ids[at], "ready").await;
        assert_eq!(state["attempts"], 0);
    }
    assert_eq!(provider.calls()[1].inputs.len(), 5, "they were in one call");
    assert_eq!(app.drained().await["deadLettered"], 1);
    assert_stored(&app, ids[3], "good four").await;
    app.stop().await;
}

#[tokio::test]
async fn one_poison_in_a_thousand_costs_few_calls() {
    let (provider, app) = remote(|settings| settings.queue.batch_size = 250).await;
    provider.when_contains("poison", Behaviour::status(400, r#"{"error": {"message": "not this one"}}"#));
    let line = |n: usize| {
        let text = if n == 617 { "poison".to_owned() } else { format!("text {n}") };
        json!({ "user_id": user(1), "description": text }).to_string()
    };
    let lines = (0..1_000).map(line).collect::<Vec<_>>().join("\n");
    let import = app.request(Method::POST, "/api/recommendations/import").body(lines);
    assert_eq!(import.send().await.expect("an answer").status(), 200);
    let queue = app.drained().await;
    assert_eq!((&queue["embedded"], &queue["deadLettered"]), (&json!(999), &json!(1)));
    let with =
        |word: &str| provider.calls().iter().filter(|call| call.inputs.iter().any(|i| i.contains(word))).count();
    // Each half of a refused call is one more; a refused half is halved again.
    let extra = 2 * (with("poison") - 1) + with("ping");
    assert!((2..30).contains(&extra), "{extra} more calls");
    app.stop().await;
}

/// Whatever a provider sends in place of vectors.
#[tokio::test]
async fn nothing_of_a_wrong_answer_is_stored() {
    let wrong = [
        Behaviour::WrongCount,
        Behaviour::MissingIndex,
        Behaviour::DuplicateIndex,
        Behaviour::Index(9),
        Behaviour::Number("NaN"),
        Behaviour::Number("null"),
        Behaviour::Number("1e39"),
        Behaviour::Zeros,
        Behaviour::Dimensions(DIMENSIONS + 1),
        Behaviour::Integers,
        Behaviour::Text("AACAPwA="),
        Behaviour::Html,
        Behaviour::Huge(8 << 20),
        Behaviour::Endless,
        Behaviour::Truncated,
        Behaviour::Redirect("http://127.0.0.1:9/v1/embeddings".into()),
    ];
    for behaviour in wrong {
        let (provider, app) = remote(|settings| {
            settings.queue.max_concurrent = 1;
            settings.queue.max_retries = 0;
            settings.embedder.timeout_ms = 500;
        })
        .await;
        // Both in one call, while the plug's, which went well, is the only vector there is.
        plug(&app, &provider).await;
        let ids = [app.save_text("one").await, app.save_text("two").await];
        handed_over(&app, 3).await;
        provider.always(behaviour.clone());
        provider.release();
        eventually(&format!("{behaviour:?} is told"), async || {
            let queue = app.queue().await;
            (queue["deadLettered"] == json!(2) || !queue["provider"]["error"].is_null()).then_some(())
        })
        .await;
        for id in ids {
            let row = stored::row(&app.data(), id).await.expect("the row");
            assert!(row.embedding.is_none() && row.embedded_version.is_none(), "{behaviour:?}");
        }
        assert_eq!(stored::kept_vectors(&app.data()).await, 1, "{behaviour:?}");
        app.stop().await;
    }
}

#[tokio::test]
async fn a_text_that_breaks_every_call_does_not_take_the_others_with_it() {
    let (provider, app) = remote(|settings| {
        settings.queue.max_concurrent = 1;
        settings.queue.max_retries = 1;
        settings.queue.retry_delay_ms = RETRY.as_millis() as u64;
    })
    .await;
    provider.when_contains("poison", Behaviour::Drop);
    plug(&app, &provider).await;
    let ids = save_five(&app, "poison").await;
    handed_over(&app, 6).await;
    // All five fail together, and meet again for their last attempt while the worker is busy.
    provider.release();
    for id in &ids {
        app.embedding_is(*id, "retrying").await;
    }
    plug(&app, &provider).await;
    for id in &ids {
        app.embedding_is(*id, "queued").await;
    }
    // A retry may come late by a tenth. One that comes later still makes this test weaker and not wrong.
    tokio::time::sleep(RETRY / 5).await;
    provider.release();
    let state = app.embedding_is(ids[2], "failed").await;
    assert!(
        state["last_error"].as_str().expect("a reason").starts_with("the call to the provider failed"),
        "{state}"
    );
    for at in [0, 1, 3, 4] {
        app.embedding_is(ids[at], "ready").await;
    }
    app.stop().await;
}

/// Has a bug, and knows no emoji.
struct Fragile;

#[async_trait]
impl Embedder for Fragile {
    fn model(&self) -> &str {
        "fragile"
    }

    fn dimensions(&self) -> usize {
        DIMENSIONS
    }

    fn limits(&self) -> Limits {
        Limits { max_inputs: 100, max_input_tokens: 1_000, max_call_tokens: usize::MAX, worthwhile_inputs: 1 }
    }

    fn default_threshold(&self) -> f32 {
        0.5
    }

    fn tokens(&self, text: &str) -> usize {
        assert!(!text.contains("no token"), "not a boundary");
        text.len()
    }

    async fn embed(&self, texts: &[String], _purpose: Purpose) -> Result<Answer, EmbedError> {
        let one = |text: &String| {
            assert!(!text.contains("bug"), "index out of bounds");
            match text.contains('🎻') {
                true => Err(Unembeddable("no word of the text is known to the model".into())),
                false => Ok(Embedding::new(vector(text, DIMENSIONS), DIMENSIONS).expect("a direction")),
            }
        };
        Ok(Answer::of(texts.iter().map(one)))
    }
}

#[tokio::test]
async fn a_text_that_makes_the_embedder_panic_fails_alone() {
    let app = TestApp::with_embedder(Arc::new(Fragile), |settings| settings.queue.max_concurrent = 1).await;
    let ids = save_five(&app, "bug").await;
    let state = app.embedding_is(ids[2], "failed").await;
    assert!(state["last_error"].as_str().expect("a reason").contains("index out of bounds"), "{state}");
    for at in [0, 1, 3, 4] {
        app.embedding_is(ids[at], "ready").await;
    }
    let later = app.save_text("later").await;
    app.embedding_is(later, "ready").await;
    app.stop().await;
}

/// A panic that nobody expects takes the whole batch down, and there is nothing that could name the guilty one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_at_which_every_batch_panics_is_given_up_alone() {
    let app = TestApp::with_embedder(Arc::new(Fragile), |settings| settings.queue.max_concurrent = 1).await;
    let line = |text: &str| json!({ "user_id": user(1), "description": text }).to_string();
    let lines = ["good one", "good two", "no token", "good four", "good five"].map(line).join("\n");
    let import = app.request(Method::POST, "/api/recommendations/import").body(lines);
    assert_eq!(import.send().await.expect("an answer").status(), 200);
    let queue = eventually("all are embedded or given up", async || {
        let queue = app.queue().await;
        let done = queue["embedded"].as_u64()? + queue["deadLettered"].as_u64()?;
        (done == 5).then_some(queue)
    })
    .await;
    assert_eq!((&queue["embedded"], &queue["deadLettered"]), (&json!(4), &json!(1)));
    let letters = app.get("/api/recommendations/embedding-queue/dead-letters", None).await;
    let letter = letters.data(200)["items"][0].clone();
    assert_eq!((&letter["excerpt"], &letter["error"]), (&json!("no token"), &json!("delivery_limit")));
    app.stop().await;
}

#[tokio::test]
async fn a_text_without_a_known_word_fails_alone_with_the_reason() {
    let app = TestApp::with_embedder(Arc::new(Fragile), |settings| settings.queue.max_concurrent = 1).await;
    let ids = save_five(&app, "🎻🎻").await;
    let state = app.embedding_is(ids[2], "failed").await;
    assert_eq!(state["last_error"], "no word of the text is known to the model");
    for at in [0, 1, 3, 4] {
        app.embedding_is(ids[at], "ready").await;
    }
    app.stop().await;
}
