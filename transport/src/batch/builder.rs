//! Encoder that fills a batch, datagram by datagram.

use bytes::BytesMut;

use crate::batch::chunks::Chunks;
use crate::batch::columnar::FlowRows;
use crate::batch::compression::Compressor;
use crate::batch::{Batch, BatchHeader, Compression, HEADER_LEN, Sealing, record};
use crate::datagram::{Datagram, Timestamp};
use crate::flow_layout::FlowRun;
use crate::limits::{BATCH_BODY_TARGET, PAYLOAD_MAX};
use crate::sequence::{Position, StreamId};

/// Reason why a datagram was not added to the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The batch is full. The caller finishes it and pushes the datagram again.
    #[error("the batch is full")]
    Full,
    /// The payload is longer than any UDP datagram can be.
    #[error("a payload of more than 65,507 bytes")]
    TooLong,
}

/// A batch that is being filled. It is reused for the next batch, so that no datagram needs an allocation.
#[derive(Debug)]
pub struct BatchBuilder {
    stream: StreamId,
    compression: Compression,
    /// Space for the header and the records so far; `encoded.len() <= HEADER_LEN + BATCH_BODY_MAX`.
    encoded: BytesMut,
    chunks: Chunks,
    datagrams: u32,
    dropped: u16,
    payload_bytes: u32,
    earliest: Timestamp,
    latest: Timestamp,
    /// Locations of the flow records, which only compression uses.
    flows: FlowRows,
    compressor: Compressor,
}

impl BatchBuilder {
    /// Creates an empty batch of `stream`.
    pub fn new(stream: StreamId, compression: Compression) -> Self {
        let mut builder = Self {
            stream,
            compression,
            encoded: BytesMut::new(),
            chunks: Chunks::default(),
            datagrams: 0,
            dropped: 0,
            payload_bytes: 0,
            earliest: Timestamp::default(),
            latest: Timestamp::default(),
            flows: FlowRows::default(),
            compressor: Compressor::default(),
        };
        builder.clear();
        builder
    }

    /// Sets the compression that [`Self::finish`] uses from now on.
    pub fn set_compression(&mut self, compression: Compression) {
        self.compression = compression;
    }

    /// True if batches are compressed, so that locations of flow records are useful.
    pub fn compresses(&self) -> bool {
        self.compression != Compression::None
    }

    fn clear(&mut self) {
        self.flows.clear();
        self.encoded.clear();
        self.chunks.make_room(&mut self.encoded);
        self.encoded.resize(HEADER_LEN, 0);
        self.datagrams = 0;
        self.dropped = 0;
        self.payload_bytes = 0;
        self.earliest = Timestamp(u64::MAX);
        self.latest = Timestamp(0);
    }

    /// Empties the batch. Returns the number of datagrams that were in it.
    pub fn discard(&mut self) -> u32 {
        let datagrams = self.datagrams;
        self.clear();
        datagrams
    }

    /// True if the batch contains no datagram yet.
    pub fn is_empty(&self) -> bool {
        self.datagrams == 0
    }

    /// Adds `datagram`, whose payload contains the flow records `flows`.
    ///
    /// Compression uses the locations of the flow records. Wrong locations only make it less effective.
    pub fn push_flows(&mut self, datagram: &Datagram<'_>, flows: &[FlowRun]) -> Result<(), PushError> {
        self.push(datagram)?;
        if self.compresses() {
            let end = self.encoded.len() - HEADER_LEN;
            let length = record::encoded_len(datagram);
            self.flows.add_record(end - length, length - datagram.payload.len(), end, flows);
        }
        Ok(())
    }

    /// Adds `datagram`. After an error the batch is unchanged.
    pub fn push(&mut self, datagram: &Datagram<'_>) -> Result<(), PushError> {
        let length = u16::try_from(datagram.payload.len())
            .ok()
            .filter(|length| usize::from(*length) <= PAYLOAD_MAX)
            .ok_or(PushError::TooLong)?;
        if !self.has_room(record::encoded_len(datagram)) {
            return Err(PushError::Full);
        }
        record::encode(&mut self.encoded, datagram, length);
        self.payload_bytes += u32::from(length);
        self.count(datagram.arrival);
        Ok(())
    }

    /// Adds an empty position for a dropped datagram that arrived at about `arrival`.
    pub fn push_dropped(&mut self, arrival: Timestamp) -> Result<(), PushError> {
        let dropped = self.dropped.checked_add(1).filter(|_| self.has_room(record::DROPPED_LEN));
        self.dropped = dropped.ok_or(PushError::Full)?;
        record::encode_dropped(&mut self.encoded);
        self.count(arrival);
        Ok(())
    }

    fn has_room(&self, length: usize) -> bool {
        self.is_empty() || self.encoded.len() - HEADER_LEN + length <= BATCH_BODY_TARGET
    }

    fn count(&mut self, arrival: Timestamp) {
        self.datagrams += 1;
        self.earliest = self.earliest.min(arrival);
        self.latest = self.latest.max(arrival);
    }

    /// Finishes the batch with `first` as the position of its first datagram, and starts the next batch.
    ///
    /// Returns `None` if the batch is empty.
    pub fn finish(&mut self, first: Position) -> Option<Batch> {
        if self.is_empty() {
            return None;
        }
        let records_len = u32::try_from(self.encoded.len() - HEADER_LEN).ok()?;
        let compression = self.compress()?;
        let body = self.encoded.get(HEADER_LEN..)?;
        let header = BatchHeader {
            first,
            earliest: self.earliest,
            latest: self.latest,
            datagrams: self.datagrams,
            dropped: self.dropped,
            payload_bytes: self.payload_bytes,
            body_len: u32::try_from(body.len()).ok()?,
            records_len,
            body_checksum: crc32c::crc32c(body),
            compression,
            sealing: Sealing::None,
        };
        self.encoded.get_mut(..HEADER_LEN)?.copy_from_slice(&header.encode(self.stream));
        let bytes = self.encoded.split().freeze();
        self.clear();
        Some(Batch { header, bytes })
    }

    /// Replaces the records by their compressed form, if compression is on and the form is shorter.
    ///
    /// `None` means that the space for the header is missing, which cannot happen.
    fn compress(&mut self) -> Option<Compression> {
        if !self.compresses() {
            return Some(Compression::None);
        }
        let records = self.encoded.get(HEADER_LEN..)?;
        let Some((compression, body)) = self.compressor.compress(records, &self.flows) else {
            return Some(Compression::None);
        };
        self.encoded.truncate(HEADER_LEN);
        self.encoded.extend_from_slice(body);
        Some(compression)
    }
}
