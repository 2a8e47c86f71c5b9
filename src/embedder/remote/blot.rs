//! Keeps secrets out of what a provider is quoted with.

use percent_encoding::percent_decode_str;
use url::Url;

use crate::config::embedder::EmbedderSettings;

/// Shorter header values, such as `true`, are no secrets, and blotting them out would spoil every message.
const SHORTEST: usize = 4;
/// Of a provider's message, in characters.
const MAX_QUOTE: usize = 300;

/// What must never be repeated: the key, the values of the headers, the proxy's password.
#[derive(Clone, Default)]
pub struct Blot(Vec<String>);

impl Blot {
    pub fn new(settings: &EmbedderSettings) -> Self {
        let headers = settings.headers.values().map(|value| value.expose()).filter(|v| v.len() >= SHORTEST);
        let mut secrets: Vec<String> = headers.map(str::to_owned).collect();
        secrets.push(settings.api_key.expose().to_owned());
        if let Ok(proxy) = Url::parse(settings.proxy.expose()) {
            let password = proxy.password().unwrap_or_default();
            secrets.push(percent_decode_str(password).decode_utf8_lossy().into_owned());
            secrets.push(password.to_owned());
        }
        secrets.retain(|secret| !secret.trim().is_empty());
        // "Bearer KEY" in a header holds the key: the longest first, or a part of it would be left.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self(secrets)
    }

    /// `text` as it may be shown: without secrets, on one line, and not too long.
    pub fn quote(&self, text: &str) -> String {
        // Before it is cut, or a part of a secret would be left.
        bounded(&squeeze(&self.clean(text)))
    }

    pub fn clean(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// At most [`MAX_QUOTE`] characters of `text`, and a sign that there was more.
fn bounded(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::{Secret, ServerUrl};

    fn blot() -> Blot {
        Blot::new(&EmbedderSettings {
            api_key: Secret::new("sk-very-secret"),
            headers: [("a", "Token sk-very-secret 2"), ("b", "yes")]
                .map(|(k, v)| (k.into(), Secret::new(v)))
                .into(),
            proxy: ServerUrl::new("http://me:p%40ss@proxy:1"),
            ..EmbedderSettings::default()
        })
    }

    #[test]
    fn no_secret_is_repeated() {
        let told = blot().quote("sk-very-secret, Token sk-very-secret 2, p@ss, p%40ss, yes");
        assert_eq!(told, "***, ***, ***, ***, yes");
        assert_eq!(Blot::new(&EmbedderSettings::default()).quote(" a\n b "), "a b");
    }

    #[test]
    fn a_secret_is_blotted_out_before_the_message_is_cut() {
        let told = blot().quote(&format!("{}sk-very-secret", "x".repeat(MAX_QUOTE - 7)));
        assert!(told.ends_with("x***"), "{told}");
        let long = blot().quote(&"ä".repeat(5_000));
        assert!(long.ends_with("ä…") && long.chars().count() == MAX_QUOTE + 1);
    }
}
