//! The sender's side of a handshake.

use rustls::ClientConnection;
use snow::HandshakeState;

use crate::secure::channel::{Channel, ChannelBinding};
use crate::secure::handshake::{
    Derivation, Handshake, MESSAGE_LEN, TLS_READ, frame, framed, initiator, missing_of_frame, tls_input,
    tls_output,
};
use crate::secure::preface::{Mode, Parsed, Preface, PrefaceError, REPLY_LEN, SALTED_REPLY_LEN, Status};
use crate::secure::{Certificate, Key, KeyError, Passphrase, Salt, Secret, SenderTls, Suite};
use crate::sequence::SenderId;

/// Why a sender did not come to a channel. Everything that it holds stays where it is.
#[derive(Debug, thiserror::Error)]
pub enum SenderHandshakeError {
    /// What answers is no receiver, or one that cannot be understood.
    #[error("what answers is no nf-receiver: {0}")]
    Preface(#[from] PrefaceError),
    /// The receiver said no.
    #[error("{0}")]
    Refused(Status),
    /// The receiver's proof is wrong.
    #[error("the receiver could not prove that it has the key: somebody on the way may pose as the receiver")]
    Unproven,
    /// A handshake message of a length that none has.
    #[error("the receiver's handshake message has {0} bytes, where 1 or {MESSAGE_LEN} are allowed")]
    Length(usize),
    /// TLS says no.
    #[error("TLS: {0}")]
    Tls(String),
    /// The system does not give what the handshake takes, such as randomness.
    #[error("cannot prepare the handshake: {0}")]
    System(snow::Error),
    /// No key can be derived from the passphrase.
    #[error("cannot derive a key from the passphrase: {0}")]
    Derivation(#[from] KeyError),
}

impl SenderHandshakeError {
    /// Whether the receiver said no, or is not the one that it should be.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Refused(_)
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
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The receiver has not answered the preface yet.
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
        /// The own certificate.
        own: Certificate,
    },
    Done(Channel),
    Over,
}

impl SenderHandshake {
    /// A handshake that leads to a channel in clear text.
    pub fn plain(sender: &SenderId) -> Self {
        Self::new(Preface::encode_plain(sender), Mode::None, None)
    }

    /// A handshake that leads to a channel encrypted by `suite`.
    pub fn keyed(sender: &SenderId, key: &Key, suite: Suite) -> Self {
        let mode = Mode::Key { suite: suite.code(), key: Some(key.id()) };
        let preface = Preface::encode_keyed(sender, key.id(), suite);
        Self::new(preface, mode, Some((Secret::Key(key.clone()), suite)))
    }

    /// A handshake that leads to a channel encrypted by `suite` under a key derived from `passphrase`.
    pub fn with_passphrase(sender: &SenderId, passphrase: &Passphrase, suite: Suite) -> Self {
        let mode = Mode::Passphrase { suite: suite.code() };
        let preface = Preface::encode_passphrase(sender, suite);
        Self::new(preface, mode, Some((Secret::Passphrase(passphrase.clone()), suite)))
    }

    /// A handshake that leads to a channel over TLS with the receiver at `host`.
    pub fn tls(tls: &SenderTls, host: &str) -> Result<Self, SenderHandshakeError> {
        let connection = tls.connect(host).map_err(|error| SenderHandshakeError::Tls(error.to_string()))?;
        let phase = Phase::Tls { connection: Box::new(connection), own: tls.certificate.clone() };
        Ok(Self { input: Vec::new(), output: Vec::new(), phase })
    }

    fn new(preface: Vec<u8>, mode: Mode, secret: Option<(Secret, Suite)>) -> Self {
        Self { input: Vec::new(), output: preface.clone(), phase: Phase::Reply { preface, mode, secret } }
    }

    /// The receiver's reply is whole or recognisably none.
    fn take_reply(&mut self) -> Result<(), SenderHandshakeError> {
        let Phase::Reply { preface, mode, secret } = &self.phase else { return Ok(()) };
        let status = match Status::parse_reply(*mode, &self.input)? {
            Parsed::NeedMore(_) => return Ok(()),
            Parsed::Here(status) => status,
        };
        if status != Status::Accepted {
            return Err(SenderHandshakeError::Refused(status));
        }
        let prologue = || [preface.as_slice(), &self.input].concat();
        match secret {
            None => {
                let binding = ChannelBinding::of_clear_text(preface, &self.input);
                self.phase = Phase::Done(Channel::clear_text(binding));
            }
            Some((Secret::Key(key), suite)) => self.begin_noise(&prologue(), &key.clone(), *suite)?,
            Some((Secret::Passphrase(passphrase), suite)) => {
                let Parsed::Here(salt) = Status::parse_salt(&self.input) else { return Ok(()) };
                if let Some(key) = passphrase.last_key(salt) {
                    self.begin_noise(&prologue(), &key, *suite)?;
                } else {
                    let (prologue, passphrase) = (prologue(), passphrase.clone());
                    self.phase = Phase::Derivation { prologue, passphrase, salt, suite: *suite };
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
        self.phase = Phase::Message2 { state: Box::new(state), suite };
        Ok(())
    }

    /// Message 2 is whole, or a refusal in its place.
    fn take_message_2(&mut self) -> Result<(), SenderHandshakeError> {
        if missing_of_frame(&self.input, MESSAGE_LEN).map_err(SenderHandshakeError::Length)? > 0 {
            return Ok(());
        }
        match self.input.split_off(2).as_slice() {
            [code] => Err(SenderHandshakeError::Refused(Status::from_code(*code)?)),
            message if message.len() == MESSAGE_LEN => self.confirm(message),
            message => Err(SenderHandshakeError::Length(message.len())),
        }
    }

    fn confirm(&mut self, message: &[u8]) -> Result<(), SenderHandshakeError> {
        let Phase::Message2 { mut state, suite } = core::mem::replace(&mut self.phase, Phase::Over) else {
            return Ok(());
        };
        state.read_message(message, &mut []).map_err(|_| SenderHandshakeError::Unproven)?;
        let binding = ChannelBinding::from_hash(state.get_handshake_hash());
        let mut transport = state.into_transport_mode().map_err(SenderHandshakeError::System)?;
        let mut confirmation = [0; super::CONFIRMATION_LEN];
        transport.write_message(&[], &mut confirmation).map_err(SenderHandshakeError::System)?;
        self.output = frame(&confirmation);
        self.phase = Phase::Done(Channel::keyed(transport, suite, binding));
        Ok(())
    }
}

impl Handshake for SenderHandshake {
    type Outcome = Channel;
    type Error = SenderHandshakeError;

    fn take_output(&mut self) -> Vec<u8> {
        if let Phase::Tls { connection, .. } = &mut self.phase {
            tls_output(&mut ***connection, &mut self.output);
        }
        core::mem::take(&mut self.output)
    }

    fn take_derivation(&mut self) -> Option<Derivation> {
        let Phase::Derivation { passphrase, salt, .. } = &self.phase else { return None };
        Some(Derivation { passphrase: passphrase.clone(), salt: *salt })
    }

    fn handle_key(&mut self, key: Result<Key, KeyError>) -> Result<(), SenderHandshakeError> {
        let Phase::Derivation { prologue, suite, .. } = core::mem::replace(&mut self.phase, Phase::Over)
        else {
            return Ok(());
        };
        self.begin_noise(&prologue, &key?, suite)
    }

    fn wanted(&self) -> usize {
        match &self.phase {
            // A refusal has no salt.
            Phase::Reply { mode: Mode::Passphrase { .. }, .. } if self.input.len() >= REPLY_LEN => {
                SALTED_REPLY_LEN.saturating_sub(self.input.len())
            }
            Phase::Reply { .. } => REPLY_LEN.saturating_sub(self.input.len()),
            // A length that is too long was told of when it came.
            Phase::Message2 { .. } => missing_of_frame(&self.input, MESSAGE_LEN).unwrap_or(0),
            Phase::Tls { connection, .. } if connection.is_handshaking() => TLS_READ,
            Phase::Derivation { .. } | Phase::Tls { .. } | Phase::Done(_) | Phase::Over => 0,
        }
    }

    fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), SenderHandshakeError> {
        if let Phase::Tls { connection, .. } = &mut self.phase {
            return tls_input(&mut ***connection, bytes).map_err(SenderHandshakeError::Tls);
        }
        self.input.extend_from_slice(bytes);
        match &self.phase {
            Phase::Reply { .. } => self.take_reply(),
            Phase::Message2 { .. } => self.take_message_2(),
            Phase::Derivation { .. } | Phase::Tls { .. } | Phase::Done(_) | Phase::Over => Ok(()),
        }
    }

    fn finish(self) -> Option<Channel> {
        match self.phase {
            Phase::Done(channel) => Some(channel),
            Phase::Tls { connection, own } => {
                (!connection.is_handshaking()).then(|| Channel::tls(*connection, &own))
            }
            Phase::Reply { .. } | Phase::Derivation { .. } | Phase::Message2 { .. } | Phase::Over => None,
        }
    }
}
