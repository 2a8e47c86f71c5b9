//! Who calls: reads a bearer token into a [`Caller`]. What a caller may do is decided where the routes are.

mod claims;
mod cryptography;
mod jwks;
mod tokens;
mod verifier;

use uuid::Uuid;

use crate::config::SettingsError;
use crate::config::auth::AuthSettings;
use tokens::Tokens;
use verifier::Verifier;

/// Who is asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whom the token names. Without authentication nobody: the request says it itself.
    pub user: Option<Uuid>,
    pub rank: Rank,
}

/// As what somebody calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// Nothing is configured: whoever reaches the port may do everything, as whom they like.
    Trusted,
    /// Users are believed, as no keys for their tokens are configured, and there is a token for operators that this
    /// caller hasn't shown.
    Believed,
    /// Nobody, as no token came.
    Anonymous,
    /// A user.
    Member,
    /// Sees everything and does nothing.
    Reader,
    /// Operates the service.
    Admin,
    /// Sees the metrics and nothing else.
    Scraper,
}

impl Rank {
    /// Whether a request's own word for who is acting counts.
    pub fn believes(self) -> bool {
        matches!(self, Self::Trusted | Self::Believed)
    }
}

/// Why a token proves nothing. No message holds any of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Get another token.
    #[error("{0}")]
    Refused(&'static str),
    /// Try again later: the keys to check it with have never been there.
    #[error("the keys of auth.jwks_url can't be had just now")]
    KeysAway,
}

/// The longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 8_192;

/// Checks tokens as the settings have it.
pub struct Authenticator {
    tokens: Tokens,
    verifier: Option<Verifier>,
    on: bool,
    /// Whether what is public can be read without a token.
    pub anonymous_read: bool,
}

impl Authenticator {
    /// # Errors
    /// When the file of keys can't be read or holds none. An address is asked later, so that the service starts
    /// without it.
    pub fn new(settings: &AuthSettings) -> Result<Self, SettingsError> {
        let verifier = settings.proves_users().then(|| Verifier::new(settings)).transpose()?;
        let anonymous_read = settings.anonymous_read;
        Ok(Self { tokens: Tokens::new(settings)?, verifier, on: settings.is_on(), anonymous_read })
    }

    /// What works, and is likely not meant.
    pub fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        let by_claim = self.verifier.as_ref().is_some_and(Verifier::has_admin_claim);
        if self.on && !by_claim && !self.tokens.has_admin() {
            warnings
                .push("neither auth.admin_token nor auth.admin_claim is set, so nobody can operate the service");
        }
        if self.verifier.as_ref().is_some_and(Verifier::takes_any_audience) {
            let warning = "auth.audience is empty, so whatever token the keys of auth.jwks_url or auth.jwks_file have \
                           signed is taken, those for other services too";
            warnings.push(warning);
        }
        warnings
    }

    /// Who sent the values of the header `authorization`, of which there should be one or none.
    ///
    /// # Errors
    /// A token that came and isn't good; it is never taken for none.
    pub async fn caller<'h>(
        &self,
        mut headers: impl Iterator<Item = Option<&'h str>>,
    ) -> Result<Caller, TokenError> {
        let nobody = match (self.on, &self.verifier) {
            (false, _) => Rank::Trusted,
            (true, None) => Rank::Believed,
            (true, Some(_)) => Rank::Anonymous,
        };
        let none = Caller { user: None, rank: nobody };
        if !self.on {
            return Ok(none);
        }
        let Some(header) = headers.next() else { return Ok(none) };
        if headers.next().is_some() {
            return Err(TokenError::Refused("the header authorization must come once"));
        }
        let token = header.and_then(bearer);
        let token = token.ok_or(TokenError::Refused("the header authorization must be \"Bearer TOKEN\""))?;
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Refused("the token is longer than 8192 bytes"));
        }
        if let Some(rank) = self.tokens.rank(token) {
            return Ok(Caller { user: None, rank });
        }
        match &self.verifier {
            Some(verifier) => verifier.caller(token).await,
            None => Err(TokenError::Refused("the token is unknown")),
        }
    }
}

/// The token after the scheme, whose case doesn't count.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && !token.contains(' ')).then_some(token)
}
