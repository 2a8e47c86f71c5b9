use super::*;
use crate::config::embedder::Provider;
use crate::config::secret::{Secret, ServerUrl};

fn settings() -> EmbedderSettings {
    EmbedderSettings {
        provider: Provider::Openai,
        base_url: "https://api.example.com/v1".into(),
        model: "text-embedding-3-small".into(),
        dimensions: 512,
        api_key: Secret::new("sk-very-secret"),
        timeout_ms: 1_000,
        connect_timeout_ms: 500,
        threshold: -1.0,
        ..EmbedderSettings::default()
    }
}

fn problem(change: impl FnOnce(&mut EmbedderSettings)) -> String {
    let mut settings = settings();
    change(&mut settings);
    RemoteEmbedder::new(&settings).err().unwrap().to_string()
}

#[test]
fn settings_that_cannot_work_are_refused_by_key() {
    assert!(problem(|s| s.base_url.clear()).starts_with("embedder.base_url: is needed"));
    assert!(problem(|s| s.base_url = "example.com".into()).starts_with("embedder.base_url: is no URL"));
    assert!(problem(|s| s.base_url = "ftp://host/v1".into()).starts_with("embedder.base_url: must begin"));
    assert!(problem(|s| s.base_url = "https://me:pw@host/v1".into()).contains("embedder.base_url: must not"));
    assert!(problem(|s| s.model.clear()).starts_with("embedder.model: "));
    assert!(problem(|s| s.dimensions = 0).starts_with("embedder.dimensions: "));
    assert!(problem(|s| s.ca_file = "/no/such.pem".into()).starts_with("embedder.ca_file: /no/such.pem: "));
    assert!(problem(|s| s.ca_file = "Cargo.toml".into()).contains("embedder.ca_file: Cargo.toml: holds no"));
    assert!(problem(|s| s.preset = "nobody:x".into()).starts_with("embedder.preset: there is no \"nobody\""));
    let bad_key = problem(|s| s.api_key = Secret::new("sk-very\nsecret"));
    assert!(bad_key.starts_with("embedder.api_key: ") && !bad_key.contains("sk-very"), "{bad_key}");
}

#[test]
fn a_refused_header_or_proxy_is_not_quoted() {
    let header = problem(|s| drop(s.headers.insert("x-tenant".into(), Secret::new("hid\nden"))));
    assert_eq!(header, "embedder.headers: the value of x-tenant can't stand in a header");
    let name = problem(|s| drop(s.headers.insert("x tenant".into(), Secret::new("hidden"))));
    assert_eq!(name, "embedder.headers: \"x tenant\" is no name of a header");
    for url in ["socks5://me:hidden@proxy", "me:hidden@proxy"] {
        let proxy = problem(|s| s.proxy = ServerUrl::new(url));
        assert!(proxy.starts_with("embedder.proxy: must be") && !proxy.contains("hidden"), "{proxy}");
    }
}

#[test]
fn limits_are_the_preset_s_unless_set() {
    let embedder = RemoteEmbedder::new(&settings()).unwrap();
    let limits =
        Limits { max_inputs: 2_048, max_input_tokens: 8_000, max_call_tokens: 300_000, worthwhile_inputs: 1 };
    assert_eq!(embedder.limits(), limits);
    assert_eq!((embedder.tokens("tiktoken is great!"), embedder.price()), (6, None));
    let own = EmbedderSettings { preset: "openai".into(), max_input_tokens: 100, ..settings() };
    let own = RemoteEmbedder::new(&own).unwrap();
    assert_eq!((own.limits().max_input_tokens, own.price()), (100, Some(0.02)));
}

#[test]
fn the_threshold_is_the_configured_one_or_mapx_s() {
    let threshold =
        |threshold| RemoteEmbedder::new(&EmbedderSettings { threshold, ..settings() }).unwrap().default_threshold();
    assert_eq!([threshold(-1.0), threshold(0.0), threshold(0.4)], [0.7, 0.0, 0.4]);
}
