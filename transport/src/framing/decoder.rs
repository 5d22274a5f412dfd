//! Decoder that splits the bytes of a connection into messages.

use bytes::{Buf, BytesMut};

use crate::framing::message_type::MessageType;
use crate::framing::{FramingError, HEADER_LEN, Message, payload};

/// Buffer for received bytes that are not decoded yet.
///
/// If the caller takes out every message before it adds more bytes, the buffer holds less than one message
/// plus the latest bytes. Between two messages it holds no memory.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Appends received bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next whole message; `None` means that more bytes are needed.
    ///
    /// The header is checked as soon as its 5 bytes are complete, so that an invalid message costs neither
    /// memory nor time. An error is final: no later byte of this connection can be decoded.
    pub fn next_message(&mut self) -> Result<Option<Message>, FramingError> {
        let Some((message_type, length)) = self.header()? else { return Ok(None) };
        let whole = HEADER_LEN + length;
        if self.buffer.len() < whole {
            self.buffer.reserve(whole - self.buffer.len());
            return Ok(None);
        }
        let mut message = self.buffer.split_to(whole).freeze();
        if self.buffer.is_empty() {
            // Otherwise an idle connection would keep the memory of its last message.
            self.buffer = BytesMut::new();
        }
        message.advance(HEADER_LEN);
        payload::parse(message_type, message).map(Some)
    }

    fn header(&self) -> Result<Option<(MessageType, usize)>, FramingError> {
        let Some(mut header) = self.buffer.get(..HEADER_LEN) else { return Ok(None) };
        let length = header.try_get_u32()?;
        let message_type = MessageType::from_code(header.try_get_u8()?)?;
        Ok(Some((message_type, message_type.check_length(length)?)))
    }
}
