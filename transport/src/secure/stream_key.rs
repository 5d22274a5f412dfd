//! The secret behind a stream id, and the proof that a sender holds it.
//!
//! The secret of a stream is the seed of an Ed25519 key pair (RFC 8032, section 5.1.5). The stream id is
//! derived from the public key:
//!
//! | part | bytes | |
//! |---|---|---|
//! | stream id | 16 | the first bytes of SHA-256(`nf-transport stream id v1`, public key) |
//! | proof | 32 | public key |
//! | | 64 | signature of `nf-transport stream proof v1`, binding of the channel (32 bytes) |
//!
//! So a receiver can verify a proof for a stream that it does not know yet. Knowledge of a stream id alone
//! allows neither to continue the stream nor to claim it first. A proof is valid for one connection only,
//! because every connection has a different [`ChannelBinding`].

use core::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use aws_lc_rs::{digest, rand};
use zeroize::Zeroizing;

use crate::framing::StreamProof;
use crate::secure::KeyError;
use crate::secure::channel::ChannelBinding;
use crate::sequence::StreamId;

/// Length of a stream's secret in bytes.
pub const STREAM_SECRET_LEN: usize = 32;

/// The secret of one stream.
pub struct StreamKey {
    seed: Zeroizing<[u8; STREAM_SECRET_LEN]>,
    pair: Ed25519KeyPair,
    id: StreamId,
}

impl StreamKey {
    /// Generates a random secret.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; STREAM_SECRET_LEN]);
        rand::fill(seed.as_mut_slice()).map_err(|_| KeyError::System)?;
        Self::new(seed)
    }

    /// Restores a secret from its `seed`.
    pub fn new(seed: Zeroizing<[u8; STREAM_SECRET_LEN]>) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).map_err(|_| KeyError::System)?;
        let id = id_of(pair.public_key().as_ref());
        Ok(Self { seed, pair, id })
    }

    /// Bytes to store.
    pub fn seed(&self) -> &Zeroizing<[u8; STREAM_SECRET_LEN]> {
        &self.seed
    }

    /// Stream that belongs to the secret.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Creates a proof for the other side of a connection that this side holds the secret.
    pub fn prove(&self, binding: ChannelBinding) -> StreamProof {
        let mut proof = StreamProof { public_key: [0; 32], signature: [0; 64] };
        proof.public_key.copy_from_slice(self.pair.public_key().as_ref());
        proof.signature.copy_from_slice(self.pair.sign(&statement(binding)).as_ref());
        proof
    }
}

/// True if `proof`, received over the connection with `binding`, was created with the secret of `stream`.
pub fn is_proven(stream: StreamId, proof: &StreamProof, binding: ChannelBinding) -> bool {
    let key = UnparsedPublicKey::new(&ED25519, &proof.public_key);
    id_of(&proof.public_key) == stream && key.verify(&statement(binding), &proof.signature).is_ok()
}

fn id_of(public_key: &[u8]) -> StreamId {
    let hash = digest::digest(&digest::SHA256, &[b"nf-transport stream id v1", public_key].concat());
    StreamId(hash.as_ref().first_chunk().copied().unwrap_or_default())
}

/// The signed bytes of a proof.
fn statement(binding: ChannelBinding) -> Vec<u8> {
    [b"nf-transport stream proof v1".as_slice(), &binding.0].concat()
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINDING: ChannelBinding = ChannelBinding([3; 32]);

    fn key() -> StreamKey {
        StreamKey::new(Zeroizing::new(core::array::from_fn(|index| u8::try_from(index).unwrap()))).unwrap()
    }

    #[test]
    fn a_stored_secret_gives_the_same_stream() {
        let key = StreamKey::generate().unwrap();
        assert_eq!(StreamKey::new(key.seed().clone()).unwrap().id(), key.id());
        assert_ne!(StreamKey::generate().unwrap().id(), key.id());
    }

    #[test]
    fn stream_id_and_proof_match_the_document() {
        let proof = key().prove(BINDING);
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        let document = include_str!("../../../docs/protocol.md");
        for value in [hex(&proof.public_key), key().id().to_string(), hex(&proof.signature)] {
            assert!(document.contains(&format!("`{value}`")), "{value}");
        }
        assert!(is_proven(key().id(), &proof, BINDING));
    }

    #[test]
    fn a_proof_is_valid_for_one_connection_only() {
        let key = StreamKey::generate().unwrap();
        let proof = key.prove(BINDING);
        assert!(is_proven(key.id(), &proof, BINDING));
        assert!(!is_proven(key.id(), &proof, ChannelBinding([4; 32])));
    }

    #[test]
    fn knowing_a_stream_id_proves_nothing() {
        let (victim, own) = (StreamKey::generate().unwrap(), StreamKey::generate().unwrap());
        let proof = own.prove(BINDING);
        assert!(!is_proven(victim.id(), &proof, BINDING));
        // The victim's public key, which every receiver knows, does not help either.
        let public_key = victim.prove(BINDING).public_key;
        assert!(!is_proven(victim.id(), &StreamProof { public_key, ..proof }, BINDING));
    }

    #[test]
    fn a_proof_with_any_changed_bit_proves_nothing() {
        let (key, stream) = (key(), key().id());
        for bit in 0..96 * 8 {
            let mut proof = key.prove(BINDING);
            let place = match bit / 8 {
                byte @ 0..32 => &mut proof.public_key[byte],
                byte => &mut proof.signature[byte - 32],
            };
            *place ^= 1 << (bit % 8);
            assert!(!is_proven(stream, &proof, BINDING), "bit {bit}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert_eq!(format!("{:?}", key()), format!("StreamKey({})", key().id()));
    }
}
