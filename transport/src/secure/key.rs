//! The shared key of both sides: 32 bytes, random or derived from a passphrase.
//!
//! Owns the bytes of keys. They are wiped when dropped, never shown by `Debug`, and never part of settings, which
//! only name the place of a key.
//!
//! A text is a key if it is 64 hexadecimal digits, or 44 characters of base64 (RFC 4648, section 4). White space around it
//! is ignored. Any other text is a [`Passphrase`](crate::secure::Passphrase).

use core::fmt;

use aws_lc_rs::{constant_time, hmac, rand};
use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use crate::limits::PASSPHRASE_SHORT;
use crate::secure::Strength;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

/// Bytes of a key id.
pub(super) const KEY_ID_LEN: usize = 8;

/// From this many hexadecimal digits on, a text of another length than a key's is a key that was cut or mistyped.
const DAMAGED_FROM: usize = 40;

/// A shared key.
#[derive(Clone)]
pub struct Key {
    bytes: Zeroizing<[u8; KEY_LEN]>,
    strength: Strength,
}

/// What a key is called in logs and on the wire: tells keys apart, and tells nothing else about them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub(super) [u8; KEY_ID_LEN]);

/// The reason why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing is there.
    #[error("the key is empty")]
    Empty,
    /// It was probably meant to be a key.
    #[error("this looks like a key, but has {0} hexadecimal digits instead of 64: it was cut or mistyped")]
    Damaged(usize),
    /// A passphrase, where a random key is needed.
    #[error("this is a passphrase, and a key is needed here: make one with `keygen`")]
    IsPassphrase,
    /// A passphrase that can be guessed, for a cipher other than Blowfish.
    #[error(
        "this passphrase has fewer than {PASSPHRASE_SHORT} characters, so that a recording is enough to guess it: only the \
         cipher blowfish accepts it; make a key with `keygen`, or choose a longer passphrase"
    )]
    ShortPassphrase,
    /// There is not enough memory for argon2id, or no randomness.
    #[error("the system does not give the memory or randomness that making a key takes")]
    System,
}

impl Key {
    /// A new key, made by chance.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| KeyError::System)?;
        Ok(Self { bytes, strength: Strength::Random })
    }

    /// The key that `text` is; never one that is derived from a passphrase.
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

    /// The key with these bytes, which are derived from a passphrase of this strength.
    pub(super) fn derived(bytes: Zeroizing<[u8; KEY_LEN]>, strength: Strength) -> Self {
        Self { bytes, strength }
    }

    /// The strength of the secret that the key is derived from.
    pub fn strength(&self) -> Strength {
        self.strength
    }

    /// The key as 64 hexadecimal digits, as key files hold it.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(HEXLOWER.encode(self.bytes.as_slice()))
    }

    /// What it is called.
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
    fn hexadecimal_digits_of_both_cases_and_base64_are_the_same_key() {
        let bytes: [u8; KEY_LEN] = core::array::from_fn(|index| u8::try_from(index).unwrap());
        let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        for text in [HEX, &HEX.to_uppercase(), base64, &format!(" {HEX}\n")] {
            let key = Key::from_text(text).unwrap();
            assert_eq!((key.bytes(), key.strength()), (&bytes, Strength::Random), "{text:?}");
        }
        assert_eq!(*Key::from_text(base64).unwrap().to_text(), HEX);
    }

    #[test]
    fn a_key_that_was_cut_is_not_taken_for_a_passphrase() {
        assert_eq!(Key::from_text(&HEX[..63]), Err(KeyError::Damaged(63)));
        assert_eq!(Key::from_text(&format!("{HEX}0")), Err(KeyError::Damaged(65)));
        assert_eq!(Key::from_text(" \n"), Err(KeyError::Empty));
        assert_eq!(Key::from_text("tajne"), Err(KeyError::IsPassphrase));
    }

    #[test]
    fn a_key_is_never_shown_only_its_id() {
        let key = Key::from_text(HEX).unwrap();
        let shown = format!("{key:?}");
        assert_eq!(shown, format!("Key({})", key.id()));
        assert!(!shown.contains("0001020304"));
        assert_ne!(Key::generate().unwrap().id(), Key::generate().unwrap().id());
    }
}
