//! What both sides of a session are made of: bytes to messages, messages to bytes, and the clocks.

use std::time::Instant;

use crate::framing::{Decoder, Message};
use crate::session::liveness::Liveness;
use crate::session::{Outbox, SessionError};

/// One side's end of the connection.
#[derive(Debug, Default)]
pub(super) struct Wire {
    decoder: Decoder,
    pub(super) outbox: Outbox,
    /// `None` before the heartbeat is agreed and after the end.
    pub(super) liveness: Option<Liveness>,
}

impl Wire {
    pub(super) fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        self.decoder.extend(bytes);
        if let Some(liveness) = &mut self.liveness
            && !bytes.is_empty()
        {
            liveness.heard(now);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let Some(liveness) = &mut self.liveness else { return };
        // What still waits in the outbox is a sign of life too, and pings must not pile up behind it.
        if liveness.look_at_clock(now) && self.outbox.is_empty() {
            self.outbox.push(Message::Ping);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.liveness.as_ref().map(Liveness::poll_timeout)
    }

    /// The next message; `None` means that more bytes are needed.
    pub(super) fn next_message(&mut self) -> Result<Option<Message>, SessionError> {
        let message = self.decoder.next_message()?;
        match &self.liveness {
            Some(liveness) if message.is_none() && liveness.is_gone() => {
                Err(SessionError::Silent(liveness.patience()))
            }
            _ => Ok(message),
        }
    }
}
