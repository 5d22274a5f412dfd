//! Invitation tokens: the receiver's address, the sender's id, key and cipher in one line.
//!
//! A token is `nft1_` followed by base64url without padding (RFC 4648, section 5). The encoded bytes are:
//!
//! | width | field |
//! |---|---|
//! | | JSON object with the texts `address`, `id`, `key` (as in key files) and `cipher` |
//! | 4 | CRC32C of the object, big-endian |
//!
//! A token is as secret as its key: its text is wiped when dropped, and `Debug` shows only the id of the key.

use core::fmt;
use core::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::limits::TOKEN_MAX;
use crate::secure::{Key, Suite};
use crate::sequence::SenderId;

const START: &str = "nft1_";

/// Prefix of the tokens of all versions. The number of the version and `_` follow.
const FAMILY: &str = "nft";

/// An invitation.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Host and port of the receiver.
    pub address: String,
    /// Id of the sender.
    pub id: SenderId,
    /// Key of the sender.
    pub key: Key,
    /// Cipher suite for the key.
    pub suite: Suite,
}

/// Reason why a text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is something else.
    #[error("this is not a token: `nf-receiver invite NAME` prints one, which starts with {START}")]
    Foreign,
    /// The token has a newer version.
    #[error("this token is from a newer nf-receiver: update this nf-sender")]
    Newer,
    /// The token is cut or mistyped.
    #[error("this token is cut or mistyped: copy the whole line that `nf-receiver invite NAME` prints")]
    Damaged,
}

#[derive(Serialize, Deserialize)]
struct TokenFields<'a> {
    address: String,
    id: String,
    key: &'a str,
    cipher: String,
}

impl Token {
    /// Encodes the token as one line without a line end.
    #[expect(clippy::missing_panics_doc, reason = "a few texts always make a JSON object")]
    pub fn encode(&self) -> Zeroizing<String> {
        let key = self.key.to_text();
        let (address, id) = (self.address.clone(), self.id.to_string());
        let fields = TokenFields { address, id, key: &key, cipher: self.suite.to_string() };
        // The capacity suffices for the whole text, because a reallocation would leave a copy of the key in
        // memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(TOKEN_MAX));
        serde_json::to_writer(&mut *bytes, &fields).expect("a few texts are written to memory");
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        let mut text = Zeroizing::new(String::with_capacity(TOKEN_MAX));
        text.push_str(START);
        BASE64URL_NOPAD.encode_append(&bytes, &mut text);
        text
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let Some(coded) = text.strip_prefix(START) else {
            return Err(if is_newer(text) { TokenError::Newer } else { TokenError::Foreign });
        };
        if coded.len() > TOKEN_MAX {
            return Err(TokenError::Damaged);
        }
        let bytes = BASE64URL_NOPAD.decode(coded.as_bytes()).map_err(|_| TokenError::Damaged)?;
        Self::decode(&Zeroizing::new(bytes)).ok_or(TokenError::Damaged)
    }
}

/// True if `text` starts like a token of another version.
fn is_newer(text: &str) -> bool {
    let version = text.strip_prefix(FAMILY).and_then(|rest| rest.split_once('_')).map(|(version, _)| version);
    version.is_some_and(|version| {
        version != "1" && !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit())
    })
}

impl Token {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (object, checksum) = bytes.split_last_chunk()?;
        if crc32c::crc32c(object) != u32::from_be_bytes(*checksum) {
            return None;
        }
        let fields: TokenFields<'_> = serde_json::from_slice(object).ok()?;
        Some(Self {
            address: fields.address,
            id: fields.id.parse().ok()?,
            key: Key::from_text(fields.key).ok()?,
            suite: fields.cipher.parse().ok()?,
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} at {}, key {}, {})", self.id, self.address, self.key.id(), self.suite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            address: "collector.example.net:2055".to_owned(),
            id: "brno-edge".parse().unwrap(),
            key: Key::from_text(&"1f".repeat(32)).unwrap(),
            suite: Suite::ChaCha20Poly1305,
        }
    }

    #[test]
    fn a_token_is_one_word_and_round_trips() {
        let text = token().encode();
        assert!(text.len() < TOKEN_MAX / 4, "{}", text.len());
        assert!(text.starts_with("nft1_") && !text.contains(char::is_whitespace), "{}", *text);
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!(" {}\n", *text).parse(), Ok(token()));
    }

    #[test]
    fn cut_and_changed_tokens_are_rejected() {
        let text = token().encode();
        for cut in START.len()..text.len() {
            assert_eq!(text[..cut].parse::<Token>(), Err(TokenError::Damaged), "cut at {cut}");
        }
        for place in 0..text.len() {
            for bit in 0..7 {
                let mut changed = text.as_bytes().to_vec();
                changed[place] ^= 1 << bit;
                let changed = str::from_utf8(&changed).unwrap();
                let error = changed.parse::<Token>().unwrap_err();
                assert!(place < START.len() || error == TokenError::Damaged, "{error} at {place}, bit {bit}");
            }
        }
    }

    #[test]
    fn foreign_texts_and_newer_tokens_differ() {
        assert_eq!("".parse::<Token>(), Err(TokenError::Foreign));
        assert_eq!("1f".repeat(32).parse::<Token>(), Err(TokenError::Foreign));
        for newer in ["nft2_AAAA", "nft10_AAAA", "nft9_"] {
            assert_eq!(newer.parse::<Token>(), Err(TokenError::Newer), "{newer}");
        }
        for foreign in ["nft", "nft_AAAA", "nft1AAAA", "nftx_AAAA", "NFT1_AAAA"] {
            assert_eq!(foreign.parse::<Token>(), Err(TokenError::Foreign), "{foreign}");
        }
        assert_eq!(format!("nft1_{}", "A".repeat(100_000)).parse::<Token>(), Err(TokenError::Damaged));
    }

    #[test]
    fn a_token_is_never_shown() {
        let shown = format!("{:?}", token());
        assert!(shown.contains("brno-edge") && !shown.contains("1f1f"), "{shown}");
    }
}
