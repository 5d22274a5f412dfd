//! Blowfish in counter mode with HMAC-SHA256 (encrypt-then-MAC), a secure replacement for the cipher of the
//! original.
//!
//! Each message has a separate Blowfish key, so that no key encrypts more than 8,190 blocks. So collisions of
//! the 64-bit blocks (Sweet32, <https://sweet32.info>) reveal nothing, however many bytes are sent.
//!
//! | value | construction |
//! |---|---|
//! | keys of a channel | Ke = HMAC(k, `nf-transport bf enc v1`), Ka = HMAC(k, `nf-transport bf mac v1`) |
//! | key of message n | HMAC(Ke, n), n as 8 bytes big-endian; 32 bytes of Blowfish key |
//! | ciphertext C | Blowfish in counter mode, a counter of 64 bits big-endian, from 0 |
//! | tag | first 16 bytes of HMAC(Ka, n, length of A, A, C); A: associated data, its length as 8 bytes |
//! | rekey | k = HMAC(k, `nf-transport bf rekey v1`) |
//!
//! The tag is verified in constant time before the message is decrypted.

use aws_lc_rs::constant_time;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use blowfish::Blowfish;
use ctr::cipher::{InnerIvInit, KeyInit, StreamCipher, StreamCipherCoreWrapper};
use zeroize::{Zeroize, Zeroizing};

/// Length of the tag behind each message in bytes.
pub(super) const TAG_LEN: usize = 16;

type BlowfishCounter = ctr::CtrCore<Blowfish, ctr::flavors::Ctr64BE>;

/// Cipher state of one direction of a channel.
pub(super) struct BlowfishCtrHmac {
    key: Zeroizing<[u8; 32]>,
    encryption: hmac::Key,
    authentication: hmac::Key,
}

/// The message was changed, or sealed with another key, or for another place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AuthenticationFailure;

impl BlowfishCtrHmac {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let derived = |label: &[u8]| hmac::Key::new(HMAC_SHA256, derive(key, label).as_slice());
        Self {
            key: Zeroizing::new(*key),
            encryption: derived(b"nf-transport bf enc v1"),
            authentication: derived(b"nf-transport bf mac v1"),
        }
    }

    /// Encrypts message `number` to the start of `out`. Returns its length, `plaintext.len() + TAG_LEN`.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than that.
    pub(super) fn seal(&self, number: u64, associated: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (body, rest) = out.split_at_mut(plaintext.len());
        body.copy_from_slice(plaintext);
        self.apply_keystream(number, body);
        let tag = self.tag(number, associated, body);
        rest.split_at_mut(TAG_LEN).0.copy_from_slice(&tag);
        plaintext.len() + TAG_LEN
    }

    /// Verifies message `number` and decrypts it to the start of `out`. Returns the length of the plaintext.
    pub(super) fn open(
        &self,
        number: u64,
        associated: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<usize, AuthenticationFailure> {
        let (body, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(AuthenticationFailure)?;
        let expected = self.tag(number, associated, body);
        constant_time::verify_slices_are_equal(&expected, tag).map_err(|_| AuthenticationFailure)?;
        let place = out.get_mut(..body.len()).ok_or(AuthenticationFailure)?;
        place.copy_from_slice(body);
        self.apply_keystream(number, place);
        Ok(body.len())
    }

    /// Replaces the key by one from which the previous key cannot be derived.
    pub(super) fn rekey(&mut self) {
        *self = Self::new(&derive(&self.key, b"nf-transport bf rekey v1"));
    }

    fn apply_keystream(&self, number: u64, bytes: &mut [u8]) {
        let mut key = [0; 32];
        key.copy_from_slice(hmac::sign(&self.encryption, &number.to_be_bytes()).as_ref());
        let cipher: Blowfish =
            Blowfish::new_from_slice(&key).expect("32 bytes are within the 4 to 56 allowed");
        key.zeroize();
        let counter = BlowfishCounter::inner_iv_init(cipher, &[0; 8].into());
        StreamCipherCoreWrapper::from_core(counter).apply_keystream(bytes);
    }

    fn tag(&self, number: u64, associated: &[u8], body: &[u8]) -> [u8; TAG_LEN] {
        let length = u64::try_from(associated.len()).unwrap_or(u64::MAX);
        let mut context = hmac::Context::with_key(&self.authentication);
        for part in [number.to_be_bytes().as_slice(), &length.to_be_bytes(), associated, body] {
            context.update(part);
        }
        context.sign().as_ref().first_chunk().copied().unwrap_or_default()
    }
}

fn derive(key: &[u8; 32], label: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut derived = Zeroizing::new([0; 32]);
    derived.copy_from_slice(hmac::sign(&hmac::Key::new(HMAC_SHA256, key), label).as_ref());
    derived
}

#[cfg(test)]
mod tests {
    use ctr::cipher::BlockCipherEncrypt;
    use data_encoding::HEXLOWER;

    use super::*;

    fn sequential_key() -> [u8; 32] {
        core::array::from_fn(|index| u8::try_from(index).unwrap())
    }

    fn seal(cipher: &BlowfishCtrHmac, number: u64, associated: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let mut out = vec![0; plaintext.len() + TAG_LEN];
        assert_eq!(cipher.seal(number, associated, plaintext, &mut out), out.len());
        out
    }

    #[test]
    fn the_block_cipher_matches_a_published_vector() {
        // Eric Young, https://www.schneier.com/wp-content/uploads/2015/12/vectors-2.txt: zero key, zero
        // block.
        let cipher: Blowfish = Blowfish::new_from_slice(&[0; 8]).unwrap();
        let mut block = [0; 8].into();
        cipher.encrypt_block(&mut block);
        assert_eq!(HEXLOWER.encode(&block), "4ef997456198dd78");
    }

    #[test]
    fn sealed_messages_match_another_implementation() {
        let mut cipher = BlowfishCtrHmac::new(&sequential_key());
        let sealed = seal(&cipher, 5, b"header", b"netflow record layer");
        let expected = "f91a769937d43041ca679d52091fff4a0466e4c019726b1b95d81f67bdf457fe6bfae70a";
        assert_eq!(HEXLOWER.encode(&sealed), expected);
        cipher.rekey();
        let sealed = seal(&cipher, 6, b"", b"after rekey");
        assert_eq!(HEXLOWER.encode(&sealed), "2fe45412e9d01c77f2c7550c15325d75d8393c1c27c5248fae928f");
    }

    #[test]
    fn changed_or_misplaced_messages_are_rejected() {
        let cipher = BlowfishCtrHmac::new(&sequential_key());
        let sealed = seal(&cipher, 7, b"ad", b"some flow records");
        let mut out = [0; 64];
        let open = |number, associated: &[u8], sealed: &[u8], out: &mut [u8]| {
            cipher.open(number, associated, sealed, out)
        };
        assert_eq!(open(7, b"ad", &sealed, &mut out), Ok(17));
        assert_eq!(&out[..17], b"some flow records");
        assert_eq!(open(8, b"ad", &sealed, &mut out), Err(AuthenticationFailure));
        assert_eq!(open(7, b"da", &sealed, &mut out), Err(AuthenticationFailure));
        assert_eq!(open(7, b"ad", &sealed, &mut [0; 16]), Err(AuthenticationFailure));
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(7, b"ad", &damaged, &mut out), Err(AuthenticationFailure), "bit {bit}");
        }
        for cut in 0..sealed.len() {
            assert_eq!(open(7, b"ad", &sealed[..cut], &mut out), Err(AuthenticationFailure), "cut at {cut}");
        }
    }
}
