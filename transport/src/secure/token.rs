//! What an invited sender needs to join, in one line: where the receiver is, what the sender is called there, its key
//! and its cipher.
//!
//! A token is `nft1_` and base64 for URLs without padding (RFC 4648, section 5) of a JSON object and then the CRC32C of
//! it in four bytes, big-endian. The object has the texts `address`, `id`, `key` (as in key files) and `cipher`.
//! A token is as secret as the key in it: its text is wiped when dropped, and `Debug` shows the key's id only.

use core::fmt;
use core::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::limits::TOKEN_MAX;
use crate::secure::{Key, Suite};
use crate::sequence::SenderId;

const START: &str = "nft1_";

/// What every version of a token starts with; its number and `_` follow.
const FAMILY: &str = "nft";

/// An invitation.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Where the receiver is: a host and a port.
    pub address: String,
    /// What the sender is called.
    pub id: SenderId,
    /// Its key.
    pub key: Key,
    /// What the key is used with.
    pub suite: Suite,
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else.
    #[error("this is no token: a token is what `nf-receiver invite NAME` prints, and starts with {START}")]
    Foreign,
    /// A later version.
    #[error("this token was made by a newer nf-receiver: update this nf-sender")]
    Newer,
    /// Not what was printed.
    #[error("this token was cut or mistyped: copy all of the line that `nf-receiver invite NAME` prints")]
    Damaged,
}

#[derive(Serialize, Deserialize)]
struct Fields<'a> {
    address: String,
    id: String,
    key: &'a str,
    cipher: String,
}

impl Token {
    /// The token as a line, without its end.
    #[expect(clippy::missing_panics_doc, reason = "a few texts always make a JSON object")]
    pub fn encode(&self) -> Zeroizing<String> {
        let key = self.key.to_text();
        let (address, id) = (self.address.clone(), self.id.to_string());
        let fields = Fields { address, id, key: &key, cipher: self.suite.to_string() };
        // Room for all of it at once, so that no copy of the key is left behind when it grows.
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

/// Whether `text` has the start of a token of another version.
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
        let fields: Fields<'_> = serde_json::from_slice(object).ok()?;
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
    fn a_token_is_one_word_and_comes_back_as_it_was() {
        let text = token().encode();
        assert!(text.len() < TOKEN_MAX / 4, "{}", text.len());
        assert!(text.starts_with("nft1_") && !text.contains(char::is_whitespace), "{}", *text);
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!(" {}\n", *text).parse(), Ok(token()));
    }

    #[test]
    fn no_cut_and_no_changed_character_goes_unseen() {
        let text = token().encode();
        for cut in START.len()..text.len() {
            assert_eq!(text[..cut].parse::<Token>(), Err(TokenError::Damaged), "cut at {cut}");
        }
        for place in 0..text.len() {
            for bit in 0..7 {
                let mut changed = text.as_bytes().to_vec();
                changed[place] ^= 1 << bit;
                let changed = str::from_utf8(&changed).unwrap();
                let told = changed.parse::<Token>().unwrap_err();
                assert!(place < START.len() || told == TokenError::Damaged, "{told} at {place}, bit {bit}");
            }
        }
    }

    #[test]
    fn what_is_no_token_is_told_from_one_of_the_future() {
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
