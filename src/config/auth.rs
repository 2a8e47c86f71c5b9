//! Who may call, and as whom.

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::secret::Secret;
use super::sections::ServerSettings;
use super::validate::{refuse, within};
use super::{Settings, SettingsError};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSettings {
    pub jwt_secret: Secret,
    pub jwks_url: String,
    pub jwks_file: String,
    pub jwks_refresh_ms: u64,
    pub jwks_min_refresh_ms: u64,
    pub audience: String,
    pub issuer: String,
    pub leeway_seconds: u64,
    pub admin_claim: String,
    pub read_claim: String,
    pub admin_token: Secret,
    pub read_token: Secret,
    pub metrics_token: Secret,
    pub anonymous_read: bool,
    pub allow_insecure: bool,
}

/// RFC 7518, section 3.2: a key of HS256 has at least as many bytes as its hash.
const MIN_SECRET: usize = 32;
/// Characters of a token that nobody guesses, if it is random.
const MIN_TOKEN: usize = 16;
const MAX_TOKEN: usize = 4_096;
const DAY_MS: u64 = 24 * 3_600_000;

impl AuthSettings {
    /// Whether a user is who a token says, rather than who a header says.
    pub fn proves_users(&self) -> bool {
        !self.jwt_secret.is_empty() || !self.jwks_url.is_empty() || !self.jwks_file.is_empty()
    }

    /// Whether anything at all is asked for a token.
    pub fn is_on(&self) -> bool {
        self.proves_users() || self.tokens().iter().any(|(_, token)| !token.is_empty())
    }

    fn tokens(&self) -> [(&'static str, &Secret); 3] {
        [
            ("auth.admin_token", &self.admin_token),
            ("auth.read_token", &self.read_token),
            ("auth.metrics_token", &self.metrics_token),
        ]
    }

    /// Name and value of a claim as it is configured; `None` for an empty one.
    pub fn claim(text: &str) -> Result<Option<(&str, &str)>, &'static str> {
        match text.split_once('=') {
            None if text.is_empty() => Ok(None),
            Some((name, value)) if !name.trim().is_empty() && !value.trim().is_empty() => {
                Ok(Some((name.trim(), value.trim())))
            }
            _ => Err("must be NAME=VALUE, as role=admin is"),
        }
    }
}

pub(super) fn check(settings: &Settings) -> Result<(), SettingsError> {
    let auth = &settings.auth;
    let secret = auth.jwt_secret.expose();
    if !secret.is_empty() && secret.len() < MIN_SECRET {
        let problem = format!("has {} bytes, must have {MIN_SECRET} at least", secret.len());
        refuse("auth.jwt_secret", problem)?;
    }
    if !auth.jwks_url.is_empty() && !auth.jwks_file.is_empty() {
        refuse("auth.jwks_url", "stands beside auth.jwks_file: name the one or the other")?;
    }
    if let Err(problem) = address(&auth.jwks_url) {
        refuse("auth.jwks_url", problem)?;
    }
    within("auth.jwks_refresh_ms", auth.jwks_refresh_ms, 100, DAY_MS)?;
    within("auth.jwks_min_refresh_ms", auth.jwks_min_refresh_ms, 10, DAY_MS)?;
    within("auth.leeway_seconds", auth.leeway_seconds, 0, 300)?;
    tokens(auth)?;
    for (key, text) in [("auth.admin_claim", &auth.admin_claim), ("auth.read_claim", &auth.read_claim)] {
        let claim = AuthSettings::claim(text);
        let claim = claim.map_err(|problem| SettingsError::Invalid { key, problem: problem.into() })?;
        if claim.is_some() && !auth.proves_users() {
            refuse(key, "is a claim of tokens, which need auth.jwt_secret, auth.jwks_url or auth.jwks_file")?;
        }
    }
    if !auth.proves_users() && auth.anonymous_read {
        refuse("auth.anonymous_read", "needs auth.jwt_secret, auth.jwks_url or auth.jwks_file")?;
    }
    origins(&settings.server, auth)?;
    exposure(settings)
}

fn tokens(auth: &AuthSettings) -> Result<(), SettingsError> {
    let tokens = auth.tokens();
    for (at, (key, token)) in tokens.into_iter().enumerate() {
        let text = token.expose();
        if text.is_empty() {
            continue;
        }
        if !(MIN_TOKEN..=MAX_TOKEN).contains(&text.len()) {
            refuse(key, format!("has {} characters, must have {MIN_TOKEN} to {MAX_TOKEN}", text.len()))?;
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            refuse(key, "must be printable ASCII without spaces, as it travels in a header")?;
        }
        if let Some((other, _)) = tokens[..at].iter().find(|(_, other)| *other == token) {
            refuse(key, format!("is the same as {other}"))?;
        }
    }
    Ok(())
}

/// Keys that come over the open network could be anybody's.
fn address(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let url = Url::parse(text).map_err(|e| format!("is no URL: {e}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or a password".to_owned());
    }
    let local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if local => Ok(()),
        _ => Err("must be https://, or http:// on a loopback address".to_owned()),
    }
}

fn origins(server: &ServerSettings, auth: &AuthSettings) -> Result<(), SettingsError> {
    for origin in server.cors_origins.iter() {
        if origin == "*" {
            if !auth.proves_users() {
                let problem = "\"*\" would let every web page act as anybody; it needs authentication, see [auth]";
                refuse("server.cors_origins", problem)?;
            }
            continue;
        }
        let url = Url::parse(origin).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
        if url.is_none_or(|url| url.origin().ascii_serialization() != origin) {
            let problem =
                format!("{origin:?} is no origin, as https://app.example.org is: no path, no slash at the end");
            refuse("server.cors_origins", problem)?;
        }
    }
    Ok(())
}

/// Without authentication, everyone who reaches the port is any user they like.
fn exposure(settings: &Settings) -> Result<(), SettingsError> {
    let Settings { server, auth, metrics, .. } = settings;
    match metrics.addr() {
        Err(problem) => refuse("metrics.bind", problem)?,
        Ok(Some(addr)) if !addr.ip().is_loopback() && !auth.is_on() && !auth.allow_insecure => refuse(
            "metrics.bind",
            format!(
                "{addr} can be reached from other machines and asks nobody for a password; set auth.metrics_token, \
                 bind a loopback address, or set auth.allow_insecure = true"
            ),
        )?,
        Ok(_) => {}
    }
    if server.bind.ip().is_loopback() || auth.proves_users() || auth.allow_insecure {
        return Ok(());
    }
    refuse(
        "server.bind",
        format!(
            "{} can be reached from other machines and nobody is asked who they are; set auth.jwt_secret, \
             auth.jwks_url or auth.jwks_file, bind a loopback address behind a proxy that sets x-user-id, or set \
             auth.allow_insecure = true",
            server.bind
        ),
    )
}
