//! The webhook room: signs what is told and sends it, to addresses of the public internet alone unless the settings
//! say otherwise.

mod resolver;
pub mod secret;

use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use reqwest::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use reqwest::{Client, Response, StatusCode, redirect};
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook};
use url::Url;

use crate::config::secret::Secret;
use crate::config::webhook::WebhookSettings;
use crate::domain::webhook::address::refused_host;
use resolver::Guarded;

/// Bytes of an answer that are read at most; with more of them to come, the connection is dropped.
const READ: usize = 64 * 1024;
/// Bytes of an answer that are kept.
const KEPT: usize = 1024;
/// Characters of an error that are kept.
const MAX_ERROR: usize = 500;
/// Connections to one host that wait for more to send.
const IDLE: usize = 2;

/// Sends webhooks; cheap to clone.
#[derive(Clone)]
pub struct Sender {
    /// Made when there is something to send: to read the certificates takes a while, and may fail.
    client: Arc<OnceLock<Client>>,
    /// What can send to `http://` alone, where there is nothing better.
    plain: Arc<OnceLock<Client>>,
    timeout: Duration,
    allow_private: bool,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    pub url: &'a str,
    /// The same at each attempt: by it a receiver knows what it has had already.
    pub event_id: &'a str,
    /// JSON.
    pub payload: &'a str,
    /// Each of them signs.
    pub secrets: &'a [Secret],
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub at: DateTime<Utc>,
    pub duration: Duration,
    pub status: Option<u16>,
    /// The begin of the body.
    pub response: Option<String>,
    /// Why it is no success; `None` for a 2xx.
    pub error: Option<String>,
}

impl Answer {
    pub fn is_delivered(&self) -> bool {
        self.error.is_none()
    }

    /// The receiver wants nothing more, ever.
    pub fn is_gone(&self) -> bool {
        self.status == Some(StatusCode::GONE.as_u16())
    }
}

impl Sender {
    pub fn new(settings: &WebhookSettings) -> Self {
        Self {
            client: Arc::default(),
            plain: Arc::default(),
            timeout: settings.timeout(),
            allow_private: settings.allow_private,
        }
    }

    /// A client for such a URL. What `https://` lacks is looked for at each request to it: it may be there by then.
    fn client(&self, url: &Url) -> Result<Client, String> {
        let plain = || self.plain.get().filter(|_| url.scheme() == "http");
        if let Some(client) = self.client.get().or_else(plain) {
            return Ok(client.clone());
        }
        let (client, is_whole) = self.build()?;
        let kept = if is_whole { &self.client } else { &self.plain };
        Ok(kept.get_or_init(|| client).clone())
    }

    /// A client, and whether it can send to `https://`, too.
    fn build(&self) -> Result<(Client, bool), String> {
        // reqwest brings no cryptography of its own. An error says that the process has a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            Client::builder()
                .timeout(self.timeout)
                // A proxy would look the name up for itself, out of sight of the resolver.
                .no_proxy()
                // What an endpoint's URL was allowed for says nothing of where it leads on to.
                .redirect(redirect::Policy::none())
                .referer(false)
                .pool_max_idle_per_host(IDLE)
                .dns_resolver(Arc::new(Guarded::new(self.allow_private)))
        };
        match builder().build() {
            Ok(client) => Ok((client, true)),
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(
                    error,
                    "no certificate authority of the system can be used: webhooks to https:// fail"
                );
                // Those to http:// need none.
                builder().tls_certs_only([]).build().map(|client| (client, false)).map_err(|error| chain(&error))
            }
        }
    }

    /// Sends it once. Whatever happens is an answer.
    pub async fn send(&self, outgoing: Outgoing<'_>) -> Answer {
        let (at, began) = (Utc::now(), Instant::now());
        let (status, response, error) = match self.request(&outgoing, at).await {
            Ok(response) => read(response).await,
            Err(problem) => (None, None, Some(problem)),
        };
        let error = error.map(|error| error.chars().take(MAX_ERROR).collect());
        Answer { at, duration: began.elapsed(), status, response, error }
    }

    async fn request(&self, outgoing: &Outgoing<'_>, at: DateTime<Utc>) -> Result<Response, String> {
        // An address that stands in the URL is looked up by nobody. Looked at once more, as the settings may have been
        // others when it was registered.
        let url = Url::parse(outgoing.url).map_err(|problem| problem.to_string())?;
        if let Some(reason) = refused_host(&url).filter(|_| !self.allow_private) {
            return Err(format!("refused: its address is {reason}, see webhook.allow_private"));
        }
        let timestamp = at.timestamp();
        let signatures = signatures(outgoing, timestamp)?;
        let request = self
            .client(&url)?
            .post(url)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, concat!("mapx-embeddings/", env!("CARGO_PKG_VERSION")))
            .header(HEADER_WEBHOOK_ID, outgoing.event_id)
            .header(HEADER_WEBHOOK_TIMESTAMP, timestamp)
            .header(HEADER_WEBHOOK_SIGNATURE, signatures)
            .body(outgoing.payload.to_owned());
        // Without the URL, which may hold a key.
        request.send().await.map_err(|error| chain(&error.without_url()))
    }
}

/// One signature a secret, with spaces between them: a receiver accepts if any is of the secret that it knows.
fn signatures(outgoing: &Outgoing<'_>, timestamp: i64) -> Result<String, String> {
    let sign = |secret: &Secret| {
        Webhook::new(secret.expose())?.sign(outgoing.event_id, timestamp, outgoing.payload.as_bytes())
    };
    let signatures: Result<Vec<String>, _> = outgoing.secrets.iter().map(sign).collect();
    signatures.map(|all| all.join(" ")).map_err(|_| "the endpoint's secret can't be used; rotate it".to_owned())
}

async fn read(response: Response) -> (Option<u16>, Option<String>, Option<String>) {
    let status = response.status();
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    let mut broken = None;
    while body.len() < READ {
        match chunks.next().await {
            Some(Ok(chunk)) => body.extend_from_slice(&chunk),
            Some(Err(error)) => {
                broken = Some(chain(&error.without_url()));
                break;
            }
            None => break,
        }
    }
    let error = match (status.is_success(), status.is_redirection(), broken) {
        // It has said that it has it; how it goes on to say so is no matter.
        (true, ..) => None,
        (_, true, _) => Some(format!("status {}: redirects are not followed", status.as_u16())),
        (_, _, Some(broken)) => Some(format!("status {}, then {broken}", status.as_u16())),
        _ => Some(format!("status {}", status.as_u16())),
    };
    (Some(status.as_u16()), kept(&body), error)
}

/// The begin of a body as text. PostgreSQL's has no NUL.
fn kept(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(&body[..body.len().min(KEPT)]).replace('\0', "");
    (!text.is_empty()).then_some(text)
}

/// An error and its causes, each once.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn sender(allow_private: bool) -> Sender {
        let settings = Settings::load(None, []).unwrap().webhook;
        Sender::new(&WebhookSettings { allow_private, ..settings })
    }

    async fn told(sender: &Sender, url: &str) -> String {
        let secrets = [secret::generate()];
        let outgoing = Outgoing { url, event_id: "msg_1", payload: "{}", secrets: &secrets };
        sender.send(outgoing).await.error.unwrap_or_default()
    }

    #[tokio::test]
    async fn an_address_inside_is_refused_whether_it_is_written_or_looked_up() {
        let sender = sender(false);
        for url in
            ["http://127.0.0.1:1/?key=hidden", "http://[::1]:1/", "http://2130706433/", "http://localhost:1/"]
        {
            let error = told(&sender, url).await;
            assert!(error.contains("loopback") && error.contains("allow_private"), "{url}: {error}");
            assert!(!error.contains("hidden"), "{error}");
        }
    }

    #[tokio::test]
    async fn where_it_is_allowed_the_network_says_what_is_wrong() {
        let error = told(&sender(true), "http://127.0.0.1:1/?key=hidden").await;
        assert!(error.to_lowercase().contains("connect") && !error.contains("hidden"), "{error}");
    }

    #[test]
    fn both_secrets_sign_and_the_signatures_are_those_of_the_specification() {
        // The example of the Standard Webhooks specification's own libraries.
        let known = Secret::new("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD");
        let other = secret::generate();
        let payload = r#"{"email":"test@example.com","username":"test_user"}"#;
        let secrets = [other, known];
        let outgoing =
            Outgoing { url: "", event_id: "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", payload, secrets: &secrets };
        let signatures = signatures(&outgoing, 1_649_367_553).unwrap();
        let all: Vec<&str> = signatures.split(' ').collect();
        assert_eq!((all.len(), all[1]), (2, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="));
    }

    #[test]
    fn what_is_kept_of_an_answer_is_short_text_without_nul() {
        assert_eq!(kept(b""), None);
        assert_eq!(kept(b"a\0b\xff").as_deref(), Some("ab\u{fffd}"));
        assert_eq!(kept(&[b'x'; 5_000]).map(|text| text.len()), Some(KEPT));
    }
}
