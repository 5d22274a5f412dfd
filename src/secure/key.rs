//! The secret that both sides share: 32 bytes, made by chance or from a passphrase.
//!
//! Owns the bytes of keys. They are wiped when dropped, never shown by `Debug`, and never put into settings, which
//! only say where a key is to be found.
//!
//! A text is a key if it is 64 hexadecimal digits, or 44 characters of base64 (RFC 4648, section 4), around which
//! white space does not matter. Every other text is a passphrase, from which argon2id (RFC 9106) makes a key with
//! 64 MiB of memory, 3 passes and 1 lane, and this salt, which both sides know:
//! SHA-256 of `nf-transport psk salt v1` and nine bytes 0.

use core::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::{constant_time, digest, hmac, rand};
use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use crate::limits::PASSPHRASE_SHORT;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

/// Bytes of a key id.
pub(super) const KEY_ID_LEN: usize = 8;

/// Memory for argon2id in KiB, and its passes.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;

/// From this many hexadecimal digits on, a text of another length than a key's is a key that was cut or mistyped.
const DAMAGED_FROM: usize = 40;

/// A shared key.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_LEN]>);

/// What a key is called in logs and on the wire: tells keys apart, and tells nothing else about them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub(super) [u8; KEY_ID_LEN]);

/// How hard it is to guess what a key was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// 32 bytes made by chance.
    Random,
    /// A passphrase of `PASSPHRASE_SHORT` characters or more.
    Passphrase,
    /// A shorter one: whoever records a handshake may find it by trying.
    ShortPassphrase,
}

/// Why a text gives no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing is there.
    #[error("the key is empty")]
    Empty,
    /// It was probably meant to be a key.
    #[error("this looks like a key, but has {0} hexadecimal digits instead of 64: it was cut or mistyped")]
    Damaged(usize),
    /// There is not enough memory for argon2id, or no randomness.
    #[error("the system does not give the memory or randomness that making a key takes")]
    System,
}

impl Key {
    /// A new key, made by chance.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| KeyError::System)?;
        Ok(Self(bytes))
    }

    /// The key that `text` is, or that is made from it.
    pub fn from_text(text: &str) -> Result<(Self, Strength), KeyError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if let Some(key) = Self::decoded(text) {
            return Ok((key, Strength::Random));
        }
        let all_digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if all_digits && text.len() >= DAMAGED_FROM {
            return Err(KeyError::Damaged(text.len()));
        }
        let is_short = text.chars().count() < PASSPHRASE_SHORT;
        let strength = if is_short { Strength::ShortPassphrase } else { Strength::Passphrase };
        Ok((Self::stretched(text)?, strength))
    }

    fn decoded(text: &str) -> Option<Self> {
        let decode = |encoding: &data_encoding::Encoding| encoding.decode(text.as_bytes()).ok();
        let bytes = Zeroizing::new(decode(&HEXLOWER_PERMISSIVE).or_else(|| decode(&BASE64))?);
        bytes.as_slice().try_into().ok().map(|bytes: [u8; KEY_LEN]| Self(Zeroizing::new(bytes)))
    }

    fn stretched(passphrase: &str) -> Result<Self, KeyError> {
        let salt = digest::digest(&digest::SHA256, b"nf-transport psk salt v1\0\0\0\0\0\0\0\0\0");
        let params = Params::new(MEMORY_KIB, PASSES, 1, Some(KEY_LEN)).map_err(|_| KeyError::System)?;
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.as_bytes(), salt.as_ref(), bytes.as_mut_slice())
            .map_err(|_| KeyError::System)?;
        Ok(Self(bytes))
    }

    /// The key as 64 hexadecimal digits, as key files hold it.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(HEXLOWER.encode(self.0.as_slice()))
    }

    /// What it is called.
    pub fn id(&self) -> KeyId {
        let tag =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, self.0.as_slice()), b"nf-transport key id v1");
        KeyId(tag.as_ref().first_chunk().copied().unwrap_or_default())
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(self.0.as_slice(), other.0.as_slice()).is_ok()
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
            let (key, strength) = Key::from_text(text).unwrap();
            assert_eq!((key.bytes(), strength), (&bytes, Strength::Random), "{text:?}");
        }
        assert_eq!(*Key::from_text(base64).unwrap().0.to_text(), HEX);
    }

    #[test]
    fn every_other_text_is_a_passphrase_that_always_gives_the_same_key() {
        let (key, strength) = Key::from_text("correct horse battery staple").unwrap();
        assert_eq!(strength, Strength::Passphrase);
        assert_eq!(key, Key::from_text("correct horse battery staple\n").unwrap().0);
        let (short, strength) = Key::from_text("tajne").unwrap();
        assert_eq!(strength, Strength::ShortPassphrase);
        assert_ne!(key, short);
    }

    #[test]
    fn a_passphrase_gives_the_key_that_every_implementation_of_argon2id_gives() {
        // argon2 -id -t 3 -k 65536 -p 1 -l 32, with the salt of the module's text.
        let (key, _) = Key::from_text("correct horse battery staple").unwrap();
        assert_eq!(*key.to_text(), "8f6ca7bda999e738405ec7438f5852abdff89396284040b1a7579cb18de123b0");
    }

    #[test]
    fn a_key_that_was_cut_is_not_taken_for_a_passphrase() {
        assert_eq!(Key::from_text(&HEX[..63]), Err(KeyError::Damaged(63)));
        assert_eq!(Key::from_text(&format!("{HEX}0")), Err(KeyError::Damaged(65)));
        assert_eq!(Key::from_text(" \n"), Err(KeyError::Empty));
    }

    #[test]
    fn a_key_is_never_shown_only_its_id() {
        let (key, _) = Key::from_text(HEX).unwrap();
        let shown = format!("{key:?}");
        assert_eq!(shown, format!("Key({})", key.id()));
        assert!(!shown.contains("0001020304"));
        assert_ne!(Key::generate().unwrap().id(), Key::generate().unwrap().id());
    }
}
