//! Shared keys of 32 bytes, random or derived from a passphrase.
//!
//! The bytes of a key are wiped when dropped and never shown by `Debug`. Settings contain only the location
//! of a key.
//!
//! A text is a key if it consists of 64 hexadecimal digits, or of 44 characters of base64 (RFC 4648, section
//! 4). White space around it is ignored. Any other text is a [`Passphrase`](crate::secure::Passphrase).

use core::fmt;

use aws_lc_rs::{constant_time, hmac, rand};
use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use crate::limits::PASSPHRASE_SHORT;

/// Length of a key in bytes.
pub const KEY_LEN: usize = 32;

/// Length of a key id in bytes.
pub(super) const KEY_ID_LEN: usize = 8;

/// Number of hexadecimal digits from which on a text of a wrong length is a cut or mistyped key, not a
/// passphrase.
const DAMAGED_FROM: usize = 40;

/// A shared key.
#[derive(Clone)]
pub struct Key {
    bytes: Zeroizing<[u8; KEY_LEN]>,
    strength: Strength,
}

/// Strength of the secret behind a key against guessing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// 32 random bytes.
    Random,
    /// A passphrase of `PASSPHRASE_SHORT` characters or more.
    Passphrase,
    /// A shorter passphrase. Anyone who records a handshake can guess it.
    ShortPassphrase,
}

impl Strength {
    /// Name of the kind of secret in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "a key",
            Self::Passphrase => "a passphrase",
            Self::ShortPassphrase => "a short passphrase (for the cipher blowfish only)",
        }
    }
}

/// Identifier of a key in logs and on the wire. It reveals nothing else about the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub(super) [u8; KEY_ID_LEN]);

/// Reason why a key is not available.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is empty.
    #[error("the key is empty")]
    Empty,
    /// The text is probably a cut or mistyped key.
    #[error("this looks like a key, but has {0} hexadecimal digits instead of 64: it is cut or mistyped")]
    Damaged(usize),
    /// The text is a passphrase, but a random key is needed.
    #[error("this is a passphrase, but a key is needed here: generate one with `keygen`")]
    IsPassphrase,
    /// The passphrase is too short for ciphers other than Blowfish.
    #[error(
        "this passphrase has fewer than {PASSPHRASE_SHORT} characters, so that a recording is enough to \
         guess it: only the cipher blowfish accepts it; generate a key with `keygen`, or choose a longer \
         passphrase"
    )]
    ShortPassphrase,
    /// The system provides no randomness, or not enough memory for argon2id.
    #[error("the system provides no randomness or not enough memory to create a key")]
    System,
}

impl Key {
    /// Generates a random key.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| KeyError::System)?;
        Ok(Self { bytes, strength: Strength::Random })
    }

    /// Parses a key. Never derives one from a passphrase.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        let decode = |encoding: &data_encoding::Encoding| encoding.decode(text.as_bytes()).ok();
        let decoded = decode(&HEXLOWER_PERMISSIVE).or_else(|| decode(&BASE64)).map(Zeroizing::new);
        if let Some(bytes) = decoded.and_then(|bytes| <[u8; KEY_LEN]>::try_from(bytes.as_slice()).ok()) {
            return Ok(Self { bytes: Zeroizing::new(bytes), strength: Strength::Random });
        }
        let all_digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if all_digits && text.len() >= DAMAGED_FROM {
            return Err(KeyError::Damaged(text.len()));
        }
        Err(KeyError::IsPassphrase)
    }

    /// Creates a key from bytes that were derived from a passphrase of this strength.
    pub(super) fn derived(bytes: Zeroizing<[u8; KEY_LEN]>, strength: Strength) -> Self {
        Self { bytes, strength }
    }

    /// Strength of the secret behind the key.
    pub fn strength(&self) -> Strength {
        self.strength
    }

    /// The key as 64 hexadecimal digits, as in key files.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(HEXLOWER.encode(self.bytes.as_slice()))
    }

    /// Id of the key: the first 8 bytes of HMAC-SHA256(key, `nf-transport key id v1`).
    pub fn id(&self) -> KeyId {
        let tag =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.bytes.as_slice()), b"nf-transport key id v1");
        KeyId(tag.as_ref().first_chunk().copied().unwrap_or_default())
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.bytes
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(self.bytes.as_slice(), other.bytes.as_slice()).is_ok()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn hexadecimal_and_base64_give_the_same_key() {
        let bytes: [u8; KEY_LEN] = core::array::from_fn(|index| u8::try_from(index).unwrap());
        let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        for text in [HEX, &HEX.to_uppercase(), base64, &format!(" {HEX}\n")] {
            let key = Key::from_text(text).unwrap();
            assert_eq!((key.bytes(), key.strength()), (&bytes, Strength::Random), "{text:?}");
        }
        assert_eq!(*Key::from_text(base64).unwrap().to_text(), HEX);
    }

    #[test]
    fn a_cut_key_is_not_a_passphrase() {
        assert_eq!(Key::from_text(&HEX[..63]), Err(KeyError::Damaged(63)));
        assert_eq!(Key::from_text(&format!("{HEX}0")), Err(KeyError::Damaged(65)));
        assert_eq!(Key::from_text(" \n"), Err(KeyError::Empty));
        assert_eq!(Key::from_text("tajne"), Err(KeyError::IsPassphrase));
    }

    #[test]
    fn debug_output_shows_only_the_id_of_a_key() {
        let key = Key::from_text(HEX).unwrap();
        let shown = format!("{key:?}");
        assert_eq!(shown, format!("Key({})", key.id()));
        assert!(!shown.contains("0001020304"));
        assert_ne!(Key::generate().unwrap().id(), Key::generate().unwrap().id());
    }
}
