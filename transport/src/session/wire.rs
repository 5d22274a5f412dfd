//! The parts that both sides of a session share: decoder, outbox and timers.

use std::time::Instant;

use crate::framing::{Decoder, Message};
use crate::session::liveness::Liveness;
use crate::session::{Outbox, SessionError};

/// Decoder, outbox and timers of one side of a connection.
#[derive(Debug, Default)]
pub(super) struct Wire {
    decoder: Decoder,
    pub(super) outbox: Outbox,
    /// Timers; `None` before the heartbeat is agreed and after the end of the session.
    pub(super) liveness: Option<Liveness>,
}

impl Wire {
    pub(super) fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        self.decoder.extend(bytes);
        if let Some(liveness) = &mut self.liveness
            && !bytes.is_empty()
        {
            liveness.note_bytes(now);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let Some(liveness) = &mut self.liveness else { return };
        // Unwritten messages are a sign of life, too, and PINGs must not accumulate behind them.
        if liveness.advance_clock(now) && self.outbox.is_empty() {
            self.outbox.push(Message::Ping);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.liveness.as_ref().map(Liveness::poll_timeout)
    }

    /// Returns the next message; `None` means that more bytes are needed. Fails if the peer is silent for too
    /// long.
    pub(super) fn next_message(&mut self) -> Result<Option<Message>, SessionError> {
        let message = self.decoder.next_message()?;
        match &self.liveness {
            Some(liveness) if message.is_none() && liveness.is_peer_dead() => {
                Err(SessionError::Silent(liveness.silence_limit()))
            }
            _ => Ok(message),
        }
    }
}
