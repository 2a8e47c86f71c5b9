//! Keys from an address or a file: rotated, away, and wrong.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mapx_embeddings::config::Settings;
use mapx_embeddings::config::secret::Secret;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::signing::{Issuer, set};
use super::{API, Seen, claims, get, guarded, token_of};
use crate::support::app::{PATIENCE, TestApp, eventually, user};

/// Whoever publishes the keys: an answer as it goes over the wire, or none at all.
struct Publisher {
    address: String,
    answer: Arc<Mutex<Option<String>>>,
    asked: Arc<Mutex<usize>>,
}

impl Publisher {
    async fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}/keys", listener.local_addr().expect("an address"));
        let (answer, asked) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(0)));
        let publisher = Self { address, answer: answer.clone(), asked: asked.clone() };
        publisher.publish(keys);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, asked) = (answer.clone(), asked.clone());
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 4096]).await;
                    *asked.lock().unwrap() += 1;
                    let answer = answer.lock().unwrap().clone();
                    if let Some(answer) = answer {
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                });
            }
        });
        publisher
    }

    fn publish(&self, keys: &[Value]) {
        self.answer(200, "", &set(keys));
    }

    fn answer(&self, status: u16, header: &str, body: &str) {
        let length = body.len();
        let text =
            format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n{header}\r\n{body}");
        *self.answer.lock().unwrap() = Some(text);
    }

    /// Takes a connection and closes it.
    fn go_away(&self) {
        *self.answer.lock().unwrap() = None;
    }

    fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }
}

/// With keys of the publisher alone.
async fn app(publisher: &Publisher, change: impl FnOnce(&mut Settings)) -> TestApp {
    TestApp::with(|settings| {
        guarded(settings);
        settings.auth.jwt_secret = Secret::default();
        settings.auth.jwks_url = publisher.address.clone();
        settings.auth.jwks_min_refresh_ms = 10;
        change(settings);
    })
    .await
}

async fn see(app: &TestApp, token: &str) -> Seen {
    get(app, &format!("{API}/places/reviewed"), token).await
}

#[tokio::test]
async fn keys_of_both_kinds_are_fetched_once_and_kept() {
    let (rsa, ec) = (Issuer::rsa(), Issuer::ec());
    let publisher = Publisher::start(&[rsa.jwk("rsa"), ec.jwk("ec")]).await;
    let app = app(&publisher, |_| {}).await;
    assert_eq!(publisher.asked(), 0, "the service starts without its publisher");
    let claims = claims(user(1));
    for token in [rsa.token(Some("rsa"), &claims), ec.token(Some("ec"), &claims), ec.token(None, &claims)] {
        assert_eq!(see(&app, &token).await.status, 200);
    }
    assert_eq!(publisher.asked(), 1);
    for (token, expected) in [
        (Issuer::ec().token(Some("ec"), &claims), "signature is wrong"),
        (Issuer::ec().token(None, &claims), "signature is wrong"),
        (ec.token(Some("rsa"), &claims), "key is unknown"),
        (rsa.token(Some("ec"), &claims), "key is unknown"),
        (token_of(1), "alg is not accepted"),
    ] {
        let message = see(&app, &token).await.refused(401, "UNAUTHENTICATED");
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(publisher.asked(), 1, "a key that is there is no reason to ask");
    app.stop().await;
}

#[tokio::test]
async fn a_rotated_key_is_found_and_the_old_one_forgotten() {
    let (old, new) = (Issuer::ec(), Issuer::ec());
    let publisher = Publisher::start(&[old.jwk("old")]).await;
    let app = app(&publisher, |_| {}).await;
    let claims = claims(user(1));
    assert_eq!(see(&app, &old.token(Some("old"), &claims)).await.status, 200);
    publisher.publish(&[new.jwk("new")]);
    eventually("the new key is found", async || {
        (see(&app, &new.token(Some("new"), &claims)).await.status == 200).then_some(())
    })
    .await;
    see(&app, &old.token(Some("old"), &claims)).await.refused(401, "UNAUTHENTICATED");
    app.stop().await;
}

#[tokio::test]
async fn a_key_that_is_withdrawn_is_forgotten_without_a_new_one_being_named() {
    let (kept, withdrawn) = (Issuer::ec(), Issuer::ec());
    let publisher = Publisher::start(&[kept.jwk("kept"), withdrawn.jwk("withdrawn")]).await;
    let app = app(&publisher, |settings| settings.auth.jwks_refresh_ms = 100).await;
    let token = withdrawn.token(Some("withdrawn"), &claims(user(1)));
    assert_eq!(see(&app, &token).await.status, 200);
    publisher.publish(&[kept.jwk("kept")]);
    eventually("it is forgotten", async || (see(&app, &token).await.status == 401).then_some(())).await;
    app.stop().await;
}

#[tokio::test]
async fn made_up_keys_are_no_flood_for_the_publisher() {
    let issuer = Issuer::ec();
    let publisher = Publisher::start(&[issuer.jwk("one")]).await;
    let app = app(&publisher, |settings| settings.auth.jwks_min_refresh_ms = 3_600_000).await;
    let claims = claims(user(1));
    assert_eq!(see(&app, &issuer.token(Some("one"), &claims)).await.status, 200);
    for n in 0..20 {
        let token = issuer.token(Some(&format!("made up {n}")), &claims);
        assert!(see(&app, &token).await.refused(401, "UNAUTHENTICATED").contains("key is unknown"));
    }
    assert_eq!(publisher.asked(), 1);
    app.stop().await;
}

#[tokio::test]
async fn while_the_publisher_is_away_or_talks_nonsense_the_last_good_keys_count() {
    let issuer = Issuer::ec();
    let publisher = Publisher::start(&[issuer.jwk("one")]).await;
    let app = app(&publisher, |settings| settings.auth.jwks_refresh_ms = 100).await;
    let token = issuer.token(Some("one"), &claims(user(1)));
    assert_eq!(see(&app, &token).await.status, 200);
    let secret = json!({ "kty": "oct", "kid": "one", "k": "c2VjcmV0" });
    let elsewhere = Publisher::start(&[Issuer::ec().jwk("one")]).await;
    let moved = format!("location: {}\r\n", elsewhere.address);
    let troubles: [&dyn Fn(); 7] = [
        &|| publisher.go_away(),
        &|| publisher.answer(500, "", "down"),
        &|| publisher.answer(200, "", "no json"),
        &|| publisher.answer(200, "", &set(&[])),
        &|| publisher.answer(200, "", &set(std::slice::from_ref(&secret))),
        &|| publisher.answer(200, "", &format!("{{\"keys\": [], \"more\": \"{}\"}}", "x".repeat(2 << 20))),
        &|| publisher.answer(302, &moved, ""),
    ];
    for (n, trouble) in troubles.into_iter().enumerate() {
        trouble();
        let before = publisher.asked();
        eventually("it is asked again", async || {
            assert_eq!(see(&app, &token).await.status, 200, "trouble {n}");
            (publisher.asked() > before + 1).then_some(())
        })
        .await;
    }
    assert_eq!(elsewhere.asked(), 0, "a redirect is not followed");
    app.stop().await;
}

#[tokio::test]
async fn without_any_keys_yet_it_is_a_503_and_not_the_tokens_fault() {
    let issuer = Issuer::ec();
    let publisher = Publisher::start(&[]).await;
    publisher.go_away();
    let app = app(&publisher, |_| {}).await;
    let token = issuer.token(Some("one"), &claims(user(1)));
    let seen = see(&app, &token).await;
    seen.refused(503, "KEYS_AWAY");
    assert!(seen.headers.contains_key("retry-after"));
    // What needs no key goes on.
    assert_eq!(see(&app, super::ADMIN).await.status, 200);
    see(&app, "garbage").await.refused(401, "UNAUTHENTICATED");
    publisher.publish(&[issuer.jwk("one")]);
    eventually("the keys are there", async || (see(&app, &token).await.status == 200).then_some(())).await;
    app.stop().await;
}

#[tokio::test]
async fn a_publisher_that_never_answers_holds_nobody_up_for_long() {
    let issuer = Issuer::ec();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let publisher = Publisher::start(&[]).await;
    let silent = format!("http://{}/", listener.local_addr().unwrap());
    let app = app(&publisher, |settings| settings.auth.jwks_url = silent).await;
    let token = issuer.token(Some("one"), &claims(user(1)));
    let seen =
        tokio::time::timeout(PATIENCE.min(Duration::from_secs(15)), see(&app, &token)).await.expect("an answer");
    seen.refused(503, "KEYS_AWAY");
    app.stop().await;
}

#[tokio::test]
async fn keys_of_a_file_are_read_again_when_one_is_missing() {
    let (old, new) = (Issuer::rsa(), Issuer::ec());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, set(&[old.jwk("old")])).unwrap();
    let app = TestApp::with(|settings| {
        guarded(settings);
        settings.auth.jwks_file = file.to_str().unwrap().into();
        settings.auth.jwks_min_refresh_ms = 10;
    })
    .await;
    let claims = claims(user(1));
    assert_eq!(see(&app, &old.token(Some("old"), &claims)).await.status, 200);
    // Both: a secret and a set may stand beside each other, for a change from the one to the other.
    assert_eq!(see(&app, &token_of(1)).await.status, 200);
    std::fs::write(&file, set(&[old.jwk("old"), new.jwk("new")])).unwrap();
    eventually("the new key is found", async || {
        (see(&app, &new.token(Some("new"), &claims)).await.status == 200).then_some(())
    })
    .await;
    app.stop().await;
}
