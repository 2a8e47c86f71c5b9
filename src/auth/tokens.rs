//! The tokens of the configuration, which are no user's.

use ring::hmac::{HMAC_SHA256, Key, Tag, sign, verify};
use ring::rand::SystemRandom;

use super::Rank;
use crate::config::SettingsError;
use crate::config::auth::AuthSettings;
use crate::config::secret::Secret;

/// Their keyed hashes, compared in constant time: neither a token's length nor how far a guess is right can be told
/// from how long the comparison takes, and the tokens themselves aren't kept.
pub struct Tokens {
    key: Key,
    known: Vec<(Rank, Tag)>,
}

impl Tokens {
    /// # Errors
    /// Without a random number there is no hash that could be compared.
    pub fn new(settings: &AuthSettings) -> Result<Self, SettingsError> {
        let none = |_| SettingsError::Invalid {
            key: "auth.admin_token",
            problem: "can't be kept: the system has no random numbers".to_owned(),
        };
        let key = Key::generate(HMAC_SHA256, &SystemRandom::new()).map_err(none)?;
        let known = known(&key, settings);
        Ok(Self { key, known })
    }

    pub fn has_admin(&self) -> bool {
        self.known.iter().any(|(rank, _)| *rank == Rank::Admin)
    }

    /// Whose token it is. All are compared, whichever it is.
    pub fn rank(&self, token: &str) -> Option<Rank> {
        let met = |tag: &Tag| verify(&self.key, token.as_bytes(), tag.as_ref()).is_ok();
        self.known.iter().fold(None, |found, (rank, tag)| if met(tag) { Some(*rank) } else { found })
    }
}

fn known(key: &Key, settings: &AuthSettings) -> Vec<(Rank, Tag)> {
    let AuthSettings { admin_token, read_token, metrics_token, .. } = settings;
    let all = [(Rank::Admin, admin_token), (Rank::Reader, read_token), (Rank::Scraper, metrics_token)];
    let set = all.into_iter().filter(|(_, token): &(Rank, &Secret)| !token.is_empty());
    set.map(|(rank, token)| (rank, sign(key, token.expose().as_bytes()))).collect()
}
