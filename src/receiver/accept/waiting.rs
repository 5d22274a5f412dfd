//! Authenticated connections without a session: between handshake and HELLO, or while the last words are sent. Few of each
//! sender, so that one key does not take the places of all; the newest stay.

use std::sync::Arc;

use nf_transport_core::sequence::SenderId;

use crate::host::{ConnectionPlace, Eviction, Places};
use crate::limits::WAITING_PER_SENDER;

/// The place of such a connection, given back when dropped.
pub(crate) type WaitingPlace = ConnectionPlace<SenderId>;

/// Such connections of all senders.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Places<SenderId>>);

impl Default for Waiting {
    fn default() -> Self {
        // All of them together have places that `limits.connections` bounds.
        Self(Places::new(usize::MAX, WAITING_PER_SENDER, Eviction::Oldest))
    }
}

impl Waiting {
    /// Gives a place to a connection of `sender`; with too many, its oldest one loses its own.
    pub(crate) fn enter(&self, sender: &SenderId) -> WaitingPlace {
        self.0.enter(sender.clone(), ())
    }
}
