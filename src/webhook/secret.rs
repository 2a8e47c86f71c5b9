//! Secrets of endpoints.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::RngCore;

use crate::config::secret::Secret;

/// Bytes; the Standard Webhooks specification asks for 24 to 64.
const BYTES: usize = 32;

/// A new secret, `whsec_` and base64.
pub fn generate() -> Secret {
    let mut bytes = [0; BYTES];
    rand::rng().fill_bytes(&mut bytes);
    Secret::new(format!("whsec_{}", STANDARD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_the_same_and_none_is_shown() {
        let (one, two) = (generate(), generate());
        assert_ne!(one, two);
        assert_eq!(STANDARD.decode(one.expose().strip_prefix("whsec_").unwrap()).unwrap().len(), BYTES);
        assert_eq!(format!("{one:?}"), "\"***\"");
    }
}
