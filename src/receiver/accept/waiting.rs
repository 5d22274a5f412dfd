//! Authenticated connections without a session: between handshake and HELLO, or while they are closed. Each
//! sender has a few places, so that one key does not use up all. The newest connections stay.

use std::sync::Arc;

use nf_transport_core::sequence::SenderId;

use crate::host::{Choice, Place, Places};
use crate::limits::WAITING_PER_SENDER;

/// The place of such a connection, released when dropped.
pub(crate) type WaitingPlace = Place<SenderId>;

/// Such connections of all senders.
#[derive(Debug)]
pub(crate) struct WaitingForSession(Arc<Places<SenderId>>);

impl Default for WaitingForSession {
    fn default() -> Self {
        // Their total is bounded by `limits.connections`.
        Self(Places::new(usize::MAX, WAITING_PER_SENDER, Choice::Oldest))
    }
}

impl WaitingForSession {
    /// Gives a place to a connection of `sender`. If it has too many, its oldest one loses its place.
    pub(crate) fn enter(&self, sender: &SenderId) -> WaitingPlace {
        self.0.enter(sender.clone(), ())
    }
}
