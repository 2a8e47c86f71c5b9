//! Public keys of tokens: a JSON Web Key Set (RFC 7517) from an address or a file, kept and renewed.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

use super::TokenError;
use crate::config::SettingsError;
use crate::config::auth::AuthSettings;

/// A request waits as long at most, when a key isn't there.
const PATIENCE: Duration = Duration::from_secs(3);
/// Of a set, in bytes.
const MAX_SET: usize = 1 << 20;
/// Keys that are kept of a set.
const MAX_KEYS: usize = 100;

/// A key with the one algorithm that its type allows.
#[derive(Clone)]
pub struct Key {
    id: Option<Arc<str>>,
    pub algorithm: Algorithm,
    /// Shared: each request takes those that may fit.
    pub decoding: Arc<DecodingKey>,
}

impl Key {
    pub fn new(id: Option<&str>, algorithm: Algorithm, decoding: DecodingKey) -> Self {
        Self { id: id.map(Into::into), algorithm, decoding: Arc::new(decoding) }
    }
}

/// The set that was good last.
pub struct KeySet {
    source: Source,
    kept: RwLock<Kept>,
    /// When the source was last asked, well or not; held by whoever asks.
    asked: Mutex<Option<Instant>>,
    refresh: Duration,
    min_refresh: Duration,
}

#[derive(Clone, Default)]
struct Kept {
    keys: Arc<[Key]>,
    at: Option<Instant>,
}

enum Source {
    File(PathBuf),
    Address(String, reqwest::Client),
}

impl KeySet {
    /// The set that is configured, if one is.
    pub fn new(settings: &AuthSettings) -> Result<Option<Self>, SettingsError> {
        let AuthSettings { jwks_url, jwks_file, jwks_refresh_ms, jwks_min_refresh_ms, .. } = settings;
        let (source, kept) = if !jwks_file.is_empty() {
            let invalid = |problem| SettingsError::Invalid { key: "auth.jwks_file", problem };
            let text = std::fs::read(jwks_file).map_err(|e| invalid(format!("can't read {jwks_file}: {e}")))?;
            let keys = read(&text).map_err(invalid)?;
            (Source::File(jwks_file.into()), Kept { keys, at: Some(Instant::now()) })
        } else if !jwks_url.is_empty() {
            // A redirect could lead away from TLS.
            let client = reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
            let invalid = |e| SettingsError::Invalid { key: "auth.jwks_url", problem: format!("no client: {e}") };
            (Source::Address(jwks_url.clone(), client.build().map_err(invalid)?), Kept::default())
        } else {
            return Ok(None);
        };
        Ok(Some(Self {
            source,
            kept: RwLock::new(kept),
            asked: Mutex::new(None),
            refresh: Duration::from_millis(*jwks_refresh_ms),
            min_refresh: Duration::from_millis(*jwks_min_refresh_ms),
        }))
    }

    /// The keys that may have signed a token with such a header: those of its `kid`, or all, where it names none.
    /// They are at most as old as the refresh interval, unless their source is away.
    pub async fn candidates(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Vec<Key>, TokenError> {
        let mut kept = self.kept();
        let known = |kept: &Kept| id.is_none() || kept.keys.iter().any(|key| key.id.as_deref() == id);
        if kept.at.is_none() || !known(&kept) {
            self.renew(&kept, self.asked.lock().await).await;
            kept = self.kept();
        } else if kept.at.is_some_and(|at| at.elapsed() >= self.refresh)
            // One request sees to it, the others go on with what is there.
            && let Ok(asked) = self.asked.try_lock()
        {
            self.renew(&kept, asked).await;
            kept = self.kept();
        }
        if kept.at.is_none() {
            return Err(TokenError::KeysAway);
        }
        let fits = |key: &&Key| key.algorithm == algorithm && (id.is_none() || key.id.as_deref() == id);
        Ok(kept.keys.iter().filter(fits).cloned().collect())
    }

    fn kept(&self) -> Kept {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the source, unless somebody has since `seen` was, or did a moment ago: a flood of made-up key ids must
    /// not become a flood of requests to whoever has the keys.
    async fn renew(&self, seen: &Kept, mut asked: MutexGuard<'_, Option<Instant>>) {
        if self.kept().at != seen.at || asked.is_some_and(|at| at.elapsed() < self.min_refresh) {
            return;
        }
        *asked = Some(Instant::now());
        match self.fetch().await {
            Ok(keys) => {
                let kept = Kept { keys, at: Some(Instant::now()) };
                *self.kept.write().unwrap_or_else(PoisonError::into_inner) = kept;
            }
            Err(problem) => tracing::warn!(problem, "the keys of tokens can't be renewed; those from before count"),
        }
    }

    async fn fetch(&self) -> Result<Arc<[Key]>, String> {
        let text = match &self.source {
            Source::File(path) => tokio::fs::read(path).await.map_err(|e| format!("auth.jwks_file: {e}"))?,
            Source::Address(url, client) => download(url, client).await?,
        };
        read(&text)
    }
}

async fn download(url: &str, client: &reqwest::Client) -> Result<Vec<u8>, String> {
    let failed = |e: reqwest::Error| format!("auth.jwks_url: {}", e.without_url());
    let mut response = client.get(url).header("accept", "application/json").send().await.map_err(failed)?;
    if response.status() != 200 {
        return Err(format!("auth.jwks_url answers {}", response.status()));
    }
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if text.len() + chunk.len() > MAX_SET {
            return Err(format!("auth.jwks_url sends more than {MAX_SET} bytes"));
        }
        text.extend_from_slice(&chunk);
    }
    Ok(text)
}

/// The keys of a set that can be used here; there must be one at least.
fn read(text: &[u8]) -> Result<Arc<[Key]>, String> {
    let set: Value = serde_json::from_slice(text).map_err(|e| format!("is no JSON Web Key Set: {e}"))?;
    let listed = set["keys"].as_array().ok_or("is no JSON Web Key Set: it has no list of keys")?;
    // A set may hold keys of kinds that nobody here knows: they are passed over, as the standard asks.
    let jwks = listed.iter().filter_map(|key| serde_json::from_value::<Jwk>(key.clone()).ok());
    let keys: Arc<[Key]> = jwks.filter_map(|jwk| usable(&jwk)).take(MAX_KEYS).collect();
    if keys.is_empty() {
        return Err("holds no key for RS256 (RSA) or ES256 (P-256) signatures".to_owned());
    }
    Ok(keys)
}

/// Only public keys: a secret (`oct`) that everybody can fetch is none.
fn usable(jwk: &Jwk) -> Option<Key> {
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        _ => return None,
    };
    let common = &jwk.common;
    let signs = common.public_key_use.as_ref().is_none_or(|to| *to == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|to| to.contains(&KeyOperations::Verify))
        && common.key_algorithm.is_none_or(|given| given == named);
    let decoding = DecodingKey::from_jwk(jwk).ok().filter(|_| signs)?;
    Some(Key::new(common.key_id.as_deref(), algorithm, decoding))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_public_keys_for_signatures_are_taken_from_a_set() {
        let rsa = json!({"kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB"});
        let with = |mut key: Value, name: &str, value: Value| {
            key[name] = value;
            key
        };
        let keys = json!({"keys": [
            with(rsa.clone(), "use", json!("enc")),
            with(rsa.clone(), "key_ops", json!(["encrypt"])),
            with(rsa.clone(), "alg", json!("RS512")),
            {"kty": "oct", "kid": "s", "k": "c2VjcmV0"},
            {"kty": "EC", "crv": "P-384", "x": "AQAB", "y": "AQAB"},
            {"kty": "new"}, 7,
            with(rsa, "alg", json!("RS256")),
            {"kty": "EC", "crv": "P-256", "kid": "e", "x": "AQAB", "y": "AQAB", "use": "sig"},
        ]});
        let keys = read(keys.to_string().as_bytes()).ok().unwrap();
        let named: Vec<_> = keys.iter().map(|key| (key.id.as_deref(), key.algorithm)).collect();
        assert_eq!(named, [(Some("r"), Algorithm::RS256), (Some("e"), Algorithm::ES256)]);
        for bad in ["", "[]", "{}", r#"{"keys": []}"#, r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
