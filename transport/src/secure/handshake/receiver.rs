//! The receiver's side of a handshake.

use std::sync::Arc;

use aws_lc_rs::rand;
use bytes::BytesMut;
use rustls::ServerConnection;
use snow::TransportState;

use crate::framing::{Message, Refusal, RefusalCode};
use crate::secure::access_policy::{AccessPolicy, Credential};
use crate::secure::channel::{Channel, ChannelBinding};
use crate::secure::handshake::claim::{Claim, key_name};
use crate::secure::handshake::{
    CONFIRMATION_LEN, Handshake, HandshakeRejection, MESSAGE_LEN, TLS_READ, frame, framed, missing_of_frame,
    tls_input, tls_output,
};
use crate::secure::preface::{CHALLENGE_LEN, Foreign, Mode, Partial, Preface, PrefaceError, ReplyStatus};
use crate::secure::tls::{is_protocol_agreed, peer_name};
use crate::secure::{Key, ReceiverTls, Strength, Suite};
use crate::sequence::SenderId;

/// A sender whose handshake succeeded.
#[derive(Debug)]
pub struct AcceptedSender {
    /// Channel of the connection.
    pub channel: Channel,
    /// Id of the sender. It is authenticated unless the connection is in clear text.
    pub sender: SenderId,
    /// Credential with which it was accepted.
    pub credential: Credential,
}

/// Evidence that a peer has shown before it is authenticated, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// Nothing that only a sender knows.
    Nothing,
    /// A TLS handshake for this protocol.
    TlsHello,
    /// The id of a sender that has a passphrase.
    SenderName,
    /// The id of a key that its sender has.
    KeyName,
    /// Possession of that key.
    Key,
}

/// The receiver's side of a handshake.
#[derive(Debug)]
pub struct ReceiverHandshake {
    policy: Arc<AccessPolicy>,
    /// True if the peer is on this host.
    is_local: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    phase: ReceiverHandshakePhase,
}

#[derive(Debug)]
enum ReceiverHandshakePhase {
    Preface,
    Message1 { claim: Claim, prologue: Vec<u8>, evidence: Evidence },
    Confirmation { claim: Claim, key: Option<Key>, transport: Box<TransportState>, binding: ChannelBinding },
    Tls(Box<ServerConnection>),
    Done(AcceptedSender),
    Over,
}

impl ReceiverHandshake {
    /// Starts a handshake with a peer. `is_local` states that the peer is on this host.
    pub fn new(policy: Arc<AccessPolicy>, is_local: bool) -> Self {
        Self {
            policy,
            is_local,
            input: Vec::new(),
            output: Vec::new(),
            phase: ReceiverHandshakePhase::Preface,
        }
    }

    /// Evidence that the peer has shown so far.
    pub fn evidence(&self) -> Evidence {
        match &self.phase {
            ReceiverHandshakePhase::Tls(connection) if is_protocol_agreed(connection) => Evidence::TlsHello,
            ReceiverHandshakePhase::Message1 { evidence, .. } => *evidence,
            ReceiverHandshakePhase::Confirmation { key: Some(_), .. } => Evidence::Key,
            _ => Evidence::Nothing,
        }
    }

    fn handle_preface(&mut self) -> Result<(), HandshakeRejection> {
        let Preface { mode, sender } = match Preface::parse(&self.input) {
            Ok(Partial::NeedMore(_)) => return Ok(()),
            Ok(Partial::Complete(preface)) => preface,
            Err(PrefaceError::Version(version)) => {
                self.reply(ReplyStatus::UnsupportedVersion, Mode::None, [0; CHALLENGE_LEN]);
                return Err(PrefaceError::Version(version).into());
            }
            Err(PrefaceError::Foreign(Foreign::Tls)) => return self.begin_tls(),
            Err(error) => return Err(error.into()),
        };
        match self.check_mode(mode, &sender) {
            Ok(None) => self.accept_clear_text(sender),
            Ok(Some(suite)) => self.challenge(mode, sender, suite),
            Err((status, rejection)) => {
                self.reply(status, mode, [0; CHALLENGE_LEN]);
                Err(rejection)
            }
        }
    }

    fn accept_clear_text(&mut self, sender: SenderId) -> Result<(), HandshakeRejection> {
        self.reply(ReplyStatus::Accepted, Mode::None, challenge()?);
        let channel = Channel::clear_text(ChannelBinding::of_clear_text(&self.input, &self.output));
        self.phase = ReceiverHandshakePhase::Done(AcceptedSender {
            channel,
            sender,
            credential: Credential::ClearText { is_local: self.is_local },
        });
        Ok(())
    }

    /// Continues with TLS, because the first bytes are the start of a TLS handshake.
    fn begin_tls(&mut self) -> Result<(), HandshakeRejection> {
        let connection = self.policy.tls.as_ref().map(ReceiverTls::accept);
        let connection =
            connection.ok_or(PrefaceError::Foreign(Foreign::Tls))?.ok_or(HandshakeRejection::System)?;
        self.phase = ReceiverHandshakePhase::Tls(Box::new(connection));
        let received = core::mem::take(&mut self.input);
        self.handle_tls(&received)
    }

    fn handle_tls(&mut self, bytes: &[u8]) -> Result<(), HandshakeRejection> {
        let ReceiverHandshakePhase::Tls(connection) = &mut self.phase else { return Ok(()) };
        let outcome = tls_input(&mut ***connection, bytes).map_err(HandshakeRejection::Tls);
        tls_output(&mut ***connection, &mut self.output);
        outcome?;
        if connection.is_handshaking() {
            return Ok(());
        }
        let ReceiverHandshakePhase::Tls(connection) =
            core::mem::replace(&mut self.phase, ReceiverHandshakePhase::Over)
        else {
            return Ok(());
        };
        if !is_protocol_agreed(&connection) {
            return Err(HandshakeRejection::Tls(
                "the other side does not offer the protocol nf-transport/1".to_owned(),
            ));
        }
        let name = peer_name(&connection);
        let own = self.policy.tls.as_ref().map(|tls| &tls.certificate).ok_or(HandshakeRejection::System)?;
        let mut channel = Channel::tls(*connection, own);
        let accepted = name.ok_or(HandshakeRejection::NoName).and_then(|sender| {
            let tls = self.policy.tls.as_ref().filter(|tls| tls.accepts(&sender));
            match tls {
                Some(tls) => Ok((sender, Credential::Certificate { trust: tls.trust })),
                None => Err(HandshakeRejection::NameNotAllowed(sender)),
            }
        });
        match accepted {
            Ok((sender, credential)) => {
                self.phase = ReceiverHandshakePhase::Done(AcceptedSender { channel, sender, credential });
                Ok(())
            }
            Err(rejection) => {
                self.reject_in_channel(&mut channel, &rejection);
                Err(rejection)
            }
        }
    }

    /// Sends the reason to a rejected sender with a valid certificate.
    ///
    /// The reason is a session message, because the TLS channel is already established.
    fn reject_in_channel(&mut self, channel: &mut Channel, rejection: &HandshakeRejection) {
        let mut message = BytesMut::new();
        let refusal = Refusal::new(RefusalCode::NotAuthorized, &format!("this sender: {rejection}"));
        let mut wire = BytesMut::new();
        // A refusal has no batch. A failure to seal it only means that the sender does not get the reason.
        if Message::Refuse(refusal).encode(&mut message).is_none()
            && channel.seal(&mut message, &mut wire).is_ok()
        {
            self.output.extend_from_slice(&wire);
        }
    }

    /// Checks if a sender may use this mode. Returns the suite; `None` for clear text.
    fn check_mode(
        &self,
        mode: Mode,
        sender: &SenderId,
    ) -> Result<Option<Suite>, (ReplyStatus, HandshakeRejection)> {
        let policy = &self.policy;
        match mode {
            Mode::None if policy.accepts_clear_text(sender, self.is_local) => Ok(None),
            Mode::None if policy.is_reserved(sender) => {
                Err((ReplyStatus::EncryptionRequired, HandshakeRejection::Reserved(sender.clone())))
            }
            Mode::None => {
                Err((ReplyStatus::EncryptionRequired, HandshakeRejection::ClearText(sender.clone())))
            }
            Mode::Unknown(mode) => Err((
                ReplyStatus::UnsupportedVersion,
                HandshakeRejection::Mode { sender: sender.clone(), mode },
            )),
            Mode::Key { .. } | Mode::Passphrase { .. } if !policy.has_keys() => {
                Err((ReplyStatus::EncryptionNotConfigured, HandshakeRejection::NoKeys(sender.clone())))
            }
            Mode::Key { suite: code, .. } | Mode::Passphrase { suite: code } => {
                let suite = Suite::from_code(code);
                if let Some(suite) = suite.filter(|suite| policy.suites.contains(suite)) {
                    return Ok(Some(suite));
                }
                let name = suite.map_or_else(|| format!("number {code}"), |suite| suite.to_string());
                let allowed = listed(policy.suites.iter(), "none");
                let rejection =
                    HandshakeRejection::SuiteNotAllowed { sender: sender.clone(), suite: name, allowed };
                Err((ReplyStatus::SuiteNotAllowed, rejection))
            }
        }
    }

    /// Continues with a peer that claims to have a key.
    ///
    /// An unknown key gets the same answer as a wrong one, so that a peer cannot find out which keys exist.
    fn challenge(&mut self, mode: Mode, sender: SenderId, suite: Suite) -> Result<(), HandshakeRejection> {
        let (offered, keys): (String, Vec<Key>) = match mode {
            Mode::Key { key: offered, .. } => {
                let name =
                    offered.map_or_else(|| "a key of an unknown kind".to_owned(), |id| format!("key {id}"));
                (name, self.policy.key_by_id(&sender, offered).into_iter().cloned().collect())
            }
            Mode::Passphrase { .. } => {
                let name = format!("a passphrase with the cipher {suite}");
                (name, self.policy.derived_keys(&sender, suite).cloned().collect())
            }
            Mode::None | Mode::Unknown(_) => return Ok(()),
        };
        let challenge = challenge()?;
        let preface = core::mem::take(&mut self.input);
        self.output = ReplyStatus::encode_acceptance(mode, challenge, self.policy.salt);
        let prologue = [preface.as_slice(), &self.output].concat();
        let evidence = match mode {
            _ if keys.is_empty() => Evidence::Nothing,
            Mode::Key { .. } => Evidence::KeyName,
            _ => Evidence::SenderName,
        };
        self.phase = ReceiverHandshakePhase::Message1 {
            claim: Claim { sender, suite, offered, keys },
            prologue,
            evidence,
        };
        Ok(())
    }

    fn reply(&mut self, status: ReplyStatus, mode: Mode, challenge: [u8; CHALLENGE_LEN]) {
        self.output.extend_from_slice(&status.encode_reply(mode, challenge));
    }

    fn handle_message_1(&mut self) -> Result<(), HandshakeRejection> {
        let Some(message) = self.take_frame(MESSAGE_LEN)? else { return Ok(()) };
        let ReceiverHandshakePhase::Message1 { claim, prologue, .. } =
            core::mem::replace(&mut self.phase, ReceiverHandshakePhase::Over)
        else {
            return Ok(());
        };
        let Some((key, mut state)) = claim.open(&prologue, &message)? else {
            self.output = frame(&[ReplyStatus::AuthenticationFailed.code()]);
            return Err(self.wrong_key(claim));
        };
        self.output = framed(&mut state).map_err(|_| HandshakeRejection::Unproven(claim.sender.clone()))?;
        let binding = ChannelBinding::from_hash(state.get_handshake_hash());
        let transport = Box::new(state.into_transport_mode().map_err(|_| HandshakeRejection::System)?);
        self.phase = ReceiverHandshakePhase::Confirmation { claim, key, transport, binding };
        Ok(())
    }

    fn handle_confirmation(&mut self) -> Result<(), HandshakeRejection> {
        let Some(record) = self.take_frame(CONFIRMATION_LEN)? else { return Ok(()) };
        let ReceiverHandshakePhase::Confirmation { claim, key, mut transport, binding } =
            core::mem::replace(&mut self.phase, ReceiverHandshakePhase::Over)
        else {
            return Ok(());
        };
        let key = key.filter(|_| transport.read_message(&record, &mut []).is_ok());
        let Some(key) = key else { return Err(HandshakeRejection::Unproven(claim.sender)) };
        let channel = Channel::keyed(*transport, claim.suite, binding);
        let credential = Credential::Key { id: key.id(), suite: claim.suite };
        self.phase =
            ReceiverHandshakePhase::Done(AcceptedSender { channel, sender: claim.sender, credential });
        Ok(())
    }

    /// Returns the expected message of `length` bytes when it is complete.
    fn take_frame(&mut self, length: usize) -> Result<Option<Vec<u8>>, HandshakeRejection> {
        let missing = missing_of_frame(&self.input, length)
            .map_err(|found| HandshakeRejection::Length(found, length))?;
        if missing > 0 {
            return Ok(None);
        }
        let message = core::mem::take(&mut self.input).split_off(2);
        if message.len() == length {
            Ok(Some(message))
        } else {
            Err(HandshakeRejection::Length(message.len(), length))
        }
    }

    fn wrong_key(&self, claim: Claim) -> HandshakeRejection {
        let Claim { sender, offered, keys, .. } = claim;
        // A random key here means that the peer named this key, but did not prove it. Peers with a passphrase
        // name none.
        if keys.iter().any(|key| key.strength() == Strength::Random) {
            return HandshakeRejection::Unproven(sender);
        }
        if self.policy.is_reserved(&sender) && self.policy.keys_for(&sender).is_empty() {
            return HandshakeRejection::Reserved(sender);
        }
        let expected = listed(self.policy.keys_for(&sender).iter().map(key_name), "none");
        HandshakeRejection::WrongKey { sender, offered, expected }
    }
}

/// Generates a random challenge, which no other connection has.
fn challenge() -> Result<[u8; CHALLENGE_LEN], HandshakeRejection> {
    let mut challenge = [0; CHALLENGE_LEN];
    rand::fill(&mut challenge).map_err(|_| HandshakeRejection::System)?;
    Ok(challenge)
}

/// Joins names for a message; `none` if there are none.
fn listed(names: impl Iterator<Item: ToString>, none: &str) -> String {
    let names: Vec<String> = names.map(|name| name.to_string()).collect();
    if names.is_empty() { none.to_owned() } else { names.join(" or ") }
}

impl Handshake for ReceiverHandshake {
    type Outcome = AcceptedSender;
    type Error = HandshakeRejection;

    fn take_output(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.output)
    }

    fn wanted(&self) -> usize {
        // `handle_bytes` has already returned an error for a malformed preface or an invalid length.
        match &self.phase {
            ReceiverHandshakePhase::Preface => match Preface::parse(&self.input) {
                Ok(Partial::NeedMore(total)) => total.saturating_sub(self.input.len()),
                _ => 0,
            },
            ReceiverHandshakePhase::Message1 { .. } => {
                missing_of_frame(&self.input, MESSAGE_LEN).unwrap_or(0)
            }
            ReceiverHandshakePhase::Confirmation { .. } => {
                missing_of_frame(&self.input, CONFIRMATION_LEN).unwrap_or(0)
            }
            ReceiverHandshakePhase::Tls(_) => TLS_READ,
            ReceiverHandshakePhase::Done(_) | ReceiverHandshakePhase::Over => 0,
        }
    }

    fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), HandshakeRejection> {
        if matches!(self.phase, ReceiverHandshakePhase::Tls(_)) {
            return self.handle_tls(bytes);
        }
        self.input.extend_from_slice(bytes);
        match &self.phase {
            ReceiverHandshakePhase::Preface => self.handle_preface(),
            ReceiverHandshakePhase::Message1 { .. } => self.handle_message_1(),
            ReceiverHandshakePhase::Confirmation { .. } => self.handle_confirmation(),
            ReceiverHandshakePhase::Tls(_)
            | ReceiverHandshakePhase::Done(_)
            | ReceiverHandshakePhase::Over => Ok(()),
        }
    }

    fn finish(self) -> Option<AcceptedSender> {
        match self.phase {
            ReceiverHandshakePhase::Done(accepted) => Some(accepted),
            _ => None,
        }
    }
}
