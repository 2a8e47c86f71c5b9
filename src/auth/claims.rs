//! What a token says, once it is known to be good.

use serde_json::{Map, Number, Value};
use uuid::Uuid;

use super::{Caller, Rank, TokenError};
use crate::config::SettingsError;
use crate::config::auth::AuthSettings;

pub type Claims = Map<String, Value>;

/// Which claims make more than a user.
pub struct Ranks {
    admin: Option<Wanted>,
    reader: Option<Wanted>,
}

/// A claim that must have a value.
struct Wanted {
    name: String,
    value: String,
}

impl Ranks {
    pub fn new(settings: &AuthSettings) -> Result<Self, SettingsError> {
        let wanted = |key, text: &str| -> Result<Option<Wanted>, SettingsError> {
            let claim = AuthSettings::claim(text);
            let claim = claim.map_err(|problem| SettingsError::Invalid { key, problem: problem.into() })?;
            Ok(claim.map(|(name, value)| Wanted { name: name.to_owned(), value: value.to_owned() }))
        };
        Ok(Self {
            admin: wanted("auth.admin_claim", &settings.admin_claim)?,
            reader: wanted("auth.read_claim", &settings.read_claim)?,
        })
    }

    pub fn has_admin(&self) -> bool {
        self.admin.is_some()
    }

    /// Whom these claims name, and as what. Who is marked as a reader is no more than that, whatever else is said.
    pub fn caller(&self, claims: &Claims) -> Result<Caller, TokenError> {
        let met = |wanted: &Option<Wanted>| wanted.as_ref().is_some_and(|wanted| wanted.is_in(claims));
        let rank = match (met(&self.reader), met(&self.admin)) {
            (true, _) => Rank::Reader,
            (false, true) => Rank::Admin,
            (false, false) => Rank::Member,
        };
        let user = user(claims)?;
        // A service that operates or watches need not be a user.
        if user.is_none() && rank == Rank::Member {
            return Err(TokenError::Refused("the token names no user: its claim id, else sub, must be a UUID"));
        }
        Ok(Caller { user, rank })
    }
}

/// MapX's `id`, which must be a user's, else `sub`, which may be something else.
fn user(claims: &Claims) -> Result<Option<Uuid>, TokenError> {
    let uuid = |value: &Value| Uuid::try_parse(value.as_str()?).ok();
    match claims.get("id").filter(|id| !id.is_null()) {
        Some(id) => uuid(id).map(Some).ok_or(TokenError::Refused("the token's claim id is no UUID")),
        None => Ok(claims.get("sub").and_then(uuid)),
    }
}

impl Wanted {
    fn is_in(&self, claims: &Claims) -> bool {
        let Some(found) = claims.get(&self.name).or_else(|| nested(claims, &self.name)) else { return false };
        match found {
            Value::String(text) => *text == self.value || self.is_scope() && self.is_among(text),
            Value::Array(items) => items.iter().any(|item| item.as_str() == Some(&self.value)),
            Value::Bool(flag) => self.value.parse() == Ok(*flag),
            Value::Number(number) => self.value.parse().is_ok_and(|wanted: Number| wanted == *number),
            Value::Null | Value::Object(_) => false,
        }
    }

    /// RFC 8693, section 4.2: words with spaces between them. Of another claim the value is one word.
    fn is_scope(&self) -> bool {
        matches!(self.name.as_str(), "scope" | "scp")
    }

    fn is_among(&self, text: &str) -> bool {
        text.split(' ').any(|word| word == self.value)
    }
}

/// `a.b` of `{"a": {"b": …}}`.
fn nested<'c>(claims: &'c Claims, path: &str) -> Option<&'c Value> {
    let mut names = path.split('.');
    let first = claims.get(names.next()?)?;
    names.try_fold(first, |value, name| value.get(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn met(wanted: &str, claims: Value) -> bool {
        let (name, value) = AuthSettings::claim(wanted).unwrap().unwrap();
        let wanted = Wanted { name: name.into(), value: value.into() };
        wanted.is_in(claims.as_object().unwrap())
    }

    #[test]
    fn a_claim_is_a_word_a_list_a_flag_or_deeper_down() {
        assert!(met("role=admin", json!({"role": "admin"})));
        assert!(met("roles=admin", json!({"roles": ["user", "admin"]})));
        assert!(met("is_admin=true", json!({"is_admin": true})));
        assert!(met("level=7", json!({"level": 7})) && !met("level=7", json!({"level": 70})));
        assert!(met("scope=mapx:admin", json!({"scope": "openid mapx:admin"})));
        assert!(met("realm_access.roles=admin", json!({"realm_access": {"roles": ["admin"]}})));
        assert!(met("https://mapx.example/role=admin", json!({"https://mapx.example/role": "admin"})));
    }

    #[test]
    fn nothing_else_is() {
        assert!(!met("role=admin", json!({"role": "no admin"})));
        assert!(!met("role=admin", json!({"role": "administrator"})));
        assert!(!met("role=admin", json!({"role": {"admin": true}})));
        assert!(!met("role=admin", json!({"role": null, "roles": ["admin"]})));
        assert!(!met("scope=admin", json!({"scope": "mapx:admin admin2"})));
        assert!(!met("is_admin=true", json!({"is_admin": false})));
    }

    #[test]
    fn the_user_is_the_id_else_the_sub_and_a_reader_is_no_admin() {
        let settings = |admin: &str, read: &str| {
            let mut auth = crate::config::Settings::load(None, []).unwrap().auth;
            (auth.admin_claim, auth.read_claim) = (admin.into(), read.into());
            Ranks::new(&auth).unwrap()
        };
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let ranks = settings("role=admin", "see=true");
        let of = |claims: Value| ranks.caller(claims.as_object().unwrap());
        assert_eq!(of(json!({"id": one, "sub": two})).unwrap(), Caller { user: Some(one), rank: Rank::Member });
        assert_eq!(
            of(json!({"sub": two, "role": "admin"})).unwrap(),
            Caller { user: Some(two), rank: Rank::Admin }
        );
        let both = of(json!({"sub": "robot", "role": "admin", "see": true})).unwrap();
        assert_eq!(both, Caller { user: None, rank: Rank::Reader });
        for nobody in
            [json!({}), json!({"sub": "robot"}), json!({"id": 7, "sub": one}), json!({"id": "x", "role": "admin"})]
        {
            assert!(of(nobody.clone()).is_err(), "{nobody}");
        }
    }
}
