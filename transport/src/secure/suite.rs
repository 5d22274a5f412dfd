//! The ciphers that a channel can be encrypted with.

use core::fmt;
use core::str::FromStr;

/// A cipher, with all that goes with it. The sender has one, the receiver allows some; nothing is negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suite {
    /// Blowfish in counter mode with a key of its own for every record, and HMAC-SHA256: what `-k` meant in the
    /// original.
    Blowfish,
    /// ChaCha20-Poly1305, RFC 8439.
    ChaCha20Poly1305,
    /// AES-256-GCM, NIST SP 800-38D.
    Aes256Gcm,
}

impl Suite {
    /// Every suite with its number on the wire, its name in settings, and its name in the protocol that Noise
    /// hashes.
    const TABLE: [(Self, u8, &'static str, &'static str); 3] = [
        (Self::Blowfish, 1, "blowfish", "Noise_NNpsk0_25519_BlowfishCTRHMAC_SHA256"),
        (Self::ChaCha20Poly1305, 2, "chacha20-poly1305", "Noise_NNpsk0_25519_ChaChaPoly_SHA256"),
        (Self::Aes256Gcm, 3, "aes-256-gcm", "Noise_NNpsk0_25519_AESGCM_SHA256"),
    ];

    /// Every suite, with its name in settings.
    pub const NAMED: [(&'static str, Self); 3] = {
        let [a, b, c] = Self::TABLE;
        [(a.2, a.0), (b.2, b.0), (c.2, c.0)]
    };

    /// Its name in settings, status and logs.
    pub fn name(self) -> &'static str {
        Self::TABLE.iter().find(|row| row.0 == self).map_or("", |row| row.2)
    }

    /// The name of the Noise protocol with this suite.
    pub(super) fn protocol(self) -> &'static str {
        Self::TABLE.iter().find(|row| row.0 == self).map_or("", |row| row.3)
    }

    pub(super) fn code(self) -> u8 {
        Self::TABLE.iter().find(|row| row.0 == self).map_or(0, |row| row.1)
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.1 == code).map(|row| row.0)
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no cipher of this name: blowfish, chacha20-poly1305 and aes-256-gcm are known")]
pub struct UnknownSuite;

impl FromStr for Suite {
    type Err = UnknownSuite;

    fn from_str(name: &str) -> Result<Self, UnknownSuite> {
        Self::TABLE.iter().find(|row| row.2 == name).map(|row| row.0).ok_or(UnknownSuite)
    }
}
