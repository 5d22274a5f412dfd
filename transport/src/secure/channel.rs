//! A connection as the session sees it: a stream of bytes, whatever protects it on the way.
//!
//! What is to be sent goes through `seal` before it is written, what was read through `open`. A record is a length of
//! two bytes and a Noise transport message (<https://noiseprotocol.org/noise.html>, section 7.1) of at most 65,535
//! bytes; where records begin and end means nothing to the session. After each `REKEY_EVERY` records of one
//! direction, both sides go on with a new key for it (section 11.3 there).
//!
//! Always holds: nothing of a record is handed on before all of it was found to be what the other side sealed, in
//! its place; after one that is not, nothing is opened any more.

use core::fmt;
use std::io::{self, Read, Write};

use aws_lc_rs::digest;
use bytes::{Buf, BufMut, BytesMut};
use snow::TransportState;

use crate::limits::{CHANNEL_BYTES_MAX, REKEY_EVERY, SEALED_AHEAD};
use crate::secure::{Certificate, CertificateEnds, Suite};

/// Bytes of the tag in each record.
const TAG_LEN: usize = 16;

/// Bytes of the length in front of it.
const LENGTH_LEN: usize = 2;

/// Bytes of a record at the most, its length not counted.
const RECORD_MAX: usize = 65_535;

/// Bytes of a record's payload at the most.
const PAYLOAD_MAX: usize = RECORD_MAX - TAG_LEN;

/// Bytes of the payload of a TLS record at the most (RFC 8446, section 5.1).
const TLS_PAYLOAD_MAX: usize = 16 * 1024;

/// What the two sides of one connection share and no other connection has. Both compute it; it is no secret.
///
/// | channel | binding |
/// |---|---|
/// | key | the handshake hash of Noise (revision 34, section 11.2) |
/// | TLS | the exporter `EXPORTER-Channel-Binding`, without a context (RFC 9266) |
/// | clear text | SHA-256 of preface and reply, which has a challenge made by chance |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelBinding(pub [u8; 32]);

impl ChannelBinding {
    /// The binding of a connection in clear text that began with `preface` and `reply`.
    pub(super) fn of_clear_text(preface: &[u8], reply: &[u8]) -> Self {
        Self::from_hash(digest::digest(&digest::SHA256, &[preface, reply].concat()).as_ref())
    }

    /// The binding that is this hash of 32 bytes.
    pub(super) fn from_hash(hash: &[u8]) -> Self {
        debug_assert_eq!(hash.len(), 32);
        Self(hash.first_chunk().copied().unwrap_or_default())
    }
}

/// Why a channel cannot go on. The connection is of no more use; all that is not acknowledged is sent again on the
/// next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// A record is not what the other side sealed.
    #[error(
        "record {0} of the encrypted connection is not what was sent: somebody on the way changed, repeated or left \
         out something"
    )]
    Forged(u64),
    /// A record that cannot hold its tag.
    #[error("a record of {0} bytes, where at least {TAG_LEN} are needed")]
    Short(usize),
    /// TLS says no, on this side or the other.
    #[error("TLS: {0}")]
    Tls(String),
    /// There was no handshake.
    #[error("nothing binds this connection: it had no handshake")]
    Unbound,
    /// Nothing can be sealed any more.
    #[error("the encrypted connection cannot go on after {0} records")]
    Exhausted(u64),
}

/// One side of a connection.
pub struct Channel {
    layer: Layer,
    /// What came with the last bytes of the handshake and was not handed on yet.
    early: Vec<u8>,
}

enum Layer {
    /// `None` without a handshake.
    Plain(Option<ChannelBinding>),
    Keyed(Box<Records>),
    Tls(Box<Tls>),
}

/// A TLS connection whose handshake is done.
struct Tls {
    connection: rustls::Connection,
    /// When its certificates end to be valid.
    certificates: Option<CertificateEnds>,
}

/// The records of both directions.
struct Records {
    transport: TransportState,
    suite: Suite,
    binding: ChannelBinding,
    /// The start of a record that is not whole; `input.len() < 2 + RECORD_MAX`.
    input: BytesMut,
    /// Bytes of all records, by direction.
    sealed: u64,
    opened: u64,
    is_broken: bool,
}

impl Channel {
    /// A channel in clear text without a handshake: no session can be agreed over it.
    pub fn plain() -> Self {
        Self { layer: Layer::Plain(None), early: Vec::new() }
    }

    /// A channel in clear text behind a handshake.
    pub fn clear_text(binding: ChannelBinding) -> Self {
        Self { layer: Layer::Plain(Some(binding)), early: Vec::new() }
    }

    /// A channel behind a handshake.
    pub(super) fn keyed(transport: TransportState, suite: Suite, binding: ChannelBinding) -> Self {
        let input = BytesMut::new();
        let records = Records { transport, suite, binding, input, sealed: 0, opened: 0, is_broken: false };
        Self { layer: Layer::Keyed(Box::new(records)), early: Vec::new() }
    }

    /// A channel over TLS, whose handshake is done and showed the certificate `own`.
    pub(super) fn tls(connection: impl Into<rustls::Connection>, own: &Certificate) -> Self {
        let mut connection = connection.into();
        let certificates = CertificateEnds::of(own, &connection);
        let mut early = Vec::new();
        // What is wrong with it is found again, and told, when the next bytes come.
        drop(take_plain(&mut connection, &mut |bytes| early.extend_from_slice(bytes)));
        Self { layer: Layer::Tls(Box::new(Tls { connection, certificates })), early }
    }

    /// What binds a proof to this connection.
    pub fn binding(&self) -> Result<ChannelBinding, ChannelError> {
        match &self.layer {
            Layer::Plain(binding) => binding.ok_or(ChannelError::Unbound),
            Layer::Keyed(records) => Ok(records.binding),
            Layer::Tls(tls) => tls
                .connection
                .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", None)
                .map(ChannelBinding)
                .map_err(|error| ChannelError::Tls(error.to_string())),
        }
    }

    /// Whether there is something to be handed on although nothing was read.
    pub fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// Whether what is sent is what is written, so that it need not go through `seal`.
    pub fn is_plain(&self) -> bool {
        matches!(self.layer, Layer::Plain(_))
    }

    /// What encrypts it, `none` if nothing does.
    pub fn cipher(&self) -> &'static str {
        match &self.layer {
            Layer::Plain(_) => "none",
            Layer::Keyed(records) => records.suite.name(),
            Layer::Tls(_) => "tls",
        }
    }

    /// When its certificates end to be valid: a handshake checks that once.
    pub fn certificates(&self) -> Option<CertificateEnds> {
        match &self.layer {
            Layer::Plain(_) | Layer::Keyed(_) => None,
            Layer::Tls(tls) => tls.certificates,
        }
    }

    /// Whether so much went over it that a new handshake is due.
    pub fn is_worn(&self) -> bool {
        match &self.layer {
            // TLS changes its keys by itself.
            Layer::Plain(_) | Layer::Tls(_) => false,
            Layer::Keyed(records) => records.sealed.max(records.opened) >= CHANNEL_BYTES_MAX,
        }
    }

    /// Takes from the front of `plain` what `wire` has room for, and appends it there as it is to be written.
    pub fn seal(&mut self, plain: &mut impl Buf, wire: &mut BytesMut) -> Result<(), ChannelError> {
        match &mut self.layer {
            Layer::Plain(_) => {
                while plain.has_remaining() && wire.len() < SEALED_AHEAD {
                    let chunk = plain.chunk();
                    wire.extend_from_slice(chunk);
                    plain.advance(chunk.len());
                }
                Ok(())
            }
            Layer::Keyed(records) => records.seal(plain, wire),
            Layer::Tls(tls) => seal_tls(&mut tls.connection, plain, wire),
        }
    }

    /// Takes in what was read, and hands on to `take` what it holds, in order.
    pub fn open(&mut self, wire: &[u8], take: &mut impl FnMut(&[u8])) -> Result<(), ChannelError> {
        if self.has_early() {
            take(&core::mem::take(&mut self.early));
        }
        match &mut self.layer {
            Layer::Plain(_) => {
                take(wire);
                Ok(())
            }
            Layer::Keyed(records) => records.open(wire, take),
            Layer::Tls(tls) => open_tls(&mut tls.connection, wire, take),
        }
    }
}

impl Records {
    fn seal(&mut self, plain: &mut impl Buf, wire: &mut BytesMut) -> Result<(), ChannelError> {
        while plain.has_remaining() && wire.len() < SEALED_AHEAD {
            let payload = plain.copy_to_bytes(plain.remaining().min(PAYLOAD_MAX));
            let length = payload.len() + TAG_LEN;
            let start = wire.len();
            wire.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
            wire.resize(start + 2 + length, 0);
            let place = wire.get_mut(start + 2..).unwrap_or_default();
            if self.transport.write_message(&payload, place).is_err() {
                return Err(ChannelError::Exhausted(self.transport.sending_nonce()));
            }
            self.sealed += bytes_of(length);
            if self.transport.sending_nonce().is_multiple_of(REKEY_EVERY) {
                self.transport.rekey_outgoing();
            }
        }
        Ok(())
    }

    fn open(&mut self, wire: &[u8], take: &mut impl FnMut(&[u8])) -> Result<(), ChannelError> {
        if self.is_broken {
            return Err(ChannelError::Forged(self.transport.receiving_nonce()));
        }
        let outcome = self.open_all(wire, take);
        self.is_broken = outcome.is_err();
        outcome
    }

    /// Opens the records that are whole, most of them where they lie. Of the last one the start is kept.
    fn open_all(&mut self, mut wire: &[u8], take: &mut impl FnMut(&[u8])) -> Result<(), ChannelError> {
        let mut payload = Vec::new();
        let mut begun = core::mem::take(&mut self.input);
        while !begun.is_empty() {
            let whole = whole_len(&begun)?;
            let wanted = whole.unwrap_or(LENGTH_LEN);
            let (more, rest) = wire.split_at(wire.len().min(wanted.saturating_sub(begun.len())));
            begun.extend_from_slice(more);
            wire = rest;
            if begun.len() < wanted {
                self.input = begun;
                return Ok(());
            }
            if whole.is_some() {
                self.open_record(&begun, &mut payload, take)?;
                begun.clear();
            }
        }
        while let Some((record, rest)) = whole_len(wire)?.and_then(|whole| wire.split_at_checked(whole)) {
            self.open_record(record, &mut payload, take)?;
            wire = rest;
        }
        // A connection that rests holds no memory for its next record.
        self.input = BytesMut::from(wire);
        Ok(())
    }

    /// Opens a whole record, its length in front.
    fn open_record(
        &mut self,
        record: &[u8],
        payload: &mut Vec<u8>,
        take: &mut impl FnMut(&[u8]),
    ) -> Result<(), ChannelError> {
        let message = record.get(LENGTH_LEN..).unwrap_or_default();
        payload.resize(message.len().saturating_sub(TAG_LEN), 0);
        if self.transport.read_message(message, payload).is_err() {
            return Err(ChannelError::Forged(self.transport.receiving_nonce()));
        }
        self.opened += bytes_of(message.len());
        if self.transport.receiving_nonce().is_multiple_of(REKEY_EVERY) {
            self.transport.rekey_incoming();
        }
        take(payload);
        Ok(())
    }
}

/// Bytes of the record that starts like this, its length included; `None` if more are needed to tell.
fn whole_len(start: &[u8]) -> Result<Option<usize>, ChannelError> {
    let Some(length) = start.first_chunk() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length < TAG_LEN { Err(ChannelError::Short(length)) } else { Ok(Some(LENGTH_LEN + length)) }
}

fn seal_tls(
    connection: &mut rustls::Connection,
    plain: &mut impl Buf,
    wire: &mut BytesMut,
) -> Result<(), ChannelError> {
    let failed = |error: io::Error| ChannelError::Tls(error.to_string());
    loop {
        while connection.wants_write() {
            connection.write_tls(&mut wire.writer()).map_err(failed)?;
        }
        if !plain.has_remaining() || wire.len() >= SEALED_AHEAD {
            return Ok(());
        }
        // It takes as much as it has room for, which was made above.
        let count = connection.writer().write(plain.chunk()).map_err(failed)?;
        plain.advance(count);
    }
}

fn open_tls(
    connection: &mut rustls::Connection,
    mut wire: &[u8],
    take: &mut impl FnMut(&[u8]),
) -> Result<(), ChannelError> {
    while !wire.is_empty() {
        connection.read_tls(&mut wire).map_err(|error| ChannelError::Tls(error.to_string()))?;
        connection.process_new_packets().map_err(|error| ChannelError::Tls(error.to_string()))?;
        take_plain(connection, take)?;
    }
    Ok(())
}

/// Hands on all that TLS has opened.
fn take_plain(connection: &mut rustls::Connection, take: &mut impl FnMut(&[u8])) -> Result<(), ChannelError> {
    let mut payload = vec![0; TLS_PAYLOAD_MAX];
    loop {
        match connection.reader().read(&mut payload) {
            // The other side ends in good order; the socket tells the same.
            Ok(0) => return Ok(()),
            Ok(count) => take(payload.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(ChannelError::Tls(error.to_string())),
        }
    }
}

fn bytes_of(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({})", self.cipher())
    }
}

#[cfg(test)]
mod tests;
