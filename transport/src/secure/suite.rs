//! Cipher suites of channels.

use core::fmt;
use core::str::FromStr;

/// A cipher suite. The sender uses one, and the receiver allows some. Nothing is negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suite {
    /// Blowfish in counter mode with a separate key for each record, and HMAC-SHA256.
    ///
    /// Replaces the cipher that the option `-k` selected in the original program.
    Blowfish,
    /// ChaCha20-Poly1305, RFC 8439.
    ChaCha20Poly1305,
    /// AES-256-GCM, NIST SP 800-38D.
    Aes256Gcm,
}

impl Suite {
    /// All suites, each with its number on the wire, its name in settings and the name of its Noise protocol.
    const TABLE: [(Self, u8, &'static str, &'static str); 3] = [
        (Self::Blowfish, 1, "blowfish", "Noise_NNpsk0_25519_BlowfishCTRHMAC_SHA256"),
        (Self::ChaCha20Poly1305, 2, "chacha20-poly1305", "Noise_NNpsk0_25519_ChaChaPoly_SHA256"),
        (Self::Aes256Gcm, 3, "aes-256-gcm", "Noise_NNpsk0_25519_AESGCM_SHA256"),
    ];

    /// All suites, each with its name in settings.
    pub const NAMED: [(&'static str, Self); 3] = {
        let [a, b, c] = Self::TABLE;
        [(a.2, a.0), (b.2, b.0), (c.2, c.0)]
    };

    /// Name in settings, status and logs.
    pub fn name(self) -> &'static str {
        Self::TABLE.iter().find(|row| row.0 == self).map_or("", |row| row.2)
    }

    /// Name of the Noise protocol with this suite.
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

/// The text does not name a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown cipher: use blowfish, chacha20-poly1305 or aes-256-gcm")]
pub struct UnknownSuite;

impl FromStr for Suite {
    type Err = UnknownSuite;

    fn from_str(name: &str) -> Result<Self, UnknownSuite> {
        Self::TABLE.iter().find(|row| row.2 == name).map(|row| row.0).ok_or(UnknownSuite)
    }
}
