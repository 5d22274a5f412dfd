//! Whom a receiver lets in.
//!
//! Always holds: a sender with keys of its own authenticates with these and nothing else, and no other key takes its id. An id
//! that `senders` in `[tls]` names, or that has a table without a key, belongs to the holder of its certificate.

use core::fmt;
use std::collections::HashMap;

use crate::prefixes::Prefixes;
use crate::secure::{Key, KeyId, ReceiverTls, Salt, Strength, Suite};
use crate::sequence::SenderId;

/// The keys and rules of a receiver.
#[derive(Debug, Default)]
pub struct Admission {
    /// Whether clear text is let in from every machine.
    pub plaintext: bool,
    /// The salt with which keys were derived from passphrases.
    pub salt: Salt,
    /// Suites that senders may use.
    pub suites: Vec<Suite>,
    /// The keys of all senders that have none of their own.
    pub shared: Vec<Key>,
    /// The keys of those that have a table of their own; none if only a certificate authenticates the sender.
    pub senders: HashMap<SenderId, Vec<Key>>,
    /// Exporters whose datagrams these senders may deliver; others may deliver all.
    pub exporters: HashMap<SenderId, Prefixes>,
    /// What lets senders with certificates in, if anything does.
    pub tls: Option<ReceiverTls>,
}

/// By what a sender was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pass {
    /// By nothing: it speaks clear text.
    ClearText {
        /// Whether it is on this machine.
        is_local: bool,
    },
    /// By a key.
    Key {
        /// Which key.
        id: KeyId,
        /// What the key is used with.
        suite: Suite,
    },
    /// By a certificate of its name.
    Certificate {
        /// What certificates were held against then: see [`ReceiverTls::trust`].
        trust: [u8; 32],
    },
}

impl Admission {
    /// Whether there is any key.
    pub fn has_keys(&self) -> bool {
        !self.shared.is_empty() || self.senders.values().any(|keys| !keys.is_empty())
    }

    /// Whether senders can prove who they are.
    fn has_proofs(&self) -> bool {
        self.has_keys() || self.tls.is_some()
    }

    /// Whether this sender is let in in clear text: where that was asked for, unless it has a key of its own; and
    /// from this machine where there are neither keys nor certificates.
    pub fn admits_clear_text(&self, sender: &SenderId, is_local: bool) -> bool {
        let is_free = !self.senders.contains_key(sender) && !self.is_reserved(sender);
        (self.plaintext && is_free) || (is_local && !self.has_proofs())
    }

    /// True if this sender authenticates only with a certificate or a key of its own.
    pub fn is_reserved(&self, sender: &SenderId) -> bool {
        let is_named = self.tls.as_ref().is_some_and(|tls| tls.senders.contains(sender));
        is_named || self.senders.get(sender).is_some_and(Vec::is_empty)
    }

    /// The keys by which this sender is let in.
    pub fn keys_of(&self, sender: &SenderId) -> &[Key] {
        let shared = if self.is_reserved(sender) { &[] } else { self.shared.as_slice() };
        self.senders.get(sender).map_or(shared, Vec::as_slice)
    }

    /// The key of this sender that has this id.
    pub fn key_of(&self, sender: &SenderId, id: Option<KeyId>) -> Option<&Key> {
        self.keys_of(sender).iter().find(|key| Some(key.id()) == id)
    }

    /// Exporters whose datagrams this sender may deliver.
    pub fn exporters_of(&self, sender: &SenderId) -> Prefixes {
        self.exporters.get(sender).cloned().unwrap_or_default()
    }

    /// The keys of this sender that are derived from passphrases and may be used with `suite`: short ones only with Blowfish.
    pub fn derived_keys(&self, sender: &SenderId, suite: Suite) -> impl Iterator<Item = &Key> {
        self.keys_of(sender).iter().filter(move |key| match key.strength() {
            Strength::Random => false,
            Strength::Passphrase => true,
            Strength::ShortPassphrase => suite == Suite::Blowfish,
        })
    }

    /// Whether `pass` is one that only this sender has, so that no other has its id.
    pub fn is_of_its_own(&self, sender: &SenderId, pass: &Pass) -> bool {
        match pass {
            Pass::ClearText { .. } => false,
            Pass::Key { .. } => self.senders.contains_key(sender),
            Pass::Certificate { .. } => true,
        }
    }

    /// Whether a sender that was let in by `pass` would be let in now.
    pub fn still_admits(&self, sender: &SenderId, pass: &Pass) -> bool {
        match pass {
            Pass::ClearText { is_local } => self.admits_clear_text(sender, *is_local),
            Pass::Key { id, suite } => {
                self.key_of(sender, Some(*id)).is_some() && self.suites.contains(suite)
            }
            // Certificates are checked by handshakes only: with other authorities, lists or names it takes a new one.
            Pass::Certificate { trust } => self.tls.as_ref().is_some_and(|tls| tls.trust == *trust),
        }
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClearText { .. } => f.write_str("none"),
            Self::Key { suite, .. } => suite.fmt(f),
            Self::Certificate { .. } => f.write_str("tls"),
        }
    }
}
