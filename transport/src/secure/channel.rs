//! The protected byte stream of a connection: clear text, encrypted records or TLS.
//!
//! `seal` converts outgoing bytes to their form on the wire, `open` converts received bytes back.
//! A record of an encrypted connection:
//!
//! | width | field |
//! |---|---|
//! | 2 | length of the message, 16 to 65,535, big-endian |
//! | length | Noise transport message with a tag of 16 bytes |
//!
//! Section 7.1 of <https://noiseprotocol.org/noise.html> defines the transport message.
//! The boundaries of records have no meaning for the session. After every `REKEY_EVERY` records of one
//! direction, both sides switch to a new key for it (section 11.3 of the same document).
//!
//! Invariants: no byte of a record is passed on before the whole record is authenticated, in its place. After
//! a record that fails, nothing is opened any more.

use core::fmt;
use std::io::{self, Read, Write};

use aws_lc_rs::digest;
use bytes::{Buf, BufMut, BytesMut};
use snow::TransportState;

use crate::limits::{CHANNEL_BYTES_MAX, REKEY_EVERY, SEALED_AHEAD};
use crate::secure::{Certificate, CertificateExpiry, Suite};

/// Length of the tag in each record in bytes.
const TAG_LEN: usize = 16;

/// Length of the length field in bytes.
const LENGTH_LEN: usize = 2;

/// Longest Noise message of a record in bytes.
const RECORD_MAX: usize = 65_535;

/// Longest payload of a record in bytes.
const PAYLOAD_MAX: usize = RECORD_MAX - TAG_LEN;

/// Longest payload of a TLS record in bytes (RFC 8446, section 5.1).
const TLS_PAYLOAD_MAX: usize = 16 * 1024;

/// Value that both sides of one connection compute and that no other connection has. It is not secret.
///
/// | channel | binding |
/// |---|---|
/// | key | the handshake hash of Noise (revision 34, section 11.2) |
/// | TLS | the exporter `EXPORTER-Channel-Binding`, without a context (RFC 9266) |
/// | clear text | SHA-256 of preface and reply, which contains a random challenge |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelBinding(pub [u8; 32]);

impl ChannelBinding {
    /// Binding of a connection in clear text that started with `preface` and `reply`.
    pub(super) fn of_clear_text(preface: &[u8], reply: &[u8]) -> Self {
        Self::from_hash(digest::digest(&digest::SHA256, &[preface, reply].concat()).as_ref())
    }

    /// Binding from a hash of 32 bytes.
    pub(super) fn from_hash(hash: &[u8]) -> Self {
        debug_assert_eq!(hash.len(), 32);
        Self(hash.first_chunk().copied().unwrap_or_default())
    }
}

/// Reason why a channel failed.
///
/// The connection cannot be used any more. The sender sends all unacknowledged data again on the next
/// connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// A record is not authentic.
    #[error(
        "record {0} of the encrypted connection failed authentication: it was changed, repeated, reordered \
         or removed on the path"
    )]
    Forged(u64),
    /// A record is shorter than its tag.
    #[error("a record of {0} bytes, where at least {TAG_LEN} are needed")]
    Short(usize),
    /// TLS failed on this side or the other.
    #[error("TLS: {0}")]
    Tls(String),
    /// The channel has no binding, because there was no handshake.
    #[error("this connection has no channel binding, because it had no handshake")]
    Unbound,
    /// No further record can be sealed.
    #[error("the encrypted connection is exhausted after {0} records")]
    Exhausted(u64),
}

/// One side of a connection.
pub struct Channel {
    layer: Layer,
    /// Data received together with the last bytes of the handshake and not passed on yet.
    early_data: Vec<u8>,
}

enum Layer {
    /// `None` without a handshake.
    Plain(Option<ChannelBinding>),
    Keyed(Box<RecordLayer>),
    Tls(Box<Tls>),
}

/// A TLS connection whose handshake is done.
struct Tls {
    connection: rustls::Connection,
    /// Expiry of the certificates of both sides.
    certificates: Option<CertificateExpiry>,
}

/// Encryption of the records of both directions.
struct RecordLayer {
    transport: TransportState,
    suite: Suite,
    binding: ChannelBinding,
    /// Start of an incomplete record; `input.len() < 2 + RECORD_MAX`.
    input: BytesMut,
    /// Bytes of all sealed records.
    sealed: u64,
    /// Bytes of all opened records.
    opened: u64,
    has_failed: bool,
}

impl Channel {
    /// Creates a channel in clear text without a handshake. It has no binding, so no session can be opened
    /// over it.
    pub fn plain() -> Self {
        Self { layer: Layer::Plain(None), early_data: Vec::new() }
    }

    /// Creates a channel in clear text after a handshake.
    pub fn clear_text(binding: ChannelBinding) -> Self {
        Self { layer: Layer::Plain(Some(binding)), early_data: Vec::new() }
    }

    /// Creates an encrypted channel after a handshake.
    pub(super) fn keyed(transport: TransportState, suite: Suite, binding: ChannelBinding) -> Self {
        let input = BytesMut::new();
        let records =
            RecordLayer { transport, suite, binding, input, sealed: 0, opened: 0, has_failed: false };
        Self { layer: Layer::Keyed(Box::new(records)), early_data: Vec::new() }
    }

    /// Creates a channel over TLS after its handshake, in which this side presented the certificate `own`.
    pub(super) fn tls(connection: impl Into<rustls::Connection>, own: &Certificate) -> Self {
        let mut connection = connection.into();
        let certificates = CertificateExpiry::read(own, &connection);
        let mut early_data = Vec::new();
        // An error is ignored here, because it occurs again and is reported with the next bytes.
        drop(read_plain(&mut connection, &mut |bytes| early_data.extend_from_slice(bytes)));
        Self { layer: Layer::Tls(Box::new(Tls { connection, certificates })), early_data }
    }

    /// Value that binds a proof to this connection.
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

    /// True if the handshake left received data, which `open` passes on without further input.
    pub fn has_early_data(&self) -> bool {
        !self.early_data.is_empty()
    }

    /// True for clear text, which is written unchanged and need not go through `seal`.
    pub fn is_plain(&self) -> bool {
        matches!(self.layer, Layer::Plain(_))
    }

    /// Name of the encryption: that of a suite, `tls`, or `none`.
    pub fn cipher(&self) -> &'static str {
        match &self.layer {
            Layer::Plain(_) => "none",
            Layer::Keyed(records) => records.suite.name(),
            Layer::Tls(_) => "tls",
        }
    }

    /// Expiry of the certificates, which the handshake checked only once; `None` without TLS.
    pub fn certificates(&self) -> Option<CertificateExpiry> {
        match &self.layer {
            Layer::Plain(_) | Layer::Keyed(_) => None,
            Layer::Tls(tls) => tls.certificates,
        }
    }

    /// True if either direction has carried `CHANNEL_BYTES_MAX`, so that a new handshake is due.
    pub fn is_exhausted(&self) -> bool {
        match &self.layer {
            // TLS updates its keys itself.
            Layer::Plain(_) | Layer::Tls(_) => false,
            Layer::Keyed(records) => records.sealed.max(records.opened) >= CHANNEL_BYTES_MAX,
        }
    }

    /// Seals bytes from the front of `plain` and appends them to `wire` until it holds `SEALED_AHEAD` bytes.
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

    /// Opens the bytes `wire` that were read and passes their content to `take`, in order.
    pub fn open(&mut self, wire: &[u8], take: &mut impl FnMut(&[u8])) -> Result<(), ChannelError> {
        if self.has_early_data() {
            take(&core::mem::take(&mut self.early_data));
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

impl RecordLayer {
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
        if self.has_failed {
            return Err(ChannelError::Forged(self.transport.receiving_nonce()));
        }
        let outcome = self.open_all(wire, take);
        self.has_failed = outcome.is_err();
        outcome
    }

    /// Opens all whole records, most of them without copying. Keeps the start of an incomplete last one.
    fn open_all(&mut self, mut wire: &[u8], take: &mut impl FnMut(&[u8])) -> Result<(), ChannelError> {
        let mut payload = Vec::new();
        let mut partial = core::mem::take(&mut self.input);
        while !partial.is_empty() {
            let whole = record_len(&partial)?;
            let wanted = whole.unwrap_or(LENGTH_LEN);
            let (more, rest) = wire.split_at(wire.len().min(wanted.saturating_sub(partial.len())));
            partial.extend_from_slice(more);
            wire = rest;
            if partial.len() < wanted {
                self.input = partial;
                return Ok(());
            }
            if whole.is_some() {
                self.open_record(&partial, &mut payload, take)?;
                partial.clear();
            }
        }
        while let Some((record, rest)) = record_len(wire)?.and_then(|whole| wire.split_at_checked(whole)) {
            self.open_record(record, &mut payload, take)?;
            wire = rest;
        }
        // An idle connection keeps no memory for its next record.
        self.input = BytesMut::from(wire);
        Ok(())
    }

    /// Opens a whole record, which includes the length field.
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

/// Length of the record that begins with `start`, including the length field; `None` if more bytes are
/// needed.
fn record_len(start: &[u8]) -> Result<Option<usize>, ChannelError> {
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
        // The writer accepts as much as it has room for. The loop above has made room.
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
        read_plain(connection, take)?;
    }
    Ok(())
}

/// Passes on all data that TLS has decrypted.
fn read_plain(connection: &mut rustls::Connection, take: &mut impl FnMut(&[u8])) -> Result<(), ChannelError> {
    let mut payload = vec![0; TLS_PAYLOAD_MAX];
    loop {
        match connection.reader().read(&mut payload) {
            // The other side closed TLS regularly. The socket reports the same.
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
