//! The HTTP client: one pool of connections, its certificates, its proxy, the headers of every call.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Client, Proxy, Url, redirect};

use super::failure::chain;
use crate::config::embedder::EmbedderSettings;
use crate::config::presets::Api;
use crate::embedder::BuildError;

/// The client that `settings` ask for. It speaks HTTP/2 with those who offer it, and asks for no compression, so that
/// a body is as long as it looks.
pub fn client(settings: &EmbedderSettings, api: Api, endpoint: &Url) -> Result<Client, BuildError> {
    // reqwest brings no cryptography of its own. An error says that the process has a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .timeout(Duration::from_millis(settings.timeout_ms))
        .connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
        .default_headers(headers(settings, api)?)
        // A redirect would carry texts, and perhaps the key, to a host that nobody configured.
        .redirect(redirect::Policy::none());
    if !settings.ca_file.is_empty() {
        builder = builder.tls_certs_only(authorities(&settings.ca_file)?);
    } else if endpoint.scheme() == "http" && !settings.proxy.expose().starts_with("https") {
        // A machine without any root certificate can still reach a provider that needs none.
        builder = builder.tls_certs_only([]);
    }
    if !settings.proxy.is_empty() {
        builder = builder.proxy(proxy(settings)?);
    }
    builder.build().map_err(|error| BuildError::new("base_url", chain(&error)))
}

fn authorities(file: &str) -> Result<Vec<Certificate>, BuildError> {
    let problem = |problem: String| BuildError::new("ca_file", format!("{file}: {problem}"));
    let pem = std::fs::read(file).map_err(|error| problem(error.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| problem(chain(&error)))?;
    if certificates.is_empty() {
        return Err(problem("holds no certificate in PEM form".into()));
    }
    Ok(certificates)
}

/// Its errors quote nothing, as the address may hold a password.
fn proxy(settings: &EmbedderSettings) -> Result<Proxy, BuildError> {
    let problem = || BuildError::new("proxy", "must be http://USER:PASSWORD@HOST:PORT, or https://…");
    let url = Url::parse(settings.proxy.expose()).map_err(|_| problem())?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(problem());
    }
    Proxy::all(url).map_err(|_| problem())
}

/// The key and the headers of the settings, which win; marked so that no log shows a value.
fn headers(settings: &EmbedderSettings, api: Api) -> Result<HeaderMap, BuildError> {
    let mut headers = HeaderMap::new();
    let key = settings.api_key.expose();
    if !key.is_empty() {
        let (name, text) = match api {
            Api::Azure => (HeaderName::from_static("api-key"), key.to_owned()),
            _ => (AUTHORIZATION, format!("Bearer {key}")),
        };
        headers.insert(name, value(&text).ok_or_else(|| illegal("api_key"))?);
    }
    for (name, secret) in &settings.headers {
        let named = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| BuildError::new("headers", format!("{name:?} is no name of a header")))?;
        let problem = || BuildError::new("headers", format!("the value of {name} can't stand in a header"));
        headers.insert(named, value(secret.expose()).ok_or_else(problem)?);
    }
    Ok(headers)
}

fn illegal(key: &'static str) -> BuildError {
    BuildError::new(key, "has characters that no HTTP header may hold")
}

fn value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
