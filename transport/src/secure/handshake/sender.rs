//! The sender's side of a handshake.

use rustls::ClientConnection;
use snow::HandshakeState;

use crate::secure::channel::{Channel, ChannelBinding};
use crate::secure::handshake::{
    Derivation, Handshake, MESSAGE_LEN, TLS_READ, frame, framed, initiator, missing_of_frame, tls_input,
    tls_output,
};
use crate::secure::preface::{
    Mode, Partial, Preface, PrefaceError, REPLY_LEN, ReplyStatus, SALTED_REPLY_LEN,
};
use crate::secure::{Certificate, Key, KeyError, Passphrase, Salt, Secret, SenderTls, Suite};
use crate::sequence::SenderId;

/// Reason why the handshake of a sender failed. The sender's data stays in its spool.
#[derive(Debug, thiserror::Error)]
pub enum SenderHandshakeError {
    /// The peer is not a receiver, or its reply is invalid.
    #[error("invalid reply, the other side may not be nf-receiver: {0}")]
    Preface(#[from] PrefaceError),
    /// The receiver rejected the sender.
    #[error("{0}")]
    Rejected(ReplyStatus),
    /// The receiver's proof is wrong.
    #[error("the receiver could not prove that it has the key: another host may impersonate the receiver")]
    Unproven,
    /// A handshake message has an invalid length.
    #[error("the receiver's handshake message has {0} bytes, where 1 or {MESSAGE_LEN} are allowed")]
    Length(usize),
    /// TLS failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// The system does not provide randomness, or the key cannot be used.
    #[error("cannot prepare the handshake: {0}")]
    System(snow::Error),
    /// The key derivation failed.
    #[error("cannot derive a key from the passphrase: {0}")]
    Derivation(#[from] KeyError),
}

impl SenderHandshakeError {
    /// True if the receiver rejected this sender, or if this sender rejected the receiver.
    pub fn is_rejection(&self) -> bool {
        matches!(
            self,
            Self::Rejected(_)
                | Self::Unproven
                | Self::Tls(_)
                | Self::Preface(PrefaceError::ModeChanged { .. })
        )
    }
}

/// The sender's side of a handshake.
#[derive(Debug)]
pub struct SenderHandshake {
    input: Vec<u8>,
    output: Vec<u8>,
    phase: SenderHandshakePhase,
}

#[derive(Debug)]
enum SenderHandshakePhase {
    /// The preface is sent, the reply is not complete yet.
    Reply {
        preface: Vec<u8>,
        mode: Mode,
        secret: Option<(Secret, Suite)>,
    },
    /// The key for the receiver's salt is not derived yet.
    Derivation {
        prologue: Vec<u8>,
        passphrase: Passphrase,
        salt: Salt,
        suite: Suite,
    },
    /// Message 1 is sent.
    Message2 {
        state: Box<HandshakeState>,
        suite: Suite,
    },
    Tls {
        connection: Box<ClientConnection>,
        /// Certificate of this side.
        own: Certificate,
    },
    Done(Channel),
    Over,
}

impl SenderHandshake {
    /// Starts a handshake for a channel in clear text.
    pub fn plain(sender: &SenderId) -> Self {
        Self::new(Preface::encode_plain(sender), Mode::None, None)
    }

    /// Starts a handshake for a channel encrypted with `suite` and a key.
    pub fn keyed(sender: &SenderId, key: &Key, suite: Suite) -> Self {
        let mode = Mode::Key { suite: suite.code(), key: Some(key.id()) };
        let preface = Preface::encode_keyed(sender, key.id(), suite);
        Self::new(preface, mode, Some((Secret::Key(key.clone()), suite)))
    }

    /// Starts a handshake for a channel encrypted with `suite` and a key derived from `passphrase`.
    pub fn with_passphrase(sender: &SenderId, passphrase: &Passphrase, suite: Suite) -> Self {
        let mode = Mode::Passphrase { suite: suite.code() };
        let preface = Preface::encode_passphrase(sender, suite);
        Self::new(preface, mode, Some((Secret::Passphrase(passphrase.clone()), suite)))
    }

    /// Starts a handshake for a channel over TLS with the receiver at `host`.
    pub fn tls(tls: &SenderTls, host: &str) -> Result<Self, SenderHandshakeError> {
        let connection = tls.connect(host).map_err(|error| SenderHandshakeError::Tls(error.to_string()))?;
        let phase =
            SenderHandshakePhase::Tls { connection: Box::new(connection), own: tls.certificate.clone() };
        Ok(Self { input: Vec::new(), output: Vec::new(), phase })
    }

    fn new(preface: Vec<u8>, mode: Mode, secret: Option<(Secret, Suite)>) -> Self {
        Self {
            input: Vec::new(),
            output: preface.clone(),
            phase: SenderHandshakePhase::Reply { preface, mode, secret },
        }
    }

    /// Processes the receiver's reply as soon as it is complete or recognizably invalid.
    fn handle_reply(&mut self) -> Result<(), SenderHandshakeError> {
        let SenderHandshakePhase::Reply { preface, mode, secret } = &self.phase else { return Ok(()) };
        let status = match ReplyStatus::parse_reply(*mode, &self.input)? {
            Partial::NeedMore(_) => return Ok(()),
            Partial::Complete(status) => status,
        };
        if status != ReplyStatus::Accepted {
            return Err(SenderHandshakeError::Rejected(status));
        }
        let prologue = || [preface.as_slice(), &self.input].concat();
        match secret {
            None => {
                let binding = ChannelBinding::of_clear_text(preface, &self.input);
                self.phase = SenderHandshakePhase::Done(Channel::clear_text(binding));
            }
            Some((Secret::Key(key), suite)) => self.begin_noise(&prologue(), &key.clone(), *suite)?,
            Some((Secret::Passphrase(passphrase), suite)) => {
                let Partial::Complete(salt) = ReplyStatus::parse_salt(&self.input) else { return Ok(()) };
                if let Some(key) = passphrase.last_key(salt) {
                    self.begin_noise(&prologue(), &key, *suite)?;
                } else {
                    let (prologue, passphrase) = (prologue(), passphrase.clone());
                    self.phase =
                        SenderHandshakePhase::Derivation { prologue, passphrase, salt, suite: *suite };
                }
            }
        }
        self.input.clear();
        Ok(())
    }

    /// Sends message 1.
    fn begin_noise(&mut self, prologue: &[u8], key: &Key, suite: Suite) -> Result<(), SenderHandshakeError> {
        let mut state = initiator(suite, key, prologue).map_err(SenderHandshakeError::System)?;
        self.output = framed(&mut state).map_err(SenderHandshakeError::System)?;
        self.phase = SenderHandshakePhase::Message2 { state: Box::new(state), suite };
        Ok(())
    }

    /// Processes message 2, or the rejection in its place, when it is complete.
    fn handle_message_2(&mut self) -> Result<(), SenderHandshakeError> {
        if missing_of_frame(&self.input, MESSAGE_LEN).map_err(SenderHandshakeError::Length)? > 0 {
            return Ok(());
        }
        match self.input.split_off(2).as_slice() {
            [code] => Err(SenderHandshakeError::Rejected(ReplyStatus::from_code(*code)?)),
            message if message.len() == MESSAGE_LEN => self.confirm(message),
            message => Err(SenderHandshakeError::Length(message.len())),
        }
    }

    /// Verifies message 2 and sends record 0.
    fn confirm(&mut self, message: &[u8]) -> Result<(), SenderHandshakeError> {
        let SenderHandshakePhase::Message2 { mut state, suite } =
            core::mem::replace(&mut self.phase, SenderHandshakePhase::Over)
        else {
            return Ok(());
        };
        state.read_message(message, &mut []).map_err(|_| SenderHandshakeError::Unproven)?;
        let binding = ChannelBinding::from_hash(state.get_handshake_hash());
        let mut transport = state.into_transport_mode().map_err(SenderHandshakeError::System)?;
        let mut confirmation = [0; super::CONFIRMATION_LEN];
        transport.write_message(&[], &mut confirmation).map_err(SenderHandshakeError::System)?;
        self.output = frame(&confirmation);
        self.phase = SenderHandshakePhase::Done(Channel::keyed(transport, suite, binding));
        Ok(())
    }
}

impl Handshake for SenderHandshake {
    type Outcome = Channel;
    type Error = SenderHandshakeError;

    fn take_output(&mut self) -> Vec<u8> {
        if let SenderHandshakePhase::Tls { connection, .. } = &mut self.phase {
            tls_output(&mut ***connection, &mut self.output);
        }
        core::mem::take(&mut self.output)
    }

    fn take_derivation(&mut self) -> Option<Derivation> {
        let SenderHandshakePhase::Derivation { passphrase, salt, .. } = &self.phase else { return None };
        Some(Derivation { passphrase: passphrase.clone(), salt: *salt })
    }

    fn handle_key(&mut self, key: Result<Key, KeyError>) -> Result<(), SenderHandshakeError> {
        let SenderHandshakePhase::Derivation { prologue, suite, .. } =
            core::mem::replace(&mut self.phase, SenderHandshakePhase::Over)
        else {
            return Ok(());
        };
        self.begin_noise(&prologue, &key?, suite)
    }

    fn wanted(&self) -> usize {
        match &self.phase {
            // `handle_reply` has already returned an error for a rejection, which has no salt.
            SenderHandshakePhase::Reply { mode: Mode::Passphrase { .. }, .. }
                if self.input.len() >= REPLY_LEN =>
            {
                SALTED_REPLY_LEN.saturating_sub(self.input.len())
            }
            SenderHandshakePhase::Reply { .. } => REPLY_LEN.saturating_sub(self.input.len()),
            // `handle_message_2` has already returned an error for an invalid length.
            SenderHandshakePhase::Message2 { .. } => missing_of_frame(&self.input, MESSAGE_LEN).unwrap_or(0),
            SenderHandshakePhase::Tls { connection, .. } if connection.is_handshaking() => TLS_READ,
            SenderHandshakePhase::Derivation { .. }
            | SenderHandshakePhase::Tls { .. }
            | SenderHandshakePhase::Done(_)
            | SenderHandshakePhase::Over => 0,
        }
    }

    fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), SenderHandshakeError> {
        if let SenderHandshakePhase::Tls { connection, .. } = &mut self.phase {
            return tls_input(&mut ***connection, bytes).map_err(SenderHandshakeError::Tls);
        }
        self.input.extend_from_slice(bytes);
        match &self.phase {
            SenderHandshakePhase::Reply { .. } => self.handle_reply(),
            SenderHandshakePhase::Message2 { .. } => self.handle_message_2(),
            SenderHandshakePhase::Derivation { .. }
            | SenderHandshakePhase::Tls { .. }
            | SenderHandshakePhase::Done(_)
            | SenderHandshakePhase::Over => Ok(()),
        }
    }

    fn finish(self) -> Option<Channel> {
        match self.phase {
            SenderHandshakePhase::Done(channel) => Some(channel),
            SenderHandshakePhase::Tls { connection, own } => {
                (!connection.is_handshaking()).then(|| Channel::tls(*connection, &own))
            }
            SenderHandshakePhase::Reply { .. }
            | SenderHandshakePhase::Derivation { .. }
            | SenderHandshakePhase::Message2 { .. }
            | SenderHandshakePhase::Over => None,
        }
    }
}
