//! Sealing (encryption) of batches on disk with AES-256-GCM and a separate key for each batch.
//!
//! The module owns the keys of the spool. It never reads or writes a file. Invariants:
//!
//! - No two seals share a key, also across restarts. So a nonce cannot repeat and needs no counter.
//! - An opened batch is byte for byte the batch that was sealed, with the same positions of the same stream.
//!
//! A sealed batch has an ordinary header ([`crate::batch`]) in clear text. Its body:
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0 | 8 | id of the spool key |
//! | 8 | 16 | random salt |
//! | 24 | | ciphertext, as long as the body was, compressed or not |
//! | | 16 | tag |
//!
//! The key of the batch is HKDF-SHA256 (RFC 5869) of the spool key with this salt, 32 bytes long. The info is
//! `nf-transport spool batch v1`. The key seals one batch (NIST SP 800-38D, nonce of twelve zero bytes).
//! The associated data is the stream id and then bytes 8 to 55 of the header. In these bytes, length and
//! checksum of the body as stored are zero.

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

/// The system provides no randomness, so nothing can be sealed. A later attempt may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system provides no randomness for the encryption")]
pub struct SealError;

/// Reason why a sealed batch cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The batch is sealed with a key that is not configured. With that key it can be opened.
    #[error("it is encrypted with the key {0}, which is not configured")]
    UnknownKey(KeyId),
    /// The batch was changed after sealing. No key can open it.
    #[error("its encrypted content is damaged")]
    Damaged,
}

/// Keys of a spool: the current key for sealing, if any, and all keys for opening.
#[derive(Clone, Debug, Default)]
pub struct SpoolKeys {
    /// Key for sealing; `None` if batches are written to disk in clear text.
    current: Option<Key>,
    /// Keys for opening, including `current`.
    known: Vec<(KeyId, Key)>,
}

impl SpoolKeys {
    /// Keys that seal with `current` and open with `current` and `others`.
    pub fn sealing(current: Key, others: impl IntoIterator<Item = Key>) -> Self {
        let keys = Self::opening(core::iter::once(current.clone()).chain(others));
        Self { current: Some(current), ..keys }
    }

    /// Keys that do not seal and that open with `keys`.
    pub fn opening(keys: impl IntoIterator<Item = Key>) -> Self {
        Self { current: None, known: keys.into_iter().map(|key| (key.id(), key)).collect() }
    }

    /// True if batches are sealed before they are written to disk.
    pub fn seals(&self) -> bool {
        self.current.is_some()
    }

    /// Ids of all keys.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.known.iter().map(|(id, _)| *id)
    }

    /// Seals `batch` of `stream`. Without a current key, or if it is already sealed, it stays as it is.
    pub fn seal(&self, stream: StreamId, batch: &Batch) -> Result<Batch, SealError> {
        let Some(key) = self.current.as_ref().filter(|_| !batch.is_sealed()) else {
            return Ok(batch.clone());
        };
        let mut salt = [0; SALT_LEN];
        rand::fill(&mut salt).map_err(|_| SealError)?;
        seal(key, salt, stream, batch).ok_or(SealError)
    }

    /// Opens `batch` of `stream`. A batch that is not sealed stays as it is.
    pub fn open(&self, stream: StreamId, batch: &Batch) -> Result<Batch, OpenError> {
        if !batch.is_sealed() {
            return Ok(batch.clone());
        }
        let body = batch.body();
        let (id, sealed) = body.split_first_chunk().ok_or(OpenError::Damaged)?;
        let key = self.key(KeyId(*id))?;
        open(key, sealed, stream, batch).ok_or(OpenError::Damaged)
    }

    /// Id of the key with which `batch` is sealed, if that key is missing here.
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

/// Returns `None` only if the body is too long for the cipher or for a batch, which cannot happen.
fn seal(key: &Key, salt: [u8; SALT_LEN], stream: StreamId, batch: &Batch) -> Option<Batch> {
    let sealing = Sealing::Aes256Gcm;
    let plain = batch.body();
    let mut body = Vec::with_capacity(plain.len() + SEAL_OVERHEAD);
    body.put_slice(&key.id().0);
    body.put_slice(&salt);
    body.put_slice(&plain);
    // The associated data includes the kind of sealing, so it is computed from the header of the sealed
    // batch.
    let associated = BatchHeader { sealing, ..*batch.header() }.associated_data(stream);
    let place = body.get_mut(CIPHERTEXT_AT..)?;
    let tag =
        batch_key(key, &salt)?.seal_in_place_separate_tag(nonce(), Aad::from(associated), place).ok()?;
    body.put_slice(tag.as_ref());
    batch.with_body(stream, sealing, &body)
}

/// Opens `batch`. `sealed` is its body behind the key id.
fn open(key: &Key, sealed: &[u8], stream: StreamId, batch: &Batch) -> Option<Batch> {
    let (salt, ciphertext) = sealed.split_first_chunk()?;
    let mut body = ciphertext.to_vec();
    let associated = batch.header().associated_data(stream);
    let plain = batch_key(key, salt)?.open_in_place(nonce(), Aad::from(associated), &mut body).ok()?;
    batch.with_body(stream, Sealing::None, plain)
}

/// Derives the key of the batch with this salt.
fn batch_key(key: &Key, salt: &[u8; SALT_LEN]) -> Option<LessSafeKey> {
    let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(key.bytes());
    let derived = secret.expand(&[INFO], &AES_256_GCM).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(derived)))
}

/// A constant nonce, because each key is used only once.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests;
