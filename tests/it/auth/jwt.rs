//! Tokens that are good and tokens that aren't.

use serde_json::{Value, json};

use super::signing::{Issuer, RSA_PEM, encoded, hmac, hs256, set, token};
use super::{API, SECRET, Seen, app, call, claims, get, in_seconds, token_of};
use crate::support::app::{TestApp, user};

fn list() -> String {
    format!("{API}/places/reviewed")
}

async fn see(app: &TestApp, token: &str) -> Seen {
    get(app, &list(), token).await
}

/// Refused with this in its message, which holds nothing of the token.
async fn refused(app: &TestApp, token: &str, expected: &str) {
    let message = see(app, token).await.refused(401, "UNAUTHENTICATED");
    assert!(message.contains(expected), "{message:?} should say {expected:?}: {token}");
    let parts: Vec<&str> = token.split('.').filter(|part| part.len() > 8).collect();
    assert!(!parts.iter().any(|part| message.contains(part)), "{message}");
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims(user(1));
    claims[name] = value;
    claims
}

#[tokio::test]
async fn the_times_of_a_token_are_kept() {
    let app = app().await;
    let of = |claims: Value| hs256(SECRET, &claims);
    see(&app, &of(with("exp", json!(in_seconds(60))))).await.data_of_a_page();
    // Clocks differ by a little.
    see(&app, &of(with("exp", json!(in_seconds(-2))))).await.data_of_a_page();
    see(&app, &of(with("nbf", json!(in_seconds(2))))).await.data_of_a_page();
    refused(&app, &of(with("exp", json!(in_seconds(-60)))), "has expired").await;
    refused(&app, &of(with("nbf", json!(in_seconds(60)))), "is not valid yet").await;
    for exp in [json!(null), json!("soon"), json!(-1), json!({})] {
        refused(&app, &of(with("exp", exp)), "exp").await;
    }
    refused(&app, &of(json!({ "id": user(1) })), "no valid exp").await;
    refused(&app, &of(with("nbf", json!("soon"))), "no valid nbf").await;
    app.stop().await;
}

#[tokio::test]
async fn the_user_is_the_claim_id_else_sub_and_must_be_there() {
    let app = app().await;
    let exp = in_seconds(60);
    let of = |claims: Value| hs256(SECRET, &claims);
    see(&app, &of(json!({ "sub": user(1), "exp": exp }))).await.data_of_a_page();
    let both = of(json!({ "id": user(1), "sub": user(2), "exp": exp }));
    let id = super::saved(&app, &both).await;
    assert_eq!(get(&app, &format!("{API}/{id}"), &both).await.data(200)["user_id"], json!(user(1)));
    refused(&app, &of(json!({ "exp": exp })), "names no user").await;
    refused(&app, &of(json!({ "sub": "auth0|7", "exp": exp })), "names no user").await;
    refused(&app, &of(json!({ "id": 7, "sub": user(1), "exp": exp })), "id is no UUID").await;
    app.stop().await;
}

#[tokio::test]
async fn audience_and_issuer_are_checked_where_they_are_configured() {
    let plain = app().await;
    see(&plain, &hs256(SECRET, &with("aud", json!("anybody")))).await.data_of_a_page();
    plain.stop().await;
    let app = TestApp::with(|settings| {
        super::guarded(settings);
        (settings.auth.audience, settings.auth.issuer) = ("mapx".into(), "https://id.example".into());
    })
    .await;
    let of = |aud: Value, iss: Value| {
        let mut claims = with("aud", aud);
        claims["iss"] = iss;
        hs256(SECRET, &claims)
    };
    let issuer = || json!("https://id.example");
    see(&app, &of(json!("mapx"), issuer())).await.data_of_a_page();
    see(&app, &of(json!(["other", "mapx"]), issuer())).await.data_of_a_page();
    for aud in [json!("other"), json!(["other"]), json!([])] {
        refused(&app, &of(aud, issuer()), "is for another audience").await;
    }
    for aud in [json!(null), json!(7)] {
        refused(&app, &of(aud, issuer()), "no valid aud").await;
    }
    refused(&app, &of(json!("mapx"), json!("https://id.example.evil")), "is of another issuer").await;
    refused(&app, &of(json!("mapx"), json!(null)), "no valid iss").await;
    refused(&app, &token_of(1), "no valid").await;
    app.stop().await;
}

#[tokio::test]
async fn a_token_without_a_signature_or_with_a_wrong_one_is_refused() {
    let app = app().await;
    let claims = claims(user(1));
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let unsigned = token(&json!({ "alg": alg, "typ": "JWT" }), &claims, |_| Vec::new());
        refused(&app, &unsigned, "no valid JSON Web Token").await;
        refused(&app, unsigned.trim_end_matches('.'), "no valid JSON Web Token").await;
    }
    refused(&app, &token(&json!({ "alg": "HS256" }), &claims, |_| Vec::new()), "signature is wrong").await;
    refused(&app, &hs256("another secret that is as long as this", &claims), "signature is wrong").await;
    // The claims of one token with the signature of another.
    let (good, other) = (token_of(1), token_of(2));
    let (head, signature) = (other.rsplit_once('.').unwrap().0, good.rsplit_once('.').unwrap().1);
    refused(&app, &format!("{head}.{signature}"), "signature is wrong").await;
    // Other algorithms with the right secret, and ones that nobody knows.
    for alg in ["HS384", "HS512", "RS256", "ES256", "EdDSA"] {
        refused(&app, &token(&json!({ "alg": alg }), &claims, hmac(SECRET)), "alg is not accepted").await;
    }
    let critical = json!({ "alg": "HS256", "crit": ["b64"], "b64": false });
    refused(&app, &token(&critical, &claims, hmac(SECRET)), "crit").await;
    app.stop().await;
}

#[tokio::test]
async fn a_token_that_was_changed_anywhere_is_refused() {
    let app = app().await;
    let good = token_of(1);
    assert_eq!(see(&app, &good).await.status, 200);
    for at in 0..good.len() {
        let mut changed = good.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        see(&app, &changed).await.refused(401, "UNAUTHENTICATED");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_public_key_is_never_taken_for_a_secret() {
    let issuer = Issuer::rsa();
    let public = set(&[issuer.jwk("one")]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, &public).unwrap();
    for secret in ["", SECRET] {
        let app = TestApp::with(|settings| {
            super::guarded(settings);
            settings.auth.jwt_secret = mapx_embeddings::config::secret::Secret::new(secret);
            settings.auth.jwks_file = file.to_str().unwrap().into();
        })
        .await;
        let claims = claims(user(1));
        see(&app, &issuer.token(Some("one"), &claims)).await.data_of_a_page();
        let jwk = issuer.jwk("one");
        let pem = spki(&issuer.public());
        let known = [
            issuer.public(),
            public.clone().into_bytes(),
            jwk.to_string().into_bytes(),
            jwk["n"].as_str().unwrap().into(),
            RSA_PEM.into(),
            pem.into_bytes(),
            Vec::new(),
        ];
        let expected = if secret.is_empty() { "alg is not accepted" } else { "signature is wrong" };
        for key in known {
            for header in [json!({ "alg": "HS256" }), json!({ "alg": "HS256", "kid": "one" })] {
                refused(&app, &token(&header, &claims, hmac(&key)), expected).await;
            }
            let lying = token(&json!({ "alg": "RS256", "kid": "one" }), &claims, hmac(&key));
            refused(&app, &lying, "signature is wrong").await;
        }
        // A key of the token's own, and the wrong kind of signature for a key of the set.
        let mut header = json!({ "alg": "RS256", "kid": "one", "jku": "https://evil.example/keys" });
        header["jwk"] = jwk.clone();
        refused(&app, &token(&header, &claims, |_| vec![1; 256]), "signature is wrong").await;
        let ec = Issuer::ec();
        header["jwk"] = ec.jwk("own");
        header["alg"] = json!("ES256");
        refused(&app, &token(&header, &claims, |message| ec.sign(message)), "key is unknown").await;
        app.stop().await;
    }
}

/// The public key as `openssl rsa -pubout` prints it, which is what the attack is usually made with.
fn spki(pkcs1: &[u8]) -> String {
    use base64::Engine;
    let tagged = |tag: u8, content: &[u8]| {
        let length = u16::try_from(content.len()).expect("short").to_be_bytes();
        [&[tag, 0x82][..], &length, content].concat()
    };
    let algorithm = [0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let key = tagged(3, &[&[0][..], pkcs1].concat());
    let text = base64::engine::general_purpose::STANDARD.encode(tagged(0x30, &[&algorithm[..], &key].concat()));
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

#[tokio::test]
async fn garbage_is_a_401_and_never_more() {
    let app = app().await;
    let good = token_of(1);
    let huge = "x".repeat(9_000);
    let long_claims = hs256(SECRET, &with("more", json!("y".repeat(20_000))));
    let deep = format!("{}{}", "[".repeat(2_000), "]".repeat(2_000));
    let not_json = |header: &str, claims: &str| format!("{}.{}.{}", encoded(header), encoded(claims), encoded("x"));
    let tokens = [
        "x".into(),
        ".".into(),
        "..".into(),
        "...".into(),
        "a.b.c".into(),
        format!("{good}."),
        format!("{good}.x"),
        format!(".{good}"),
        good[..good.len() - 1].to_owned(),
        not_json("", ""),
        not_json("{}", "{}"),
        not_json("[]", "{}"),
        not_json("\u{0}", "\u{0}"),
        not_json(&format!("{{\"alg\": {deep}}}"), "{}"),
        hs256(SECRET, &json!([])),
        hs256(SECRET, &json!("text")),
        hs256(SECRET, &json!(null)),
        huge,
        long_claims,
    ];
    for token in &tokens {
        see(&app, token).await.refused(401, "UNAUTHENTICATED");
    }
    let headers = ["Bearer", "Bearer ", "", "Basic dXNlcjpwYXNz", good.as_str(), "Bearer a b", "bearer\u{e9} x"];
    for value in headers {
        call(&app, "GET", &list(), &[("authorization", value)], None).await.refused(401, "UNAUTHENTICATED");
    }
    let bearer = format!("Bearer {good}");
    let twice = [("authorization", bearer.as_str()), ("authorization", bearer.as_str())];
    let message = call(&app, "GET", &list(), &twice, None).await.refused(401, "UNAUTHENTICATED");
    assert!(message.contains("once"), "{message}");
    // A scheme's case doesn't count.
    assert_eq!(
        call(&app, "GET", &list(), &[("authorization", &format!("bEARER  {good}"))], None).await.status,
        200
    );
    // Where no token is asked for, none is looked at.
    assert_eq!(get(&app, "/health/live", "x").await.status, 200);
    app.stop().await;
}

#[tokio::test]
async fn a_role_is_only_what_the_configured_claim_says() {
    let app = app().await;
    let path = format!("{}/config", super::QUEUE);
    let of = |claims: Value| hs256(SECRET, &claims);
    let robot = json!({ "sub": "robot", "role": "admin", "exp": in_seconds(60) });
    assert_eq!(get(&app, &path, &of(robot)).await.status, 200);
    for claims in [
        with("role", json!("Admin")),
        with("role", json!("admins")),
        with("role", json!({ "admin": true })),
        with("roles", json!(["admin"])),
        with("admin", json!(true)),
    ] {
        get(&app, &path, &of(claims)).await.refused(403, "NOT_ALLOWED");
    }
    app.stop().await;
    let unnamed = TestApp::with(|settings| {
        super::guarded(settings);
        settings.auth.admin_claim = String::new();
    })
    .await;
    get(&unnamed, &path, &of(with("role", json!("admin")))).await.refused(403, "NOT_ALLOWED");
    unnamed.stop().await;
}

#[tokio::test]
async fn an_id_in_capitals_is_the_same_user() {
    let app = app().await;
    let spelled = user(1).to_string().to_uppercase();
    let token = hs256(SECRET, &json!({ "id": spelled, "exp": in_seconds(60) }));
    let id = super::saved(&app, &token).await;
    assert_eq!(get(&app, &format!("{API}/{id}"), &token).await.data(200)["user_id"], json!(user(1)));
    app.stop().await;
}

impl Seen {
    #[track_caller]
    fn data_of_a_page(&self) {
        assert_eq!(self.status, 200, "{}", self.text);
        assert!(self.json()["data"].is_array());
    }
}
