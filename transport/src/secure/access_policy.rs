//! The credentials that a receiver accepts, for each sender.
//!
//! Invariants:
//!
//! - A sender with its own keys authenticates with these keys only, and no other key can use its id.
//! - An id that `senders` in `[tls]` names, or that has a table without a key, is reserved for its
//!   certificate.

use core::fmt;
use std::collections::HashMap;

use crate::prefixes::Prefixes;
use crate::secure::{Key, KeyId, ReceiverTls, Salt, Strength, Suite};
use crate::sequence::SenderId;

/// Keys and rules of a receiver.
#[derive(Debug, Default)]
pub struct AccessPolicy {
    /// True if clear text is accepted from every host.
    pub plaintext: bool,
    /// Salt of the keys that are derived from passphrases.
    pub salt: Salt,
    /// Allowed cipher suites.
    pub suites: Vec<Suite>,
    /// Keys of all senders without their own keys.
    pub shared: Vec<Key>,
    /// Keys of the senders with their own table; an empty list if only a certificate authenticates the
    /// sender.
    pub senders: HashMap<SenderId, Vec<Key>>,
    /// Exporters whose datagrams these senders may deliver. Other senders may deliver all datagrams.
    pub exporters: HashMap<SenderId, Prefixes>,
    /// TLS configuration; `None` if the receiver accepts no certificates.
    pub tls: Option<ReceiverTls>,
}

/// Credential with which a sender was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// None: the connection is in clear text.
    ClearText {
        /// True if the sender is on the receiver's host.
        is_local: bool,
    },
    /// A key.
    Key {
        /// Id of the key.
        id: KeyId,
        /// Cipher suite of the connection.
        suite: Suite,
    },
    /// A certificate for its name.
    Certificate {
        /// Trust settings at the time of the handshake, see [`ReceiverTls::trust`].
        trust: [u8; 32],
    },
}

impl AccessPolicy {
    /// True if the policy has any key.
    pub fn has_keys(&self) -> bool {
        !self.shared.is_empty() || self.senders.values().any(|keys| !keys.is_empty())
    }

    /// True if senders can authenticate.
    fn has_credentials(&self) -> bool {
        self.has_keys() || self.tls.is_some()
    }

    /// True if this sender is accepted in clear text.
    ///
    /// That is the case with `plaintext`, unless the sender has its own key or is reserved for a certificate.
    /// It is also the case on the receiver's host if there are neither keys nor certificates.
    pub fn accepts_clear_text(&self, sender: &SenderId, is_local: bool) -> bool {
        let is_free = !self.senders.contains_key(sender) && !self.is_reserved(sender);
        (self.plaintext && is_free) || (is_local && !self.has_credentials())
    }

    /// True if this sender authenticates only with a certificate or with its own key.
    pub fn is_reserved(&self, sender: &SenderId) -> bool {
        let is_named = self.tls.as_ref().is_some_and(|tls| tls.senders.contains(sender));
        is_named || self.senders.get(sender).is_some_and(Vec::is_empty)
    }

    /// Keys that this sender may use.
    pub fn keys_for(&self, sender: &SenderId) -> &[Key] {
        let shared = if self.is_reserved(sender) { &[] } else { self.shared.as_slice() };
        self.senders.get(sender).map_or(shared, Vec::as_slice)
    }

    /// Returns the key with this id that this sender may use.
    pub fn key_by_id(&self, sender: &SenderId, id: Option<KeyId>) -> Option<&Key> {
        self.keys_for(sender).iter().find(|key| Some(key.id()) == id)
    }

    /// Exporters whose datagrams this sender may deliver.
    pub fn exporters_for(&self, sender: &SenderId) -> Prefixes {
        self.exporters.get(sender).cloned().unwrap_or_default()
    }

    /// Keys of this sender that are derived from passphrases and allowed with `suite`.
    ///
    /// Keys from short passphrases are allowed with Blowfish only.
    pub fn derived_keys(&self, sender: &SenderId, suite: Suite) -> impl Iterator<Item = &Key> {
        self.keys_for(sender).iter().filter(move |key| match key.strength() {
            Strength::Random => false,
            Strength::Passphrase => true,
            Strength::ShortPassphrase => suite == Suite::Blowfish,
        })
    }

    /// True if only this sender has `credential`, so that no other sender can use its id.
    pub fn is_exclusive(&self, sender: &SenderId, credential: &Credential) -> bool {
        match credential {
            Credential::ClearText { .. } => false,
            Credential::Key { .. } => self.senders.contains_key(sender),
            Credential::Certificate { .. } => true,
        }
    }

    /// True if a sender that was accepted with `credential` would still be accepted now.
    pub fn still_accepts(&self, sender: &SenderId, credential: &Credential) -> bool {
        match credential {
            Credential::ClearText { is_local } => self.accepts_clear_text(sender, *is_local),
            Credential::Key { id, suite } => {
                self.key_by_id(sender, Some(*id)).is_some() && self.suites.contains(suite)
            }
            // Only a handshake verifies certificates. So changed authorities, revocation lists or names need
            // a new one.
            Credential::Certificate { trust } => self.tls.as_ref().is_some_and(|tls| tls.trust == *trust),
        }
    }
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClearText { .. } => f.write_str("none"),
            Self::Key { suite, .. } => suite.fmt(f),
            Self::Certificate { .. } => f.write_str("tls"),
        }
    }
}
