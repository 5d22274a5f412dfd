//! The receiver's side of a handshake.

use std::sync::Arc;

use aws_lc_rs::rand;
use bytes::BytesMut;
use rustls::ServerConnection;
use snow::{HandshakeState, TransportState};

use crate::framing::{Message, Refusal, RefusalCode};
use crate::secure::admission::{Admission, Pass};
use crate::secure::channel::{Channel, ChannelBinding};
use crate::secure::handshake::{
    CONFIRMATION_LEN, Handshake, MESSAGE_LEN, TLS_READ, frame, framed, missing_of_frame, responder,
    tls_input, tls_output,
};
use crate::secure::preface::{CHALLENGE_LEN, Foreign, Mode, Parsed, Preface, PrefaceError, Status};
use crate::secure::tls::{is_meant, peer_name};
use crate::secure::{Key, ReceiverTls, Strength, Suite};
use crate::sequence::SenderId;

/// A sender that was let in.
#[derive(Debug)]
pub struct Admitted {
    /// What connects it.
    pub channel: Channel,
    /// Who it is: proven, unless it speaks clear text.
    pub sender: SenderId,
    /// By what it was let in.
    pub pass: Pass,
}

/// Evidence that a peer has shown before it is authenticated, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shown {
    /// Nothing that only a sender knows.
    Nothing,
    /// That it speaks this protocol over TLS.
    TlsHello,
    /// The id of a sender that has a passphrase.
    SenderName,
    /// The name of a key that its sender has.
    KeyName,
    /// That it has that key.
    Key,
}

/// Why a peer was not let in.
#[derive(Debug, thiserror::Error)]
pub enum Turned {
    /// What it says first cannot be understood.
    #[error("{0}")]
    Preface(#[from] PrefaceError),
    /// It does not want encryption.
    #[error(
        "sender {0} speaks clear text, which is not let in from there: invite it (nf-receiver invite {0}), give both \
         sides the same key, or start with --plaintext"
    )]
    ClearText(SenderId),
    /// It wants encryption, and there is no key.
    #[error(
        "sender {0} uses a key and this receiver has none: give it the same key, or invite it (nf-receiver invite {0})"
    )]
    NoKeys(SenderId),
    /// It uses a mode that only a newer receiver knows.
    #[error(
        "sender {sender} asks for mode {mode} of the protocol, which is not known here; update the older side"
    )]
    Mode {
        /// Who it says it is.
        sender: SenderId,
        /// What it asks for.
        mode: u8,
    },
    /// It uses a suite that it may not.
    #[error("sender {sender} uses the cipher {suite}, which 'ciphers' does not allow; allowed: {allowed}")]
    SuiteNotAllowed {
        /// Who it says it is.
        sender: SenderId,
        /// What it uses.
        suite: String,
        /// What it could use.
        allowed: String,
    },
    /// It has another key.
    #[error(
        "sender {sender} uses {given}, and the key of {sender} here is {known}: both sides need the same key"
    )]
    WrongKey {
        /// Who it says it is.
        sender: SenderId,
        /// Which key it says it has.
        given: String,
        /// Which keys it could have.
        known: String,
    },
    /// It claims an id that belongs to the holder of a certificate.
    #[error(
        "sender {0} is accepted by its certificate only ('senders' in [tls], or [[sender]] without a key): give the other \
         sender an id of its own, or invite this one (nf-receiver invite {0})"
    )]
    Reserved(SenderId),
    /// It names the right key and does not have it, or somebody changed or repeated what it said.
    #[error(
        "sender {0} could not prove that it has the key that it names: somebody on the way may have changed or \
         repeated the handshake"
    )]
    Unproven(SenderId),
    /// A handshake message of a length that none has.
    #[error("the sender's handshake message has {0} bytes, where {1} are allowed")]
    Length(usize, usize),
    /// TLS says no.
    #[error("TLS: {0}")]
    Tls(String),
    /// A certificate that is good, with a name that is none.
    #[error("its certificate has no name (DNS name or common name) that can be a sender id")]
    NoName,
    /// A certificate of a sender that is not let in.
    #[error("the certificate of {0} is good, but 'senders' in [tls] does not have this name")]
    NameNotAdmitted(SenderId),
    /// The system does not give what the handshake takes, such as randomness.
    #[error("cannot prepare the handshake: the system gives no randomness")]
    System,
}

/// The receiver's side of a handshake.
#[derive(Debug)]
pub struct ReceiverHandshake {
    admission: Arc<Admission>,
    /// Whether the peer is on this machine.
    is_local: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    phase: Phase,
}

/// The sender id of a preface, and the keys with which the peer may prove it.
#[derive(Debug)]
struct Claim {
    sender: SenderId,
    suite: Suite,
    /// The kind or id of its key, as the peer gives it.
    given: String,
    /// The key that the preface names, if the sender has it; or all that are derived from passphrases.
    keys: Vec<Key>,
}

#[derive(Debug)]
enum Phase {
    Preface,
    Message1 { claim: Claim, prologue: Vec<u8>, shown: Shown },
    Confirmation { claim: Claim, key: Option<Key>, transport: Box<TransportState>, binding: ChannelBinding },
    Tls(Box<ServerConnection>),
    Done(Admitted),
    Over,
}

impl ReceiverHandshake {
    /// A handshake with a peer, which is on this machine or not.
    pub fn new(admission: Arc<Admission>, is_local: bool) -> Self {
        Self { admission, is_local, input: Vec::new(), output: Vec::new(), phase: Phase::Preface }
    }

    /// What the peer has shown so far.
    pub fn shown(&self) -> Shown {
        match &self.phase {
            Phase::Tls(connection) if is_meant(connection) => Shown::TlsHello,
            Phase::Message1 { shown, .. } => *shown,
            Phase::Confirmation { key: Some(_), .. } => Shown::Key,
            _ => Shown::Nothing,
        }
    }

    fn take_preface(&mut self) -> Result<(), Turned> {
        let Preface { mode, sender } = match Preface::parse(&self.input) {
            Ok(Parsed::NeedMore(_)) => return Ok(()),
            Ok(Parsed::Here(preface)) => preface,
            Err(PrefaceError::Version(version)) => {
                self.reply(Status::UnsupportedVersion, Mode::None, [0; CHALLENGE_LEN]);
                return Err(PrefaceError::Version(version).into());
            }
            Err(PrefaceError::Foreign(Foreign::Tls)) => return self.begin_tls(),
            Err(error) => return Err(error.into()),
        };
        match self.judge(mode, &sender) {
            Ok(None) => self.accept_clear_text(sender),
            Ok(Some(suite)) => self.challenge(mode, sender, suite),
            Err((status, turned)) => {
                self.reply(status, mode, [0; CHALLENGE_LEN]);
                Err(turned)
            }
        }
    }

    fn accept_clear_text(&mut self, sender: SenderId) -> Result<(), Turned> {
        self.reply(Status::Accepted, Mode::None, challenge()?);
        let channel = Channel::clear_text(ChannelBinding::of_clear_text(&self.input, &self.output));
        self.phase =
            Phase::Done(Admitted { channel, sender, pass: Pass::ClearText { is_local: self.is_local } });
        Ok(())
    }

    /// What came is the start of TLS.
    fn begin_tls(&mut self) -> Result<(), Turned> {
        let connection = self.admission.tls.as_ref().map(ReceiverTls::accept);
        let connection = connection.ok_or(PrefaceError::Foreign(Foreign::Tls))?.ok_or(Turned::System)?;
        self.phase = Phase::Tls(Box::new(connection));
        let begun = core::mem::take(&mut self.input);
        self.take_tls(&begun)
    }

    fn take_tls(&mut self, bytes: &[u8]) -> Result<(), Turned> {
        let Phase::Tls(connection) = &mut self.phase else { return Ok(()) };
        let outcome = tls_input(&mut ***connection, bytes).map_err(Turned::Tls);
        tls_output(&mut ***connection, &mut self.output);
        outcome?;
        if connection.is_handshaking() {
            return Ok(());
        }
        let Phase::Tls(connection) = core::mem::replace(&mut self.phase, Phase::Over) else { return Ok(()) };
        if !is_meant(&connection) {
            return Err(Turned::Tls("the other side does not mean the protocol nf-transport/1".to_owned()));
        }
        let name = peer_name(&connection);
        let own = self.admission.tls.as_ref().map(|tls| &tls.certificate).ok_or(Turned::System)?;
        let mut channel = Channel::tls(*connection, own);
        let admitted = name.ok_or(Turned::NoName).and_then(|sender| {
            let tls = self.admission.tls.as_ref().filter(|tls| tls.admits(&sender));
            match tls {
                Some(tls) => Ok((sender, Pass::Certificate { trust: tls.trust })),
                None => Err(Turned::NameNotAdmitted(sender)),
            }
        });
        match admitted {
            Ok((sender, pass)) => {
                self.phase = Phase::Done(Admitted { channel, sender, pass });
                Ok(())
            }
            Err(turned) => {
                self.refuse_within(&mut channel, &turned);
                Err(turned)
            }
        }
    }

    /// Tells a sender with a good certificate why it is not let in: as a message of the session, as its channel is
    /// there already.
    fn refuse_within(&mut self, channel: &mut Channel, turned: &Turned) {
        let mut message = BytesMut::new();
        let refusal = Refusal::new(RefusalCode::NotAdmitted, &format!("this sender: {turned}"));
        let mut wire = BytesMut::new();
        // A refusal has no batch to follow, and one that cannot be sealed is only not heard.
        if Message::Refuse(refusal).encode(&mut message).is_none()
            && channel.seal(&mut message, &mut wire).is_ok()
        {
            self.output.extend_from_slice(&wire);
        }
    }

    /// Whether a sender may try this mode; with which suite, unless in clear text.
    fn judge(&self, mode: Mode, sender: &SenderId) -> Result<Option<Suite>, (Status, Turned)> {
        let admission = &self.admission;
        match mode {
            Mode::None if admission.admits_clear_text(sender, self.is_local) => Ok(None),
            Mode::None if admission.is_reserved(sender) => {
                Err((Status::EncryptionRequired, Turned::Reserved(sender.clone())))
            }
            Mode::None => Err((Status::EncryptionRequired, Turned::ClearText(sender.clone()))),
            Mode::Unknown(mode) => {
                Err((Status::UnsupportedVersion, Turned::Mode { sender: sender.clone(), mode }))
            }
            Mode::Key { .. } | Mode::Passphrase { .. } if !admission.has_keys() => {
                Err((Status::EncryptionNotConfigured, Turned::NoKeys(sender.clone())))
            }
            Mode::Key { suite: code, .. } | Mode::Passphrase { suite: code } => {
                let suite = Suite::from_code(code);
                if let Some(suite) = suite.filter(|suite| admission.suites.contains(suite)) {
                    return Ok(Some(suite));
                }
                let name = suite.map_or_else(|| format!("number {code}"), |suite| suite.to_string());
                let allowed = listed(admission.suites.iter(), "none");
                let turned = Turned::SuiteNotAllowed { sender: sender.clone(), suite: name, allowed };
                Err((Status::SuiteNotAllowed, turned))
            }
        }
    }

    /// Continues with a peer that claims to have a key. An unknown key is answered like a wrong one, so that nobody finds
    /// out which keys there are.
    fn challenge(&mut self, mode: Mode, sender: SenderId, suite: Suite) -> Result<(), Turned> {
        let (given, keys): (String, Vec<Key>) = match mode {
            Mode::Key { key: given, .. } => {
                let name =
                    given.map_or_else(|| "a key of an unknown kind".to_owned(), |id| format!("key {id}"));
                (name, self.admission.key_of(&sender, given).into_iter().cloned().collect())
            }
            Mode::Passphrase { .. } => {
                let name = format!("a passphrase with the cipher {suite}");
                (name, self.admission.derived_keys(&sender, suite).cloned().collect())
            }
            Mode::None | Mode::Unknown(_) => return Ok(()),
        };
        let challenge = challenge()?;
        let preface = core::mem::take(&mut self.input);
        self.output = Status::encode_acceptance(mode, challenge, self.admission.salt);
        let prologue = [preface.as_slice(), &self.output].concat();
        let shown = match mode {
            _ if keys.is_empty() => Shown::Nothing,
            Mode::Key { .. } => Shown::KeyName,
            _ => Shown::SenderName,
        };
        self.phase = Phase::Message1 { claim: Claim { sender, suite, given, keys }, prologue, shown };
        Ok(())
    }

    fn reply(&mut self, status: Status, mode: Mode, challenge: [u8; CHALLENGE_LEN]) {
        self.output.extend_from_slice(&status.encode_reply(mode, challenge));
    }

    fn take_message_1(&mut self) -> Result<(), Turned> {
        let Some(message) = self.take_frame(MESSAGE_LEN)? else { return Ok(()) };
        let Phase::Message1 { claim, prologue, .. } = core::mem::replace(&mut self.phase, Phase::Over) else {
            return Ok(());
        };
        let Some((key, mut state)) = claim.open(&prologue, &message)? else {
            self.output = frame(&[Status::AuthenticationFailed.code()]);
            return Err(self.unproven(claim));
        };
        self.output = framed(&mut state).map_err(|_| Turned::Unproven(claim.sender.clone()))?;
        let binding = ChannelBinding::from_hash(state.get_handshake_hash());
        let transport = Box::new(state.into_transport_mode().map_err(|_| Turned::System)?);
        self.phase = Phase::Confirmation { claim, key, transport, binding };
        Ok(())
    }

    fn take_confirmation(&mut self) -> Result<(), Turned> {
        let Some(record) = self.take_frame(CONFIRMATION_LEN)? else { return Ok(()) };
        let Phase::Confirmation { claim, key, mut transport, binding } =
            core::mem::replace(&mut self.phase, Phase::Over)
        else {
            return Ok(());
        };
        let key = key.filter(|_| transport.read_message(&record, &mut []).is_ok());
        let Some(key) = key else { return Err(Turned::Unproven(claim.sender)) };
        let channel = Channel::keyed(*transport, claim.suite, binding);
        let pass = Pass::Key { id: key.id(), suite: claim.suite };
        self.phase = Phase::Done(Admitted { channel, sender: claim.sender, pass });
        Ok(())
    }

    /// The message of `length` bytes that is to come, once it is whole.
    fn take_frame(&mut self, length: usize) -> Result<Option<Vec<u8>>, Turned> {
        let missing = missing_of_frame(&self.input, length).map_err(|found| Turned::Length(found, length))?;
        if missing > 0 {
            return Ok(None);
        }
        let message = core::mem::take(&mut self.input).split_off(2);
        if message.len() == length { Ok(Some(message)) } else { Err(Turned::Length(message.len(), length)) }
    }

    fn unproven(&self, claim: Claim) -> Turned {
        let Claim { sender, given, keys, .. } = claim;
        // A peer that names a key claims to have it. One with a passphrase names none.
        if keys.iter().any(|key| key.strength() == Strength::Random) {
            return Turned::Unproven(sender);
        }
        if self.admission.is_reserved(&sender) && self.admission.keys_of(&sender).is_empty() {
            return Turned::Reserved(sender);
        }
        let known = listed(self.admission.keys_of(&sender).iter().map(name), "none");
        Turned::WrongKey { sender, given, known }
    }
}

impl Claim {
    /// Opens message 1 with the first of the keys that fits. Without any key it tries a random one, so that an unknown sender is
    /// answered like one with a wrong key.
    fn open(&self, prologue: &[u8], message: &[u8]) -> Result<Option<(Option<Key>, HandshakeState)>, Turned> {
        let unknown = Key::generate().map_err(|_| Turned::System)?;
        let candidates = self.keys.iter().map(Some).chain(self.keys.is_empty().then_some(None));
        for key in candidates {
            let mut state =
                responder(self.suite, key.unwrap_or(&unknown), prologue).map_err(|_| Turned::System)?;
            if state.read_message(message, &mut []).is_ok() {
                return Ok(Some((key.cloned(), state)));
            }
        }
        Ok(None)
    }
}

/// The name of a key in a sentence: its id, unless that depends on the salt of the moment.
fn name(key: &Key) -> String {
    match key.strength() {
        Strength::Random => key.id().to_string(),
        derived => derived.name().to_owned(),
    }
}

/// A challenge that no other connection has.
fn challenge() -> Result<[u8; CHALLENGE_LEN], Turned> {
    let mut challenge = [0; CHALLENGE_LEN];
    rand::fill(&mut challenge).map_err(|_| Turned::System)?;
    Ok(challenge)
}

/// Names in a sentence.
fn listed(names: impl Iterator<Item: ToString>, none: &str) -> String {
    let names: Vec<String> = names.map(|name| name.to_string()).collect();
    if names.is_empty() { none.to_owned() } else { names.join(" or ") }
}

impl Handshake for ReceiverHandshake {
    type Outcome = Admitted;
    type Error = Turned;

    fn take_output(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.output)
    }

    fn wanted(&self) -> usize {
        // What is too long or damaged was told of when it came.
        match &self.phase {
            Phase::Preface => match Preface::parse(&self.input) {
                Ok(Parsed::NeedMore(total)) => total.saturating_sub(self.input.len()),
                _ => 0,
            },
            Phase::Message1 { .. } => missing_of_frame(&self.input, MESSAGE_LEN).unwrap_or(0),
            Phase::Confirmation { .. } => missing_of_frame(&self.input, CONFIRMATION_LEN).unwrap_or(0),
            Phase::Tls(_) => TLS_READ,
            Phase::Done(_) | Phase::Over => 0,
        }
    }

    fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), Turned> {
        if matches!(self.phase, Phase::Tls(_)) {
            return self.take_tls(bytes);
        }
        self.input.extend_from_slice(bytes);
        match &self.phase {
            Phase::Preface => self.take_preface(),
            Phase::Message1 { .. } => self.take_message_1(),
            Phase::Confirmation { .. } => self.take_confirmation(),
            Phase::Tls(_) | Phase::Done(_) | Phase::Over => Ok(()),
        }
    }

    fn finish(self) -> Option<Admitted> {
        match self.phase {
            Phase::Done(admitted) => Some(admitted),
            _ => None,
        }
    }
}
