//! Tokens as an issuer makes them, and as somebody makes them who isn't one. Made with ring and by hand, so that the
//! library that checks them isn't checked by itself.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};

/// Of no use outside these tests.
pub const RSA_PEM: &str = include_str!("test-only-rsa-key.pem");

pub fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with a header, claims and a signature of whatever kind.
pub fn token(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", encoded(signature))
}

pub fn hmac(secret: impl AsRef<[u8]>) -> impl FnOnce(&[u8]) -> Vec<u8> {
    move |message| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref()), message).as_ref().to_vec()
}

pub fn hs256(secret: &str, claims: &Value) -> String {
    token(&json!({ "alg": "HS256", "typ": "JWT" }), claims, hmac(secret))
}

/// A pair of keys whose public half is in a set.
pub enum Issuer {
    Rsa(Box<RsaKeyPair>),
    Ec(Box<EcdsaKeyPair>),
}

impl Issuer {
    pub fn rsa() -> Self {
        let lines = RSA_PEM.lines().skip_while(|line| !line.starts_with("-----BEGIN")).skip(1);
        let text: String = lines.take_while(|line| !line.starts_with("-----END")).collect();
        let der = STANDARD.decode(text).expect("base64");
        Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(&der).expect("a key")))
    }

    /// Another one each time.
    pub fn ec() -> Self {
        let random = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_ref(), &random);
        Self::Ec(Box::new(pair.expect("a key")))
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ec(_) => "ES256",
        }
    }

    /// The public key as it lies there: PKCS#1 or the point.
    pub fn public(&self) -> Vec<u8> {
        match self {
            Self::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Self::Ec(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    pub fn jwk(&self, id: &str) -> Value {
        match self {
            Self::Rsa(pair) => {
                let PublicKeyComponents { n, e }: PublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({ "kty": "RSA", "use": "sig", "kid": id, "n": encoded(n), "e": encoded(e) })
            }
            Self::Ec(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = (encoded(&point[1..33]), encoded(&point[33..]));
                json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": id, "x": x, "y": y })
            }
        }
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("a signature");
                signature
            }
            Self::Ec(pair) => pair.sign(&random, message).expect("a signature").as_ref().to_vec(),
        }
    }

    /// A token that names the key so.
    pub fn token(&self, id: Option<&str>, claims: &Value) -> String {
        let header = match id {
            Some(id) => json!({ "alg": self.algorithm(), "typ": "JWT", "kid": id }),
            None => json!({ "alg": self.algorithm() }),
        };
        token(&header, claims, |message| self.sign(message))
    }
}

pub fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}
