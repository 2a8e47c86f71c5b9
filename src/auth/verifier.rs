//! JSON Web Tokens: signature first, then what they claim.

use std::slice;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};

use super::claims::{Claims, Ranks};
use super::jwks::{Key, KeySet};
use super::{Caller, TokenError, cryptography};
use crate::config::SettingsError;
use crate::config::auth::AuthSettings;

/// Keys and what a token must claim.
pub struct Verifier {
    secret: Option<Key>,
    set: Option<KeySet>,
    /// By the one algorithm that a key allows.
    rules: Vec<(Algorithm, Validation)>,
    ranks: Ranks,
}

impl Verifier {
    pub fn new(settings: &AuthSettings) -> Result<Self, SettingsError> {
        cryptography::install();
        let secret = settings.jwt_secret.expose();
        let secret = (!secret.is_empty())
            .then(|| Key::new(None, Algorithm::HS256, DecodingKey::from_secret(secret.as_bytes())));
        let ranks = Ranks::new(settings)?;
        Ok(Self { secret, set: KeySet::new(settings)?, rules: rules(settings), ranks })
    }

    pub fn has_admin_claim(&self) -> bool {
        self.ranks.has_admin()
    }

    /// Whether a token for another service of the same issuer is taken.
    pub fn takes_any_audience(&self) -> bool {
        self.set.is_some() && self.rules.iter().all(|(_, rules)| !rules.validate_aud)
    }

    /// Whom a token names.
    pub async fn caller(&self, token: &str) -> Result<Caller, TokenError> {
        // `alg: none` and whatever else isn't known can't be read as a header at all.
        let header = decode_header(token).map_err(refused)?;
        // RFC 7515, section 4.1.11: extensions that must be understood, and aren't.
        if header.crit.is_some() {
            return Err(TokenError::Refused("the token's header demands what this service doesn't know (crit)"));
        }
        let claims = match (header.alg, &self.secret, &self.set) {
            (Algorithm::HS256, Some(secret), _) => self.claims(token, slice::from_ref(secret))?,
            (Algorithm::RS256 | Algorithm::ES256, _, Some(set)) => {
                let Header { kid, alg, .. } = header;
                let keys = set.candidates(kid.as_deref(), alg).await?;
                self.claims(token, &keys)?
            }
            _ => return Err(TokenError::Refused("the token's alg is not accepted here")),
        };
        self.ranks.caller(&claims)
    }

    /// The claims, by the first key whose signature it is.
    fn claims(&self, token: &str, keys: &[Key]) -> Result<Claims, TokenError> {
        let mut last = TokenError::Refused("the token's key is unknown");
        for key in keys {
            // The key's own algorithm and no other: what the header says must be that.
            let Some((_, rules)) = self.rules.iter().find(|(algorithm, _)| *algorithm == key.algorithm) else {
                continue;
            };
            match decode::<Claims>(token, &key.decoding, rules) {
                Ok(token) => return Ok(token.claims),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => last = refused(error),
                Err(error) => return Err(refused(error)),
            }
        }
        Err(last)
    }
}

fn rules(settings: &AuthSettings) -> Vec<(Algorithm, Validation)> {
    let each = [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256];
    each.map(|algorithm| (algorithm, rules_of(algorithm, settings))).into()
}

fn rules_of(algorithm: Algorithm, settings: &AuthSettings) -> Validation {
    let mut rules = Validation::new(algorithm);
    let mut required = vec!["exp"];
    (rules.leeway, rules.validate_nbf) = (settings.leeway_seconds, true);
    rules.validate_aud = !settings.audience.is_empty();
    // A claim that is checked must be there: the check passes over one that isn't.
    if rules.validate_aud {
        rules.set_audience(slice::from_ref(&settings.audience));
        required.push("aud");
    }
    if !settings.issuer.is_empty() {
        rules.set_issuer(slice::from_ref(&settings.issuer));
        required.push("iss");
    }
    rules.set_required_spec_claims(&required);
    rules
}

/// In words of ours: the library's may hold a part of the token.
fn refused(error: Error) -> TokenError {
    TokenError::Refused(match error.kind() {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::InvalidIssuer => "the token is of another issuer",
        ErrorKind::InvalidSignature => "the token's signature is wrong",
        ErrorKind::InvalidAlgorithm => "the token's alg is not that of its key",
        ErrorKind::MissingRequiredClaim(name) if name == "exp" => "the token has no valid exp",
        ErrorKind::MissingRequiredClaim(name) if name == "aud" => "the token has no valid aud",
        ErrorKind::MissingRequiredClaim(name) if name == "iss" => "the token has no valid iss",
        ErrorKind::InvalidClaimFormat(name) if name == "nbf" => "the token has no valid nbf",
        _ => "the token is no valid JSON Web Token",
    })
}
