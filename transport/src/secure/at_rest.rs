//! The seal of batches that lie on disk: AES-256-GCM, each batch under a key of its own.
//!
//! Owns the keys of the spool. Never reads or writes a file. Always holds: no two seals share a key, whatever was
//! sealed before and whenever the spool was opened, so a nonce cannot repeat and needs no counter; and what is opened
//! is byte for byte what was sealed, as the same positions of the same stream.
//!
//! A sealed batch has the header of every batch ([`crate::batch`]) in clear. Its body is:
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0 | 8 | id of the spool key |
//! | 8 | 16 | salt, by chance |
//! | 24 | | ciphertext, as long as the body was, compressed or not |
//! | | 16 | tag |
//!
//! The batch's key is HKDF-SHA256 (RFC 5869) of the spool key with that salt and the info
//! `nf-transport spool batch v1`, 32 bytes of it. It seals one batch (NIST SP 800-38D, a nonce of twelve bytes 0). The
//! associated data is the stream id and then bytes 8 to 55 of the header, with zeros for the length and the checksum
//! of the body as stored.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use bytes::BufMut;

use crate::batch::{Batch, BatchHeader, Sealing};
use crate::limits::SEAL_OVERHEAD;
use crate::secure::key::KEY_ID_LEN;
use crate::secure::{Key, KeyId};
use crate::sequence::StreamId;

const INFO: &[u8] = b"nf-transport spool batch v1";
const SALT_LEN: usize = 16;
const CIPHERTEXT_AT: usize = KEY_ID_LEN + SALT_LEN;

const _: () = assert!(SEAL_OVERHEAD == CIPHERTEXT_AT + 16);

/// The system gives no randomness, so nothing can be sealed now. A later try may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no randomness to encrypt with")]
pub struct SealError;

/// Why a sealed batch cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is sealed with a key that is not here. Whoever has that key can open it.
    #[error("it is encrypted with the key {0}, which is not given")]
    UnknownKey(KeyId),
    /// Nobody can open it: it is not what was sealed.
    #[error("it is not what was encrypted")]
    Damaged,
}

/// The keys of a spool: the one that seals, if anything is sealed, and those that open what is there.
#[derive(Clone, Debug, Default)]
pub struct SpoolKeys {
    /// What goes to disk is sealed with this one; without it, it goes there in clear.
    current: Option<Key>,
    /// All that open, `current` among them.
    known: Vec<(KeyId, Key)>,
}

impl SpoolKeys {
    /// Seals with `current`; opens what was sealed with any of them.
    pub fn sealing(current: Key, others: impl IntoIterator<Item = Key>) -> Self {
        let keys = Self::opening(core::iter::once(current.clone()).chain(others));
        Self { current: Some(current), ..keys }
    }

    /// Seals nothing; opens what was sealed with any of `keys`.
    pub fn opening(keys: impl IntoIterator<Item = Key>) -> Self {
        Self { current: None, known: keys.into_iter().map(|key| (key.id(), key)).collect() }
    }

    /// Whether what goes to disk is sealed.
    pub fn seals(&self) -> bool {
        self.current.is_some()
    }

    /// What the keys are called.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.known.iter().map(|(id, _)| *id)
    }

    /// `batch` of `stream` as it goes to disk: sealed, unless nothing is.
    pub fn seal(&self, stream: StreamId, batch: &Batch) -> Result<Batch, SealError> {
        let Some(key) = self.current.as_ref().filter(|_| !batch.is_sealed()) else {
            return Ok(batch.clone());
        };
        let mut salt = [0; SALT_LEN];
        rand::fill(&mut salt).map_err(|_| SealError)?;
        seal(key, salt, stream, batch).ok_or(SealError)
    }

    /// `batch` of `stream` as it was before it was sealed; one that never was stays as it is.
    pub fn open(&self, stream: StreamId, batch: &Batch) -> Result<Batch, OpenError> {
        if !batch.is_sealed() {
            return Ok(batch.clone());
        }
        let body = batch.body();
        let (id, sealed) = body.split_first_chunk().ok_or(OpenError::Damaged)?;
        let key = self.key(KeyId(*id))?;
        open(key, sealed, stream, batch).ok_or(OpenError::Damaged)
    }

    /// The key that `batch` is sealed with, if it is not here.
    pub fn missing(&self, batch: &Batch) -> Option<KeyId> {
        let body = batch.body();
        let id = KeyId(*body.first_chunk().filter(|_| batch.is_sealed())?);
        self.key(id).is_err().then_some(id)
    }

    fn key(&self, wanted: KeyId) -> Result<&Key, OpenError> {
        let found = self.known.iter().find(|(id, _)| *id == wanted);
        found.map(|(_, key)| key).ok_or(OpenError::UnknownKey(wanted))
    }
}

/// `None` only where the cipher or the batch does not take a body of that length, which no batch has.
fn seal(key: &Key, salt: [u8; SALT_LEN], stream: StreamId, batch: &Batch) -> Option<Batch> {
    let sealing = Sealing::Aes256Gcm;
    let plain = batch.body();
    let mut body = Vec::with_capacity(plain.len() + SEAL_OVERHEAD);
    body.put_slice(&key.id().0);
    body.put_slice(&salt);
    body.put_slice(&plain);
    // The context holds how the body is sealed, so it is that of the batch to be.
    let context = BatchHeader { sealing, ..*batch.header() }.context(stream);
    let place = body.get_mut(CIPHERTEXT_AT..)?;
    let tag = batch_key(key, &salt)?.seal_in_place_separate_tag(nonce(), Aad::from(context), place).ok()?;
    body.put_slice(tag.as_ref());
    batch.with_body(stream, sealing, &body)
}

/// `sealed` is the batch's body behind the key's id.
fn open(key: &Key, sealed: &[u8], stream: StreamId, batch: &Batch) -> Option<Batch> {
    let (salt, ciphertext) = sealed.split_first_chunk()?;
    let mut body = ciphertext.to_vec();
    let context = batch.header().context(stream);
    let plain = batch_key(key, salt)?.open_in_place(nonce(), Aad::from(context), &mut body).ok()?;
    batch.with_body(stream, Sealing::None, plain)
}

/// The key of the one batch that has this salt.
fn batch_key(key: &Key, salt: &[u8; SALT_LEN]) -> Option<LessSafeKey> {
    let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(key.bytes());
    let derived = secret.expand(&[INFO], &AES_256_GCM).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(derived)))
}

/// A key that is used once needs no number.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests;
