//! Shared secrets as operators configure them, and the keys derived from passphrases.
//!
//! Argon2id (RFC 9106) derives the key from a passphrase: version 0x13, 65,536 KiB, 3 passes, 1 lane, 32
//! bytes of output. nf-receiver chooses a random salt at each start, so that precomputed guesses are useless.
//! A derivation takes about 0.14 s and 64 MiB, so the last result is kept.

use core::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::{constant_time, rand};
use zeroize::Zeroizing;

use crate::limits::PASSPHRASE_SHORT;
use crate::secure::key::KEY_LEN;
use crate::secure::{Key, KeyError, Strength};

/// Length of a salt in bytes, as RFC 9106, section 3.1, recommends for passwords.
pub const SALT_LEN: usize = 16;

/// Memory and passes of argon2id.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;

/// Salt for deriving keys from passphrases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salt(pub [u8; SALT_LEN]);

impl Salt {
    /// Generates a random salt.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = [0; SALT_LEN];
        rand::fill(&mut bytes).map_err(|_| KeyError::System)?;
        Ok(Self(bytes))
    }
}

/// A shared passphrase.
#[derive(Clone)]
pub struct Passphrase {
    text: Arc<Zeroizing<String>>,
    /// Salt and key of the last derivation.
    last: Arc<Mutex<Option<(Salt, Key)>>>,
}

impl Passphrase {
    fn new(text: &str) -> Self {
        Self { text: Arc::new(Zeroizing::new(text.to_owned())), last: Arc::default() }
    }

    /// Strength: [`Strength::Passphrase`] or [`Strength::ShortPassphrase`].
    pub fn strength(&self) -> Strength {
        let is_short = self.text.chars().count() < PASSPHRASE_SHORT;
        if is_short { Strength::ShortPassphrase } else { Strength::Passphrase }
    }

    /// Key for `salt`, if the last [`Self::derive`] used the same salt.
    pub fn last_key(&self, salt: Salt) -> Option<Key> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(known, _)| *known == salt).map(|(_, key)| key.clone())
    }

    /// Derives the key for `salt`. It is slow by design.
    pub fn derive(&self, salt: Salt) -> Result<Key, KeyError> {
        if let Some(key) = self.last_key(salt) {
            return Ok(key);
        }
        let params = Params::new(MEMORY_KIB, PASSES, 1, Some(KEY_LEN)).map_err(|_| KeyError::System)?;
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(self.text.as_bytes(), &salt.0, bytes.as_mut_slice())
            .map_err(|_| KeyError::System)?;
        let key = Key::derived(bytes, self.strength());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((salt, key.clone()));
        Ok(key)
    }
}

impl PartialEq for Passphrase {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(self.text.as_bytes(), other.text.as_bytes()).is_ok()
    }
}

impl Eq for Passphrase {}

impl fmt::Debug for Passphrase {
    /// Shows the kind of the passphrase, never the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passphrase({})", self.strength().name())
    }
}

/// A shared secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// A random key.
    Key(Key),
    /// A passphrase.
    Passphrase(Passphrase),
}

impl Secret {
    /// Parses a key or passphrase. White space around it is ignored.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        match Key::from_text(text) {
            Ok(key) => Ok(Self::Key(key)),
            Err(KeyError::IsPassphrase) => Ok(Self::Passphrase(Passphrase::new(text.trim()))),
            Err(error) => Err(error),
        }
    }

    /// Strength of the secret.
    pub fn strength(&self) -> Strength {
        match self {
            Self::Key(key) => key.strength(),
            Self::Passphrase(passphrase) => passphrase.strength(),
        }
    }

    /// The secret as in key files.
    pub fn to_text(&self) -> Zeroizing<String> {
        match self {
            Self::Key(key) => key.to_text(),
            Self::Passphrase(passphrase) => Zeroizing::clone(&passphrase.text),
        }
    }

    /// Returns the key, or derives it from the passphrase and `salt`.
    pub fn derive(&self, salt: Salt) -> Result<Key, KeyError> {
        match self {
            Self::Key(key) => Ok(key.clone()),
            Self::Passphrase(passphrase) => passphrase.derive(salt),
        }
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "key {}", key.id()),
            Self::Passphrase(passphrase) => f.write_str(passphrase.strength().name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = Salt(*b"sixteen by chanc");

    fn derived(text: &str, salt: Salt) -> Key {
        Secret::from_text(text).unwrap().derive(salt).unwrap()
    }

    #[test]
    fn a_passphrase_gives_another_key_for_each_salt() {
        let text = "correct horse battery staple";
        assert_eq!(derived(text, SALT), derived(&format!(" {text}\n"), SALT));
        assert_ne!(derived(text, SALT), derived(text, Salt([7; SALT_LEN])));
        assert_ne!(derived(text, SALT), derived("tajne", SALT));
        assert_ne!(Salt::generate(), Salt::generate());
    }

    #[test]
    fn a_derived_key_equals_that_of_the_argon2_tool() {
        // argon2 -id -t 3 -k 65536 -p 1 -l 32, with the salt "sixteen by chanc".
        let key = derived("correct horse battery staple", SALT);
        assert_eq!(*key.to_text(), "9403617614c6b8f088a1f69c914d120ae9a775fe8532c18ec97fdc39b4fbc8e2");
    }

    #[test]
    fn a_key_does_not_depend_on_the_salt() {
        let text = "1f".repeat(32);
        assert_eq!(derived(&text, SALT), Key::from_text(&text).unwrap());
        assert_eq!(Secret::from_text(&text).unwrap().strength(), Strength::Random);
    }

    #[test]
    fn passphrases_below_16_characters_are_short() {
        for (text, strength) in [
            ("tajne", Strength::ShortPassphrase),
            ("fifteen letters", Strength::ShortPassphrase),
            ("sixteen letters!", Strength::Passphrase),
            ("\u{17e}lu\u{165}ou\u{10d}k\u{fd} k\u{16f}\u{148} ", Strength::ShortPassphrase),
        ] {
            let secret = Secret::from_text(text).unwrap();
            assert_eq!(secret.strength(), strength, "{text}");
            assert_eq!(secret.derive(SALT).unwrap().strength(), strength, "{text}");
        }
    }

    #[test]
    fn a_passphrase_is_never_shown() {
        let shown = format!("{:?}", Secret::from_text("correct horse battery staple").unwrap());
        assert_eq!(shown, "Passphrase(Passphrase(a passphrase))");
    }
}
