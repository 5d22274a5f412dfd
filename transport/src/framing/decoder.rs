//! Cuts the bytes of a connection into messages.

use bytes::{Buf, BytesMut};

use crate::framing::kind::Kind;
use crate::framing::{FramingError, HEADER_LEN, Message, payload};

/// Bytes that arrived and are no message yet.
///
/// Whoever takes every message out before bringing more bytes makes it hold less than one message and what
/// was brought last, and nothing while no message is begun.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Takes in bytes in the order in which they arrived.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message; `None` means that more bytes are needed.
    ///
    /// A header is checked as soon as its 5 bytes are there, so that neither memory nor time is spent on
    /// a message that cannot be. An error is final: nothing that follows on this connection can be understood.
    pub fn next_message(&mut self) -> Result<Option<Message>, FramingError> {
        let Some((kind, length)) = self.header()? else { return Ok(None) };
        let whole = HEADER_LEN + length;
        if self.buffer.len() < whole {
            self.buffer.reserve(whole - self.buffer.len());
            return Ok(None);
        }
        let mut message = self.buffer.split_to(whole).freeze();
        if self.buffer.is_empty() {
            // Without this the memory of the last message would stay for as long as the connection is idle.
            self.buffer = BytesMut::new();
        }
        message.advance(HEADER_LEN);
        payload::parse(kind, message).map(Some)
    }

    fn header(&self) -> Result<Option<(Kind, usize)>, FramingError> {
        let Some(mut header) = self.buffer.get(..HEADER_LEN) else { return Ok(None) };
        let length = header.try_get_u32()?;
        let kind = Kind::from_code(header.try_get_u8()?)?;
        Ok(Some((kind, kind.check_length(length)?)))
    }
}
