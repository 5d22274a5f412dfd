//! Cryptographic primitives for Noise: X25519, SHA-256, ciphers and randomness. All but Blowfish are from
//! AWS-LC.
//!
//! The resolver ignores the cipher that snow requests and always uses its suite, so that snow can never fall
//! back to another cipher than the one in the protocol's name.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::{digest, rand};
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

use crate::secure::Suite;
use crate::secure::blowfish::{BlowfishCtrHmac, TAG_LEN};

/// Provides the primitives of one suite.
pub(super) struct Resolver(pub(super) Suite);

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SystemRandom))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(X25519Key::default())),
            DHChoice::Curve448 => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::SHA256 => Some(Box::new(Sha256::default())),
            _ => None,
        }
    }

    /// Returns the suite's cipher. `_choice` is a placeholder, because snow does not support Blowfish.
    fn resolve_cipher(&self, _choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        Some(match self.0 {
            Suite::Blowfish => Box::new(Blowfish(BlowfishCtrHmac::new(&[0; 32]))),
            Suite::ChaCha20Poly1305 => Box::new(Aead::new(&aead::CHACHA20_POLY1305, u64::to_le_bytes)),
            Suite::Aes256Gcm => Box::new(Aead::new(&aead::AES_256_GCM, u64::to_be_bytes)),
        })
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        rand::fill(dest).map_err(|_| Error::Rng)
    }
}

/// X25519 (RFC 7748). AWS-LC rejects an all-zero result, which only a point of small order gives.
#[derive(Default)]
struct X25519Key {
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl Dh for X25519Key {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        self.public.len()
    }

    fn priv_len(&self) -> usize {
        self.private.len()
    }

    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        let public =
            PrivateKey::from_private_key(&X25519, private).ok().and_then(|key| key.compute_public_key().ok());
        // If the private key has no public key, every agreement fails.
        self.public = public.and_then(|key| key.as_ref().try_into().ok()).unwrap_or_default();
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut private = Zeroizing::new([0; 32]);
        rng.try_fill_bytes(private.as_mut_slice())?;
        self.set(private.as_slice());
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.private.as_slice()
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let private =
            PrivateKey::from_private_key(&X25519, self.private.as_slice()).map_err(|_| Error::Dh)?;
        let public = UnparsedPublicKey::new(&X25519, public.get(..32).ok_or(Error::Dh)?);
        agreement::agree(&private, public, Error::Dh, |secret| {
            out.get_mut(..secret.len()).ok_or(Error::Dh)?.copy_from_slice(secret);
            Ok(())
        })
    }
}

/// SHA-256, FIPS 180-4.
struct Sha256(digest::Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let context = core::mem::take(self).0;
        if let Some(place) = out.get_mut(..32) {
            place.copy_from_slice(context.finish().as_ref());
        }
    }
}

/// A cipher of AWS-LC with the nonces of Noise: four zero bytes, then the number of the message.
struct Aead {
    algorithm: &'static aead::Algorithm,
    number: fn(u64) -> [u8; 8],
    key: Option<LessSafeKey>,
}

impl Aead {
    fn new(algorithm: &'static aead::Algorithm, number: fn(u64) -> [u8; 8]) -> Self {
        Self { algorithm, number, key: None }
    }

    fn nonce(&self, number: u64) -> Nonce {
        let mut nonce = [0; aead::NONCE_LEN];
        let (_, place) = nonce.split_at_mut(4);
        place.copy_from_slice(&(self.number)(number));
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Cipher for Aead {
    fn name(&self) -> &'static str {
        if self.algorithm == &aead::AES_256_GCM { "AESGCM" } else { "ChaChaPoly" }
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.key = UnboundKey::new(self.algorithm, key).ok().map(LessSafeKey::new);
    }

    /// Panics if no key is set or `out` has no room for the tag, so that nothing is ever sent in clear text.
    ///
    /// snow always sets a key first and provides the room.
    fn encrypt(&self, number: u64, associated: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let key = self.key.as_ref().expect("a key is set before anything is encrypted");
        let (body, rest) = out.split_at_mut(plaintext.len());
        let (tag, _) = rest.split_at_mut(TAG_LEN);
        key.seal_out_of_place_scatter(self.nonce(number), Aad::from(associated), plaintext, body, &[], tag)
            .expect("a record is far below the longest that the cipher takes");
        plaintext.len() + TAG_LEN
    }

    fn decrypt(&self, number: u64, associated: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let key = self.key.as_ref().ok_or(Error::Decrypt)?;
        let (body, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(Error::Decrypt)?;
        let place = out.get_mut(..body.len()).ok_or(Error::Decrypt)?;
        key.open_separate_gather(self.nonce(number), Aad::from(associated), body, tag, place)
            .map_err(|_| Error::Decrypt)?;
        Ok(body.len())
    }
}

/// Blowfish as [`crate::secure::blowfish`] uses it.
struct Blowfish(BlowfishCtrHmac);

impl Cipher for Blowfish {
    fn name(&self) -> &'static str {
        "BlowfishCTRHMAC"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = BlowfishCtrHmac::new(key);
    }

    fn encrypt(&self, number: u64, associated: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        self.0.seal(number, associated, plaintext, out)
    }

    fn decrypt(&self, number: u64, associated: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        self.0.open(number, associated, sealed, out).map_err(|_| Error::Decrypt)
    }

    fn rekey(&mut self) {
        self.0.rekey();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_of_small_order_is_rejected() {
        let mut curve = X25519Key::default();
        curve.generate(&mut SystemRandom).unwrap();
        assert_eq!(curve.dh(&[0; 32], &mut [0; 32]), Err(Error::Dh));
        let mut other = X25519Key::default();
        other.generate(&mut SystemRandom).unwrap();
        let (mut ours, mut theirs) = ([0; 32], [0; 32]);
        curve.dh(other.pubkey(), &mut ours).unwrap();
        other.dh(curve.pubkey(), &mut theirs).unwrap();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn the_resolver_always_uses_the_suites_cipher() {
        for (suite, name) in [
            (Suite::Blowfish, "BlowfishCTRHMAC"),
            (Suite::ChaCha20Poly1305, "ChaChaPoly"),
            (Suite::Aes256Gcm, "AESGCM"),
        ] {
            for choice in [CipherChoice::ChaChaPoly, CipherChoice::AESGCM] {
                assert_eq!(Resolver(suite).resolve_cipher(&choice).unwrap().name(), name);
            }
            assert!(Resolver(suite).resolve_dh(&DHChoice::Curve448).is_none());
            assert!(Resolver(suite).resolve_hash(&HashChoice::Blake2b).is_none());
        }
    }
}
